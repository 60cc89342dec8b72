//! `cargo xtask vm`: the scenarios of `tests/` below kernels other than this machine's, with cgroups of either version,
//! in QEMU without KVM. The guest is an archive in memory with the agent, the scenarios and the container runtimes; its
//! first process is `tests/guest/init.rs`.

mod host_only;
mod initramfs;
mod kernel;
mod matrix;
mod pack;
mod peers;
mod qemu;
mod report;
mod shell;
mod subset;
pub(crate) mod truth;

use std::collections::BTreeSet;

use anyhow::{bail, ensure};
use xshell::Shell;

pub(crate) use self::{
    initramfs::libraries,
    kernel::{are_there as kernels_are_there, fetch_all as fetch_kernels},
    pack::compile_ahead,
    peers::{are_there as peers_are_there, fetch as fetch_peers, peers},
    shell::shell,
};

use self::{
    kernel::Guest,
    matrix::{Boot, Booted},
    pack::Contents,
};
use crate::setup;

/// Boots the guests that `wanted` names (all if it is empty) and runs the scenarios.
pub(crate) fn vm(sh: &Shell, wanted: &[String], filter: Option<&str>) -> anyhow::Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "the table of kernels is for x86_64 only");
    let filter = filter.unwrap_or_default();
    ensure!(!filter.contains(char::is_whitespace), "a filter with a space cannot be passed to the guest");
    let guests = kernel::select(wanted)?;
    let files = sh.create_temp_dir()?;
    let archive = |contents: Contents| files.path().join(format!("{}-{}.cpio", contents.arch, contents.everything));
    let contents =
        |guest: &Guest| Contents { arch: guest.kernel.arch, everything: guest.kernel.everything || !filter.is_empty() };
    let all_contents: BTreeSet<Contents> = guests.iter().map(contents).collect();
    for contents in &all_contents {
        setup::setup(sh, contents.arch.part())?;
    }
    let mut boots = Vec::new();
    for &guest in &guests {
        let image = kernel::fetch(sh, guest.kernel)?;
        // Everything in one guest would take longer than all the others together.
        let halves = if guest.kernel.everything && filter.is_empty() { vec![Some(0), Some(1)] } else { vec![None] };
        boots.extend(halves.into_iter().map(|half| Boot {
            guest,
            image: image.clone(),
            archive: archive(contents(&guest)),
            half,
            skip: subset::left_to_twin(&guest, &guests),
        }));
    }
    for contents in all_contents {
        pack::pack(sh, contents, files.path(), &archive(contents))?;
    }
    let booted = matrix::run(&boots, filter)?;
    let failed: Vec<_> = booted.iter().filter(|it| it.complaint.is_some()).map(|it| it.name.as_str()).collect();
    let truth = if filter.is_empty() { tell_the_truth(&booted, wanted.is_empty()) } else { Ok(()) };
    if !failed.is_empty() {
        bail!("scenarios failed below Linux {}", failed.join(", "));
    }
    truth
}

/// Holds the answers of these guests against the table in the documentation; writes it where all guests answered.
fn tell_the_truth(booted: &[Booted], everywhere: bool) -> anyhow::Result<()> {
    let mut guests: Vec<_> = booted.iter().map(|it| it.guest.to_string()).collect();
    guests.sort_unstable();
    guests.dedup();
    let measured = guests.into_iter().map(|guest| {
        let halves = booted.iter().filter(|it| it.guest.to_string() == guest);
        truth::Measured::new(guest.clone(), halves.flat_map(|it| &it.ended.lines))
    });
    let measured: Vec<_> = measured.collect();
    truth::update(&measured, everywhere)
}
