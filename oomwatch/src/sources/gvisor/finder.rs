//! Which sandboxes there are: looks at processes as they start, at those that are starting until they have begun, and at
//! all of them now and then.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    discover::{Discovery, Sandbox, Verdict},
    process::ProcessId,
    sandbox::Reason,
};
use crate::stats::Stats;

/// When a sentry that is starting is looked at again: it opens its memory file within some 20 ms,
const STARTING_NS: u64 = 10_000_000;
/// on a host that is slow or does not let it have a processor within minutes. So each look comes this part of the time so
/// far after the one before.
const STARTING_PART: u64 = 16;
/// The longest time between two looks.
const STARTING_LONGEST_NS: u64 = 2_000_000_000;
/// How often it is told that one is starting: what is told is forgotten after three of these.
const ANNOUNCE_NS: u64 = 20_000_000_000;
/// A sentry that takes this long is said and counted, once, as one that is not watched.
const STARTING_LATE_NS: u64 = 10_000_000_000;
/// How often all processes are looked at, where starts are told by the kernel; a net below that.
const SCAN_NS: u64 = 60_000_000_000;
/// The same where they are not told: a sandbox is to be found within a second.
const SCAN_ALONE_NS: u64 = 800_000_000;
/// For how long after a hint that a start was missed, or that only a state file tells a sentry, scans come as often.
const ALERT_NS: u64 = 2_000_000_000;
/// From such a hint to the first of these scans: runsc writes the state file some 100 ms after it started the sentry.
const HINT_NS: u64 = 200_000_000;

/// A sentry that is starting.
#[derive(Debug, Clone, Copy)]
struct Starting {
    since_ns: u64,
    due_ns: u64,
    /// It was said that it takes long.
    is_late: bool,
    /// Its state file may be what tells it.
    by_state: bool,
}

impl Starting {
    fn at(now_ns: u64, by_state: bool) -> Self {
        Self { since_ns: now_ns, due_ns: now_ns, is_late: false, by_state }
    }

    /// After a look that came too early.
    fn again(self, now_ns: u64) -> Self {
        let age_ns = now_ns.saturating_sub(self.since_ns);
        let pause_ns = (age_ns / STARTING_PART).clamp(STARTING_NS, STARTING_LONGEST_NS);
        Self { due_ns: now_ns.saturating_add(pause_ns), is_late: age_ns >= STARTING_LATE_NS, ..self }
    }
}

/// What was found.
pub(super) enum Found {
    /// A sandbox that has not begun yet. A kill in it may come before runsc has written what makes it one.
    Starting(Box<Sandbox>),
    /// A sandbox.
    Begun(Box<Sandbox>),
    /// One that was starting ended before it had begun.
    Gone(ProcessId),
}

/// Finds sandboxes.
pub(super) struct Finder {
    pub(super) discovery: Discovery,
    /// By process id.
    starting: BTreeMap<u32, Starting>,
    /// Sandboxes that are starting, as told and when, by the sentry's process id.
    announced: BTreeMap<u32, (ProcessId, u64)>,
    scan_every_ns: u64,
    scan_ns: u64,
    scanned_ns: u64,
    /// Until then scans are as frequent as where no starts are told.
    alert_until_ns: u64,
    stats: Arc<Stats>,
    skipped: BTreeSet<Reason>,
    out: Vec<Found>,
}

impl Finder {
    /// `sees_exec` where the kernel tells of starts.
    pub(super) fn new(discovery: Discovery, sees_exec: bool, stats: Arc<Stats>) -> Self {
        for reason in Reason::ALL {
            stats.resolution_failed(reason.as_str(), 0);
        }
        Self {
            discovery,
            starting: BTreeMap::new(),
            announced: BTreeMap::new(),
            scan_every_ns: if sees_exec { SCAN_NS } else { SCAN_ALONE_NS },
            scan_ns: 0,
            scanned_ns: 0,
            alert_until_ns: 0,
            stats,
            skipped: BTreeSet::new(),
            out: Vec::new(),
        }
    }

    /// What was found since the last call.
    pub(super) fn take_found(&mut self) -> Vec<Found> {
        std::mem::take(&mut self.out)
    }

    /// A process that may be a sentry began a program.
    pub(super) fn exec(&mut self, pid: u32, now_ns: u64) {
        self.starting.insert(pid, Starting::at(now_ns, false));
        self.check_starting(now_ns);
    }

