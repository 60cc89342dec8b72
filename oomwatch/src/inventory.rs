//! Workloads under watch with their memory as last measured, their peaks and what happened to them: what `ps` shows
//! and `/metrics` exports. Pure.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    observation::{Measurement, WorkloadKey},
    workload::Workload,
};

/// How long a workload is remembered after its end.
const KEEP_ENDED_NS: u64 = 600_000_000_000;
/// Workloads remembered; beyond it ended ones go early, and new ones are left out.
const MAX_WORKLOADS: usize = 16_384;

/// One workload.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Which.
    pub(crate) key: WorkloadKey,
    /// Who it is.
    pub(crate) workload: Arc<Workload>,
    /// As last measured.
    pub(crate) last: Option<Measurement>,
    /// When it was first measured, `CLOCK_BOOTTIME` in nanoseconds.
    pub(crate) first_ns: Option<u64>,
    /// The most memory seen, bytes.
    pub(crate) peak_bytes: u64,
    /// Kills told of.
    pub(crate) kills: u64,
    /// The highest limit of its own that killed, bytes.
    pub(crate) killed_at_bytes: Option<u64>,
    /// Warnings told of.
    pub(crate) near_limits: u64,
    /// When it ended, `CLOCK_BOOTTIME` in nanoseconds.
    pub(crate) ended_ns: Option<u64>,
}

/// All workloads.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    entries: HashMap<WorkloadKey, Entry>,
    /// Ended ones, the first to end in front.
    ended: VecDeque<(u64, WorkloadKey)>,
}

impl Inventory {
    /// A workload was found, or more is known of it.
    pub(crate) fn found(&mut self, key: WorkloadKey, workload: Arc<Workload>) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.workload = workload;
            return;
        }
        if self.entries.len() >= MAX_WORKLOADS && !self.forget_first_ended() {
            return;
        }
        let entry = Entry {
            key,
            workload,
            last: None,
            first_ns: None,
            peak_bytes: 0,
            kills: 0,
            killed_at_bytes: None,
            near_limits: 0,
            ended_ns: None,
        };
        self.entries.insert(key, entry);
    }

    /// All of them, in no order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// One of them, alive or not.
    pub(crate) fn get(&self, key: WorkloadKey) -> Option<&Entry> {
        self.entries.get(&key)
    }

    /// Limits of cgroups outside gVisor, bytes, by their paths.
    pub(crate) fn limits(&self) -> HashMap<&str, u64> {
        let of_cgroups = self.entries.values().filter(|entry| matches!(entry.key, WorkloadKey::Cgroup(_)));
        of_cgroups.filter_map(|entry| Some((entry.workload.cgroup_path.as_deref()?, entry.limit_bytes()?))).collect()
    }

    /// Whether it is here, alive or not.
    pub(crate) fn contains(&self, key: WorkloadKey) -> bool {
        self.entries.contains_key(&key)
    }

    /// A workload was measured.
    pub(crate) fn measured(&mut self, measurement: Measurement) {
        if let Some(entry) = self.entries.get_mut(&measurement.key) {
            entry.peak_bytes = entry.peak_bytes.max(measurement.peak_bytes).max(measurement.usage_bytes);
            entry.first_ns.get_or_insert(measurement.boot_ns);
            entry.last = Some(measurement);
        }
    }

    /// A kill in a workload was told; with the limit and the charge where it was the workload's own limit that killed.
    pub(crate) fn killed(&mut self, key: WorkloadKey, own_limit: Option<(u64, u64)>) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.kills += 1;
            if let Some((limit_bytes, charge_bytes)) = own_limit {
                entry.killed_at_bytes = entry.killed_at_bytes.max(Some(limit_bytes));
                // All that could be taken back had been when it was killed.
                entry.peak_bytes = entry.peak_bytes.max(charge_bytes.min(limit_bytes));
            }
        }
    }

    /// A warning of a workload was told.
    pub(crate) fn warned(&mut self, key: WorkloadKey) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.near_limits += 1;
        }
    }

    /// A workload ended; it is remembered for [`KEEP_ENDED_NS`].
    pub(crate) fn ended(&mut self, key: WorkloadKey, boot_ns: u64) {
        if let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.ended_ns.is_none()) {
            entry.ended_ns = Some(boot_ns);
            self.ended.push_back((boot_ns, key));
        }
        while self.ended.front().is_some_and(|(at, _)| at.saturating_add(KEEP_ENDED_NS) <= boot_ns) {
            self.forget_first_ended();
        }
    }

    /// It turned out to be no workload.
    pub(crate) fn forget(&mut self, key: WorkloadKey) {
        if self.entries.remove(&key).is_some_and(|entry| entry.ended_ns.is_some()) {
            self.ended.retain(|(_, ended)| *ended != key);
        }
    }

    fn forget_first_ended(&mut self) -> bool {
        self.ended.pop_front().is_some_and(|(_, key)| self.entries.remove(&key).is_some())
    }

    /// Every workload, nearest to its limit first; ended ones last.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = self.entries.values().map(Entry::row).collect();
        rows.sort_by(|a, b| {
            let nearness = |row: &Row| row.usage_percent.unwrap_or(-1.0);
            let by_name = || (&a.workload.container_id, a.pid).cmp(&(&b.workload.container_id, b.pid));
            a.ended.cmp(&b.ended).then(nearness(b).total_cmp(&nearness(a))).then_with(by_name)
        });
        rows
    }
}

