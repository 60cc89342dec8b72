//! Finds sandboxes by themselves. A sentry is recognised by what a container cannot forge, never by its arguments alone:
//! its program was executed from a mount of the host, or runsc's own state names it; and it holds gVisor's memory file.
//!
//! Reads `/proc` and what [`super::sandbox`] reads. Arguments are read of processes of the host alone: a process of a
//! container can make a reader of its memory wait for ever.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use rustix::io::Errno;

use super::{
    argv::{Arguments, GoferArgs, SentryArgs},
    process::{HostMounts, Process, ProcessId, Processes},
    sandbox::{self, Details, Host, Reason},
    state,
};
use crate::host::{HostError, HostRoot, limit, memory::MemoryHierarchy};

/// For how long after its start a gofer is asked for its sandbox, nanoseconds: on a host that has no time for them it starts
/// in some ten seconds. Then it is left to the scans.
const GOFER_NS: u64 = 60_000_000_000;
/// How long a sentry may lack its state file before that counts, nanoseconds: runsc writes it some 100 ms after it
/// started the sentry, on a host that has no time for it a second and more. Without it the sandbox is named by its
/// arguments alone.
const SETTLED_NS: u64 = 3_000_000_000;
/// Roots of runsc remembered.
const MAX_ROOTS: usize = 64;
/// How old the known mounts of the host may be when one process is looked at, nanoseconds: they are read again before
/// any is believed, and a container can have programs looked at as often as it likes.
const MOUNTS_AGE_NS: u64 = 500_000_000;

/// Why a process is believed to be a sentry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Its program was executed from a mount of the host.
    HostProgram,
    /// A state file in a root of runsc names it (runsc of 2026 executes the sentry in a mount namespace of its own).
    StateFile,
}

/// A sandbox that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sandbox {
    /// Its kernel.
    pub sentry: ProcessId,
    /// The sentry's arguments.
    pub args: SentryArgs,
    /// Why it is believed.
    pub proof: Proof,
    /// What else is known of it.
    pub details: Details,
}

/// What a process is.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The sentry of a sandbox not known yet.
    Found(Box<Sandbox>),
    /// The sentry of a known sandbox.
    Known(ProcessId),
    /// It looks like a sentry that is starting: to be asked again, at first in some 20 ms. With what is known of its sandbox so
    /// far, where its program is believed.
    NotYet(Reason, Option<Box<Sandbox>>),
    /// It looks like a sentry and is none.
    Refused(Reason),
    /// Something else, or gone.
    Other,
}

/// When the files of a sandbox last changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The folder of all state files, where another may join this sandbox. It changes with every container of the host.
    root: Option<(i64, u64)>,
    /// The state file of its first container.
    state: (i64, u64),
}

impl Stamp {
    /// What counts of it for a sandbox of which this is known.
    pub(crate) fn of(self, details: &Details) -> Self {
        Self { root: self.root.filter(|_| details.may_be_joined()), ..self }
    }
}

/// What one scan found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Sandboxes not known before.
    pub found: Vec<Sandbox>,
    /// Processes that look like sentries that are starting: [`Discovery::check`] them again, at first in some 20 ms.
    pub starting: Vec<u32>,
    /// What was passed over and why, by number.
    pub skipped: BTreeMap<Reason, u32>,
}

/// A sandbox that was found before.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) sentry: ProcessId,
    /// State file of its first container.
    pub(super) state: Option<PathBuf>,
    /// As of the last look at it.
    pub(super) gofers: Vec<ProcessId>,
}

/// Finds sandboxes, and remembers which it found.
#[derive(Debug)]
pub(crate) struct Discovery {
    pub(super) root: HostRoot,
    pub(super) processes: Processes,
    pub(super) hierarchy: Option<MemoryHierarchy>,
    memory_bytes: Option<u64>,
    /// Mounts of the host, as of `mounts_ns`.
    mounts: HostMounts,
    mounts_ns: u64,
    /// By the sentry's process id.
    pub(super) known: HashMap<u32, Known>,
    /// Roots seen in the arguments of runsc's processes of the host.
    pub(super) roots: BTreeSet<PathBuf>,
    /// State files whose process is gone, and when they were written.
    pub(super) left_behind: HashMap<PathBuf, (i64, u64)>,
    /// There were more state files than are read in one go.
    pub(super) unread_states: bool,
    /// Gofers of the host, as of the last scan.
    gofers: Vec<(ProcessId, GoferArgs)>,
}

