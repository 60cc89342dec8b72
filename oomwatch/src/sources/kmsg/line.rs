//! Lines that the OOM killer writes to the kernel's log (`mm/oom_kill.c`, `mm/memcontrol.c`, Linux 5.10 to 7.2). Names of
//! tasks and cgroups stand in them as they are, and whoever runs in a container chooses them: they may look like any
//! part of a line. So a line is read from both ends, from what the kernel alone writes, and where more than one reading
//! is left, all of them are given.

use crate::{cgroup_path::CgroupPath, observation::VictimMemory};

/// Longest name of a task, bytes (`TASK_COMM_LEN` without its NUL).
const MAX_COMM: usize = 15;
const KIB: u64 = 1024;

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// `COMM invoked oom-killer: ...`: a dump begins.
    Invoked { comm: Vec<u8> },
    /// `CPU: 0 PID: 1 Comm: COMM ...`: the task of the dump.
    Cpu { tid: u32, rest: Vec<u8> },
    /// `memory: usage 1kB, limit 2kB, failcnt 3`: of the memcg whose limit was hit.
    Usage { usage_bytes: u64, limit_bytes: Option<u64> },
    /// `oom-kill:...`: the dump ends.
    Summary(Summary),
    /// `...: Killed process 1 (COMM) ...`
    Killed(Killed),
    /// `Tasks in PATH are going to be killed due to memory.oom.group set`
    Group(CgroupPath),
    /// `...: OOM victim 1 (COMM) is already exiting. Skip killing the task`
    Skipped,
}

/// The one line with the cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) constraint: Option<&'static str>,
    pub(super) pid: u32,
    /// What it may say, more than one where names look like parts of the line.
    pub(super) readings: Vec<Reading>,
}

/// One way to read the names of a summary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reading {
    /// `None` where the host ran out.
    pub(super) oom_memcg: Option<CgroupPath>,
    pub(super) task_memcg: CgroupPath,
    pub(super) comm: Vec<u8>,
}

/// A kill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Killed {
    pub(super) of_memcg: bool,
    pub(super) tid: u32,
    pub(super) comm: Vec<u8>,
    pub(super) memory: VictimMemory,
    pub(super) uid: Option<u32>,
    pub(super) oom_score_adj: Option<i32>,
}

impl Line {
    /// `None` for all that is not of the OOM killer, and for what is cut.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        summary(text)
            .or_else(|| killed(text))
            .or_else(|| group(text))
            .or_else(|| skipped(text))
            .or_else(|| invoked(text))
            .or_else(|| cpu(text))
            .or_else(|| usage(text))
    }
}

/// Whether a line begins like a summary: it may be cut, for the kernel writes it piece by piece.
pub(super) fn begins_summary(text: &[u8]) -> bool {
    text.starts_with(b"oom-kill:constraint=")
}

const CONSTRAINTS: [&str; 4] = ["CONSTRAINT_NONE", "CONSTRAINT_CPUSET", "CONSTRAINT_MEMORY_POLICY", "CONSTRAINT_MEMCG"];

/// `oom-kill:constraint=C,nodemask=N,cpuset=X,mems_allowed=M,oom_memcg=P,task_memcg=Q,task=COMM,pid=D,uid=U`, or
/// `global_oom` instead of `oom_memcg=P`.
fn summary(text: &[u8]) -> Option<Line> {
    let rest = text.strip_prefix(b"oom-kill:constraint=")?;
    let constraint = CONSTRAINTS.into_iter().find(|name| {
        let after = rest.strip_prefix(name.as_bytes());
        after.is_some_and(|after| after.starts_with(b",nodemask="))
    });
    let (rest, uid) = cut_last(rest, b",uid=")?;
    // An id that this namespace does not map is written as -1.
    let _checked: i64 = number(uid)?;
    let (rest, pid) = cut_last(rest, b",pid=")?;
    // The cpuset's is a name and not a path: no slash that it chose comes before these.
    let (of_memcg, at) = match (find(rest, b",oom_memcg=/"), find(rest, b",global_oom,task_memcg=/")) {
        (Some(memcg), Some(global)) if global < memcg => (false, global),
        (Some(memcg), _) => (true, memcg),
        (None, Some(global)) => (false, global),
        (None, None) => return None,
    };
    let names = rest.get(at..)?;
    let readings = if of_memcg {
        memcg_readings(names.strip_prefix(b",oom_memcg=")?)
    } else {
        task_readings(names.strip_prefix(b",global_oom,task_memcg=")?, None)
    };
    (!readings.is_empty()).then_some(Line::Summary(Summary { constraint, pid: number(pid)?, readings }))
}

/// The victim's memcg lies in the one whose limit was hit.
fn memcg_readings(names: &[u8]) -> Vec<Reading> {
    const TASK: &[u8] = b",task_memcg=";
    let mut readings = Vec::new();
    for at in all(names, b",task_memcg=/") {
        let (Some(oom_memcg), Some(rest)) = (names.get(..at), names.get(at + TASK.len()..)) else { continue };
        let oom_memcg = CgroupPath::from_bytes(oom_memcg);
        readings.extend(task_readings(rest, Some(&oom_memcg)));
    }
    readings
}

fn task_readings(names: &[u8], oom_memcg: Option<&CgroupPath>) -> Vec<Reading> {
    const TASK: &[u8] = b",task=";
    let mut readings = Vec::new();
    for at in all(names, TASK) {
        let (Some(path), Some(comm)) = (names.get(..at), names.get(at + TASK.len()..)) else { continue };
        let task_memcg = CgroupPath::from_bytes(path);
        if comm.len() <= MAX_COMM && oom_memcg.is_none_or(|oom_memcg| task_memcg.is_within(oom_memcg)) {
            readings.push(Reading { oom_memcg: oom_memcg.cloned(), task_memcg, comm: comm.to_vec() });
        }
    }
    readings
}

