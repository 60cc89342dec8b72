//! What is known of one sandbox beyond its sentry: containers, gofers, cgroup, limit. Looked up again now and then, for
//! containers join a pod and limits change. Reads runsc's state files, the bundle's `config.json`, `/proc/<pid>/cgroup`, and
//! limits of cgroups.

use std::{os::unix::ffi::OsStrExt as _, path::Path};

use rustix::{fs::OFlags, io::Errno};

use super::{
    argv::{Arguments, SentryArgs},
    limit::{CgroupReading, Limit, Readings},
    process::{Process, ProcessId, Processes},
    state::{self, BundleLimit, State, StateCgroup, StateError},
};
use crate::{
    cgroup_path::CgroupPath,
    host::{HostError, HostRoot, memory::MemoryHierarchy},
    observation::MemcgId,
};

/// Names listed in runsc's root: two or three for each container of the host.
pub(super) const MAX_NAMES: usize = 16_384;
/// Containers of one sandbox; Kubernetes sets no limit, pods have below ten.
const MAX_CONTAINERS: usize = 256;
/// Users whose sentries' files are read: root, and nobody, as whom runsc of root starts it. Another user could lead the
/// agent into a file system of his own that never answers.
const TRUSTED_UIDS: [u32; 2] = [0, 65_534];

/// Why something that looks like gVisor was not used, or not wholly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// Its program was not executed from a mount of the host, and no state file of a known root names it.
    ForeignProgram,
    /// It calls itself a sentry and its other arguments do not fit that.
    BadArguments,
    /// It holds no memory file of gVisor's.
    NoMemoryFile,
    /// runsc has written no state file of it.
    StateMissing,
    /// Its state file is half-written, too large or garbage.
    StateMalformed,
    /// Its state file names another process.
    StateOfAnother,
    /// It belongs to a user whose files are not read.
    UntrustedUser,
    /// The kernel refused to show it.
    Unreadable,
    /// There is more of it than is looked at.
    TooMany,
}

impl Reason {
    /// Every one.
    pub(crate) const ALL: [Self; 9] = [
        Self::ForeignProgram,
        Self::BadArguments,
        Self::NoMemoryFile,
        Self::StateMissing,
        Self::StateMalformed,
        Self::StateOfAnother,
        Self::UntrustedUser,
        Self::Unreadable,
        Self::TooMany,
    ];

    /// A short fixed name, fit for the label of a counter.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::ForeignProgram => "foreign_program",
            Self::BadArguments => "bad_arguments",
            Self::NoMemoryFile => "no_memory_file",
            Self::StateMissing => "state_missing",
            Self::StateMalformed => "state_malformed",
            Self::StateOfAnother => "state_of_another",
            Self::UntrustedUser => "untrusted_user",
            Self::Unreadable => "unreadable",
            Self::TooMany => "too_many",
        }
    }
}

/// The memory cgroup that a sentry is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Membership {
    /// Its path.
    pub path: CgroupPath,
    /// Its id.
    pub memcg: MemcgId,
    /// It is the sandbox's, not its caller's: what is in it is the sandbox.
    pub own: bool,
    /// runsc made it for this sandbox; else it was there before, and others may be in it.
    pub made_by_runsc: bool,
}

/// What is known of a sandbox, as of one look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Details {
    /// State of its containers, the first of all in front; empty where the files say nothing.
    pub containers: Vec<State>,
    /// Gofers that live.
    pub gofers: Vec<ProcessId>,
    /// The sentry's memory cgroup; `None` where it cannot be told.
    pub cgroup: Option<Membership>,
    /// What that says of limits.
    pub cgroup_reading: CgroupReading,
    /// Its effective limit.
    pub limit: Option<Limit>,
    /// Containers of it are missing here, so sums of theirs mean nothing.
    pub incomplete: bool,
    /// What could not be used.
    pub problems: Vec<Reason>,
}

impl Details {
    /// State of the sandbox's first container.
    pub(crate) fn root(&self) -> Option<&State> {
        self.containers.iter().find(|state| state.is_root())
    }

    /// It is a pod's, or may be.
    pub(crate) fn may_be_joined(&self) -> bool {
        self.root().is_none_or(|state| state.in_pod)
    }

