//! What a process or a thread used: CPU time and resident memory, from `/proc`.

use std::{fs, path::Path, time::Duration};

use anyhow::Context as _;

/// CPU time by the kernel's two clocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cpu {
    /// `utime` + `stime` of `stat`, in ticks; what ends within a tick may go uncounted.
    ticks: u64,
    /// First field of `schedstat`, summed over the threads, in nanoseconds.
    on_cpu_ns: u64,
}

impl Cpu {
    /// Of a process with all its threads.
    pub(super) fn of_process(pid: u32) -> anyhow::Result<Self> {
        let folder = format!("/proc/{pid}");
        let mut on_cpu_ns = 0;
        for task in fs::read_dir(format!("{folder}/task")).with_context(|| format!("list the threads of {pid}"))? {
            let task = task?.path();
            match on_cpu(&task) {
                Ok(nanoseconds) => on_cpu_ns += nanoseconds,
                Err(_ended) if !task.exists() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { ticks: ticks(Path::new(&folder))?, on_cpu_ns })
    }

    /// Of one thread, by its folder `/proc/PID/task/TID`.
    pub(super) fn of_thread(folder: &Path) -> anyhow::Result<Self> {
        Ok(Self { ticks: ticks(folder)?, on_cpu_ns: on_cpu(folder)? })
    }

    /// What was used from `earlier` until here.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            ticks: self.ticks.saturating_sub(earlier.ticks),
            on_cpu_ns: self.on_cpu_ns.saturating_sub(earlier.on_cpu_ns),
        }
    }

    /// By ticks.
    pub(super) fn by_ticks(self) -> Duration {
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        Duration::from_nanos(self.ticks * (1_000_000_000 / per_second))
    }

    /// By the scheduler.
    pub(super) fn on_cpu(self) -> Duration {
        Duration::from_nanos(self.on_cpu_ns)
    }
}

fn ticks(folder: &Path) -> anyhow::Result<u64> {
    let file = folder.join("stat");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    parse_stat(&text).with_context(|| format!("{} is not what it should be", file.display()))
}

/// Sum of the fields 14 and 15; the name in field 2 may hold anything.
fn parse_stat(text: &str) -> Option<u64> {
    let (_, after_name) = text.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let (utime, stime): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(utime + stime)
}

fn on_cpu(folder: &Path) -> anyhow::Result<u64> {
    let file = folder.join("schedstat");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let first = text.split_whitespace().next().and_then(|it| it.parse().ok());
    first.with_context(|| format!("{} is not what it should be", file.display()))
}

/// Processes and threads that this host started since its boot.
pub(super) fn processes_started() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let count = text.lines().find_map(|line| line.strip_prefix("processes ")?.trim().parse().ok());
    count.context("/proc/stat does not count processes")
}

/// Resident memory, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Resident {
    /// `VmRSS`: all of it, pages of the program's file included.
    pub(super) rss: u64,
    /// `RssAnon`: what the process made itself.
    pub(super) anon: u64,
    /// `VmHWM`: the most that it ever was.
    pub(super) peak: u64,
}

impl Resident {
    /// Of a process, now.
    pub(super) fn of_process(pid: u32) -> anyhow::Result<Self> {
        let file = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
        Self::parse(&text).with_context(|| format!("{file} is not what it should be"))
    }

    fn parse(text: &str) -> Option<Self> {
        let bytes = |key: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
            Some(value.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
        };
        Some(Self { rss: bytes("VmRSS")?, anon: bytes("RssAnon")?, peak: bytes("VmHWM")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_name() {
        let text = "7 (a) b) (c) S 1 7 7 0 -1 4194560 1 2 3 4 50 6 7 8 20 0 2 0 9 10 11";
        assert_eq!(parse_stat(text), Some(56));
        assert_eq!(parse_stat("7 (a"), None);
        assert_eq!(parse_stat("7 (a) S 1 2"), None);
    }

    #[test]
    fn resident_memory_is_in_bytes() {
        let text = "Name:\toomwatch\nVmHWM:\t   30 kB\nVmRSS:\t   20 kB\nRssAnon:\t   10 kB\n";
        assert_eq!(Resident::parse(text), Some(Resident { rss: 20480, anon: 10240, peak: 30720 }));
        assert_eq!(Resident::parse("VmRSS:\t20 MB\n"), None);
    }

    #[test]
    fn this_very_process_can_be_measured() {
        let pid = std::process::id();
        let before = Cpu::of_process(pid).unwrap();
        let end = std::time::Instant::now() + Duration::from_millis(50);
        while std::time::Instant::now() < end {}
        let used = Cpu::of_process(pid).unwrap().since(before);
        assert!(used.on_cpu() > Duration::ZERO, "{used:?}");
        assert!(Resident::of_process(pid).unwrap().rss > 0);
    }
}
