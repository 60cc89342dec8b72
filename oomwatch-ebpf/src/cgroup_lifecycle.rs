//! Traces `cgroup:cgroup_mkdir` and `cgroup:cgroup_rmdir` (raw tracepoints, first argument the cgroup) of the memory
//! hierarchy. Emits a [`CgroupRecord`], from which the agent keeps the id-to-path map that outlives the cgroup.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use oomwatch_common::{CgroupRecord, Field, RecordKind};

use crate::{
    kernel::{Object, reference},
    maps::CGROUP,
    offsets::offset,
    path,
    record::{self, To},
};

#[raw_tracepoint(tracepoint = "cgroup_mkdir")]
fn cgroup_mkdir(ctx: RawTracePointContext) -> i32 {
    emit(Object(ctx.arg(0)), RecordKind::CgroupMkdir);
    0
}

#[raw_tracepoint(tracepoint = "cgroup_rmdir")]
fn cgroup_rmdir(ctx: RawTracePointContext) -> i32 {
    emit(Object(ctx.arg(0)), RecordKind::CgroupRmdir);
    0
}

#[inline(always)]
fn emit(cgroup: Object, kind: RecordKind) {
    let memcg = reference(cgroup);
    if offset(Field::MemoryHierarchyId) != Some(u64::from(memcg.hierarchy)) {
        return;
    }
    let Some(scratch) = CGROUP.get_ptr_mut(0) else { return };
    // SAFETY: an element of a per-CPU array belongs to this CPU while the program runs.
    let change: &mut CgroupRecord = unsafe { &mut *scratch };
    change.header = record::header(kind);
    change.memcg = memcg;
    path::write(&mut change.path, cgroup);
    record::send_with_path(To::Changes, change, &change.path);
}
