//! Traces `sched:sched_process_exec`, raw or as an event of perf: runs at every exec of the host, so it is silent after a
//! few loads but for what may be a gVisor sentry, by its name, and what is in another memcg than its parent, as a
//! container's first process is. Emits an [`ExecRecord`].

use aya_ebpf::{
    macros::{raw_tracepoint, tracepoint},
    programs::{RawTracePointContext, TracePointContext},
};
use oomwatch_common::{ExecRecord, Field, MemcgRef, RecordKind};

use crate::{
    kernel::{Object, current, memcg_of_task, memcg_reference, read},
    record::{self, To},
};

#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn sched_process_exec(_ctx: RawTracePointContext) -> i32 {
    tell_begin_of(current());
    0
}

#[tracepoint]
fn sched_process_exec_perf(_ctx: TracePointContext) -> u32 {
    tell_begin_of(current());
    0
}

#[inline(always)]
fn tell_begin_of(task: Object) {
    let begun = memcg_begun_by(task);
    let may_be_sentry = may_be_sentry(task);
    if begun.is_some() || may_be_sentry {
        let exec = ExecRecord {
            header: record::header(RecordKind::Exec),
            tgid: task.get(Field::TaskTgid),
            may_be_sentry: u32::from(may_be_sentry),
            begun_memcg: begun.map_or(MemcgRef { id: 0, hierarchy: 0, level: 0 }, memcg_reference),
        };
        record::send_fixed(To::Changes, &exec);
    }
}

/// The memcg of a task whose parent is in another.
#[inline(always)]
pub(crate) fn memcg_begun_by(task: Object) -> Option<Object> {
    let own = memcg_of_task(task)?;
    let parent = memcg_of_task(Object(task.get(Field::TaskRealParent)))?;
    (own.0 != parent.0).then_some(own)
}

/// The first bytes of a name, as a little-endian number.
const fn prefix<const N: usize>(name: &[u8; N]) -> (u64, u64) {
    let mut bytes = [0; 8];
    let mut mask = [0; 8];
    let mut i = 0;
    while i < N {
        bytes[i] = name[i];
        mask[i] = 0xff;
        i += 1;
    }
    (u64::from_le_bytes(bytes), u64::from_le_bytes(mask))
}

/// runsc executes `/proc/self/exe`, so a sentry is called `exe`; later versions have a program `gvisor_sentry`.
const EXE: (u64, u64) = prefix(b"exe\0");
const GVISOR: (u64, u64) = prefix(b"gvisor");
const RUNSC: (u64, u64) = prefix(b"runsc");

/// Whether a task has a name that a sentry may have.
#[inline(always)]
pub(crate) fn may_be_sentry(task: Object) -> bool {
    let Some(comm) = task.address_of(Field::TaskComm) else { return false };
    // The eight bytes in their order, whatever the order of a number's.
    let name = u64::from_le(read(comm));
    name & EXE.1 == EXE.0 || name & GVISOR.1 == GVISOR.0 || name & RUNSC.1 == RUNSC.0
}
