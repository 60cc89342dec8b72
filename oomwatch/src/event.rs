//! What the agent reports: the events of the contract, with its names. Sizes are bytes, a field not known is absent.

use std::{borrow::Cow, sync::Arc, time::SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    observation::{LostRecords, MemoryBreakdown},
    workload::{LimitOwner, Workload},
};

/// Version of the shape of an event.
pub const SCHEMA: u8 = 1;

/// One thing that happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Event {
    /// [`SCHEMA`].
    pub schema: u8,
    /// Gapless number, from 1 at each start of the agent; 0, and absent, in what one output says of itself only.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub seq: u64,
    /// When it happened.
    #[serde(serialize_with = "rfc3339", deserialize_with = "from_rfc3339")]
    pub timestamp: SystemTime,
    /// The kernel's boot id.
    pub boot_id: Arc<str>,
    /// What.
    #[serde(flatten)]
    pub body: Body,
    /// How bad.
    pub severity: Severity,
    /// Who saw it.
    pub source: Source,
    /// How sure.
    pub confidence: Confidence,
    /// Shared by all events of one incident.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incident_id: Option<String>,
    /// Whom it concerns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<Arc<Workload>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_nanos(*time))
}

fn from_rfc3339<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
    let text = Cow::<'de, str>::deserialize(deserializer)?;
    humantime::parse_rfc3339(&text).map_err(D::Error::custom)
}

/// How bad an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing to do.
    Info,
    /// Something is close, or less is seen than promised.
    Warning,
    /// Something was killed or lost.
    Critical,
}

/// Which source saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The eBPF program.
    Bpf,
    /// Files of the memory cgroup.
    Cgroup,
    /// The kernel's log.
    Kmsg,
    /// Measurements of gVisor sandboxes.
    Gvisor,
    /// The kernel's counters, compared with what was reported.
    Reconcile,
    /// The agent itself.
    Agent,
}

/// How sure an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// The kernel said so at that moment.
    Exact,
    /// A counter of the kernel moved.
    Counted,
    /// Concluded from measurements.
    Estimated,
}

/// What happened, by kind.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Body {
    /// The kernel killed a process.
    OomKill(Box<OomKill>),
    /// A group kill ended.
    OomGroupKill(OomGroupKill),
    /// What became of a container after a kill in it.
    OomOutcome(OomOutcome),
    /// A limit was hit and nothing was killed.
    Oom(Oom),
    /// A workload's memory came to the threshold.
    NearLimit(MemoryWarning),
    /// A workload's memory came to a limit that nothing enforces.
    OverLimit(MemoryWarning),
    /// A workload's memory fell below the re-arm line.
    Recovered(MemoryWarning),
    /// A workload's tasks wait for memory much of the time.
    MemoryPressure(MemoryPressure),
    /// A workload is watched.
    WorkloadStarted(WorkloadStarted),
    /// A workload ended.
    WorkloadStopped(WorkloadStopped),
    /// Events were lost.
    Loss(Loss),
    /// The kernel counted kills that no event reported.
    Missed(Missed),
    /// The agent watches from now on.
    AgentStarted(AgentStarted),
    /// The agent watches no more.
    AgentStopped(AgentStopped),
}

impl Body {
    /// Every name of an event that there can be.
    pub(crate) const NAMES: [&str; 14] = [
        "oom_kill",
        "oom_group_kill",
        "oom_outcome",
        "oom",
        "near_limit",
        "over_limit",
        "recovered",
        "memory_pressure",
        "workload_started",
        "workload_stopped",
        "loss",
        "missed",
        "agent_started",
        "agent_stopped",
    ];

    /// Its name, the field `event`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::OomKill(_) => "oom_kill",
            Self::OomGroupKill(_) => "oom_group_kill",
            Self::OomOutcome(_) => "oom_outcome",
            Self::Oom(_) => "oom",
            Self::NearLimit(_) => "near_limit",
            Self::OverLimit(_) => "over_limit",
            Self::Recovered(_) => "recovered",
            Self::MemoryPressure(_) => "memory_pressure",
            Self::WorkloadStarted(_) => "workload_started",
            Self::WorkloadStopped(_) => "workload_stopped",
            Self::Loss(_) => "loss",
            Self::Missed(_) => "missed",
            Self::AgentStarted(_) => "agent_started",
            Self::AgentStopped(_) => "agent_stopped",
        }
    }
}

/// The kernel killed a process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OomKill {
    /// Whom; absent where only a counter tells of the kill.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub victim: Option<Process>,
    /// Who ran into the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger: Option<Trigger>,
    /// Whose memory ran out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// The kernel's `enum oom_constraint`, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constraint: Option<Cow<'static, str>>,
    /// The victim's memcg.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_memcg: Option<Memcg>,
    /// The memcg whose limit was hit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_memcg: Option<Memcg>,
    /// Whether the kernel named it or the agent concluded it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_memcg_confidence: Option<OomMemcgConfidence>,
    /// Who set the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_owner: Option<LimitOwner>,
    /// The victim's memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// The whole cgroup was killed (`memory.oom.group`); absent where a counter cannot tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_kill: Option<bool>,
    /// From the kill to the agent; absent where the moment of the kill is not known that exactly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_seconds: Option<f64>,
}

/// A victim.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Process {
    /// Process id on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Thread that was marked.
    pub tid: u32,
    /// When the process began, `CLOCK_BOOTTIME` in nanoseconds: with its id it names it for as long as the host runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_boottime_ns: Option<u64>,
    /// Process id as the container sees it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns_pid: Option<u32>,
    /// Name of the thread, foreign bytes made visible.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comm: Option<String>,
    /// User id on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Its `oom_score_adj`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// What it was to its workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
}

