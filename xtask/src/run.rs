//! `cargo xtask run`: the agent on this host.

use xshell::Shell;

use crate::{compile, process};

/// Builds the agent and runs it until it ends.
pub(crate) fn agent(sh: &Shell, agent_args: &[String]) -> anyhow::Result<()> {
    let binary = compile::agent(sh)?;
    process::run(process::as_root(&binary)?.arg("run").args(agent_args))
}