impl Discovery {
    /// Knows no sandbox yet. `hierarchy` is that of the memory controller, `None` where there is none.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub(crate) fn new(root: HostRoot, hierarchy: Option<MemoryHierarchy>) -> Result<Self, HostError> {
        let processes = Processes::open(&root)?;
        let mounts = HostMounts::read(&root)?;
        let mut this = Self {
            root,
            processes,
            hierarchy,
            memory_bytes: None,
            mounts,
            mounts_ns: 0,
            known: HashMap::new(),
            roots: BTreeSet::new(),
            left_behind: HashMap::new(),
            unread_states: false,
            gofers: Vec::new(),
        };
        this.read_memory();
        Ok(this)
    }

    /// Looks at all processes, and at the state files of known roots. `now_ns` is boot time.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub(crate) fn scan(&mut self, now_ns: u64) -> Result<Scan, HostError> {
        self.mounts = HostMounts::read(&self.root)?;
        self.mounts_ns = now_ns;
        self.read_memory();
        self.forget_dead();
        self.gofers.clear();
        let mut scan = Scan::default();
        let mut refused = BTreeMap::new();
        let pids = self.processes.all();
        for pid in pids.map_err(|errno| HostError::format(Path::new("/proc"), errno.to_string()))? {
            // Which of them live was just looked at.
            if !self.known.contains_key(&pid) {
                let verdict = self.judge(pid, now_ns);
                scan.take(pid, verdict, &mut refused);
            }
        }
        for (pid, verdict) in self.judge_by_state(now_ns, None) {
            scan.take(pid, verdict, &mut refused);
        }
        if self.unread_states {
            scan.skipped.insert(Reason::TooMany, 1);
        }
        for reason in refused.into_values() {
            *scan.skipped.entry(reason).or_default() += 1;
        }
        // Gofers whose sandbox was found after them.
        scan.starting
            .retain(|pid| !self.known.values().any(|known| known.gofers.iter().any(|gofer| gofer.pid == *pid)));
        Ok(scan)
    }

    /// Looks at one process, as after an `exec`. `now_ns` is boot time. `by_state`: a scan saw it, which asks the state
    /// files; of what only executed a program they are not asked, for a container can do that as often as it likes.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub(crate) fn check(&mut self, pid: u32, now_ns: u64, by_state: bool) -> Result<Verdict, HostError> {
        if now_ns.saturating_sub(self.mounts_ns) > MOUNTS_AGE_NS {
            self.mounts = HostMounts::read(&self.root)?;
            self.mounts_ns = now_ns;
        }
        let verdict = self.judge(pid, now_ns);
        // A gofer's sentry may be one that only the state tells.
        let may_be_told = match &verdict {
            Verdict::NotYet(Reason::StateMissing, _) => true,
            Verdict::Refused(Reason::ForeignProgram) => by_state,
            _ => false,
        };
        if !may_be_told {
            return Ok(verdict);
        }
        let by_state = self.judge_by_state(now_ns, Some(pid)).into_iter().next();
        Ok(by_state.map_or(verdict, |(_, verdict)| verdict))
    }

    /// Looks again at a sandbox that was found; `None` when its sentry is gone or on its way out, and what was known of
    /// it last is what it was.
    pub(crate) fn look(&self, sandbox: &Sandbox) -> Option<Details> {
        let sentry = self.processes.process(sandbox.sentry.pid).ok()?;
        if sentry.id().ok()? != sandbox.sentry {
            return None;
        }
        let mut details = self.host().look(&sentry, &sandbox.args, &sandbox.details.containers).ok()?;
        self.add_gofers(&sandbox.args, &mut details);
        Some(details)
    }

    /// Whether a sentry still is there.
    pub(crate) fn lives(&self, sentry: ProcessId) -> bool {
        self.processes.process(sentry.pid).and_then(|process| process.id()) == Ok(sentry)
    }

    /// Changes when the state files of its containers may have changed; `None` where there is none.
    pub(crate) fn stamp(&self, sandbox: &Sandbox) -> Option<Stamp> {
        let root = usual_form(sandbox.args.root.as_deref().filter(|root| root.is_absolute())?);
        let state = root.join(state::file_name(&sandbox.args.sandbox_id, &sandbox.args.sandbox_id));
        let root = if sandbox.details.may_be_joined() { Some(self.changed(&root)?) } else { None };
        Some(Stamp { root, state: self.changed(&state)? })
    }

    pub(super) fn changed(&self, path: &Path) -> Option<(i64, u64)> {
        let stat = rustix::fs::lstat(self.root.join(path).ok()?).ok()?;
        Some((stat.st_mtime, stat.st_mtime_nsec))
    }

    /// The sandbox ended.
    pub(crate) fn forget(&mut self, sentry: ProcessId) {
        if self.known.get(&sentry.pid).is_some_and(|known| known.sentry == sentry) {
            self.known.remove(&sentry.pid);
        }
    }

    /// A sandbox that was found has these gofers by now.
    pub(crate) fn know_gofers(&mut self, sentry: ProcessId, gofers: &[ProcessId]) {
        if let Some(known) = self.known.get_mut(&sentry.pid).filter(|known| known.sentry == sentry) {
            known.gofers = gofers.to_vec();
        }
    }

    fn forget_dead(&mut self) {
        let processes = &self.processes;
        let lives = |sentry: ProcessId| processes.process(sentry.pid).and_then(|process| process.id()).ok();
        self.known.retain(|_, known| lives(known.sentry) == Some(known.sentry));
    }

    pub(super) fn host(&self) -> Host<'_> {
        let (root, processes, hierarchy) = (&self.root, &self.processes, self.hierarchy.as_ref());
        Host { root, processes, hierarchy, memory_bytes: self.memory_bytes }
    }

    fn read_memory(&mut self) {
        self.memory_bytes = limit::host_memory(&self.root).or(self.memory_bytes);
    }

    /// By the process itself.
    fn judge(&mut self, pid: u32, now_ns: u64) -> Verdict {
        self.judge_process(pid, now_ns).unwrap_or_else(|errno| match errno {
            Errno::ACCESS | Errno::PERM => Verdict::Refused(Reason::Unreadable),
            Errno::TOOBIG => Verdict::Refused(Reason::BadArguments),
            _ => Verdict::Other,
        })
    }

    fn judge_process(&mut self, pid: u32, now_ns: u64) -> Result<Verdict, Errno> {
        if !self.processes.may_be_runsc(pid)? {
            return Ok(Verdict::Other);
        }
        let process = self.processes.process(pid)?;
        if let Some(known) = self.known.get(&pid)
            && process.id()? == known.sentry
        {
            return Ok(Verdict::Known(known.sentry));
        }
        if !self.mounts.contains(process.exe_mount()?) {
            return Ok(Verdict::Refused(Reason::ForeignProgram));
        }
        // Any user of the host can name a process and its memory file so, and hold up who reads his arguments and files.
        // runsc of root runs its sentries as these users.
        if !sandbox::is_trusted(process.uid()?) {
            return Ok(Verdict::Refused(Reason::UntrustedUser));
        }
        match Arguments::parse(&process.cmdline()?) {
            Err(_) => Ok(Verdict::Refused(Reason::BadArguments)),
            Ok(Arguments::Other) => Ok(Verdict::Other),
            Ok(Arguments::Gofer(args)) => self.judge_gofer(&process, args, now_ns),
            Ok(Arguments::Sentry(args)) if HostMounts::holds(&self.root, &process)? => {
                self.verify(&process, args, Proof::HostProgram, now_ns)
            }
            Ok(Arguments::Sentry(_)) => Ok(Verdict::Refused(Reason::ForeignProgram)),
        }
    }

    /// A gofer of the host. Its sandbox is another process, which a state file may have to tell.
    fn judge_gofer(&mut self, process: &Process, args: GoferArgs, now_ns: u64) -> Result<Verdict, Errno> {
        let gofer = process.id()?;
        self.learn(process, args.root.as_deref())?;
        if !self.gofers.iter().any(|(known, _)| *known == gofer) {
            self.gofers.push((gofer, args));
        }
        let known = self.known.values().find(|known| known.gofers.contains(&gofer));
        Ok(match known {
            Some(known) => Verdict::Known(known.sentry),
            None if age_ns(gofer, now_ns) < GOFER_NS => Verdict::NotYet(Reason::StateMissing, None),
            None => Verdict::Other,
        })
    }

    /// The program is believed; whether it is a sentry that has begun.
    pub(super) fn verify(
        &mut self,
        process: &Process,
        args: SentryArgs,
        proof: Proof,
        now_ns: u64,
    ) -> Result<Verdict, Errno> {
        let sentry = process.id()?;
        let age_ns = age_ns(sentry, now_ns);
        let has_memory_file = process.has_memory_file()?;
        let mut details = self.host().look(process, &args, &[])?;
        self.add_gofers(&args, &mut details);
        let passing = details.problems.iter().find(|reason| may_pass(**reason)).copied();
        let not_yet =
            if has_memory_file { passing.filter(|_| age_ns < SETTLED_NS) } else { Some(Reason::NoMemoryFile) };
        let sandbox = Box::new(Sandbox { sentry, args, proof, details });
        if let Some(reason) = not_yet {
            return Ok(Verdict::NotYet(reason, Some(sandbox)));
        }
        let root = sandbox.args.root.as_deref();
        self.learn(process, root)?;
        let state = root.map(|root| first_state(root, &sandbox.args.sandbox_id));
        self.known.insert(sentry.pid, Known { sentry, state, gofers: sandbox.details.gofers.clone() });
        Ok(Verdict::Found(sandbox))
    }

    /// Where no state file tells the gofers, the arguments do.
    fn add_gofers(&self, args: &SentryArgs, details: &mut Details) {
        if details.containers.is_empty() && args.bundle.is_some() {
            let same = |gofer: &GoferArgs| gofer.bundle == args.bundle && gofer.root == args.root;
            let gofers = self.gofers.iter().filter(|(_, gofer)| same(gofer));
            details.gofers.extend(gofers.map(|(gofer, _)| *gofer));
        }
    }

    /// Remembers a root that a process of the host uses.
    fn learn(&mut self, process: &Process, root: Option<&Path>) -> Result<(), Errno> {
        let root = root.filter(|root| root.is_absolute()).map(usual_form);
        if let Some(root) = root.filter(|root| self.roots.len() < MAX_ROOTS && !self.roots.contains(root))
            && sandbox::is_trusted(process.uid()?)
            && HostMounts::holds(&self.root, process)?
        {
            self.roots.insert(root);
        }
        Ok(())
    }
}

