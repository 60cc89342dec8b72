//! Traces `sched:sched_process_exit`, raw or as an event of perf: runs at the exit of every thread of the host, so it is
//! silent after a few loads but for the last thread of a process that may be a container's first one (a pid namespace's init; or, for
//! a container may have no such namespace, a process that its parent put into another memcg), and of what may be a gVisor sentry.
//! Emits an [`ExitRecord`].

use aya_ebpf::{
    macros::{raw_tracepoint, tracepoint},
    programs::{RawTracePointContext, TracePointContext},
};
use oomwatch_common::{ExitRecord, Field, MemcgRef, RecordKind};

use crate::{
    exec::{may_be_sentry, memcg_begun_by},
    kernel::{Object, current, memcg_of_task, memcg_reference, read},
    offsets::offset,
    record::{self, To},
};

/// `SIGNAL_GROUP_EXIT` of `include/linux/sched/signal.h`: the process as a whole was told to end.
const SIGNAL_GROUP_EXIT: u32 = 4;

#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn sched_process_exit(_ctx: RawTracePointContext) -> i32 {
    tell_end_of(current());
    0
}

#[tracepoint]
fn sched_process_exit_perf(_ctx: TracePointContext) -> u32 {
    tell_end_of(current());
    0
}

#[inline(always)]
fn tell_end_of(task: Object) {
    if let Some(exit) = end_of_process(task) {
        record::send_fixed(To::Changes, &exit);
    }
}

/// `None` for a thread that leaves others behind, and for processes of no interest.
#[inline(always)]
fn end_of_process(task: Object) -> Option<ExitRecord> {
    let signal = task.follow(Field::TaskSignal)?;
    let live: u32 = read(signal.address_of(Field::SignalLive)?);
    if live != 0 {
        return None;
    }
    let leader = task.follow(Field::TaskGroupLeader)?;
    let pid = leader.follow(Field::TaskThreadPid)?;
    let ns_level: u32 = pid.get(Field::PidLevel);
    let ns_tgid: u32 = if ns_level == 0 { 0 } else { innermost_id(pid, ns_level)? };
    let may_be_sentry = may_be_sentry(leader);
    if ns_tgid != 1 && !may_be_sentry && memcg_begun_by(leader).is_none() {
        return None;
    }
    Some(ExitRecord {
        header: record::header(RecordKind::Exit),
        start_boottime_ns: leader.get(Field::TaskStartBoottime),
        tgid: leader.get(Field::TaskTgid),
        wait_status: wait_status(signal, leader)?,
        ns_tgid,
        // The kernel allows 32 levels.
        ns_level: ns_level as u16,
        may_be_sentry: u16::from(may_be_sentry),
        memcg: memcg(leader),
        parent_memcg: memcg(Object(leader.get(Field::TaskRealParent))),
    })
}

#[inline(always)]
fn innermost_id(pid: Object, level: u32) -> Option<u32> {
    let numbers = pid.address_of(Field::PidNumbers)?;
    Some(Object(numbers + u64::from(level) * offset(Field::UpidSize)?).get(Field::UpidNr))
}

/// As `wait_task_zombie` of `kernel/exit.c` takes it, 5.10 to 7.2.
#[inline(always)]
fn wait_status(signal: Object, leader: Object) -> Option<u32> {
    let flags: u32 = read(signal.address_of(Field::SignalFlags)?);
    let status = if flags & SIGNAL_GROUP_EXIT == 0 {
        leader.address_of(Field::TaskExitCode)?
    } else {
        signal.address_of(Field::SignalGroupExitCode)?
    };
    Some(read(status))
}

#[inline(always)]
fn memcg(task: Object) -> MemcgRef {
    match memcg_of_task(task) {
        Some(memcg) => memcg_reference(memcg),
        None => MemcgRef { id: 0, hierarchy: 0, level: 0 },
    }
}
