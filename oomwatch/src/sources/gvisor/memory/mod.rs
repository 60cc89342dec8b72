//! How much memory a sandbox holds, measured from outside, also while it is stopped or wedged.
//!
//! - `cgroup`: the charge of the sandbox's own memory cgroup without what the kernel can take back. What is enforced.
//! - `memfd`: private memory of sentry and gofers, blocks of the memory files, estimate of the kernel's share. For a
//!   sandbox without a cgroup of its own.
//! - `rss-sum`: `VmRSS` summed over the sentry's process tree, as the original system did. Known to be wrong, from
//!   0.13 to 50 times the truth: pages that nobody has mapped are not seen, shared ones are counted again and again.
//!
//! No descriptor of a memory file is kept from one reading to the next: it would keep a dead sandbox's memory alive.

mod memfd;
mod overhead;
mod process;

pub(crate) use process::ProcessKey;

use crate::host::{
    HostError, HostRoot,
    charge::{CgroupFiles, Charge, Gauge, Held, Pace},
};
use memfd::MemoryFiles;

/// How a sandbox' cgroup is read.
const PACE: Pace = Pace { exact_every_ns: 5_000_000_000, keeps: true };

/// How the user wants memory to be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Choice {
    /// By the cgroup where the sandbox has one of its own, else by the memory files.
    #[default]
    Auto,
    /// One way only.
    Only(Estimator),
}

/// A way of measuring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Estimator {
    /// Charge of the sandbox's own cgroup.
    Cgroup,
    /// Memory files, private memory, the kernel's share.
    Memfd,
    /// Sum of `VmRSS`; wrong.
    RssSum,
}

impl Estimator {
    /// Name in events and of `--estimator`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::Memfd => "memfd",
            Self::RssSum => "rss-sum",
        }
    }
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Measured {
    /// Memory held.
    pub(crate) usage_bytes: u64,
    /// How it was found out.
    pub(crate) estimator: Estimator,
    /// The cgroup's charge, where all of it was read.
    pub(crate) charge: Option<Charge>,
}

/// Why memory could not be measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MeterError {
    /// Asked to read a cgroup that is not there.
    #[error("the sandbox has no memory cgroup of its own")]
    NoCgroup,
    /// A file could not be read; [`HostError::Gone`] where the sandbox has ended.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Measures one sandbox.
#[derive(Debug)]
pub(crate) struct Meter {
    choice: Choice,
    sentry: ProcessKey,
    cgroup: Option<Gauge>,
    files: MemoryFiles,
}

impl Meter {
    /// For a sandbox; `cgroup` only where it has one of its own.
    pub(crate) fn new(choice: Choice, sentry: ProcessKey, cgroup: Option<CgroupFiles>) -> Self {
        Self { choice, sentry, cgroup: cgroup.map(Gauge::new), files: MemoryFiles::new(sentry) }
    }

    /// From now on memory is measured so.
    pub(crate) fn set_choice(&mut self, choice: Choice) {
        self.choice = choice;
    }

    /// The next reading is one of the cgroup.
    pub(crate) fn reads_cgroup(&self) -> bool {
        self.estimator() == Estimator::Cgroup
    }

    /// The gofers, one per container: they come and go with the containers of a pod.
    pub(crate) fn set_gofers(&mut self, gofers: Vec<ProcessKey>) {
        self.files.set_gofers(gofers);
    }

    /// Measures now; `boot_ns` is the time, `near_bytes` where it matters.
    ///
    /// # Errors
    /// [`HostError::Gone`] when the sentry has ended, else what could not be read.
    pub(crate) fn read(
        &mut self,
        root: &HostRoot,
        boot_ns: u64,
        near_bytes: Option<u64>,
    ) -> Result<Measured, MeterError> {
        let estimator = self.estimator();
        let held = |bytes| Held { bytes, exact: None };
        let measured = match (estimator, &mut self.cgroup) {
            (Estimator::Cgroup, None) => return Err(MeterError::NoCgroup),
            (Estimator::Cgroup, Some(cgroup)) => cgroup.read(root, boot_ns, near_bytes, PACE),
            (Estimator::Memfd, _) => self.files.held(root, boot_ns).map(held),
            (Estimator::RssSum, _) => process::rss_sum(root, self.sentry).map(held),
        };
        match measured {
            Ok(Held { bytes, exact }) => Ok(Measured { usage_bytes: bytes, estimator, charge: exact }),
            // Its processes may have been moved, and the cgroup removed.
            Err(HostError::Gone { .. }) if estimator == Estimator::Cgroup && self.choice == Choice::Auto => {
                let usage_bytes = self.files.held(root, boot_ns)?;
                Ok(Measured { usage_bytes, estimator: Estimator::Memfd, charge: None })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn estimator(&self) -> Estimator {
        match (self.choice, &self.cgroup) {
            (Choice::Only(estimator), _) => estimator,
            (Choice::Auto, Some(_)) => Estimator::Cgroup,
            (Choice::Auto, None) => Estimator::Memfd,
        }
    }
}

#[cfg(test)]
mod tests;
