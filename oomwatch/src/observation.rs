//! What a source saw, before anything is concluded from it. Times are nanoseconds of `CLOCK_BOOTTIME`, sizes bytes.

use std::time::Duration;

use crate::{cgroup_path::CgroupPath, workload::Workload};

/// One thing that a source saw.
#[derive(Debug, Clone, PartialEq)]
pub enum Observation {
    /// A task was marked as an OOM victim.
    Victim(Box<Victim>),
    /// A run of the OOM killer ended.
    RunEnded(RunEnded),
    /// A memory cgroup was made.
    CgroupMade(CgroupChange),
    /// A memory cgroup was removed.
    CgroupRemoved(CgroupChange),
    /// Reclaim in a memcg at its limit reclaimed nothing.
    FutileReclaim(FutileReclaim),
    /// Counters of a memcg, read from its files.
    Counters(Counters),
    /// The same, from a source that looks at every change: kills are told by their difference.
    Counted(Counters),
    /// The kernel's log tells of a kill.
    Logged(Box<LoggedKill>),
    /// How far a source looked: the answer to a question.
    Seen(Seen),
    /// All that the kernel recorded for an earlier agent was passed on: what follows is of now.
    CaughtUp,
    /// All records of kills up to here were passed on.
    Read(ReadMark),
    /// How many kills the kernel counted, host-wide.
    KillTotal(KillTotal),
    /// A gVisor sandbox was found, or what is known of it changed.
    SandboxFound(Box<Sandbox>),
    /// What looks like a gVisor sandbox begins; it may be killed before it is found.
    SandboxStarting(Box<Sandbox>),
    /// A gVisor sandbox ended.
    SandboxGone(SandboxGone),
    /// A workload's memory crossed a line.
    MemoryCrossed(Box<MemoryCrossed>),
    /// A workload's tasks wait for memory in a share of the time that the user called too large.
    Stalled(Stalled),
    /// Workloads were measured.
    Measured(Vec<Measurement>),
    /// A memory cgroup that was measured is gone.
    MeasuredGone(MemcgId),
    /// A process began a program that may be a gVisor sentry or a container's first.
    Exec(Exec),
    /// A process ended that may be the first one of a container.
    Exited(Exited),
    /// Records were lost on their way from the kernel.
    Lost(Lost),
    /// A record could not be decoded; the reason.
    Undecodable(String),
}

/// Up to when a source passed on all there was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// All that the kernel's log had then.
    Log(u64),
    /// All that the counters of cgroups counted then.
    Counters(u64),
}

/// A place in the ring of kills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadMark {
    /// Which ring, by the boot time of its pinning; 0 for one that ends with the agent.
    pub generation: u64,
    /// Where in it.
    pub position: u64,
    /// Kills that it lost so far.
    pub lost: u64,
    /// It needs the room.
    pub urgent: bool,
}

/// A reading of the kernel's host-wide count of kills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KillTotal {
    /// When the reading began.
    pub boot_ns: u64,
    /// Kills since boot.
    pub kills: u64,
}

/// A gVisor sandbox, by its sentry: distinct from all others since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SandboxKey {
    /// Process id of the sentry.
    pub pid: u32,
    /// When it started, clock ticks since boot.
    pub start_ticks: u64,
}

/// Length of a clock tick in files of `/proc`: `USER_HZ` is 100 on every architecture with BPF
/// (`include/asm-generic/param.h`).
const TICK_NS: u64 = 10_000_000;

impl SandboxKey {
    /// The sentry with this id that started then, by `CLOCK_BOOTTIME` in nanoseconds.
    pub fn of(pid: u32, start_ns: u64) -> Self {
        Self { pid, start_ticks: start_ns / TICK_NS }
    }

    /// Whether the sentry started then.
    pub fn started_at(&self, start_ns: u64) -> bool {
        Self::of(self.pid, start_ns) == *self
    }
}

/// A gVisor sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Which.
    pub key: SandboxKey,
    /// When this was found.
    pub boot_ns: u64,
    /// The memory cgroup that the sandbox has for itself; `None` where it lives in its caller's.
    pub cgroup: Option<(MemcgId, CgroupPath)>,
    /// Process ids of its gofers.
    pub gofers: Vec<u32>,
    /// What its files say.
    pub workload: Workload,
    /// Its effective limit.
    pub limit: Option<MemoryLimit>,
}

