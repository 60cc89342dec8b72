//! Records of the ring buffers `OOMS` and `CHANGES`. Layout is C's; all integers are in the host's byte order.

/// Longest cgroup path kept, bytes: the kernel's `PATH_MAX`.
pub const MAX_PATH: usize = 4096;
/// Longest name of one cgroup with its NUL, bytes: the kernel's `NAME_MAX` + 1.
pub const MAX_NAME: usize = 256;
/// Room behind a path so that the last name may be read whole at any offset below [`MAX_PATH`].
pub const PATH_CAPACITY: usize = MAX_PATH + MAX_NAME;
/// Memcg levels above a victim whose usage and limit are read.
pub const MAX_LEVELS: usize = 16;

/// Index of `OOMS` in the map `LOST`.
pub const OOM_RING: u32 = 0;
/// Index of `CHANGES` in the map `LOST`.
pub const CHANGE_RING: u32 = 1;

/// Raised when a record means something else at the same size: an agent reads what another build's programs recorded.
pub const RECORD_LAYOUT: u32 = 2;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RecordKind {
    /// [`KillRecord`]: a task was marked as an OOM victim.
    Kill = 1,
    /// [`OomEndRecord`]: one run of the kernel's `oom_kill_process` or of its memcg caller ended.
    OomEnd = 2,
    /// [`CgroupRecord`]: a memory cgroup was made.
    CgroupMkdir = 3,
    /// [`CgroupRecord`]: a memory cgroup was removed.
    CgroupRmdir = 4,
    /// [`PressureRecord`]: reclaim in a memcg reclaimed nothing.
    Pressure = 5,
    /// [`TraceRecord`]: a task was marked as an OOM victim, on a kernel without BTF.
    Trace = 6,
    /// [`ExecRecord`]: a process that may be a gVisor sentry, or a container's first, began a program.
    Exec = 7,
    /// [`ExitRecord`]: a process ended that may be the first one of a container.
    Exit = 8,
}

/// First bytes of every record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RecordHeader {
    /// A [`RecordKind`].
    pub kind: u32,
    /// CPU that wrote the record.
    pub cpu: u32,
    /// `CLOCK_BOOTTIME`, nanoseconds.
    pub boot_ns: u64,
}

/// Names of one memory cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MemcgRef {
    /// kernfs id; equals `st_ino` of its directory. 0: unknown.
    pub id: u64,
    /// Hierarchy the id belongs to: 0 is cgroup2.
    pub hierarchy: u32,
    /// Depth below the root of the hierarchy.
    pub level: u32,
}

/// One memcg of a victim's chain, from its own upward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MemcgLevel {
    /// The memcg.
    pub memcg: MemcgRef,
    /// Charge, pages.
    pub usage_pages: u64,
    /// Limit, pages.
    pub max_pages: u64,
    /// 1 where `memory.oom.group` is set.
    pub oom_group: u32,
    /// Padding, 0.
    pub reserved: u32,
}

/// `oom_control` at the entry of `oom_kill_process`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct OomContext {
    /// The memcg whose limit was hit; id 0 in a host-wide OOM.
    pub memcg: MemcgRef,
    /// Its charge, pages.
    pub usage_pages: u64,
    /// Its limit, pages.
    pub max_pages: u64,
    /// `oom_control.totalpages`.
    pub total_pages: u64,
    /// Boot time of the entry: names this run of the OOM killer. 0: no entry hook, so nothing here is known.
    pub started_ns: u64,
    /// `enum oom_constraint`.
    pub constraint: u32,
    /// Tasks marked as victims so far in this run.
    pub victims: u32,
    /// 1 once `__oom_kill_process` was entered: what is marked now is killed. 0 where that is not hooked.
    pub killing: u32,
    /// Padding, 0.
    pub reserved: u32,
}

/// Names of a cgroup from the leaf upward, each NUL-terminated, root's empty name left out.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct PathBytes {
    /// Bytes used in `bytes`.
    pub len: u32,
    /// 1 where the path was longer than there is room for.
    pub truncated: u32,
    /// The names.
    pub bytes: [u8; PATH_CAPACITY],
}

/// A futile reclaim of a thread: what a thread reclaims for before it calls the OOM killer is the limit it ran into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Reclaimed {
    /// kernfs id of the memcg at its limit.
    pub memcg_id: u64,
    /// When, boot time in nanoseconds.
    pub boot_ns: u64,
}

/// A task was marked as an OOM victim (`oom:mark_victim`).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct KillRecord {
    /// Kind [`RecordKind::Kill`].
    pub header: RecordHeader,
    /// When the victim started, nanoseconds since boot.
    pub start_boottime_ns: u64,
    /// Process id of the victim.
    pub tgid: u32,
    /// Thread id of the marked thread.
    pub tid: u32,
    /// Process id of the task that ran into the limit.
    pub trigger_tgid: u32,
    /// Thread id of it.
    pub trigger_tid: u32,
    /// User of the victim.
    pub uid: u32,
    /// The victim's process id inside its own pid namespace; 0: unknown.
    pub ns_tgid: u32,
    /// Depth of that namespace; 0 is the host's.
    pub ns_level: u32,
    /// `oom_score_adj`, sign-extended.
    pub oom_score_adj: i32,
    /// Name of the marked thread.
    pub comm: [u8; 16],
    /// Name of the trigger.
    pub trigger_comm: [u8; 16],
    /// Pages of `MM_FILEPAGES`, `MM_ANONPAGES`, `MM_SWAPENTS`, `MM_SHMEMPAGES`.
    pub rss_pages: [u64; 4],
    /// Virtual size, pages.
    pub total_vm_pages: u64,
    /// Page tables, bytes.
    pub pgtables_bytes: u64,
    /// Counter `oom_kill` of the victim's own memcg, this kill included.
    pub local_oom_kill: u64,
    /// The memcg that stood at its limit when the trigger last reclaimed nothing from it; id 0: never seen.
    pub reclaimed: Reclaimed,
    /// 1 where the four rss counters, `total_vm` and `pgtables` were read.
    pub has_memory: u32,
    /// Entries used in `levels`.
    pub level_count: u32,
    /// What the OOM killer was called with.
    pub oom: OomContext,
    /// The victim's memcg and its ancestors.
    pub levels: [MemcgLevel; MAX_LEVELS],
    /// Path of the victim's memcg.
    pub path: PathBytes,
}

