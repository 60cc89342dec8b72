//! What a sandbox holds without a cgroup to tell: private memory of sentry and gofers, blocks of the memory files,
//! and what these cost the kernel.
//!
//! gVisor keeps the memory of all its processes, tmpfs included, in memory files of the sentry. Blocks of a file are
//! told by `stat`, whoever has mapped them, so one reading costs the same for one process as for a hundred. Swapped-out
//! pages of memory files are counted too.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::overhead;
use super::process::{self, ProcessKey, present};
use crate::host::{HostError, HostRoot};

/// Descriptors of the sentry looked at, from the lowest: memory files are among its first, while those of an
/// application's files can be any number.
const MAX_DESCRIPTORS: usize = 1024;
/// What is known of a sandbox is looked up again after this time,
const SURVEY_EVERY_NS: u64 = 5_000_000_000;
/// or this time where much has changed since: processes come with memory.
const SURVEY_AT_MOST_EVERY_NS: u64 = 1_000_000_000;
/// So much has changed.
const MUCH_BYTES: u64 = 4 << 20;
/// An xarray node of 576 bytes for 64 pages (6.18): what the kernel needs to find the pages of a file.
const INDEX_BYTES_PER_PAGE: u64 = 9;
const BLOCK_BYTES: u64 = 512;
/// `TMPFS_MAGIC` of `linux/magic.h`.
const TMPFS: i64 = 0x0102_1994;

/// Measures one sandbox by its memory files.
#[derive(Debug)]
pub(super) struct MemoryFiles {
    sentry: ProcessKey,
    gofers: Vec<ProcessKey>,
    survey: Option<Survey>,
}

/// What changes slowly.
#[derive(Debug)]
struct Survey {
    boot_ns: u64,
    files: Vec<MemoryFile>,
    /// Page tables, threads and processes.
    overhead_bytes: u64,
    /// What was held then, without the kernel's share.
    held_bytes: u64,
}

/// A file whose blocks are memory.
#[derive(Debug, PartialEq, Eq)]
struct MemoryFile {
    /// A descriptor of the sentry.
    descriptor: OsString,
    device: u64,
    inode: u64,
}

impl MemoryFiles {
    pub(super) fn new(sentry: ProcessKey) -> Self {
        Self { sentry, gofers: Vec::new(), survey: None }
    }

    pub(super) fn set_gofers(&mut self, gofers: Vec<ProcessKey>) {
        if self.gofers != gofers {
            self.gofers = gofers;
            self.survey = None;
        }
    }

    /// Memory held now, bytes; `boot_ns` is the time.
    pub(super) fn held(&mut self, root: &HostRoot, boot_ns: u64) -> Result<u64, HostError> {
        let private_bytes = self.private_bytes(root)?;
        if let Some(survey) = &self.survey
            && let Some(file_bytes) = blocks(root, self.sentry, &survey.files)?
            && !survey.is_outdated(boot_ns, private_bytes + file_bytes)
        {
            return Ok(survey.total(private_bytes, file_bytes));
        }
        let files = find(root, self.sentry)?;
        let Some(file_bytes) = blocks(root, self.sentry, &files)? else {
            // They changed under our eyes; the next reading finds them.
            self.survey = None;
            return Err(HostError::format(&descriptors(self.sentry), "memory files are changing"));
        };
        let overhead_bytes = overhead::kernel_bytes(root, self.sentry, &self.gofers)?;
        let survey = Survey { boot_ns, files, overhead_bytes, held_bytes: private_bytes + file_bytes };
        Ok(self.survey.insert(survey).total(private_bytes, file_bytes))
    }

    /// Anonymous memory of sentry and gofers. That of the stubs is the memory files', mapped. Whether the number is
    /// still the sentry's is for the caller to find out: whoever has its memory files is the sentry.
    fn private_bytes(&self, root: &HostRoot) -> Result<u64, HostError> {
        let mut sum = process::anonymous_bytes(root, self.sentry.pid)?;
        for gofer in &self.gofers {
            let bytes = process::anonymous_bytes(root, gofer.pid).and_then(|bytes| gofer.verify(root).map(|()| bytes));
            sum = sum.saturating_add(present(bytes)?.unwrap_or_default());
        }
        Ok(sum)
    }
}

impl Survey {
    fn is_outdated(&self, boot_ns: u64, held_bytes: u64) -> bool {
        let age = boot_ns.saturating_sub(self.boot_ns);
        let much_changed = self.held_bytes.abs_diff(held_bytes) > MUCH_BYTES;
        age >= SURVEY_EVERY_NS || (much_changed && age >= SURVEY_AT_MOST_EVERY_NS)
    }

    fn total(&self, private_bytes: u64, file_bytes: u64) -> u64 {
        let index_bytes = file_bytes / procfs::page_size() * INDEX_BYTES_PER_PAGE;
        private_bytes.saturating_add(file_bytes).saturating_add(index_bytes).saturating_add(self.overhead_bytes)
    }
}

fn descriptors(sentry: ProcessKey) -> std::path::PathBuf {
    process::file(sentry.pid, "fd")
}

