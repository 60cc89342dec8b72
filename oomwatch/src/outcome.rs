//! What became of a container after a kill in it: it survived, or it ended, with which code. Pure; told once for each
//! incident and container: at its end, or shortly before two seconds have passed. Of more incidents than [`MAX_LATER`] that
//! a container has within that time, those in between have none. One that survived is corrected where a later kill of
//! the same incident ended the container.
//!
//! A container ends with its init or with its cgroup, a gVisor sandbox with its sentry. Ends and kills arrive in any
//! order, for they travel in different rings, so ends are remembered.

use std::collections::{HashMap, VecDeque};

use crate::{
    cgroup_path::CgroupPath,
    correlate::{RecentProcesses, Subject},
    observation::{MemcgId, SandboxKey, WorkloadKey},
    workload::Workload,
};

/// From the first kill to the verdict: an init that gives up because its child was killed takes a moment, and the
/// verdict is promised within two seconds.
pub(crate) const VERDICT_AFTER_NS: u64 = 1_800_000_000;
/// How long the exit code of a sandbox that is gone is waited for: two sources tell of the one end.
const CODE_AFTER_NS: u64 = 300_000_000;
/// The same where the verdict is due.
const LAST_CODE_NS: u64 = 100_000_000;
/// Verdicts awaited at once; in a storm beyond it, containers go without.
const CAPACITY: usize = 4096;
/// Incidents of one container that wait behind its first; beyond it the latest takes the place of the one before it.
const MAX_LATER: usize = 16;
/// How long an end is remembered, for kills that are told after it.
const REMEMBER_NS: u64 = 60_000_000_000;
/// Ends remembered; beyond it the oldest go early.
const MAX_ENDS: usize = 4096;

/// A verdict that is awaited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Awaited {
    /// The incident it belongs to.
    pub incident_id: String,
    /// The cgroup it concerns: a container's first victim's, or the sandbox' own.
    pub subject: Option<Subject>,
    /// The container.
    pub container: Container,
    /// When the first victim was killed, `CLOCK_BOOTTIME` in nanoseconds.
    pub killed_ns: u64,
}

/// A container that a process was killed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Container {
    /// By its own cgroup.
    Cgroup {
        /// Its path.
        path: CgroupPath,
        /// Its id, which tells it from a successor of the same path; `None` where it was never seen.
        id: Option<MemcgId>,
    },
    /// A gVisor sandbox.
    Sandbox {
        /// Which.
        key: SandboxKey,
        /// What its files say.
        workload: Box<Workload>,
    },
}

impl Container {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Cgroup { path, id }, Self::Cgroup { path: other_path, id: other_id }) => {
                path == other_path && id == other_id
            }
            _ => self.key() == other.key(),
        }
    }

    fn key(&self) -> Option<WorkloadKey> {
        match self {
            Self::Cgroup { id, .. } => id.map(WorkloadKey::Cgroup),
            Self::Sandbox { key, .. } => Some(WorkloadKey::Sandbox(*key)),
        }
    }
}

/// What became of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) awaited: Awaited,
    pub(crate) survived: bool,
    /// What it ended with.
    pub(crate) exit_code: Option<i32>,
    /// When it ended, where that was seen.
    pub(crate) ended_ns: Option<u64>,
}

/// What was seen of the end of a container, or of a cgroup that may be one's.
#[derive(Debug, Default, Clone, Copy)]
struct End {
    /// Its first process ended: when, and with which code.
    exit: Option<(u64, i32)>,
    /// It is gone for good: since when.
    gone_ns: Option<u64>,
    /// A verdict told of it.
    told: bool,
}

impl End {
    /// When the container that a process was killed in ended. A cgroup that is still there may have got another one
    /// since its last init ended; a sandbox has one sentry.
    fn of(&self, kill: &Awaited) -> Option<u64> {
        let is_for_good = self.gone_ns.is_some() || matches!(kill.container, Container::Sandbox { .. });
        let exited = self.exit.map(|(at, _)| at).filter(|at| is_for_good || *at >= kill.killed_ns);
        exited.or(self.gone_ns)
    }
}

/// A verdict on its way.
#[derive(Debug)]
struct Waiting {
    due_ns: u64,
    /// It is gone; only the code is still waited for.
    gone: bool,
    /// That it survived was told of this incident.
    is_told: bool,
    kill: Awaited,
    /// The latest kill of each incident in it since: their verdicts follow.
    later: VecDeque<Awaited>,
}

