//! The eBPF program of oomwatch: one file per probe, each a thin entry over `record`.
//!
//! Every program may fail to load or attach on its own; the agent goes on with the others.
//! Field offsets come from `offsets`, never from a kernel version. Nothing here runs outside an OOM,
//! a futile reclaim pass or a cgroup's birth and death, but for a few loads at an exec and at a thread's exit.
#![no_std]
#![no_main]
#![expect(clippy::inline_always, reason = "verifiers before Linux 5.16 follow no pointer into another function")]
#![expect(clippy::needless_pass_by_value, reason = "aya's macros hand contexts over by value")]
#![expect(clippy::cast_possible_truncation, reason = "sizes are small, and thread ids are the halves of a u64")]

mod cgroup_lifecycle;
mod exec;
mod exit;
mod kernel;
mod maps;
mod mark_victim;
mod mark_victim_record;
mod offsets;
mod oom_kill_process;
mod out_of_memory;
mod path;
mod reclaim;
mod record;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves that no path leads here.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
