//! `cargo xtask vm`: the scenarios of `tests/` below kernels other than this machine's, with cgroups of either version,
//! in QEMU without KVM. The guest is an archive in memory with the agent, the scenarios and the container runtimes; its
//! first process is `tests/guest/init.rs`.

mod host_only;
mod initramfs;
mod kernel;
mod matrix;
mod pack;
mod qemu;
mod report;
mod shell;
mod subset;

use anyhow::ensure;
use xshell::Shell;

pub(crate) use self::{
    initramfs::libraries,
    kernel::{are_there as kernels_are_there, fetch_all as fetch_kernels},
    shell::shell,
};

use self::matrix::Boot;
use crate::setup::{self, Part};

/// Boots the guests that `wanted` names (all if it is empty) and runs the scenarios.
pub(crate) fn vm(sh: &Shell, wanted: &[String], filter: Option<&str>) -> anyhow::Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "the table of kernels is for x86_64 only");
    let filter = filter.unwrap_or_default();
    ensure!(!filter.contains(char::is_whitespace), "a filter with a space cannot be passed to the guest");
    let guests = kernel::select(wanted)?;
    setup::setup(sh, Part::Vm)?;
    let files = sh.create_temp_dir()?;
    let archive = files.path().join("initramfs.cpio");
    let mut boots = Vec::new();
    for guest in guests {
        boots.push(Boot { guest, image: kernel::fetch(sh, guest.kernel)? });
    }
    pack::pack(sh, files.path(), &archive)?;
    matrix::run(&boots, &archive, filter)
}
