//! The agent under test: started, listened to, stopped.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read},
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{UnshareFlags, unshare_unsafe},
};

use crate::{EVENT_TIMEOUT, Event, Finished, PROCESS_TIMEOUT, stream::EventStream, wait_for};

/// What agents log: all, but for the hundreds of lines of aya's at each start.
pub(crate) const AGENT_LOG: &str = "debug,aya=info,aya_obj=info";

/// Shape of the agent's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// `oomwatch ARGUMENTS`, with nothing of this test's environment that it would listen to, and with no place on this host
/// that agents would share, unless an argument names one.
pub fn agent_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("OOMWATCH_BIN").expect("OOMWATCH_BIN"));
    command.args(arguments);
    for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"OOMWATCH_")) {
        command.env_remove(name);
    }
    for shared in ["OOMWATCH_CONFIG", "OOMWATCH_LISTEN_ADDRESS", "OOMWATCH_SOCKET", "OOMWATCH_STATE_DIR"] {
        command.env(shared, "none");
    }
    command
}

/// A running agent. Ended on drop, and shown where the test fails.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    output: Output,
    stdout: Lines,
    stderr: Lines,
}

impl Agent {
    /// `oomwatch run --output json`, watching.
    pub fn start() -> Self {
        Self::start_with(Output::Json, &[])
    }

    /// `oomwatch run` with more arguments, watching.
    pub fn start_with(output: Output, arguments: &[&str]) -> Self {
        let shape = if output == Output::Json { "json" } else { "text" };
        let mut command = agent_command(&["run", "--output", shape]);
        command.args(arguments).env("OOMWATCH_LOG", AGENT_LOG);
        Self::start_command(output, &mut command)
    }

    /// A command for the agent, which must come to watch.
    pub fn start_command(output: Output, command: &mut Command) -> Self {
        Self::of_process(output, spawn(command))
    }

    /// The same as the first process of a pid namespace.
    pub fn start_in_new_pids(output: Output, mut command: Command) -> Self {
        // The namespace is that of this thread's children, of which the agent is the only one.
        let child = thread::spawn(move || {
            // SAFETY: no file table is unshared.
            unsafe { unshare_unsafe(UnshareFlags::NEWPID) }.expect("a pid namespace");
            spawn(&mut command)
        });
        Self::of_process(output, child.join().expect("start the agent"))
    }

    fn of_process(output: Output, mut child: Child) -> Self {
        let stdout = Lines::of(child.stdout.take().expect("the agent's output"));
        let stderr = Lines::of(child.stderr.take().expect("the agent's log"));
        let agent = Self { child, output, stdout, stderr };
        agent.wait_until_it_watches();
        agent
    }

    fn wait_until_it_watches(&self) {
        let started = match self.output {
            Output::Json => "\"event\":\"agent_started\"",
            Output::Text => "oomwatch started",
        };
        let line = self.stdout.wait_for("the agent to watch", PROCESS_TIMEOUT, |line| Some(line.to_owned()));
        assert!(line.contains(started), "the first line is not the agent's start: {line}");
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lines on standard output so far.
    pub fn lines(&self) -> Vec<String> {
        self.stdout.get()
    }

    /// Lines of its log so far.
    pub fn log(&self) -> Vec<String> {
        self.stderr.get()
    }

    /// Waits for a line of its log that has this; the line.
    pub fn wait_for_log(&self, text: &str) -> String {
        let what = format!("{text:?} in the log");
        self.stderr.wait_for(&what, EVENT_TIMEOUT, |line| line.contains(text).then(|| line.to_owned()))
    }

    /// Sends the signal to read the configuration again, and does not wait.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// Waits until it has compared what it told with all kills that the kernel counts by now, and misses none any more.
    pub fn wait_until_nothing_is_missing(&self) {
        let vmstat = fs::read_to_string("/proc/vmstat").expect("the kernel's counters");
        let counted = vmstat.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse::<u64>().ok());
        let counted = counted.expect("a count of kills");
        self.stderr.wait_for("the agent to compare", PROCESS_TIMEOUT, |line| {
            let kills = line.split_once("no kill is missing kills=")?.1.split(' ').next()?.parse::<u64>().ok()?;
            (kills >= counted).then_some(())
        });
    }

    /// Ends it as nobody wants it; its events so far.
    pub fn kill(mut self) -> Vec<Event> {
        self.signal(Signal::KILL);
        let status = wait_for("the agent to end", PROCESS_TIMEOUT, || self.child.try_wait().expect("wait"));
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{status}");
        // The last line may be cut.
        let text = self.stdout.rest();
        text.lines().filter(|line| line.ends_with('}')).map(Event::parse).collect()
    }

    /// Events so far.
    pub fn events(&self) -> Vec<Event> {
        assert_eq!(self.output, Output::Json, "only these can be read");
        self.lines().iter().map(|line| Event::parse(line)).collect()
    }

