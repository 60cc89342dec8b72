//! `cargo xtask`: everything a developer or CI does with this repository, one file per command.

mod agent;
mod arch;
mod arm64;
mod bench;
mod cgroup;
mod check;
mod compile;
mod debian;
mod demo;
mod interrupt;
mod lines;
mod process;
mod prometheus;
mod record_btf;
mod run;
mod runsc;
mod setup;
mod test;
mod toolchain;
mod vm;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use bench::{What, synthetic};
use clap::{Parser, Subcommand};
use xshell::Shell;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what the other commands need; they call this by themselves
    Setup {
        /// Only say what is missing
        #[arg(long)]
        check: bool,
        /// What to install it for
        #[arg(value_enum, default_value = "all")]
        part: setup::Part,
    },
    /// Build target/release/oomwatch, one file with the eBPF program inside
    Build,
    /// Build the agent and run it on this host, as root
    Run {
        /// Make real out-of-memory kills in scratch containers, explain each event, clean up and end
        #[arg(long, conflicts_with = "agent_args")]
        demo: bool,
        /// A ready agent, instead of one built now
        #[arg(long, value_name = "FILE", hide = true, requires = "demo")]
        agent: Option<PathBuf>,
        /// Arguments of `oomwatch run`
        #[arg(last = true)]
        agent_args: Vec<String>,
    },
    /// Measure the agent on this host, as root, and print tables: time to start, from kill to line, CPU, memory; and how
    /// true the memory of gVisor sandboxes is measured
    Bench {
        /// Shorter: less time idle, fewer kills, no gVisor
        #[arg(long)]
        quick: bool,
        /// Instead: what a thousand workloads cost, half of them sandboxes
        #[arg(long, conflicts_with = "quick")]
        many: bool,
        /// A ready agent, instead of one built now
        #[arg(long, value_name = "FILE")]
        agent: Option<PathBuf>,
        /// Only the memory of gVisor sandboxes, of all workloads or those whose name has this
        #[arg(long, value_name = "TEXT", num_args = 0..=1, default_missing_value = "")]
        gvisor: Option<String>,
    },
    /// Run every test: unit tests, scenarios on this host, scenarios in a virtual machine
    Test {
        /// Leave out the virtual machine
        #[arg(long)]
        no_vm: bool,
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// Formatting, lints, documentation, licences and sources of dependencies, spelling
    Check,
    /// Run the scenarios below other kernels in virtual machines
    Vm {
        /// Kernels to boot, by their version or its beginning (`5.10.218`, `6.1`, `7`, `5.10.218-v1`); all if none is given
        #[arg(value_name = "KERNEL")]
        kernels: Vec<String>,
        /// Only tests whose name contains this
        #[arg(long, value_name = "NAME")]
        filter: Option<String>,
        /// Instead: a shell in the guest, with the agent and the container runtimes
        #[arg(long, conflicts_with = "filter")]
        shell: bool,
    },
    /// Let oomwatch and its peers see the same kills in a virtual machine, and write the table of it into the README
    Peers,
    /// Cut the BTF of a kernel down to a fixture of the unit tests
    RecordBtf {
        /// `/sys/kernel/btf/vmlinux`, or the section `.BTF` of a kernel
        vmlinux_btf: PathBuf,
        /// The fixture
        out: PathBuf,
    },
}

fn main() -> ExitCode {
    let outcome = if synthetic::is_sentry() { synthetic::be_sentry() } else { dispatch(Arguments::parse().command) };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            process::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<()> {
    let sh = Shell::new()?;
    sh.change_dir(root());
    match command {
        Command::Setup { check: true, part } => setup::check(part),
        Command::Setup { check: false, part } => setup::setup(&sh, part),
        Command::Build => compile::agent(&sh).map(|_path| ()),
        Command::Run { demo: true, agent, .. } => demo::demo(&sh, agent),
        Command::Bench { gvisor: Some(only), .. } => {
            bench::gvisor(&sh, Some(only.as_str()).filter(|it| !it.is_empty()))
        }
        Command::Bench { many: true, agent, .. } => bench::bench(&sh, What::Many, agent),
        Command::Bench { quick, agent, .. } => {
            // By the agent itself, run again as root, only what was asked of it.
            let wants_accuracy = !quick && agent.is_none();
            bench::bench(&sh, What::Few { quick }, agent)?;
            if wants_accuracy { bench::gvisor(&sh, None) } else { Ok(()) }
        }
        Command::Run { agent_args, .. } => run::agent(&sh, &agent_args),
        Command::Test { no_vm, filter } => test::test(&sh, !no_vm, filter.as_deref()),
        Command::Check => check::check(&sh),
        Command::Vm { kernels, shell: true, .. } => vm::shell(&sh, &kernels),
        Command::Vm { kernels, filter, .. } => vm::vm(&sh, &kernels, filter.as_deref()),
        Command::Peers => vm::peers(&sh),
        Command::RecordBtf { vmlinux_btf, out } => record_btf::run(&vmlinux_btf, &out),
    }
}

/// The repository.
fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}
