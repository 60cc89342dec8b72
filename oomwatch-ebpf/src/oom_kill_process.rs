//! Traces `oom_kill_process(oc, message)` and `__oom_kill_process(victim, message)` by fentry/fexit or
//! kprobe/kretprobe. Knows which limit was hit, that a kill follows, and when the run ends ([`OomEndRecord`]).

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid,
    macros::{fentry, fexit, kprobe, kretprobe},
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use oomwatch_common::{Field, MemcgRef, OomContext, OomEndRecord, RecordKind};

use crate::{
    kernel::{Object, memcg_reference, usage_and_max},
    maps::RUNS,
    record::{self, To},
};

#[fentry(function = "oom_kill_process")]
fn oom_kill_process(ctx: FEntryContext) -> i32 {
    begin(Object(ctx.arg(0)));
    0
}

#[kprobe(function = "oom_kill_process")]
fn oom_kill_process_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(oom_control) = ctx.arg::<u64>(0) {
        begin(Object(oom_control));
    }
    0
}

#[fentry(function = "__oom_kill_process")]
fn oom_kill_one(_ctx: FEntryContext) -> i32 {
    kill();
    0
}

#[kprobe(function = "__oom_kill_process")]
fn oom_kill_one_kprobe(_ctx: ProbeContext) -> u32 {
    kill();
    0
}

#[fexit(function = "oom_kill_process")]
fn oom_kill_process_exit(_ctx: FExitContext) -> i32 {
    end();
    0
}

#[kretprobe(function = "oom_kill_process")]
fn oom_kill_process_kretprobe(_ctx: RetProbeContext) -> u32 {
    end();
    0
}

#[inline(always)]
fn begin(oom_control: Object) {
    let mut run = OomContext {
        memcg: MemcgRef { id: 0, hierarchy: 0, level: 0 },
        usage_pages: 0,
        max_pages: 0,
        total_pages: oom_control.get(Field::OomControlTotalpages),
        started_ns: record::boot_ns(),
        constraint: oom_control.get(Field::OomControlConstraint),
        victims: 0,
        killing: 0,
        reserved: 0,
    };
    if let Some(memcg) = oom_control.follow(Field::OomControlMemcg) {
        run.memcg = memcg_reference(memcg);
        (run.usage_pages, run.max_pages) = usage_and_max(memcg);
    }
    // A full map leaves the limit to be inferred, as on kernels without this hook.
    let _full: Result<(), _> = RUNS.insert(bpf_get_current_pid_tgid(), run, 0);
}

#[inline(always)]
fn kill() {
    if let Some(run) = RUNS.get_ptr_mut(bpf_get_current_pid_tgid()) {
        // SAFETY: the entry stays valid while the program runs, and only this thread writes it.
        unsafe { (*run).killing = 1 };
    }
}

#[inline(always)]
fn end() {
    let thread = bpf_get_current_pid_tgid();
    let Some(run) = RUNS.get_ptr(thread) else { return };
    let ended = OomEndRecord {
        header: record::header(RecordKind::OomEnd),
        // SAFETY: the entry stays valid while the program runs, and only this thread writes it.
        oom: unsafe { *run },
        local_oom: 0,
        trigger_tgid: (thread >> 32) as u32,
        no_kill: 0,
    };
    record::send_fixed(To::Ooms, &ended);
    let _gone: Result<(), _> = RUNS.remove(thread);
}
