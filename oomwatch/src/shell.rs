//! `oomwatch completions` and `oomwatch man`: made from the definition of the command line.

use std::io;

use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli::Cli;

/// What makes a shell complete commands and options.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "oomwatch", &mut script);
    script
}

/// The manual page of a command; the first page where there is no such command or none is named.
///
/// # Errors
/// It cannot be made.
pub fn manual(command: Option<&str>) -> io::Result<Vec<u8>> {
    let mut all = Cli::command();
    all.build();
    let page = command.and_then(|name| all.find_subcommand(name)).unwrap_or(&all).clone();
    let mut text = Vec::new();
    Man::new(page).manual("oomwatch").render(&mut text)?;
    Ok(text)
}
