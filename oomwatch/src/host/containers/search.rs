//! One search for a workload: what is asked for, what was found so far, and the bounds on reading.

use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::de::DeserializeOwned;

use super::{Description, Problem, Reason};
use crate::host::{HostError, HostRoot, Listing};
use crate::workload::escape::is_slice;
use crate::workload::oci::Names;
use crate::workload::path::components;
use crate::workload::{CgroupIdentity, Engine, Runtime, Workload};

/// The largest file read: runc's state and docker's record are some 20 KiB, podman's list of all
/// containers some 600 bytes each.
const MAX_FILE_BYTES: usize = 4 << 20;
/// The bytes one search may read: it runs when a cgroup is made and when something was killed.
const MAX_TOTAL_BYTES: usize = 16 << 20;
/// Problems kept: enough to see a pattern.
const MAX_PROBLEMS: usize = 16;

/// A search under way.
#[derive(Debug)]
pub(super) struct Search<'a> {
    root: &'a HostRoot,
    /// The asked cgroup's names below the agent's own host.
    names: Vec<&'a [u8]>,
    base_depth: usize,
    /// The container's id, by the path or by a file that names this very cgroup.
    pub(super) id: Option<String>,
    /// The container's cgroup: so many of `names`.
    pub(super) depth: Option<usize>,
    /// The user whose service manager made it.
    pub(super) user: Option<u32>,
    /// Whether the path can be a container of any name: a plain cgroup or a scope.
    pub(super) may_have_any_name: bool,
    /// Where the container's engine may keep more files: found on the way.
    pub(super) docker_folders: Vec<PathBuf>,
    pub(super) state_folders: Vec<PathBuf>,
    pub(super) storage_folders: Vec<PathBuf>,
    /// What was found.
    pub(super) workload: Workload,
    pub(super) init_pid: Option<u32>,
    pub(super) is_beginning: bool,
    problems: Vec<Problem>,
    bytes_left: usize,
}

/// Whether a cgroup that a file names is the one asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// It is, or contains it: the container's cgroup is so many names deep.
    Yes(usize),
    /// The file names none, or not fully.
    Unknown,
    /// It is another.
    No,
}

impl<'a> Search<'a> {
    pub(super) fn new(root: &'a HostRoot, identity: &CgroupIdentity, cgroup_path: &'a [u8]) -> Self {
        let names: Vec<&[u8]> = components(cgroup_path).skip(identity.base_depth).collect();
        let scope = identity.unit.as_deref().is_some_and(|unit| unit.as_bytes().ends_with(b".scope"));
        let any = identity.container_id.is_none() && identity.pod_depth.is_none();
        Self {
            root,
            names,
            base_depth: identity.base_depth,
            id: identity.container_id.clone(),
            depth: identity.container_depth.map(|depth| depth.saturating_sub(identity.base_depth)),
            user: identity.user,
            may_have_any_name: any && (identity.unit.is_none() || scope),
            docker_folders: Vec::new(),
            state_folders: Vec::new(),
            storage_folders: Vec::new(),
            workload: Workload::from_identity(identity, cgroup_path),
            init_pid: None,
            is_beginning: false,
            problems: Vec::new(),
            bytes_left: MAX_TOTAL_BYTES,
        }
    }

    pub(super) fn finish(self) -> Description {
        Description {
            workload: self.workload,
            container_depth: self.depth.map(|depth| depth + self.base_depth),
            init_pid: self.init_pid,
            is_beginning: self.is_beginning,
            problems: self.problems,
        }
    }

    /// The asked cgroup's names below the agent's own host.
    pub(super) fn names(&self) -> &[&'a [u8]] {
        &self.names
    }

