//! Compiles the eBPF program and leaves it as `$OUT_DIR/oomwatch-ebpf.o` for the agent to include.
//!
//! `aya-build` does this too, but calls rustup only, builds anew for every profile and ends in a
//! backtrace when something is missing. `OOMWATCH_EBPF_OBJECT=FILE` takes a ready object instead.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

#[expect(
    dead_code,
    clippy::disallowed_methods,
    reason = "the rest of it is for `cargo xtask`, and it runs at build time"
)]
#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

fn main() -> ExitCode {
    for path in ["build.rs", "../Cargo.lock", "../oomwatch-common", "../oomwatch-ebpf", "../xtask/src/toolchain.rs"] {
        println!("cargo::rerun-if-changed={path}");
    }
    for variable in ["OOMWATCH_EBPF_OBJECT", "OOMWATCH_CACHE"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    match provide_object() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Sentence(sentence)) => {
            println!("cargo::error={sentence}");
            ExitCode::SUCCESS // cargo stops at the sentence; a failing code would add a riddle
        }
        Err(Failure::Compiler) => ExitCode::FAILURE, // cargo shows what the compiler wrote
    }
}

enum Failure {
    Sentence(String),
    Compiler,
}

impl From<String> for Failure {
    fn from(sentence: String) -> Self {
        Self::Sentence(sentence)
    }
}

fn provide_object() -> Result<(), Failure> {
    let out_dir = PathBuf::from(cargo_variable("OUT_DIR")?);
    let object = match env::var_os("OOMWATCH_EBPF_OBJECT") {
        Some(ready) => ready.into(),
        None => compile(&out_dir)?,
    };
    let destination = out_dir.join("oomwatch-ebpf.o");
    fs::copy(&object, &destination)
        .map(|_bytes| ())
        .map_err(|error| format!("cannot copy the eBPF object {}: {error}", object.display()))?;
    Ok(())
}

fn compile(out_dir: &Path) -> Result<PathBuf, Failure> {
    let arch = cargo_variable("CARGO_CFG_TARGET_ARCH")?;
    let target_dir = shared_target_dir(out_dir);
    let mut cargo = toolchain::Toolchain::find()?.cargo("build", &arch, &target_dir)?;
    let status = cargo.status().map_err(|error| format!("cannot run {}: {error}", cargo.get_program().display()))?;
    if status.success() {
        Ok(target_dir.join(toolchain::TARGET).join("release/oomwatch-ebpf"))
    } else {
        Err(Failure::Compiler)
    }
}

/// `target/ebpf`: one folder for debug, release and clippy builds, or below `out_dir` if cargo
/// keeps build scripts' output somewhere unusual.
fn shared_target_dir(out_dir: &Path) -> PathBuf {
    out_dir.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists()).unwrap_or(out_dir).join("ebpf")
}

fn cargo_variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("cargo did not say {name}: {error}"))
}