/// `Memory cgroup out of memory: Killed process 1 (COMM) total-vm:2kB, anon-rss:3kB, file-rss:4kB, shmem-rss:5kB, UID:6
/// pgtables:7kB oom_score_adj:8`
fn killed(text: &[u8]) -> Option<Line> {
    const OF_MEMCG: &[u8] = b"Memory cgroup out of memory: Killed process ";
    const OF_HOST: [&[u8]; 2] =
        [b"Out of memory: Killed process ", b"Out of memory (oom_kill_allocating_task): Killed process "];
    let (of_memcg, rest) = match text.strip_prefix(OF_MEMCG) {
        Some(rest) => (true, rest),
        None => (false, OF_HOST.into_iter().find_map(|prefix| text.strip_prefix(prefix))?),
    };
    let (rest, figures) = cut_last(rest, b") total-vm:")?;
    let open = find(rest, b" (")?;
    let (tid, comm) = (number(rest.get(..open)?)?, rest.get(open + 2..)?);
    let mut figures = Figures(figures);
    let memory = VictimMemory {
        total_vm_bytes: figures.kib(b"")?,
        anon_rss_bytes: figures.kib(b", anon-rss:")?,
        file_rss_bytes: figures.kib(b", file-rss:")?,
        shmem_rss_bytes: figures.kib(b", shmem-rss:")?,
        swap_bytes: None,
        pgtables_bytes: 0,
    };
    let uid = figures.number(b", UID:")?;
    let memory = VictimMemory { pgtables_bytes: figures.kib(b" pgtables:")?, ..memory };
    let oom_score_adj = figures.number(b" oom_score_adj:")?;
    let of = Killed { of_memcg, tid, comm: comm.to_vec(), memory, uid, oom_score_adj };
    (comm.len() <= MAX_COMM).then_some(Line::Killed(of))
}

/// Numbers behind their names, in order.
struct Figures<'a>(&'a [u8]);

impl Figures<'_> {
    fn kib(&mut self, name: &[u8]) -> Option<u64> {
        let kib: u64 = self.number(name)??;
        self.0 = self.0.strip_prefix(b"kB")?;
        kib.checked_mul(KIB)
    }

    /// `Some(None)` for a number that is not of this kind.
    #[expect(clippy::option_option, reason = "a line that is not as it should be, and a number that is too large")]
    fn number<T: std::str::FromStr>(&mut self, name: &[u8]) -> Option<Option<T>> {
        let rest = self.0.strip_prefix(name)?;
        let end = rest.iter().position(|byte| !byte.is_ascii_digit() && *byte != b'-').unwrap_or(rest.len());
        self.0 = rest.get(end..)?;
        (end > 0).then(|| number(rest.get(..end)?))
    }
}

/// `Tasks in PATH are going to be killed due to memory.oom.group set`
fn group(text: &[u8]) -> Option<Line> {
    let path = text.strip_prefix(b"Tasks in ")?.strip_suffix(b" are going to be killed due to memory.oom.group set")?;
    path.starts_with(b"/").then(|| Line::Group(CgroupPath::from_bytes(path)))
}

fn skipped(text: &[u8]) -> Option<Line> {
    let out = text.starts_with(b"Memory cgroup out of memory: OOM victim ") || text.starts_with(b"Out of memory");
    (out && text.ends_with(b") is already exiting. Skip killing the task")).then_some(Line::Skipped)
}

/// `COMM invoked oom-killer: gfp_mask=0x1(...), order=0, oom_score_adj=0`
fn invoked(text: &[u8]) -> Option<Line> {
    let (comm, _) = cut_last(text, b" invoked oom-killer: gfp_mask=0x")?;
    (comm.len() <= MAX_COMM).then(|| Line::Invoked { comm: comm.to_vec() })
}

/// `CPU: 0 UID: 0 PID: 1 Comm: COMM Not tainted ...`; before Linux 6.12 without the user.
fn cpu(text: &[u8]) -> Option<Line> {
    let rest = skip_number(text.strip_prefix(b"CPU: ")?);
    let rest = rest.strip_prefix(b" UID: ").map_or(rest, skip_number);
    let rest = rest.strip_prefix(b" PID: ")?;
    let comm = find(rest, b" Comm: ")?;
    Some(Line::Cpu { tid: number(rest.get(..comm)?)?, rest: rest.get(comm + b" Comm: ".len()..)?.to_vec() })
}

fn skip_number(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    text.get(end..).unwrap_or_default()
}

/// `memory: usage 16384kB, limit 16384kB, failcnt 261`
fn usage(text: &[u8]) -> Option<Line> {
    let mut figures = Figures(text);
    let usage_bytes = figures.kib(b"memory: usage ")?;
    let limit_bytes = figures.kib(b", limit ")?;
    figures.0.strip_prefix(b", failcnt ")?;
    let limit_bytes = Some(limit_bytes).filter(|bytes| *bytes < crate::host::limit::NO_LIMIT);
    Some(Line::Usage { usage_bytes, limit_bytes })
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    str::from_utf8(text).ok()?.parse().ok()
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

fn all(text: &[u8], wanted: &[u8]) -> Vec<usize> {
    let windows = text.windows(wanted.len()).enumerate();
    windows.filter(|(_, window)| *window == wanted).map(|(at, _)| at).collect()
}

/// What lies before and after the last `wanted`.
fn cut_last<'a>(text: &'a [u8], wanted: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = text.windows(wanted.len()).rposition(|window| window == wanted)?;
    Some((text.get(..at)?, text.get(at + wanted.len()..)?))
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
