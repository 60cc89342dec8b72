//! What the agent runs with, checked.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::ValueEnum;

use crate::cli::{DEFAULT_SOCKET, DEFAULT_STATE_DIR};

/// Settings of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Shape of the events on standard output.
    pub output: OutputFormat,
    /// Where the host's root is mounted.
    pub host_root: PathBuf,
    /// By what kills are seen.
    pub tier: Tier,
    /// Ways into the kernel not to be tried.
    pub withheld: Vec<String>,
    /// Warn from this share of a limit on, percent.
    pub threshold_percent: u8,
    /// A warning is over below this share, percent.
    pub rearm_percent: u8,
    /// Longest time between two measurements of a sandbox.
    pub poll_interval: Duration,
    /// How the memory of a sandbox is measured.
    pub estimator: Estimator,
    /// Ask a sandbox' sentry once what its memory is when a warning fires.
    pub gvisor_rpc: bool,
    /// Report workloads as they come and go.
    pub workload_events: bool,
    /// Warn of workloads outside gVisor too.
    pub warn_all: bool,
    /// Report workloads whose tasks wait for memory in this share of the time, percent.
    pub pressure_percent: Option<u8>,
    /// Report only workloads that match one of these; all where there is none.
    pub include: Vec<String>,
    /// Report no workload that matches one of these.
    pub exclude: Vec<String>,
    /// Where metrics and health are served.
    pub listen_address: Option<SocketAddr>,
    /// The agent's Unix socket.
    pub socket: Option<PathBuf>,
    /// Where the agent keeps what outlives it.
    pub state_dir: Option<PathBuf>,
    /// What the journal takes on disk at most, MiB.
    pub journal_mib: u32,
    /// Where the BPF file system is mounted, in which the agent's programs outlive it.
    pub bpf_fs: PathBuf,
    /// Program to run for each event.
    pub hook: Option<String>,
    /// Collector for OTLP.
    pub otlp_endpoint: Option<String>,
}

impl Default for Config {
    /// What `oomwatch run` does without any option.
    fn default() -> Self {
        Self {
            output: OutputFormat::Text,
            host_root: PathBuf::from("/"),
            tier: Tier::Auto,
            withheld: Vec::new(),
            threshold_percent: 95,
            rearm_percent: 90,
            poll_interval: Duration::from_millis(500),
            estimator: Estimator::Auto,
            gvisor_rpc: false,
            workload_events: false,
            warn_all: false,
            pressure_percent: None,
            include: Vec::new(),
            exclude: Vec::new(),
            listen_address: Some(SocketAddr::from(([127, 0, 0, 1], 9566))),
            socket: Some(DEFAULT_SOCKET.into()),
            state_dir: Some(DEFAULT_STATE_DIR.into()),
            journal_mib: 64,
            bpf_fs: PathBuf::from("/sys/fs/bpf"),
            hook: None,
            otlp_endpoint: None,
        }
    }
}

/// Options that can change while the agent runs; the others wait for its next start.
pub const LIVE_KEYS: [&str; 10] = [
    "estimator",
    "exclude",
    "gvisor-rpc",
    "include",
    "poll-interval",
    "pressure-percent",
    "rearm-percent",
    "threshold-percent",
    "warn-all",
    "workload-events",
];

impl Config {
    /// This with what [`LIVE_KEYS`] name taken from `next`.
    #[must_use]
    pub fn with_live_of(&self, next: Self) -> Self {
        Self {
            estimator: next.estimator,
            exclude: next.exclude,
            gvisor_rpc: next.gvisor_rpc,
            include: next.include,
            poll_interval: next.poll_interval,
            pressure_percent: next.pressure_percent,
            rearm_percent: next.rearm_percent,
            threshold_percent: next.threshold_percent,
            warn_all: next.warn_all,
            workload_events: next.workload_events,
            ..self.clone()
        }
    }
}

/// How the memory of a gVisor sandbox is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Estimator {
    /// By its own cgroup where it has one, else by its memory files
    #[default]
    Auto,
    /// By its own cgroup only
    Cgroup,
    /// By its memory files only
    Memfd,
    /// By the sum of `VmRSS` over its process tree, as the original system did: known to be wrong, 0.13 to 50 times the truth
    RssSum,
}

/// By what kills are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Tier {
    /// By eBPF; where that does not load, by the counters of cgroups and the kernel's log
    #[default]
    Auto,
    /// By eBPF only
    Bpf,
    /// By the counters of cgroups only
    Cgroup,
    /// By the kernel's log only
    Kmsg,
}

impl Tier {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Bpf => "bpf",
            Self::Cgroup => "cgroup",
            Self::Kmsg => "kmsg",
        }
    }
}

/// Shape of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}
