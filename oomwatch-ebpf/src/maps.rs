//! Every map of the program.

use aya_ebpf::{
    macros::map,
    maps::{HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use oomwatch_common::{CgroupRecord, KillRecord, OomContext, PressureCounters, PressureRecord, Reclaimed};

/// Room for about a thousand kills that the agent has not read yet.
const OOM_RING_BYTES: u32 = 1 << 20;
/// Room for about three thousand cgroups made or removed that the agent has not read yet.
const CHANGE_RING_BYTES: u32 = 1 << 18;
/// Runs of the OOM killer under way; the kernel's `oom_lock` makes it one.
const MAX_RUNS: u32 = 64;
/// Memcgs whose futile reclaim is counted; the least recently hit is forgotten.
const MAX_PRESSURE: u32 = 1024;
/// Threads whose futile reclaim is remembered: as many may wait for the one OOM killer.
const MAX_RECLAIMERS: u32 = 4096;

/// Victims and ends of runs. A ring of their own: a storm of cgroups must not cost a kill.
#[map]
pub(crate) static OOMS: RingBuf = RingBuf::with_byte_size(OOM_RING_BYTES, 0);

/// Births and deaths of cgroups, and futile reclaim.
#[map]
pub(crate) static CHANGES: RingBuf = RingBuf::with_byte_size(CHANGE_RING_BYTES, 0);

/// Records that found no room, by index of the ring: [`oomwatch_common::OOM_RING`], [`oomwatch_common::CHANGE_RING`].
#[map]
pub(crate) static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

/// State of the OOM killer by the thread (`pid_tgid`) that runs it.
#[map]
pub(crate) static RUNS: HashMap<u64, OomContext> = HashMap::with_max_entries(MAX_RUNS, 0);

/// `mem_cgroup` given to `mem_cgroup_out_of_memory`, by thread, for the kretprobe that sees no arguments.
#[map]
pub(crate) static MEMCG_RUNS: HashMap<u64, u64> = HashMap::with_max_entries(MAX_RUNS, 0);

/// Futile reclaim by kernfs id of the memcg.
#[map]
pub(crate) static PRESSURE: LruHashMap<u64, PressureCounters> = LruHashMap::with_max_entries(MAX_PRESSURE, 0);

/// The last futile reclaim of a thread (`pid_tgid`).
#[map]
pub(crate) static RECLAIMED: LruHashMap<u64, Reclaimed> = LruHashMap::with_max_entries(MAX_RECLAIMERS, 0);

/// Where a kill record is put together, too large for the stack.
#[map]
pub(crate) static KILL: PerCpuArray<KillRecord> = PerCpuArray::with_max_entries(1, 0);

/// Where a cgroup record is put together.
#[map]
pub(crate) static CGROUP: PerCpuArray<CgroupRecord> = PerCpuArray::with_max_entries(1, 0);

/// Where a pressure record is put together.
#[map]
pub(crate) static PRESSURE_RECORD: PerCpuArray<PressureRecord> = PerCpuArray::with_max_entries(1, 0);
