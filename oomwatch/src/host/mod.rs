//! Reads files of the host: `/proc`, `/sys` and the state of container engines, below a root that
//! is `/` or where a container sees the host's (`--host-root`). Everything read is bounded: files
//! may be huge, links, FIFOs, devices or garbage.

pub mod charge;
pub mod containers;
pub mod dying;
pub mod inotify;
pub mod kmsg;
pub mod limit;
pub mod memory;
pub mod oom_notice;
pub mod pressure;
pub mod spared;
pub mod system;
pub mod tracefs;
pub mod vmstat;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Why a file of the host could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The file, or the process it describes, does not exist (any more): an end of life, not a fault.
    #[error("{} is gone", path.display())]
    Gone {
        /// The file, seen from the root.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file, seen from the root.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file is not of the kind, size or form it should have.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file, seen from the root.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Files of the kernel are mostly smaller, bytes.
const USUAL_FILE: usize = 4096;

impl HostError {
    /// A fault of form in the file `path`.
    pub fn format(path: &Path, reason: impl Into<String>) -> Self {
        Self::Format { path: path.to_owned(), reason: reason.into() }
    }

    fn from_io(path: &Path, source: io::Error) -> Self {
        match Errno::from_io_error(&source) {
            Some(Errno::NOENT | Errno::NOTDIR | Errno::SRCH | Errno::NODEV) => Self::Gone { path: path.to_owned() },
            _ => Self::Io { path: path.to_owned(), source },
        }
    }
}

/// Names in a folder.
#[derive(Debug, Default)]
pub struct Listing {
    /// Names in the kernel's order, without `.` and `..`.
    pub names: Vec<OsString>,
    /// `false` when the folder holds more than was asked for.
    pub complete: bool,
}

/// The folder that stands for the host's `/`. Paths given to it are absolute on the host; neither
/// `..` nor a link leads out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRoot(PathBuf);

impl Default for HostRoot {
    fn default() -> Self {
        Self::new("/")
    }
}

impl HostRoot {
    /// The host whose `/` is seen at `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self(root.into())
    }

    /// The folder itself.
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// Where the host's `absolute` path is seen from here. Links on the way are not looked at: to
    /// open a file use [`Self::open`].
    pub fn join(&self, absolute: &Path) -> Result<PathBuf, HostError> {
        Ok(self.0.join(relative(absolute)?))
    }

    /// Opens `absolute` without waiting (a FIFO does not block) and without following a link at
    /// its end; links before that stay inside the root.
    pub fn open(&self, absolute: &Path, flags: OFlags) -> Result<OwnedFd, HostError> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let opened = if self.0 == Path::new("/") {
            relative(absolute)?;
            fs::open(absolute, flags, Mode::empty())
        } else {
            self.open_inside(relative(absolute)?, flags)
        };
        opened.map_err(|errno| HostError::from_io(absolute, errno.into()))
    }

    /// A link at the root's own path is the user's choice and is followed.
    fn open_inside(&self, relative: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let root = fs::open(&self.0, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let inside = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
        fs::openat2(root, inside, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    }

    /// The whole content of a regular file of at most `max_bytes`.
    pub fn read_bounded(&self, absolute: &Path, max_bytes: usize) -> Result<Vec<u8>, HostError> {
        let fd = self.open(absolute, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let stat = fs::fstat(&fd).map_err(|errno| HostError::from_io(absolute, errno.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(HostError::format(absolute, "not a regular file"));
        }
        let too_large = || HostError::format(absolute, format!("larger than {max_bytes} bytes"));
        if usize::try_from(stat.st_size).is_ok_and(|size| size > max_bytes) {
            return Err(too_large());
        }
        let content = read_all(&fd, max_bytes).map_err(|errno| HostError::from_io(absolute, errno.into()))?;
        content.ok_or_else(too_large)
    }

    /// Where the link `absolute` points, as it is written; for `/proc/PID/cwd` and its likes where
    /// the kernel says.
    pub fn read_link(&self, absolute: &Path) -> Result<PathBuf, HostError> {
        let fd = self.open(absolute, OFlags::PATH)?;
        let target = fs::readlinkat(fd, "", Vec::new()).map_err(|errno| HostError::from_io(absolute, errno.into()))?;
        Ok(OsString::from_vec(target.into_bytes()).into())
    }

    /// At most `max_names` names of the folder `absolute`.
    pub fn list(&self, absolute: &Path, max_names: usize) -> Result<Listing, HostError> {
        let io = |errno: Errno| HostError::from_io(absolute, errno.into());
        let fd = self.open(absolute, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK)?;
        let mut listing = Listing { names: Vec::new(), complete: true };
        for entry in Dir::new(fd).map_err(io)? {
            let entry = entry.map_err(io)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            if listing.names.len() == max_names {
                listing.complete = false;
                break;
            }
            listing.names.push(OsString::from_vec(name.to_vec()));
        }
        Ok(listing)
    }
}

/// The rest of a file, `None` where that is more than `max_bytes`. Two calls for most files of the kernel, which make
/// their whole content for each.
pub(crate) fn read_all(fd: impl AsFd, max_bytes: usize) -> Result<Option<Vec<u8>>, Errno> {
    // One byte more than allowed tells a file that is too large, or grows, from one that fits.
    let most = max_bytes.saturating_add(1);
    let mut content = vec![0; most.min(USUAL_FILE)];
    let mut length = 0;
    loop {
        let room = content.get_mut(length..).unwrap_or_default();
        match rustix::io::retry_on_intr(|| rustix::io::read(&fd, &mut *room))? {
            0 => break,
            read => length += read,
        }
        if length > max_bytes {
            return Ok(None);
        }
        if length == content.len() {
            content.resize(length.saturating_mul(4).min(most), 0);
        }
    }
    content.truncate(length);
    Ok(Some(content))
}

/// `absolute` without its `/`, refused when it is not absolute or climbs.
fn relative(absolute: &Path) -> Result<&Path, HostError> {
    if absolute.components().any(|part| matches!(part, Component::ParentDir)) {
        return Err(HostError::format(absolute, "the path has a `..`"));
    }
    absolute.strip_prefix("/").map_err(|_not_absolute| HostError::format(absolute, "the path is not absolute"))
}

#[cfg(test)]
mod tests;
