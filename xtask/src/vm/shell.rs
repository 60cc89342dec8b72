//! `cargo xtask vm --shell`: a person at the guest's second serial port.

use std::process::Stdio;

use anyhow::{Context as _, ensure};
use xshell::Shell;

use super::{kernel, matrix, pack, qemu};
use crate::{process::say, setup};

/// Boots the first guest with this name, with a shell in it; ends with the shell.
pub(crate) fn shell(sh: &Shell, wanted: &[String]) -> anyhow::Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "the table of kernels is for x86_64 only");
    let guest = *kernel::select(wanted)?.first().context("no kernel")?;
    setup::setup(sh, guest.kernel.arch.part())?;
    let image = kernel::fetch(sh, guest.kernel)?;
    let files = sh.create_temp_dir()?;
    let archive = files.path().join("initramfs.cpio");
    pack::pack_for_a_person(sh, guest.kernel.arch, &archive)?;
    let console = matrix::log_file(&guest.to_string(), "console")?;
    say(&format!("booting {guest}; its console is in {}; `exit` ends it", console.display()));
    let arguments = format!("cgroup={} shell", guest.hierarchy);
    let arch = guest.kernel.arch;
    let mut qemu = qemu::command(arch, &image, &archive, &console, &arguments, true)?;
    let status = qemu.stdin(Stdio::inherit()).status().context("run QEMU")?;
    ensure!(status.success(), "QEMU ended with {status}");
    Ok(())
}
