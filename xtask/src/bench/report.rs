//! Measurements to a table in Markdown. Pure.

use std::{fmt::Write as _, time::Duration};

use super::usage::{Cpu, Resident};

/// Everything measured in one run.
#[derive(Debug)]
pub(super) struct Report {
    /// The host, in a few words.
    pub(super) machine: String,
    /// The agent's version and what it sees with.
    pub(super) agent: String,
    /// Size of the program, bytes.
    pub(super) binary_bytes: u64,
    /// From the start of the process to its first event.
    pub(super) starts: Samples,
    /// From the kernel's mark to the agent's report, as the agent says.
    pub(super) within: Samples,
    /// From the kernel's mark to the line read from the agent's output.
    pub(super) lines: Samples,
    /// From the kernel's mark to the look that finds the counter raised.
    pub(super) polled: Samples,
    /// Kills that were made.
    pub(super) kills: usize,
    /// Cgroups that were killed in and polled.
    pub(super) cgroups: usize,
    /// For how long nothing was done to the host.
    pub(super) idle: Duration,
    /// Events meanwhile, which are others' doing.
    pub(super) idle_events: usize,
    /// Processes that others started meanwhile: how idle the host was.
    pub(super) idle_processes: u64,
    /// The agent, meanwhile.
    pub(super) idle_agent: Cpu,
    /// The poller, meanwhile.
    pub(super) idle_poller: Cpu,
    /// The agent, during the kills.
    pub(super) busy_agent: Cpu,
    /// The agent, before the kills.
    pub(super) armed: Resident,
    /// The agent, after the kills.
    pub(super) after: Resident,
    /// The baseline's interval.
    pub(super) interval: Duration,
    /// The file that the baseline reads.
    pub(super) counter_file: &'static str,
}

impl Report {
    /// The table.
    pub(super) fn markdown(&self) -> String {
        let mut text = format!("{}\n\n{}\n\n", self.machine, self.agent);
        let baseline = format!("`{}` read every {} ms", self.counter_file, self.interval.as_millis());
        let mut row = |what: &str, agent: &str, polled: &str| {
            // Writing to a String cannot fail.
            let _infallible = writeln!(text, "| {what} | {agent} | {polled} |");
        };
        row("", "oomwatch", &baseline);
        row("---", "---:", "---:");
        row(&format!("start to armed, median of {}", self.starts.len()), &shown(self.starts.percentile(50)), "");
        row("start to armed, longest", &shown(self.starts.percentile(100)), "");
        let kills = format!("of {} kills", self.kills);
        row(&format!("{kills}, noticed"), &self.lines.len().to_string(), &self.polled.len().to_string());
        for (name, percent) in [("p50", 50), ("p99", 99), ("longest", 100)] {
            let (agent, polled) = (self.lines.percentile(percent), self.polled.percentile(percent));
            row(&format!("kernel to line, {name}"), &shown(agent), &shown(polled));
        }
        row("kernel to agent (`latency_seconds`), p50", &shown(self.within.percentile(50)), "");
        let idle = format!("CPU in {} idle s, {} cgroups", self.idle.as_secs(), self.cgroups);
        row(&format!("{idle}, utime + stime"), &shown(self.idle_agent.by_ticks()), &shown(self.idle_poller.by_ticks()));
        row(&format!("{idle}, schedstat"), &shown(self.idle_agent.on_cpu()), &shown(self.idle_poller.on_cpu()));
        row("others on this host meanwhile: processes started", &self.idle_processes.to_string(), "");
        row("others on this host meanwhile: events", &self.idle_events.to_string(), "");
        let kills = u32::try_from(self.kills).unwrap_or(u32::MAX).max(1);
        row("CPU for each kill, schedstat", &shown(self.busy_agent.on_cpu() / kills), "");
        row("resident once armed, `VmRSS`", &mib(self.armed.rss), "");
        row("resident once armed, `RssAnon`", &mib(self.armed.anon), "");
        row("resident after the kills, `VmRSS`", &mib(self.after.rss), "");
        row("most that was resident, `VmHWM`", &mib(self.after.peak), "");
        row("size of the program", &mib(self.binary_bytes), "");
        text
    }
}

/// Durations, sorted.
#[derive(Debug, Clone, Default)]
pub(super) struct Samples(Vec<Duration>);

impl FromIterator<Duration> for Samples {
    fn from_iter<T: IntoIterator<Item = Duration>>(durations: T) -> Self {
        let mut sorted: Vec<_> = durations.into_iter().collect();
        sorted.sort_unstable();
        Self(sorted)
    }
}

impl Samples {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The smallest sample that so many percent of all do not exceed; zero where there is none.
    pub(super) fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100);
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

/// In milliseconds, the more digits the shorter it is.
pub(super) fn shown(duration: Duration) -> String {
    let micros = duration.as_nanos().div_ceil(1000);
    match micros {
        0 => "0 ms".to_owned(),
        1..1000 => format!("{}.{:03} ms", micros / 1000, micros % 1000),
        1000..100_000 => format!("{}.{} ms", micros / 1000, micros % 1000 / 100),
        _ => format!("{} ms", micros / 1000),
    }
}

pub(super) fn mib(bytes: u64) -> String {
    let tenths = bytes * 10 / (1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let samples: Samples = (1..=500).rev().map(Duration::from_millis).collect();
        assert_eq!(samples.percentile(50), Duration::from_millis(250));
        assert_eq!(samples.percentile(99), Duration::from_millis(495));
        assert_eq!(samples.percentile(100), Duration::from_millis(500));
        assert_eq!(Samples::default().percentile(50), Duration::ZERO);
    }

    #[test]
    fn durations_and_sizes_keep_what_counts() {
        assert_eq!(shown(Duration::ZERO), "0 ms");
        assert_eq!(shown(Duration::from_micros(87)), "0.087 ms");
        assert_eq!(shown(Duration::from_micros(12_345)), "12.3 ms");
        assert_eq!(shown(Duration::from_micros(251_900)), "251 ms");
        assert_eq!(mib(15 * (1 << 20) / 2), "7.5 MiB");
    }
}