impl Waiting {
    fn for_verdict(kill: Awaited) -> Self {
        let due_ns = kill.killed_ns.saturating_add(VERDICT_AFTER_NS);
        Self { due_ns, gone: false, is_told: false, kill, later: VecDeque::new() }
    }

    /// There was another kill in it.
    fn add(&mut self, kill: Awaited) {
        let is_full = self.later.len() >= MAX_LATER;
        let of_same = self.later.iter_mut().find(|later| later.incident_id == kill.incident_id);
        if let Some(later) = of_same {
            *later = kill;
        } else if kill.incident_id == self.kill.incident_id {
            self.later.push_front(kill);
        } else {
            if is_full {
                self.later.pop_back();
            }
            self.later.push_back(kill);
        }
    }

    /// What is waited for after this verdict.
    fn next(&mut self) -> Option<Self> {
        let kill = self.later.pop_front()?;
        let is_told = kill.incident_id == self.kill.incident_id;
        Some(Self { is_told, later: std::mem::take(&mut self.later), ..Self::for_verdict(kill) })
    }
}

/// Verdicts awaited, and what ended of late.
#[derive(Debug)]
pub(crate) struct Outcomes {
    /// Exit codes are seen.
    sees_exit: bool,
    waiting: Vec<Waiting>,
    ends: HashMap<WorkloadKey, End>,
    /// In the order of their first news.
    ended: VecDeque<(u64, WorkloadKey)>,
    /// The last processes that exited.
    exited: RecentProcesses,
}

impl Outcomes {
    pub(crate) fn new(sees_exit: bool) -> Self {
        Self {
            sees_exit,
            waiting: Vec::new(),
            ends: HashMap::new(),
            ended: VecDeque::new(),
            exited: RecentProcesses::default(),
        }
    }

    /// A process of a container was killed: the verdict, if that has ended already.
    pub(crate) fn killed(&mut self, kill: Awaited) -> Option<Verdict> {
        let end = kill.container.key().and_then(|key| self.ends.get(&key)).copied().unwrap_or_default();
        let gone = end.of(&kill).is_some();
        if gone && end.told {
            return None;
        }
        if let Some(waiting) = self.waiting.iter_mut().find(|other| other.kill.container.is(&kill.container)) {
            waiting.add(kill);
            return None;
        }
        if gone && !self.lacks_code(&kill.container, end) {
            return Some(self.ended(kill));
        }
        if self.waiting.len() < CAPACITY {
            let due_ns = kill.killed_ns.saturating_add(if gone { CODE_AFTER_NS } else { VERDICT_AFTER_NS });
            self.waiting.push(Waiting { due_ns, gone, ..Waiting::for_verdict(kill) });
        }
        None
    }

    /// Whether this exit of a process was not told before: the kernel may say it of more than one of its threads, at the same time.
    pub(crate) fn is_news(&mut self, pid: u32, start_ns: u64) -> bool {
        self.exited.insert(pid, start_ns)
    }

    /// The first process ended of what has these names.
    pub(crate) fn exited(&mut self, keys: &[WorkloadKey], boot_ns: u64, exit_code: i32) -> Vec<Verdict> {
        for key in keys {
            let end = self.end_of(*key, boot_ns);
            // A second one was the init of another container in the same cgroup.
            let is_another = end.exit.replace((boot_ns, exit_code)).is_some();
            end.told &= !is_another;
        }
        self.settle(keys)
    }

    /// A cgroup was removed.
    pub(crate) fn removed(&mut self, memcg: MemcgId, boot_ns: u64) -> Vec<Verdict> {
        let key = WorkloadKey::Cgroup(memcg);
        self.end_of(key, boot_ns).gone_ns = Some(boot_ns);
        self.settle(&[key])
    }

    /// A sandbox is gone. That its sentry exited is told by another source, perhaps later.
    pub(crate) fn sandbox_gone(&mut self, key: SandboxKey, boot_ns: u64) -> Vec<Verdict> {
        let key = WorkloadKey::Sandbox(key);
        self.end_of(key, boot_ns).gone_ns = Some(boot_ns);
        for waiting in self.waiting.iter_mut().filter(|waiting| waiting.kill.container.key() == Some(key)) {
            waiting.gone = true;
            waiting.due_ns = boot_ns.saturating_add(CODE_AFTER_NS).min(waiting.due_ns);
        }
        self.settle(&[key])
    }

