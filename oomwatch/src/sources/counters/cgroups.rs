//! The cgroups that there are, their counters as last seen, and when to look at which again. No task, no waiting: the
//! time comes in, observations go out.

use std::collections::{HashMap, HashSet};

use super::watches::{MAX_WATCHED, Watched, Watches};
use crate::{
    cgroup_path::CgroupPath,
    clock,
    host::{
        HostError, HostRoot,
        inotify::Change,
        memory::{MAX_CGROUPS, MemoryHierarchy},
    },
    observation::{CgroupChange, Counters, MemcgId, Observation},
};

/// When to look after a notice of cgroup v1, which comes before the kill. Often at first, for a runtime removes the cgroup
/// milliseconds after its last process; the later ones are for hosts short of processors.
const LOOK_AFTER_NS: [u64; 8] =
    [1_000_000, 2_000_000, 4_000_000, 8_000_000, 20_000_000, 50_000_000, 200_000_000, 1_000_000_000];
/// Kills so close to each other in a cgroup that is killed as a group are of one group kill.
const ONE_GROUP_NS: u64 = 1_000_000_000;
/// Between two looks for cgroups that no hint told of.
const SCAN_EVERY_NS: u64 = 60_000_000_000;
/// The same, and for counters, where hints are lacking.
const SCAN_SOON_NS: u64 = 5_000_000_000;

/// One cgroup.
#[derive(Debug)]
struct Cgroup {
    path: CgroupPath,
    watched: Watched,
    /// Counters as last told: kills, group kills.
    told: (u64, Option<u64>),
    /// Group kills concluded, where the kernel does not count them, and when a kill of the last of them was read.
    concluded: (u64, u64),
    /// Its counters were read: what rises from now on is news.
    looked: bool,
}

/// What a watch is on.
#[derive(Debug, Clone, Copy)]
enum Target {
    /// The folder of the hierarchy.
    Root,
    /// A cgroup's folder.
    Folder(MemcgId),
    /// A cgroup's counters, or whether it has processes.
    File(MemcgId),
}

/// A cgroup to be looked at.
#[derive(Debug, Clone, Copy)]
struct Look {
    at_ns: u64,
    step: usize,
    since_ns: u64,
}

/// All cgroups.
#[derive(Debug)]
pub(super) struct Cgroups {
    root: HostRoot,
    hierarchy: MemoryHierarchy,
    watches: Watches,
    counts: bool,
    /// Known to the agent before.
    known: HashSet<MemcgId>,
    by_id: HashMap<MemcgId, Cgroup>,
    by_path: HashMap<CgroupPath, MemcgId>,
    by_watch: HashMap<i32, Target>,
    looks: HashMap<MemcgId, Look>,
    scan_ns: u64,
    out: Vec<Observation>,
}

impl Cgroups {
    pub(super) fn new(
        root: HostRoot,
        hierarchy: MemoryHierarchy,
        watches: Watches,
        counts: bool,
        known: HashSet<MemcgId>,
    ) -> Self {
        Self {
            root,
            hierarchy,
            watches,
            counts,
            known,
            by_id: HashMap::new(),
            by_path: HashMap::new(),
            by_watch: HashMap::new(),
            looks: HashMap::new(),
            scan_ns: 0,
            out: Vec::new(),
        }
    }

    /// Watches what is there. The root first: what is made from now on is told.
    pub(super) fn begin(&mut self, now_ns: u64) {
        let folder = self.hierarchy.folder(&CgroupPath::root());
        if let Some(watch) = self.watches.folder(&self.root, &folder) {
            self.by_watch.insert(watch, Target::Root);
        }
        self.scan(now_ns);
    }

    /// What there is to be told.
    pub(super) fn take_observations(&mut self) -> Vec<Observation> {
        std::mem::take(&mut self.out)
    }

    /// Heeds hints and looks at what is due.
    pub(super) fn turn(&mut self, now_ns: u64) {
        for change in self.watches.changes() {
            self.heed(change, now_ns);
        }
        for id in self.watches.notices() {
            let memcg = MemcgId { hierarchy: self.hierarchy.id, id };
            if self.by_id.contains_key(&memcg) {
                self.look_after(memcg, now_ns);
            }
        }
        let due: Vec<MemcgId> =
            self.looks.iter().filter(|(_, look)| look.at_ns <= now_ns).map(|(memcg, _)| *memcg).collect();
        for memcg in due {
            self.look(memcg);
            self.look_again(memcg, now_ns);
        }
        if self.scan_ns <= now_ns {
            self.scan(now_ns);
            if self.watches.lacking().is_some() {
                self.look_at_all(now_ns);
            }
        }
    }

