//! The command line.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Estimator, OutputFormat};

/// Tells the truth about out-of-memory on container hosts.
#[derive(Debug, Parser)]
#[command(name = "oomwatch", version, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Shape of the agent's own log on standard error
    #[arg(long, global = true, value_name = "FORMAT", value_enum, default_value_t, env = "OOMWATCH_LOG_FORMAT")]
    pub log_format: OutputFormat,
}

/// What to do. A command's own options are a struct beside its code; what several have in common is flattened into it
/// ([`HostArgs`], [`SocketArg`], [`StateDirArg`]).
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
}

/// Where the agent and those who ask it meet; for every command that talks to a running agent.
#[derive(Debug, Clone, Args)]
pub struct SocketArg {
    /// Unix socket at which commands and consumers find the agent; `none` for none
    #[arg(long, value_name = "FILE", default_value = DEFAULT_SOCKET, env = "OOMWATCH_SOCKET")]
    pub socket: OrNone<PathBuf>,
}

/// What outlives the agent; for every command that reads it.
#[derive(Debug, Clone, Args)]
pub struct StateDirArg {
    /// Where the agent keeps its journal and what it knows across restarts; `none` to keep nothing
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR, env = "OOMWATCH_STATE_DIR")]
    pub state_dir: OrNone<PathBuf>,
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
    /// Warn of workloads outside gVisor near their limit too
    #[arg(long, env = "OOMWATCH_WARN_ALL")]
    pub warn_all: bool,
    /// Report only workloads whose name, id or cgroup path matches; may be given more than once
    #[arg(long, value_name = "GLOB", env = "OOMWATCH_INCLUDE", value_delimiter = ',')]
    pub include: Vec<String>,
    /// Report no workload whose name, id or cgroup path matches; may be given more than once
    #[arg(long, value_name = "GLOB", env = "OOMWATCH_EXCLUDE", value_delimiter = ',')]
    pub exclude: Vec<String>,
    /// Where metrics and health are served over HTTP; `none` for nowhere
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9566", env = "OOMWATCH_LISTEN_ADDRESS")]
    pub listen_address: OrNone<SocketAddr>,
    /// The agent's socket.
    #[command(flatten)]
    pub socket: SocketArg,
    /// The agent's memory.
    #[command(flatten)]
    pub state_dir: StateDirArg,
    /// Program to run for each event, with the event's JSON on its standard input; no shell
    #[arg(long, value_name = "COMMAND", env = "OOMWATCH_HOOK")]
    pub hook: Option<String>,
    /// Collector that gets events and metrics over OTLP, e.g. `http://127.0.0.1:4318`
    #[arg(long, value_name = "URL", env = "OOMWATCH_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
    /// The host.
    #[command(flatten)]
    pub host: HostArgs,
}

/// Where the agent's socket is.
pub const DEFAULT_SOCKET: &str = "/run/oomwatch/oomwatch.sock";
/// Where the agent keeps what outlives it.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/oomwatch";

/// A value, or the word `none`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrNone<T>(pub Option<T>);

impl<T: FromStr> FromStr for OrNone<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" { Ok(Self(None)) } else { text.parse().map(|value| Self(Some(value))) }
    }
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
            warn_all: args.warn_all,
            include: args.include,
            exclude: args.exclude,
            listen_address: args.listen_address.0,
            socket: args.socket.socket.0,
            state_dir: args.state_dir.state_dir.0,
            hook: args.hook,
            otlp_endpoint: args.otlp_endpoint,
        }
    }
}
