//! What container engines leave on disk about a cgroup's workload: names, image, pod, runtime. No
//! engine is asked, no socket opened. Files read: OCI bundles, docker's and podman's records, the
//! state of runc and crun, `/proc` of the shim, kubelet's log folders; found wherever the engine
//! was told to keep them, as the shim's own arguments and working folder say.

mod bundle;
mod docker;
mod pods;
mod search;
mod state;
mod storage;
mod supervisor;
mod users;

use std::path::PathBuf;

use self::search::Search;
pub(crate) use self::users::Users;
use super::HostRoot;
use crate::workload::{CgroupIdentity, Workload};

/// What the disk added to what the path said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// All that is known of the workload. `cgroup_id` and `cgroup_version` are the caller's to fill.
    pub workload: Workload,
    /// The container's cgroup: how many components its path has. Known here also for containers
    /// whose path tells nothing (runc by hand, `docker run --cgroup-parent`).
    pub container_depth: Option<usize>,
    /// The container's init process, as its runtime or engine wrote it down.
    pub init_pid: Option<u32>,
    /// The process asked of is a runtime's own, before the container's program begins: what the runtime writes may come yet.
    pub is_beginning: bool,
    /// Files that were there but could not be used, a few at most.
    pub problems: Vec<Problem>,
}

/// A file that was there but could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Why not.
    pub reason: Reason,
    /// The file, seen from the root.
    pub path: PathBuf,
}

/// Why a file was not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The kernel refused to open or read it.
    Unreadable,
    /// No regular file, too large, or an unsafe path.
    NotUsable,
    /// Not the JSON it should be: half-written, of another version, or hostile.
    Malformed,
    /// It is about another container than the one asked for.
    OtherContainer,
    /// It is about another cgroup than the one asked for.
    OtherCgroup,
    /// It names another pod than the cgroup's path.
    OtherPod,
    /// A folder holds more entries than are looked at.
    TooManyEntries,
    /// More bytes would be read than one question is worth.
    BudgetSpent,
}

impl Reason {
    /// A short fixed name, fit for the label of a counter.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::NotUsable => "not_usable",
            Self::Malformed => "malformed",
            Self::OtherContainer => "other_container",
            Self::OtherCgroup => "other_cgroup",
            Self::OtherPod => "other_pod",
            Self::TooManyEntries => "too_many_entries",
            Self::BudgetSpent => "budget_spent",
        }
    }
}

/// Describes the workload of the cgroup `cgroup_path`, whose path was read as `identity`.
/// `process` is any live process in it, the init or another: its ancestors lead to the engine's
/// shim, and that to folders in unusual places. Without it the usual places are looked at.
///
/// A file about another container, pod or cgroup is not used. Reads at most 16 MiB.
pub fn describe(root: &HostRoot, identity: &CgroupIdentity, cgroup_path: &[u8], process: Option<u32>) -> Description {
    let mut search = Search::new(root, identity, cgroup_path);
    let process = process.and_then(|pid| supervisor::Process::read(&mut search, pid));
    search.is_beginning = process.as_ref().is_some_and(supervisor::Process::is_runtimes_own);
    let supervisor = process.and_then(|process| supervisor::find(&mut search, process));
    bundle::look(&mut search, supervisor.as_ref());
    state::look(&mut search);
    docker::look(&mut search);
    storage::look(&mut search);
    if identity.user.is_none() {
        pods::look(&mut search);
    }
    search.finish()
}

#[cfg(test)]
mod tests;
