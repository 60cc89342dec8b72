//! `memory.events.local` of every cgroup, read each half a second, as the original system does: a counter that rose. The
//! file with the kills of a cgroup alone, so that none counts twice above it.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use crate::{Seen, Watcher, clock};

const EVERY: Duration = Duration::from_millis(500);
const ROOT: &str = "/sys/fs/cgroup";
/// Only what is below: cgroups of this guest are at most so deep.
const DEPTH: usize = 4;

/// Polls until the process ends.
pub(crate) struct Polled(Arc<Mutex<Vec<Seen>>>);

impl Polled {
    pub(crate) fn start() -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&seen);
        drop(thread::spawn(move || {
            let mut counts = HashMap::new();
            loop {
                let mut found = Vec::new();
                look(Path::new(ROOT), DEPTH, &mut found);
                for (cgroup, count) in found {
                    let before = counts.insert(cgroup.clone(), count).unwrap_or(0);
                    let kill = Seen { cgroup: Some(cgroup), at: clock::now(), ..Seen::default() };
                    let risen = usize::try_from(count.saturating_sub(before)).unwrap_or(usize::MAX);
                    told.lock().unwrap_or_else(PoisonError::into_inner).extend(std::iter::repeat_n(kill, risen));
                }
                thread::sleep(EVERY);
            }
        }));
        Self(seen)
    }
}

impl Watcher for Polled {
    fn name(&self) -> &'static str {
        "`memory.events.local`, polled every 500 ms"
    }

    fn finish(&mut self) -> Vec<Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Counts of all cgroups below.
fn look(folder: &Path, depth: usize, found: &mut Vec<(String, u64)>) {
    let events = fs::read_to_string(folder.join("memory.events.local")).unwrap_or_default();
    let count = events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok());
    if let (Some(count), Ok(path)) = (count, folder.strip_prefix(ROOT)) {
        found.push((format!("/{}", path.display()), count));
    }
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        look(&entry.path(), depth - 1, found);
    }
}
