//! Traces the return of `mem_cgroup_out_of_memory(memcg, gfp_mask, order)`: false means that a limit was hit and
//! nothing could be killed. Emits an [`OomEndRecord`] with `no_kill`.

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid,
    macros::{fexit, kprobe, kretprobe},
    programs::{FExitContext, ProbeContext, RetProbeContext},
};
use oomwatch_common::{Field, OomContext, OomEndRecord, RecordKind};

use crate::{
    kernel::{Object, local_event, memcg_reference, usage_and_max},
    maps::MEMCG_RUNS,
    record::{self, To},
};

#[fexit(function = "mem_cgroup_out_of_memory")]
fn memcg_oom_exit(ctx: FExitContext) -> i32 {
    ended(Object(ctx.arg(0)), ctx.arg(3));
    0
}

#[kprobe(function = "mem_cgroup_out_of_memory")]
fn memcg_oom_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(memcg) = ctx.arg::<u64>(0) {
        // A full map loses only the report of an OOM that killed nothing.
        let _full: Result<(), _> = MEMCG_RUNS.insert(bpf_get_current_pid_tgid(), memcg, 0);
    }
    0
}

#[kretprobe(function = "mem_cgroup_out_of_memory")]
fn memcg_oom_kretprobe(ctx: RetProbeContext) -> u32 {
    let thread = bpf_get_current_pid_tgid();
    if let Some(memcg) = MEMCG_RUNS.get_ptr(thread) {
        // SAFETY: the entry stays valid while the program runs, and only this thread writes it.
        ended(Object(unsafe { *memcg }), ctx.ret::<u64>());
        let _gone: Result<(), _> = MEMCG_RUNS.remove(thread);
    }
    0
}

#[inline(always)]
fn ended(memcg: Object, returned: u64) {
    // A bool fills only the low byte of the register (seen on Linux 6.12: 0x...2101).
    if returned & 0xff != 0 {
        return;
    }
    let (usage_pages, max_pages) = usage_and_max(memcg);
    let ended = OomEndRecord {
        header: record::header(RecordKind::OomEnd),
        oom: OomContext {
            memcg: memcg_reference(memcg),
            usage_pages,
            max_pages,
            total_pages: max_pages,
            started_ns: record::boot_ns(),
            constraint: 0,
            victims: 0,
            killing: 0,
            reserved: 0,
        },
        local_oom: local_event(memcg, Field::MemcgEventOom),
        trigger_tgid: (bpf_get_current_pid_tgid() >> 32) as u32,
        no_kill: 1,
    };
    record::send_fixed(To::Ooms, &ended);
}