    /// Does what is due; whether that was a look at all processes.
    pub(super) fn tick(&mut self, now_ns: u64) -> bool {
        let scans = self.scan_ns <= now_ns;
        if scans {
            self.scan(now_ns);
        }
        self.check_starting(now_ns);
        scans
    }

    /// When [`Self::tick`] is next due.
    pub(super) fn next_deadline(&self) -> u64 {
        self.starting.values().map(|starting| starting.due_ns).chain([self.scan_ns]).min().unwrap_or(self.scan_ns)
    }

    /// A start may have been missed. However many hints there are, and a container can give as many as it likes, scans
    /// keep their distance.
    pub(super) fn scan_soon(&mut self, now_ns: u64) {
        self.alert_until_ns = now_ns.saturating_add(ALERT_NS);
        let earliest_ns = self.scanned_ns.saturating_add(SCAN_ALONE_NS).max(now_ns.saturating_add(HINT_NS));
        self.scan_ns = self.scan_ns.min(earliest_ns);
    }

    fn scan(&mut self, now_ns: u64) {
        self.scanned_ns = now_ns;
        let every_ns = if now_ns < self.alert_until_ns { SCAN_ALONE_NS } else { self.scan_every_ns };
        self.scan_ns = now_ns.saturating_add(every_ns);
        let scan = match self.discovery.scan(now_ns) {
            Ok(scan) => scan,
            Err(error) => {
                tracing::warn!(%error, "gVisor sandboxes cannot be looked for");
                return;
            }
        };
        for sandbox in scan.found {
            self.found(Box::new(sandbox));
        }
        for pid in scan.starting {
            self.starting.entry(pid).or_insert(Starting::at(now_ns, true)).by_state = true;
        }
        for (reason, count) in scan.skipped {
            self.note_skipped(reason, count);
        }
    }

    /// Counted always, said once for each reason; a sandbox passed over again and again is no news.
    pub(super) fn note_skipped(&mut self, reason: Reason, count: u32) {
        self.stats.resolution_failed(reason.as_str(), u64::from(count));
        if self.skipped.insert(reason) {
            tracing::info!(reason = reason.as_str(), count, "a process that looks like gVisor is not watched");
        }
    }

    fn check_starting(&mut self, now_ns: u64) {
        let due = self.starting.iter().filter(|(_, starting)| starting.due_ns <= now_ns);
        for pid in due.map(|(pid, _)| *pid).collect::<Vec<_>>() {
            let Some(starting) = self.starting.remove(&pid) else { continue };
            match self.discovery.check(pid, now_ns, starting.by_state) {
                Ok(Verdict::Found(sandbox)) => self.found(sandbox),
                Ok(Verdict::NotYet(reason, sandbox)) => {
                    let again = starting.again(now_ns);
                    if again.is_late && !starting.is_late && reason == Reason::NoMemoryFile {
                        self.note_skipped(reason, 1);
                    }
                    self.starting.insert(pid, again);
                    self.announce(sandbox, now_ns);
                    continue;
                }
                Ok(Verdict::Refused(reason)) => {
                    self.note_skipped(reason, 1);
                    // Its runtime may have mounts of its own; then its state file tells, which is yet to be written.
                    if reason == Reason::ForeignProgram {
                        self.scan_soon(now_ns);
                    }
                }
                Ok(Verdict::Known(sentry)) => tracing::debug!(pid = sentry.pid, "a sandbox began a program"),
                Ok(Verdict::Other) => {}
                Err(error) => tracing::debug!(%error, pid, "a process cannot be looked at"),
            }
            // It ended before it was found. What lives may still come to be found.
            if let Some((id, _)) = self.announced.remove(&pid).filter(|(id, _)| !self.discovery.lives(*id)) {
                self.out.push(Found::Gone(id));
            }
        }
    }

    fn announce(&mut self, sandbox: Option<Box<Sandbox>>, now_ns: u64) {
        let Some(sandbox) = sandbox else { return };
        let id = sandbox.sentry;
        let is_told = |(told, told_ns): &(ProcessId, u64)| *told == id && now_ns < told_ns.saturating_add(ANNOUNCE_NS);
        if !self.announced.get(&id.pid).is_some_and(is_told) {
            self.announced.insert(id.pid, (id, now_ns));
            self.out.push(Found::Starting(sandbox));
        }
    }

    fn found(&mut self, sandbox: Box<Sandbox>) {
        self.announced.remove(&sandbox.sentry.pid);
        self.out.push(Found::Begun(sandbox));
    }
}
