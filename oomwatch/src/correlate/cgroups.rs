//! Warnings of cgroups outside gVisor (`--warn-all`): which incident a cgroup is in, so that the kill in it is of the
//! same. Known for a while after its end: a kill may be told after the cgroup is gone.

use std::collections::HashMap;

use super::{Finding, Subject, sandboxes, sandboxes::Whose};
use crate::{
    event::{Confidence, Source},
    observation::{MemcgId, MemoryCrossed, MemoryLine},
};

/// How long a warned cgroup is remembered after its end, and a warning that is over.
const REMEMBER_NS: u64 = 60_000_000_000;

/// The last warning of one cgroup.
#[derive(Debug)]
struct Warning {
    incident_id: String,
    /// It fell below the re-arm line, or ended. Records of kills may come later than that.
    over_ns: Option<u64>,
}

/// Cgroups that were warned of.
#[derive(Debug, Default)]
pub(super) struct Cgroups {
    warnings: HashMap<MemcgId, Warning>,
}

impl Cgroups {
    /// A line was crossed; `incident_id` names the incident where this is a new one.
    pub(super) fn crossed(&mut self, memcg: MemcgId, crossed: &MemoryCrossed, incident_id: String) -> Finding {
        self.forget(crossed.boot_ns);
        let recovered = crossed.line == MemoryLine::Recovered;
        let warning = self.warnings.entry(memcg).or_insert(Warning { incident_id: String::new(), over_ns: Some(0) });
        if warning.over_ns.is_some() {
            warning.incident_id = incident_id;
        }
        warning.over_ns = recovered.then_some(crossed.boot_ns);
        Finding {
            source: Source::Cgroup,
            confidence: Confidence::Exact,
            subject: Some(Subject { memcg, path: None }),
            ..sandboxes::warning(crossed, warning.incident_id.clone())
        }
    }

    /// A cgroup was removed.
    pub(super) fn removed(&mut self, memcg: MemcgId, boot_ns: u64) {
        if let Some(warning) = self.warnings.get_mut(&memcg) {
            warning.over_ns.get_or_insert(boot_ns);
        }
        self.forget(boot_ns);
    }

    /// The incident that a victim's cgroup, or the innermost one around it, is in: up to the one whose limit was hit, where
    /// that is known, for what is above had room.
    pub(super) fn incident_of(&self, whose: &Whose<'_>, limit_depth: Option<u32>) -> Option<String> {
        let around = whose.levels.iter().filter(|level| limit_depth.is_none_or(|limit| limit <= level.depth));
        let cgroups = whose.memcg.into_iter().chain(around.map(|level| level.memcg));
        let mut warnings = cgroups.filter_map(|memcg| self.warnings.get(&memcg));
        let in_force = |warning: &&Warning| warning.over_ns.is_none_or(|at| whose.boot_ns <= at);
        warnings.find(in_force).map(|warning| warning.incident_id.clone())
    }

    fn forget(&mut self, now_ns: u64) {
        self.warnings.retain(|_, warning| warning.over_ns.is_none_or(|at| now_ns.saturating_sub(at) < REMEMBER_NS));
    }
}

#[cfg(test)]
#[path = "cgroups_tests.rs"]
mod tests;
