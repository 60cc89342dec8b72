//! What was seen of workloads over their runs, by their names, for `oomwatch recommend`. Pure; the pipeline feeds it
//! and keeps it in a file. Sizes are bytes, times seconds of the wall clock since 1970.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::workload::Workload;

/// Version of the shape of a kept history.
pub const VERSION: u32 = 1;
/// Workloads remembered; beyond it the one not seen for longest goes.
const MAX_GROUPS: usize = 1024;
/// Runs of one workload remembered, the latest.
const MAX_RUNS: usize = 16;
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

    /// Takes in what is known of a run now. Its kills and warnings are those since the last call.
    pub fn observe(&mut self, name: &str, run: Run) {
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
            self.runs.pop_front();
            self.earlier_runs = self.earlier_runs.saturating_add(1);
        }
    }

    /// When it was last seen.
    pub fn last_seconds(&self) -> u64 {
        self.runs.iter().map(|run| run.last_seconds).max().unwrap_or_default()
    }
}

/// What the runs of a workload have in common: the name that its owner gave it, else its image, else where it lies.
/// Pods of one kind have names of their own, so theirs is that of the container, its namespace and its image.
/// `None` where there is nothing.
pub fn name(workload: &Workload) -> Option<String> {
    let image = workload.image.as_deref().map(without_tag);
    let given_id = || workload.container_id.as_deref().filter(|id| id.len() != 64);
    let name = match (&workload.pod_namespace, &workload.container_name) {
        (Some(namespace), Some(container)) => match image {
            Some(image) => format!("{namespace}/{container} ({image})"),
            None => format!("{namespace}/{container}"),
        },
        (None, Some(container)) => container.clone(),
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
mod tests {
    use super::*;

    fn run(id: &str, seconds: u64) -> Run {
        Run {
            id: id.to_owned(),
            first_seconds: seconds,
            last_seconds: seconds,
            peak_bytes: 100,
            limit_bytes: Some(200),
            kills: 1,
            killed_at_bytes: Some(200),
            warnings: 2,
        }
    }

    #[test]
    fn a_run_that_outlives_the_agent_stays_one_run() {
        let mut history = History::default();
        history.observe("web", run("a", 10));
        let json = serde_json::to_vec(&history).unwrap();
        let mut history = History::parse(&json).unwrap();
        history.observe("web", Run { peak_bytes: 150, limit_bytes: None, kills: 0, ..run("a", 20) });
        let (_, group) = history.groups().next().unwrap();
        let expected = Run { first_seconds: 10, peak_bytes: 150, limit_bytes: None, warnings: 4, ..run("a", 20) };
        assert_eq!(group.runs, [expected]);
    }

    #[test]
    fn runs_and_workloads_are_bounded_and_the_oldest_go() {
        let mut history = History::default();
        for at in 0..40 {
            history.observe("web", run(&at.to_string(), at));
        }
        let (_, group) = history.groups().next().unwrap();
        assert_eq!((group.runs.len(), group.earlier_runs), (MAX_RUNS, 24));
        assert_eq!(group.runs[0].id, "24");
        for at in 0..2000 {
            history.observe(&format!("w{at}"), run("a", 1000 + at));
        }
        assert_eq!(history.groups.len(), MAX_GROUPS);
        assert!(!history.groups.contains_key("web") && history.groups.contains_key("w1999"));
    }

    #[test]
    fn what_is_no_history_is_refused() {
        for text in
            ["", "{", "[]", "{}", "null", r#"{"version":"1"}"#, r#"{"version":1}"#, r#"{"version":1,"groups":7}"#]
        {
            assert!(matches!(History::parse(text.as_bytes()), Err(HistoryError::Malformed(_))), "{text}");
        }
        let other = History::parse(br#"{"version":2,"groups":{},"more":1}"#);
        assert!(matches!(other, Err(HistoryError::OtherVersion(2))), "{other:?}");
    }

    #[test]
    fn runs_are_gathered_under_a_name_that_the_next_one_has_too() {
        let of = |namespace: Option<&str>, container: Option<&str>, image: Option<&str>, id: &str| {
            name(&Workload {
                pod_namespace: namespace.map(str::to_owned),
                container_name: container.map(str::to_owned),
                image: image.map(str::to_owned),
                container_id: Some(id.to_owned()),
                ..Workload::default()
            })
        };
        let long = "f".repeat(64);
        assert_eq!(of(Some("shop"), Some("web"), Some("reg:5000/web:1.2"), &long).unwrap(), "shop/web (reg:5000/web)");
        assert_eq!(of(Some("shop"), Some("web"), None, &long).unwrap(), "shop/web");
        assert_eq!(of(None, Some("web"), Some("nginx:1"), &long).unwrap(), "web");
        assert_eq!(of(None, None, Some("reg:5000/nginx"), &long).unwrap(), "reg:5000/nginx");
        assert_eq!(of(None, None, Some("nginx@sha256:0123"), &long).unwrap(), "nginx");
        assert_eq!(of(None, None, None, "mine").unwrap(), "mine");
        assert_eq!(of(None, None, None, &long), None);
        assert_eq!(name(&Workload::from_path(b"/system.slice/cron.service")).unwrap(), "/system.slice/cron.service");
        assert_eq!(of(None, Some(&"x".repeat(5000)), None, "a").unwrap().len(), MAX_NAME);
    }
}
