//! Lines to standard output through a bounded queue and a thread of its own: a reader that stops reading costs lines,
//! which are counted, and never the agent's time.

use std::{
    io::{self, Write as _},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Context as _;

/// Lines waiting for a slow reader: about 8 MB of JSON, the kills of a heavy storm.
const QUEUE_LINES: usize = 8192;
/// How long the lines still waiting at the end may take.
pub const DRAIN_TIME: Duration = Duration::from_secs(2);

/// The writing end.
#[derive(Debug)]
pub struct Stdout {
    queue: Option<SyncSender<String>>,
    done: Receiver<()>,
    /// Lines that found no room, not yet told.
    dropped: u64,
    /// Set by the thread once nobody reads any more.
    failed: Arc<AtomicU64>,
    _thread: JoinHandle<()>,
}

impl Stdout {
    /// Starts the thread.
    pub fn start() -> anyhow::Result<Self> {
        let (queue, lines) = sync_channel::<String>(QUEUE_LINES);
        let (finished, done) = sync_channel(1);
        let failed = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&failed);
        let thread = std::thread::Builder::new()
            .name("stdout".to_owned())
            .spawn(move || {
                write_lines(&lines, &counter);
                // The other side may have stopped waiting.
                let _unheard: Result<(), _> = finished.try_send(());
            })
            .context("start the thread that writes events")?;
        Ok(Self { queue: Some(queue), done, dropped: 0, failed, _thread: thread })
    }

    /// Queues a line, or counts it as lost.
    pub fn write(&mut self, line: String) {
        let refused = self.queue.as_ref().map(|queue| queue.try_send(line));
        if let Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) = refused {
            self.dropped += 1;
        }
    }

    /// Lines lost since the last call.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.dropped) + self.failed.swap(0, Ordering::Relaxed)
    }

    /// Whether the queue has room again for the message about a loss.
    pub fn has_lost(&self) -> bool {
        self.dropped > 0 || self.failed.load(Ordering::Relaxed) > 0
    }

    /// Waits until the queued lines are written, [`DRAIN_TIME`] at most; false where that was not enough.
    pub fn finish(mut self) -> bool {
        self.queue = None;
        !matches!(self.done.recv_timeout(DRAIN_TIME), Err(RecvTimeoutError::Timeout))
    }
}

/// Writes what is there, then flushes, so that a burst costs few system calls and a single line no delay.
fn write_lines(lines: &Receiver<String>, failed: &AtomicU64) {
    let mut out = io::BufWriter::new(io::stdout().lock());
    while let Ok(first) = lines.recv() {
        let mut written = 0;
        let mut outcome = writeln!(out, "{first}");
        for line in lines.try_iter() {
            written += 1;
            outcome = outcome.and_then(|()| writeln!(out, "{line}"));
        }
        if let Err(error) = outcome.and_then(|()| out.flush()) {
            failed.fetch_add(written + 1, Ordering::Relaxed);
            tracing::warn!(%error, lines = written + 1, "cannot write events to standard output");
        }
    }
}