fn open_descriptors(root: &HostRoot, sentry: ProcessKey) -> Result<OwnedFd, HostError> {
    root.open(&descriptors(sentry), OFlags::PATH | OFlags::DIRECTORY)
}

/// Allocated bytes of the files; `None` where one of them is not what it was.
fn blocks(root: &HostRoot, sentry: ProcessKey, files: &[MemoryFile]) -> Result<Option<u64>, HostError> {
    let folder = open_descriptors(root, sentry)?;
    let mut sum = 0_u64;
    for file in files {
        // Follows the link to the open file itself, without opening it.
        let Ok(stat) = fs::statat(&folder, &file.descriptor, AtFlags::empty()) else { return Ok(None) };
        if (stat.st_dev, stat.st_ino) != (file.device, file.inode) {
            return Ok(None);
        }
        let blocks = u64::try_from(stat.st_blocks).unwrap_or_default();
        sum = sum.saturating_add(blocks.saturating_mul(BLOCK_BYTES));
    }
    Ok(Some(sum))
}

/// Memory files of the sentry, each once, whatever descriptors it has of them.
fn find(root: &HostRoot, sentry: ProcessKey) -> Result<Vec<MemoryFile>, HostError> {
    let path = descriptors(sentry);
    let folder = open_descriptors(root, sentry)?;
    let mut files: Vec<MemoryFile> = Vec::new();
    for descriptor in root.list(&path, MAX_DESCRIPTORS)?.names {
        let file = match look(&folder, descriptor) {
            Ok(Some(file)) => file,
            // Closed meanwhile.
            Ok(None) | Err(Errno::NOENT) => continue,
            Err(errno) => return Err(HostError::Io { path, source: io::Error::from(errno) }),
        };
        if !files.iter().any(|known| (known.device, known.inode) == (file.device, file.inode)) {
            files.push(file);
        }
    }
    // The numbers may be another process' by now.
    sentry.verify(root)?;
    if files.is_empty() { Err(HostError::format(&path, "no memory file")) } else { Ok(files) }
}

/// The file behind a descriptor, where its blocks are memory.
fn look(folder: &OwnedFd, descriptor: OsString) -> Result<Option<MemoryFile>, Errno> {
    let target = fs::readlinkat(folder, &descriptor, Vec::new())?;
    let is_memory = match kind(target.as_bytes()) {
        Kind::Memory => true,
        Kind::Filestore => is_on_tmpfs(folder, Path::new(&descriptor))?,
        Kind::Other => false,
    };
    if !is_memory {
        return Ok(None);
    }
    let stat = fs::statat(folder, &descriptor, AtFlags::empty())?;
    Ok(Some(MemoryFile { descriptor, device: stat.st_dev, inode: stat.st_ino }))
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// Made by `memfd_create`.
    Memory,
    /// Holds the writable layer of a root file system, wherever the host keeps it.
    Filestore,
    Other,
}

/// By the target of the descriptor's link.
fn kind(target: &[u8]) -> Kind {
    let name = target.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    if target.starts_with(b"/memfd:") {
        Kind::Memory
    } else if name.starts_with(b".gvisor.filestore.") || name.starts_with(b"runsc-filestore-") {
        Kind::Filestore
    } else {
        Kind::Other
    }
}

/// Whether the file's blocks are memory that the kernel cannot take back.
fn is_on_tmpfs(folder: &OwnedFd, descriptor: &Path) -> Result<bool, Errno> {
    // Names the file without opening it, and only for this one question.
    let named = fs::openat(folder, descriptor, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    Ok(fs::fstatfs(named.as_fd())?.f_type == TMPFS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_by_the_names_of_their_descriptors() {
        for (target, expected) in [
            (&b"/memfd:runsc-memory (deleted)"[..], Kind::Memory),
            (b"/memfd:systrap-memory (deleted)", Kind::Memory),
            (b"/run/x/rootfs/.gvisor.filestore.abc", Kind::Filestore),
            (b"/dev/shm/runsc-filestore-1234 (deleted)", Kind::Filestore),
            (b"/home/memfd:runsc-memory (deleted)", Kind::Other),
            (b"/runsc-filestore-1/other", Kind::Other),
            (b"socket:[123]", Kind::Other),
            (b"", Kind::Other),
        ] {
            assert_eq!(kind(target), expected, "{}", target.escape_ascii());
        }
    }

    #[test]
    fn a_survey_ages_faster_where_much_has_changed() {
        let survey = Survey { boot_ns: 10, files: Vec::new(), overhead_bytes: 0, held_bytes: 100 << 20 };
        let (second, same) = (1_000_000_000, 100 << 20);
        assert!(!survey.is_outdated(10 + 5 * second - 1, same));
        assert!(survey.is_outdated(10 + 5 * second, same));
        for changed in [same + MUCH_BYTES + 1, same - MUCH_BYTES - 1] {
            assert!(!survey.is_outdated(10 + second - 1, changed));
            assert!(survey.is_outdated(10 + second, changed));
        }
        assert!(!survey.is_outdated(10 + second, same + MUCH_BYTES));
        assert!(!survey.is_outdated(0, same), "a clock that goes back is not an age");
    }
}
