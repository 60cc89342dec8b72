//! Common parts of the records: header, output, loss counter.

use aya_ebpf::bindings::BPF_RB_FORCE_WAKEUP;
use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_boot_ns};
use aya_ebpf::maps::RingBuf;
use oomwatch_common::{CHANGE_RING, OOM_RING, PATH_CAPACITY, PathBytes, RecordHeader, RecordKind};

use crate::maps::{CHANGES, LOST, OOMS};

/// Where a record goes.
#[derive(Clone, Copy)]
pub(crate) enum To {
    /// `OOMS`.
    Ooms,
    /// `CHANGES`.
    Changes,
}

impl To {
    #[inline(always)]
    fn ring(self) -> (&'static RingBuf, u32, u64) {
        match self {
            // The agent reads ahead of what it gives back, which the kernel takes for a reader that is busy.
            Self::Ooms => (&OOMS, OOM_RING, u64::from(BPF_RB_FORCE_WAKEUP)),
            Self::Changes => (&CHANGES, CHANGE_RING, 0),
        }
    }
}

/// Nanoseconds since boot, suspended time included.
#[inline(always)]
pub(crate) fn boot_ns() -> u64 {
    // SAFETY: the helper has no precondition.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// First bytes of a record made now.
#[inline(always)]
pub(crate) fn header(kind: RecordKind) -> RecordHeader {
    RecordHeader {
        kind: kind as u32,
        // SAFETY: the helper has no precondition.
        cpu: unsafe { bpf_get_smp_processor_id() },
        boot_ns: boot_ns(),
    }
}

/// Sends the first `bytes` of `record`; counts it as lost where the ring has no room.
#[inline(always)]
fn send<T>(to: To, record: &T, bytes: usize) {
    let (ring, index, flags) = to.ring();
    if bytes > size_of::<T>() {
        return;
    }
    // SAFETY: `bytes` lies within `record`.
    let slice = unsafe { core::slice::from_raw_parts(core::ptr::from_ref(record).cast::<u8>(), bytes) };
    if ring.output::<[u8]>(slice, flags).is_err()
        && let Some(lost) = LOST.get_ptr_mut(index)
    {
        // SAFETY: an element of a per-CPU array belongs to this CPU while the program runs.
        unsafe { *lost += 1 };
    }
}

/// Sends a record of fixed size.
#[inline(always)]
pub(crate) fn send_fixed<T>(to: To, record: &T) {
    send(to, record, size_of::<T>());
}

/// Sends a record whose last field is `path`, without the unused end of it.
#[inline(always)]
pub(crate) fn send_with_path<T>(to: To, record: &T, path: &PathBytes) {
    // Volatile, so that the bound below is checked on the very register that the helper gets.
    // SAFETY: a reference is valid for reading.
    let used = unsafe { core::ptr::read_volatile(&raw const path.len) } as usize;
    if used > PATH_CAPACITY {
        return;
    }
    send(to, record, size_of::<T>() - PATH_CAPACITY + used);
}
