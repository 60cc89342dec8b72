//! `/metrics` and `/healthz`. Counters come from events as they pass; memory, and which workloads live, are asked of
//! the pipeline when somebody scrapes. `series` counts by workload, `page` writes, `http` serves.

mod http;
mod labels;
mod page;
mod series;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use prometheus_client::{
    metrics::{counter::Counter, family::Family, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::timeout,
};

pub(crate) use self::series::Limits;
use self::{
    page::{PREFIX, Snapshot, classic},
    series::{Reader, Series},
};
use super::{Delivery, Sink, text};
use crate::{
    clock,
    event::{Body, LossStage, OomKill},
    host::spared,
    pipeline::Request,
    stats::Stats,
    workload::{Runtime, Workload},
};

/// How long the pipeline is waited for: it answers between two events, so this is long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// A kill is told within a millisecond, and later when the host is on its knees.
const LATENCY_SECONDS: [f64; 14] =
    [1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5];

/// Reasons for which a kill cannot be resolved wholly.
const NO_WORKLOAD: &str = "no_workload";
const NO_RUNTIME: &str = "no_runtime";
const NO_LIMIT: &str = "no_limit";

type ByName = Family<[(&'static str, &'static str); 1], Counter>;

/// What the exporter is told at its start.
#[derive(Debug)]
pub(crate) struct Start {
    /// Where to listen.
    pub(crate) address: SocketAddr,
    /// What the agent sees with.
    pub(crate) tier: String,
    /// Of which kills the limit that was hit is known.
    pub(crate) limits: Limits,
    /// What sources measure.
    pub(crate) stats: Arc<Stats>,
    /// The way to the pipeline.
    pub(crate) asker: mpsc::Sender<Request>,
}

/// The sink that counts.
#[derive(Debug)]
pub(crate) struct Metrics {
    exporter: Arc<Exporter>,
    server: AbortHandle,
}

/// What the sink and the server share.
#[derive(Debug)]
struct Exporter {
    series: Mutex<Series>,
    registry: Registry,
    events: ByName,
    lost: ByName,
    missed: Counter,
    latency: Histogram,
    stats: Arc<Stats>,
    asker: mpsc::Sender<Request>,
}

impl Metrics {
    /// Listens, and serves in a task of its own.
    ///
    /// # Errors
    /// The address cannot be listened at.
    pub(crate) fn start(start: Start) -> anyhow::Result<Self> {
        let address = start.address;
        let listener = std::net::TcpListener::bind(address).with_context(|| format!("listen at {address}"))?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener).with_context(|| format!("listen at {address}"))?;
        let address = listener.local_addr()?;
        let exporter = Arc::new(Exporter::new(start));
        let server = tokio::spawn(http::serve(listener, Arc::clone(&exporter))).abort_handle();
        tracing::info!(%address, "metrics and health are served");
        Ok(Self { exporter, server })
    }
}

impl Sink for Metrics {
    fn name(&self) -> &'static str {
        "metrics"
    }

    fn take(&mut self, delivery: &Arc<Delivery>) -> bool {
        self.exporter.count(delivery);
        true
    }

    fn close(&mut self) {
        self.server.abort();
    }

    fn finish(&mut self, _until_ns: u64) -> bool {
        true
    }
}

impl Exporter {
    fn new(start: Start) -> Self {
        let Start { tier, limits, stats, asker, .. } = start;
        let mut registry = Registry::with_prefix(PREFIX);
        let (events, lost, missed) = (ByName::default(), ByName::default(), Counter::default());
        let latency = Histogram::new(LATENCY_SECONDS);
        registry.register("events", "Events told", events.clone());
        registry.register("events_lost", "Events lost on their way, by stage", lost.clone());
        registry.register("missed_kills", "Kills that counters show and no event told of", missed.clone());
        let help = "What could not be resolved: processes that look like gVisor and are not watched, by the reason, \
                    each time they are looked at; kills without a workload, runtime or limit";
        registry.register("resolution_failures", help, stats.resolution_failures.clone());
        let help = "From a kill to its event";
        registry.register_with_unit("detection_latency", help, Unit::Seconds, latency.clone());
        let help = "A poll of gVisor sandboxes";
        registry.register_with_unit("poll_duration", help, Unit::Seconds, stats.poll_duration.clone());
        let build = vec![("version", env!("CARGO_PKG_VERSION").to_owned()), ("tier", tier)];
        registry.register("build", "The agent and what it sees with", Info::new(build));
        let series = Mutex::new(Series::new(limits));
        let exporter = Self { series, registry, events, lost, missed, latency, stats, asker };
        exporter.begin_at_zero();
        exporter
    }

