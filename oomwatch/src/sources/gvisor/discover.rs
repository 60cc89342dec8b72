//! Finds sandboxes by themselves. A sentry is recognised by what a container cannot forge, never by its arguments alone:
//! its program was executed from a mount of the host, or runsc's own state names it; and it holds gVisor's memory file.
//!
//! Reads `/proc` and what [`super::sandbox`] reads. Arguments are read of processes of the host alone: a process of a
//! container can make a reader of its memory wait for ever.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use procfs::{FromRead as _, Meminfo};
use rustix::io::Errno;

use super::{
    argv::{Arguments, GoferArgs, SentryArgs},
    process::{self, HostMounts, Process, ProcessId},
    sandbox::{self, Details, Host, Reason},
    state::{self, State, StateCgroup},
};
use crate::host::{HostError, HostRoot, memory::MemoryHierarchy};

/// How long a sentry may lack its memory file or its state file before that counts, nanoseconds: runsc writes the state
/// some 100 ms after it started the sentry.
const SETTLED_NS: u64 = 700_000_000;
/// Roots of runsc remembered.
const MAX_ROOTS: usize = 64;
/// Names listed in a root, and states read in one go that belong to no known sandbox.
const MAX_NAMES: usize = 16_384;
const MAX_STATES: usize = 256;
/// Begins the names of the programs that runsc of 2026 brings along.
const SIDECAR: &[u8] = b"gvisor";
/// Roots that only runtimes write to: runsc by hand, docker's. containerd's lie below [`CONTAINERD_ROOTS`].
const USUAL_ROOTS: [&str; 2] = ["/run/runsc", "/run/docker/runtime-runc/moby"];
const CONTAINERD_ROOTS: &str = "/run/containerd/runsc";

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
    /// It looks like a sentry that is starting: to be asked again in some 20 ms.
    NotYet(Reason),
    /// It looks like a sentry and is none.
    Refused(Reason),
    /// Something else, or gone.
    Other,
}

/// What one scan found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Sandboxes not known before.
    pub found: Vec<Sandbox>,
    /// Processes that look like sentries that are starting: [`Discovery::check`] them again in some 20 ms.
    pub starting: Vec<u32>,
    /// What was passed over and why, by number.
    pub skipped: BTreeMap<Reason, u32>,
}

/// A sandbox that was found before.
#[derive(Debug)]
struct Known {
    sentry: ProcessId,
    /// State file of its first container.
    state: Option<PathBuf>,
}

/// Finds sandboxes, and remembers which it found.
#[derive(Debug)]
pub(crate) struct Discovery {
    root: HostRoot,
    hierarchy: Option<MemoryHierarchy>,
    memory_bytes: Option<u64>,
    /// By the sentry's process id.
    known: HashMap<u32, Known>,
    /// Roots seen in the arguments of runsc's processes of the host.
    roots: BTreeSet<PathBuf>,
    /// Gofers of the host, as of the last scan.
    gofers: Vec<(ProcessId, GoferArgs)>,
}

impl Discovery {
    /// Knows no sandbox yet. `hierarchy` is that of the memory controller, `None` where there is none.
    pub(crate) fn new(root: HostRoot, hierarchy: Option<MemoryHierarchy>) -> Self {
        let (known, roots) = (HashMap::new(), BTreeSet::new());
        Self { root, hierarchy, memory_bytes: None, known, roots, gofers: Vec::new() }
    }

