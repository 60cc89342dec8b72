//! The thread that exports metrics: every now and then, and once at the end. What fails is not tried again, for the next
//! export has all of it.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel},
    },
    time::Duration,
};

use anyhow::Context as _;
use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::sync::{mpsc, oneshot};

use super::{export::Exporter, metrics::Counters};
use crate::{clock, inventory::Row, pipeline::Request};

/// Between two looks at the clock at the end.
const LOOK: Duration = Duration::from_millis(20);

/// The far end.
#[derive(Debug)]
pub(super) struct Reader {
    done: Receiver<()>,
}

impl Reader {
    /// Starts the thread; it ends when the sender is dropped.
    pub(super) fn start(
        exporter: Exporter,
        resource: Resource,
        counters: Arc<Counters>,
        asker: mpsc::Sender<Request>,
        interval: Duration,
    ) -> anyhow::Result<(Self, Sender<()>)> {
        let (stop, stopped) = channel();
        let (finished, done) = sync_channel(1);
        let mut is_well = true;
        let mut export = move |rows: &[Row]| {
            let now = clock::wall_time(clock::boot_ns());
            let outcome = exporter.export_once(&counters.request(rows, &resource, now));
            match &outcome {
                Err(reason) if is_well => tracing::warn!("metrics do not reach the OTLP collector: {reason}"),
                Ok(_) if !is_well => tracing::info!("metrics reach the OTLP collector again"),
                _ => {}
            }
            is_well = outcome.is_ok();
        };
        let _detached = std::thread::Builder::new()
            .name("otlp-metrics".to_owned())
            .spawn(move || {
                while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                    export(&workloads(&asker));
                }
                // Nobody answers any more at the end.
                export(&[]);
                // The other side may have stopped waiting.
                let _unheard: Result<(), _> = finished.try_send(());
            })
            .context("start the thread of the metrics for OTLP")?;
        Ok((Self { done }, stop))
    }

    /// Waits for the last export.
    pub(super) fn finish(&self, until_ns: u64) -> bool {
        while self.done.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            if clock::boot_ns() >= until_ns {
                return false;
            }
        }
        true
    }
}

/// Every workload; none where the agent has no time to answer.
fn workloads(asker: &mpsc::Sender<Request>) -> Vec<Row> {
    let (back, answer) = oneshot::channel();
    if asker.try_send(Request::Workloads(back)).is_err() {
        return Vec::new();
    }
    answer.blocking_recv().unwrap_or_default()
}