/// A limit of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimit {
    /// How much.
    pub bytes: u64,
    /// Where it was read: `cgroup`, `state`, `bundle` or `argv`.
    pub source: &'static str,
    /// The kernel kills when it is passed.
    pub enforced: bool,
}

/// A process began a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exec {
    /// Process id.
    pub pid: u32,
    /// Its name is one that a gVisor sentry may have.
    pub may_be_sentry: bool,
    /// Its memcg, where its parent is in another.
    pub begun: Option<MemcgId>,
}

/// The init of a pid namespace ended, a process whose parent is in another memcg, or one that may be a gVisor sentry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exited {
    /// When.
    pub boot_ns: u64,
    /// Process id.
    pub pid: u32,
    /// When it started.
    pub start_ns: u64,
    /// It was the init of a pid namespace other than the host's.
    pub is_init: bool,
    /// It had a name that a gVisor sentry may have.
    pub may_be_sentry: bool,
    /// As a shell tells it: the status, or 128 and the number of the deadly signal.
    pub exit_code: i32,
    /// Its memcg.
    pub memcg: Option<MemcgId>,
    /// Its parent's memcg, and how deep that lies below the root.
    pub parent_memcg: Option<(MemcgId, u32)>,
}

/// A gVisor sandbox ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SandboxGone {
    /// Which.
    pub key: SandboxKey,
    /// When.
    pub boot_ns: u64,
    /// The most memory that was measured.
    pub peak_bytes: u64,
}

/// A workload whose memory is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WorkloadKey {
    /// A gVisor sandbox.
    Sandbox(SandboxKey),
    /// A memory cgroup: a container's own, or one with a limit of its own.
    Cgroup(MemcgId),
}

impl WorkloadKey {
    /// Process id of a sandbox' sentry.
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Sandbox(key) => Some(key.pid),
            Self::Cgroup(_) => None,
        }
    }
}

/// A workload's memory at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurement {
    /// Whose.
    pub key: WorkloadKey,
    /// When.
    pub boot_ns: u64,
    /// Memory held.
    pub usage_bytes: u64,
    /// The most so far.
    pub peak_bytes: u64,
    /// The limit in force.
    pub limit: Option<MemoryLimit>,
    /// How memory was measured: `cgroup`, `memfd` or `rss-sum`.
    pub estimator: &'static str,
    /// Growth of late, negative for shrinking.
    pub growth_bytes_per_second: Option<i64>,
    /// Until the limit, at that growth.
    pub time_to_limit: Option<Duration>,
    /// Pressure stall information, where the kernel has it.
    pub pressure: Option<Pressure>,
    /// It reached a line, and did not recover from it.
    pub is_near: bool,
}

/// A workload's pressure passed its line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stalled {
    /// When it was read.
    pub boot_ns: u64,
    /// Whose.
    pub key: WorkloadKey,
    /// How much.
    pub pressure: Pressure,
    /// The line, percent.
    pub line_percent: u8,
}

/// Pressure stall information of memory over the last ten seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pressure {
    /// Share of the time in which some task waited, percent.
    pub some_avg10: f64,
    /// Share of the time in which all tasks waited, percent.
    pub full_avg10: f64,
}

/// Which line a workload's memory crossed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemoryLine {
    /// It came to the threshold.
    Near,
    /// It came to a limit that nothing enforces.
    Over,
    /// It fell below the re-arm line and stayed there.
    Recovered,
}

/// What a sentry says that its memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MemoryBreakdown {
    /// Anonymous memory of the application.
    pub anonymous_bytes: u64,
    /// Files in the sandbox' tmpfs.
    pub tmpfs_bytes: u64,
    /// Files of the host mapped into the application.
    pub mapped_bytes: u64,
    /// The sentry's cache of files.
    pub page_cache_bytes: u64,
    /// The sentry's own.
    pub system_bytes: u64,
    /// All of it.
    pub total_bytes: u64,
}

