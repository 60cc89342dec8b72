//! An event as one line of text: time, level, message, `key=value`. Messages and keys are an interface.

use std::fmt::{Display, Write as _};

use crate::{
    event::{
        AgentStarted, Body, Event, LossStage, Memcg, MemoryWarning, OomKill, OomMemcgConfidence, Process, Role, Scope,
        Severity, Source,
    },
    observation::LostRecords,
    workload::{LimitOwner, Workload},
};

const MIB: u64 = 1 << 20;

/// Shapes the line.
pub(super) fn line(event: &Event) -> String {
    let time = humantime::format_rfc3339_nanos(event.timestamp);
    let mut line = Line(format!("{time} {} {}", level(event), message(event)));
    // The original system's lines begin with the measurement.
    line.measurement(&event.body);
    if let Some(workload) = &event.workload {
        line.workload(workload);
    }
    line.body(&event.body);
    line.option("incident_id", event.incident_id.as_deref());
    line.0
}

/// The original system's levels: an OOM is a warning, an error is the agent's own.
fn level(event: &Event) -> &'static str {
    match event.severity {
        Severity::Info => "INF",
        Severity::Warning | Severity::Critical => "WRN",
    }
}

fn message(event: &Event) -> &'static str {
    let is_gvisor = event.source == Source::Gvisor;
    match &event.body {
        Body::OomKill(_) => "OOM kill detected",
        Body::OomGroupKill(_) => "OOM group kill ended",
        Body::OomOutcome(outcome) if outcome.container_survived => "container survived the OOM kill",
        Body::OomOutcome(_) => "container ended after the OOM kill",
        Body::Oom(_) => "OOM without a kill",
        Body::NearLimit(_) => "memory usage exceeded threshold - OOM likely",
        Body::OverLimit(_) => "memory usage exceeded a limit that nothing enforces",
        Body::Recovered(_) => "memory usage recovered",
        Body::MemoryPressure(_) => "memory pressure exceeded threshold",
        Body::WorkloadStarted(_) if is_gvisor => "starting gVisor OOM watcher with memory monitoring",
        Body::WorkloadStarted(_) => "workload started",
        Body::WorkloadStopped(_) if is_gvisor => "gVisor sandbox ended",
        Body::WorkloadStopped(_) => "workload ended",
        Body::Loss(_) => "events were lost",
        Body::Missed(_) => "OOM kills were missed",
        Body::AgentStarted(_) => "oomwatch started",
        Body::AgentStopped(_) => "oomwatch stopped",
    }
}

/// A line under way.
struct Line(String);