/// One workload as `ps` shows it. What is not known is absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Who it is.
    pub workload: Arc<Workload>,
    /// Process id of a sandbox' sentry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Memory held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_bytes: Option<u64>,
    /// The limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// One of the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_percent: Option<f64>,
    /// The most memory seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
    /// Growth of late, negative for shrinking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub growth_bytes_per_second: Option<i64>,
    /// Until the limit, at that growth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_to_limit_seconds: Option<f64>,
    /// Kills told of since the agent started.
    pub kills: u64,
    /// Warnings told of since the agent started.
    pub near_limits: u64,
    /// How memory was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimator: Option<String>,
    /// Where the limit was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_source: Option<String>,
    /// The kernel kills when it is passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_enforced: Option<bool>,
    /// PSI: share of the last ten seconds in which some task waited for memory, percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub some_avg10: Option<f64>,
    /// PSI: share of the last ten seconds in which all tasks waited for memory, percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_avg10: Option<f64>,
    /// It ended; shown for ten minutes.
    pub ended: bool,
}

impl Entry {
    /// The limit in force, bytes.
    pub(crate) fn limit_bytes(&self) -> Option<u64> {
        self.last.as_ref().map_or(self.killed_at_bytes, |last| last.limit.map(|limit| limit.bytes))
    }

    /// The limit in force; a sandbox' only where it is not one of these around it, which it shares with others.
    pub(crate) fn own_limit_bytes(&self, limits: &HashMap<&str, u64>) -> Option<u64> {
        let bytes = self.limit_bytes()?;
        if matches!(self.key, WorkloadKey::Cgroup(_)) {
            return Some(bytes);
        }
        let mut around = self.workload.cgroup_path.as_deref().unwrap_or_default();
        while let Some((above, _)) = around.rsplit_once('/') {
            if limits.get(above) == Some(&bytes) {
                return None;
            }
            around = above;
        }
        Some(bytes)
    }

