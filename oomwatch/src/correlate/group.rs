//! Group kills (`memory.oom.group`): victims are told one by one, then summed once the run of the OOM killer ended;
//! where its end is not seen, once no member followed for a while.

use std::collections::VecDeque;

use super::{Finding, Subject, counts, limit::Limit};
use crate::{
    event::{Body, Confidence, Memcg, OomGroupKill, Severity, Source},
    observation::{MemcgId, RunEnded, Victim},
};

/// How long after its last member a group kill whose end is not seen counts as ended. The kernel marks members in one loop
/// without sleeping, but writes a line for each, and a virtual machine may stand still: half a second was seen.
const QUIET_NS: u64 = 2_000_000_000;
/// The same where the end is seen, and only its record may be lost: an emulated processor stood still for 12 s between two
/// members.
const LOST_NS: u64 = 60_000_000_000;
/// Groups open at once. The kernel runs one at a time; more wait only for their quiet time.
const MAX_OPEN: usize = 1024;
/// Groups of the log whose sum was told that are remembered: a member may be told after it, for it waits for its count, and
/// a slow console may hold up its line.
const MAX_SUMMED: usize = 256;

/// A group kill under way.
#[derive(Debug, Clone)]
pub(super) struct Group {
    trigger_tid: u32,
    run_started_ns: Option<u64>,
    last_ns: u64,
    victims: u32,
    /// All members are in here: the outermost memcg that may be killed as one, for of the limit that was hit there may be no
    /// more than a guess. Not known of those that the log tells of.
    around: Option<MemcgId>,
    /// What the first member showed; memory is freed while the others are marked.
    pub(super) limit: Option<Limit>,
    /// Shared by all members.
    pub(super) incident_id: String,
    oom_memcg: Option<Memcg>,
    subject: Option<Subject>,
    /// Who saw it.
    source: Source,
}

/// Open group kills.
#[derive(Debug)]
pub(super) struct Groups {
    open: Vec<Group>,
    /// First line and incident of those the log told of, the oldest in front.
    summed: VecDeque<(u64, String)>,
    sees_run_end: bool,
}

impl Groups {
    pub(super) fn new(sees_run_end: bool) -> Self {
        Self { open: Vec::new(), summed: VecDeque::new(), sees_run_end }
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
            around: victim.levels.iter().rev().find(|level| level.oom_group).map(|level| level.memcg),
            limit,
            incident_id: incident_id.to_owned(),
            oom_memcg,
            subject,
            source: Source::Bpf,
        });
    }

    /// The log tells of a member of the group whose first member has this line.
    pub(super) fn logged(
        &mut self,
        first_line: u64,
        boot_ns: u64,
        incident_id: String,
        oom_memcg: Option<Memcg>,
        subject: Option<Subject>,
    ) {
        if let Some(group) = self.open.iter_mut().find(|group| group.is_logged(first_line)) {
            group.victims += 1;
            group.last_ns = boot_ns;
            return;
        }
        if self.open.len() < MAX_OPEN && self.summed_incident(first_line).is_none() {
            let run_started_ns = Some(first_line);
            let source = Source::Kmsg;
            self.open.push(Group {
                trigger_tid: 0,
                run_started_ns,
                last_ns: boot_ns,
                victims: 1,
                around: None,
                limit: None,
                incident_id,
                oom_memcg,
                subject,
                source,
            });
        }
    }

    /// What all members of that group share.
    pub(super) fn logged_incident(&self, first_line: u64) -> Option<String> {
        let open = self.open.iter().find(|group| group.is_logged(first_line)).map(|group| &group.incident_id);
        open.or_else(|| self.summed_incident(first_line)).cloned()
    }

    fn summed_incident(&self, first_line: u64) -> Option<&String> {
        self.summed.iter().rev().find(|(line, _)| *line == first_line).map(|(_, incident_id)| incident_id)
    }

    /// A run ended: so did its group kill, if it was one.
    pub(super) fn run_ended(&mut self, ended: &RunEnded) -> Option<Finding> {
        let index = self
            .open
            .iter()
            .position(|group| group.source == Source::Bpf && group.run_started_ns == Some(ended.run.started_ns))?;
        Some(self.open.swap_remove(index).into_finding(ended.boot_ns))
    }

    /// Ends groups that were quiet for long enough.
    pub(super) fn expire(&mut self, now_ns: u64) -> Vec<Finding> {
        let patience = self.patience();
        let ended = self.open.extract_if(.., |group| now_ns >= group.ends_ns(patience));
        let ended: Vec<Group> = ended.collect();
        let logged = ended.iter().filter_map(|group| Some((group.first_line()?, group.incident_id.clone())));
        self.summed.extend(logged);
        self.summed.drain(..self.summed.len().saturating_sub(MAX_SUMMED));
        ended
            .into_iter()
            .map(|group| {
                let last_ns = group.last_ns;
                group.into_finding(last_ns)
            })
            .collect()
    }

    /// When [`Self::expire`] is next due.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.open.iter().map(|group| group.ends_ns(self.patience())).min()
    }

    fn patience(&self) -> u64 {
        if self.sees_run_end { LOST_NS } else { QUIET_NS }
    }
}

impl Group {
    fn is_logged(&self, first_line: u64) -> bool {
        self.first_line() == Some(first_line)
    }

    fn first_line(&self) -> Option<u64> {
        self.run_started_ns.filter(|_| self.source == Source::Kmsg)
    }

    /// Members that only the log tells of may wait for their cgroup.
    fn ends_ns(&self, patience: u64) -> u64 {
        let wait = if self.source == Source::Kmsg { counts::GRACE_NS + QUIET_NS } else { patience };
        self.last_ns.saturating_add(wait)
    }

    fn is_of(&self, victim: &Victim) -> bool {
        if self.source != Source::Bpf {
            return false;
        }
        match (&victim.run, self.run_started_ns) {
            (Some(run), Some(started_ns)) => run.started_ns == started_ns,
            (None, None) => {
                let is_in = victim.levels.iter().any(|level| Some(level.memcg) == self.around);
                let age_ns = victim.boot_ns.saturating_sub(self.last_ns);
                self.trigger_tid == victim.trigger_tid && is_in && age_ns < QUIET_NS
            }
            _ => false,
        }
    }

    fn into_finding(self, boot_ns: u64) -> Finding {
        Finding {
            boot_ns,
            body: Body::OomGroupKill(OomGroupKill { victims: self.victims, oom_memcg: self.oom_memcg }),
            severity: Severity::Critical,
            source: self.source,
            confidence: Confidence::Exact,
            incident_id: Some(self.incident_id),
            subject: self.subject,
            sandbox: None,
            limit_depth: None,
        }
    }
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;
