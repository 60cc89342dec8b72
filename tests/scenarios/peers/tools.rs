//! Programs that print a line for each kill: oomwatch, and `oomkill` of bpftrace and of libbpf-tools.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    os::fd::{FromRawFd as _, OwnedFd},
    process::{Child, Command, Stdio},
    ptr,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use support::{agent_command, wait_for};

use crate::{Seen, Watcher, clock};

/// bpftrace compiles its program, which takes long without a real processor.
const READY: Duration = Duration::from_mins(4);

/// A running program, read line by line. Ended on drop.
pub(crate) struct Tool {
    name: &'static str,
    child: Child,
    lines: Arc<Mutex<Vec<(String, Duration)>>>,
    parse: fn(&str) -> Option<Seen>,
}

pub(crate) fn oomwatch() -> Tool {
    let command = agent_command(&["run", "--output", "json"]);
    Tool::start("oomwatch", command, "agent_started", of_oomwatch)
}

pub(crate) fn bpftrace() -> Tool {
    let mut command = Command::new("bpftrace");
    command.arg("/usr/lib/peers/oomkill.bt").env("LD_LIBRARY_PATH", "/usr/lib/peers");
    Tool::start("bpftrace's `oomkill.bt`", command, "Tracing oom_kill_process", of_oomkill)
}

pub(crate) fn libbpf_tools() -> Tool {
    let mut command = Command::new("oomkill");
    command.env("LD_LIBRARY_PATH", "/usr/lib/peers");
    Tool::start("libbpf-tools' `oomkill`", command, "Tracing OOM kills", of_oomkill)
}

impl Tool {
    /// At a terminal, so that each line is written when it is there.
    fn start(name: &'static str, mut command: Command, ready: &str, parse: fn(&str) -> Option<Seen>) -> Self {
        let (here, there) = terminal();
        let child = command.stdin(Stdio::null()).stdout(there).spawn();
        let child = child.unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        drop(command);
        let lines = Arc::new(Mutex::new(Vec::new()));
        let read = Arc::clone(&lines);
        drop(thread::spawn(move || {
            for line in BufReader::new(File::from(here)).lines() {
                let Ok(line) = line else { break };
                read.lock().unwrap_or_else(PoisonError::into_inner).push((line, clock::now()));
            }
        }));
        let mut tool = Self { name, child, lines, parse };
        wait_for(&format!("{name} to watch"), READY, || {
            let ended = tool.child.try_wait().expect("look after a tool");
            assert!(ended.is_none(), "{name} ended: {ended:?}, {:?}", tool.lines());
            tool.lines().iter().any(|(line, _)| line.contains(ready)).then_some(())
        });
        tool
    }

    fn lines(&self) -> Vec<(String, Duration)> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Watcher for Tool {
    fn name(&self) -> &'static str {
        self.name
    }

    fn finish(&mut self) -> Vec<Seen> {
        let lines = self.lines();
        lines.iter().filter_map(|(line, at)| Some(Seen { at: *at, ..(self.parse)(line)? })).collect()
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        // An error says that it ended before.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A terminal: where its lines are read, and where they are written.
fn terminal() -> (OwnedFd, OwnedFd) {
    let (mut here, mut there) = (-1, -1);
    // SAFETY: both numbers are written to; the other arguments may be null.
    let made = unsafe { libc::openpty(&raw mut here, &raw mut there, ptr::null_mut(), ptr::null(), ptr::null()) };
    assert_eq!(made, 0, "a terminal");
    // SAFETY: the descriptor was just made and belongs to nobody else.
    let here = unsafe { OwnedFd::from_raw_fd(here) };
    // SAFETY: the same.
    (here, unsafe { OwnedFd::from_raw_fd(there) })
}

fn of_oomwatch(line: &str) -> Option<Seen> {
    let event: serde_json::Value = serde_json::from_str(line).ok()?;
    if event["event"] != "oom_kill" {
        return None;
    }
    let pid = event["victim"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    let path = |memcg: &str| event[memcg]["path"].as_str().map(str::to_owned);
    Some(Seen { pid, cgroup: path("task_memcg"), limit: path("oom_memcg"), ..Seen::default() })
}

/// `Triggered by PID 1 ("a"), OOM kill of PID 2 ("b"), 4096 pages, …`: both tools have the same words.
fn of_oomkill(line: &str) -> Option<Seen> {
    let pid = line.split_once("OOM kill of PID ")?.1.split(' ').next()?.parse().ok()?;
    Some(Seen { pid: Some(pid), ..Seen::default() })
}