    fn row(&self) -> Row {
        let last = self.last.as_ref();
        let limit = last.and_then(|last| last.limit);
        Row {
            workload: Arc::clone(&self.workload),
            pid: self.key.pid(),
            usage_bytes: last.map(|last| last.usage_bytes),
            limit_bytes: limit.map(|limit| limit.bytes),
            usage_percent: last.zip(limit).map(|(last, limit)| percent(last.usage_bytes, limit.bytes)),
            peak_bytes: Some(self.peak_bytes).filter(|bytes| *bytes > 0),
            growth_bytes_per_second: last.and_then(|last| last.growth_bytes_per_second),
            time_to_limit_seconds: last.and_then(|last| last.time_to_limit).map(|time| time.as_secs_f64()),
            kills: self.kills,
            near_limits: self.near_limits,
            estimator: last.map(|last| last.estimator.to_owned()),
            limit_source: limit.map(|limit| limit.source.to_owned()),
            limit_enforced: limit.map(|limit| limit.enforced),
            some_avg10: last.and_then(|last| last.pressure).map(|pressure| pressure.some_avg10),
            full_avg10: last.and_then(|last| last.pressure).map(|pressure| pressure.full_avg10),
            ended: self.ended_ns.is_some(),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a percentage of at most three digits")]
fn percent(usage: u64, limit: u64) -> f64 {
    (usage as f64 / limit.max(1) as f64 * 1000.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::{MemcgId, MemoryLimit, SandboxKey};

    const SECOND: u64 = 1_000_000_000;

    fn key(id: u64) -> WorkloadKey {
        WorkloadKey::Cgroup(MemcgId { hierarchy: 0, id })
    }

    fn measurement(id: u64, usage_bytes: u64, limit_bytes: Option<u64>) -> Measurement {
        Measurement {
            key: key(id),
            boot_ns: SECOND,
            usage_bytes,
            peak_bytes: usage_bytes,
            limit: limit_bytes.map(|bytes| MemoryLimit { bytes, source: "cgroup", enforced: true }),
            estimator: "cgroup",
            growth_bytes_per_second: None,
            time_to_limit: None,
            pressure: None,
            is_near: false,
        }
    }

    fn inventory(ids: impl IntoIterator<Item = u64>) -> Inventory {
        let mut inventory = Inventory::default();
        for id in ids {
            let workload = Workload { container_id: Some(id.to_string()), ..Workload::default() };
            inventory.found(key(id), Arc::new(workload));
        }
        inventory
    }

    fn ids(inventory: &Inventory) -> Vec<String> {
        inventory.rows().into_iter().filter_map(|row| row.workload.container_id.clone()).collect()
    }

    #[test]
    fn the_nearest_to_its_limit_comes_first_and_the_ended_last() {
        let mut inventory = inventory(1..=5);
        inventory.measured(measurement(1, 50, Some(100)));
        inventory.measured(measurement(2, 90, Some(100)));
        inventory.measured(measurement(3, 9000, None));
        inventory.measured(measurement(4, 99, Some(100)));
        inventory.ended(key(4), SECOND);
        assert_eq!(ids(&inventory), ["2", "1", "3", "5", "4"]);
    }

    #[test]
    fn what_is_not_known_is_absent() {
        let mut inventory = inventory([1]);
        let row = serde_json::to_value(&inventory.rows()[0]).unwrap();
        let fields: Vec<&str> = row.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, ["ended", "kills", "near_limits", "workload"]);
        inventory.measured(measurement(1, 50, None));
        assert_eq!(inventory.rows()[0].usage_percent, None);
    }

    #[test]
    fn a_limit_of_a_cgroup_around_it_is_not_a_sandboxes_own() {
        let mut inventory = Inventory::default();
        let sandbox = |pid| WorkloadKey::Sandbox(SandboxKey { pid, start_ticks: 1 });
        let at = |path: &str| Arc::new(Workload { cgroup_path: Some(path.to_owned()), ..Workload::default() });
        for (key, path, limit) in [
            (key(1), "/kubepods.slice", 900),
            (sandbox(2), "/kubepods.slice/besteffort.slice/pod2", 900),
            (sandbox(3), "/kubepods.slice/besteffort.slice/pod3", 100),
            (sandbox(4), "/kubepods.slice", 900),
        ] {
            inventory.found(key, at(path));
            inventory.measured(Measurement { key, ..measurement(0, 5, Some(limit)) });
        }
        let limits = inventory.limits();
        let own = |key| inventory.get(key).unwrap().own_limit_bytes(&limits);
        let found = [key(1), sandbox(2), sandbox(3), sandbox(4)].map(own);
        assert_eq!(found, [Some(900), None, Some(100), Some(900)]);
    }

    #[test]
    fn kills_raise_the_peak_to_the_limit_that_killed() {
        let mut inventory = inventory([1]);
        inventory.measured(measurement(1, 10, Some(100)));
        inventory.killed(key(1), None);
        assert_eq!(inventory.rows()[0].peak_bytes, Some(10), "somebody else's limit");
        inventory.killed(key(1), Some((100, 101)));
        let row = &inventory.rows()[0];
        assert_eq!((row.kills, row.peak_bytes), (2, Some(100)));
    }

    #[test]
    fn ended_workloads_are_forgotten_after_ten_minutes_and_early_where_there_are_too_many() {
        let mut inventory = inventory(1..=2);
        inventory.ended(key(1), SECOND);
        inventory.ended(key(1), 2 * SECOND);
        inventory.ended(key(2), SECOND + KEEP_ENDED_NS);
        assert_eq!(ids(&inventory), ["2"]);
        for id in 10..20_000 {
            inventory.found(key(id), Arc::default());
        }
        assert_eq!(inventory.entries.len(), MAX_WORKLOADS);
        assert!(!inventory.contains(key(2)), "an ended one makes room first");
        assert!(inventory.contains(key(10)) && inventory.ended.is_empty());
    }
}
