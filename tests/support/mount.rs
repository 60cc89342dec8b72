//! Mounts, undone on drop.

use std::{ffi::CStr, fs, path::Path};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

/// A file system in a folder of its own.
#[derive(Debug)]
pub struct Mount(TempDir);

impl Mount {
    /// Mounts it.
    pub fn new(kind: &str, options: &CStr) -> Self {
        let folder = tempfile::tempdir().expect("make a folder");
        mount("none", folder.path(), kind, MountFlags::empty(), Some(options))
            .unwrap_or_else(|error| panic!("mount {kind} with {options:?}: {error}"));
        Self(folder)
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let undone = unmount(self.folder(), UnmountFlags::empty());
        assert!(undone.is_ok() || std::thread::panicking(), "{} stays mounted: {undone:?}", self.folder().display());
    }
}

/// Unmounts what others left mounted below a folder.
pub(crate) fn unmount_below(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("the list of mounts");
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let mut points: Vec<&Path> = points.map(Path::new).filter(|point| point.starts_with(folder)).collect();
    points.reverse();
    for point in points {
        let undone = unmount(point, UnmountFlags::DETACH);
        assert!(undone.is_ok() || std::thread::panicking(), "{} stays mounted: {undone:?}", point.display());
    }
}
