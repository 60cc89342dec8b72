//! Observations to findings: one for each thing that happened. Pure: time is a field of what enters, files are
//! asked for by [`Output::Read`], deadlines are told by [`Correlator::ask_at`] and [`Correlator::judge_at`].

mod cgroups;
mod counted;
mod counts;
mod group;
mod kill_counter;
mod limit;
mod looks;
mod losses;
mod recent;
mod reconcile;
mod sandboxes;
mod tally;
mod told;
mod unkilled;
mod victim;

pub(crate) use self::recent::RecentProcesses;
pub use self::told::{Told, Warned};
use crate::{
    cgroup_path::CgroupPath,
    event::{Body, Confidence, Loss, LossStage, Severity, Source},
    host::memory::MAX_CGROUPS,
    observation::{
        CgroupChange, Counters, LostRecords, Measurement, MemcgId, MemoryCrossed, Observation, SandboxKey, Seen,
        SourceFacts, WorkloadKey,
    },
    outcome::Awaited,
    workload::Workload,
};

/// Something that happened, not yet numbered and not yet described.
#[derive(Debug, Clone)]
pub struct Finding {
    /// When, by `CLOCK_BOOTTIME` in nanoseconds; 0 where only the moment of its report is known.
    pub boot_ns: u64,
    /// What.
    pub body: Body,
    /// How bad.
    pub severity: Severity,
    /// Who saw it.
    pub source: Source,
    /// How sure.
    pub confidence: Confidence,
    /// Shared by all findings of one incident.
    pub incident_id: Option<String>,
    /// Whom it concerns.
    pub subject: Option<Subject>,
    /// The gVisor sandbox it concerns, as far as its files describe it.
    pub sandbox: Option<OfSandbox>,
    /// Depth of the memcg whose limit was hit.
    pub limit_depth: Option<usize>,
}

/// Sandbox that a finding concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfSandbox {
    /// Which.
    pub key: SandboxKey,
    /// What its files say.
    pub workload: Workload,
}

/// Cgroup that a finding concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Its id.
    pub memcg: MemcgId,
    /// Its path, where known.
    pub path: Option<CgroupPath>,
}

/// What kills are known by where no program sees all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counting {
    /// Counters of cgroups.
    pub counters: bool,
    /// The kernel's log.
    pub log: bool,
    /// Marks of victims whose cgroup may be unknown.
    pub marks: bool,
}

/// A source that can be asked up to when it saw everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looker {
    /// The one of the kernel's log.
    Log,
    /// The one of counters.
    Counters,
}

/// What the correlator wants.
#[derive(Debug, Clone)]
pub enum Output {
    /// To report this.
    Found(Box<Finding>),
    /// To be given the counters of this cgroup, as [`Observation::Counters`].
    Read(Subject),
    /// To tell what became of a gVisor sandbox after a kill in it.
    Await(Awaited),
    /// To be given the counters of every cgroup, by [`Correlator::compare`].
    ReadAll,
    /// To have this source look now, and to be told by [`Observation::Seen`].
    Look(Looker),
}

/// The state machine.
#[derive(Debug)]
pub struct Correlator {
    facts: SourceFacts,
    /// Beginning of every incident id: names the boot.
    boot_tag: String,
    seen: RecentProcesses,
    /// The same where their start times are not known.
    marks: recent::RecentMarks,
    /// By an earlier agent.
    told: Told,
    /// Lines of the log.
    lines: recent::RecentLines,
    /// Kills by witnesses and counters, where no program sees all of them.
    counts: Option<counts::Counts<counted::Witness>>,
    /// Marked while they were dying anyway.
    dying: RecentProcesses,
    kill_counters: kill_counter::KillCounters,
    accounts: reconcile::Accounts,
    groups: group::Groups,
    sandboxes: sandboxes::Sandboxes,
    cgroups: cgroups::Cgroups,
    unkilled: unkilled::Unkilled,
    losses: losses::Losses,
}

impl Correlator {
    /// Starts without any history. `boot_id` is the kernel's.
    pub fn new(facts: SourceFacts, boot_id: &str) -> Self {
        Self {
            facts,
            boot_tag: boot_id.chars().take(8).collect(),
            seen: RecentProcesses::default(),
            marks: recent::RecentMarks::default(),
            told: Told::default(),
            lines: recent::RecentLines::default(),
            counts: None,
            dying: RecentProcesses::default(),
            kill_counters: kill_counter::KillCounters::default(),
            accounts: reconcile::Accounts::default(),
            groups: group::Groups::new(facts.sees_run),
            sandboxes: sandboxes::Sandboxes::default(),
            cgroups: cgroups::Cgroups::default(),
            unkilled: unkilled::Unkilled::new(facts.sees_no_kill),
            losses: losses::Losses::default(),
        }
    }

    /// Takes kills from counters too, and from the kernel's log.
    #[must_use]
    pub fn with_counts(mut self, counting: Counting) -> Self {
        if counting != Counting::default() {
            self.counts = Some(counts::Counts::new(counting));
        }
        self
    }

