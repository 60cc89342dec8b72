//! The baseline: what the original system does, a look at every cgroup's own counter of kills each 500 ms, as a loop
//! of this process.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, anyhow};

use super::usage::Cpu;
use crate::cgroup::Cgroup;

/// The original's interval.
pub(super) const EVERY: Duration = Duration::from_millis(500);

/// When kills were noticed, by the name of their cgroup, in order.
pub(super) type Noticed = BTreeMap<String, Vec<SystemTime>>;

/// The loop, in a thread of its own.
#[derive(Debug)]
pub(super) struct Poller {
    /// Dropped to end the loop.
    alive: Option<Sender<()>>,
    thread: Option<JoinHandle<anyhow::Result<Noticed>>>,
    /// `/proc/PID/task/TID` of that thread.
    folder: PathBuf,
}

impl Poller {
    /// Begins to look at these cgroups.
    pub(super) fn start(cgroups: &[Cgroup]) -> anyhow::Result<Self> {
        let watched: Vec<_> = cgroups.iter().map(|it| (it.name().to_owned(), it.counter().to_owned())).collect();
        let (alive, wanted) = mpsc::channel();
        let (sender, receiver) = mpsc::channel();
        let thread = thread::spawn(move || {
            let this = fs::read_link("/proc/thread-self").context("read /proc/thread-self")?;
            sender.send(PathBuf::from("/proc").join(this)).context("tell which thread this is")?;
            poll(&watched, &wanted)
        });
        let folder = receiver.recv().context("start the poller")?;
        Ok(Self { alive: Some(alive), thread: Some(thread), folder })
    }

    /// CPU time used so far.
    pub(super) fn cpu(&self) -> anyhow::Result<Cpu> {
        Cpu::of_thread(&self.folder)
    }

    /// Ends it; what it noticed.
    pub(super) fn stop(mut self) -> anyhow::Result<Noticed> {
        self.alive = None;
        let thread = self.thread.take().context("the poller ended before")?;
        thread.join().map_err(|_panic| anyhow!("the poller panicked"))?
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.alive = None;
        // The cgroups go after this; what it noticed is of no use any more.
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn poll(watched: &[(String, PathBuf)], wanted: &Receiver<()>) -> anyhow::Result<Noticed> {
    let mut noticed = Noticed::new();
    let mut counted = vec![0; watched.len()];
    let mut next = Instant::now();
    loop {
        for ((name, file), counted) in watched.iter().zip(&mut counted) {
            let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
            let kills = parse_kills(&text).with_context(|| format!("no oom_kill in {}", file.display()))?;
            let now = SystemTime::now();
            for _ in *counted..kills {
                noticed.entry(name.clone()).or_default().push(now);
            }
            *counted = kills;
        }
        next += EVERY;
        match wanted.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ok(noticed),
        }
    }
}

fn parse_kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_found_by_its_whole_key() {
        assert_eq!(parse_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), Some(3));
        assert_eq!(parse_kills("oom 9\noom_kill 4\noom_group_kill 1\n"), Some(4));
        assert_eq!(parse_kills("oom_kill_disable 0\nunder_oom 0\n"), None);
    }
}
