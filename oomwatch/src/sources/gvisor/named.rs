//! Sentries that only runsc's own state files tell: runsc of 2026 executes a program of its own in a new mount namespace,
//! so that the mount it comes from proves nothing. Which folders are runsc's, its other processes on the host tell.

use std::{
    collections::{BTreeSet, HashMap},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use rustix::io::Errno;

use super::{
    argv::Arguments,
    discover::{Discovery, Proof, Verdict},
    process::HostMounts,
    sandbox::MAX_NAMES,
    state::{self, State, StateCgroup},
};
use crate::host::HostError;

/// State files read in one go that belong to no known sandbox; those left behind are read once.
const MAX_STATES: usize = 256;
/// Namespaces of containerd.
const MAX_NAMESPACES: usize = 64;
/// Folders that only runtimes write to: runsc by hand, docker.
const USUAL_ROOTS: [&str; 2] = ["/run/runsc", "/run/docker/runtime-runc/moby"];
/// containerd's: one folder a namespace.
const CONTAINERD_ROOTS: &str = "/run/containerd/runsc";

/// The state file of a sandbox' first container.
struct StateFile {
    root: PathBuf,
    sandbox_id: String,
    path: PathBuf,
    /// When it was last written.
    changed: Option<(i64, u64)>,
}

impl Discovery {
    /// By the state files in the known roots: sentries whose program comes from a mount namespace of its own. `only` is
    /// the sentry or gofer that is asked for.
    pub(super) fn judge_by_state(&mut self, now_ns: u64, only: Option<u32>) -> Vec<(u32, Verdict)> {
        let mut verdicts = Vec::new();
        for file in self.unknown_states() {
            let Ok(state) = self.host().state(&file.root, &file.sandbox_id, &file.sandbox_id) else { continue };
            let Some(pid) = state.sandbox_pid else { continue };
            let asked = only.is_none_or(|only| only == pid || Some(only) == state.gofer_pid);
            if !asked || self.known.contains_key(&pid) {
                continue;
            }
            let verdict = self.judge_named(pid, &file.root, &state, now_ns);
            // It was left behind, and is of nobody until it is written again.
            if let (Err(Errno::NOENT | Errno::SRCH), Some(changed)) = (&verdict, file.changed) {
                self.left_behind.insert(file.path, changed);
            }
            verdicts.push((pid, verdict.unwrap_or(Verdict::Other)));
        }
        verdicts
    }

    /// State files that belong to no known sandbox. Roots that are gone are forgotten.
    fn unknown_states(&mut self) -> Vec<StateFile> {
        let mut unknown = Vec::new();
        let mut left_behind = HashMap::new();
        let known: BTreeSet<PathBuf> = self.known.values().filter_map(|known| known.state.clone()).collect();
        self.unread_states = false;
        for root in self.possible_roots() {
            let names = match self.root.list(&root, MAX_NAMES) {
                Ok(listing) => listing.names,
                Err(error) => {
                    if matches!(error, HostError::Gone { .. }) {
                        self.roots.remove(&root);
                    }
                    continue;
                }
            };
            for name in names {
                let Some((container, sandbox)) = state::ids_in_name(name.as_bytes()) else { continue };
                let path = root.join(&name);
                if container != sandbox || known.contains(&path) {
                    continue;
                }
                let changed = self.changed(&path);
                match (self.left_behind.get(&path).copied(), changed) {
                    (Some(before), Some(now)) if before == now => {
                        left_behind.insert(path, now);
                    }
                    _ if unknown.len() < MAX_STATES => {
                        unknown.push(StateFile { root: root.clone(), sandbox_id: sandbox.to_owned(), path, changed });
                    }
                    _ => self.unread_states = true,
                }
            }
        }
        self.left_behind = left_behind;
        unknown
    }

    fn possible_roots(&self) -> BTreeSet<PathBuf> {
        let containerd = Path::new(CONTAINERD_ROOTS);
        let namespaces = self.root.list(containerd, MAX_NAMESPACES).unwrap_or_default().names;
        let usual = USUAL_ROOTS.iter().map(PathBuf::from);
        usual.chain(namespaces.iter().map(|name| containerd.join(name))).chain(self.roots.iter().cloned()).collect()
    }

    /// The process that a state file names. The file may be left from a sandbox that is gone, and its process id given
    /// to another since: either it is in the cgroup that the file names, which no container can choose, or the gofer
    /// that the file names still lives.
    fn judge_named(&mut self, pid: u32, root: &Path, state: &State, now_ns: u64) -> Result<Verdict, Errno> {
        let process = self.processes.process(pid)?;
        let in_cgroup = match (&state.cgroup, &self.hierarchy) {
            (StateCgroup::V1 { path, .. } | StateCgroup::V2 { path, .. }, Some(hierarchy)) if path.depth() > 0 => {
                process.memory_cgroup(hierarchy.version)?.is_within(path)
            }
            _ => self.is_gofer_of_host(state.gofer_pid),
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

    fn is_gofer_of_host(&self, pid: Option<u32>) -> bool {
        let process = pid.and_then(|pid| self.processes.process(pid).ok());
        process.is_some_and(|process| {
            let arguments = process.cmdline().map(|cmdline| Arguments::parse(&cmdline));
            matches!(arguments, Ok(Ok(Arguments::Gofer(_)))) && HostMounts::holds(&self.root, &process) == Ok(true)
        })
    }
}
