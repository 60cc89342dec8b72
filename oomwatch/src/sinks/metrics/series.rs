//! Counters of each workload: begun at 0 when it is found, kept for ten minutes after its end, bounded in number. Pure.
//!
//! A scraper is shown each of them at 0 first, and what was counted by then with its next scrape: to `increase()` a
//! counter that begins with 1 did not rise, and a container may be killed and gone before anybody scraped it.

use std::{collections::HashMap, sync::Arc};

use super::labels::{Key, Labels};
use crate::{
    event::Scope,
    workload::{LimitOwner, Runtime, Workload},
};

/// How long the series of a workload outlive it: some scrapes more.
const KEEP_NS: u64 = 600_000_000_000;
/// Counters of workloads, all together: some 1,600 containers. Each workload under measurement has three gauges more.
const MAX_SERIES: usize = 10_000;

/// Why processes are killed: whose memory ran out, and who set the limit.
pub(super) type Cause = (Option<Scope>, Option<LimitOwner>);

/// Runtimes of what is no container: these share one set of series each, always there.
const NO_CONTAINER: [Runtime; 3] = [Runtime::Process, Runtime::Systemd, Runtime::Unknown];

/// Counters of one workload.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    /// Who.
    pub(super) labels: Arc<Labels>,
    /// Processes killed, by cause.
    pub(super) kills: Vec<Kills>,
    /// Limits hit without a kill.
    pub(super) ooms: u64,
    /// Warnings.
    pub(super) near_limits: u64,
    /// A scraper was shown the two before.
    shown: bool,
    /// When it was last alive or in an event, `CLOCK_BOOTTIME` in nanoseconds.
    seen_ns: u64,
}

/// Kills for one cause.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kills {
    pub(super) cause: Cause,
    pub(super) count: u64,
    /// A scraper was shown it.
    shown: bool,
}

impl Kills {
    fn new(cause: Cause, count: u64) -> Self {
        Self { cause, count, shown: false }
    }
}

/// Counters of all workloads.
#[derive(Debug)]
pub(super) struct Series {
    workloads: HashMap<Key, Counts>,
    /// Counters in `workloads`.
    size: usize,
    evicted: u64,
    max: usize,
    limits: Limits,
}

/// Who reads the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// Who computes with what it sees one time after the other.
    Scraper,
    /// Who wants to know how it stands.
    Other,
}

/// Of which kills the limit that was hit is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Limits {
    /// Of all.
    Always,
    /// Of some: the kernel's log does not name it of all.
    Sometimes,
    /// Of none.
    #[default]
    Never,
}

impl Series {
    /// None yet. `limits` says which series to begin at 0.
    pub(super) fn new(limits: Limits) -> Self {
        Self { workloads: HashMap::new(), size: 0, evicted: 0, max: MAX_SERIES, limits }
    }

    /// A process was killed.
    pub(super) fn killed(&mut self, workload: Option<&Workload>, cause: Cause, now_ns: u64) {
        let counts = self.counts(workload, now_ns);
        if let Some(kills) = counts.kills.iter_mut().find(|kills| kills.cause == cause) {
            kills.count += 1;
        } else {
            counts.kills.push(Kills::new(cause, 1));
            self.size += 1;
        }
    }

    /// A limit was hit this often and nothing was killed.
    pub(super) fn oom(&mut self, workload: Option<&Workload>, count: u64, now_ns: u64) {
        let counts = self.counts(workload, now_ns);
        counts.ooms = counts.ooms.saturating_add(count);
    }

    /// A workload came near its limit.
    pub(super) fn near_limit(&mut self, workload: Option<&Workload>, now_ns: u64) {
        self.counts(workload, now_ns).near_limits += 1;
    }

    /// Those of a workload in an event. Labels stay as they were when a scraper first saw them, so that it sees a
    /// counter rise and not a new one.
    fn counts(&mut self, workload: Option<&Workload>, now_ns: u64) -> &mut Counts {
        let labels = Labels::of(workload);
        let key = labels.key();
        if !self.workloads.contains_key(&key) {
            let counts = self.fresh(labels, now_ns);
            self.make_room(counts.size(), |_| true);
            self.size += counts.size();
            self.workloads.insert(key.clone(), counts);
        }
        let fresh = || Counts::new(Labels::of(workload), Vec::new(), now_ns);
        let counts = self.workloads.entry(key).or_insert_with(fresh);
        counts.seen_ns = now_ns;
        counts
    }

