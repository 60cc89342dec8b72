//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Estimator, OutputFormat};

/// Tells the truth about out-of-memory on container hosts.
#[derive(Debug, Parser)]
#[command(name = "oomwatch", version, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch this host: events to standard output, the agent's own log to standard error
    Run(RunArgs),
    /// Say what can be seen on this host, what not, and why
    Check(CheckArgs),
}

/// Options of every command that looks at the kernel.
#[derive(Debug, Args)]
pub struct HostArgs {
    /// Where the host's root is mounted
    #[arg(long, value_name = "DIR", default_value = "/", env = "OOMWATCH_HOST_ROOT")]
    pub host_root: PathBuf,
    /// Ways into the kernel not to be tried, for diagnosis: fentry, kprobe, btf
    #[arg(long, value_name = "WAY", hide = true, value_delimiter = ',', value_parser = ["fentry", "kprobe", "btf"])]
    pub withhold: Vec<String>,
    /// Shape of the agent's own log on standard error
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, env = "OOMWATCH_LOG_FORMAT")]
    pub log_format: OutputFormat,
}

/// Options of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Shape of the events on standard output
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, env = "OOMWATCH_OUTPUT")]
    pub output: OutputFormat,
    /// Warn when a gVisor sandbox uses this share of its limit, percent
    #[arg(long, value_name = "PERCENT", default_value_t = 95, env = "OOMWATCH_THRESHOLD_PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub threshold_percent: u8,
    /// A warning is over below this share, percent; at most the threshold
    #[arg(long, value_name = "PERCENT", default_value_t = 90, env = "OOMWATCH_REARM_PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub rearm_percent: u8,
    /// Longest time between two measurements of a sandbox; near its limit it is measured more often
    #[arg(long, value_name = "TIME", default_value = "500ms", env = "OOMWATCH_POLL_INTERVAL", value_parser = poll_interval)]
    pub poll_interval: Duration,
    /// How the memory of a gVisor sandbox is measured
    #[arg(long, value_name = "WAY", value_enum, default_value_t, env = "OOMWATCH_ESTIMATOR")]
    pub estimator: Estimator,
    /// When a warning of a gVisor sandbox fires, ask its sentry once what the memory is
    #[arg(long, env = "OOMWATCH_GVISOR_RPC")]
    pub gvisor_rpc: bool,
    /// Report workloads as they come and go
    #[arg(long, env = "OOMWATCH_WORKLOAD_EVENTS")]
    pub workload_events: bool,
    /// The host.
    #[command(flatten)]
    pub host: HostArgs,
}

/// Shortest and longest time between two measurements: below, the agent is a load; above, no warning is in time.
const POLL_INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_mins(1);

fn poll_interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if POLL_INTERVALS.contains(&interval) { Ok(interval) } else { Err("must be from 10ms to 1m".to_owned()) }
}

/// Options of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Shape of the report
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, env = "OOMWATCH_OUTPUT")]
    pub output: OutputFormat,
    /// The host.
    #[command(flatten)]
    pub host: HostArgs,
}

impl Command {
    /// Shape of the agent's own log.
    pub fn log_format(&self) -> OutputFormat {
        match self {
            Self::Run(args) => args.host.log_format,
            Self::Check(args) => args.host.log_format,
        }
    }
}

impl From<RunArgs> for Config {
    fn from(args: RunArgs) -> Self {
        Self {
            output: args.output,
            host_root: args.host.host_root,
            withheld: args.host.withhold,
            threshold_percent: args.threshold_percent,
            rearm_percent: args.rearm_percent,
            poll_interval: args.poll_interval,
            estimator: args.estimator,
            gvisor_rpc: args.gvisor_rpc,
            workload_events: args.workload_events,
        }
    }
}
