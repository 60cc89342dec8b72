//! What was seen of workloads over their runs, by their names, for `oomwatch recommend`. Pure; the pipeline feeds it
//! and keeps it in a file. Sizes are bytes, times seconds of the wall clock since 1970.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::workload::{Workload, made_up};

/// Version of the shape of a kept history.
pub const VERSION: u32 = 1;
/// Workloads remembered; beyond it the one not seen for longest goes.
const MAX_GROUPS: usize = 1024;
/// Runs of one workload remembered, the latest.
const MAX_RUNS: usize = 16;
/// Runs before those that are still known by their ids: more replicas than that of one workload on a host are rare.
const MAX_GONE: usize = 64;
/// Longest name kept, characters.
const MAX_NAME: usize = 256;

/// All workloads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    version: u32,
    groups: BTreeMap<String, Group>,
}

/// Runs of the workload of one name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The latest runs, the first of them in front.
    pub runs: VecDeque<Run>,
    /// Runs before those.
    #[serde(default)]
    pub earlier_runs: u64,
    /// Kills in runs before those.
    #[serde(default)]
    pub earlier_kills: u64,
    /// Warnings of runs before those.
    #[serde(default)]
    pub earlier_warnings: u64,
    /// Runs that live on though as many newer ones are remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<Beside>,
    /// Ids of the last runs before those.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub gone: VecDeque<String>,
}

/// What is remembered of runs that are seen still and have no place among the latest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beside {
    /// When one of them was last measured.
    pub last_seconds: u64,
    /// The most memory that one of them held.
    pub peak_bytes: u64,
    /// The highest limit of its own that killed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub killed_at_bytes: Option<u64>,
}

/// One run: a container or cgroup from its beginning to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Tells it from all others, also after a restart of the agent.
    pub id: String,
    /// When it was first measured.
    pub first_seconds: u64,
    /// When it was last measured.
    pub last_seconds: u64,
    /// The most memory it held.
    pub peak_bytes: u64,
    /// Its limit, the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// Kills in it.
    #[serde(default)]
    pub kills: u64,
    /// The highest limit of its own that killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub killed_at_bytes: Option<u64>,
    /// Warnings of it.
    #[serde(default)]
    pub warnings: u64,
}

impl Default for History {
    fn default() -> Self {
        Self { version: VERSION, groups: BTreeMap::new() }
    }
}

/// Why a kept history is not used.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Half-written, or not a history.
    #[error("it cannot be understood: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Of another version of oomwatch.
    #[error("it is of version {0}, not {VERSION}")]
    OtherVersion(u64),
}

impl History {
    /// Reads a kept one.
    ///
    /// # Errors
    /// It is of another version, or none.
    pub fn parse(json: &[u8]) -> Result<Self, HistoryError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u64,
        }
        let Versioned { version } = serde_json::from_slice(json)?;
        if version != u64::from(VERSION) {
            return Err(HistoryError::OtherVersion(version));
        }
        let mut history: Self = serde_json::from_slice(json)?;
        for group in history.groups.values_mut() {
            group.bound();
        }
        history.groups.retain(|_, group| !group.runs.is_empty());
        while history.groups.len() > MAX_GROUPS {
            history.forget_oldest();
        }
        Ok(history)
    }

    /// Takes in what is known of a run now. Its kills and warnings are those since the last call. `is_known`: it is not
    /// the first call for this run.
    pub fn observe(&mut self, name: &str, run: Run, is_known: bool) {
        if !self.groups.contains_key(name) {
            while self.groups.len() >= MAX_GROUPS {
                self.forget_oldest();
            }
        }
        let group = self.groups.entry(name.to_owned()).or_default();
        if let Some(known) = group.runs.iter_mut().find(|known| known.id == run.id) {
            known.first_seconds = known.first_seconds.min(run.first_seconds);
            known.last_seconds = known.last_seconds.max(run.last_seconds);
            known.peak_bytes = known.peak_bytes.max(run.peak_bytes);
            known.limit_bytes = run.limit_bytes;
            known.kills = known.kills.saturating_add(run.kills);
            known.killed_at_bytes = known.killed_at_bytes.max(run.killed_at_bytes);
            known.warnings = known.warnings.saturating_add(run.warnings);
        } else if is_known || group.gone.contains(&run.id) {
            group.observe_beside(&run);
        } else {
            group.runs.push_back(run);
            group.bound();
        }
    }

    /// Every workload with its runs, by name.
    pub fn groups(&self) -> impl Iterator<Item = (&str, &Group)> {
        self.groups.iter().map(|(name, group)| (name.as_str(), group))
    }

    fn forget_oldest(&mut self) {
        let oldest = self.groups.iter().min_by_key(|(_, group)| group.last_seconds());
        if let Some(name) = oldest.map(|(name, _)| name.clone()) {
            self.groups.remove(&name);
        }
    }
}