/// One run of the OOM killer ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct OomEndRecord {
    /// Kind [`RecordKind::OomEnd`].
    pub header: RecordHeader,
    /// State at the end.
    pub oom: OomContext,
    /// Counter `oom` of the memcg whose limit was hit.
    pub local_oom: u64,
    /// Process id of the trigger.
    pub trigger_tgid: u32,
    /// 1: `mem_cgroup_out_of_memory` returned without a kill; 0: `oom_kill_process` returned.
    pub no_kill: u32,
}

/// A memory cgroup was made or removed.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CgroupRecord {
    /// Kind [`RecordKind::CgroupMkdir`] or [`RecordKind::CgroupRmdir`].
    pub header: RecordHeader,
    /// Which.
    pub memcg: MemcgRef,
    /// Its path.
    pub path: PathBytes,
}

/// Counted in the kernel for each memcg: the map `PRESSURE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PressureCounters {
    /// Reclaim passes that reclaimed nothing since the map was made.
    pub futile: u64,
    /// When a [`PressureRecord`] was last sent, boot time in nanoseconds.
    pub reported_ns: u64,
}

/// Reclaim in a memcg reclaimed nothing (at most one record a second for each memcg).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct PressureRecord {
    /// Kind [`RecordKind::Pressure`].
    pub header: RecordHeader,
    /// The memcg at its limit.
    pub memcg: MemcgLevel,
    /// Passes so far.
    pub futile: u64,
    /// Counter `oom` of the memcg.
    pub local_oom: u64,
    /// Path of the memcg.
    pub path: PathBytes,
}

/// Bytes kept of a tracepoint's own record: `oom:mark_victim` has 72 and the name behind them.
pub const TRACE_BYTES: usize = 128;

/// The record of `oom:mark_victim` as the kernel wrote it, to be read by the tracepoint's format file.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TraceRecord {
    /// Kind [`RecordKind::Trace`].
    pub header: RecordHeader,
    /// Process id of the task that ran into the limit.
    pub trigger_tgid: u32,
    /// Thread id of it.
    pub trigger_tid: u32,
    /// Name of it.
    pub trigger_comm: [u8; 16],
    /// The record.
    pub bytes: [u8; TRACE_BYTES],
}

/// A process began a program that may be a gVisor sentry, its name says no more than that, or that is in another memcg
/// than its parent, as a container's first process is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ExecRecord {
    /// Kind [`RecordKind::Exec`].
    pub header: RecordHeader,
    /// Process id.
    pub tgid: u32,
    /// 1 where its name is one that a gVisor sentry may have.
    pub may_be_sentry: u32,
    /// Its memcg; id 0 where its parent is in the same.
    pub begun_memcg: MemcgRef,
}

/// The last thread of a process begins to exit: of the init of a pid namespace, of a process whose parent is in another memcg, or of
/// what may be a gVisor sentry. Of threads that exit at the same time, each may be taken for the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ExitRecord {
    /// Kind [`RecordKind::Exit`].
    pub header: RecordHeader,
    /// When the process started, nanoseconds since boot.
    pub start_boottime_ns: u64,
    /// Process id.
    pub tgid: u32,
    /// What `waitpid` gives to its parent.
    pub wait_status: u32,
    /// Its process id inside its own pid namespace; 0: unknown.
    pub ns_tgid: u32,
    /// Depth of that namespace; 0 is the host's.
    pub ns_level: u16,
    /// Not 0 for a program with a name that a gVisor sentry may have.
    pub may_be_sentry: u16,
    /// Its memcg.
    pub memcg: MemcgRef,
    /// Its parent's memcg: that of a container's first process lies outside of the container.
    pub parent_memcg: MemcgRef,
}

const _: () = {
    assert!(size_of::<ExitRecord>() == 72);
    assert!(size_of::<ExecRecord>() == 40);
    assert!(size_of::<TraceRecord>() == 40 + TRACE_BYTES);
    assert!(size_of::<RecordHeader>() == 16);
    assert!(size_of::<MemcgRef>() == 16);
    assert!(size_of::<MemcgLevel>() == 40);
    assert!(size_of::<OomContext>() == 64);
    assert!(size_of::<PathBytes>() == 8 + PATH_CAPACITY);
    assert!(size_of::<KillRecord>() == 232 + 40 * MAX_LEVELS + 8 + PATH_CAPACITY);
    assert!(size_of::<OomEndRecord>() == 96);
    assert!(size_of::<CgroupRecord>() == 32 + 8 + PATH_CAPACITY);
    assert!(size_of::<PressureRecord>() == 16 + 40 + 16 + 8 + PATH_CAPACITY);
};

#[cfg(feature = "user")]
mod user {
    use super::{OomContext, PressureCounters};

    // SAFETY: `repr(C)` integers without padding; every bit pattern is a value.
    unsafe impl aya::Pod for PressureCounters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for OomContext {}
}