/// What a victim was to its workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The first process of a container.
    Init,
    /// Any other process.
    Process,
    /// gVisor's kernel.
    Sentry,
    /// A process whose memory is that of a sandboxed application.
    Stub,
    /// gVisor's file server.
    Gofer,
}

/// Who ran into the limit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Trigger {
    /// Process id on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Name of the thread, foreign bytes made visible.
    pub comm: String,
}

/// Whose memory ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// A cgroup's limit.
    Memcg,
    /// The host.
    Host,
}

/// Whether the kernel named the memcg whose limit was hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OomMemcgConfidence {
    /// `oom_control.memcg`.
    Exact,
    /// The nearest ancestor at its limit.
    Inferred,
}

/// A memory cgroup.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Memcg {
    /// From the root of the hierarchy, foreign bytes made visible.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// kernfs id; absent where only its path was told and it is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// Its limit, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// Its charge at that moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_bytes: Option<u64>,
}

/// Memory of a victim.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Memory {
    /// Virtual size.
    pub total_vm_bytes: u64,
    /// Resident anonymous memory.
    pub anon_rss_bytes: u64,
    /// Resident file mappings.
    pub file_rss_bytes: u64,
    /// Resident shared memory.
    pub shmem_rss_bytes: u64,
    /// Swapped out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_bytes: Option<u64>,
    /// Page tables.
    pub pgtables_bytes: u64,
}

/// A group kill ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OomGroupKill {
    /// Processes killed.
    pub victims: u32,
    /// The memcg whose limit was hit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_memcg: Option<Memcg>,
}

/// What became of a container after a kill in it, within two seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OomOutcome {
    /// It still has processes.
    pub container_survived: bool,
    /// What it ended with, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

/// A limit was hit and nothing was killed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Oom {
    /// The memcg whose limit was hit.
    pub oom_memcg: Memcg,
    /// How many times since the last such event of this memcg; absent where only "at least once" is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// Memory measured against a limit. A warning is never an OOM.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MemoryWarning {
    /// Process id of a sandbox' sentry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Memory held.
    pub usage_bytes: u64,
    /// The limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// One of the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_percent: Option<f64>,
    /// The share of the limit that counts as near.
    pub threshold_percent: u8,
    /// Where the limit was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_source: Option<Cow<'static, str>>,
    /// The kernel kills when it is passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_enforced: Option<bool>,
    /// How memory was measured.
    pub estimator: Cow<'static, str>,
    /// Growth of late.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth_bytes_per_second: Option<i64>,
    /// Until the limit, at that growth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_to_limit_seconds: Option<f64>,
    /// What the sentry says that it is (`--gvisor-rpc`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breakdown: Option<MemoryBreakdown>,
}

/// Pressure stall information of a workload passed its line (`--pressure-percent`).
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct MemoryPressure {
    /// Share of the last ten seconds in which some task waited for memory, percent.
    pub some_avg10: f64,
    /// Share of the last ten seconds in which all tasks waited for memory, percent.
    pub full_avg10: f64,
    /// The line that the first of them passed, percent.
    pub threshold_percent: u8,
}

/// A workload is watched.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkloadStarted {
    /// Process id of a sandbox' sentry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// Where the limit was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_source: Option<Cow<'static, str>>,
    /// The share of the limit that counts as near.
    pub threshold_percent: u8,
}

/// A workload ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkloadStopped {
    /// Process id of a sandbox' sentry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// Where the limit was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_source: Option<Cow<'static, str>>,
    /// The most memory that was measured; absent where it ended before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_usage_bytes: Option<u64>,
}

/// Where events were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LossStage {
    /// Between the kernel and the agent.
    Ringbuf,
    /// Within the agent.
    Queue,
    /// Between the agent and an output.
    Sink,
}

/// Events were lost.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Loss {
    /// Where.
    pub stage: LossStage,
    /// How many.
    pub lost: u64,
    /// What they were about, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records: Option<LostRecords>,
    /// The output that lost them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sink: Option<Cow<'static, str>>,
}

/// The kernel counted kills that no event reported. `expected - seen` of them are missing.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Missed {
    /// Kills that the kernel counted since the last comparison: of this cgroup where there is a workload, else of the
    /// host without those of other such events.
    pub expected: u64,
    /// Kills reported of them.
    pub seen: u64,
    /// How they could be missed.
    pub since: MissedSince,
}

/// How kills could be missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissedSince {
    /// The agent was not running.
    AgentDown,
    /// The kernel's buffer ran over.
    Overflow,
    /// The tier in use does not see them.
    Tier,
}

impl MissedSince {
    /// Its name in events.
    pub fn name(self) -> &'static str {
        match self {
            Self::AgentDown => "agent_down",
            Self::Overflow => "overflow",
            Self::Tier => "tier",
        }
    }
}

/// The agent watches from now on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AgentStarted {
    /// Version of the agent.
    pub version: Cow<'static, str>,
    /// What it sees with.
    pub tier: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Version of the hierarchy that has the memory controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup_version: Option<u8>,
    /// What it cannot see here, and why.
    pub degraded: Vec<String>,
}

/// The agent watches no more.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AgentStopped {
    /// Version of the agent.
    pub version: Cow<'static, str>,
    /// What it saw with.
    pub tier: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Version of the hierarchy that has the memory controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup_version: Option<u8>,
    /// What it could not see here, and why.
    pub degraded: Vec<String>,
}
