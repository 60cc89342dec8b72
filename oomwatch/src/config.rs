//! What the agent runs with, checked.

use std::path::PathBuf;

use clap::ValueEnum;

/// Settings of the agent.
#[derive(Debug, Clone)]
pub struct Config {
    /// Shape of the events on standard output.
    pub output: OutputFormat,
    /// Where the host's root is mounted.
    pub host_root: PathBuf,
    /// Ways into the kernel not to be tried.
    pub withheld: Vec<String>,
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
