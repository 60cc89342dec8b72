//! Kills known by witnesses (lines of the kernel's log, marks without a cgroup) and by the counters of cgroups: which of
//! them are the same. The kernel counts each kill once in its victim's cgroup, then writes its line.
//!
//! Each witness is another kill, and so is each count; a kill has one of both, as a rule. A witness with a cgroup is told
//! at once, and takes a count of that cgroup, or the next one. A count waits for its witness for [`GRACE_NS`], a witness
//! without a cgroup for its count: if only one cgroup has counts left, and enough for all that wait, it was there. Neither
//! waits in vain for what is only read late: before anything is told, the sources are asked to look. What is told of a
//! count alone takes the witness that comes after all; what is told of a witness without a cgroup takes a count where it
//! may have been.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::{
    Counting, Looker,
    looks::Looks,
    tally::{FORGET_NS, Tally},
};
use crate::{
    cgroup_path::CgroupPath,
    observation::{Counters, MemcgId, Seen},
};

/// How long counts and witnesses wait for each other. Both are read within milliseconds of the kill, on a host short of
/// processors within some hundred. Less than the second between two readings of the count of all kills.
pub(super) const GRACE_NS: u64 = 300_000_000;
/// How long a count waits where there are no witnesses: until the counters of a whole group kill are read.
const ALONE_NS: u64 = 50_000_000;
/// A witness is read this much later than the count of the same kill at most, to be taken for it.
const SKEW_NS: u64 = 100_000_000;
/// What was told of a count or of a witness alone takes the other for this long. Counters are read every second in the
/// worst case.
const LATE_NS: u64 = 2_000_000_000;
/// Cgroups with kills that are remembered. Kills in others are told as missed.
const CAPACITY: usize = 65_536;
/// Witnesses that wait; beyond it the oldest is told as it is.
const MAX_WAITING: usize = 4096;
/// A second count of a group kill's first victim is excused for this long.
const DOUBLE_NS: u64 = 1_000_000_000;

/// What a witness says turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told<W> {
    /// A kill with its victim, and the cgroup that its count places it in.
    Witnessed(W, Option<(MemcgId, CgroupPath)>),
    /// A kill that only a counter tells of, read then.
    Counted(MemcgId, CgroupPath, u64),
    /// The kernel counted a victim twice.
    Twice(MemcgId),
    /// One that was told without its cgroup was in this one.
    Placed(MemcgId),
}

/// A witness without a cgroup.
#[derive(Debug, Clone)]
struct Waiting<W> {
    witness: W,
    /// When its kill was, and when it came in.
    since_ns: u64,
    came_ns: u64,
    /// Its cgroup lies in here.
    within: Option<CgroupPath>,
}

/// A witness that was told without a cgroup.
#[derive(Debug, Clone)]
struct Unplaced {
    /// Its count is in one of these; `None` where it may be in any, for they were not looked at.
    within: Option<Vec<MemcgId>>,
    until_ns: u64,
}

/// A count that was told without a witness.
#[derive(Debug, Clone, Copy)]
struct Alone {
    read_ns: u64,
    told_ns: u64,
    memcg: MemcgId,
}

/// A group kill, whose first victim is counted twice.
#[derive(Debug, Clone)]
struct Double {
    within: CgroupPath,
    until_ns: u64,
}

/// All counts and witnesses.
#[derive(Debug)]
pub(super) struct Counts<W> {
    counting: Counting,
    tallies: HashMap<MemcgId, Tally>,
    /// Of cgroups not known here some counts are from before.
    incomplete: bool,
    /// Cgroups with rises.
    rising: BTreeSet<MemcgId>,
    /// Cgroups whose counter rose of late.
    active: BTreeSet<MemcgId>,
    waiting: VecDeque<Waiting<W>>,
    /// Witnesses told without a cgroup whose counts are still to be told.
    unplaced: VecDeque<Unplaced>,
    doubles: Vec<Double>,
    /// Counts told without a witness of late, the oldest in front.
    alone: VecDeque<Alone>,
    removed: VecDeque<(u64, MemcgId)>,
    /// When something last came.
    latest_ns: u64,
    /// What came until then and could be told is.
    settled_ns: u64,
    looks: Looks,
}

impl Unplaced {
    fn places(&self) -> usize {
        self.within.as_ref().map_or(usize::MAX, Vec::len)
    }

    fn may_be_in(&self, memcg: MemcgId) -> bool {
        self.within.as_ref().is_none_or(|within| within.contains(&memcg))
    }
}

