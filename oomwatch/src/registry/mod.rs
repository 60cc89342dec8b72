//! Who a cgroup is: id to path to workload, remembered while the cgroup lives and for a while after its end, for a
//! victim's cgroup and its engine's files are often gone when somebody asks.

mod entry;
mod looks;

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque, hash_map},
    sync::Arc,
};

use crate::{
    cgroup_path::CgroupPath,
    clock,
    correlate::Subject,
    host::{HostRoot, containers, memory::MemoryHierarchy},
    observation::{CgroupChange, Counters, Exited, MemcgId},
    state::Container,
    workload::{CgroupIdentity, Workload},
};
use entry::{Entry, Known, is_complete};
use looks::Looks;

/// How long a cgroup is remembered after its end.
const KEEP_REMOVED_NS: u64 = 600_000_000_000;
/// A runtime that has not begun a container by then is not waited for.
const LONGEST_BEGINNING_NS: u64 = 60_000_000_000;
/// Removed cgroups remembered; beyond it the oldest go early.
const MAX_REMOVED: usize = 16_384;

/// How a cgroup stands to containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// A container's own.
    Container,
    /// A unit of systemd, a plain cgroup; one above containers too, for its limit is theirs together.
    Plain,
    /// In a container, or a pod's, whose limit is the sum of its containers'.
    Other,
}

/// All cgroups of the memory hierarchy.
#[derive(Debug)]
pub(crate) struct Registry {
    root: HostRoot,
    hierarchy: Option<MemoryHierarchy>,
    entries: HashMap<MemcgId, Entry>,
    /// Ids by path; where a path was used again, the newest.
    by_path: HashMap<CgroupPath, MemcgId>,
    due: BTreeSet<(u64, MemcgId)>,
    removed: VecDeque<(u64, MemcgId)>,
    users: containers::Users,
    /// Cgroups of gVisor sandboxes, in which a process that is called like a runtime's own is a sentry, and of how many.
    of_sandboxes: HashMap<MemcgId, usize>,
    /// The kernel tells when a cgroup is made; else that is noticed later.
    sees_births: bool,
}

impl Registry {
    pub(crate) fn new(root: HostRoot, hierarchy: Option<MemoryHierarchy>, sees_births: bool) -> Self {
        Self {
            root,
            hierarchy,
            entries: HashMap::new(),
            by_path: HashMap::new(),
            due: BTreeSet::new(),
            removed: VecDeque::new(),
            users: containers::Users::default(),
            of_sandboxes: HashMap::new(),
            sees_births,
        }
    }

    /// A cgroup was made.
    pub(crate) fn made(&mut self, change: &CgroupChange) {
        if let Some(path) = &change.path {
            let made_ns = if self.sees_births { change.boot_ns } else { 0 };
            self.insert(change.memcg, path.clone(), made_ns, change.boot_ns.saturating_add(looks::AFTER_NS[0]));
        }
    }

    /// A cgroup was there when the agent began.
    pub(crate) fn found(&mut self, counters: &Counters) {
        self.insert(counters.memcg, counters.path.clone(), 0, counters.boot_ns);
    }

    fn insert(&mut self, memcg: MemcgId, path: CgroupPath, made_ns: u64, look_ns: u64) {
        // A scan finds those again that are known: they were looked at, or will be.
        if let hash_map::Entry::Vacant(entry) = self.entries.entry(memcg) {
            self.by_path.insert(path.clone(), memcg);
            entry.insert(Entry::new(path, made_ns));
            self.look_then(memcg, look_ns);
        }
    }

    /// It is looked at then, and not when it was to be before.
    fn look_then(&mut self, memcg: MemcgId, look_ns: u64) {
        let Some(entry) = self.entries.get_mut(&memcg) else { return };
        if let Some(due_ns) = entry.looks.due_ns.replace(look_ns) {
            self.due.remove(&(due_ns, memcg));
        }
        self.due.insert((look_ns, memcg));
    }

    /// Cgroups that are thought to live and are not among these: gone, or made since.
    pub(crate) fn not_among(&self, scanned: &[Counters]) -> Vec<(MemcgId, CgroupPath)> {
        let scanned: HashSet<MemcgId> = scanned.iter().map(|counters| counters.memcg).collect();
        let living = self.entries.iter().filter(|(_, entry)| !entry.is_removed);
        let missing = living.filter(|(memcg, _)| !scanned.contains(memcg));
        missing.map(|(memcg, entry)| (*memcg, entry.path.clone())).collect()
    }

