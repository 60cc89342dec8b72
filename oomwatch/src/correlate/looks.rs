//! How far the sources of witnesses and counts were read, and when to ask them: on a host without time for the agent there
//! are lines and counts that it did not read yet.

use super::{Counting, Looker};
use crate::observation::Seen;

/// What waits for an answer waits this long at the most.
pub(super) const SILENT_NS: u64 = 2_000_000_000;
/// The sources are asked this often at most: to look at every counter of a large host takes milliseconds.
pub(super) const LOOK_EVERY_NS: u64 = 100_000_000;

/// What the sources said.
#[derive(Debug)]
pub(super) struct Looks {
    counting: Counting,
    log_ns: u64,
    counters_ns: u64,
    asked_ns: u64,
}

impl Looks {
    pub(super) fn new(counting: Counting) -> Self {
        Self { counting, log_ns: 0, counters_ns: 0, asked_ns: 0 }
    }

    /// All lines written until then were witnessed, or all kills until then counted. Gives who is to be asked now: the log
    /// comes after the counters, for of what they counted the line is there, too.
    pub(super) fn answered(&mut self, seen: Seen) -> Option<Looker> {
        match seen {
            Seen::Log(until_ns) => {
                self.log_ns = self.log_ns.max(until_ns);
                None
            }
            Seen::Counters(until_ns) => {
                self.counters_ns = self.counters_ns.max(until_ns);
                self.counting.log.then_some(Looker::Log)
            }
        }
    }

    /// Who is to be asked for what is due then; once.
    pub(super) fn wanted(&mut self, due_ns: u64, now_ns: u64) -> Option<Looker> {
        self.ask_ns(due_ns).filter(|at_ns| *at_ns <= now_ns)?;
        self.asked_ns = now_ns;
        Some(if self.counting.counters { Looker::Counters } else { Looker::Log })
    }

    /// When to ask; `None` where it is seen or asked for.
    fn ask_ns(&self, due_ns: u64) -> Option<u64> {
        let is_open = self.all_ns().max(self.asked_ns) < due_ns;
        is_open.then(|| due_ns.max(self.asked_ns.saturating_add(LOOK_EVERY_NS)))
    }

    /// When there is something to be done that does not depend on how long nothing was heard: to tell what is due then, or to
    /// ask.
    pub(super) fn ask_at(&self, due_ns: u64) -> Option<u64> {
        if self.all_ns() >= due_ns { Some(due_ns) } else { self.ask_ns(due_ns) }
    }

    /// When what is due then is waited for no longer; `None` where it need not be.
    pub(super) fn give_up_at(&self, due_ns: u64) -> Option<u64> {
        (self.all_ns() < due_ns).then(|| due_ns.saturating_add(SILENT_NS))
    }

    /// Up to where everything was read.
    pub(super) fn seen_ns(&self, now_ns: u64) -> u64 {
        self.all_ns().min(now_ns)
    }

    /// Up to where everything was read, or was waited for long enough.
    pub(super) fn settled_ns(&self, now_ns: u64) -> u64 {
        self.seen_ns(now_ns).max(now_ns.saturating_sub(SILENT_NS))
    }

    /// Up to where the log was read.
    pub(super) fn log_ns(&self) -> u64 {
        self.log_ns
    }

    /// Up to where the counters were.
    pub(super) fn counters_ns(&self) -> u64 {
        self.counters_ns
    }

    fn all_ns(&self) -> u64 {
        let Counting { counters, log, marks } = self.counting;
        let log_ns = if log { self.log_ns } else { u64::MAX };
        // Without witnesses there is nobody to wait for.
        let counters_ns = if counters && (log || marks) { self.counters_ns } else { u64::MAX };
        log_ns.min(counters_ns)
    }
}
