//! The freezer of cgroup v1, in which a process keeps a deadly signal pending. It is there beside cgroup v2 too.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::{mount::Mount, unique_name, wait_for};

/// Freezing takes a moment.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A cgroup of the freezer. Thawed and removed on drop.
#[derive(Debug)]
pub struct Freezer {
    folder: PathBuf,
    _mount: Option<Mount>,
}

impl Freezer {
    /// A new one; `None` where this kernel has no such freezer.
    pub fn new() -> Option<Self> {
        let controllers = fs::read_to_string("/proc/cgroups").expect("the list of controllers");
        if !controllers.lines().any(|line| line.starts_with("freezer\t")) {
            return None;
        }
        let (root, mount) = if let Some(root) = mounted() {
            (root, None)
        } else {
            let mount = Mount::new("cgroup", c"freezer");
            (mount.folder().to_owned(), Some(mount))
        };
        let folder = root.join(unique_name());
        fs::create_dir(&folder).expect("make a freezer");
        Some(Self { folder, _mount: mount })
    }

    /// Freezes this process.
    pub fn freeze(&self, pid: u32) {
        fs::write(self.folder.join("cgroup.procs"), pid.to_string()).expect("put a process into the freezer");
        fs::write(self.state(), "FROZEN").expect("freeze");
        wait_for("the process to freeze", TIMEOUT, || {
            let state = fs::read_to_string(self.state()).expect("the freezer's state");
            (state.trim() == "FROZEN").then_some(())
        });
    }

    fn state(&self) -> PathBuf {
        self.folder.join("freezer.state")
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let deadline = Instant::now() + TIMEOUT;
        let mut undone = fs::write(self.state(), "THAWED").and_then(|()| fs::remove_dir(&self.folder));
        while undone.is_err() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
            undone = fs::remove_dir(&self.folder);
        }
        assert!(undone.is_ok() || thread::panicking(), "{} is left behind: {undone:?}", self.folder.display());
    }
}

fn mounted() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").expect("the list of mounts");
    let freezer = mounts.lines().find(|line| {
        let mut fields = line.split(' ').skip(2);
        fields.next() == Some("cgroup") && fields.next().is_some_and(|all| all.split(',').any(|it| it == "freezer"))
    })?;
    freezer.split(' ').nth(1).map(|point| Path::new(point).to_owned())
}
