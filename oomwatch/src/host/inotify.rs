//! Changes of files and folders, told by the kernel (inotify). Which watch says what is for the caller to know.

use std::{
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};

use super::{HostError, HostRoot};

/// Room for changes read in one go, bytes: some hundred without a name.
const BUFFER: usize = 16 << 10;

/// An instance of inotify.
#[derive(Debug)]
pub struct Inotify(OwnedFd);

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Folders made and removed in this one.
    Folders,
    /// That this file says something new.
    News,
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A folder was made.
    Made {
        /// Where.
        watch: i32,
        /// Its name.
        name: Vec<u8>,
    },
    /// A folder was removed.
    Removed {
        /// Where.
        watch: i32,
        /// Its name.
        name: Vec<u8>,
    },
    /// A file says something new.
    News {
        /// Which.
        watch: i32,
    },
    /// Changes were lost.
    Lost,
}

impl Inotify {
    /// A new one.
    ///
    /// # Errors
    /// The kernel has no more of them for this user, or none at all.
    pub fn new() -> Result<Self, HostError> {
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        inotify::init(flags).map(Self).map_err(|errno| HostError::from_io(Path::new("inotify"), errno.into()))
    }

    /// Watches `absolute`; the number of the watch.
    ///
    /// # Errors
    /// It is gone, or there are no more watches for this user.
    pub fn watch(&self, root: &HostRoot, absolute: &Path, wanted: Wanted) -> Result<i32, HostError> {
        let flags = match wanted {
            Wanted::Folders => WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::ONLYDIR,
            Wanted::News => WatchFlags::MODIFY,
        };
        let watched = inotify::add_watch(&self.0, root.join(absolute)?, flags | WatchFlags::DONT_FOLLOW);
        watched.map_err(|errno| HostError::from_io(absolute, errno.into()))
    }

    /// Watches this no more. Before Linux 7.2 a watch of a cgroup that is gone would count for ever.
    pub fn forget(&self, watch: i32) {
        if let Err(error) = inotify::remove_watch(&self.0, watch) {
            tracing::trace!(watch, %error, "a watch ended by itself");
        }
    }

    /// Takes what happened, without waiting.
    pub fn changes(&self) -> Result<Vec<Change>, HostError> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut reader = Reader::new(&self.0, &mut buffer);
        let mut changes = Vec::new();
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| name.to_bytes().to_vec()).unwrap_or_default();
                    changes.extend(change(event.wd(), event.events(), name));
                }
                Err(Errno::AGAIN) => return Ok(changes),
                Err(errno) => return Err(HostError::from_io(Path::new("inotify"), errno.into())),
            }
        }
    }
}

fn change(watch: i32, flags: ReadFlags, name: Vec<u8>) -> Option<Change> {
    if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
        Some(Change::Lost)
    } else if flags.contains(ReadFlags::CREATE | ReadFlags::ISDIR) {
        Some(Change::Made { watch, name })
    } else if flags.contains(ReadFlags::DELETE | ReadFlags::ISDIR) {
        Some(Change::Removed { watch, name })
    } else {
        flags.contains(ReadFlags::MODIFY).then_some(Change::News { watch })
    }
}

impl HostError {
    /// There is no room for more watches or descriptors.
    pub fn is_exhausted(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        let errno = Errno::from_io_error(source);
        matches!(errno, Some(Errno::NOSPC | Errno::MFILE | Errno::NFILE | Errno::NOMEM))
    }
}

impl AsFd for Inotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn folders_that_come_and_go_and_files_with_news_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let root = HostRoot::new(folder.path());
        fs::write(folder.path().join("file"), "1").unwrap();
        let inotify = Inotify::new().unwrap();
        let watch = inotify.watch(&root, Path::new("/"), Wanted::Folders).unwrap();
        let file = inotify.watch(&root, Path::new("/file"), Wanted::News).unwrap();
        fs::create_dir(folder.path().join("a b")).unwrap();
        fs::write(folder.path().join("file"), "2").unwrap();
        fs::write(folder.path().join("other"), "no folder").unwrap();
        fs::remove_dir(folder.path().join("a b")).unwrap();
        let mut changes = inotify.changes().unwrap();
        changes.dedup();
        let name = b"a b".to_vec();
        let expected =
            [Change::Made { watch, name: name.clone() }, Change::News { watch: file }, Change::Removed { watch, name }];
        assert_eq!(changes, expected);
        assert_eq!(inotify.changes().unwrap(), []);
        assert!(matches!(inotify.watch(&root, Path::new("/none"), Wanted::News), Err(HostError::Gone { .. })));
    }
}