impl<W> Counts<W> {
    pub(super) fn new(counting: Counting) -> Self {
        Self {
            counting,
            tallies: HashMap::new(),
            incomplete: false,
            rising: BTreeSet::new(),
            active: BTreeSet::new(),
            waiting: VecDeque::new(),
            unplaced: VecDeque::new(),
            doubles: Vec::new(),
            alone: VecDeque::new(),
            removed: VecDeque::new(),
            latest_ns: 0,
            settled_ns: 0,
            looks: Looks::new(counting),
        }
    }

    /// A source answered; who is to be asked now.
    pub(super) fn seen(&mut self, seen: Seen) -> Option<Looker> {
        self.looks.answered(seen)
    }

    /// Who is to be asked how far it read, once for each thing that waits.
    pub(super) fn wants_look(&mut self, now_ns: u64) -> Option<Looker> {
        let due_ns = self.first_due()?;
        self.looks.wanted(due_ns, now_ns)
    }

    /// A counter as it is when all kills so far are accounted for.
    pub(super) fn settled(&mut self, counters: &Counters) {
        let Some(kills) = counters.local_oom_kill else { return };
        self.rising.remove(&counters.memcg);
        if kills == 0 && !self.tallies.contains_key(&counters.memcg) {
            return;
        }
        let group_kills = counters.local_oom_group_kill.unwrap_or_default();
        if let Some(tally) = self.tally(counters.memcg, counters.boot_ns) {
            tally.path = Some(counters.path.clone());
            tally.read = tally.read.max(kills);
            tally.group_kills = tally.group_kills.max(group_kills);
            tally.settle();
        }
    }

    /// Not all cgroups could be read at the beginning.
    pub(super) fn is_incomplete(&mut self) {
        self.incomplete = true;
    }

    /// A cgroup is gone; what is known of it stays for what comes late.
    pub(super) fn removed(&mut self, memcg: MemcgId, now_ns: u64) {
        if self.tallies.contains_key(&memcg) {
            self.removed.push_back((now_ns, memcg));
        }
        while let Some((at, memcg)) = self.removed.front().copied() {
            if now_ns.saturating_sub(at) < FORGET_NS || self.rising.contains(&memcg) {
                break;
            }
            self.removed.pop_front();
            self.tallies.remove(&memcg);
        }
    }

    /// A kill with its cgroup. `again`: the kernel killed and counted this victim before.
    pub(super) fn witnessed(&mut self, memcg: MemcgId, now_ns: u64, again: bool, witness: W) -> Option<Told<W>> {
        self.active.insert(memcg);
        let has_marks = self.counting.marks;
        let Some(tally) = self.tally(memcg, now_ns) else { return (!again).then_some(Told::Witnessed(witness, None)) };
        tally.killed_ns = tally.killed_ns.max(now_ns);
        while tally.alone_ns.front().is_some_and(|at| now_ns.saturating_sub(*at) > LATE_NS) {
            tally.alone_ns.pop_front();
        }
        while tally.guessed_ns.front().is_some_and(|at| now_ns.saturating_sub(*at) > LATE_NS) {
            tally.guessed_ns.pop_front();
        }
        if tally.alone_ns.pop_front().or_else(|| tally.guessed_ns.pop_front()).is_some() {
            // It was told by its count.
            tally.alone -= 1;
            tally.witnessed += 1;
            return None;
        }
        tally.witnessed += 1;
        if !tally.take_rise_of(now_ns) && has_marks && tally.alone > 0 {
            // Its count was let go.
            tally.alone -= 1;
        }
        self.note_rising(memcg);
        Some(if again { Told::Twice(memcg) } else { Told::Witnessed(witness, None) })
    }

    /// A kill without its cgroup, which may lie within a known one.
    pub(super) fn unplaced(
        &mut self,
        since_ns: u64,
        now_ns: u64,
        within: Option<CgroupPath>,
        witness: W,
    ) -> Option<Told<W>> {
        if !self.counting.counters {
            return Some(Told::Witnessed(witness, None));
        }
        self.latest_ns = self.latest_ns.max(now_ns);
        self.waiting.push_back(Waiting { witness, since_ns, came_ns: now_ns, within });
        if self.waiting.len() <= MAX_WAITING {
            return None;
        }
        let oldest = self.waiting.pop_front()?;
        let candidates = self.candidates(&oldest);
        Some(self.give_up(oldest, candidates, now_ns))
    }

    /// A victim without its cgroup is counted twice.
    pub(super) fn unplaced_again(&mut self, now_ns: u64) {
        self.expect_count(None, now_ns);
    }

