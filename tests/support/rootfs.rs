//! The root file system of a container: a folder with nothing but the hog.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

/// The hog, inside.
pub(crate) const HOG: &str = "/hog";

/// A folder with a root file system; removed on drop.
#[derive(Debug)]
pub struct Rootfs(TempDir);

impl Rootfs {
    /// A new one.
    #[expect(clippy::new_without_default, reason = "it writes files")]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("make a folder");
        // Runtimes enter it as a user of their own.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("open the folder");
        let rootfs = Self(folder);
        for name in ["proc", "dev", "sys", "tmp"] {
            fs::create_dir_all(rootfs.root().join(name)).expect("make the root file system");
        }
        fs::copy(crate::hog::program(), rootfs.root().join(&HOG[1..])).expect("copy the hog");
        rootfs
    }

    /// The folder around it, for files that go with it.
    pub(crate) fn folder(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder().join("rootfs")
    }
}