    /// These live now: those that are new begin at 0, and those that ended long ago go.
    pub(super) fn live<'a>(&mut self, workloads: impl IntoIterator<Item = &'a Workload>, now_ns: u64) {
        let rest = NO_CONTAINER.map(|runtime| Workload { runtime, ..Workload::default() });
        for workload in &rest {
            self.lives(Labels::of(Some(workload)), now_ns);
        }
        for workload in workloads {
            self.lives(Labels::of(Some(workload)), now_ns);
        }
        self.workloads.retain(|_, counts| now_ns.saturating_sub(counts.seen_ns) < KEEP_NS);
        self.size = self.workloads.values().map(Counts::size).sum();
    }

    fn lives(&mut self, labels: Labels, now_ns: u64) {
        let key = labels.key();
        if let Some(counts) = self.workloads.get_mut(&key) {
            counts.seen_ns = now_ns;
            if *counts.labels != labels {
                counts.labels = Arc::new(labels);
            }
            return;
        }
        let counts = self.fresh(labels, now_ns);
        // No room is made for a 0 by ending the series of what lives.
        if self.make_room(counts.size(), |other| other.seen_ns < now_ns) {
            self.size += counts.size();
            self.workloads.insert(key, counts);
        } else {
            self.evicted += counts.size() as u64;
        }
    }

    fn fresh(&self, labels: Labels, now_ns: u64) -> Counts {
        let kills = first_causes(&labels, self.limits).map(|cause| Kills::new(cause, 0)).collect();
        Counts::new(labels, kills, now_ns)
    }

    /// Ends series until there is room for so many, of what counted nothing first and was seen longest ago; false where
    /// there is no more that may go.
    fn make_room(&mut self, wanted: usize, may_go: impl Fn(&Counts) -> bool) -> bool {
        while self.size + wanted > self.max {
            let candidates = self.workloads.iter().filter(|(_, counts)| may_go(counts));
            let oldest = candidates.min_by_key(|(_, counts)| (!counts.is_zero(), counts.seen_ns));
            let Some(key) = oldest.map(|(key, _)| key.clone()) else { return false };
            if let Some(counts) = self.workloads.remove(&key) {
                self.size -= counts.size();
                self.evicted += counts.size() as u64;
            }
        }
        true
    }

    /// All counters, and how many series went before their time or were not begun.
    pub(super) fn read(&mut self, reader: Reader) -> (Vec<Counts>, u64) {
        let counts = self.workloads.values_mut().map(|counts| match reader {
            Reader::Scraper => counts.show(),
            Reader::Other => counts.clone(),
        });
        (counts.collect(), self.evicted)
    }

    /// The labels that a workload's counters have.
    pub(super) fn labels(&self, key: &Key) -> Option<&Arc<Labels>> {
        self.workloads.get(key).map(|counts| &counts.labels)
    }
}

impl Counts {
    fn new(labels: Labels, kills: Vec<Kills>, now_ns: u64) -> Self {
        Self { labels: Arc::new(labels), kills, ooms: 0, near_limits: 0, shown: false, seen_ns: now_ns }
    }

    /// What a scraper sees.
    fn show(&mut self) -> Self {
        let mut seen = self.clone();
        if !std::mem::replace(&mut self.shown, true) {
            (seen.ooms, seen.near_limits) = (0, 0);
        }
        for (kills, seen) in self.kills.iter_mut().zip(&mut seen.kills) {
            if !std::mem::replace(&mut kills.shown, true) {
                seen.count = 0;
            }
        }
        seen
    }

    /// Series that it takes.
    fn size(&self) -> usize {
        self.kills.len() + 2
    }

    fn is_zero(&self) -> bool {
        self.ooms == 0 && self.near_limits == 0 && self.kills.iter().all(|kills| kills.count == 0)
    }
}

/// The causes for which a workload's kills are counted from the beginning: those that can come.
fn first_causes(labels: &Labels, limits: Limits) -> impl Iterator<Item = Cause> {
    let knows_limits = limits != Limits::Never;
    let memcg = |owner| (Some(Scope::Memcg), Some(owner));
    let causes = [
        (knows_limits && labels.is_container(), memcg(LimitOwner::Container)),
        (knows_limits && labels.is_in_pod(), memcg(LimitOwner::Pod)),
        (knows_limits, memcg(LimitOwner::Slice)),
        (knows_limits, (Some(Scope::Host), Some(LimitOwner::Host))),
        (limits == Limits::Sometimes, (Some(Scope::Memcg), None)),
        (limits != Limits::Always, (None, None)),
    ];
    causes.into_iter().filter_map(|(wanted, cause)| wanted.then_some(cause))
}

#[cfg(test)]
#[path = "series_tests.rs"]
mod tests;