    /// A counter was read.
    pub(super) fn counted(&mut self, counters: &Counters) {
        let Some(kills) = counters.local_oom_kill else { return };
        let is_new = !self.tallies.contains_key(&counters.memcg);
        let settled = if is_new && self.incomplete { kills } else { 0 };
        let group_kills = counters.local_oom_group_kill.unwrap_or_default();
        let settled_ns = self.settled_ns;
        let Some(tally) = self.tally(counters.memcg, counters.boot_ns) else { return };
        if is_new {
            (tally.read, tally.settled) = (settled, settled);
        }
        tally.path = Some(counters.path.clone());
        let more_groups = group_kills.saturating_sub(tally.group_kills);
        tally.group_kills = tally.group_kills.max(group_kills);
        let (before, ahead) = (tally.counted(), tally.ahead());
        tally.read = tally.read.max(kills);
        let rise = (tally.counted() - before).saturating_sub(ahead);
        if tally.counted() > before {
            tally.rose_ns = counters.boot_ns.max(settled_ns.saturating_add(1));
            tally.killed_ns = tally.killed_ns.max(tally.rose_ns);
            self.active.insert(counters.memcg);
        }
        if rise > 0 {
            let Some(tally) = self.tallies.get_mut(&counters.memcg) else { return };
            tally.rise(rise, counters.boot_ns.max(settled_ns.saturating_add(1)));
        }
        self.note_rising(counters.memcg);
        for _ in 0..more_groups {
            let until_ns = counters.boot_ns.saturating_add(DOUBLE_NS);
            self.doubles.push(Double { within: counters.path.clone(), until_ns });
        }
    }

    /// Tells of what all sources were read.
    pub(super) fn seen_due(&mut self, now_ns: u64) -> Vec<Told<W>> {
        self.tell(now_ns, self.looks.seen_ns(now_ns).saturating_sub(self.grace()))
    }

    /// Tells what waited long enough, too.
    pub(super) fn due(&mut self, now_ns: u64) -> Vec<Told<W>> {
        self.tell(now_ns, self.looks.settled_ns(now_ns).saturating_sub(self.grace()))
    }

    /// Tells everything that waits: nothing more will come.
    pub(super) fn rest(&mut self) -> Vec<Told<W>> {
        self.tell(self.latest_ns, u64::MAX)
    }

    /// Tells what came until then.
    fn tell(&mut self, now_ns: u64, until_ns: u64) -> Vec<Told<W>> {
        self.settled_ns = self.settled_ns.max(until_ns.min(now_ns));
        let mut told = Vec::new();
        let mut reserved: HashMap<MemcgId, u64> = HashMap::new();
        let mut still = VecDeque::new();
        let waiting = std::mem::take(&mut self.waiting);
        let waiting: Vec<_> = waiting.into_iter().map(|waiting| (self.candidates(&waiting), waiting)).collect();
        let known_ns = if until_ns == u64::MAX { until_ns } else { self.witnessed_until(now_ns) };
        // By cgroup, witnesses of kills that may have been there.
        let mut claims: HashMap<MemcgId, u64> = HashMap::new();
        let claiming = waiting.iter().filter(|(_, waiting)| waiting.since_ns <= known_ns);
        for memcg in claiming.flat_map(|(candidates, _)| candidates) {
            *claims.entry(*memcg).or_default() += 1;
        }
        for (candidates, waiting) in waiting {
            if waiting.came_ns > until_ns {
                for memcg in candidates {
                    *reserved.entry(memcg).or_default() += 1;
                }
                still.push_back(waiting);
                continue;
            }
            let only = self.only(&candidates, &waiting, &claims, known_ns);
            for memcg in candidates.iter().filter(|_| waiting.since_ns <= known_ns) {
                claims.entry(*memcg).and_modify(|claims| *claims -= 1);
            }
            if let Some(only) = only {
                told.extend(self.place(only, waiting));
            } else if !self.take_alone(waiting.since_ns, waiting.within.as_ref()) {
                told.push(self.give_up(waiting, candidates, now_ns));
            }
        }
        self.waiting = still;
        let rising: Vec<MemcgId> = self.rising.iter().copied().collect();
        for memcg in rising {
            let kept = reserved.get(&memcg).copied().unwrap_or_default();
            self.tell_counted(memcg, until_ns, now_ns, kept, &mut told);
        }
        self.unplaced.retain(|unplaced| now_ns <= unplaced.until_ns);
        self.doubles.retain(|double| now_ns < double.until_ns);
        self.alone.retain(|alone| now_ns.saturating_sub(alone.told_ns) <= LATE_NS);
        let oldest_ns = until_ns.saturating_sub(LATE_NS);
        let is_active = |memcg: &MemcgId| self.tallies.get(memcg).is_some_and(|tally| tally.killed_ns >= oldest_ns);
        self.active.retain(is_active);
        told
    }

