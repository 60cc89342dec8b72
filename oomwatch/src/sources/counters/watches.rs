//! The kernel's hints that something changed in a cgroup: inotify on its folder and files; on cgroup v1, where the
//! counters' file gives no such news, an eventfd. Each is as good as it is: where there are none, or no more of them,
//! cgroups are looked at now and then.

use std::{io, path::Path};

use super::super::readable::Hint;
use crate::{
    host::{
        HostError, HostRoot,
        inotify::{Change, Inotify, Wanted},
        memory::MemoryHierarchy,
        oom_notice::OomNotices,
    },
    observation::MemcgId,
};

/// Cgroups watched at most. Each takes up to three watches or a watch and a descriptor, some 2 KiB in the kernel; a host
/// with more is looked at as a whole.
pub(super) const MAX_WATCHED: usize = 16_384;

/// Where hints come from.
#[derive(Debug)]
pub(crate) struct Watches {
    inotify: Option<Inotify>,
    /// On cgroup v1.
    notices: Option<OomNotices>,
    version: u8,
    /// Why there are none, or not for all cgroups; said once.
    lacking: Option<String>,
    said: bool,
}

/// What watches one cgroup.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// Its folder.
    pub(super) folder: Option<i32>,
    /// Its counters, and on cgroup2 whether it has processes.
    pub(super) files: Vec<i32>,
    /// An eventfd tells of it.
    pub(super) noticed: bool,
}

impl Watches {
    /// What this kernel offers.
    pub(crate) fn new(hierarchy: &MemoryHierarchy) -> Self {
        let mut lacking = None;
        let mut note = |error: &HostError| lacking = Some(error.to_string());
        let inotify = Inotify::new().inspect_err(&mut note).ok();
        let notices = (hierarchy.version == 1).then(OomNotices::new).transpose().inspect_err(&mut note).ok().flatten();
        Self { inotify, notices, version: hierarchy.version, lacking, said: false }
    }

    /// Why some cgroups are only looked at now and then.
    pub(crate) fn lacking(&self) -> Option<&str> {
        self.lacking.as_deref()
    }

    /// Readable where there is something to heed.
    pub(super) fn hints(&self) -> io::Result<(Option<Hint>, Option<Hint>)> {
        let changes = self.inotify.as_ref().map(Hint::of).transpose()?;
        let notices = self.notices.as_ref().map(Hint::of).transpose()?;
        Ok((changes, notices))
    }

    /// Watches a folder for cgroups made and removed in it.
    pub(super) fn folder(&mut self, root: &HostRoot, folder: &Path) -> Option<i32> {
        let watch = self.inotify.as_ref()?.watch(root, folder, Wanted::Folders);
        self.checked(watch)
    }

    /// Watches the counters of a cgroup.
    pub(super) fn counters(&mut self, root: &HostRoot, folder: &Path, memcg: MemcgId, watched: &mut Watched) {
        if self.version == 1 {
            if let Some(notices) = &mut self.notices {
                let asked = notices.ask(root, folder, memcg.id);
                watched.noticed = self.checked(asked).is_some();
            }
            return;
        }
        for file in ["memory.events.local", "cgroup.events"] {
            let Some(inotify) = &self.inotify else { return };
            let watch = inotify.watch(root, &folder.join(file), Wanted::News);
            watched.files.extend(self.checked(watch));
        }
    }

    /// A cgroup that is gone at once is no fault.
    fn checked<T>(&mut self, outcome: Result<T, HostError>) -> Option<T> {
        let error = match outcome {
            Ok(it) => return Some(it),
            Err(HostError::Gone { .. }) => return None,
            Err(error) => error,
        };
        let what = if error.is_exhausted() { "no more cgroups can be watched" } else { "a cgroup cannot be watched" };
        self.lacks(&format!("{what} ({error})"));
        None
    }

    /// Says once that hints are lacking.
    pub(super) fn lacks(&mut self, why: &str) {
        self.lacking.get_or_insert_with(|| why.to_owned());
        if !std::mem::replace(&mut self.said, true) {
            tracing::warn!(reason = why, "kills in some cgroups are told up to seconds late");
        }
    }

    pub(super) fn forget(&mut self, memcg: MemcgId, watched: &Watched) {
        if let Some(inotify) = &self.inotify {
            watched.folder.iter().chain(&watched.files).for_each(|watch| inotify.forget(*watch));
        }
        if let Some(notices) = self.notices.as_mut().filter(|_| watched.noticed) {
            notices.forget(memcg.id);
        }
    }

    /// What inotify told since.
    pub(super) fn changes(&mut self) -> Vec<Change> {
        let Some(inotify) = &self.inotify else { return Vec::new() };
        inotify.changes().unwrap_or_else(|error| {
            tracing::debug!(%error, "changes are not read");
            vec![Change::Lost]
        })
    }

    /// Cgroups whose eventfd rang since, by kernfs id.
    pub(super) fn notices(&self) -> Vec<u64> {
        self.notices.as_ref().map(OomNotices::take).unwrap_or_default()
    }
}
