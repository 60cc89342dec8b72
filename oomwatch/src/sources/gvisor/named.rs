//! Sentries that only runsc's own state files tell: runsc of 2026 executes a program of its own in a new mount namespace,
//! so that the mount it comes from proves nothing. Which folders are runsc's, its other processes on the host tell.

use std::{
    collections::BTreeSet,
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

/// State files read in one go that belong to no known sandbox, left behind ones among them.
const MAX_STATES: usize = 256;
/// Namespaces of containerd.
const MAX_NAMESPACES: usize = 64;
/// Folders that only runtimes write to: runsc by hand, docker.
const USUAL_ROOTS: [&str; 2] = ["/run/runsc", "/run/docker/runtime-runc/moby"];
/// containerd's: one folder a namespace.
const CONTAINERD_ROOTS: &str = "/run/containerd/runsc";

impl Discovery {
    /// By the state files in the known roots: sentries whose program comes from a mount namespace of its own. `only` is
    /// the sentry or gofer that is asked for.
    pub(super) fn judge_by_state(&mut self, now_ns: u64, only: Option<u32>) -> Vec<(u32, Verdict)> {
        let mut verdicts = Vec::new();
        for (root, sandbox_id) in self.unknown_states() {
            let Ok(state) = self.host().state(&root, &sandbox_id, &sandbox_id) else { continue };
            let Some(pid) = state.sandbox_pid else { continue };
            let asked = only.is_none_or(|only| only == pid || Some(only) == state.gofer_pid);
            if !asked || self.known.contains_key(&pid) {
                continue;
            }
            let verdict = self.judge_named(pid, &root, &state, now_ns);
            // A process that is gone or another left its state behind.
            verdicts.push((pid, verdict.unwrap_or(Verdict::Other)));
        }
        verdicts
    }

    /// Root and sandbox of state files that belong to no known sandbox. Roots that are gone are forgotten.
    fn unknown_states(&mut self) -> Vec<(PathBuf, String)> {
        let containerd = Path::new(CONTAINERD_ROOTS);
        let namespaces = self.root.list(containerd, MAX_NAMESPACES).unwrap_or_default().names;
        let usual = USUAL_ROOTS.iter().map(PathBuf::from);
        let roots: BTreeSet<PathBuf> = usual
            .chain(namespaces.iter().map(|name| containerd.join(name)))
            .chain(self.roots.iter().cloned())
            .collect();
        let known: BTreeSet<&Path> = self.known.values().filter_map(|known| known.state.as_deref()).collect();
        let mut unknown = Vec::new();
        let mut gone = Vec::new();
        for root in roots {
            let names = match self.root.list(&root, MAX_NAMES) {
                Ok(listing) => listing.names,
                Err(error) => {
                    gone.extend(matches!(error, HostError::Gone { .. }).then_some(root));
                    continue;
                }
            };
            for name in names {
                let Some((container, sandbox)) = state::ids_in_name(name.as_bytes()) else { continue };
                if container == sandbox && unknown.len() < MAX_STATES && !known.contains(root.join(&name).as_path()) {
                    unknown.push((root.clone(), sandbox.to_owned()));
                }
            }
        }
        self.roots.retain(|root| !gone.contains(root));
        unknown
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