impl Line {
    /// Appends `key=value`; a value that could be misread is quoted.
    fn field(&mut self, key: &str, value: impl Display) {
        let value = value.to_string();
        let plain = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"=\\".contains(&byte));
        // Writing to a String cannot fail.
        let _infallible = if plain {
            write!(self.0, " {key}={value}")
        } else {
            write!(self.0, " {key}=\"{}\"", value.escape_default())
        };
    }

    fn option(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.field(key, value);
        }
    }

    fn workload(&mut self, workload: &Workload) {
        self.option("container_id", workload.container_id.as_deref());
        self.option("container_name", workload.container_name.as_deref());
        self.option("pod_namespace", workload.pod_namespace.as_deref());
        self.option("pod_name", workload.pod_name.as_deref());
        self.option("image", workload.image.as_deref());
        self.option("cgroup_path", workload.cgroup_path.as_deref());
    }

    fn measurement(&mut self, body: &Body) {
        match body {
            Body::NearLimit(warning) | Body::OverLimit(warning) | Body::Recovered(warning) => {
                self.option("pid", warning.pid);
                self.field("memory_usage_mb", warning.usage_bytes / MIB);
                self.option("memory_limit_mb", warning.limit_bytes.map(|bytes| bytes / MIB));
                self.option("usage_percent", warning.usage_percent);
            }
            Body::WorkloadStarted(started) => {
                let threshold = |bytes: u64| bytes / 100 * u64::from(started.threshold_percent) / MIB;
                self.option("pid", started.pid);
                self.option("memory_limit_mb", started.limit_bytes.map(|bytes| bytes / MIB));
                self.option("threshold_mb", started.limit_bytes.map(threshold));
                self.field("threshold_percent", started.threshold_percent);
            }
            _ => {}
        }
    }

    fn body(&mut self, body: &Body) {
        match body {
            Body::OomKill(kill) => self.oom_kill(kill),
            Body::OomGroupKill(group) => {
                self.field("victims", group.victims);
                self.memcg(group.oom_memcg.as_ref());
            }
            Body::OomOutcome(outcome) => self.option("exit_code", outcome.exit_code),
            Body::Oom(oom) => {
                self.option("count", oom.count);
                self.memcg(Some(&oom.oom_memcg));
            }
            Body::NearLimit(warning) | Body::OverLimit(warning) | Body::Recovered(warning) => self.warning(warning),
            Body::MemoryPressure(pressure) => {
                self.field("some_avg10", pressure.some_avg10);
                self.field("full_avg10", pressure.full_avg10);
                self.field("threshold_percent", pressure.threshold_percent);
            }
            Body::WorkloadStarted(started) => self.option("limit_source", started.limit_source.as_deref()),
            Body::WorkloadStopped(stopped) => {
                self.option("pid", stopped.pid);
                self.option("memory_limit_mb", stopped.limit_bytes.map(|bytes| bytes / MIB));
                self.option("peak_usage_mb", stopped.peak_usage_bytes.map(|bytes| bytes / MIB));
            }
            Body::Loss(loss) => {
                self.field("stage", stage(loss.stage));
                self.field("lost", loss.lost);
                self.option("records", loss.records.map(records));
                self.option("sink", loss.sink.as_deref());
            }
            Body::Missed(missed) => {
                self.field("expected", missed.expected);
                self.field("seen", missed.seen);
                self.field("since", missed.since.name());
            }
            Body::AgentStarted(agent) => self.agent_started(agent),
            Body::AgentStopped(agent) => self.field("version", &agent.version),
        }
    }

    fn oom_kill(&mut self, kill: &OomKill) {
        if let Some(victim) = &kill.victim {
            self.victim(victim);
        }
        self.option("scope", kill.scope.map(scope));
        self.option("limit_owner", kill.limit_owner.map(limit_owner));
        self.memcg(kill.oom_memcg.as_ref());
        if kill.oom_memcg_confidence == Some(OomMemcgConfidence::Inferred) {
            self.field("oom_memcg_confidence", "inferred");
        }
        if let Some(memory) = kill.memory {
            self.field("anon_rss_mb", memory.anon_rss_bytes / MIB);
            self.field("file_rss_mb", memory.file_rss_bytes / MIB);
            self.field("shmem_rss_mb", memory.shmem_rss_bytes / MIB);
        }
        if kill.group_kill == Some(true) {
            self.field("group_kill", true);
        }
        if let Some(trigger) = &kill.trigger {
            self.option("trigger_pid", trigger.pid);
            self.field("trigger_comm", &trigger.comm);
        }
    }

    fn victim(&mut self, victim: &Process) {
        self.option("pid", victim.pid);
        if victim.pid != Some(victim.tid) {
            self.field("tid", victim.tid);
        }
        self.option("comm", victim.comm.as_deref());
        self.option("role", victim.role.map(role));
        self.option("uid", victim.uid);
    }

    fn memcg(&mut self, memcg: Option<&Memcg>) {
        let Some(memcg) = memcg else { return };
        self.option("oom_memcg", memcg.path.as_deref());
        self.option("memory_usage_mb", memcg.usage_bytes.map(|bytes| bytes / MIB));
        self.option("memory_limit_mb", memcg.limit_bytes.map(|bytes| bytes / MIB));
    }

    fn warning(&mut self, warning: &MemoryWarning) {
        self.option("limit_source", warning.limit_source.as_deref());
        self.option("limit_enforced", warning.limit_enforced);
        self.field("estimator", &warning.estimator);
        self.option("growth_mb_per_second", warning.growth_bytes_per_second.map(|bytes| bytes / MIB.cast_signed()));
        if let Some(breakdown) = warning.breakdown {
            self.field("anonymous_mb", breakdown.anonymous_bytes / MIB);
            self.field("tmpfs_mb", breakdown.tmpfs_bytes / MIB);
            self.field("mapped_mb", breakdown.mapped_bytes / MIB);
        }
        self.option("time_to_limit_seconds", warning.time_to_limit_seconds.map(|time| format!("{time:.1}")));
    }

    fn agent_started(&mut self, agent: &AgentStarted) {
        self.field("version", &agent.version);
        self.field("tier", &agent.tier);
        self.field("kernel", &agent.kernel);
        self.option("cgroup_version", agent.cgroup_version);
        self.field("degraded", agent.degraded.len());
    }
}

pub(super) fn stage(stage: LossStage) -> &'static str {
    match stage {
        LossStage::Ringbuf => "ringbuf",
        LossStage::Queue => "queue",
        LossStage::Sink => "sink",
    }
}

fn records(records: LostRecords) -> &'static str {
    match records {
        LostRecords::Oom => "oom",
        LostRecords::Cgroup => "cgroup",
        LostRecords::Log => "log",
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Init => "init",
        Role::Process => "process",
        Role::Sentry => "sentry",
        Role::Stub => "stub",
        Role::Gofer => "gofer",
    }
}

pub(super) fn scope(scope: Scope) -> &'static str {
    match scope {
        Scope::Memcg => "memcg",
        Scope::Host => "host",
    }
}

pub(super) fn limit_owner(owner: LimitOwner) -> &'static str {
    match owner {
        LimitOwner::Container => "container",
        LimitOwner::Pod => "pod",
        LimitOwner::Slice => "slice",
        LimitOwner::Host => "host",
    }
}
