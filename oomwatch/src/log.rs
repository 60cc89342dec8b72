//! The agent's own log on standard error. `OOMWATCH_LOG` sets the level (`info`), in the syntax of `RUST_LOG`.

use std::io::{self, IsTerminal as _};

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::config::OutputFormat;

/// Environment variable with the level.
pub const VARIABLE: &str = "OOMWATCH_LOG";

/// Starts logging; aya and the eBPF program log through it too.
///
/// # Errors
/// Another logger is there already.
pub fn start(format: OutputFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_unset| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    match format {
        OutputFormat::Text => log.with_ansi(io::stderr().is_terminal()).try_init(),
        OutputFormat::Json => log.json().flatten_event(true).try_init(),
    }
    .map_err(|error| anyhow::anyhow!("{error}"))
    .context("start the log")
}