    /// Looks at every counter.
    pub(super) fn look_at_all(&mut self, now_ns: u64) {
        if !self.counts {
            return;
        }
        let all: Vec<MemcgId> = self.by_id.keys().copied().collect();
        for memcg in all {
            self.look(memcg);
        }
        tracing::trace!(now_ns, cgroups = self.by_id.len(), "all counters were read");
    }

    /// When [`Self::turn`] is next due.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.looks.values().map(|look| look.at_ns).chain([self.scan_ns]).min()
    }

    fn heed(&mut self, change: Change, now_ns: u64) {
        match change {
            Change::Made { watch, name } => {
                if let Some(path) = self.below(watch, &name)
                    && let Some(memcg) = self.hierarchy.id_of(&path)
                {
                    self.add(memcg, &path, now_ns);
                }
            }
            Change::Removed { watch, name } => {
                let memcg = self.below(watch, &name).and_then(|path| self.by_path.get(&path).copied());
                // A successor may be there already.
                if let Some(memcg) = memcg.filter(|memcg| !self.is_there(*memcg)) {
                    self.remove(memcg);
                }
            }
            Change::News { watch } => {
                if let Some(Target::File(memcg)) = self.by_watch.get(&watch).copied() {
                    self.look(memcg);
                }
            }
            Change::Lost => {
                self.scan(now_ns);
                self.look_at_all(now_ns);
            }
        }
    }

    fn below(&self, watch: i32, name: &[u8]) -> Option<CgroupPath> {
        let folder = match self.by_watch.get(&watch)? {
            Target::Root => CgroupPath::root(),
            Target::Folder(memcg) => self.by_id.get(memcg)?.path.clone(),
            Target::File(_) => return None,
        };
        Some(CgroupPath::from_names(folder.names().chain([name])))
    }

    fn is_there(&self, memcg: MemcgId) -> bool {
        self.by_id.get(&memcg).is_some_and(|cgroup| self.hierarchy.id_of(&cgroup.path) == Some(memcg))
    }

    /// Looks for cgroups that came or went without a hint.
    fn scan(&mut self, now_ns: u64) {
        let every = if self.watches.lacking().is_some() { SCAN_SOON_NS } else { SCAN_EVERY_NS };
        self.scan_ns = now_ns.saturating_add(every);
        let gone: Vec<MemcgId> = self.by_id.keys().copied().filter(|memcg| !self.is_there(*memcg)).collect();
        for memcg in gone {
            self.remove(memcg);
        }
        self.add_below(&CgroupPath::root(), now_ns);
    }

    /// A folder is watched before it is read, so no cgroup comes in between.
    fn add_below(&mut self, path: &CgroupPath, now_ns: u64) {
        let mut pending = vec![path.clone()];
        while let Some(path) = pending.pop() {
            for (id, child) in self.hierarchy.children(&path).unwrap_or_default() {
                self.add_one(MemcgId { hierarchy: self.hierarchy.id, id }, child.clone(), now_ns);
                pending.push(child);
            }
        }
    }

    fn add(&mut self, memcg: MemcgId, path: &CgroupPath, now_ns: u64) {
        self.add_one(memcg, path.clone(), now_ns);
        self.add_below(path, now_ns);
    }

    fn add_one(&mut self, memcg: MemcgId, path: CgroupPath, now_ns: u64) {
        if self.by_id.contains_key(&memcg) || self.by_id.len() >= MAX_CGROUPS {
            return;
        }
        // One whose end no hint told of yet.
        if let Some(before) = self.by_path.get(&path).copied() {
            self.remove(before);
        }
        let watched = self.watch(memcg, &path);
        if !self.known.remove(&memcg) {
            let made = CgroupChange { boot_ns: now_ns, memcg, path: Some(path.clone()) };
            self.out.push(Observation::CgroupMade(made));
        }
        self.by_path.insert(path.clone(), memcg);
        self.by_id.insert(memcg, Cgroup { path, watched, told: (0, None), concluded: (0, 0), looked: false });
        self.look(memcg);
    }

    fn watch(&mut self, memcg: MemcgId, path: &CgroupPath) -> Watched {
        let mut watched = Watched::default();
        if self.by_id.len() >= MAX_WATCHED {
            self.watches.lacks("there are more cgroups than are watched");
            return watched;
        }
        let folder = self.hierarchy.folder(path);
        watched.folder = self.watches.folder(&self.root, &folder);
        if self.counts {
            self.watches.counters(&self.root, &folder, memcg, &mut watched);
        }
        self.by_watch.extend(watched.folder.map(|watch| (watch, Target::Folder(memcg))));
        self.by_watch.extend(watched.files.iter().map(|watch| (*watch, Target::File(memcg))));
        watched
    }

    fn remove(&mut self, memcg: MemcgId) {
        let Some(cgroup) = self.by_id.remove(&memcg) else { return };
        self.looks.remove(&memcg);
        self.watches.forget(memcg, &cgroup.watched);
        for watch in cgroup.watched.folder.iter().chain(&cgroup.watched.files) {
            self.by_watch.remove(watch);
        }
        if self.by_path.get(&cgroup.path) == Some(&memcg) {
            self.by_path.remove(&cgroup.path);
        }
        let removed = CgroupChange { boot_ns: clock::boot_ns(), memcg, path: Some(cgroup.path) };
        self.out.push(Observation::CgroupRemoved(removed));
    }

    /// Reads a cgroup's counters, and tells them where they are news.
    fn look(&mut self, memcg: MemcgId) {
        if !self.counts {
            return;
        }
        let Some(cgroup) = self.by_id.get(&memcg) else { return };
        match self.hierarchy.own_counters(memcg, &cgroup.path) {
            Ok(counters) => self.take(counters),
            Err(HostError::Gone { .. }) => self.remove(memcg),
            Err(error) => tracing::debug!(%error, "a counter is not read"),
        }
    }

    fn take(&mut self, counters: Counters) {
        let Counters { memcg, local_oom_kill: Some(kills), local_oom_group_kill, boot_ns, .. } = counters else {
            return;
        };
        let Some(cgroup) = self.by_id.get_mut(&memcg) else { return };
        let (told, groups) = cgroup.told;
        let has_news = kills != told || local_oom_group_kill.unwrap_or(0) != groups.unwrap_or(0);
        let looked = std::mem::replace(&mut cgroup.looked, true);
        if !has_news {
            return;
        }
        cgroup.told = (kills, local_oom_group_kill);
        if self.hierarchy.version == 2 && local_oom_group_kill.is_none() {
            let path = cgroup.path.clone();
            if looked && kills > told {
                self.conclude_group(&path, boot_ns);
            }
            let concluded = self.by_id.get(&memcg).map(|cgroup| cgroup.concluded.0);
            self.out.push(Observation::Counted(Counters { local_oom_group_kill: concluded, ..counters }));
        } else {
            self.out.push(Observation::Counted(counters));
        }
    }

    /// Before Linux 5.17 group kills are not counted, but their first victim is counted twice. Told of the cgroup that
    /// was killed as a whole, before the kills in it.
    fn conclude_group(&mut self, path: &CgroupPath, boot_ns: u64) {
        let Some(group) = self.hierarchy.killed_as_group(&self.root, path) else { return };
        let memcg = self.by_path.get(&group).copied();
        let Some((memcg, cgroup)) = memcg.and_then(|memcg| Some((memcg, self.by_id.get_mut(&memcg)?))) else { return };
        let (concluded, last_ns) = &mut cgroup.concluded;
        let is_same = *concluded > 0 && boot_ns.saturating_sub(*last_ns) <= ONE_GROUP_NS;
        *last_ns = boot_ns;
        if is_same {
            return;
        }
        *concluded += 1;
        let concluded = Some(*concluded);
        if group != *path
            && let Ok(counters) = self.hierarchy.own_counters(memcg, &group)
        {
            self.out.push(Observation::Counted(Counters { local_oom_group_kill: concluded, ..counters }));
        }
    }

    fn look_after(&mut self, memcg: MemcgId, now_ns: u64) {
        let first = now_ns.saturating_add(LOOK_AFTER_NS[0]);
        let look = self.looks.entry(memcg).or_insert(Look { at_ns: first, step: 0, since_ns: now_ns });
        *look = Look { at_ns: look.at_ns.min(first), step: 0, since_ns: now_ns };
    }

    fn look_again(&mut self, memcg: MemcgId, now_ns: u64) {
        let Some(look) = self.looks.get_mut(&memcg) else { return };
        look.step += 1;
        match LOOK_AFTER_NS.get(look.step) {
            Some(after) => look.at_ns = look.since_ns.saturating_add(*after).max(now_ns.saturating_add(1)),
            None => drop(self.looks.remove(&memcg)),
        }
    }
}

#[cfg(test)]
#[path = "cgroups_tests.rs"]
mod tests;
