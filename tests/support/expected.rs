//! What a report of a kill must say, field by field, from what the scenario knows itself.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use crate::{Cgroup, Event, memory_cgroup_version, unescaped};

/// How far below its limit a cgroup may be when it counts as full: charges come in batches, one for each CPU.
const FULL_SLACK: u64 = 1 << 20;
/// The two clocks of timestamp and test differ by this at most.
const CLOCK_SLACK: Duration = Duration::from_millis(20);

/// Whether this kernel lets anybody see which limit was hit: where kprobes exist one of fentry and kprobe works.
pub fn kernel_names_the_limit() -> bool {
    Path::new("/sys/bus/event_source/devices/kprobe/type").exists()
}

/// Whether the kernel's mark of a victim carries the task. Older ones put nothing but a thread's id into it, and their
/// victims are seen by fentry and kprobe only.
pub fn marks_carry_the_task() -> bool {
    // Linux with the task has its memory in the record, too.
    std::fs::read_to_string("/sys/kernel/tracing/events/oom/mark_victim/format")
        .map_or(true, |format| format.contains("anon_rss"))
}

/// A span of time in which something happened.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    begin: SystemTime,
    end: Option<SystemTime>,
}

impl Window {
    /// Begins now.
    pub fn open() -> Self {
        Self { begin: SystemTime::now(), end: None }
    }

    /// Ends now.
    #[must_use]
    pub fn close(self) -> Self {
        Self { end: Some(SystemTime::now()), ..self }
    }

    fn contains(&self, time: SystemTime) -> bool {
        let end = self.end.unwrap_or_else(SystemTime::now);
        time + CLOCK_SLACK >= self.begin && time <= end + CLOCK_SLACK
    }
}

/// A kill as it must be reported. Begin with [`ExpectedKill::of`] and change what differs.
#[derive(Debug, Clone)]
pub struct ExpectedKill<'a> {
    /// Process id on the host.
    pub pid: u32,
    /// Thread that was chosen.
    pub tid: u32,
    /// Name of that thread.
    pub comm: &'a [u8],
    /// Its user.
    pub uid: u64,
    /// Its `oom_score_adj`.
    pub oom_score_adj: i64,
    /// `init` or `process`.
    pub role: &'a str,
    /// The victim's own cgroup.
    pub task_memcg: &'a Cgroup,
    /// The cgroup whose limit was hit.
    pub oom_memcg: &'a Cgroup,
    /// Who set that limit.
    pub limit_owner: &'a str,
    /// Who ran into it; `None`: not known to the test.
    pub trigger: Option<(u32, &'a [u8])>,
    /// Private memory that the victim held at least, MiB.
    pub anon_mib: u64,
    /// A kill of the whole cgroup.
    pub group_kill: bool,
    /// Whether the limit was told by the kernel.
    pub limit_is_exact: bool,
    /// What executes the workload.
    pub runtime: &'a str,
    /// What manages it.
    pub engine: &'a str,
    /// The container.
    pub container_id: Option<&'a str>,
    /// Its name.
    pub container_name: Option<&'a str>,
    /// Its image.
    pub image: Option<&'a str>,
    /// When it happened.
    pub window: Window,
    /// Longest time from the kernel to the agent.
    pub latency: Duration,
}

impl<'a> ExpectedKill<'a> {
    /// A plain process of root, killed in a cgroup of its own by that cgroup's limit, which it ran into itself.
    pub fn of(pid: u32, cgroup: &'a Cgroup, window: Window) -> Self {
        Self {
            pid,
            tid: pid,
            comm: b"hog",
            uid: 0,
            oom_score_adj: 0,
            role: "process",
            task_memcg: cgroup,
            oom_memcg: cgroup,
            limit_owner: "slice",
            trigger: Some((pid, b"hog")),
            anon_mib: 0,
            group_kill: false,
            limit_is_exact: kernel_names_the_limit(),
            runtime: "process",
            engine: "none",
            container_id: None,
            container_name: None,
            image: None,
            window,
            latency: Duration::from_secs(2),
        }
    }

    /// Fails where the report differs, naming the field.
    pub fn check(&self, event: &Event) {
        assert_eq!(event.kind(), "oom_kill", "{event}");
        for (field, value) in [("/severity", "critical"), ("/source", "bpf"), ("/confidence", "exact")] {
            assert_eq!(event.text(field), Some(value), "{field} of {event}");
        }
        assert!(self.window.contains(event.time()), "{} is not within {:?}", event.time_text(), self.window);
        let latency = event.seconds("/latency_seconds").unwrap_or_default();
        assert!(latency > 0.0 && latency < self.latency.as_secs_f64(), "latency of {event}");
        assert!(event.text("/incident_id").is_some_and(|id| !id.is_empty()), "incident_id of {event}");
        assert_eq!(event.field("/group_kill").and_then(serde_json::Value::as_bool), Some(self.group_kill), "{event}");
        self.check_victim(event);
        self.check_limit(event);
        self.check_memory(event);
        self.check_workload(event);
    }

