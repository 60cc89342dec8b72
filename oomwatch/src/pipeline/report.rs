//! A finding becomes an event: described, numbered, handed to the sinks.

use std::{sync::Arc, time::Duration};

use super::Pipeline;
use crate::{
    clock,
    correlate::{Finding, Subject},
    event::{
        AgentStarted, AgentStopped, Body, Confidence, Event, Loss, LossStage, OomKill, Role, SCHEMA, Severity, Source,
    },
    workload::{CgroupIdentity, LimitOwner, Workload, limit_owner},
};

impl Pipeline {
    pub(super) fn report(&mut self, mut finding: Finding) {
        let now_ns = clock::boot_ns();
        let known = finding.subject.as_ref().and_then(|subject| self.registry.workload(subject));
        let known_workload = known.as_ref().map(|(workload, _)| Arc::clone(workload));
        let of_sandbox = finding.sandbox.as_ref().map(|sandbox| sandbox.workload.clone());
        let workload = merge(of_sandbox, known_workload);
        if let Some(workload) = workload.as_ref().filter(|workload| !self.filter.admits(workload)) {
            let (cgroup, container) = (workload.cgroup_path.as_deref(), workload.container_id.as_deref());
            tracing::debug!(cgroup, container, "an event that is not included or excluded is not told");
            return;
        }
        let container_depth = known.as_ref().and_then(|(_, depth)| *depth).or_else(|| sandbox_depth(&finding));
        if let Body::OomKill(kill) = &mut finding.body {
            // A container may share its process ids with others or the host.
            if let (Some(victim), Some(subject), Some(depth)) = (&mut kill.victim, &finding.subject, container_depth)
                && finding.sandbox.is_none()
                && victim.pid.is_some_and(|pid| self.registry.is_init(pid, subject, depth, finding.boot_ns))
            {
                victim.role = Some(Role::Init);
            }
            kill.limit_owner = owner(kill, finding.subject.as_ref(), finding.limit_depth, container_depth);
            // Where no program tells of a runtime's start, better no answer than a wrong one; nor of the first process of a pid
            // namespace, whose runtime may have had no time to write its state.
            let is_init = kill.victim.as_ref().is_some_and(|victim| victim.role == Some(Role::Init));
            if (finding.source != Source::Bpf || is_init)
                && kill.limit_owner == Some(LimitOwner::Slice)
                && let Some(Subject { memcg, path: Some(path) }) = &finding.subject
                && finding.limit_depth == Some(path.depth())
                && self.registry.may_have_been_a_container(*memcg, path)
            {
                kill.limit_owner = None;
            }
            // Of the other sources only the moment is known at which the agent read of the kill.
            kill.latency_seconds = (finding.source == Source::Bpf)
                .then(|| Duration::from_nanos(now_ns.saturating_sub(finding.boot_ns)).as_secs_f64());
        }
        // Of a sandbox the correlator knows more: its sentry.
        let awaited = match (&finding.body, container_depth, &finding.sandbox) {
            (Body::OomKill(_), Some(depth), None) if self.may_be_judged(finding.boot_ns) => {
                self.outcome_of(&finding, depth)
            }
            _ => None,
        };
        let timestamp = clock::wall_time(if finding.boot_ns == 0 { now_ns } else { finding.boot_ns });
        self.emit(|seq, boot_id| Event {
            schema: SCHEMA,
            seq,
            timestamp,
            boot_id,
            body: finding.body.clone(),
            severity: finding.severity,
            source: finding.source,
            confidence: finding.confidence,
            incident_id: finding.incident_id.clone(),
            workload,
        });
        self.count(&finding, container_depth);
        if let Some(kill) = awaited {
            self.await_outcome(kill);
        }
    }

    fn report_own(&mut self, body: Body, severity: Severity) {
        self.emit(own_event(body, severity));
    }