    /// Waits for an event.
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        self.stdout.wait_for(what, EVENT_TIMEOUT, |line| Some(Event::parse(line)).filter(&wanted))
    }

    /// Waits for the report of a kill.
    pub fn wait_for_kill_of(&self, pid: u32) -> Event {
        self.wait_for(&format!("the kill of {pid}"), |event| event.is_kill_of(pid))
    }

    /// Where it serves metrics and health: what the log says of `--listen-address 127.0.0.1:0`.
    pub fn served_at(&self) -> String {
        self.stderr.wait_for("the address of the metrics", PROCESS_TIMEOUT, |line| {
            let (_, address) = line.split_once("metrics and health are served")?.1.split_once("address=")?;
            Some(address.trim().to_owned())
        })
    }

    /// Lets it run no further.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let stat = format!("/proc/{}/stat", self.child.id());
        wait_for("the agent to stand still", Duration::from_secs(5), || {
            fs::read_to_string(&stat).expect("the agent's state").contains(") T ").then_some(())
        });
    }

    /// Lets it run again.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends the signal that asks it to end, and does not wait.
    pub fn ask_to_end(&self, signal: Signal) {
        self.signal(signal);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("send the agent a signal");
    }

    /// Asks it to end, checks that it did so in order, and gives all its events.
    pub fn stop(self) -> Vec<Event> {
        self.stop_by(Signal::TERM)
    }

    /// Asks it to end by this signal, checks that it did so in order, and gives all its events.
    pub fn stop_by(self, signal: Signal) -> Vec<Event> {
        let finished = self.finish(signal);
        assert!(!finished.stderr.contains("\"event\":"), "an event in the log: {}", finished.stderr);
        EventStream::parse(&finished.stdout).checked()
    }

    /// Asks it to end while this sink may have lost events, and gives all its events.
    pub fn stop_though_lossy(self, sink: &str) -> Vec<Event> {
        let finished = self.finish(Signal::TERM);
        EventStream::parse(&finished.stdout).checked_but_for_losses_of(Some(sink))
    }

    /// Asks it to end; what it wrote.
    pub fn finish(mut self, signal: Signal) -> Finished {
        self.signal(signal);
        let status = wait_for("the agent to end", PROCESS_TIMEOUT, || self.child.try_wait().expect("wait"));
        let (stdout, stderr) = (self.stdout.rest(), self.stderr.rest());
        assert_eq!(status.code(), Some(0), "the agent did not end in order ({status}); its log:\n{stderr}");
        Finished { code: status.code(), signal: status.signal(), stdout, stderr }
    }
}

fn spawn(command: &mut Command) -> Child {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("start the agent")
}

impl Drop for Agent {
    #[expect(clippy::print_stderr, reason = "the harness shows it with the failure")]
    fn drop(&mut self) {
        // An error says that it ended before.
        drop(self.child.kill());
        drop(self.child.wait());
        if thread::panicking() {
            eprintln!("--- the agent's events:\n{}", self.stdout.get().join("\n"));
            eprintln!("--- the agent's log:\n{}", self.stderr.get().join("\n"));
        }
    }
}

/// Lines of a pipe, gathered by a thread.
#[derive(Debug)]
struct Lines {
    gathered: Arc<Gathered>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Gathered {
    text: Mutex<SoFar>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct SoFar {
    lines: Vec<String>,
    /// The pipe was closed.
    is_whole: bool,
}

impl Gathered {
    fn text(&self) -> MutexGuard<'_, SoFar> {
        self.text.lock().expect("no panic while held")
    }
}

impl Lines {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let gathered = Arc::new(Gathered::default());
        let shared = Arc::clone(&gathered);
        let thread = thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n') {
                let line = String::from_utf8_lossy(&line.expect("read the agent")).into_owned();
                shared.text().lines.push(line);
                shared.changed.notify_all();
            }
            shared.text().is_whole = true;
            shared.changed.notify_all();
        });
        Self { gathered, thread: Some(thread) }
    }

    fn get(&self) -> Vec<String> {
        self.gathered.text().lines.clone()
    }

    /// What the first line that `probe` wants is, also of those that are there; fails where none comes.
    fn wait_for<T>(&self, what: &str, timeout: Duration, mut probe: impl FnMut(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + timeout;
        let mut seen = 0;
        loop {
            let time = deadline.saturating_duration_since(Instant::now());
            let has_nothing_new = |text: &mut SoFar| text.lines.len() == seen && !text.is_whole;
            let waited = self.gathered.changed.wait_timeout_while(self.gathered.text(), time, has_nothing_new);
            let (text, _timed_out) = waited.expect("no panic while held");
            let (new, is_whole) = (text.lines[seen..].to_vec(), text.is_whole);
            drop(text);
            seen += new.len();
            if let Some(found) = new.iter().find_map(|line| probe(line)) {
                return found;
            }
            assert!(!is_whole, "the agent ended before {what}");
            assert!(Instant::now() < deadline, "waited {} s in vain for {what}", timeout.as_secs());
        }
    }

    /// All lines of a program that ended.
    fn rest(&mut self) -> String {
        if let Some(thread) = self.thread.take() {
            thread.join().expect("gather lines");
        }
        let mut text = self.get().join("\n");
        text.push('\n');
        text
    }
}