/// A workload's memory crossed a line.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryCrossed {
    /// When.
    pub boot_ns: u64,
    /// Which workload.
    pub key: WorkloadKey,
    /// Which line.
    pub line: MemoryLine,
    /// Memory held.
    pub usage_bytes: u64,
    /// The limit; `None` where it was lifted.
    pub limit: Option<MemoryLimit>,
    /// The share of the limit that counts as near.
    pub threshold_percent: u8,
    /// How memory was measured: `cgroup`, `memfd` or `rss-sum`.
    pub estimator: &'static str,
    /// Growth of late, negative for shrinking.
    pub growth_bytes_per_second: Option<i64>,
    /// Until the limit, at that growth.
    pub time_to_limit: Option<Duration>,
    /// What the sentry says, where it was asked.
    pub breakdown: Option<MemoryBreakdown>,
}

/// Records lost on their way from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// What they were about.
    pub records: LostRecords,
    /// How many.
    pub count: u64,
}

/// What lost records were about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LostRecords {
    /// Victims, or ends of runs of the OOM killer.
    Oom,
    /// Cgroups made or removed, or futile reclaim: names may be missing, kills are not.
    Cgroup,
    /// Lines of the kernel's log, whatever they were about.
    Log,
}

/// What a source can see, so far as conclusions depend on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SourceFacts {
    /// A run of the OOM killer tells whether it kills.
    pub sees_killing: bool,
    /// Beginning and end of a run are seen: the limit that was hit comes from the kernel.
    pub sees_run: bool,
    /// An out-of-memory without a kill is seen by a hook.
    pub sees_no_kill: bool,
}

/// Names of a memory cgroup: kernfs ids are unique only within their hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemcgId {
    /// 0 for cgroup2.
    pub hierarchy: u32,
    /// kernfs id, equal to `st_ino` of the cgroup's directory.
    pub id: u64,
}

/// One level of a victim's chain of limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// The memcg.
    pub memcg: MemcgId,
    /// Depth below the root of the hierarchy.
    pub depth: u32,
    /// Charge.
    pub usage_bytes: u64,
    /// Limit; `None` is no limit.
    pub limit_bytes: Option<u64>,
    /// `memory.oom.group` is set.
    pub oom_group: bool,
}

/// What the OOM killer was called with, where its entry is hooked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// When it began: names the run.
    pub started_ns: u64,
    /// The memcg whose limit was hit; `None` when the host ran out.
    pub oom_memcg: Option<Level>,
    /// The kernel's `enum oom_constraint`.
    pub constraint: u32,
    /// Victims marked so far.
    pub victims: u32,
    /// The victim is being killed, not merely dying; `None` where that cannot be seen.
    pub killing: Option<bool>,
}

/// Memory of a victim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VictimMemory {
    /// Virtual size.
    pub total_vm_bytes: u64,
    /// Resident anonymous memory.
    pub anon_rss_bytes: u64,
    /// Resident file mappings.
    pub file_rss_bytes: u64,
    /// Resident shared memory.
    pub shmem_rss_bytes: u64,
    /// Swapped out; `None` where the kernel's record does not tell.
    pub swap_bytes: Option<u64>,
    /// Page tables.
    pub pgtables_bytes: u64,
}

/// A task that was marked as an OOM victim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Victim {
    /// When it was marked.
    pub boot_ns: u64,
    /// When the process started; `None` where not known.
    pub start_ns: Option<u64>,
    /// Process id; `None` where only the thread is known.
    pub pid: Option<u32>,
    /// Thread id of the marked thread.
    pub tid: u32,
    /// Process id inside the victim's own pid namespace, where that is not the host's.
    pub ns_pid: Option<u32>,
    /// Name of the marked thread, as the kernel has it.
    pub comm: Option<Vec<u8>>,
    /// User id in the initial user namespace.
    pub uid: Option<u32>,
    /// `oom_score_adj`.
    pub oom_score_adj: Option<i32>,
    /// Memory; `None` where it could not be read.
    pub memory: Option<VictimMemory>,
    /// Process that ran into the limit.
    pub trigger_pid: u32,
    /// Thread that ran into the limit.
    pub trigger_tid: u32,
    /// Its name.
    pub trigger_comm: Vec<u8>,
    /// The victim's memcg.
    pub memcg: Option<MemcgId>,
    /// Path of the victim's memcg; `None` where it could not be read whole.
    pub path: Option<CgroupPath>,
    /// The victim's memcg and its ancestors.
    pub levels: Vec<Level>,
    /// The memcg for which the trigger last reclaimed in vain, by kernfs id, and how long before the mark, nanoseconds.
    pub reclaimed: Option<(u64, u64)>,
    /// Counter `oom_kill` of the victim's memcg at that moment.
    pub local_oom_kill: Option<u64>,
    /// The run of the OOM killer, where its entry is hooked.
    pub run: Option<Run>,
}

