//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, OutputFormat};

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
    /// The host.
    #[command(flatten)]
    pub host: HostArgs,
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
        Self { output: args.output, host_root: args.host.host_root, withheld: args.host.withhold }
    }
}
