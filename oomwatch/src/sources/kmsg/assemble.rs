//! Lines of the kernel's log to kills. The OOM killer runs one at a time (`oom_lock`), so its lines come in order, other
//! lines perhaps in between: a dump with trigger, usage and summary, then the kill; `Tasks in ... are going to be
//! killed` and one more kill for each member of a group. Of dumps the kernel writes ten in five seconds, of kills all.
//! The one who writes to a serial console waits for it: a line takes 13 ms at 115,200 baud, 156 ms at 9,600.

use super::{
    dumps::Dumps,
    line::{Killed, Line, Reading, Summary, begins_summary},
    record::Record,
};
use crate::observation::{LoggedGroup, LoggedKill, LoggedMemcg, LoggedTrigger};

/// Longest time between two lines of one group kill, by the kernel's clock. It does not sleep between them, but the host
/// may stand still: 12 s were seen in a virtual machine.
const GROUP_GAP_MICROS: u64 = 60_000_000;
/// The same where a kill without a dump may be another one, whose dump was left out.
const CROWDED_GAP_MICROS: u64 = 200_000;
/// How long a kill waits for the line that says that a group kill began with it: the kernel writes it right after.
const SETTLE_NS: u64 = 15_000_000;
/// The same where such a line is to come. No longer, for a container may have changed the setting meanwhile, and a kill that
/// waits for a second seems to be missing.
const GROUP_SETTLE_NS: u64 = 900_000_000;
/// Pieces of a summary that was cut: at 1,000 bytes each, two paths of `PATH_MAX` fit.
const MAX_PIECES: u32 = 10;

/// A group kill under way.
#[derive(Debug, Clone)]
struct Group {
    named: LoggedGroup,
    first_tid: u32,
    first_comm: Vec<u8>,
    /// It was killed for the second time.
    is_first_again: bool,
    /// The first victim as it was told, for its second kill.
    task_memcg: Option<LoggedMemcg>,
    oom_memcg: Option<LoggedMemcg>,
    trigger: Option<LoggedTrigger>,
    constraint: Option<&'static str>,
    last_micros: u64,
}

/// What was read so far.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    dump: Dump,
    dumps: Dumps,
    /// A summary that is not whole, and of how many pieces it is.
    cut: Option<(Vec<u8>, u32)>,
    /// A group kill may have begun with it.
    last: Option<Last>,
    group: Option<Group>,
}

/// The last kill.
#[derive(Debug)]
struct Last {
    kill: LoggedKill,
    is_passed_on: bool,
    /// When it waits no longer for what follows it, by `CLOCK_BOOTTIME`.
    until_ns: u64,
}

/// When a record was written and read, nanoseconds of `CLOCK_BOOTTIME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) written_ns: u64,
    pub(super) read_ns: u64,
}

/// A dump under way.
#[derive(Debug, Default)]
struct Dump {
    trigger: Option<LoggedTrigger>,
    usage: Option<(u64, Option<u64>)>,
    summary: Option<Summary>,
}

impl Assembler {
    /// Takes in a record; the kill before it, if there was one that it does not belong to. A new kill
    /// is completed at once, for its task may soon be gone; `complete` says whether it is to be of a group kill.
    pub(super) fn take(
        &mut self,
        record: &Record,
        times: Times,
        complete: impl FnOnce(&mut LoggedKill) -> bool,
    ) -> Option<LoggedKill> {
        if !record.of_kernel {
            return None;
        }
        if is_of_new_interval(&record.text) {
            self.dumps.begin_anew();
        }
        let line = self.whole_line(record);
        match line? {
            Line::Invoked { comm } => {
                self.dump = Dump::default();
                self.dump.trigger = Some(LoggedTrigger { tid: None, pid: None, comm });
                self.group = None;
                self.forget_last()
            }
            Line::Cpu { tid, rest } => {
                if let Some(trigger) =
                    self.dump.trigger.as_mut().filter(|it| it.tid.is_none() && is_of(&it.comm, &rest))
                {
                    trigger.tid = Some(tid);
                }
                None
            }
            Line::Usage { usage_bytes, limit_bytes } => {
                self.dump.usage = Some((usage_bytes, limit_bytes));
                None
            }
            Line::Summary(summary) => {
                self.dump.summary = Some(summary);
                self.group = None;
                self.forget_last()
            }
            Line::Skipped => {
                self.dump = Dump::default();
                self.forget_last()
            }
            Line::Killed(killed) => {
                let before = self.flush();
                let (mut kill, is_doubtful) = self.kill(killed, record, times);
                let kills_as_group = complete(&mut kill);
                self.settle_group(&mut kill, is_doubtful, record.micros);
                let begins_group = kill.group.is_none() || self.dumps.may_be_left_out(record.micros);
                let wait_ns = if kills_as_group && begins_group { GROUP_SETTLE_NS } else { SETTLE_NS };
                let until_ns = kill.read_ns.saturating_add(wait_ns);
                self.last = Some(Last { kill, is_passed_on: false, until_ns });
                before
            }
            Line::Group(path) => {
                self.begin_group(path, record.micros);
                self.flush()
            }
        }
    }

