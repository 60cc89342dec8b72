//! Lines to standard output. A reader that stops reading costs lines, which are counted, and never the agent's time.

use std::{
    io::{self, Write as _},
    sync::Arc,
};

use super::{Delivery, Sink, worker::Worker};
use crate::config::OutputFormat;

/// Events waiting for a slow reader: the kills of a heavy storm.
const QUEUE: usize = 8192;

/// Standard output.
#[derive(Debug)]
pub struct Stdout(Worker);

impl Stdout {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(format: OutputFormat) -> anyhow::Result<Self> {
        Ok(Self(Worker::start("stdout", QUEUE, move |batch| write(batch, format))?))
    }
}

impl Sink for Stdout {
    fn name(&self) -> &'static str {
        "stdout"
    }

    fn take(&mut self, event: &Arc<Delivery>) -> bool {
        self.0.take(event)
    }

    fn take_failed(&mut self) -> u64 {
        self.0.take_failed()
    }

    fn settled(&self) -> Option<u64> {
        Some(self.0.settled())
    }

    fn close(&mut self) {
        self.0.close();
    }

    fn finish(&mut self, until_ns: u64) -> bool {
        self.0.finish(until_ns)
    }
}

/// Writes what is there, then flushes, so that a burst costs few system calls and a single line no delay.
fn write(batch: &[Arc<Delivery>], format: OutputFormat) -> u64 {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = batch.iter().try_for_each(|delivery| writeln!(out, "{}", delivery.line(format)));
    match written.and_then(|()| out.flush()) {
        Ok(()) => 0,
        Err(error) => {
            // What is left must not be written by the drop.
            drop(out.into_parts());
            tracing::warn!(%error, lines = batch.len(), "cannot write events to standard output");
            batch.len() as u64
        }
    }
}
