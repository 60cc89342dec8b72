//! `cargo xtask test`: unit tests, then the scenarios on this host, then in a virtual machine.

use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};
use xshell::{Shell, cmd};

use crate::{
    compile::{self, Scenario},
    process::{self, say},
    prometheus, root, runsc,
    setup::{self, Part},
    vm,
};

/// Runs all of it, or the tests whose name contains `filter`.
pub(crate) fn test(sh: &Shell, with_vm: bool, filter: Option<&str>) -> anyhow::Result<()> {
    let part = if with_vm { Part::Test } else { Part::HostTest };
    setup::setup(sh, part)?;
    cmd!(sh, "cargo test --workspace --exclude oomwatch-ebpf --exclude oomwatch-tests {filter...}").run()?;
    let agent = compile::agent(sh)?;
    let examples = compile::examples(sh)?;
    let hog = hog(sh)?;
    let scenarios = compile::scenarios(sh)?;
    let on_host = on_this_host(&scenarios, &Programs { agent: &agent, examples: &examples, hog: &hog }, filter);
    // Also after a failure: what the other kernel says about it is worth the minute.
    let in_vm = if with_vm { vm::vm(sh, &[], filter) } else { Ok(()) };
    on_host.and(in_vm)
}

/// What the scenarios run.
struct Programs<'a> {
    agent: &'a Path,
    /// The folder with the examples.
    examples: &'a Path,
    hog: &'a Path,
}

/// The scenarios' memory eater, which runs in containers that hold nothing else.
fn hog(sh: &Shell) -> anyhow::Result<PathBuf> {
    let hog = compile::absolute(&compile::static_programs(sh)?.join("hog"))?;
    ensure!(vm::libraries(&hog)?.is_empty(), "{} should be static and is not", hog.display());
    Ok(hog)
}

/// Runs every scenario, also after one failed, and names those that did.
fn on_this_host(scenarios: &[Scenario], programs: &Programs<'_>, filter: Option<&str>) -> anyhow::Result<()> {
    let agent = compile::absolute(programs.agent)?;
    let mut failed = Vec::new();
    for scenario in scenarios {
        say(&format!("--- {}", scenario.name));
        let mut command = process::as_root(&scenario.binary)?;
        command
            .arg("--test-threads=1")
            .args(filter)
            .current_dir(root().join("tests"))
            .env("OOMWATCH_BIN", &agent)
            .env("OOMWATCH_HOG", programs.hog)
            .env("OOMWATCH_EXAMPLES", programs.examples)
            .env("OOMWATCH_PROMETHEUS", prometheus::folder())
            .env("OOMWATCH_RUNSC", runsc::folder())
            .env("OOMWATCH_COLLECTOR", setup::tool(setup::COLLECTOR));
        if process::in_ci() {
            command.env("OOMWATCH_REQUIRE", "all");
        }
        if let Err(error) = process::run(&mut command) {
            say(&format!("{error:#}"));
            failed.push(scenario.name.as_str());
        }
    }
    if !failed.is_empty() {
        bail!("scenarios failed on this host: {}", failed.join(", "));
    }
    Ok(())
}
