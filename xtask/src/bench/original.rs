//! The baseline for many workloads: what the original system does for each, every 500 ms. For a sandbox it walks the
//! sentry's process tree by `/proc/PID/task/TID/children` and sums `VmRSS`; for the others it reads the counter of kills.

use std::{
    fs,
    path::PathBuf,
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};

use super::{poll::EVERY, usage::Cpu};

/// What it found out about itself.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rounds {
    /// Looks at all workloads.
    pub(super) count: u32,
    /// The longest.
    pub(super) longest: Duration,
}

/// The loop, in a thread of its own.
#[derive(Debug)]
pub(super) struct Original {
    alive: Option<Sender<()>>,
    thread: Option<JoinHandle<Rounds>>,
    folder: PathBuf,
}

impl Original {
    /// Begins to watch.
    pub(super) fn start(sentries: Vec<u32>, counters: Vec<PathBuf>) -> anyhow::Result<Self> {
        let (alive, wanted) = mpsc::channel();
        let (sender, receiver) = mpsc::channel();
        let thread = thread::spawn(move || {
            let this = fs::read_link("/proc/thread-self").unwrap_or_default();
            // The other side waits for it.
            drop(sender.send(PathBuf::from("/proc").join(this)));
            watch(&sentries, &counters, &wanted)
        });
        let folder = receiver.recv().context("start the baseline")?;
        Ok(Self { alive: Some(alive), thread: Some(thread), folder })
    }

    /// CPU time used so far.
    pub(super) fn cpu(&self) -> anyhow::Result<Cpu> {
        Cpu::of_thread(&self.folder)
    }

    /// Ends it.
    pub(super) fn stop(mut self) -> anyhow::Result<Rounds> {
        self.alive = None;
        let thread = self.thread.take().context("the baseline ended before")?;
        thread.join().map_err(|_panic| anyhow!("the baseline panicked"))
    }
}

fn watch(sentries: &[u32], counters: &[PathBuf], wanted: &Receiver<()>) -> Rounds {
    let mut rounds = Rounds::default();
    let mut seen = 0_u64;
    loop {
        let began = Instant::now();
        for sentry in sentries {
            seen = seen.wrapping_add(rss_of_tree(*sentry));
        }
        for counter in counters {
            seen = seen.wrapping_add(fs::read(counter).map_or(0, |text| text.len() as u64));
        }
        rounds.count += 1;
        rounds.longest = rounds.longest.max(began.elapsed());
        // What was read must have been read.
        std::hint::black_box(seen);
        match wanted.recv_timeout(EVERY.saturating_sub(began.elapsed())) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return rounds,
        }
    }
}

/// Bytes resident in a process and all below it.
fn rss_of_tree(root: u32) -> u64 {
    let mut pending = vec![root];
    let mut sum = 0;
    while let Some(pid) = pending.pop() {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
        sum += rss.unwrap_or(0_u64) * 1024;
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            pending.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_tree_is_more_than_its_root() {
        let mut child = Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().unwrap();
        let alone = rss_of_tree(child.id());
        let with_parent = rss_of_tree(std::process::id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(alone > 0 && with_parent > alone, "{alone} {with_parent}");
    }
}
