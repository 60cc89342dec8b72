//! What the guest consists of: the agent, the scenarios, and the container runtimes that they call.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use xshell::{Shell, cmd};

use super::{
    host_only,
    initramfs::{Initramfs, libraries_with},
    subset,
};
use crate::{
    arch::Arch,
    arm64,
    compile::{self, Scenario},
    runsc,
    setup::tool,
};

/// Programs the scenarios call, at the same place in the guest.
const PROGRAMS: [&str; 2] = ["runc", "crun"];

/// Folder of runsc in the guest, as `tests/guest/init.rs` tells the scenarios.
const RUNSC: &str = "/usr/lib/runsc";

/// Versions of runsc in the guest.
const RUNSC_VERSIONS: [&str; 2] = ["20221219", "20240729"];

/// What a guest has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Contents {
    pub(super) arch: Arch,
    /// All scenarios, or only the files of the subset: to unpack the others takes seconds.
    pub(super) everything: bool,
}

/// Builds everything that runs in the guest and puts it into one archive.
pub(super) fn pack(sh: &Shell, contents: Contents, scratch: &Path, archive: &Path) -> anyhow::Result<()> {
    let Contents { arch, everything } = contents;
    let mut guest = system_of(sh, arch)?;
    let scenarios = compile::scenarios(sh)?;
    let scenarios = host_only::for_the_guest(&scenarios);
    let (host_only, subset) = (scratch.join("host-only"), scratch.join("subset"));
    host_only::write_list(&scenarios, &host_only)?;
    subset::write_list(&scenarios, &subset)?;
    guest.add_file(&host_only, Path::new("/host-only"));
    guest.add_file(&subset, Path::new("/subset"));
    match arch {
        Arch::Amd64 => {
            let is_wanted = |name: &str| everything || subset::files().any(|file| file == name);
            for Scenario { name, binary } in scenarios.iter().filter(|scenario| is_wanted(&scenario.name)) {
                let stripped = strip(sh, binary, scratch, name)?;
                guest.add_program(&stripped, &Path::new("/tests").join(name))?;
            }
        }
        // Its names are the same, and they are asked for here: that machine's programs do not run on this one.
        Arch::Arm64 => {
            for Scenario { name, binary } in arm64::scenarios(sh, subset::files())? {
                guest.add_file(&binary, &Path::new("/tests").join(name));
            }
        }
    }
    guest.write(archive)
}

/// Compiles what the guests with another processor have, so that [`pack`] finds it compiled.
pub(crate) fn compile_ahead(sh: &Shell) -> anyhow::Result<()> {
    arm64::compile(sh)?;
    arm64::scenarios(sh, subset::files()).map(drop)
}

fn system_of(sh: &Shell, arch: Arch) -> anyhow::Result<Initramfs> {
    match arch {
        Arch::Amd64 => system(sh),
        Arch::Arm64 => arm64_system(sh),
    }
}

/// The guest with that processor, without the scenarios. All that is compiled for it is linked statically.
fn arm64_system(sh: &Shell) -> anyhow::Result<Initramfs> {
    let compiled = arm64::compile(sh)?;
    let mut guest = Initramfs::default();
    for (name, place) in [("guest-init", "/init"), ("hog", "/usr/bin/hog"), ("oomwatch", "/usr/bin/oomwatch")] {
        guest.add_file(&compiled.join(name), Path::new(place));
    }
    for (file, place) in arm64::programs() {
        guest.add_file(&file, &place);
    }
    Ok(guest)
}

/// The guest without the scenarios.
fn system(sh: &Shell) -> anyhow::Result<Initramfs> {
    let agent = compile::agent(sh)?;
    let static_programs = compile::static_programs(sh)?;
    let mut guest = Initramfs::default();
    guest.add_file(&static_programs.join("guest-init"), Path::new("/init"));
    guest.add_file(&static_programs.join("hog"), Path::new("/usr/bin/hog"));
    guest.add_program(&agent, Path::new("/usr/bin/oomwatch"))?;
    guest.add_program(&tool("busybox"), Path::new("/bin/busybox"))?;
    for name in PROGRAMS {
        let program = tool(name);
        guest.add_program(&program, &program)?;
    }
    for version in RUNSC_VERSIONS {
        let program = Path::new(version).join("runsc");
        guest.add_program(&runsc::folder().join(&program), &Path::new(RUNSC).join(&program))?;
    }
    Ok(guest)
}

/// The guest for a person: without the scenarios.
pub(super) fn pack_for_a_person(sh: &Shell, arch: Arch, archive: &Path) -> anyhow::Result<()> {
    system_of(sh, arch)?.write(archive)
}

/// The guest in which oomwatch and its peers see the same kills: the programs of `peers` and one scenario.
pub(super) fn pack_with_peers(sh: &Shell, peers: &Path, scratch: &Path, archive: &Path) -> anyhow::Result<()> {
    let mut guest = system(sh)?;
    let none = scratch.join("none");
    sh.write_file(&none, "")?;
    guest.add_file(&none, Path::new("/host-only"));
    guest.add_file(&none, Path::new("/subset"));
    let scenarios = compile::scenarios(sh)?;
    let scenario = scenarios.iter().find(|scenario| scenario.name == host_only::PEERS);
    let scenario = scenario.with_context(|| format!("there is no file {} of scenarios", host_only::PEERS))?;
    let stripped = strip(sh, &scenario.binary, scratch, &scenario.name)?;
    guest.add_program(&stripped, &Path::new("/tests").join(&scenario.name))?;
    let there = Path::new("/usr/lib/peers");
    guest.add_file(&peers.join("oomkill.bt"), &there.join("oomkill.bt"));
    for name in ["bpftrace", "oomkill"] {
        let program = peers.join(name);
        guest.add_file(&program, &Path::new("/usr/bin").join(name));
        for library in libraries_with(&program, Some(peers))? {
            let destination = library.strip_prefix(peers).map_or_else(|_| library.clone(), |name| there.join(name));
            guest.add_file(&library, &destination);
        }
    }
    guest.write(archive)
}

/// A copy without debug information, which would take most of the guest's memory.
fn strip(sh: &Shell, binary: &Path, scratch: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let stripped = scratch.join(name);
    cmd!(sh, "strip --strip-debug -o {stripped} {binary}").quiet().run()?;
    Ok(stripped)
}
