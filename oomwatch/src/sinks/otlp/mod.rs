//! `--otlp-endpoint`: each event as an OTLP log record, numbers as OTLP metrics, over HTTP with protobuf. A collector that
//! is gone or hangs costs this sink its events, after tries over some time, and nobody else anything.

mod attributes;
mod endpoint;
mod export;
mod logs;
mod metrics;
mod reader;

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::Sender as StopSender,
    },
    time::Duration,
};

use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::sync::mpsc;

pub use self::endpoint::{Endpoint, checked};
use self::{export::Exporter, metrics::Counters, reader::Reader};
use super::{Delivery, Sink, loss, worker::Worker};
use crate::{clock, host::HostRoot, pipeline::Request};

const NAME: &str = "otlp";
/// Events waiting for a collector that is away for a moment: the kills of a heavy storm.
const QUEUE: usize = 8192;
/// Time between two exports of metrics, as OpenTelemetry's SDKs have it.
const INTERVAL: Duration = Duration::from_mins(1);
/// Changes that time, milliseconds, as for OpenTelemetry's SDKs.
const INTERVAL_VARIABLE: &str = "OTEL_METRIC_EXPORT_INTERVAL";

/// A collector.
#[derive(Debug)]
pub struct Otlp {
    worker: Worker,
    counters: Arc<Counters>,
    reader: Reader,
    /// Dropped at the end.
    stop_reader: Option<StopSender<()>>,
    /// The agent ends: no more than one try for what is left.
    closing: Arc<AtomicBool>,
    taken: u64,
    done: Arc<AtomicU64>,
}

impl Otlp {
    /// Starts a thread for records and one for metrics.
    ///
    /// # Errors
    /// The address is none, or a thread cannot be started.
    pub(crate) fn start(endpoint: &str, root: &HostRoot, asker: &mpsc::Sender<Request>) -> anyhow::Result<Self> {
        let endpoint: Endpoint = endpoint.parse().map_err(anyhow::Error::msg)?;
        let resource = attributes::resource(root);
        let closing = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let exporter = Exporter::new(&endpoint, Arc::clone(&closing));
        let worker = Worker::start(NAME, QUEUE, deliver_with(exporter.clone(), resource.clone(), Arc::clone(&done)))?;
        let counters = Arc::new(Counters::new(clock::wall_time(clock::boot_ns())));
        let (reader, stop_reader) =
            Reader::start(exporter, resource, Arc::clone(&counters), asker.clone(), interval())?;
        Ok(Self { worker, counters, reader, stop_reader: Some(stop_reader), closing, taken: 0, done })
    }
}

/// Exports what waits; gives how many of it were lost.
fn deliver_with(
    exporter: Exporter,
    resource: Resource,
    done: Arc<AtomicU64>,
) -> impl FnMut(&[Arc<Delivery>]) -> u64 + Send + 'static {
    move |batch| {
        let lost = match exporter.export(&logs::request(batch, &resource)) {
            Ok(rejected) => rejected.min(batch.len() as u64),
            Err(reason) => {
                tracing::warn!(events = batch.len(), "events are lost to the OTLP collector: {reason}");
                // The news of its own losses is no loss: it would never end.
                batch.iter().filter(|delivery| !loss::is_of(NAME, &delivery.event)).count() as u64
            }
        };
        done.fetch_add(batch.len() as u64, Ordering::Release);
        lost
    }
}

fn interval() -> Duration {
    let wanted = env::var(INTERVAL_VARIABLE).ok().and_then(|text| text.parse().ok()).filter(|wanted| *wanted > 0);
    wanted.map_or(INTERVAL, Duration::from_millis)
}

impl Sink for Otlp {
    fn name(&self) -> &'static str {
        NAME
    }

    fn take(&mut self, event: &Arc<Delivery>) -> bool {
        self.counters.count(&event.event);
        let taken = self.worker.take(event);
        self.taken += u64::from(taken);
        taken
    }

    fn take_failed(&mut self) -> u64 {
        self.worker.take_failed()
    }

    fn is_busy(&self) -> bool {
        self.done.load(Ordering::Acquire) < self.taken
    }

    fn close(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        self.stop_reader = None;
        self.worker.close();
    }

    fn finish(&mut self, until_ns: u64) -> bool {
        let records = self.worker.finish(until_ns);
        self.reader.finish(until_ns) && records
    }
}

#[cfg(test)]
mod tests;