    pub(super) fn problem(&mut self, reason: Reason, path: &Path) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem { reason, path: path.to_owned() });
        }
    }

    /// A file's content; `None`, with a note unless it is simply not there.
    pub(super) fn read(&mut self, path: &Path) -> Option<Vec<u8>> {
        let content = self.root.read_bounded(path, MAX_FILE_BYTES);
        let content = self.noted(path, content)?;
        let Some(left) = self.bytes_left.checked_sub(content.len()) else {
            self.problem(Reason::BudgetSpent, path);
            return None;
        };
        self.bytes_left = left;
        Some(content)
    }

    /// A JSON file's content.
    pub(super) fn json<T: DeserializeOwned>(&mut self, path: &Path) -> Option<T> {
        let content = self.read(path)?;
        let decoded = serde_json::from_slice(&content);
        if decoded.is_err() {
            self.problem(Reason::Malformed, path);
        }
        decoded.ok()
    }

    /// Whether a folder is there: so that not each file in it is asked for.
    pub(super) fn has_folder(&self, path: &Path) -> bool {
        let folder = self.root.open(path, OFlags::PATH | OFlags::DIRECTORY);
        !matches!(folder, Err(HostError::Gone { .. }))
    }

    pub(super) fn read_link(&mut self, path: &Path) -> Option<PathBuf> {
        let target = self.root.read_link(path);
        self.noted(path, target)
    }

    /// Names in a folder, at most `max`; all of them where it is complete.
    pub(super) fn list(&mut self, path: &Path, max: usize) -> Listing {
        let listing = self.root.list(path, max);
        if listing.as_ref().is_ok_and(|listing| !listing.complete) {
            self.problem(Reason::TooManyEntries, path);
        }
        let complete = matches!(listing, Err(HostError::Gone { .. }));
        self.noted(path, listing).unwrap_or(Listing { names: Vec::new(), complete })
    }

    fn noted<T>(&mut self, path: &Path, result: Result<T, HostError>) -> Option<T> {
        match result {
            Ok(value) => return Some(value),
            Err(HostError::Gone { .. }) => {}
            Err(HostError::Io { .. }) => self.problem(Reason::Unreadable, path),
            Err(HostError::Format { .. }) => self.problem(Reason::NotUsable, path),
        }
        None
    }

    /// Whether `cgroup`, a path from the root of the hierarchy, is the asked one's container.
    ///
    /// Where the container's cgroup is known, `cgroup` may also lie below it: crun writes down the
    /// child it makes in the scope.
    pub(super) fn fits(&self, cgroup: &[u8]) -> Fit {
        let mut named: Vec<&[u8]> = components(cgroup).collect();
        if let Some(depth) = self.depth {
            let container = self.names.get(..depth);
            return if container.is_some() && named.get(..depth) == container { Fit::Yes(depth) } else { Fit::No };
        }
        if let [.., scope, b"container"] = named.as_slice()
            && scope.ends_with(b".scope")
        {
            named.pop();
        }
        if !named.is_empty() && self.names.starts_with(&named) { Fit::Yes(named.len()) } else { Fit::No }
    }

    /// Whether `cgroups_path` of an OCI specification means the asked one's container.
    pub(super) fn fits_spec(&self, cgroups_path: Option<&str>) -> Fit {
        let Some(text) = cgroups_path else { return Fit::Unknown };
        if text.starts_with('/') {
            return self.fits(text.as_bytes());
        }
        let mut parts = text.splitn(3, ':');
        let (Some(slice), Some(prefix), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
            return Fit::Unknown;
        };
        let scope = match prefix {
            _ if is_slice(name) => name.to_owned(),
            "" => format!("{name}.scope"),
            prefix => format!("{prefix}-{name}.scope"),
        };
        let at = match self.depth {
            Some(depth) => depth.checked_sub(1),
            None => self.names.iter().position(|name| *name == scope.as_bytes() || *name == text.as_bytes()),
        };
        let Some(at) = at else { return Fit::No };
        let found = self.names.get(at).copied().unwrap_or_default();
        let above = at.checked_sub(1).and_then(|above| self.names.get(above));
        let in_slice = slice.is_empty() || above.is_some_and(|above| *above == slice.as_bytes());
        let literal = found == text.as_bytes();
        if literal || (found == scope.as_bytes() && in_slice) { Fit::Yes(at + 1) } else { Fit::No }
    }

    /// Takes `id` for the container, which a file says has the cgroup that `fit` tells of; `false`
    /// when it is another container or cgroup, or nothing ties the file to the asked cgroup.
    pub(super) fn accept(&mut self, id: &str, fit: Fit, path: &Path) -> bool {
        match (&self.id, fit) {
            (Some(known), _) if known != id => self.problem(Reason::OtherContainer, path),
            (Some(_), Fit::No) => self.problem(Reason::OtherCgroup, path),
            (Some(_), Fit::Yes(_) | Fit::Unknown) => return true,
            (None, Fit::Yes(depth)) => {
                self.id = Some(id.to_owned());
                self.depth = Some(depth);
                self.workload.container_id = Some(id.to_owned());
                self.workload.runtime = Runtime::Unknown;
                self.workload.engine = None;
                return true;
            }
            // A look around: that other containers have other cgroups is no problem.
            (None, _) => {}
        }
        false
    }

    /// Adds names not known yet. Of another pod's, only what is the container's own is taken.
    pub(super) fn merge(&mut self, names: Names, path: &Path) {
        if names.container_id.is_some() && names.container_id != self.id {
            self.problem(Reason::OtherContainer, path);
            return;
        }
        let work = &mut self.workload;
        if matches!(work.engine, None | Some(Engine::Kubernetes)) {
            work.engine = names.engine.or(work.engine);
        }
        fill(&mut work.container_name, names.container_name);
        fill(&mut work.image, names.image);
        let same_pod = match (&work.pod_uid, &names.pod_uid) {
            (Some(known), Some(told)) => known == told,
            _ => true,
        };
        if !same_pod {
            self.problem(Reason::OtherPod, path);
            return;
        }
        fill(&mut work.sandbox_id, names.sandbox_id);
        fill(&mut work.pod_uid, names.pod_uid);
        fill(&mut work.pod_name, names.pod_name);
        fill(&mut work.pod_namespace, names.pod_namespace);
    }

    /// Sets the runtime unless a better witness did.
    pub(super) fn set_runtime(&mut self, runtime: Option<Runtime>) {
        if self.workload.runtime == Runtime::Unknown {
            self.workload.runtime = runtime.unwrap_or_default();
        }
    }

    /// Whether the container lies where `engine` may have made it.
    pub(super) fn may_be(&self, engine: Engine) -> bool {
        self.id.is_some()
            && match self.workload.engine {
                None | Some(Engine::Kubernetes) => true,
                Some(known) => known == engine,
            }
    }
}

fn fill(known: &mut Option<String>, found: Option<String>) {
    if known.is_none() {
        *known = found;
    }
}
