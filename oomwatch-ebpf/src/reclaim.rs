//! Traces `vmscan:mm_vmscan_memcg_reclaim_end`: passes that reclaimed nothing are counted for the memcg at its limit,
//! and told once a second ([`PressureRecord`]). Linux 7.2 names the memcg; before, it is looked for above `current`.

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::raw_tracepoint, programs::RawTracePointContext};
use oomwatch_common::{Field, MAX_LEVELS, MemcgLevel, PressureCounters, PressureRecord, Reclaimed, RecordKind};

use crate::{
    kernel::{Object, cgroup_of_memcg, current, local_event, memcg_of_task, parent_of_memcg, usage_and_max},
    maps::{PRESSURE, PRESSURE_RECORD, RECLAIMED},
    mark_victim::level,
    path,
    record::{self, To},
};

/// Pages below its limit at which a memcg still counts as full: charges come in batches of 64 pages.
const FULL_SLACK_PAGES: u64 = 64;
/// Shortest time between two records of one memcg.
const REPORT_EVERY_NS: u64 = 1_000_000_000;

#[raw_tracepoint(tracepoint = "mm_vmscan_memcg_reclaim_end")]
fn memcg_reclaim_end(ctx: RawTracePointContext) -> i32 {
    if ctx.arg::<u64>(0) == 0
        && let Some(memcg) = memcg_of_task(current()).and_then(full)
    {
        count(memcg);
    }
    0
}

#[raw_tracepoint(tracepoint = "mm_vmscan_memcg_reclaim_end")]
fn memcg_reclaim_end_named(ctx: RawTracePointContext) -> i32 {
    if ctx.arg::<u64>(0) == 0
        && let Some(memcg) = Object(ctx.arg(1)).non_null()
    {
        count(memcg);
    }
    0
}

/// The nearest memcg of the chain that stands at its limit.
#[inline(always)]
fn full(memcg: Object) -> Option<Object> {
    let mut next = Some(memcg);
    let mut depth = 0;
    while depth < MAX_LEVELS {
        let memcg = next?;
        let (usage, max) = usage_and_max(memcg);
        if usage + FULL_SLACK_PAGES >= max {
            return Some(memcg);
        }
        next = parent_of_memcg(memcg);
        depth += 1;
    }
    None
}

#[inline(always)]
fn count(memcg: Object) {
    let at: MemcgLevel = level(memcg);
    let now = record::boot_ns();
    let reclaimed = Reclaimed { memcg_id: at.memcg.id, boot_ns: now };
    let _full: Result<(), _> = RECLAIMED.insert(bpf_get_current_pid_tgid(), reclaimed, 0);
    let mut futile = 1;
    if let Some(counters) = PRESSURE.get_ptr_mut(at.memcg.id) {
        // SAFETY: the entry stays valid while the program runs; a lost increment of a racing CPU is harmless.
        let counters = unsafe { &mut *counters };
        counters.futile += 1;
        if now - counters.reported_ns < REPORT_EVERY_NS {
            return;
        }
        counters.reported_ns = now;
        futile = counters.futile;
    } else {
        let first = PressureCounters { futile: 1, reported_ns: now };
        let _full: Result<(), _> = PRESSURE.insert(at.memcg.id, first, 0);
    }
    tell(memcg, at, futile);
}

#[inline(always)]
fn tell(memcg: Object, at: MemcgLevel, futile: u64) {
    let Some(scratch) = PRESSURE_RECORD.get_ptr_mut(0) else { return };
    // SAFETY: an element of a per-CPU array belongs to this CPU while the program runs.
    let pressure: &mut PressureRecord = unsafe { &mut *scratch };
    pressure.header = record::header(RecordKind::Pressure);
    pressure.memcg = at;
    pressure.futile = futile;
    pressure.local_oom = local_event(memcg, Field::MemcgEventOom);
    match cgroup_of_memcg(memcg) {
        Some(cgroup) => path::write(&mut pressure.path, cgroup),
        None => path::unknown(&mut pressure.path),
    }
    record::send_with_path(To::Changes, pressure, &pressure.path);
}
