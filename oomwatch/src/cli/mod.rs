//! The command line: every command and option with its environment variable and its default. The keys of the
//! configuration file, the completions and the manual are made from this (`settings`, `shell`).

mod value;

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::{ArgAction, Args, Parser, Subcommand};
use clap_complete::Shell;

use self::value::{address_or_none, boolean, command, globs, journal_mib, path_or_none, percent, poll_interval, url};
use crate::{
    check::CheckArgs,
    config::{Config, Estimator, OutputFormat, Tier},
    events::EventsArgs,
    filter::Globs,
    ps::PsArgs,
    recommend::RecommendArgs,
};

/// Where the configuration is read where nobody says otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/oomwatch/config.toml";
/// Where the agent's socket is.
pub const DEFAULT_SOCKET: &str = "/run/oomwatch/oomwatch.sock";
/// Where the agent keeps what outlives it.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/oomwatch";

/// Headings of the help.
const OUTPUT: &str = "Output";
const WARNINGS: &str = "Warnings";
const SIGHT: &str = "Sight";
const GVISOR: &str = "gVisor";
const PLACES: &str = "Places";
const DIAGNOSIS: &str = "Diagnosis";

/// Tells the truth about out-of-memory on container hosts.
#[derive(Debug, Parser)]
#[command(name = "oomwatch", version, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Configuration file; `none` for none [default: /etc/oomwatch/config.toml if there is one]
    #[arg(long, global = true, value_name = "FILE", env = "OOMWATCH_CONFIG", help_heading = PLACES, value_parser = path_or_none())]
    pub config: Option<OrNone<PathBuf>>,
    /// Shape of the agent's own log on standard error
    #[arg(long, global = true, value_name = "FORMAT", value_enum, default_value_t, env = "OOMWATCH_LOG_FORMAT", help_heading = OUTPUT)]
    pub log_format: OutputFormat,
}

/// What to do. A command's own options are a struct beside its code; what several have in common is flattened into it
/// ([`HostArgs`], [`SocketArg`], [`StateDirArg`]).
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch this host: events to standard output, the agent's own log to standard error
    Run(Box<RunArgs>),
    /// Say what can be seen on this host, what not, and why
    Check(CheckArgs),
    /// Show what happened: the journal, and with --follow what happens
    Events(EventsArgs),
    /// Show the workloads under watch and their memory, nearest to the limit first
    Ps(PsArgs),
    /// Say which memory limits are too small or wasteful, from what was seen of each workload
    Recommend(RecommendArgs),
    /// Print what makes a shell complete commands and options
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual, for `man -l -`
    Man {
        /// The page of this command instead of the first page
        command: Option<String>,
    },
}

/// Options of every command that looks at the kernel.
#[derive(Debug, Args)]
pub struct HostArgs {
    /// Where the host's root is mounted
    #[arg(long, value_name = "DIR", default_value = "/", env = "OOMWATCH_HOST_ROOT", help_heading = PLACES)]
    pub host_root: PathBuf,
    /// Where the BPF file system is mounted, in which the agent's programs outlive it
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf", hide = true)]
    pub bpf_fs: PathBuf,
    /// By what kills are seen
    #[arg(long, value_name = "TIER", value_enum, default_value_t, env = "OOMWATCH_TIER", help_heading = SIGHT)]
    pub tier: Tier,
    /// Ways into the kernel not to be tried, for diagnosis: fentry, kprobe, perf, btf, bpf; cgroup, kmsg
    #[arg(long, value_name = "WAY", hide = true, value_delimiter = ',', value_parser = ["fentry", "kprobe", "perf", "btf", "bpf", "cgroup", "kmsg"])]
    pub withhold: Vec<String>,
}

/// Where the agent and those who ask it meet; for every command that talks to a running agent.
#[derive(Debug, Clone, Args)]
pub struct SocketArg {
    /// Unix socket at which commands and consumers find the agent; `none` for none
    #[arg(long, value_name = "FILE", default_value = DEFAULT_SOCKET, env = "OOMWATCH_SOCKET", help_heading = PLACES, value_parser = path_or_none())]
    pub socket: OrNone<PathBuf>,
}

/// What outlives the agent; for every command that reads it.
#[derive(Debug, Clone, Args)]
pub struct StateDirArg {
    /// Where the agent keeps its journal and what it knows across restarts; `none` to keep nothing
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR, env = "OOMWATCH_STATE_DIR", help_heading = PLACES, value_parser = path_or_none())]
    pub state_dir: OrNone<PathBuf>,
}

