//! Lines to standard output. A reader that stops reading costs lines, which are counted, and never the agent's time.

use std::{
    io::{self, Write},
    sync::{Arc, atomic::AtomicU64},
};

use rustix::event::{PollFd, PollFlags, poll};

use super::{Delivery, Sink, loss, worker::Worker};
use crate::{config::OutputFormat, host::spared};

const NAME: &str = "stdout";
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
        let mut writer = Writer::new(Unbuffered, format);
        let mut is_first = true;
        let write = move |batch: &[Arc<Delivery>]| {
            if std::mem::take(&mut is_first) {
                spared::hurry();
            }
            writer.write(batch)
        };
        Ok(Self(Worker::start(NAME, QUEUE, write)?))
    }
}

impl Sink for Stdout {
    fn name(&self) -> &'static str {
        NAME
    }

    fn take(&mut self, event: &Arc<Delivery>) -> bool {
        self.0.take(event)
    }

    fn take_failed(&mut self) -> u64 {
        self.0.take_failed()
    }

    fn is_busy(&self) -> bool {
        self.0.is_busy()
    }

    fn settled(&self) -> Option<u64> {
        Some(self.0.settled())
    }

    fn progress(&self) -> Option<Arc<AtomicU64>> {
        Some(self.0.progress())
    }

    fn close(&mut self) {
        self.0.close();
    }

    fn finish(&mut self, until_ns: u64) -> bool {
        self.0.finish(until_ns)
    }
}

/// The descriptor itself: what it took of a line before an error must be known.
struct Unbuffered;

impl Write for Unbuffered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stdout = io::stdout();
        loop {
            match rustix::io::write(&stdout, bytes) {
                // Whoever shares the pipe may have made it one that does not wait.
                Err(rustix::io::Errno::AGAIN) => {
                    poll(&mut [PollFd::new(&stdout, PollFlags::OUT)], None)?;
                }
                outcome => return Ok(outcome?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes whole lines, and notes which were not.
struct Writer<W> {
    out: W,
    format: OutputFormat,
    /// What is there ends in the middle of a line, which is lost.
    torn: bool,
    /// The last attempt failed.
    fails: bool,
}

impl<W: Write> Writer<W> {
    fn new(out: W, format: OutputFormat) -> Self {
        Self { out, format, torn: false, fails: false }
    }

    /// Writes these at once, so that a burst costs few system calls and a single line no delay; gives how many of them
    /// are lost.
    fn write(&mut self, batch: &[Arc<Delivery>]) -> u64 {
        let mut text = String::new();
        if self.torn {
            text.push('\n');
        }
        let begin = text.len();
        for delivery in batch {
            text.push_str(&delivery.line(self.format));
            text.push('\n');
        }
        let (taken, outcome) = self.write_all(text.as_bytes());
        if let Some(last) = taken.checked_sub(1) {
            self.torn = text.as_bytes()[last] != b'\n';
        }
        let Err(error) = outcome else {
            if std::mem::take(&mut self.fails) {
                tracing::info!("standard output can be written again");
            }
            return 0;
        };
        if !std::mem::replace(&mut self.fails, true) {
            tracing::warn!(%error, "cannot write events to standard output; those that are missing there are counted");
        }
        // A line that lacks only its end is there: the next write begins with that.
        let there = &text.as_bytes()[begin..(taken + 1).clamp(begin, text.len())];
        let whole = there.split(|byte| *byte == b'\n').count() - 1;
        // The news of its own losses is no loss: it would never end.
        batch.iter().skip(whole).filter(|delivery| !loss::is_of(NAME, &delivery.event)).count() as u64
    }

    /// As [`Write::write_all`], and tells how much was taken before an error.
    fn write_all(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let mut taken = 0;
        while taken < bytes.len() {
            match self.out.write(&bytes[taken..]) {
                Ok(0) => return (taken, Err(io::ErrorKind::WriteZero.into())),
                Ok(more) => taken += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (taken, Err(error)),
            }
        }
        (taken, Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::hub_tests::event;

    /// A disk with so many bytes of room.
    #[derive(Default)]
    struct Disk {
        room: usize,
        holds: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room);
            if taken == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room -= taken;
            self.holds.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn deliveries(seqs: &[u64]) -> Vec<Arc<Delivery>> {
        seqs.iter().map(|seq| Arc::new(Delivery::new(event(*seq)))).collect()
    }

    /// Numbers of the lines that are whole, and how many are not.
    fn lines(disk: &Disk) -> (Vec<u64>, usize) {
        let text = std::str::from_utf8(&disk.holds).unwrap();
        let parsed = text.lines().map(serde_json::from_str::<serde_json::Value>);
        let (whole, broken): (Vec<_>, Vec<_>) = parsed.partition(Result::is_ok);
        (whole.into_iter().map(|line| line.unwrap()["seq"].as_u64().unwrap()).collect(), broken.len())
    }

    #[test]
    fn no_line_is_added_to_half_a_line_and_only_what_is_not_there_counts_as_lost() {
        let line = event(1);
        let length = Delivery::new(line).json().len() + 1;
        for room in [0, 1, length - 1, length, length + 1, 2 * length + 7, 3 * length - 1] {
            let mut writer = Writer::new(Disk { room, ..Disk::default() }, OutputFormat::Json);
            let lost = writer.write(&deliveries(&[1, 2, 3]));
            let whole = ((room + 1) / length) as u64;
            assert_eq!(lost, 3 - whole, "with room for {room} bytes");
            assert_eq!(writer.write(&deliveries(&[4])), 1);
            writer.out.room = usize::MAX;
            assert_eq!(writer.write(&deliveries(&[5, 6])), 0);
            let (found, broken) = lines(&writer.out);
            assert_eq!(found, (1..=whole).chain([5, 6]).collect::<Vec<_>>(), "with room for {room} bytes");
            assert!(broken <= 1, "{broken} broken lines");
        }
    }

    #[test]
    fn the_news_of_its_own_losses_is_none() {
        let mut writer = Writer::new(Disk::default(), OutputFormat::Json);
        let news = Arc::new(loss::here(NAME, 3, &"boot".into()));
        assert_eq!(writer.write(&[news]), 0);
    }
}