    fn begin_at_zero(&self) {
        for name in Body::NAMES {
            drop(self.events.get_or_create(&[("event", name)]));
        }
        for stage in [LossStage::Ringbuf, LossStage::Queue, LossStage::Sink] {
            drop(self.lost.get_or_create(&[("stage", text::stage(stage))]));
        }
        for reason in [NO_WORKLOAD, NO_RUNTIME, NO_LIMIT] {
            self.stats.resolution_failed(reason, 0);
        }
    }

    fn series(&self) -> MutexGuard<'_, Series> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, delivery: &Delivery) {
        let event = &delivery.event;
        let (workload, now_ns) = (event.workload.as_deref(), clock::boot_ns());
        self.events.get_or_create(&[("event", event.body.name())]).inc();
        match &event.body {
            Body::OomKill(kill) => self.count_kill(kill, workload, now_ns),
            Body::Oom(oom) => self.series().oom(workload, oom.count.unwrap_or(1), now_ns),
            Body::NearLimit(_) => self.series().near_limit(workload, now_ns),
            Body::Loss(loss) => {
                self.lost.get_or_create(&[("stage", text::stage(loss.stage))]).inc_by(loss.lost);
            }
            Body::Missed(missed) => {
                self.missed.inc_by(missed.expected.saturating_sub(missed.seen));
            }
            _ => {}
        }
    }

    fn count_kill(&self, kill: &OomKill, workload: Option<&Workload>, now_ns: u64) {
        if let Some(latency) = kill.latency_seconds {
            self.latency.observe(latency);
        }
        self.series().killed(workload, (kill.scope, kill.limit_owner), now_ns);
        let unresolved = [
            (NO_WORKLOAD, workload.is_none()),
            (NO_RUNTIME, workload.is_some_and(|workload| workload.runtime == Runtime::Unknown)),
            (NO_LIMIT, kill.limit_owner.is_none()),
        ];
        for (reason, _) in unresolved.into_iter().filter(|(_, failed)| *failed) {
            self.stats.resolution_failed(reason, 1);
        }
    }

    /// The page. Where the pipeline does not answer in time, counters stand as they are and memory is left out.
    async fn page(self: &Arc<Self>, openmetrics: bool, reader: Reader) -> anyhow::Result<String> {
        let live = self.ask(Request::Living).await;
        let rows = self.ask(Request::Workloads).await.unwrap_or_default();
        let now_ns = clock::boot_ns();
        let sources = self.stats.sources(now_ns);
        let snapshot = {
            let mut series = self.series();
            if let Some(live) = live {
                series.live(live.iter().map(|workload| &**workload), now_ns);
            }
            Snapshot::of(&mut series, &rows, sources, reader)
        };
        let this = Arc::clone(self);
        // A host with thousands of workloads has megabytes to write: not in the agent's own task.
        let written = tokio::task::spawn_blocking(move || {
            spared::take_time();
            let page = snapshot.page(&this.registry)?;
            Ok::<_, std::fmt::Error>(if openmetrics { page } else { classic(&page) })
        });
        written.await.context("write the page")?.context("write the page")
    }

    /// Whether everything turns, with a line for each part.
    async fn health(&self) -> (bool, String) {
        let pipeline = self.ask(Request::Turn).await.is_some();
        let sources = self.stats.sources(clock::boot_ns());
        let parts = sources.iter().map(|source| (source.name, source.up)).chain([("pipeline", pipeline)]);
        let parts: Vec<_> = parts.collect();
        let line = |(name, up): &(&str, bool)| format!("{name} {}\n", if *up { "up" } else { "down" });
        (parts.iter().all(|(_, up)| *up), parts.iter().map(line).collect())
    }

    /// Asks the pipeline; `None` where it does not answer in time.
    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (back, answer) = oneshot::channel();
        let asked = async {
            self.asker.send(request(back)).await.ok()?;
            answer.await.ok()
        };
        timeout(ANSWER_TIMEOUT, asked).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests;
