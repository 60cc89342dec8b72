//! Which containers and sandboxes live now.

use std::{collections::HashSet, sync::Arc};

use super::{Pipeline, report::merge};
use crate::{correlate::Subject, workload::Workload};

impl Pipeline {
    /// Each that lives and is told of, described as an event about it would describe it.
    pub(super) fn living(&mut self) -> Vec<Arc<Workload>> {
        let mut cgroups = HashSet::new();
        let mut living = Vec::new();
        for sandbox in self.sandboxes.values() {
            let described = sandbox.cgroup.clone().and_then(|(memcg, path)| {
                cgroups.insert(memcg);
                self.registry.workload(&Subject { memcg, path: Some(path) })
            });
            living.extend(merge(Some(sandbox.workload.clone()), described.map(|(workload, _)| workload)));
        }
        let containers = self.registry.containers().filter(|(memcg, _)| !cgroups.contains(memcg));
        living.extend(containers.map(|(_, workload)| Arc::new(workload.clone())));
        living.retain(|workload| self.filter.admits(workload));
        living
    }
}
