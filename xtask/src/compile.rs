//! `cargo xtask build`, and the other things that are compiled: scenario tests and the static
//! programs that go with them.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use xshell::{Shell, cmd};

use crate::{
    root,
    setup::{self, Part},
};

/// Builds the agent in release form.
pub(crate) fn agent(sh: &Shell) -> anyhow::Result<PathBuf> {
    setup::setup(sh, Part::Build)?;
    let build = cmd!(sh, "cargo build --release --package oomwatch --bin oomwatch");
    build.run()?;
    Ok(target_dir().join("release/oomwatch"))
}

/// Builds the examples that a scenario runs; the folder with them.
pub(crate) fn examples(sh: &Shell) -> anyhow::Result<PathBuf> {
    // `cargo test` of the same packages has built it already.
    cmd!(sh, "cargo build --workspace --exclude oomwatch-ebpf --exclude oomwatch-tests --example on_oom").run()?;
    absolute(&target_dir().join("debug/examples"))
}

/// A compiled scenario, `tests/NAME.rs`.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) binary: PathBuf,
}

/// Compiles the scenario tests; sorted by name.
pub(crate) fn scenarios(sh: &Shell) -> anyhow::Result<Vec<Scenario>> {
    let messages = cmd!(
        sh,
        "cargo test --no-run --package oomwatch-tests --tests
         --message-format json-render-diagnostics"
    )
    .read()?;
    let mut scenarios = test_binaries(&messages)?;
    scenarios.sort_by(|a, b| a.name.cmp(&b.name));
    ensure!(!scenarios.is_empty(), "package oomwatch-tests has no test");
    Ok(scenarios)
}

/// Programs that need no library, so that they run in any container and as the first process of a
/// virtual machine: the folder with them.
pub(crate) fn static_programs(sh: &Shell) -> anyhow::Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    // With --target, these flags are not for build scripts, and the folder is another one.
    let _flags = sh.push_env("RUSTFLAGS", "-Ctarget-feature=+crt-static");
    cmd!(sh, "cargo build --release --package oomwatch-tests --bins --target {target}").run()?;
    Ok(target_dir().join(target).join("release"))
}

/// Builds the program that holds the gVisor estimators against the truth; static, for it also runs in the sandboxes.
pub(crate) fn gvisor_accuracy(sh: &Shell) -> anyhow::Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let _flags = sh.push_env("RUSTFLAGS", "-Ctarget-feature=+crt-static");
    cmd!(sh, "cargo build --release --package oomwatch --example gvisor-accuracy --target {target}").run()?;
    Ok(target_dir().join(target).join("release/examples/gvisor-accuracy"))
}

/// Where cargo leaves what it builds.
pub(crate) fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// One line of cargo's JSON, as far as it matters here.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// The tests among what cargo says that it compiled.
pub(crate) fn test_binaries(messages: &str) -> anyhow::Result<Vec<Scenario>> {
    let mut scenarios = Vec::new();
    for line in messages.lines() {
        let message: Message = serde_json::from_str(line).with_context(|| format!("read cargo's message {line}"))?;
        if let (Some(binary), Some(target)) = (message.executable, message.target)
            && target.kind.iter().any(|kind| kind == "test")
        {
            scenarios.push(Scenario { name: target.name, binary });
        }
    }
    Ok(scenarios)
}

/// A path relative to nothing, for programs that start in another folder.
pub(crate) fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    path.canonicalize().with_context(|| format!("find {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_executables_of_test_targets_are_scenarios() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"plain_memcg","kind":["test"]},"executable":"/t/plain_memcg-1"}
{"reason":"compiler-artifact","target":{"name":"hog","kind":["bin"]},"executable":"/t/hog"}
{"reason":"compiler-artifact","target":{"name":"support","kind":["lib"]},"executable":null}
{"reason":"build-finished","success":true}"#;
        let found = test_binaries(messages).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "plain_memcg");
        assert_eq!(found[0].binary, Path::new("/t/plain_memcg-1"));
    }

    #[test]
    fn a_line_that_is_no_message_is_an_error() {
        assert!(test_binaries("Compiling x").is_err());
    }
}