    /// Takes in what a source saw.
    pub fn observe(&mut self, observation: Observation) -> Vec<Output> {
        let mut out = Vec::new();
        match observation {
            Observation::Victim(victim) => self.victim(&victim, &mut out),
            Observation::RunEnded(ended) if ended.no_kill => {
                let hit = self.unkilled.seen_by_hook(&ended);
                out.extend(hit.and_then(|hit| self.without_kill(hit)));
            }
            Observation::RunEnded(ended) => {
                let group = self.groups.run_ended(&ended);
                out.extend(group.and_then(|group| self.group_ended(group)));
            }
            Observation::CgroupMade(change) => {
                self.kill_counters.made(change.memcg, change.boot_ns);
                self.unkilled.made(change.memcg);
            }
            Observation::CgroupRemoved(change) => self.cgroup_removed(&change, &mut out),
            Observation::KillTotal(total) => {
                if self.counts.as_ref().is_some_and(counts::Counts::waits) {
                    self.accounts.disturbed();
                }
                out.extend(self.accounts.read(total).then_some(Output::ReadAll));
            }
            Observation::Logged(kill) => self.logged(*kill, &mut out),
            Observation::Counted(counters) => self.counted(&counters, &mut out),
            Observation::Seen(seen) => {
                let (Seen::Log(until_ns) | Seen::Counters(until_ns)) = seen;
                out.extend(self.counts.as_mut().and_then(|counts| counts.seen(seen)).map(Output::Look));
                self.settle_seen_counts(until_ns, &mut out);
            }
            Observation::FutileReclaim(reclaim) => self.unkilled.futile_reclaim(reclaim),
            Observation::Counters(counters) => {
                self.kill_counters.read(&counters);
                let hit = self.unkilled.read(&counters);
                out.extend(hit.and_then(|hit| self.without_kill(hit)));
            }
            Observation::Exec(_)
            | Observation::Exited(_)
            | Observation::Stalled(_)
            | Observation::MeasuredGone(_)
            | Observation::CaughtUp
            | Observation::Read(_) => {}
            Observation::Measured(measured) => self.measured(&measured),
            Observation::SandboxFound(sandbox) => self.sandboxes.found(*sandbox),
            Observation::SandboxStarting(sandbox) => self.sandboxes.starting(*sandbox),
            Observation::SandboxGone(gone) => self.sandboxes.gone(gone),
            Observation::MemoryCrossed(crossed) => out.extend(self.crossed(&crossed).map(found)),
            Observation::Lost(lost) => {
                self.accounts.lost(lost.records);
                let records = lost.records;
                out.extend(self.losses.take_in(lost).map(|count| found(loss(Some(records), count))));
            }
            Observation::Undecodable(_) => out.push(found(loss(None, 1))),
        }
        out
    }

    fn cgroup_removed(&mut self, change: &CgroupChange, out: &mut Vec<Output>) {
        self.kill_counters.removed(change.memcg);
        self.cgroups.removed(change.memcg, change.boot_ns);
        self.accounts.removed(change.memcg);
        let hit = self.unkilled.removed(change.memcg);
        out.extend(hit.and_then(|hit| self.without_kill(hit)));
        if let Some(counts) = &mut self.counts {
            counts.removed(change.memcg, change.boot_ns);
        }
    }

    /// Who is below the line now, and still has a warning of an earlier agent's, is warned of anew.
    fn measured(&mut self, measured: &[Measurement]) {
        for measurement in measured.iter().filter(|measurement| !measurement.is_near) {
            if !self.told.has_warnings() {
                return;
            }
            let sandbox_id = self.sandboxes.id_of(measurement.key);
            drop(self.told.take_warning(measurement.key, sandbox_id.as_deref()));
        }
    }

    fn crossed(&mut self, crossed: &MemoryCrossed) -> Option<Finding> {
        let sandbox_id = self.sandboxes.id_of(crossed.key);
        let before = self.told.take_warning(crossed.key, sandbox_id.as_deref());
        let of_before = before.as_ref().map(|before| before.incident_id.clone());
        let incident_id = of_before.unwrap_or_else(|| self.incident_id(crossed.boot_ns));
        let finding = match crossed.key {
            WorkloadKey::Sandbox(key) => self.sandboxes.crossed(key, crossed, incident_id)?,
            WorkloadKey::Cgroup(memcg) => self.cgroups.crossed(memcg, crossed, incident_id),
        };
        before.is_none_or(|before| before.line < crossed.line).then_some(finding)
    }

    /// The counters of cgroups as they are when the agent begins: kills before it are not its own.
    pub fn begin(&mut self, counters: &[Counters]) {
        for counters in counters {
            self.accounts.begin(counters);
            if let Some(counts) = &mut self.counts {
                counts.settled(counters);
            }
        }
        if let Some(counts) = self.counts.as_mut().filter(|_| counters.len() >= MAX_CGROUPS) {
            counts.is_incomplete();
        }
    }

