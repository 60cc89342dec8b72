//! `oomwatch events`: what the journal holds, then with `--follow` what happens, each event once.
//!
//! It connects before it reads the journal, and reads that again a moment later: what the agent told before it took this
//! client in may be on its way to the disk. What comes by both ways is shown once.

use std::{
    borrow::Cow,
    collections::{HashSet, VecDeque},
    io::{self, BufWriter, Write as _},
    path::Path,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use anyhow::{Context as _, bail};
use clap::Args;
use serde::{Deserialize, de::IgnoredAny};

use crate::{
    cli::{SocketArg, StateDirArg},
    client::{Client, ClientError},
    clock,
    config::OutputFormat,
    event::{Event, Severity},
    journal::{self, Lines},
    sinks::Delivery,
    workload::escape::escape,
};

/// With `--follow` and no `--since`: so many events before those to come.
const LAST: usize = 10;
/// When the journal is read again: by then the agent has taken this client in and written what it told before.
const AGAIN: Duration = Duration::from_millis(500);
/// How often it is read for what comes before the first event that the agent sends.
const TRIES: u32 = 3;

/// Options of `events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Go on with events as they happen, from the running agent
    #[arg(short, long)]
    pub follow: bool,
    /// Only events since then: so long ago (`10m`, `2h`, `1day`) or a time (`2026-11-22T20:00:00Z`). Without it all that
    /// the journal holds; with --follow its last 10
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub since: Option<SystemTime>,
    /// Shape of the events
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, env = "OOMWATCH_OUTPUT")]
    pub output: OutputFormat,
    /// The running agent.
    #[command(flatten)]
    pub socket: SocketArg,
    /// Its journal.
    #[command(flatten)]
    pub state_dir: StateDirArg,
}

fn since(text: &str) -> Result<SystemTime, String> {
    let now = clock::wall_time(clock::boot_ns());
    let ago = |age: Duration| now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
    let time = humantime::parse_duration(text).map(ago).or_else(|_no_duration| humantime::parse_rfc3339_weak(text));
    time.map_err(|_neither| "neither a time span like 10m nor a time like 2026-11-22T20:00:00Z".to_owned())
}