    /// A cgroup was removed: it stays known for [`KEEP_REMOVED_NS`].
    pub(crate) fn removed(&mut self, change: &CgroupChange) {
        if let Some(entry) = self.entries.get_mut(&change.memcg)
            && std::mem::replace(&mut entry.is_removed, true)
        {
            return;
        }
        self.removed.push_back((change.boot_ns, change.memcg));
        while self.removed.len() > MAX_REMOVED {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, memcg)) = self.removed.pop_front() {
            let entry = self.entries.remove(&memcg);
            // A newer cgroup may have taken the path.
            if let Some(path) = entry.map(|entry| entry.path)
                && self.by_path.get(&path) == Some(&memcg)
            {
                self.by_path.remove(&path);
            }
        }
    }

    /// A gVisor sandbox has a cgroup for itself.
    pub(crate) fn sandbox_found(&mut self, memcg: MemcgId) {
        *self.of_sandboxes.entry(memcg).or_default() += 1;
        let seemed_to_begin = self.entries.get_mut(&memcg).is_some_and(|entry| entry.looks.has_begun());
        if seemed_to_begin {
            self.look_then(memcg, clock::boot_ns().saturating_add(looks::AFTER_BEGINNING_NS));
        }
    }

    /// It ended, or has another.
    pub(crate) fn sandbox_gone(&mut self, memcg: MemcgId) {
        if let hash_map::Entry::Occupied(mut sandboxes) = self.of_sandboxes.entry(memcg) {
            *sandboxes.get_mut() -= 1;
            if *sandboxes.get() == 0 {
                sandboxes.remove();
            }
        }
    }

    /// A program began in a cgroup that its parent is not in; whether that made a look worth while.
    pub(crate) fn began(&mut self, memcg: MemcgId) -> bool {
        let Some(entry) = self.entries.get_mut(&memcg) else { return false };
        if entry.is_removed || entry.is_complete() || !entry.looks.note_beginning() {
            return false;
        }
        let path = entry.path.clone();
        let Some(entry) = self.look_at(memcg, &path) else { return false };
        entry.looks.begin_anew();
        if !entry.is_complete() {
            self.look_then(memcg, clock::boot_ns().saturating_add(looks::AFTER_BEGINNING_NS));
        }
        true
    }

    /// Every cgroup that is known.
    pub(crate) fn ids(&self) -> impl Iterator<Item = MemcgId> {
        self.entries.keys().copied()
    }

    /// Path of a cgroup, alive or not.
    pub(crate) fn path(&self, memcg: MemcgId) -> Option<&CgroupPath> {
        self.entries.get(&memcg).map(|entry| &entry.path)
    }

    /// Id of the cgroup at a path, the newest.
    pub(crate) fn id(&self, path: &CgroupPath) -> Option<MemcgId> {
        self.by_path.get(path).copied()
    }

    /// Id of the cgroup that was at a path then.
    pub(crate) fn id_at(&self, path: &CgroupPath, boot_ns: u64) -> Option<MemcgId> {
        let newest = self.id(path)?;
        let was_there = |entry: &Entry| entry.made_ns <= boot_ns;
        if self.entries.get(&newest).is_none_or(was_there) {
            return Some(newest);
        }
        let before = self.entries.iter().filter(|(_, entry)| entry.path == *path && was_there(entry));
        before.max_by_key(|(_, entry)| entry.made_ns).map_or(Some(newest), |(memcg, _)| Some(*memcg))
    }

    /// Whether a cgroup was removed.
    pub(crate) fn is_removed(&self, memcg: MemcgId) -> bool {
        self.entries.get(&memcg).is_some_and(|entry| entry.is_removed)
    }

    /// Whether a cgroup that no container is known of may have been one's all the same: it is gone, and its runtime deletes
    /// what tells of a container right after it. One that was looked at until no more was to be learned was none.
    pub(crate) fn may_have_been_a_container(&self, memcg: MemcgId, path: &CgroupPath) -> bool {
        let is_final = self.entries.get(&memcg).is_some_and(Entry::is_final);
        !is_final && self.hierarchy.as_ref().is_some_and(|hierarchy| hierarchy.is_gone(memcg, path))
    }

    /// How a cgroup stands to containers; `None` where it was not looked at yet.
    pub(crate) fn standing(&self, memcg: MemcgId) -> Option<Standing> {
        let entry = self.entries.get(&memcg)?;
        let known = entry.known.as_ref()?;
        if self.owner(memcg, &entry.path) != Some(memcg) {
            return Some(Standing::Other);
        }
        let identity = CgroupIdentity::of(entry.path.as_bytes());
        let depth = Some(entry.path.depth());
        Some(if known.container_depth == depth || identity.container_depth == depth {
            Standing::Container
        } else if identity.pod_depth.is_some() {
            Standing::Other
        } else {
            Standing::Plain
        })
    }

    /// The first process of the container that has this cgroup, as its runtime wrote it down.
    fn init_of(&self, memcg: MemcgId) -> Option<u32> {
        let entry = self.entries.get(&memcg)?;
        let known = entry.known.as_ref().filter(|known| known.container_depth == Some(entry.path.depth()))?;
        known.init_pid
    }

    /// Whether a runtime was last seen at work in a cgroup, which then has no limit yet. Not of one that is a minute old: a
    /// container's program may be called like a runtime's.
    pub(crate) fn is_beginning(&self, memcg: MemcgId, now_ns: u64) -> bool {
        let entry = self.entries.get(&memcg);
        entry.is_some_and(|entry| {
            entry.looks.see_a_beginning() && now_ns.saturating_sub(entry.made_ns) < LONGEST_BEGINNING_NS
        })
    }

    /// Whether a process is the first one of the container that has its own cgroup so deep around `subject`.
    pub(crate) fn is_init(&self, pid: u32, subject: &Subject, container_depth: usize, boot_ns: u64) -> bool {
        let Some(path) = subject.path.as_ref().or_else(|| self.path(subject.memcg)) else { return false };
        // By its path it could be taken for a successor that is there already.
        let container = match path.ancestor(container_depth) {
            Some(container) if container != *path => self.id_at(&container, boot_ns),
            _ => Some(subject.memcg),
        };
        container.is_some_and(|container| self.init_of(container) == Some(pid))
    }

    /// Cgroups that end with this process: it was in them and its parent was not, and it is the init of a pid namespace, or by
    /// the word of the runtime the first process of just that container. By their newest ids.
    pub(crate) fn left_by(&self, exit: &Exited) -> Vec<MemcgId> {
        let root = CgroupPath::root();
        let own = exit.memcg.and_then(|memcg| self.path(memcg));
        let parent =
            exit.parent_memcg.and_then(|(memcg, depth)| if depth == 0 { Some(&root) } else { self.path(memcg) });
        let (Some(own), Some(parent)) = (own, parent) else { return Vec::new() };
        let left = (1..=own.depth()).filter_map(|depth| own.ancestor(depth)).filter(|around| !parent.is_within(around));
        let left = left.filter_map(|around| self.id(&around));
        left.filter(|memcg| exit.is_init || self.init_of(*memcg) == Some(exit.pid)).collect()
    }

    /// The workload that a cgroup belongs to, and how deep the container's own cgroup lies.
    pub(crate) fn workload(&mut self, subject: &Subject) -> Option<(Arc<Workload>, Option<usize>)> {
        let path = subject.path.clone().or_else(|| self.path(subject.memcg).cloned())?;
        let owner = self.owner(subject.memcg, &path);
        let owner_path = owner.and_then(|owner| self.path(owner)).unwrap_or(&path).clone();
        let Known { mut workload, container_depth, .. } = self.known(owner, &owner_path);
        workload.cgroup_path = Some(crate::workload::escape::escape(path.as_bytes()));
        workload.cgroup_id = Some(subject.memcg.id);
        workload.cgroup_version = self.hierarchy.as_ref().map(|hierarchy| hierarchy.version);
        Some((Arc::new(workload), container_depth))
    }

    /// Containers that live and were looked at for long enough that no more is likely to be learned of them, by their
    /// own cgroup.
    pub(crate) fn containers(&self) -> impl Iterator<Item = (MemcgId, &Workload)> {
        self.entries.iter().filter(|(_, entry)| !entry.is_removed).filter_map(|(memcg, entry)| {
            let known = entry.known.as_ref()?;
            // What is inside of a container may look like another one.
            let is_container = known.container_depth == Some(entry.path.depth())
                && known.workload.container_id.is_some()
                && self.owner(*memcg, &entry.path) == Some(*memcg);
            let settled = entry.looks.are_settled || is_complete(&known.workload);
            (is_container && settled).then_some((*memcg, &known.workload))
        })
    }

    /// The same, to be told to the next agent.
    pub(crate) fn kept_containers(&self) -> impl Iterator<Item = Container> {
        self.containers().filter_map(|(memcg, workload)| Container::new(memcg, self.path(memcg)?, workload))
    }

    /// What an earlier agent knew of a container that is gone by now.
    pub(crate) fn recall(&mut self, container: Container, now_ns: u64) {
        let (memcg, path) = (container.memcg(), container.path());
        // One that lives is looked at, for its name may be another by now.
        if let hash_map::Entry::Vacant(entry) = self.entries.entry(memcg) {
            let workload = container.into_workload();
            let known = Some(Known { workload, container_depth: Some(path.depth()), init_pid: None });
            let entry = entry.insert(Entry::new(path.clone(), 0));
            (entry.known, entry.looks, entry.is_removed) = (known, Looks::done(), true);
            self.by_path.entry(path).or_insert(memcg);
            self.removed.push_back((now_ns, memcg));
        }
    }

    /// The cgroup whose description holds: that of the outermost container around `path`, by the path's own form or
    /// by what its files said (a runtime used by hand names its cgroup as it likes); else the cgroup itself.
    fn owner(&self, memcg: MemcgId, path: &CgroupPath) -> Option<MemcgId> {
        let own = self.entries.contains_key(&memcg).then_some(memcg);
        let by_form = CgroupIdentity::of(path.as_bytes()).container_depth;
        let containers = (1..path.depth()).find_map(|depth| {
            let ancestor = *self.by_path.get(&path.ancestor(depth)?)?;
            let known = self.entries.get(&ancestor)?.known.as_ref();
            let by_files = known.and_then(|known| known.container_depth);
            (by_form == Some(depth) || by_files == Some(depth)).then_some(ancestor)
        });
        containers.or(own)
    }

    /// What is known of a cgroup, after another look where that may tell more.
    fn known(&mut self, memcg: Option<MemcgId>, path: &CgroupPath) -> Known {
        let entry = memcg.and_then(|memcg| self.entries.get(&memcg));
        let holds = |entry: &&Entry| entry.is_final() || entry.looks.are_fresh(clock::boot_ns());
        if let Some(known) = entry.filter(holds).and_then(|entry| entry.known.clone()) {
            return known;
        }
        let (looked, is_beginning) = self.look(memcg, path);
        match memcg.and_then(|memcg| self.entries.get_mut(&memcg)) {
            Some(entry) => {
                entry.looks.note_event(clock::boot_ns());
                entry.learn(looked, is_beginning).clone()
            }
            None => looked,
        }
    }

    /// What its files say, and whether a runtime's own process is there.
    fn look(&mut self, memcg: Option<MemcgId>, path: &CgroupPath) -> (Known, bool) {
        let identity = CgroupIdentity::of(path.as_bytes());
        let process = self.hierarchy.as_ref().and_then(|all| all.first_process(path));
        let found = self.users.describe(&self.root, &identity, path.as_bytes(), process);
        for problem in &found.problems {
            tracing::debug!(path = %problem.path.display(), reason = problem.reason.as_str(), "a file was not used");
        }
        let is_sandbox = memcg.is_some_and(|memcg| self.of_sandboxes.contains_key(&memcg));
        let known =
            Known { workload: found.workload, container_depth: found.container_depth, init_pid: found.init_pid };
        (known, found.is_beginning && !is_sandbox)
    }

    /// Looks at the cgroups whose time has come, so many at most, and forgets those removed long ago. Those looked at.
    pub(crate) fn tick(&mut self, now_ns: u64, most: usize) -> Vec<MemcgId> {
        let mut looked = Vec::new();
        while self.removed.front().is_some_and(|(at, _)| at.saturating_add(KEEP_REMOVED_NS) <= now_ns) {
            self.forget_oldest();
        }
        for _ in 0..most {
            let Some(&(due_ns, memcg)) = self.due.first().filter(|(due_ns, _)| *due_ns <= now_ns) else { break };
            self.due.remove(&(due_ns, memcg));
            self.look_again(memcg, now_ns);
            looked.push(memcg);
        }
        looked
    }

    fn look_again(&mut self, memcg: MemcgId, now_ns: u64) {
        let Some(entry) = self.entries.get_mut(&memcg) else { return };
        entry.looks.due_ns = None;
        let path = entry.path.clone();
        let Some(entry) = self.look_at(memcg, &path) else { return };
        // What a runtime has not written yet it may write all the same, and what it deleted is not there.
        if entry.is_removed {
            return;
        }
        let next = entry.looks.next();
        if let (false, Some(after)) = (entry.is_final(), next) {
            self.look_then(memcg, now_ns.saturating_add(after));
        }
    }

    fn look_at(&mut self, memcg: MemcgId, path: &CgroupPath) -> Option<&mut Entry> {
        let (looked, is_beginning) = self.look(Some(memcg), path);
        let entry = self.entries.get_mut(&memcg)?;
        entry.learn(looked, is_beginning);
        Some(entry)
    }

    /// When [`Self::tick`] is next due.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let look = self.due.first().map(|(due_ns, _)| *due_ns);
        let forget = self.removed.front().map(|(at, _)| at.saturating_add(KEEP_REMOVED_NS));
        look.into_iter().chain(forget).min()
    }
}

#[cfg(test)]
mod tests;
