//! Prometheus and its promtool for the scenarios, out of Debian's package: installed, it would bring a service along.

use std::path::PathBuf;

use xshell::Shell;

use crate::{arch::Arch, debian, process::say, toolchain::cache_dir};

const PROGRAMS: [&str; 2] = ["prometheus", "promtool"];

/// The folder with both programs.
pub(crate) fn folder() -> PathBuf {
    cache_dir().join("prometheus")
}

/// Whether both are there.
pub(crate) fn is_there() -> bool {
    PROGRAMS.iter().all(|name| folder().join(name).is_file())
}

/// Downloads them.
pub(crate) fn fetch(sh: &Shell) -> anyhow::Result<()> {
    say("setup: downloading prometheus");
    let scratch = sh.create_temp_dir()?;
    let tree = debian::unpack(sh, Arch::Amd64, "bookworm", ("prometheus", "prometheus"), scratch.path())?;
    for name in PROGRAMS {
        debian::keep(sh, &tree.join("usr/bin").join(name), &folder().join(name))?;
    }
    Ok(())
}
