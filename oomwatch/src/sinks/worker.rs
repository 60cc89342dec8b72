//! A bounded queue and a thread of its own: what a sink that may block is made of.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
    time::Duration,
};

use anyhow::Context as _;

use super::Delivery;
use crate::clock;

/// Events that a sink is given in one go at most.
const BATCH: usize = 512;
/// How long an end is waited for between two looks at the clock.
const LOOK: Duration = Duration::from_millis(20);

/// The near end of the queue.
#[derive(Debug)]
pub(super) struct Worker {
    queue: Option<SyncSender<Arc<Delivery>>>,
    done: Receiver<()>,
    failed: Arc<AtomicU64>,
    settled: Arc<AtomicU64>,
    taken: AtomicU64,
    /// Of those taken, delivered or counted as failed.
    handled: Arc<AtomicU64>,
}

impl Worker {
    /// Starts the thread. `deliver` gets what waits, one event at least, and gives how many of them it lost. It is
    /// dropped, which is the place for a last flush, when all was delivered.
    pub(super) fn start(
        name: &str,
        capacity: usize,
        mut deliver: impl FnMut(&[Arc<Delivery>]) -> u64 + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (queue, waiting) = sync_channel::<Arc<Delivery>>(capacity);
        let (finished, done) = sync_channel(1);
        let (failed, settled) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (failures, progress) = (Arc::clone(&failed), Arc::clone(&settled));
        let handled = Arc::new(AtomicU64::new(0));
        let done_with = Arc::clone(&handled);
        let _detached = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                while let Ok(first) = waiting.recv() {
                    let batch: Vec<_> = std::iter::once(first).chain(waiting.try_iter()).take(BATCH).collect();
                    failures.fetch_add(deliver(&batch), Ordering::Relaxed);
                    if let Some(last) = batch.last() {
                        progress.store(last.event.seq, Ordering::Release);
                    }
                    // Last, so that one that is seen idle has counted all of its failures.
                    done_with.fetch_add(batch.len() as u64, Ordering::Release);
                }
                drop(deliver);
                // The other side may have stopped waiting.
                let _unheard: Result<(), _> = finished.try_send(());
            })
            .with_context(|| format!("start the thread of the sink {name}"))?;
        Ok(Self { queue: Some(queue), done, failed, settled, taken: AtomicU64::new(0), handled })
    }

    /// Queues an event; false where there is no room.
    pub(super) fn take(&self, event: &Arc<Delivery>) -> bool {
        let taken = self.queue.as_ref().is_some_and(|queue| queue.try_send(Arc::clone(event)).is_ok());
        self.taken.fetch_add(u64::from(taken), Ordering::Relaxed);
        taken
    }

    /// Whether it holds events that may still fail.
    pub(super) fn is_busy(&self) -> bool {
        self.handled.load(Ordering::Acquire) < self.taken.load(Ordering::Relaxed)
    }

    /// Events that were taken and could not be delivered, since the last call.
    pub(super) fn take_failed(&self) -> u64 {
        self.failed.swap(0, Ordering::Relaxed)
    }

    /// Number of the last event that was delivered or counted as lost.
    pub(super) fn settled(&self) -> u64 {
        self.settled.load(Ordering::Acquire)
    }

    /// [`Self::settled`] as it grows.
    pub(super) fn progress(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.settled)
    }

    /// Nothing more will come.
    pub(super) fn close(&mut self) {
        self.queue = None;
    }

    /// Waits until everything was delivered.
    pub(super) fn finish(&self, until_ns: u64) -> bool {
        loop {
            match self.done.try_recv() {
                Ok(()) | Err(TryRecvError::Disconnected) => return true,
                Err(TryRecvError::Empty) if clock::boot_ns() >= until_ns => return false,
                Err(TryRecvError::Empty) => std::thread::sleep(LOOK),
            }
        }
    }
}
