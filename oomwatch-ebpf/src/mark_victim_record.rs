//! Traces `oom:mark_victim` where there is no BTF: passes the tracepoint's own record on ([`TraceRecord`]).

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, generated::bpf_probe_read_kernel},
    macros::tracepoint,
    programs::TracePointContext,
};
use oomwatch_common::{RecordKind, TRACE_BYTES, TraceRecord};

use crate::record::{self, To};

#[tracepoint]
fn mark_victim_record(ctx: TracePointContext) -> u32 {
    let thread = bpf_get_current_pid_tgid();
    let mut trace = TraceRecord {
        header: record::header(RecordKind::Trace),
        trigger_tgid: (thread >> 32) as u32,
        trigger_tid: thread as u32,
        trigger_comm: bpf_get_current_comm().unwrap_or([0; 16]),
        bytes: [0; TRACE_BYTES],
    };
    // SAFETY: the helper writes `TRACE_BYTES` bytes to `bytes`; the kernel's buffer for a record is larger.
    let _: i64 = unsafe { bpf_probe_read_kernel(trace.bytes.as_mut_ptr().cast(), TRACE_BYTES as u32, ctx.as_ptr()) };
    record::send_fixed(To::Ooms, &trace);
    0
}