/// Options of `run`. Each is a key of the configuration file too, with its comment in `oomwatch.toml`.
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Shape of the events on standard output
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, env = "OOMWATCH_OUTPUT", help_heading = OUTPUT)]
    pub output: OutputFormat,
    /// Report workloads as they come and go
    #[arg(long, env = "OOMWATCH_WORKLOAD_EVENTS", help_heading = OUTPUT, value_name = "BOOL", value_parser = boolean, default_value = "false", hide_default_value = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub workload_events: bool,
    /// Tell only of workloads whose name, id or cgroup path matches; may be given more than once
    #[arg(long, value_name = "GLOB", env = "OOMWATCH_INCLUDE", help_heading = OUTPUT, value_parser = globs)]
    pub include: Vec<Globs>,
    /// Tell of no workload whose name, id or cgroup path matches; may be given more than once
    #[arg(long, value_name = "GLOB", env = "OOMWATCH_EXCLUDE", help_heading = OUTPUT, value_parser = globs)]
    pub exclude: Vec<Globs>,
    /// Where metrics and health are served over HTTP; `none` for nowhere
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9566", env = "OOMWATCH_LISTEN_ADDRESS", help_heading = OUTPUT, value_parser = address_or_none)]
    pub listen_address: OrNone<SocketAddr>,
    /// Program to run for each event, with the event's JSON on its standard input; no shell
    #[arg(long, value_name = "COMMAND", env = "OOMWATCH_HOOK", help_heading = OUTPUT, value_parser = command)]
    pub hook: Option<String>,
    /// Collector that gets events and metrics over OTLP, e.g. `http://127.0.0.1:4318`
    #[arg(long, value_name = "URL", env = "OOMWATCH_OTLP_ENDPOINT", help_heading = OUTPUT, value_parser = url)]
    pub otlp_endpoint: Option<String>,
    /// Warn when a workload uses this share of its limit, percent
    #[arg(long, value_name = "PERCENT", default_value = "95", env = "OOMWATCH_THRESHOLD_PERCENT", help_heading = WARNINGS, value_parser = percent)]
    pub threshold_percent: u8,
    /// A warning is over below this share, percent; at most the threshold, and lowered to it where only that is given
    #[arg(long, value_name = "PERCENT", default_value = "90", env = "OOMWATCH_REARM_PERCENT", help_heading = WARNINGS, value_parser = percent)]
    pub rearm_percent: u8,
    /// Longest time between two measurements of a workload; near its limit a sandbox is measured more often
    #[arg(long, value_name = "TIME", default_value = "500ms", env = "OOMWATCH_POLL_INTERVAL", help_heading = WARNINGS, value_parser = poll_interval)]
    pub poll_interval: Duration,
    /// Warn of workloads outside gVisor near their limit too
    #[arg(long, env = "OOMWATCH_WARN_ALL", help_heading = WARNINGS, value_name = "BOOL", value_parser = boolean, default_value = "false", hide_default_value = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub warn_all: bool,
    /// Report workloads whose tasks wait for memory in so large a share of ten seconds, percent (PSI; cgroup v2)
    #[arg(long, value_name = "PERCENT", env = "OOMWATCH_PRESSURE_PERCENT", help_heading = WARNINGS, value_parser = percent)]
    pub pressure_percent: Option<u8>,
    /// How the memory of a gVisor sandbox is measured
    #[arg(long, value_name = "WAY", value_enum, default_value_t, env = "OOMWATCH_ESTIMATOR", help_heading = GVISOR)]
    pub estimator: Estimator,
    /// When a warning of a gVisor sandbox fires, ask its sentry once what the memory is
    #[arg(long, env = "OOMWATCH_GVISOR_RPC", help_heading = GVISOR, value_name = "BOOL", value_parser = boolean, default_value = "false", hide_default_value = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub gvisor_rpc: bool,
    /// The host.
    #[command(flatten)]
    pub host: HostArgs,
    /// The agent's socket.
    #[command(flatten)]
    pub socket: SocketArg,
    /// The agent's memory.
    #[command(flatten)]
    pub state_dir: StateDirArg,
    /// What the journal of events takes on disk at most, MiB; the oldest events are deleted
    #[arg(long, value_name = "MIB", default_value = "64", env = "OOMWATCH_JOURNAL_MIB", help_heading = PLACES, value_parser = journal_mib)]
    pub journal_mib: u32,
    /// Print the configuration that would be used, as a configuration file that says where each value is from, and end
    #[arg(long, help_heading = DIAGNOSIS)]
    pub print_config: bool,
}

/// A value, or the word `none`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrNone<T>(pub Option<T>);

impl<T: FromStr> FromStr for OrNone<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" { Ok(Self(None)) } else { text.parse().map(|value| Self(Some(value))) }
    }
}

impl From<RunArgs> for Config {
    fn from(args: RunArgs) -> Self {
        let patterns = |globs: Vec<Globs>| globs.into_iter().flat_map(|globs| globs.0).collect();
        Self {
            output: args.output,
            host_root: args.host.host_root,
            tier: args.host.tier,
            withheld: args.host.withhold,
            bpf_fs: args.host.bpf_fs,
            threshold_percent: args.threshold_percent,
            rearm_percent: args.rearm_percent,
            poll_interval: args.poll_interval,
            estimator: args.estimator,
            gvisor_rpc: args.gvisor_rpc,
            workload_events: args.workload_events,
            warn_all: args.warn_all,
            pressure_percent: args.pressure_percent,
            include: patterns(args.include),
            exclude: patterns(args.exclude),
            listen_address: args.listen_address.0,
            socket: args.socket.socket.0,
            state_dir: args.state_dir.state_dir.0,
            journal_mib: args.journal_mib,
            hook: args.hook,
            otlp_endpoint: args.otlp_endpoint,
        }
    }
}