/// Shows them.
///
/// # Errors
/// There is no journal, or no agent to follow, or neither is for this user.
pub fn run(args: &EventsArgs) -> anyhow::Result<ExitCode> {
    let mut printer = Printer { out: BufWriter::new(AutoStream::auto(io::stdout())), format: args.output };
    let outcome = show(args, &mut printer).and_then(|()| Ok(printer.out.flush()?));
    match outcome {
        // Its reader has seen enough.
        Err(error) if is_broken_pipe(&error) => {
            // What is left must not be written by the drop.
            drop(printer.out.into_parts());
            Ok(ExitCode::SUCCESS)
        }
        outcome => outcome.map(|()| ExitCode::SUCCESS),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn show(args: &EventsArgs, printer: &mut Printer) -> anyhow::Result<()> {
    let client = if args.follow { Some(connect(args)?) } else { None };
    let mut shown = Shown::default();
    match (&args.state_dir.state_dir.0, args.follow) {
        (Some(state_dir), _) => show_journal_of(state_dir, args, printer, &mut shown)?,
        (None, true) => {}
        (None, false) => bail!("without a state folder there is no journal: name it with --state-dir, or use --follow"),
    }
    printer.out.flush()?;
    client.map_or(Ok(()), |client| follow(client, args, printer, &mut shown))
}

fn connect(args: &EventsArgs) -> anyhow::Result<Client> {
    let socket = args.socket.socket.0.as_ref();
    Ok(Client::connect(socket.context("without a socket there is nothing to follow: name it with --socket")?)?)
}

fn show_journal_of(
    state_dir: &Path,
    args: &EventsArgs,
    printer: &mut Printer,
    shown: &mut Shown,
) -> anyhow::Result<()> {
    let folder = journal::folder(state_dir);
    match Lines::open(&folder) {
        Ok(mut lines) => {
            show_journal(args, &mut lines, printer, shown)?;
            if lines.ends_in_half_a_line() && !args.follow {
                tracing::warn!(
                    "the journal ends in the middle of a line: one is being written, or the agent was ended"
                );
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && args.follow => {
            tracing::warn!(folder = %folder.display(), "there is no journal here: only events from now on are shown");
        }
        Err(error) => bail!(no_journal(&folder, &error)),
    }
    Ok(())
}

fn no_journal(folder: &Path, error: &io::Error) -> String {
    let folder = folder.display();
    match error.kind() {
        io::ErrorKind::NotFound => {
            format!(
                "there is no journal in {folder}: no agent has run yet, or it keeps its journal elsewhere; name that folder with --state-dir"
            )
        }
        io::ErrorKind::PermissionDenied => {
            format!("the journal in {folder} is for root only; run this as root, for example with sudo")
        }
        _ => format!("the journal in {folder} cannot be read: {error}"),
    }
}

fn show_journal(args: &EventsArgs, lines: &mut Lines, printer: &mut Printer, shown: &mut Shown) -> anyhow::Result<()> {
    let mut last = VecDeque::new();
    let mut reached = false;
    for line in lines {
        let line = line.context("read the journal")?;
        let head = Head::of(&line);
        shown.add(&head);
        // A line without a time belongs to the one before it.
        reached = head.timestamp.map_or(reached, |time| args.since.is_none_or(|since| since <= time));
        if args.follow && args.since.is_none() {
            last.push_back(line);
            if last.len() > LAST {
                last.pop_front();
            }
        } else if reached || args.since.is_none() {
            printer.print(&line)?;
        }
    }
    Ok(last.iter().try_for_each(|line| printer.print(line))?)
}

fn follow(client: Client, args: &EventsArgs, printer: &mut Printer, shown: &mut Shown) -> anyhow::Result<()> {
    if let Some(state_dir) = &args.state_dir.state_dir.0 {
        std::thread::sleep(AGAIN);
        show_newer(state_dir, printer, shown)?;
    }
    let mut is_first = true;
    for line in client {
        let line = line?;
        let head = Head::of(line.as_bytes());
        if let (Some(seq), Some(state_dir)) = (head.seq, &args.state_dir.state_dir.0)
            && std::mem::replace(&mut is_first, false)
        {
            show_before(seq, &head, state_dir, printer, shown)?;
        }
        if !shown.contains(&head) {
            printer.print(line.as_bytes())?;
            printer.out.flush()?;
        }
    }
    bail!(ClientError::Closed)
}

/// What the agent told before it took this client in, however late that was.
fn show_before(
    seq: u64,
    first: &Head<'_>,
    state_dir: &Path,
    printer: &mut Printer,
    shown: &mut Shown,
) -> anyhow::Result<()> {
    for _ in 0..TRIES {
        let is_next = shown.last.is_some_and(|(last, at)| last + 1 == seq && Some(at) <= first.timestamp);
        if seq <= 1 || is_next || shown.contains(first) {
            break;
        }
        std::thread::sleep(AGAIN / TRIES);
        show_newer(state_dir, printer, shown)?;
    }
    Ok(())
}

/// What the journal has by now after what was shown of it.
fn show_newer(state_dir: &Path, printer: &mut Printer, shown: &mut Shown) -> anyhow::Result<()> {
    let Ok(lines) = Lines::open(&journal::folder(state_dir)) else { return Ok(()) };
    let last = shown.last;
    let mut is_newer = last.is_none();
    for line in lines {
        let line = line.context("read the journal")?;
        let head = Head::of(&line);
        // What has no number cannot be told from what was shown.
        if is_newer && head.id().is_some() {
            shown.add(&head);
            printer.print(&line)?;
        }
        is_newer |= head.id() == last;
    }
    Ok(printer.out.flush()?)
}

/// What is looked at in every line, whatever version wrote it.
#[derive(Debug, Default, Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    event: Option<Cow<'a, str>>,
    seq: Option<u64>,
    #[serde(default, deserialize_with = "time")]
    timestamp: Option<SystemTime>,
}

impl<'a> Head<'a> {
    fn of(line: &'a [u8]) -> Self {
        serde_json::from_slice(line).unwrap_or_default()
    }

    fn id(&self) -> Option<(u64, SystemTime)> {
        self.seq.zip(self.timestamp)
    }
}

fn time<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
    let text = Option::<Cow<'de, str>>::deserialize(deserializer)?;
    Ok(text.and_then(|text| humantime::parse_rfc3339(&text).ok()))
}

/// Events of the running agent that the journal gave: their numbers and times.
#[derive(Debug, Default)]
struct Shown {
    events: HashSet<(u64, SystemTime)>,
    last: Option<(u64, SystemTime)>,
}

impl Shown {
    fn add(&mut self, head: &Head<'_>) {
        // What earlier agents said does not come again.
        if head.event.as_deref() == Some("agent_started") {
            self.events.clear();
        }
        self.events.extend(head.id());
        self.last = head.id().or(self.last);
    }

    fn contains(&self, head: &Head<'_>) -> bool {
        head.id().is_some_and(|event| self.events.contains(&event))
    }
}

/// Standard output.
#[derive(Debug)]
struct Printer {
    out: BufWriter<AutoStream<io::Stdout>>,
    format: OutputFormat,
}

impl Printer {
    /// A line that is no event of this version is shown as it is, made printable.
    fn print(&mut self, line: &[u8]) -> io::Result<()> {
        match self.format {
            OutputFormat::Text => match serde_json::from_slice::<Event>(line) {
                Ok(event) => writeln!(self.out, "{}", coloured(event)),
                Err(_) => writeln!(self.out, "{}", escape(line)),
            },
            OutputFormat::Json if serde_json::from_slice::<IgnoredAny>(line).is_ok() => {
                self.out.write_all(line)?;
                self.out.write_all(b"\n")
            }
            OutputFormat::Json => {
                tracing::warn!(line = escape(line), "a line of the journal is no JSON and is left out");
                Ok(())
            }
        }
    }
}

/// The line of text that the agent writes, with a coloured level.
fn coloured(event: Event) -> String {
    let style = match event.severity {
        Severity::Info => AnsiColor::Green.on_default(),
        Severity::Warning => AnsiColor::Yellow.on_default(),
        Severity::Critical => AnsiColor::Red.on_default().bold(),
    };
    colour_level(&Delivery::new(event).line(OutputFormat::Text), style)
}

/// The level is the second word.
fn colour_level(line: &str, style: Style) -> String {
    let mut words = line.splitn(3, ' ');
    match (words.next(), words.next(), words.next()) {
        (Some(time), Some(level), Some(rest)) => format!("{time} {style}{level}{style:#} {rest}"),
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_time_or_a_time_ago() {
        assert_eq!(since("1970-01-01T00:00:10Z").unwrap(), SystemTime::UNIX_EPOCH + Duration::from_secs(10));
        assert!(since("10m").unwrap() < clock::wall_time(clock::boot_ns()));
        assert!(since("yesterday").is_err());
    }

    #[test]
    fn an_event_is_known_again_unless_it_is_another_agents() {
        let head = |line: &'static str| Head::of(line.as_bytes());
        let mut shown = Shown::default();
        let old = r#"{"event":"oom_kill","seq":2,"timestamp":"2026-11-22T20:00:00.5Z"}"#;
        shown.add(&head(old));
        shown.add(&head("garbage"));
        assert!(shown.contains(&head(old)));
        assert!(!shown.contains(&head(r#"{"event":"oom_kill","seq":2,"timestamp":"2026-11-22T20:00:01.5Z"}"#)));
        assert!(!shown.contains(&head(r#"{"event":"loss","timestamp":"2026-11-22T20:00:00.5Z"}"#)));
        shown.add(&head(r#"{"event":"agent_started","seq":1,"timestamp":"2026-11-22T20:00:02Z"}"#));
        assert!(!shown.contains(&head(old)));
    }

    #[test]
    fn a_head_is_read_of_anything() {
        for line in ["", "[]", "null", "{\"seq\":\"x\"}", "{\"timestamp\":\"never\",\"seq\":3}", "\u{0}", "{\"a\":"] {
            assert_eq!(Head::of(line.as_bytes()).timestamp, None, "{line}");
        }
        assert_eq!(Head::of(br#"{"timestamp":"never","seq":3}"#).seq, Some(3));
    }

    #[test]
    fn only_the_level_is_coloured() {
        let line = colour_level("time WRN OOM kill detected a=1", AnsiColor::Red.on_default());
        assert_eq!(line, "time \u{1b}[31mWRN\u{1b}[0m OOM kill detected a=1");
    }
}
