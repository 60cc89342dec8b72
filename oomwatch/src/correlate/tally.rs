//! What is known of the kills in one cgroup: its counter, and which of its counts are told.

use std::collections::VecDeque;

use super::{counts::GRACE_NS, looks::SILENT_NS};
use crate::cgroup_path::CgroupPath;

/// A cgroup without kills for this long begins anew: what was witnessed and never counted is settled.
pub(super) const FORGET_NS: u64 = 10_000_000_000;
/// Rises of one counter kept apart; the rest are one.
pub(super) const MAX_RISES: usize = 64;

/// One cgroup.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    pub(super) path: Option<CgroupPath>,
    /// The counter as last read, and as it was when all was settled.
    pub(super) read: u64,
    pub(super) settled: u64,
    /// Since then: witnesses told, counts told without a witness, counts of witnesses that were told without a cgroup.
    pub(super) witnessed: u64,
    pub(super) alone: u64,
    pub(super) placed: u64,
    /// When counts were told without a witness; those that may still get theirs.
    pub(super) alone_ns: VecDeque<u64>,
    /// Those of them that were given to a witness without a cgroup, so that they may be another's.
    pub(super) guessed_ns: VecDeque<u64>,
    /// Counts that are none of these, by when they were read.
    pub(super) rises: VecDeque<(u64, u64)>,
    pub(super) group_kills: u64,
    /// When more was last read.
    pub(super) rose_ns: u64,
    /// When a kill was last known to be here, by its witness or its count.
    pub(super) killed_ns: u64,
    pub(super) last_ns: u64,
}

impl Tally {
    pub(super) fn is_within(&self, within: &CgroupPath) -> bool {
        self.path.as_ref().is_some_and(|path| path.is_within(within))
    }

    pub(super) fn is_over(&self, now_ns: u64) -> bool {
        self.rises.is_empty() && now_ns.saturating_sub(self.last_ns) > FORGET_NS
    }

    pub(super) fn settle(&mut self) {
        self.settled = self.read;
        self.witnessed = 0;
        self.alone = 0;
        self.placed = 0;
        self.alone_ns.clear();
        self.guessed_ns.clear();
        self.rises.clear();
    }

    pub(super) fn counted(&self) -> u64 {
        self.read.saturating_sub(self.settled)
    }

    /// Of the rises, those read until then.
    pub(super) fn risen_until(&self, until_ns: u64) -> u64 {
        self.rises.iter().filter(|(read_ns, _)| *read_ns <= until_ns).map(|(_, kills)| kills).sum()
    }

    /// So much more was counted.
    pub(super) fn rise(&mut self, kills: u64, read_ns: u64) {
        let is_full = self.rises.len() >= MAX_RISES;
        match self.rises.back_mut().filter(|_| is_full) {
            Some(last) => *last = (read_ns, last.1 + kills),
            None => self.rises.push_back((read_ns, kills)),
        }
    }

    /// Takes the oldest count that may be of a kill witnessed then: one read long before cannot be. The first line of a
    /// log is as late as it is read, for nothing says yet when it was written; so it may be any count that still waits.
    pub(super) fn take_rise_of(&mut self, witnessed_ns: u64) -> bool {
        let may_be = |(read_ns, _): &(u64, u64)| witnessed_ns <= read_ns.saturating_add(GRACE_NS + SILENT_NS);
        let place = self.rises.iter().position(may_be);
        if let Some(place) = place {
            self.take_rise(place);
        }
        place.is_some()
    }

    pub(super) fn take_rise(&mut self, place: usize) {
        if let Some(rise) = self.rises.get_mut(place) {
            rise.1 -= 1;
            if rise.1 == 0 {
                self.rises.remove(place);
            }
        }
    }

    /// Witnesses whose counts are still to come.
    pub(super) fn ahead(&self) -> u64 {
        let with_count = self.counted().saturating_sub(self.risen_until(u64::MAX));
        (self.witnessed + self.alone + self.placed).saturating_sub(with_count)
    }
}
