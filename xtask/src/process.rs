//! Runs other programs, and speaks: the one place of xtask that prints.

use std::{
    env,
    io::{self, Write as _},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, bail, ensure};

use crate::toolchain::in_path;

/// Prints a line for the person who called xtask.
#[expect(clippy::print_stderr, reason = "xtask talks to a person at a terminal")]
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}

/// Prints a line of a command's result.
pub(crate) fn print(line: &str) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{line}").context("write to standard output")
}

/// Runs a command with this process's input and output; a failure names the command.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("run {}", shown(command)))?;
    ensure!(status.success(), "{} ended with {status}", shown(command));
    Ok(())
}

/// Program and arguments, without the environment that `Debug` shows.
fn shown(command: &Command) -> String {
    let words: Vec<_> = command.get_args().map(|it| it.to_string_lossy()).collect();
    format!("`{} {}`", command.get_program().display(), words.join(" "))
}

/// Whether this process is root.
pub(crate) fn is_root() -> anyhow::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let owner = Path::new("/proc/self").metadata().context("stat /proc/self")?;
    Ok(owner.uid() == 0)
}

/// A command that runs as root with this environment, by sudo where that is needed.
pub(crate) fn as_root(program: &Path) -> anyhow::Result<Command> {
    if is_root()? {
        return Ok(Command::new(program));
    }
    if in_path("sudo").is_none() {
        bail!("{} needs root, and there is no sudo here", program.display());
    }
    say(&format!("{} needs root: asking sudo", program.display()));
    let mut sudo = Command::new("sudo");
    sudo.arg("-E").arg(program);
    Ok(sudo)
}

/// Whether this runs in CI, where a test that is skipped is a failure.
pub(crate) fn in_ci() -> bool {
    env::var_os("CI").is_some_and(|it| it == "true" || it == "1")
}
