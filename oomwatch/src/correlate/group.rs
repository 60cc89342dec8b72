//! Group kills (`memory.oom.group`): victims are told one by one, then summed once the run of the OOM killer ended;
//! where its end is not seen, once no member followed for a while.

use super::{Finding, Subject, limit::Limit};
use crate::{
    event::{Body, Confidence, Memcg, OomGroupKill, Severity, Source},
    observation::{RunEnded, Victim},
};

/// How long after its last member a group kill whose end is not seen counts as ended. The kernel marks members in
/// one loop without sleeping; 200 ms also covers a slow virtual machine.
const QUIET_NS: u64 = 200_000_000;
/// Groups open at once. The kernel runs one at a time; more wait only for their quiet time.
const MAX_OPEN: usize = 256;

/// A group kill under way.
#[derive(Debug, Clone)]
pub(super) struct Group {
    trigger_tid: u32,
    run_started_ns: Option<u64>,
    last_ns: u64,
    victims: u32,
    /// What the first member showed; memory is freed while the others are marked.
    pub(super) limit: Option<Limit>,
    /// Shared by all members.
    pub(super) incident_id: String,
    oom_memcg: Option<Memcg>,
    subject: Option<Subject>,
}

/// Open group kills.
#[derive(Debug)]
pub(super) struct Groups {
    open: Vec<Group>,
    sees_run_end: bool,
}

impl Groups {
    pub(super) fn new(sees_run_end: bool) -> Self {
        Self { open: Vec::new(), sees_run_end }
    }

    /// The group that `victim` belongs to, if one is open.
    pub(super) fn of(&self, victim: &Victim) -> Option<&Group> {
        self.open.iter().find(|group| group.is_of(victim))
    }

    /// Counts a member of an open group, or opens one.
    pub(super) fn add(
        &mut self,
        victim: &Victim,
        limit: Option<Limit>,
        incident_id: &str,
        oom_memcg: Option<Memcg>,
        subject: Option<Subject>,
    ) {
        if let Some(group) = self.open.iter_mut().find(|group| group.is_of(victim)) {
            group.victims += 1;
            group.last_ns = victim.boot_ns;
            return;
        }
        if self.open.len() >= MAX_OPEN {
            return;
        }
        self.open.push(Group {
            trigger_tid: victim.trigger_tid,
            run_started_ns: victim.run.as_ref().map(|run| run.started_ns),
            last_ns: victim.boot_ns,
            victims: 1,
            limit,
            incident_id: incident_id.to_owned(),
            oom_memcg,
            subject,
        });
    }

    /// A run ended: so did its group kill, if it was one.
    pub(super) fn run_ended(&mut self, ended: &RunEnded) -> Option<Finding> {
        let index = self.open.iter().position(|group| group.run_started_ns == Some(ended.run.started_ns))?;
        Some(self.open.swap_remove(index).into_finding(ended.boot_ns))
    }

    /// Ends groups that were quiet for long enough.
    pub(super) fn expire(&mut self, now_ns: u64) -> Vec<Finding> {
        let patience = self.patience();
        let ended = self.open.extract_if(.., |group| now_ns >= group.last_ns.saturating_add(patience));
        let ended: Vec<Group> = ended.collect();
        ended.into_iter().map(|group| group.clone().into_finding(group.last_ns)).collect()
    }

    /// When [`Self::expire`] is next due.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.open.iter().map(|group| group.last_ns.saturating_add(self.patience())).min()
    }

    /// With the end of runs seen, waiting is only a net for a lost record.
    fn patience(&self) -> u64 {
        if self.sees_run_end { 5 * QUIET_NS } else { QUIET_NS }
    }
}

impl Group {
    fn is_of(&self, victim: &Victim) -> bool {
        match (&victim.run, self.run_started_ns) {
            (Some(run), Some(started_ns)) => run.started_ns == started_ns,
            (None, None) => {
                self.trigger_tid == victim.trigger_tid && victim.boot_ns.saturating_sub(self.last_ns) < QUIET_NS
            }
            _ => false,
        }
    }

    fn into_finding(self, boot_ns: u64) -> Finding {
        Finding {
            boot_ns,
            body: Body::OomGroupKill(OomGroupKill { victims: self.victims, oom_memcg: self.oom_memcg }),
            severity: Severity::Critical,
            source: Source::Bpf,
            confidence: Confidence::Exact,
            incident_id: Some(self.incident_id),
            subject: self.subject,
            sandbox: None,
            limit_depth: None,
        }
    }
}
