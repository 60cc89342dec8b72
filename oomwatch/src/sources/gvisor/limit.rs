//! Which memory limit a sandbox has, and whether anything enforces it. Pure: readings in, [`Limit`] out. Sizes are bytes.
//!
//! Formats: `linux.resources.memory.limit` of the OCI specification, runsc's `--total-memory`; limits of cgroups are read
//! by `host::limit`.

use serde::Serialize;

use super::{argv::SentryArgs, state::State};
use crate::host::limit::NO_LIMIT;

/// Where a limit was read (`limit_source`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LimitSource {
    /// The sandbox's own cgroup or an ancestor of it.
    Cgroup,
    /// The specification in runsc's state file.
    State,
    /// The specification in the OCI bundle.
    Bundle,
    /// The sentry's arguments.
    Argv,
}

impl LimitSource {
    /// Name in events.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::State => "state",
            Self::Bundle => "bundle",
            Self::Argv => "argv",
        }
    }
}

/// A sandbox's effective limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    /// How much the sandbox may use.
    pub bytes: u64,
    /// Who says so.
    pub source: LimitSource,
    /// The kernel kills when it is passed.
    pub enforced: bool,
}

/// What the memory cgroup of a sandbox says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum CgroupReading {
    /// The sandbox has no memory cgroup of its own: it lives in its caller's.
    #[default]
    NotOwn,
    /// It has one, whose files could not be read.
    Unreadable,
    /// It has one.
    Read {
        /// The lowest limit up to the root; `None` is none.
        limit_bytes: Option<u64>,
        /// runsc made the cgroup, and so wrote the specification's limit into it.
        made_by_runsc: bool,
    },
}

/// All that is known of a sandbox's limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Readings<'a> {
    /// Memory of the host; `None` where not known.
    pub host_bytes: Option<u64>,
    /// Its memory cgroup.
    pub cgroup: CgroupReading,
    /// State files of its containers.
    pub states: &'a [State],
    /// Some of these are missing.
    pub incomplete: bool,
    /// The limit in the first container's bundle, as it stands there.
    pub bundle_limit: Option<i64>,
    /// The sentry's arguments.
    pub args: &'a SentryArgs,
}

impl Readings<'_> {
    /// The effective limit: the cgroup's, else the one that was asked for; `None` where there is none.
    ///
    /// A limit of the host's memory or above is none. A specification's limit that runsc wrote into a cgroup which has
    /// none now was lifted since.
    pub(crate) fn effective(&self) -> Option<Limit> {
        let (root, lifted) = match self.cgroup {
            CgroupReading::Read { limit_bytes, made_by_runsc } => {
                if let Some(bytes) = limit_bytes.filter(|bytes| self.is_limit(*bytes)) {
                    return Some(Limit { bytes, source: LimitSource::Cgroup, enforced: true });
                }
                (self.root(), made_by_runsc)
            }
            CgroupReading::NotOwn | CgroupReading::Unreadable => (self.root(), false),
        };
        let spec = |limit: Option<i64>| limit.and_then(|limit| u64::try_from(limit).ok());
        let of_root = spec(root.and_then(|root| root.memory_limit)).filter(|bytes| self.is_limit(*bytes));
        let of_bundle = spec(self.bundle_limit).filter(|bytes| self.is_limit(*bytes));
        if lifted && (of_root.is_some() || of_bundle.is_some()) {
            return None;
        }
        // A cgroup that has no limit enforces none; one that cannot be read does.
        let enforced = self.cgroup == CgroupReading::Unreadable;
        let limit = |source: LimitSource, enforced: bool| move |bytes: u64| Limit { bytes, source, enforced };
        of_root
            .map(limit(LimitSource::State, enforced))
            .or_else(|| self.sum_of_containers().map(limit(LimitSource::State, false)))
            .or_else(|| of_bundle.map(limit(LimitSource::Bundle, enforced)))
            .or_else(|| self.of_argv().map(limit(LimitSource::Argv, enforced)))
    }

    fn root(&self) -> Option<&State> {
        self.states.iter().find(|state| state.is_root())
    }

    fn is_limit(&self, bytes: u64) -> bool {
        bytes > 0 && bytes < self.host_bytes.unwrap_or(NO_LIMIT)
    }

    /// A pod whose first container has no limit: the sum of the others', where each has one.
    fn sum_of_containers(&self) -> Option<u64> {
        let others: Vec<&State> = self.states.iter().filter(|state| !state.is_root()).collect();
        if others.is_empty() || self.incomplete {
            return None;
        }
        let mut sum: u64 = 0;
        for state in others {
            let bytes = u64::try_from(state.memory_limit?).ok().filter(|bytes| self.is_limit(*bytes))?;
            sum = sum.checked_add(bytes)?;
        }
        Some(sum).filter(|sum| self.is_limit(*sum))
    }

    /// What the cgroup said when the sandbox started.
    fn of_argv(&self) -> Option<u64> {
        // A cgroup that can be read knows better.
        if matches!(self.cgroup, CgroupReading::Read { .. }) {
            return None;
        }
        let host_bytes = self.args.total_host_memory_bytes.or(self.host_bytes)?;
        self.args.total_memory_bytes.filter(|bytes| *bytes < host_bytes && self.is_limit(*bytes))
    }
}

#[cfg(test)]
#[path = "limit_tests.rs"]
mod tests;