    /// The memory cgroup that it has for itself.
    pub(crate) fn own_cgroup(&self) -> Option<&Membership> {
        self.cgroup.as_ref().filter(|cgroup| cgroup.own)
    }
}

/// Where to look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Host<'a> {
    pub(super) root: &'a HostRoot,
    pub(super) processes: &'a Processes,
    pub(super) hierarchy: Option<&'a MemoryHierarchy>,
    /// Memory of the host, bytes.
    pub(super) memory_bytes: Option<u64>,
}

impl Host<'_> {
    /// Looks at the sandbox of a sentry. `before` is what its state files said last: they may be half-written now, and
    /// are gone before the sentry is.
    ///
    /// # Errors
    /// The sentry is gone or on its way out: what was known of it last is what it was.
    pub(super) fn look(&self, sentry: &Process, args: &SentryArgs, before: &[State]) -> Result<Details, Errno> {
        // A process on its way out has no program, and of its cgroup says that it is the root.
        sentry.exe_mount()?;
        let id = sentry.id()?;
        let mut details = Details::default();
        let trusted = is_trusted(sentry.uid()?);
        if trusted {
            if let Err(reason) = self.containers(args, id, before, &mut details) {
                details.problems.push(reason);
                details.containers = before.to_vec();
            }
        } else {
            details.problems.push(Reason::UntrustedUser);
        }
        let gofers = details.containers.iter().filter_map(|state| state.gofer_pid);
        details.gofers = gofers.filter_map(|pid| self.gofer(pid)).collect();
        let wants_bundle = trusted && details.containers.is_empty();
        let bundle = if wants_bundle { self.bundle(args) } else { BundleLimit::default() };
        let named = named_cgroup(details.root(), args, &bundle);
        details.cgroup = self.membership(sentry, named)?;
        details.cgroup_reading = self.cgroup_reading(details.cgroup.as_ref());
        let readings = Readings {
            host_bytes: self.memory_bytes,
            cgroup: details.cgroup_reading,
            states: &details.containers,
            incomplete: details.incomplete,
            bundle_limit: bundle.memory_limit,
            args,
        };
        details.limit = readings.effective();
        Ok(details)
    }

    /// State of all containers of the sandbox `args` speak of, whose sentry is `sentry`. What cannot be read of a container
    /// now is what it was `before`.
    fn containers(
        &self,
        args: &SentryArgs,
        sentry: ProcessId,
        before: &[State],
        details: &mut Details,
    ) -> Result<(), Reason> {
        let root = args.root.as_deref().filter(|root| root.is_absolute()).ok_or(Reason::StateMissing)?;
        let sandbox_id = args.sandbox_id.as_str();
        let first = self.state(root, sandbox_id, sandbox_id)?;
        if first.sandbox_pid != Some(sentry.pid) {
            return Err(Reason::StateOfAnother);
        }
        let in_pod = first.in_pod;
        details.containers.push(first);
        if !in_pod {
            return Ok(());
        }
        for container_id in self.others(root, sandbox_id, details) {
            match self.state(root, &container_id, sandbox_id) {
                Ok(state) if state.sandbox_pid == Some(sentry.pid) => details.containers.push(state),
                Ok(_) => details.problems.push(Reason::StateOfAnother),
                // Removed since it was listed.
                Err(Reason::StateMissing) => {}
                Err(reason) => {
                    details.problems.push(reason);
                    match before.iter().find(|state| state.id == container_id) {
                        Some(state) => details.containers.push(state.clone()),
                        None => details.incomplete = true,
                    }
                }
            }
        }
        Ok(())
    }

    /// Ids of the containers that joined a sandbox, by the names of their state files.
    fn others(&self, root: &Path, sandbox_id: &str, details: &mut Details) -> Vec<String> {
        let Ok(listing) = self.root.list(root, MAX_NAMES) else {
            details.problems.push(Reason::Unreadable);
            details.incomplete = true;
            return Vec::new();
        };
        let ids = listing.names.iter().filter_map(|name| state::ids_in_name(name.as_bytes()));
        let others = ids.filter(|(container, sandbox)| *sandbox == sandbox_id && *container != sandbox_id);
        let mut others: Vec<String> = others.map(|(container, _)| container.to_owned()).collect();
        others.sort_unstable();
        if !listing.complete || others.len() >= MAX_CONTAINERS {
            details.problems.push(Reason::TooMany);
            details.incomplete = true;
            others.truncate(MAX_CONTAINERS - 1);
        }
        others
    }

    /// One state file.
    pub(super) fn state(&self, root: &Path, container_id: &str, sandbox_id: &str) -> Result<State, Reason> {
        let path = root.join(state::file_name(container_id, sandbox_id));
        let json = self.root.read_bounded(&path, state::MAX_STATE_FILE).map_err(|error| match error {
            HostError::Gone { .. } => Reason::StateMissing,
            HostError::Io { .. } => Reason::Unreadable,
            HostError::Format { .. } => Reason::StateMalformed,
        })?;
        let state = State::parse(&json).map_err(|error| match error {
            StateError::TooLarge(_) | StateError::Malformed(_) | StateError::BadId => Reason::StateMalformed,
        })?;
        let named_so = state.id == container_id && state.sandbox_id == sandbox_id;
        if named_so { Ok(state) } else { Err(Reason::StateOfAnother) }
    }

    /// The gofer that a state file names, if it still is one.
    fn gofer(&self, pid: u32) -> Option<ProcessId> {
        let process = self.processes.process(pid).ok()?;
        let arguments = Arguments::parse(&process.cmdline().ok()?);
        matches!(arguments, Ok(Arguments::Gofer(_))).then(|| process.id().ok()).flatten()
    }

    fn bundle(&self, args: &SentryArgs) -> BundleLimit {
        let config = args.bundle.as_deref().filter(|bundle| bundle.is_absolute()).map(|path| path.join("config.json"));
        let json = config.and_then(|config| self.root.read_bounded(&config, state::MAX_STATE_FILE).ok());
        json.and_then(|json| BundleLimit::parse(&json)).unwrap_or_default()
    }

    /// The cgroup that a sentry is in, and whether it is the one that runsc chose for its sandbox.
    fn membership(&self, sentry: &Process, named: Named) -> Result<Option<Membership>, Errno> {
        let Some(hierarchy) = self.hierarchy else { return Ok(None) };
        let path = sentry.memory_cgroup(hierarchy.version)?;
        let (own, made_by_runsc) = match named {
            Named::None => (false, false),
            Named::At { path: named, made } => (named.depth() > 0 && path.is_within(&named), made),
        };
        let folder = self.root.open(&hierarchy.folder(&path), OFlags::PATH | OFlags::DIRECTORY);
        let Some(stat) = folder.ok().and_then(|folder| rustix::fs::fstat(&folder).ok()) else { return Ok(None) };
        let memcg = MemcgId { hierarchy: hierarchy.id, id: stat.st_ino };
        Ok(Some(Membership { path, memcg, own, made_by_runsc: own && made_by_runsc }))
    }

    fn cgroup_reading(&self, membership: Option<&Membership>) -> CgroupReading {
        let (Some(membership), Some(hierarchy)) = (membership.filter(|membership| membership.own), self.hierarchy)
        else {
            return CgroupReading::NotOwn;
        };
        let limit = hierarchy.lowest_limit(self.root, &membership.path, None);
        limit.map_or(CgroupReading::Unreadable, |limit_bytes| CgroupReading::Read {
            limit_bytes,
            made_by_runsc: membership.made_by_runsc,
        })
    }
}

/// Whether files that a process of this user names may be read.
pub(super) fn is_trusted(uid: u32) -> bool {
    TRUSTED_UIDS.contains(&uid)
}

/// The cgroup that a sandbox was to be put into.
enum Named {
    None,
    At { path: CgroupPath, made: bool },
}

/// By its state, else by its bundle.
fn named_cgroup(root: Option<&State>, args: &SentryArgs, bundle: &BundleLimit) -> Named {
    match root.map(|root| &root.cgroup) {
        Some(StateCgroup::V1 { path, made } | StateCgroup::V2 { path, made }) => {
            Named::At { path: path.clone(), made: *made }
        }
        Some(StateCgroup::None) => Named::None,
        None if args.ignore_cgroups => Named::None,
        // A path for systemd (`slice:prefix:name`) stands for another.
        None => bundle
            .cgroups_path
            .as_deref()
            .filter(|path| path.starts_with('/'))
            .map_or(Named::None, |path| Named::At { path: CgroupPath::from_bytes(path.as_bytes()), made: false }),
    }
}
