//! `cargo xtask test`: unit tests, then the scenarios on this host, then in a virtual machine.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

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
    let scratch = sh.create_temp_dir()?;
    let answers = scratch.path().join("answers");
    let programs = Programs { agent: &agent, examples: &examples, hog: &hog, answers: &answers };
    let on_host = thread::scope(|scope| {
        if with_vm {
            // The scenarios mostly wait, and this takes as long as they do. Where it fails, it does so again for `vm`.
            let sh = sh.clone();
            scope.spawn(move || vm::compile_ahead(&sh));
        }
        on_this_host(&scenarios, &programs, filter)
    });
    let on_host = on_host.and(if filter.is_none() { tell_the_truth(&answers) } else { Ok(()) });
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
    /// The file for the scenario `truth` to write its answers to.
    answers: &'a Path,
}

/// Holds what was answered on this host against the table in the documentation, and writes it there.
fn tell_the_truth(answers: &Path) -> anyhow::Result<()> {
    let text = fs::read_to_string(answers).unwrap_or_default();
    let system = rustix::system::uname();
    let release = system.release().to_string_lossy();
    let version: Vec<_> = release.split('.').take(2).collect();
    let cgroups = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { "v2" } else { "v1" };
    let machine = format!("{}-{cgroups} host", version.join("."));
    vm::truth::update(&[vm::truth::Measured::new(machine, text.lines())], true)
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
        if filter.is_none() {
            command.env("OOMWATCH_TRUTH", programs.answers);
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