    /// What an earlier agent of this boot accounted for: kills in all, and by cgroup where all of that is known.
    pub fn restore(&mut self, kills: u64, cgroups: Option<&[(MemcgId, u64)]>) {
        self.accounts.restore(kills, cgroups);
        for (memcg, kills) in cgroups.into_iter().flatten() {
            self.kill_counters.restore(*memcg, *kills);
        }
    }

    /// What an earlier agent told is not told again.
    pub fn told_before(&mut self, told: Told) {
        self.told = told;
    }

    /// Kills accounted for, of those that the kernel counted; `None` where it does not count.
    pub fn accounted(&self) -> Option<u64> {
        self.accounts.accounted()
    }

    /// Kills accounted for by cgroup, and whether these are all.
    pub fn accounted_by_cgroup(&self) -> (Vec<(MemcgId, u64)>, bool) {
        self.accounts.by_id()
    }

    /// Tells which kills were missed, now that the counters of all cgroups are there.
    pub fn compare(&mut self, counters: &[Counters]) -> Vec<Output> {
        if let Some(counts) = &mut self.counts {
            for counters in counters {
                counts.settled(counters);
            }
        }
        self.accounts.compare(counters).into_iter().map(found).collect()
    }

    /// Asks sources, and tells what needs no more of them.
    pub fn ask(&mut self, now_ns: u64) -> Vec<Output> {
        let mut out = Vec::new();
        out.extend(self.losses.tick(now_ns).map(|count| found(loss(Some(LostRecords::Cgroup), count))));
        self.settle_seen_counts(now_ns, &mut out);
        out.extend(self.counts.as_mut().and_then(|counts| counts.wants_look(now_ns)).map(Output::Look));
        out
    }

    /// Lets time pass: ends what waited long enough.
    pub fn tick(&mut self, now_ns: u64) -> Vec<Output> {
        let mut out = self.ask(now_ns);
        out.extend(self.end_groups(now_ns));
        out.extend(self.unkilled.due(now_ns).into_iter().map(Output::Read));
        let hits = self.unkilled.flush(now_ns);
        out.extend(hits.into_iter().filter_map(|hit| self.without_kill(hit)));
        self.settle_counts(now_ns, &mut out);
        out
    }

    fn end_groups(&mut self, now_ns: u64) -> Vec<Output> {
        let ended = self.groups.expire(now_ns);
        ended.into_iter().filter_map(|group| self.group_ended(group)).collect()
    }

    /// The end of a group kill, unless an earlier agent told it.
    fn group_ended(&self, group: Finding) -> Option<Output> {
        (!self.told.has_group(group.incident_id.as_deref(), group.boot_ns)).then(|| found(group))
    }

    /// A limit that was hit is an incident of its own; unless an earlier agent told it.
    fn without_kill(&self, (boot_ns, mut finding): (u64, Finding)) -> Option<Output> {
        finding.incident_id = Some(self.incident_id(boot_ns));
        (!self.told.has_unkilled(finding.incident_id.as_deref())).then(|| found(finding))
    }

    /// The counters asked for cannot be had.
    pub fn forget(&mut self, memcg: MemcgId) {
        self.unkilled.made(memcg);
    }

    /// Ends everything that still waits: nothing more will be seen.
    pub fn finish(&mut self) -> Vec<Output> {
        let mut out = Vec::new();
        self.settle_all_counts(&mut out);
        out.extend(self.end_groups(u64::MAX));
        out.extend(self.losses.take().map(|count| found(loss(Some(LostRecords::Cgroup), count))));
        let hits = self.unkilled.flush(u64::MAX);
        out.extend(hits.into_iter().filter_map(|hit| self.without_kill(hit)));
        out
    }

    /// When [`Self::ask`] is next due, by `CLOCK_BOOTTIME` in nanoseconds.
    pub fn ask_at(&self) -> Option<u64> {
        let counts = self.counts.as_ref().and_then(counts::Counts::ask_at);
        [self.losses.next_deadline(), counts].into_iter().flatten().min()
    }

    /// When [`Self::tick`] is next due for what only the time tells.
    pub fn judge_at(&self) -> Option<u64> {
        let counts = self.counts.as_ref().and_then(counts::Counts::give_up_at);
        [self.groups.next_deadline(), self.unkilled.next_deadline(), counts].into_iter().flatten().min()
    }

    /// The kernel runs one OOM kill at a time (`oom_lock`), so its time names it within a boot.
    fn incident_id(&self, boot_ns: u64) -> String {
        format!("{}-{boot_ns:x}", self.boot_tag)
    }
}

fn found(finding: Finding) -> Output {
    Output::Found(Box::new(finding))
}

fn loss(records: Option<LostRecords>, lost: u64) -> Finding {
    Finding {
        boot_ns: 0,
        body: Body::Loss(Loss { stage: LossStage::Ringbuf, lost, records, sink: None }),
        severity: Severity::Critical,
        source: if records == Some(LostRecords::Log) { Source::Kmsg } else { Source::Bpf },
        confidence: Confidence::Exact,
        incident_id: None,
        subject: None,
        sandbox: None,
        limit_depth: None,
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod told_tests;
#[cfg(test)]
mod unkilled_tests;
