//! Traces `oom:mark_victim` (raw tracepoint, first argument the victim's task) and, on kernels whose tracepoint
//! carries only a pid, `mark_oom_victim`. Emits a [`KillRecord`] per marked task.

use aya_ebpf::{
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, generated::bpf_probe_read_kernel},
    macros::{fentry, kprobe, raw_tracepoint},
    programs::{FEntryContext, ProbeContext, RawTracePointContext},
};
use aya_log_ebpf::{debug, warn};
use oomwatch_common::{Field, KillRecord, MAX_LEVELS, MemcgLevel, MemcgRef, OomContext, Reclaimed, RecordKind};

use crate::{
    kernel::{Object, cgroup_of_memcg, local_event, memcg_of_task, parent_of_memcg, read, reference, usage_and_max},
    maps::{KILL, RECLAIMED, RUNS},
    offsets::offset,
    path,
    record::{self, To},
};

#[raw_tracepoint(tracepoint = "mark_victim")]
fn mark_victim(ctx: RawTracePointContext) -> i32 {
    emit(&ctx, Object(ctx.arg(0)));
    0
}

#[fentry(function = "mark_oom_victim")]
fn mark_oom_victim(ctx: FEntryContext) -> i32 {
    emit(&ctx, Object(ctx.arg(0)));
    0
}

#[kprobe(function = "mark_oom_victim")]
fn mark_oom_victim_kprobe(ctx: ProbeContext) -> u32 {
    if let Some(task) = ctx.arg::<u64>(0) {
        emit(&ctx, Object(task));
    }
    0
}

#[inline(always)]
fn emit<C: aya_ebpf::EbpfContext>(ctx: &C, task: Object) {
    let Some(scratch) = KILL.get_ptr_mut(0) else { return };
    // SAFETY: an element of a per-CPU array belongs to this CPU while the program runs.
    let kill: &mut KillRecord = unsafe { &mut *scratch };
    kill.header = record::header(RecordKind::Kill);
    describe_task(kill, task);
    describe_memory(kill, task);
    describe_trigger(kill);
    if let Some(memcg) = memcg_of_task(task) {
        describe_memcg(kill, memcg);
    } else {
        warn!(ctx, "victim {} has no memory cgroup", kill.tgid);
        kill.level_count = 0;
        kill.local_oom_kill = 0;
        path::unknown(&mut kill.path);
    }
    debug!(ctx, "marked victim {}", kill.tgid);
    record::send_with_path(To::Ooms, kill, &kill.path);
}

#[inline(always)]
fn describe_task(kill: &mut KillRecord, task: Object) {
    kill.tgid = task.get(Field::TaskTgid);
    kill.tid = task.get(Field::TaskPid);
    kill.start_boottime_ns = 0;
    kill.comm = [0; 16];
    if let Some(comm) = task.address_of(Field::TaskComm) {
        // SAFETY: the helper writes 16 bytes to `comm` and checks the address itself.
        let _: i64 =
            unsafe { bpf_probe_read_kernel(kill.comm.as_mut_ptr().cast(), 16, comm as *const core::ffi::c_void) };
    }
    let cred = Object(task.get(Field::TaskRealCred));
    kill.uid = cred.get(Field::CredUid);
    let signal = Object(task.get(Field::TaskSignal));
    kill.oom_score_adj = i32::from(signal.get::<i16>(Field::SignalOomScoreAdj));
    let leader = Object(task.get(Field::TaskGroupLeader));
    kill.start_boottime_ns = leader.get(Field::TaskStartBoottime);
    describe_namespace(kill, leader);
}

/// Process id as the victim itself sees it: 1 is the init of a container.
#[inline(always)]
fn describe_namespace(kill: &mut KillRecord, leader: Object) {
    let pid = Object(leader.get(Field::TaskThreadPid));
    kill.ns_level = pid.get(Field::PidLevel);
    kill.ns_tgid = 0;
    if let (Some(numbers), Some(size)) = (pid.address_of(Field::PidNumbers), offset(Field::UpidSize)) {
        kill.ns_tgid = Object(numbers + u64::from(kill.ns_level) * size).get(Field::UpidNr);
    }
}

#[inline(always)]
fn describe_memory(kill: &mut KillRecord, task: Object) {
    let mm = Object(task.get(Field::TaskMm));
    kill.total_vm_pages = mm.get(Field::MmTotalVm);
    kill.pgtables_bytes = mm.get(Field::MmPgtablesBytes);
    kill.rss_pages = [0; 4];
    kill.has_memory = 0;
    // A task that has no memory any more says nothing of it.
    let Some(mm) = mm.non_null() else { return };
    if let (Some(first), Some(stride)) = (mm.address_of(Field::MmRssStat), offset(Field::MmRssStride)) {
        kill.rss_pages = [read(first), read(first + stride), read(first + 2 * stride), read(first + 3 * stride)];
        kill.has_memory = 1;
    }
}

/// What ran into the limit, which is `current`, and the run of the OOM killer that it is in.
#[inline(always)]
fn describe_trigger(kill: &mut KillRecord) {
    let thread = bpf_get_current_pid_tgid();
    kill.trigger_tgid = (thread >> 32) as u32;
    kill.trigger_tid = thread as u32;
    kill.trigger_comm = bpf_get_current_comm().unwrap_or([0; 16]);
    kill.reclaimed = Reclaimed { memcg_id: 0, boot_ns: 0 };
    if let Some(reclaimed) = RECLAIMED.get_ptr(thread) {
        // SAFETY: the map's entry stays valid while the program runs, and only this thread writes it.
        kill.reclaimed = unsafe { *reclaimed };
    }
    if let Some(run) = RUNS.get_ptr_mut(thread) {
        // SAFETY: the map's entry stays valid while the program runs.
        unsafe {
            (*run).victims += 1;
            kill.oom = *run;
        }
    } else {
        kill.oom = OomContext::default();
    }
}

/// The victim's memcg and the chain of limits above it.
#[inline(always)]
fn describe_memcg(kill: &mut KillRecord, memcg: Object) {
    kill.local_oom_kill = local_event(memcg, Field::MemcgEventOomKill);
    match cgroup_of_memcg(memcg) {
        Some(cgroup) => path::write(&mut kill.path, cgroup),
        None => path::unknown(&mut kill.path),
    }
    let mut next = Some(memcg);
    let mut count: usize = 0;
    while count < MAX_LEVELS {
        let Some(memcg) = next else { break };
        kill.levels[count] = level(memcg);
        count += 1;
        next = parent_of_memcg(memcg);
    }
    kill.level_count = count as u32;
}

/// Names, charge and limit of one memcg.
#[inline(always)]
pub(crate) fn level(memcg: Object) -> MemcgLevel {
    let (usage_pages, max_pages) = usage_and_max(memcg);
    let memcg_ref = match cgroup_of_memcg(memcg) {
        Some(cgroup) => reference(cgroup),
        None => MemcgRef::default(),
    };
    MemcgLevel {
        memcg: memcg_ref,
        usage_pages,
        max_pages,
        oom_group: u32::from(memcg.get::<u8>(Field::MemcgOomGroup)),
        reserved: 0,
    }
}