    /// Looks at all processes, and at the state files of known roots. `now_ns` is boot time.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub(crate) fn scan(&mut self, now_ns: u64) -> Result<Scan, HostError> {
        let mounts = HostMounts::read(&self.root)?;
        self.read_memory();
        self.forget_dead();
        self.gofers.clear();
        let mut scan = Scan::default();
        for pid in process::all(&self.root)? {
            let verdict = self.judge(pid, &mounts, now_ns);
            scan.take(pid, verdict);
        }
        for (pid, verdict) in self.judge_by_state(&mounts, now_ns, None) {
            scan.take(pid, verdict);
        }
        Ok(scan)
    }

    /// Looks at one process, as after an `exec`.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub(crate) fn check(&mut self, pid: u32, now_ns: u64) -> Result<Verdict, HostError> {
        let mounts = HostMounts::read(&self.root)?;
        if self.memory_bytes.is_none() {
            self.read_memory();
        }
        let verdict = self.judge(pid, &mounts, now_ns);
        if !matches!(verdict, Verdict::NotYet(Reason::ForeignProgram)) {
            return Ok(verdict);
        }
        let by_state = self.judge_by_state(&mounts, now_ns, Some(pid)).into_iter().next();
        Ok(by_state.map_or(verdict, |(_, verdict)| verdict))
    }

    /// Looks again at a sandbox that was found; `None` when its sentry is gone or on its way out, and what was known of
    /// it last is what it was.
    pub(crate) fn look(&self, sandbox: &Sandbox) -> Option<Details> {
        let sentry = Process::open(&self.root, sandbox.sentry.pid).ok()?;
        if sentry.id().ok()? != sandbox.sentry {
            return None;
        }
        let mut details = self.host().look(&sentry, &sandbox.args).ok()?;
        self.add_gofers(&sandbox.args, &mut details);
        Some(details)
    }

    /// The sandbox ended.
    pub(crate) fn forget(&mut self, sentry: ProcessId) {
        if self.known.get(&sentry.pid).is_some_and(|known| known.sentry == sentry) {
            self.known.remove(&sentry.pid);
        }
    }

    fn forget_dead(&mut self) {
        let root = &self.root;
        let lives = |sentry: ProcessId| Process::open(root, sentry.pid).ok()?.id().ok();
        self.known.retain(|_, known| lives(known.sentry) == Some(known.sentry));
    }

    fn host(&self) -> Host<'_> {
        Host { root: &self.root, hierarchy: self.hierarchy.as_ref(), memory_bytes: self.memory_bytes }
    }

    fn read_memory(&mut self) {
        let text = self.root.read_bounded(Path::new("/proc/meminfo"), 64 << 10).ok();
        let memory = text.and_then(|text| Meminfo::from_read(text.as_slice()).ok());
        self.memory_bytes = memory.map(|memory| memory.mem_total).or(self.memory_bytes);
    }

    /// By the process itself.
    fn judge(&mut self, pid: u32, mounts: &HostMounts, now_ns: u64) -> Verdict {
        let process = match Process::open(&self.root, pid) {
            Ok(process) => process,
            Err(HostError::Gone { .. }) => return Verdict::Other,
            Err(_) => return Verdict::Refused(Reason::Unreadable),
        };
        let verdict = self.judge_open(pid, &process, mounts, now_ns);
        verdict.unwrap_or_else(|errno| match errno {
            Errno::ACCESS | Errno::PERM => Verdict::Refused(Reason::Unreadable),
            _ => Verdict::Other,
        })
    }

    fn judge_open(
        &mut self,
        pid: u32,
        process: &Process,
        mounts: &HostMounts,
        now_ns: u64,
    ) -> Result<Verdict, Errno> {
        let comm = process.comm()?;
        if !may_be_runsc(&comm) {
            return Ok(Verdict::Other);
        }
        if let Some(known) = self.known.get(&pid)
            && process.id()? == known.sentry
        {
            return Ok(Verdict::Known(known.sentry));
        }
        if !mounts.contains(process.exe_mount()?) {
            let starts = comm.starts_with(SIDECAR) && is_young(process.id()?, now_ns);
            return Ok(unless(starts, Reason::ForeignProgram));
        }
        match Arguments::parse(&process.cmdline()?) {
            Err(_) => Ok(Verdict::Refused(Reason::BadArguments)),
            Ok(Arguments::Other) => Ok(Verdict::Other),
            Ok(Arguments::Prewarmer) => Ok(unless(is_young(process.id()?, now_ns), Reason::NoMemoryFile)),
            Ok(Arguments::Gofer(args)) => {
                self.learn(process, args.root.as_deref())?;
                self.gofers.push((process.id()?, args));
                Ok(Verdict::Other)
            }
            Ok(Arguments::Sentry(args)) => self.verify(process, args, Proof::HostProgram, now_ns),
        }
    }

    /// The program is believed; whether it is a sentry that has begun.
    fn verify(&mut self, process: &Process, args: SentryArgs, proof: Proof, now_ns: u64) -> Result<Verdict, Errno> {
        let sentry = process.id()?;
        let young = is_young(sentry, now_ns);
        if !process.has_memory_file()? {
            return Ok(unless(young, Reason::NoMemoryFile));
        }
        let mut details = self.host().look(process, &args)?;
        if young && let Some(reason) = details.problems.iter().find(|reason| may_pass(**reason)) {
            return Ok(Verdict::NotYet(*reason));
        }
        self.add_gofers(&args, &mut details);
        self.learn(process, args.root.as_deref())?;
        let state = args.root.as_deref().map(|root| first_state(root, &args.sandbox_id));
        self.known.insert(sentry.pid, Known { sentry, state });
        Ok(Verdict::Found(Box::new(Sandbox { sentry, args, proof, details })))
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
        {
            self.roots.insert(root);
        }
        Ok(())
    }

    /// By the state files in the known roots: sentries whose program comes from a mount namespace of its own. `only` is
    /// the process that is asked for.
    fn judge_by_state(&mut self, mounts: &HostMounts, now_ns: u64, only: Option<u32>) -> Vec<(u32, Verdict)> {
        let mut verdicts = Vec::new();
        for (root, sandbox_id) in self.unknown_states() {
            let Ok(state) = self.host().state(&root, &sandbox_id, &sandbox_id) else { continue };
            let Some(pid) = state.sandbox_pid.filter(|pid| only.is_none_or(|only| only == *pid)) else { continue };
            if self.known.contains_key(&pid) {
                continue;
            }
            let verdict = self.judge_named(pid, &root, &state, mounts, now_ns);
            // A process that is gone or another left its state behind.
            verdicts.push((pid, verdict.unwrap_or(Verdict::Other)));
        }
        verdicts
    }

    /// Root and sandbox of state files that belong to no known sandbox.
    fn unknown_states(&mut self) -> Vec<(PathBuf, String)> {
        let mut roots: BTreeSet<PathBuf> = USUAL_ROOTS.iter().map(PathBuf::from).collect();
        let containerd = Path::new(CONTAINERD_ROOTS);
        let namespaces = self.root.list(containerd, MAX_ROOTS).unwrap_or_default().names;
        roots.extend(namespaces.iter().map(|name| containerd.join(name)));
        self.roots.retain(|root| !matches!(self.root.list(root, 1), Err(HostError::Gone { .. })));
        roots.extend(self.roots.iter().cloned());
        let known: BTreeSet<&Path> = self.known.values().filter_map(|known| known.state.as_deref()).collect();
        let mut unknown = Vec::new();
        for root in roots {
            let names = self.root.list(&root, MAX_NAMES).unwrap_or_default().names;
            for name in names {
                let Some((container, sandbox)) = state::ids_in_name(name.as_bytes()) else { continue };
                if container == sandbox && !known.contains(root.join(&name).as_path()) && unknown.len() < MAX_STATES {
                    unknown.push((root.clone(), sandbox.to_owned()));
                }
            }
        }
        unknown
    }

    /// The process that a state file names. The file may be left from a sandbox that is gone, and its process id given
    /// to another since: either it is in the cgroup that the file names, which no container can choose, or the gofer
    /// that the file names still lives.
    fn judge_named(
        &mut self,
        pid: u32,
        root: &Path,
        state: &State,
        mounts: &HostMounts,
        now_ns: u64,
    ) -> Result<Verdict, Errno> {
        let Ok(process) = Process::open(&self.root, pid) else { return Ok(Verdict::Other) };
        let in_cgroup = match (&state.cgroup, &self.hierarchy) {
            (StateCgroup::V1 { path, .. } | StateCgroup::V2 { path, .. }, Some(hierarchy)) if path.depth() > 0 => {
                process.memory_cgroup(hierarchy.version)?.is_within(path)
            }
            _ => self.is_gofer_of_host(state.gofer_pid, mounts),
        };
        if !in_cgroup {
            return Ok(Verdict::Other);
        }
        match Arguments::parse(&process.cmdline()?) {
            Ok(Arguments::Sentry(mut args)) if args.sandbox_id == state.sandbox_id => {
                // What the process says of the place of its files is not believed.
                args.root = Some(root.to_owned());
                self.verify(&process, args, Proof::StateFile, now_ns)
            }
            _ => Ok(Verdict::Other),
        }
    }

    fn is_gofer_of_host(&self, pid: Option<u32>, mounts: &HostMounts) -> bool {
        let process = pid.and_then(|pid| Process::open(&self.root, pid).ok());
        process.is_some_and(|process| {
            process.exe_mount().is_ok_and(|mount| mounts.contains(mount))
                && process.cmdline().is_ok_and(|argv| matches!(Arguments::parse(&argv), Ok(Arguments::Gofer(_))))
        })
    }
}

impl Scan {
    fn take(&mut self, pid: u32, verdict: Verdict) {
        match verdict {
            Verdict::Found(sandbox) => self.found.push(*sandbox),
            Verdict::NotYet(_) => self.starting.push(pid),
            Verdict::Refused(reason) => *self.skipped.entry(reason).or_default() += 1,
            Verdict::Known(_) | Verdict::Other => {}
        }
    }
}

/// Names of runsc's processes: `exe`, for it executes `/proc/self/exe`, or the name of a program of its own.
fn may_be_runsc(comm: &[u8]) -> bool {
    comm == b"exe" || comm.starts_with(b"runsc") || comm.starts_with(SIDECAR)
}

fn is_young(process: ProcessId, now_ns: u64) -> bool {
    now_ns.saturating_sub(process.start_ns()) < SETTLED_NS
}

fn unless(starting: bool, reason: Reason) -> Verdict {
    if starting { Verdict::NotYet(reason) } else { Verdict::Refused(reason) }
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