    /// Verdicts that are due. `lives` says whether a container has a process that is not on its way out.
    pub(crate) fn due(&mut self, now_ns: u64, lives: impl Fn(&Container) -> bool) -> Vec<Verdict> {
        let due: Vec<_> = self.waiting.extract_if(.., |waiting| waiting.due_ns <= now_ns).collect();
        let mut verdicts = Vec::new();
        for mut waiting in due {
            let end = waiting.kill.container.key().and_then(|key| self.ends.get(&key));
            let has_code = end.is_some_and(|end| end.exit.is_some() && end.of(&waiting.kill).is_some());
            if !waiting.gone && lives(&waiting.kill.container) {
                self.waiting.extend(waiting.next());
                if !waiting.is_told {
                    let awaited = waiting.kill;
                    verdicts.push(Verdict { awaited, survived: true, exit_code: None, ended_ns: None });
                }
            } else if waiting.gone || !self.sees_exit || has_code {
                verdicts.extend(self.over(waiting));
            } else {
                // It may be told in a moment.
                (waiting.gone, waiting.due_ns) = (true, now_ns.saturating_add(LAST_CODE_NS));
                self.waiting.push(waiting);
            }
        }
        verdicts
    }

    /// Verdicts that are overdue, and those that only wait for a code: nothing more will be heard.
    pub(crate) fn finish(&mut self, now_ns: u64, lives: impl Fn(&Container) -> bool) -> Vec<Verdict> {
        self.sees_exit = false;
        for waiting in self.waiting.iter_mut().filter(|waiting| waiting.gone) {
            waiting.due_ns = now_ns;
        }
        let mut verdicts = Vec::new();
        while self.next_deadline().is_some_and(|due_ns| due_ns <= now_ns) {
            verdicts.extend(self.due(now_ns, &lives));
        }
        verdicts
    }

    /// When [`Self::due`] has something next.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.waiting.iter().map(|waiting| waiting.due_ns).min()
    }

    /// Verdicts on containers of which no more than this will be known.
    fn settle(&mut self, keys: &[WorkloadKey]) -> Vec<Verdict> {
        let (settled, waiting): (Vec<_>, _) =
            std::mem::take(&mut self.waiting).into_iter().partition(|waiting| self.is_settled(&waiting.kill, keys));
        self.waiting = waiting;
        settled.into_iter().flat_map(|settled| self.over(settled)).collect()
    }

    /// A container is no more: the verdicts of all its incidents that wait.
    fn over(&mut self, mut waiting: Waiting) -> Vec<Verdict> {
        let mut next = waiting.next();
        let mut verdicts = vec![self.ended(waiting.kill)];
        while let Some(mut later) = next {
            let end = later.kill.container.key().and_then(|key| self.ends.get(&key));
            if !later.is_told && end.is_some_and(|end| end.of(&later.kill).is_none()) {
                // That end was of an earlier container in the same cgroup.
                self.waiting.push(later);
                break;
            }
            next = later.next();
            if !later.is_told {
                verdicts.push(self.ended(later.kill));
            }
        }
        verdicts
    }

    fn is_settled(&self, kill: &Awaited, keys: &[WorkloadKey]) -> bool {
        let key = kill.container.key().filter(|key| keys.contains(key));
        let end = key.and_then(|key| self.ends.get(&key));
        end.is_some_and(|end| end.of(kill).is_some() && !self.lacks_code(&kill.container, *end))
    }

    /// A cgroup's init is told of before its removal, by the same source.
    fn lacks_code(&self, container: &Container, end: End) -> bool {
        self.sees_exit && end.exit.is_none() && matches!(container, Container::Sandbox { .. })
    }

    fn ended(&mut self, kill: Awaited) -> Verdict {
        let end = kill.container.key().and_then(|key| self.ends.get_mut(&key));
        let Some(end) = end else {
            return Verdict { awaited: kill, survived: false, exit_code: None, ended_ns: None };
        };
        end.told = true;
        Verdict {
            survived: false,
            exit_code: end.exit.map(|(_, exit_code)| exit_code),
            ended_ns: end.of(&kill),
            awaited: kill,
        }
    }

    fn end_of(&mut self, key: WorkloadKey, now_ns: u64) -> &mut End {
        let is_old = |at: u64| now_ns.saturating_sub(at) > REMEMBER_NS;
        while self.ended.front().is_some_and(|(at, _)| is_old(*at)) || self.ended.len() >= MAX_ENDS {
            let Some((_, key)) = self.ended.pop_front() else { break };
            self.ends.remove(&key);
        }
        self.ends.entry(key).or_insert_with(|| {
            self.ended.push_back((now_ns, key));
            End::default()
        })
    }
}

#[cfg(test)]
#[path = "outcome_tests.rs"]
mod tests;