    /// Something is not settled yet.
    pub(super) fn waits(&self) -> bool {
        !self.waiting.is_empty() || !self.rising.is_empty()
    }

    /// When [`Self::seen_due`] or [`Self::wants_look`] has something next.
    pub(super) fn ask_at(&self) -> Option<u64> {
        self.looks.ask_at(self.first_due()?)
    }

    /// When [`Self::due`] has something next that these do not have.
    pub(super) fn give_up_at(&self) -> Option<u64> {
        self.looks.give_up_at(self.first_due()?)
    }

    /// When the first of what waits has waited for its grace.
    fn first_due(&self) -> Option<u64> {
        // What is older is kept for a witness, and told with it.
        let is_open = |(read_ns, _): &&(u64, u64)| *read_ns > self.settled_ns;
        let rises = self.rising.iter().filter_map(|memcg| self.tallies.get(memcg)?.rises.iter().find(is_open));
        let waiting = self.waiting.front().map(|waiting| waiting.came_ns);
        let next = rises.map(|(read_ns, _)| *read_ns).chain(waiting).min()?;
        Some(next.saturating_add(self.grace()))
    }

    fn grace(&self) -> u64 {
        if self.counting.log || self.counting.marks { GRACE_NS } else { ALONE_NS }
    }

    /// `None` where there is no room for another one.
    fn tally(&mut self, memcg: MemcgId, now_ns: u64) -> Option<&mut Tally> {
        if !self.tallies.contains_key(&memcg) && self.tallies.len() >= CAPACITY {
            self.incomplete = true;
            return None;
        }
        self.latest_ns = self.latest_ns.max(now_ns);
        let tally = self.tallies.entry(memcg).or_default();
        if tally.is_over(now_ns) {
            tally.settle();
        }
        tally.last_ns = tally.last_ns.max(now_ns);
        Some(tally)
    }

    fn note_rising(&mut self, memcg: MemcgId) {
        if self.tallies.get(&memcg).is_some_and(|tally| !tally.rises.is_empty()) {
            self.rising.insert(memcg);
        } else {
            self.rising.remove(&memcg);
        }
    }

    /// Cgroups in which this witness' kill may have been counted: also where each count is taken by now, for it may be
    /// another witness that took it.
    fn candidates(&self, waiting: &Waiting<W>) -> Vec<MemcgId> {
        self.around(waiting, |tally| tally.rose_ns.saturating_add(SKEW_NS))
    }

    /// Active cgroups where this witness' kill may be, if it was witnessed until then.
    fn around(&self, waiting: &Waiting<W>, until_ns: impl Fn(&Tally) -> u64) -> Vec<MemcgId> {
        let may_be = |memcg: &&MemcgId| {
            let Some(tally) = self.tallies.get(*memcg) else { return false };
            let is_there = |within: &CgroupPath| tally.path.is_none() || tally.is_within(within);
            waiting.since_ns <= until_ns(tally) && waiting.within.as_ref().is_none_or(is_there)
        };
        self.active.iter().filter(may_be).copied().collect()
    }

    /// There only, if there are counts left for all that claim one, and in no other cgroup kills were known of late: there a
    /// count may yet be read. One more claim than counts is a kill in a cgroup that was gone before it was looked at.
    fn only(
        &self,
        candidates: &[MemcgId],
        waiting: &Waiting<W>,
        claims: &HashMap<MemcgId, u64>,
        known_ns: u64,
    ) -> Option<MemcgId> {
        let [only] = candidates else { return None };
        let is_alone = || self.around(waiting, |tally| tally.killed_ns.saturating_add(LATE_NS)).len() == 1;
        let tally = self.tallies.get(only)?;
        // Of a count that was read later the witness may still be to come.
        let left = tally.risen_until(known_ns);
        // One that was told without a cgroup of late may have been there, too.
        let told = self.unplaced.iter().filter(|unplaced| unplaced.may_be_in(*only)).count() as u64;
        let claimed = claims.get(only)? + told;
        (claimed <= left && is_alone()).then_some(*only)
    }