/// A run of the OOM killer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunEnded {
    /// When.
    pub boot_ns: u64,
    /// The run.
    pub run: Run,
    /// The memcg's out-of-memory handling ended without a kill.
    pub no_kill: bool,
    /// Process that ran into the limit.
    pub trigger_pid: u32,
}

/// A memory cgroup was made or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupChange {
    /// When.
    pub boot_ns: u64,
    /// Which.
    pub memcg: MemcgId,
    /// Its path; `None` where it could not be read whole.
    pub path: Option<CgroupPath>,
}

/// Reclaim that reclaimed nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FutileReclaim {
    /// When.
    pub boot_ns: u64,
    /// The memcg at its limit.
    pub level: Level,
    /// Its path.
    pub path: Option<CgroupPath>,
    /// Futile passes so far.
    pub passes: u64,
    /// Counter `oom` of the memcg at that moment.
    pub local_oom: u64,
}

/// Counters of one memcg, read from its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters {
    /// When the reading began.
    pub boot_ns: u64,
    /// Which.
    pub memcg: MemcgId,
    /// Its path.
    pub path: CgroupPath,
    /// Kills of tasks of this very memcg.
    pub local_oom_kill: Option<u64>,
    /// Times that its limit was hit and the OOM killer asked for (cgroup2 only).
    pub local_oom: Option<u64>,
    /// Tasks wait because the OOM killer is switched off (cgroup v1 only).
    pub under_oom: Option<bool>,
    /// Group kills that this memcg's `memory.oom.group` ordered (cgroup2 only, from Linux 6.1 on).
    pub local_oom_group_kill: Option<u64>,
}

/// A kill as the kernel's log tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoggedKill {
    /// When its line was written, or somewhat later.
    pub boot_ns: u64,
    /// When it was read.
    pub read_ns: u64,
    /// Number of its line, by which a copy of it is known.
    pub seq: u64,
    /// Process id; `None` where only the thread is known.
    pub pid: Option<u32>,
    /// Thread that was killed.
    pub tid: u32,
    /// Process id inside the victim's own pid namespace, where that is not the host's and it was still there to be read.
    pub ns_pid: Option<u32>,
    /// It was the first process of such a namespace; `None` where it was gone before that could be read.
    pub is_init: Option<bool>,
    /// Its name.
    pub comm: Vec<u8>,
    /// User id in the initial user namespace.
    pub uid: Option<u32>,
    /// `oom_score_adj`.
    pub oom_score_adj: Option<i32>,
    /// Memory.
    pub memory: VictimMemory,
    /// Who ran into the limit; the kernel does not always say.
    pub trigger: Option<LoggedTrigger>,
    /// Whose memory ran out: a memcg's, else the host's.
    pub of_memcg: bool,
    /// The kernel's `enum oom_constraint`, by name.
    pub constraint: Option<&'static str>,
    /// The memcg whose limit was hit.
    pub oom_memcg: Option<LoggedMemcg>,
    /// The victim's memcg.
    pub task_memcg: Option<LoggedMemcg>,
    /// It is of a group kill.
    pub group: Option<LoggedGroup>,
    /// The first victim of a group kill is killed, counted and logged twice; this is the second time.
    pub again: bool,
}

/// Who ran into a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedTrigger {
    /// Its thread id.
    pub tid: Option<u32>,
    /// Process id; `None` where only the thread is known.
    pub pid: Option<u32>,
    /// Its name.
    pub comm: Vec<u8>,
}

/// A memcg in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedMemcg {
    /// Which; `None` where it is gone and nobody remembers it.
    pub memcg: Option<MemcgId>,
    /// Its path.
    pub path: CgroupPath,
    /// Its limit.
    pub limit_bytes: Option<u64>,
    /// Its charge.
    pub usage_bytes: Option<u64>,
}

/// A group kill in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedGroup {
    /// Number of its first victim's line: names it.
    pub first_seq: u64,
    /// The memcg that is killed as one.
    pub path: CgroupPath,
}