impl Group {
    fn bound(&mut self) {
        while self.runs.len() > MAX_RUNS {
            let Some(run) = self.runs.pop_front() else { break };
            self.earlier_runs = self.earlier_runs.saturating_add(1);
            self.count_earlier(&run);
            self.gone.push_back(run.id);
        }
        while self.gone.len() > MAX_GONE {
            self.gone.pop_front();
        }
    }

    fn count_earlier(&mut self, run: &Run) {
        self.earlier_kills = self.earlier_kills.saturating_add(run.kills);
        self.earlier_warnings = self.earlier_warnings.saturating_add(run.warnings);
    }

    /// A run that newer ones took the place of is still seen.
    fn observe_beside(&mut self, run: &Run) {
        self.count_earlier(run);
        let still = self.beside.take().filter(|beside| beside.last_seconds >= self.oldest_seconds());
        self.beside = Some(Beside {
            last_seconds: still.as_ref().map_or(0, |beside| beside.last_seconds).max(run.last_seconds),
            peak_bytes: still.as_ref().map_or(0, |beside| beside.peak_bytes).max(run.peak_bytes),
            killed_at_bytes: still.and_then(|beside| beside.killed_at_bytes).max(run.killed_at_bytes),
        });
    }

    /// Runs beside the remembered ones, unless all of these are newer.
    pub fn beside(&self) -> Option<&Beside> {
        self.beside.as_ref().filter(|beside| beside.last_seconds >= self.oldest_seconds())
    }

    fn oldest_seconds(&self) -> u64 {
        self.runs.iter().map(|run| run.last_seconds).min().unwrap_or_default()
    }

    /// When it was last seen.
    pub fn last_seconds(&self) -> u64 {
        self.runs.iter().map(|run| run.last_seconds).max().unwrap_or_default()
    }
}

/// What the runs of a workload have in common: the name that its owner gave it, else its image, else where it lies.
/// Pods of one kind have names of their own, so theirs is that of the container, its namespace and its image. A name that
/// docker or podman made up is another in the next run.
/// `None` where there is nothing.
pub fn name(workload: &Workload) -> Option<String> {
    let image = workload.image.as_deref().map(without_tag);
    let given_id = || workload.container_id.as_deref().filter(|id| id.len() != 64);
    let name = match (&workload.pod_namespace, &workload.container_name) {
        (Some(namespace), Some(container)) => match image {
            Some(image) => format!("{namespace}/{container} ({image})"),
            None => format!("{namespace}/{container}"),
        },
        (None, Some(container)) => match image.filter(|_| made_up::is_random(container)) {
            Some(image) => image.to_owned(),
            None => made_up::swarm_service(container).unwrap_or(container).to_owned(),
        },
        (_, None) => image.or_else(given_id).or(workload.cgroup_path.as_deref())?.to_owned(),
    };
    Some(name.chars().take(MAX_NAME).collect())
}

/// An image is the same workload in its next version.
fn without_tag(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    match image.rsplit_once(':') {
        // What follows the colon of a registry's port has a slash.
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => image,
    }
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