    /// Kills until then are witnessed, where there is a witness of them. Of marks nobody says how far they were read.
    fn witnessed_until(&self, now_ns: u64) -> u64 {
        if self.counting.log { self.looks.log_ns() } else { now_ns.saturating_sub(SKEW_NS) }
    }

    fn place(&mut self, memcg: MemcgId, waiting: Waiting<W>) -> Option<Told<W>> {
        let tally = self.tallies.get_mut(&memcg)?;
        tally.witnessed += 1;
        let _counted = tally.take_rise_of(waiting.since_ns);
        let path = tally.path.clone()?;
        self.note_rising(memcg);
        Some(Told::Witnessed(waiting.witness, Some((memcg, path))))
    }

    /// Takes the oldest count told without a witness of late that may be of a kill witnessed then, in a cgroup in there:
    /// that kill is told already, wherever it was.
    fn take_alone(&mut self, witnessed_ns: u64, within: Option<&CgroupPath>) -> bool {
        let is_it = |alone: &Alone| {
            let tally = self.tallies.get(&alone.memcg).filter(|tally| !tally.alone_ns.is_empty());
            let is_there = tally.is_some_and(|tally| within.is_none_or(|within| tally.is_within(within)));
            is_there && witnessed_ns <= alone.read_ns.saturating_add(SKEW_NS)
        };
        let taken = self.alone.iter().position(is_it).and_then(|place| self.alone.remove(place));
        if let Some(tally) = taken.and_then(|alone| self.tallies.get_mut(&alone.memcg)) {
            tally.guessed_ns.extend(tally.alone_ns.pop_front());
        }
        taken.is_some()
    }

    fn give_up(&mut self, waiting: Waiting<W>, candidates: Vec<MemcgId>, now_ns: u64) -> Told<W> {
        // Where all counters were looked at meanwhile, its count was read; or its cgroup was gone.
        let within = (waiting.came_ns <= self.looks.counters_ns()).then_some(candidates);
        if within.as_ref().is_none_or(|within| !within.is_empty()) {
            self.expect_count(within, now_ns);
        }
        Told::Witnessed(waiting.witness, None)
    }

    /// A count that is still to be told is that of a witness which was.
    fn expect_count(&mut self, within: Option<Vec<MemcgId>>, now_ns: u64) {
        self.unplaced.push_back(Unplaced { within, until_ns: now_ns.saturating_add(LATE_NS) });
        if self.unplaced.len() > MAX_WAITING {
            self.unplaced.pop_front();
        }
    }

    /// All but the counts that witnesses may still be of that wait: `kept`.
    fn tell_counted(&mut self, memcg: MemcgId, until_ns: u64, now_ns: u64, kept: u64, told: &mut Vec<Told<W>>) {
        let Some(tally) = self.tallies.get_mut(&memcg) else { return };
        let due = tally.risen_until(until_ns).saturating_sub(kept);
        for number in 0..due {
            let read_ns = tally.rises.front().map_or(now_ns, |(read_ns, _)| *read_ns);
            tally.take_rise(0);
            let Some(path) = tally.path.clone() else { continue };
            let double = self.doubles.iter().position(|double| path.is_within(&double.within));
            // What is counted twice is counted at least twice.
            let double = double.filter(|_| tally.counted() >= 2);
            // The one with the fewest other places.
            let may_be = self.unplaced.iter().enumerate().filter(|(_, unplaced)| unplaced.may_be_in(memcg));
            let unplaced = may_be.min_by_key(|(_, unplaced)| unplaced.places()).map(|(place, _)| place);
            told.push(if unplaced.and_then(|place| self.unplaced.remove(place)).is_some() {
                tally.placed += 1;
                Told::Placed(memcg)
            } else if let Some(double) = double {
                self.doubles.swap_remove(double);
                tally.witnessed += 1;
                Told::Twice(memcg)
            } else {
                tally.alone += 1;
                // Where a program sees every mark a count only says where one was: Linux before 6.1 counts the first
                // victim of a group kill twice, and what the program lost is told by the comparison with all kills.
                if self.counting.marks {
                    continue;
                }
                tally.alone_ns.push_back(now_ns);
                self.alone.push_back(Alone { read_ns, told_ns: now_ns, memcg });
                Told::Counted(memcg, path, read_ns.saturating_add(number))
            });
        }
        self.note_rising(memcg);
    }
}

#[cfg(test)]
#[path = "counts_properties.rs"]
mod properties;
#[cfg(test)]
#[path = "counts_tests.rs"]
mod tests;
