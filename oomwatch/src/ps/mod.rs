//! `oomwatch ps`: asks the running agent for its workloads and shows them, one line each, nearest to its limit first.

mod figures;
mod table;

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use anyhow::bail;
use clap::Args;

pub(crate) use self::figures::{shown, size, time};
use crate::{cli::SocketArg, client::Client, config::OutputFormat, inventory::Row};

/// Options of `ps`.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// Shape of the list
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, env = "OOMWATCH_OUTPUT")]
    pub output: OutputFormat,
    /// The running agent.
    #[command(flatten)]
    pub socket: SocketArg,
    /// Show workloads that ended in the last ten minutes too
    #[arg(long)]
    pub all: bool,
    /// Show workloads that use this share of their limit in red, percent
    #[arg(long, value_name = "PERCENT", default_value_t = 95, env = "OOMWATCH_THRESHOLD_PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub threshold_percent: u8,
}

/// Prints the list.
///
/// # Errors
/// There is no agent to ask, or standard output cannot be written.
pub fn run(args: &PsArgs) -> anyhow::Result<ExitCode> {
    let Some(socket) = &args.socket.socket.0 else { bail!("there is no agent to ask with --socket none") };
    let mut rows = Client::connect(socket)?.workloads()?;
    rows.retain(|row| args.all || !row.ended);
    print(&match args.output {
        OutputFormat::Json => serde_json::to_string_pretty(&rows)? + "\n",
        OutputFormat::Text => text(&rows, args.threshold_percent),
    })
}

fn text(rows: &[Row], threshold_percent: u8) -> String {
    if rows.is_empty() {
        return "no workload is under watch\n".to_owned();
    }
    table::Style { width: width(), red_percent: is_coloured().then_some(threshold_percent) }.table(rows)
}

/// Writes to standard output; a reader that went away is no error.
pub(crate) fn print(text: &str) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Columns of the terminal, or as `COLUMNS` says; `None` where there is no bound.
pub(crate) fn width() -> Option<usize> {
    let of_terminal = || rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col));
    let of_environment = || std::env::var("COLUMNS").ok()?.parse().ok();
    of_terminal().or_else(of_environment).filter(|columns| *columns > 0)
}

fn is_coloured() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