    /// Nothing followed the last kill.
    pub(super) fn flush(&mut self) -> Option<LoggedKill> {
        let last = self.last.as_mut()?;
        (!std::mem::replace(&mut last.is_passed_on, true)).then(|| last.kill.clone())
    }

    /// What follows belongs to no kill before it.
    fn forget_last(&mut self) -> Option<LoggedKill> {
        let last = self.flush();
        self.last = None;
        last
    }

    /// The last kill, where nothing followed it for long enough.
    pub(super) fn settled(&mut self, now_ns: u64, at_once: bool) -> Option<LoggedKill> {
        if at_once || now_ns >= self.last.as_ref()?.until_ns { self.flush() } else { None }
    }

    /// A kill waits for what follows it.
    pub(super) fn waits(&self) -> bool {
        self.held().is_some()
    }

    /// The number of its record.
    pub(super) fn held(&self) -> Option<u64> {
        self.last.as_ref().filter(|last| !last.is_passed_on).map(|last| last.kill.seq)
    }

    /// Records are missing: nothing that comes belongs to what was before.
    pub(super) fn interrupted(&mut self, micros: u64) -> Option<LoggedKill> {
        self.dumps.left_out(micros);
        self.dump = Dump::default();
        self.cut = None;
        self.group = None;
        self.forget_last()
    }

    /// Joins a summary that the kernel wrote in pieces.
    fn whole_line(&mut self, record: &Record) -> Option<Line> {
        if let Some((text, pieces)) = self.cut.take_if(|_| record.is_fragment) {
            let whole = [text, record.text.clone()].concat();
            let line = Line::parse(&whole);
            if line.is_none() && pieces < MAX_PIECES {
                self.cut = Some((whole, pieces + 1));
            }
            return line;
        }
        let line = Line::parse(&record.text);
        if begins_summary(&record.text) {
            self.dumps.written(record.micros);
            self.cut = line.is_none().then(|| (record.text.clone(), 1));
        }
        line
    }

    fn begin_group(&mut self, path: crate::cgroup_path::CgroupPath, micros: u64) {
        self.group = None;
        let Some(Last { kill: first, .. }) = self.last.as_mut() else { return };
        let group = LoggedGroup { first_seq: first.seq, path };
        if first.group.replace(group.clone()).is_some() {
            // It was taken for one of the group before.
            (first.trigger, first.constraint, first.oom_memcg) = (None, None, None);
            first.again = false;
        }
        self.group = Some(Group {
            named: group,
            first_tid: first.tid,
            first_comm: first.comm.clone(),
            is_first_again: false,
            task_memcg: first.task_memcg.clone(),
            oom_memcg: first.oom_memcg.clone(),
            trigger: first.trigger.clone(),
            constraint: first.constraint,
            last_micros: micros,
        });
    }