    /// Tells that it watches.
    pub(crate) fn report_start(&mut self) {
        self.report_own(Body::AgentStarted(self.started.clone()), Severity::Info);
    }

    /// Tells that it watches no more, and lets the sinks drain.
    pub(crate) fn report_end(mut self) {
        self.keep_history_at_end();
        let AgentStarted { version, tier, kernel, cgroup_version, degraded } = self.started.clone();
        let body = AgentStopped { version, tier, kernel, cgroup_version, degraded };
        self.report_own(Body::AgentStopped(body), Severity::Info);
        self.report_losses(clock::boot_ns());
        let all_written = std::mem::take(&mut self.sinks).finish();
        self.keep_last(all_written);
    }

    /// Numbers an event and hands it to the sinks, after the news of what they lost before it.
    fn emit(&mut self, event: impl FnOnce(u64, Arc<str>) -> Event) {
        self.report_losses(clock::boot_ns());
        self.deliver(event);
    }

    fn deliver(&mut self, event: impl FnOnce(u64, Arc<str>) -> Event) {
        self.seq += 1;
        self.sinks.deliver(event(self.seq, Arc::clone(&self.boot_id)));
    }

    /// Tells what sinks lost.
    pub(super) fn report_losses(&mut self, now_ns: u64) {
        for (sink, lost) in self.sinks.take_losses(now_ns) {
            let body = Body::Loss(Loss { stage: LossStage::Sink, lost, records: None, sink: Some(sink.into()) });
            self.deliver(own_event(body, Severity::Critical));
        }
    }
}

/// An event about the agent itself.
fn own_event(body: Body, severity: Severity) -> impl FnOnce(u64, Arc<str>) -> Event {
    let timestamp = clock::wall_time(clock::boot_ns());
    move |seq, boot_id| Event {
        schema: SCHEMA,
        seq,
        timestamp,
        boot_id,
        body,
        severity,
        source: Source::Agent,
        confidence: Confidence::Exact,
        incident_id: None,
        workload: None,
    }
}

/// How deep a sandbox' own cgroup lies; `None` where it is its pod's, for then the limit is the pod's too.
fn sandbox_depth(finding: &Finding) -> Option<usize> {
    let path = finding.sandbox.as_ref().and(finding.subject.as_ref())?.path.as_ref()?;
    let depth = path.depth();
    (CgroupIdentity::of(path.as_bytes()).pod_depth != Some(depth)).then_some(depth)
}

/// What is known of a sandbox from its own files and from its engine's.
pub(super) fn merge(sandbox: Option<Workload>, known: Option<Arc<Workload>>) -> Option<Arc<Workload>> {
    let Some(sandbox) = sandbox else { return known };
    let known = known.map(|known| (*known).clone()).unwrap_or_default();
    Some(Arc::new(Workload {
        runtime: sandbox.runtime,
        engine: known.engine.or(sandbox.engine),
        container_id: known.container_id.or(sandbox.container_id),
        container_name: known.container_name.or(sandbox.container_name),
        sandbox_id: sandbox.sandbox_id.or(known.sandbox_id),
        pod_uid: known.pod_uid.or(sandbox.pod_uid),
        pod_name: known.pod_name.or(sandbox.pod_name),
        pod_namespace: known.pod_namespace.or(sandbox.pod_namespace),
        image: known.image.or(sandbox.image),
        ..known
    }))
}

/// Who set the limit that was hit; `None` where the victim's cgroup or the limit is not known.
fn owner(
    kill: &OomKill,
    subject: Option<&Subject>,
    limit_depth: Option<usize>,
    container_depth: Option<usize>,
) -> Option<LimitOwner> {
    kill.oom_memcg_confidence?;
    let path = subject?.path.as_ref()?;
    let mut identity = CgroupIdentity::of(path.as_bytes());
    identity.container_depth = container_depth.or(identity.container_depth);
    Some(limit_owner(&identity, limit_depth))
}
