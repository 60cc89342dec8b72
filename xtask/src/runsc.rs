//! gVisor's `runsc` for the scenarios, in the versions of two releases of Debian: both are wanted, and neither takes the
//! place of the system's own.

use std::path::PathBuf;

use xshell::Shell;

use crate::{arch::Arch, debian, process::say, toolchain::cache_dir};

/// A version of runsc, and the release of Debian that has it.
const VERSIONS: [(&str, &str); 2] = [("20221219", "bookworm"), ("20240729", "bookworm-backports")];

/// The folder with `VERSION/runsc` of each.
pub(crate) fn folder() -> PathBuf {
    cache_dir().join("runsc")
}

/// Whether all are there.
pub(crate) fn is_there() -> bool {
    VERSIONS.iter().all(|(version, _)| program(version).is_file())
}

/// Downloads what is missing.
pub(crate) fn fetch(sh: &Shell) -> anyhow::Result<()> {
    for (version, suite) in VERSIONS {
        let program = program(version);
        if program.is_file() {
            continue;
        }
        say(&format!("setup: downloading runsc {version}"));
        let scratch = sh.create_temp_dir()?;
        let tree = debian::unpack(sh, Arch::Amd64, suite, ("runsc", "runsc"), scratch.path())?;
        debian::keep(sh, &tree.join("usr/bin/runsc"), &program)?;
    }
    Ok(())
}

/// The newest version's program.
pub(crate) fn newest() -> PathBuf {
    program(VERSIONS[VERSIONS.len() - 1].0)
}

fn program(version: &str) -> PathBuf {
    folder().join(version).join("runsc")
}