    /// Whether a kill is of the group after all: a victim outside of the cgroup that is killed as one may come after it, without
    /// a dump of its own.
    fn settle_group(&mut self, kill: &mut LoggedKill, is_doubtful: bool, micros: u64) {
        let (Some(of), Some(group)) = (&kill.group, &mut self.group) else { return };
        let is_inside = kill.task_memcg.as_ref().map(|memcg| memcg.path.is_within(&of.path));
        if kill.again || is_inside.unwrap_or(!is_doubtful) {
            group.last_micros = micros;
            return;
        }
        if is_inside.is_some() {
            self.dumps.left_out(micros);
        }
        (kill.group, kill.trigger, kill.constraint, kill.oom_memcg) = (None, None, None, None);
    }

    /// A kill, and whether it is of its group only if it is in there.
    fn kill(&mut self, killed: Killed, record: &Record, times: Times) -> (LoggedKill, bool) {
        let Dump { trigger, usage, summary } = std::mem::take(&mut self.dump);
        let Killed { of_memcg, tid, comm, memory, uid, oom_score_adj } = killed;
        let mut kill = LoggedKill {
            boot_ns: times.written_ns,
            read_ns: times.read_ns,
            seq: record.seq,
            pid: None,
            tid,
            ns_pid: None,
            is_init: None,
            comm,
            uid,
            oom_score_adj,
            memory,
            trigger: None,
            of_memcg,
            constraint: None,
            oom_memcg: None,
            task_memcg: None,
            group: None,
            again: false,
        };
        if let Some(summary) = summary {
            kill.trigger = trigger;
            kill.constraint = summary.constraint;
            kill.pid = Some(summary.pid);
            if let Some(reading) = only_reading(&summary, &kill) {
                let memcg = |path| LoggedMemcg { memcg: None, path, limit_bytes: None, usage_bytes: None };
                kill.task_memcg = Some(memcg(reading.task_memcg));
                kill.oom_memcg = reading.oom_memcg.map(|path| LoggedMemcg {
                    usage_bytes: usage.map(|(usage_bytes, _)| usage_bytes),
                    limit_bytes: usage.and_then(|(_, limit_bytes)| limit_bytes),
                    ..memcg(path)
                });
            }
        } else {
            let is_doubtful = self.join_group(&mut kill, record.micros);
            return (kill, is_doubtful);
        }
        (kill, false)
    }

    /// A kill without a dump of its own, after others of a group, is of that group; with some doubt where another one's dump
    /// may be left out.
    fn join_group(&mut self, kill: &mut LoggedKill, micros: u64) -> bool {
        let Some(group) = &mut self.group else {
            // Every other kill has a dump.
            self.dumps.left_out(micros);
            return false;
        };
        let age = micros.saturating_sub(group.last_micros);
        let is_first = !group.is_first_again && (kill.tid, &kill.comm) == (group.first_tid, &group.first_comm);
        if age > GROUP_GAP_MICROS {
            return false;
        }
        kill.group = Some(group.named.clone());
        kill.trigger.clone_from(&group.trigger);
        kill.constraint = group.constraint;
        kill.oom_memcg.clone_from(&group.oom_memcg);
        kill.again = is_first;
        if kill.again {
            kill.task_memcg.clone_from(&group.task_memcg);
            group.is_first_again = true;
        }
        !is_first && age > CROWDED_GAP_MICROS && self.dumps.may_be_left_out(micros)
    }
}

/// `oom_kill_process: 7 callbacks suppressed` is written right before the first dump after those that were left out.
fn is_of_new_interval(text: &[u8]) -> bool {
    text.starts_with(b"oom_kill_process: ") && text.ends_with(b" callbacks suppressed")
}

/// The kernel writes the name and a space.
fn is_of(comm: &[u8], rest: &[u8]) -> bool {
    rest.strip_prefix(comm).is_some_and(|after| after.starts_with(b" "))
}

/// The one way to read the summary that fits the kill. The summary is of the process, the kill of a thread of it that
/// still has memory.
fn only_reading(summary: &Summary, kill: &LoggedKill) -> Option<Reading> {
    let fits = |reading: &&Reading| {
        reading.oom_memcg.is_some() == kill.of_memcg && (summary.pid != kill.tid || reading.comm == kill.comm)
    };
    let mut fitting = summary.readings.iter().filter(fits);
    let first = fitting.next()?;
    fitting.next().is_none().then(|| first.clone())
}

#[cfg(test)]
#[path = "assemble_tests.rs"]
mod tests;
