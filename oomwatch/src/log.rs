//! The agent's own log on standard error. `OOMWATCH_LOG` sets the level (`info`), in the syntax of `RUST_LOG`.

use std::{
    io::{self, IsTerminal as _, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread,
    time::Duration,
};

use anyhow::Context as _;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::{clock, config::OutputFormat};

/// Environment variable with the level.
pub const VARIABLE: &str = "OOMWATCH_LOG";
/// Lines that wait for a slow reader of the agent's log; some hundred bytes each.
const QUEUE: usize = 4096;
/// How long the end waits for that reader.
const LAST_LINES: Duration = Duration::from_millis(500);
/// Time between two looks whether there is room.
const LOOK: Duration = Duration::from_millis(5);

/// Starts logging; aya and the eBPF program log through it too.
///
/// # Errors
/// Another logger is there already.
pub fn start(format: OutputFormat) -> anyhow::Result<()> {
    start_to(format, io::stderr)
}

/// The same for the agent, which must not wait for whoever reads its log. Keep what this returns until the end.
///
/// # Errors
/// Another logger is there already, or the thread that writes cannot be started.
pub fn start_beside(format: OutputFormat) -> anyhow::Result<LastLines> {
    let (log, last_lines) = Beside::start(io::stderr(), format)?;
    start_to(format, log)?;
    Ok(last_lines)
}

fn start_to(
    format: OutputFormat,
    to: impl for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_unset| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(to).with_target(false);
    match format {
        OutputFormat::Text => log.with_ansi(io::stderr().is_terminal()).try_init(),
        OutputFormat::Json => log.json().flatten_event(true).try_init(),
    }
    .map_err(|error| anyhow::anyhow!("{error}"))
    .context("start the log")
}

/// What the thread that writes is told.
enum Order {
    Line(Vec<u8>),
    /// To say when all before this is written.
    Flush(Sender<()>),
}

/// A bounded queue of lines. What finds no room is counted and told in its place.
#[derive(Debug, Clone)]
struct Beside {
    queue: SyncSender<Order>,
    lost: Arc<AtomicU64>,
}

/// Waits, but not for long, on drop for the lines that are not written yet.
#[derive(Debug)]
pub struct LastLines(SyncSender<Order>);

impl Beside {
    fn start(out: impl Write + Send + 'static, format: OutputFormat) -> anyhow::Result<(Self, LastLines)> {
        let (queue, lines) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&lost);
        let _detached = thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_lines(&lines, &counter, out, format))
            .context("start the thread of the log")?;
        Ok((Self { queue: queue.clone(), lost }, LastLines(queue)))
    }
}

fn write_lines(lines: &Receiver<Order>, lost: &AtomicU64, mut out: impl Write, format: OutputFormat) {
    for order in lines {
        // Where the log cannot be written there is nowhere to say so.
        match order {
            Order::Line(line) => {
                drop(out.write_all(&line));
                let lost = lost.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    drop(writeln!(out, "{}", missing(lost, format)));
                }
            }
            Order::Flush(done) => drop(done.send(())),
        }
    }
}

/// What stands where lines are missing, in the shape of the log.
fn missing(lost: u64, format: OutputFormat) -> String {
    let now = humantime::format_rfc3339_micros(clock::wall_time(clock::boot_ns()));
    match format {
        OutputFormat::Text => format!("{now}  WARN lines of the log were not read and are missing here lost={lost}"),
        OutputFormat::Json => format!(
            r#"{{"timestamp":"{now}","level":"WARN","message":"lines of the log were not read and are missing here","lost":{lost}}}"#
        ),
    }
}

/// One call for each line.
impl Write for Beside {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Order::Line(line.to_vec())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Beside {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Drop for LastLines {
    fn drop(&mut self) {
        let until_ns = clock::boot_ns().saturating_add(clock::ns(LAST_LINES));
        let (done, written) = channel();
        while self.0.try_send(Order::Flush(done.clone())).is_err() {
            if clock::boot_ns() >= until_ns {
                return;
            }
            thread::sleep(LOOK);
        }
        let _in_time: Result<(), _> = written.recv_timeout(LAST_LINES);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, atomic::AtomicBool};

    use super::*;

    /// Takes nothing while it is locked, but notes that it was asked to.
    #[derive(Clone, Default)]
    struct Reader(Arc<Mutex<Vec<u8>>>, Arc<AtomicBool>);

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.store(true, Ordering::Relaxed);
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stops_reading_costs_lines_that_are_counted_and_nobodys_time() {
        let reader = Reader::default();
        let stops = reader.0.lock().unwrap();
        let (mut log, last_lines) = Beside::start(reader.clone(), OutputFormat::Text).unwrap();
        let more = QUEUE + 100;
        for number in 0..more {
            log.write_all(format!("{number}\n").as_bytes()).unwrap();
            // The first line waits outside of the queue.
            while !reader.1.load(Ordering::Relaxed) {
                thread::sleep(LOOK);
            }
        }
        drop(stops);
        drop(last_lines);
        let text = String::from_utf8(reader.0.lock().unwrap().clone()).unwrap();
        let (news, lines): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.contains("missing here"));
        let lost: usize = news.iter().map(|line| line.rsplit_once("lost=").unwrap().1.parse::<usize>().unwrap()).sum();
        assert!(lost >= 99, "{lost}");
        assert_eq!(lines.len() + lost, more);
        assert!(lines.iter().enumerate().all(|(number, line)| *line == number.to_string()), "in order, the first ones");
    }

    #[test]
    fn what_is_missing_is_said_in_the_shape_of_the_log() {
        let line: serde_json::Value = serde_json::from_str(&missing(3, OutputFormat::Json)).unwrap();
        assert_eq!((&line["level"], &line["lost"]), (&"WARN".into(), &3.into()));
        assert!(missing(3, OutputFormat::Text).ends_with(" missing here lost=3"));
    }
}
