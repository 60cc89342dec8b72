//! Traces `sched:sched_process_exec` (raw tracepoint, first argument the task): runs at every exec of the host, so it
//! looks at the name alone and is silent but for those that a gVisor sentry may have. Emits an [`ExecRecord`].

use aya_ebpf::{helpers::generated::bpf_probe_read_kernel, macros::raw_tracepoint, programs::RawTracePointContext};
use oomwatch_common::{ExecRecord, Field, RecordKind};

use crate::{
    kernel::Object,
    record::{self, To},
};

#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn sched_process_exec(ctx: RawTracePointContext) -> i32 {
    let task = Object(ctx.arg(0));
    let Some(comm) = task.address_of(Field::TaskComm) else { return 0 };
    let mut name = [0_u8; 8];
    // SAFETY: the helper writes 8 bytes to `name` and checks the address itself.
    let _: i64 = unsafe { bpf_probe_read_kernel(name.as_mut_ptr().cast(), 8, comm as *const core::ffi::c_void) };
    if may_be_sentry(u64::from_le_bytes(name)) {
        let exec =
            ExecRecord { header: record::header(RecordKind::Exec), tgid: task.get(Field::TaskTgid), reserved: 0 };
        record::send_fixed(To::Changes, &exec);
    }
    0
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

#[inline(always)]
fn may_be_sentry(name: u64) -> bool {
    name & EXE.1 == EXE.0 || name & GVISOR.1 == GVISOR.0 || name & RUNSC.1 == RUNSC.0
}