impl Scan {
    fn take(&mut self, pid: u32, verdict: Verdict, refused: &mut BTreeMap<u32, Reason>) {
        match verdict {
            Verdict::Found(sandbox) => {
                // Its program proved nothing; its state did.
                refused.remove(&pid);
                self.found.push(*sandbox);
            }
            Verdict::NotYet(..) => {
                refused.remove(&pid);
                self.starting.push(pid);
            }
            Verdict::Refused(reason) => {
                refused.insert(pid, reason);
            }
            Verdict::Known(_) | Verdict::Other => {}
        }
    }
}

fn age_ns(process: ProcessId, now_ns: u64) -> u64 {
    now_ns.saturating_sub(process.start_ns())
}

/// runsc may be about to write the state file.
fn may_pass(reason: Reason) -> bool {
    matches!(reason, Reason::StateMissing | Reason::StateMalformed | Reason::StateOfAnother)
}

/// `/var/run` is a link to `/run` everywhere.
fn usual_form(root: &Path) -> PathBuf {
    root.strip_prefix("/var/run").map_or_else(|_elsewhere| root.to_owned(), |below| Path::new("/run").join(below))
}

fn first_state(root: &Path, sandbox_id: &str) -> PathBuf {
    usual_form(root).join(state::file_name(sandbox_id, sandbox_id))
}

#[cfg(test)]
#[path = "discover_tests.rs"]
mod tests;
