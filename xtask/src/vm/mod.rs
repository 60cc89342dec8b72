//! `cargo xtask vm`: the scenarios of `tests/` below kernels other than this machine's, with cgroup
//! v2, in QEMU without KVM. The guest is an archive in memory with the agent, the scenarios and the
//! container runtimes; its first process is `tests/guest/init.rs`.

mod host_only;
mod initramfs;
mod kernel;
mod qemu;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use xshell::{Shell, cmd};

pub(crate) use initramfs::libraries;

use self::{
    initramfs::Initramfs,
    kernel::{KERNELS, Kernel},
};
use crate::{
    compile::{self, Scenario},
    process::say,
    runsc,
    setup::{self, Part, tool},
};

/// Programs the scenarios call, at the same place in the guest.
const PROGRAMS: [&str; 2] = ["runc", "crun"];

/// Folder of runsc in the guest, as `tests/guest/init.rs` tells the scenarios.
const RUNSC: &str = "/usr/lib/runsc";

/// Versions of runsc in the guest.
const RUNSC_VERSIONS: [&str; 2] = ["20221219", "20240729"];

/// Boots the kernels of the table that `wanted` names (all if it is empty) and runs the scenarios.
pub(crate) fn vm(sh: &Shell, wanted: &[String], filter: Option<&str>) -> anyhow::Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "the table of kernels is for x86_64 only");
    let kernels = select(wanted)?;
    setup::setup(sh, Part::Test)?;
    let files = sh.create_temp_dir()?;
    let archive = files.path().join("initramfs.cpio");
    pack(sh, files.path(), &archive)?;
    let mut failed = Vec::new();
    for kernel in kernels {
        let image = kernel::fetch(sh, kernel)?;
        say(&format!("--- Linux {}", kernel.version));
        let console = compile::target_dir().join(format!("vm-{}.log", kernel.version));
        if let Err(error) = qemu::boot(&image, &archive, &console, filter.or(kernel.scenario)) {
            say(&format!("{error:#}"));
            failed.push(kernel.version);
        }
    }
    if !failed.is_empty() {
        bail!("scenarios failed below Linux {}", failed.join(", "));
    }
    Ok(())
}

fn select(wanted: &[String]) -> anyhow::Result<Vec<&'static Kernel>> {
    if wanted.is_empty() {
        return Ok(KERNELS.iter().collect());
    }
    let find = |name: &String| {
        KERNELS.iter().find(|kernel| name.starts_with(kernel.version)).with_context(|| {
            let known: Vec<_> = KERNELS.iter().map(|kernel| kernel.version).collect();
            format!("no kernel {name} in the table; there are {}", known.join(" "))
        })
    };
    wanted.iter().map(find).collect()
}

/// Builds everything that runs in the guest and puts it into one archive.
fn pack(sh: &Shell, scratch: &Path, archive: &Path) -> anyhow::Result<()> {
    let agent = compile::agent(sh)?;
    let static_programs = compile::static_programs(sh)?;
    let scenarios = compile::scenarios(sh)?;

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
    let scenarios = host_only::for_the_guest(&scenarios);
    let list = scratch.join("host-only");
    host_only::write_list(&scenarios, &list)?;
    guest.add_file(&list, Path::new("/host-only"));
    for Scenario { name, binary } in scenarios {
        let stripped = strip(sh, binary, scratch, name)?;
        guest.add_program(&stripped, &Path::new("/tests").join(name))?;
    }
    guest.write(archive)
}

/// A copy without debug information, which would take most of the guest's memory.
fn strip(sh: &Shell, binary: &Path, scratch: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let stripped = scratch.join(name);
    cmd!(sh, "strip --strip-debug -o {stripped} {binary}").quiet().run()?;
    Ok(stripped)
}
