//! gVisor sandboxes as they come and go.

use tokio::sync::mpsc;

use super::{Pipeline, report::merge};
use crate::{
    config::{self, Config},
    correlate::{Finding, OfSandbox, Subject},
    event::{Body, Confidence, Severity, Source, WorkloadStarted, WorkloadStopped},
    host::HostRoot,
    observation::{Sandbox, SandboxGone, WorkloadKey},
    sources::{
        gvisor::{
            self,
            memory::{Choice, Estimator},
        },
        watch::Settings,
    },
};

/// Processes that may be sentries, on their way to the gVisor source. What does not fit is found by its next scan.
const EXEC_QUEUE: usize = 1024;

impl Pipeline {
    /// What the gVisor source needs; the kernel source tells it of processes through the agent.
    pub(crate) fn gvisor_source(&mut self) -> gvisor::Start {
        let (sender, execs) = mpsc::channel(EXEC_QUEUE);
        self.execs = self.sees_exec.then_some(sender);
        gvisor::Start {
            root: HostRoot::new(&self.config.host_root),
            hierarchy: self.hierarchy.clone(),
            wanted: self.of_gvisor.subscribe(),
            execs: self.sees_exec.then_some(execs),
        }
    }

    pub(super) fn pass_on_exec(&mut self, pid: u32) {
        if let Some(execs) = &self.execs
            && execs.try_send(pid).is_err()
        {
            tracing::debug!(pid, "the gVisor source is busy: left to its next scan");
            self.look_for_sandboxes();
        }
    }

    /// Has the gVisor source look at all processes soon, because a start may have been missed.
    pub(super) fn look_for_sandboxes(&self) {
        self.of_gvisor.send_replace(wanted(&self.config));
    }

    pub(super) fn sandbox_found(&mut self, sandbox: &Sandbox) {
        self.cgroups.starting.remove(&sandbox.key);
        let known = self.sandboxes.insert(sandbox.key, sandbox.clone());
        if let Some((memcg, _)) = &sandbox.cgroup {
            self.registry.sandbox_found(*memcg);
            self.leave(*memcg);
        }
        if let Some((memcg, _)) = known.as_ref().and_then(|known| known.cgroup.as_ref()) {
            self.registry.sandbox_gone(*memcg);
        }
        self.describe_sandbox(sandbox);
        if self.config.workload_events && known.is_none() {
            let body = Body::WorkloadStarted(WorkloadStarted {
                pid: Some(sandbox.key.pid),
                limit_bytes: sandbox.limit.map(|limit| limit.bytes),
                limit_source: sandbox.limit.map(|limit| limit.source.into()),
                threshold_percent: self.config.threshold_percent,
            });
            self.report(of_sandbox(sandbox, sandbox.boot_ns, body));
        }
    }

    /// What is known of a sandbox now: its engine names it after its start.
    pub(super) fn describe_sandbox(&mut self, sandbox: &Sandbox) {
        let subject = sandbox.cgroup.clone().map(|(memcg, path)| Subject { memcg, path: Some(path) });
        let described = subject.and_then(|subject| self.registry.workload(&subject)).map(|(workload, _)| workload);
        if let Some(workload) = merge(Some(sandbox.workload.clone()), described) {
            self.inventory.found(WorkloadKey::Sandbox(sandbox.key), workload);
        }
    }

    pub(super) fn sandbox_gone(&mut self, gone: SandboxGone) {
        self.cgroups.starting.remove(&gone.key);
        let Some(sandbox) = self.sandboxes.remove(&gone.key) else { return };
        if let Some((memcg, _)) = &sandbox.cgroup {
            self.registry.sandbox_gone(*memcg);
        }
        self.inventory.ended(WorkloadKey::Sandbox(gone.key), gone.boot_ns);
        if self.config.workload_events {
            let body = Body::WorkloadStopped(WorkloadStopped {
                pid: Some(gone.key.pid),
                limit_bytes: sandbox.limit.map(|limit| limit.bytes),
                limit_source: sandbox.limit.map(|limit| limit.source.into()),
                peak_usage_bytes: Some(gone.peak_bytes).filter(|bytes| *bytes > 0),
            });
            self.report(of_sandbox(&sandbox, gone.boot_ns, body));
        }
    }
}

pub(super) fn of_sandbox(sandbox: &Sandbox, boot_ns: u64, body: Body) -> Finding {
    Finding {
        boot_ns,
        body,
        severity: Severity::Info,
        source: Source::Gvisor,
        confidence: Confidence::Exact,
        incident_id: None,
        subject: sandbox.cgroup.clone().map(|(memcg, path)| Subject { memcg, path: Some(path) }),
        sandbox: Some(OfSandbox { key: sandbox.key, workload: sandbox.workload.clone() }),
        limit_depth: None,
    }
}

/// When to warn, and how often to look.
pub(super) fn settings(config: &Config) -> Settings {
    Settings {
        threshold_percent: config.threshold_percent,
        rearm_percent: config.rearm_percent,
        poll_interval: config.poll_interval,
    }
}

pub(super) fn wanted(config: &Config) -> gvisor::Wanted {
    let estimator = match config.estimator {
        config::Estimator::Auto => Choice::Auto,
        config::Estimator::Cgroup => Choice::Only(Estimator::Cgroup),
        config::Estimator::Memfd => Choice::Only(Estimator::Memfd),
        config::Estimator::RssSum => Choice::Only(Estimator::RssSum),
    };
    gvisor::Wanted {
        estimator,
        settings: settings(config),
        rpc: config.gvisor_rpc,
        pressure_percent: config.pressure_percent,
    }
}
