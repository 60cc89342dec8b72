//! The reader of the host's files against a tree made to hurt it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::{HostError, HostRoot};

struct Tree {
    root: tempfile::TempDir,
    outside: tempfile::TempDir,
}

impl Tree {
    fn new() -> Self {
        let tree = Self { root: tempfile::tempdir().unwrap(), outside: tempfile::tempdir().unwrap() };
        fs::create_dir(tree.root.path().join("run")).unwrap();
        fs::write(tree.root.path().join("run/state"), "inside").unwrap();
        fs::write(tree.outside.path().join("state"), "outside").unwrap();
        tree
    }

    fn host(&self) -> HostRoot {
        HostRoot::new(self.root.path())
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, HostError> {
        self.host().read_bounded(Path::new(path), 64)
    }
}

#[test]
fn a_file_is_read_whole_up_to_the_bound_and_not_beyond() {
    let tree = Tree::new();
    let path = tree.root.path().join("run/state");
    fs::write(&path, [b'x'; 64]).unwrap();
    assert_eq!(tree.read("/run/state").unwrap().len(), 64);
    fs::write(&path, [b'x'; 65]).unwrap();
    assert!(matches!(tree.read("/run/state"), Err(HostError::Format { .. })));
    let error = HostRoot::default().read_bounded(Path::new("/proc/self/status"), 10).unwrap_err();
    assert_eq!(error.to_string(), "/proc/self/status: larger than 10 bytes");
}

#[test]
fn a_missing_file_or_process_is_gone() {
    let tree = Tree::new();
    for path in ["/run/none", "/none/state", "/run/state/below", "/proc/4294967295/stat"] {
        assert!(matches!(tree.read(path), Err(HostError::Gone { .. })), "{path}");
    }
    let host = HostRoot::default();
    let dead = Path::new("/proc/4194304/stat");
    assert!(matches!(host.read_bounded(dead, 10), Err(HostError::Gone { .. })));
}

#[test]
fn what_is_no_regular_file_is_refused_without_waiting() {
    let tree = Tree::new();
    let fifo = tree.root.path().join("run/fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
    for path in ["/run/fifo", "/run"] {
        let error = tree.read(path).unwrap_err();
        assert_eq!(error.to_string(), format!("{path}: not a regular file"));
    }
    let device = HostRoot::default().read_bounded(Path::new("/dev/zero"), 10).unwrap_err();
    assert!(matches!(device, HostError::Format { .. }));
}

#[test]
fn links_do_not_lead_out_of_the_root() {
    let tree = Tree::new();
    let root = tree.root.path();
    symlink(tree.outside.path(), root.join("absolute")).unwrap();
    symlink("../../../../../../../../etc", root.join("climbing")).unwrap();
    symlink("/run", root.join("inner")).unwrap();
    symlink("state", root.join("run/last")).unwrap();
    assert!(matches!(tree.read("/absolute/state"), Err(HostError::Gone { .. })));
    assert!(matches!(tree.read("/climbing/hostname"), Err(HostError::Gone { .. })));
    assert_eq!(tree.read("/inner/state").unwrap(), b"inside");
    assert!(matches!(tree.read("/run/last"), Err(HostError::Io { .. })), "a link at the end is not followed");
}

#[test]
fn paths_that_climb_or_are_relative_are_refused() {
    let tree = Tree::new();
    for path in ["/run/../../x", "..", "run/state", ""] {
        assert!(matches!(tree.read(path), Err(HostError::Format { .. })), "{path}");
        assert!(matches!(tree.host().join(Path::new(path)), Err(HostError::Format { .. })), "{path}");
        assert!(matches!(HostRoot::default().read_bounded(Path::new(path), 9), Err(HostError::Format { .. })));
    }
    assert_eq!(tree.host().join(Path::new("/run/state")).unwrap(), tree.root.path().join("run/state"));
    assert!(matches!(tree.read("/run/st\0ate"), Err(HostError::Io { .. })));
}

#[test]
fn listings_are_bounded() {
    let tree = Tree::new();
    for name in 0..5 {
        fs::write(tree.root.path().join(format!("run/{name}")), "").unwrap();
    }
    let listing = |max| tree.host().list(Path::new("/run"), max).unwrap();
    assert_eq!((listing(6).names.len(), listing(6).complete), (6, true));
    assert_eq!((listing(5).names.len(), listing(5).complete), (5, false));
    assert!(!tree.host().list(Path::new("/"), 10).unwrap().names.is_empty());
    assert!(matches!(tree.host().list(Path::new("/run/state"), 5), Err(HostError::Gone { .. })));
}

#[test]
fn links_are_read_as_they_are_written_and_proc_is_asked() {
    let tree = Tree::new();
    symlink("/some/where", tree.root.path().join("link")).unwrap();
    assert_eq!(tree.host().read_link(Path::new("/link")).unwrap(), Path::new("/some/where"));
    let here = std::env::current_dir().unwrap();
    assert_eq!(HostRoot::default().read_link(Path::new("/proc/self/cwd")).unwrap(), here);
    assert!(tree.host().read_link(Path::new("/run/state")).is_err());
}
