//! What the agent remembers of workloads across its own restarts: gathered from the inventory, kept in a file.

use std::{
    collections::HashMap,
    io::{self, Write as _},
    path::{self, Path, PathBuf},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, SystemTime},
};

use super::Pipeline;
use crate::{
    clock,
    history::{self, History, Run},
    host::{HostError, HostRoot, spared},
    inventory::{Entry, Inventory},
    observation::WorkloadKey,
    recommend::{HISTORY_FILE, MAX_HISTORY},
};

/// How often the file is written at most, also how much is lost where the agent is killed.
const SAVE_EVERY_NS: u64 = 60_000_000_000;
/// A younger workload may get its name yet.
const NAMED_AFTER_NS: u64 = 8_000_000_000;
/// How long the end waits for the disk.
const LAST_SAVE: Duration = Duration::from_secs(1);

/// What the history holds of a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Counted {
    /// Of the group that it is in.
    name: String,
    kills: u64,
    warnings: u64,
    ended: bool,
}

/// The history and its file.
#[derive(Debug)]
pub(super) struct Recollection {
    history: History,
    /// `None` where nothing is to be kept.
    folder: Option<PathBuf>,
    boot_tag: String,
    /// What is in the history already.
    counted: HashMap<WorkloadKey, Counted>,
    save_ns: u64,
    /// Tells the end of the save under way.
    saving: Option<Receiver<()>>,
}

impl Recollection {
    /// From what is in the folder.
    pub(super) fn new(folder: Option<&Path>, boot_id: &str) -> Self {
        let folder = folder.and_then(|folder| path::absolute(folder).ok());
        Self {
            history: folder.as_deref().map(read).unwrap_or_default(),
            folder,
            boot_tag: boot_id.chars().take(8).collect(),
            counted: HashMap::new(),
            save_ns: clock::boot_ns().saturating_add(SAVE_EVERY_NS),
            saving: None,
        }
    }

    /// When it is next to be saved.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.folder.as_ref().map(|_| self.save_ns)
    }

    /// Takes in what the inventory holds.
    fn gather(&mut self, inventory: &Inventory, now_ns: u64) {
        self.counted.retain(|key, _| inventory.contains(*key));
        let limits = inventory.limits();
        for entry in inventory.entries() {
            let Some(seen) = seen(entry, now_ns) else { continue };
            let Some(name) = history::name(&entry.workload) else { continue };
            let now = Counted {
                name: name.clone(),
                kills: entry.kills,
                warnings: entry.near_limits,
                ended: entry.ended_ns.is_some(),
            };
            let before = self.counted.insert(entry.key, now.clone());
            if now.ended && before.as_ref() == Some(&now) {
                continue;
            }
            let (kills, warnings) = before.as_ref().map_or((0, 0), |before| (before.kills, before.warnings));
            let run = Run {
                id: self.run_id(entry.key),
                first_seconds: seconds(seen.0),
                last_seconds: seconds(seen.1),
                peak_bytes: entry.peak_bytes,
                limit_bytes: entry.own_limit_bytes(&limits),
                kills: now.kills.saturating_sub(kills),
                killed_at_bytes: entry.killed_at_bytes,
                warnings: now.warnings.saturating_sub(warnings),
            };
            self.history.observe(&name, run, before.is_some_and(|before| before.name == name));
        }
    }

    fn run_id(&self, key: WorkloadKey) -> String {
        match key {
            WorkloadKey::Sandbox(sandbox) => format!("{}-{}-{}", self.boot_tag, sandbox.pid, sandbox.start_ticks),
            WorkloadKey::Cgroup(memcg) => format!("{}-{}:{}", self.boot_tag, memcg.hierarchy, memcg.id),
        }
    }

    /// Writes the file beside the agent's work: a disk may hang.
    fn save(&mut self) {
        let is_saving = self.saving.as_ref().is_some_and(|saving| saving.try_recv().is_err_and(is_under_way));
        let (Some(folder), false) = (self.folder.clone(), is_saving) else { return };
        let json = match serde_json::to_vec(&self.history) {
            Ok(json) => json,
            Err(error) => return tracing::warn!(%error, "the history cannot be written"),
        };
        let (done, saving) = channel();
        let saves = thread::Builder::new().name("history".to_owned()).spawn(move || {
            spared::take_time();
            if let Err(error) = write(&folder, &json) {
                tracing::warn!(%error, folder = %folder.display(), "the history cannot be written");
            }
            let _nobody_waits: Result<(), _> = done.send(());
        });
        // A host without a thread to spare is one to watch on.
        match saves {
            Ok(_detached) => self.saving = Some(saving),
            Err(error) => tracing::warn!(%error, "the history cannot be written"),
        }
    }
}

fn is_under_way(error: std::sync::mpsc::TryRecvError) -> bool {
    error == std::sync::mpsc::TryRecvError::Empty
}

/// When a workload was first and last measured; `None` where it is too early to take it in.
fn seen(entry: &Entry, now_ns: u64) -> Option<(u64, u64)> {
    let last_ns = entry.last.as_ref().map(|last| last.boot_ns).or(entry.ended_ns)?;
    let first_ns = entry.first_ns.unwrap_or(last_ns);
    let is_named = entry.ended_ns.is_some() || now_ns.saturating_sub(first_ns) >= NAMED_AFTER_NS;
    is_named.then_some((first_ns, last_ns))
}

fn seconds(boot_ns: u64) -> u64 {
    clock::wall_time(boot_ns).duration_since(SystemTime::UNIX_EPOCH).map(|time| time.as_secs()).unwrap_or_default()
}

fn read(folder: &Path) -> History {
    let file = folder.join(HISTORY_FILE);
    let json = match HostRoot::default().read_bounded(&file, MAX_HISTORY) {
        Ok(json) => json,
        Err(HostError::Gone { .. }) => return History::default(),
        Err(error) => {
            tracing::warn!(%error, "the history cannot be read: it begins anew");
            return History::default();
        }
    };
    History::parse(&json).unwrap_or_else(|error| {
        tracing::warn!(%error, file = %file.display(), "the history cannot be read: it begins anew");
        History::default()
    })
}

/// Whole or not at all.
fn write(folder: &Path, json: &[u8]) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(json)?;
    file.as_file().sync_data()?;
    file.persist(folder.join(HISTORY_FILE))?;
    Ok(())
}

impl Pipeline {
    /// The history as of now.
    pub(super) fn recollect(&mut self) -> History {
        self.recollection.gather(&self.inventory, clock::boot_ns());
        self.recollection.history.clone()
    }

    /// Saves the history where that is due.
    pub(super) fn keep_history(&mut self, now_ns: u64) {
        if self.recollection.folder.is_some() && self.recollection.save_ns <= now_ns {
            self.recollection.save_ns = now_ns.saturating_add(SAVE_EVERY_NS);
            self.recollection.gather(&self.inventory, now_ns);
            self.recollection.save();
        }
    }

    /// Saves it for the last time.
    pub(super) fn keep_history_at_end(&mut self) {
        let wait = |recollection: &mut Recollection| {
            // Neither a disk that hangs nor a save that failed keeps the agent from ending.
            let saving = recollection.saving.take();
            let _ended: Option<Result<(), _>> = saving.map(|saving| saving.recv_timeout(LAST_SAVE));
        };
        wait(&mut self.recollection);
        self.recollection.gather(&self.inventory, clock::boot_ns());
        self.recollection.save();
        wait(&mut self.recollection);
    }
}