    fn check_victim(&self, event: &Event) {
        assert_eq!(event.number("/victim/pid"), Some(self.pid.into()), "victim.pid of {event}");
        assert_eq!(event.number("/victim/tid"), Some(self.tid.into()), "victim.tid of {event}");
        assert_eq!(event.text("/victim/comm").map(unescaped).as_deref(), Some(self.comm), "victim.comm of {event}");
        assert_eq!(event.number("/victim/uid"), Some(self.uid), "victim.uid of {event}");
        let oom_score_adj = event.field("/victim/oom_score_adj").and_then(serde_json::Value::as_i64);
        assert_eq!(oom_score_adj, Some(self.oom_score_adj), "victim.oom_score_adj of {event}");
        assert_eq!(event.text("/victim/role"), Some(self.role), "victim.role of {event}");
        if let Some((pid, comm)) = self.trigger {
            assert_eq!(event.number("/trigger/pid"), Some(pid.into()), "trigger.pid of {event}");
            assert_eq!(event.text("/trigger/comm").map(unescaped).as_deref(), Some(comm), "trigger.comm of {event}");
        }
    }

    fn check_limit(&self, event: &Event) {
        assert_eq!(event.text("/scope"), Some("memcg"), "scope of {event}");
        check_cgroup(event, "/task_memcg", self.task_memcg);
        check_cgroup(event, "/oom_memcg", self.oom_memcg);
        let limit = self.oom_memcg.limit_bytes();
        assert_eq!(event.number("/oom_memcg/limit_bytes"), Some(limit), "oom_memcg.limit_bytes of {event}");
        let usage = event.number("/oom_memcg/usage_bytes").expect("oom_memcg.usage_bytes");
        let full = usage <= limit && usage + FULL_SLACK >= limit;
        // Members of a group kill free their memory one after the other.
        assert!(full || self.group_kill, "a limit was hit with {usage} of {limit} bytes used: {event}");
        let confidence = if self.limit_is_exact { "exact" } else { "inferred" };
        assert_eq!(event.text("/oom_memcg_confidence"), Some(confidence), "oom_memcg_confidence of {event}");
        let constraint = self.limit_is_exact.then_some("CONSTRAINT_MEMCG");
        assert_eq!(event.text("/constraint"), constraint, "constraint of {event}");
        assert_eq!(event.text("/limit_owner"), Some(self.limit_owner), "limit_owner of {event}");
    }

    fn check_memory(&self, event: &Event) {
        let anon = event.number("/memory/anon_rss_bytes").expect("memory.anon_rss_bytes");
        let limit = self.oom_memcg.limit_bytes();
        assert!(anon >= self.anon_mib << 20 && anon <= limit + FULL_SLACK, "memory.anon_rss_bytes of {event}");
        let total_vm = event.number("/memory/total_vm_bytes").expect("memory.total_vm_bytes");
        assert!(total_vm >= anon, "memory.total_vm_bytes of {event}");
        let page_tables = event.number("/memory/pgtables_bytes").expect("memory.pgtables_bytes");
        assert!(page_tables > 0 && page_tables <= limit, "memory.pgtables_bytes of {event}");
        assert!(event.number("/memory/file_rss_bytes").is_some(), "memory.file_rss_bytes of {event}");
        assert!(event.number("/memory/shmem_rss_bytes").is_some(), "memory.shmem_rss_bytes of {event}");
    }

    fn check_workload(&self, event: &Event) {
        let path = event.text("/workload/cgroup_path").map(unescaped);
        assert_eq!(path.as_deref(), Some(self.task_memcg.path_bytes()), "workload.cgroup_path of {event}");
        assert_eq!(event.number("/workload/cgroup_id"), Some(self.task_memcg.id()), "workload.cgroup_id of {event}");
        let version = Some(memory_cgroup_version().into());
        assert_eq!(event.number("/workload/cgroup_version"), version, "workload.cgroup_version of {event}");
        assert_eq!(event.text("/workload/runtime"), Some(self.runtime), "workload.runtime of {event}");
        assert_eq!(event.text("/workload/engine"), Some(self.engine), "workload.engine of {event}");
        assert_eq!(event.text("/workload/container_id"), self.container_id, "workload.container_id of {event}");
        assert_eq!(event.text("/workload/container_name"), self.container_name, "workload.container_name of {event}");
        assert_eq!(event.text("/workload/image"), self.image, "workload.image of {event}");
        for absent in ["sandbox_id", "pod_uid", "pod_name", "pod_namespace"] {
            assert_eq!(event.field(&format!("/workload/{absent}")), None, "workload.{absent} of {event}");
        }
    }
}

fn check_cgroup(event: &Event, field: &str, cgroup: &Cgroup) {
    let path = event.text(&format!("{field}/path")).map(unescaped);
    assert_eq!(path.as_deref(), Some(cgroup.path_bytes()), "{field}/path of {event}");
    assert_eq!(event.number(&format!("{field}/id")), Some(cgroup.id()), "{field}/id of {event}");
}
