//! Charge of a memory cgroup that the kernel cannot take back before it has to kill.
//!
//! Reads `memory.usage_in_bytes`, `memory.max_usage_in_bytes` and `memory.stat` (cgroup v1) or `memory.current`,
//! `memory.peak` (Linux 5.19) and `memory.stat` (cgroup2).
//!
//! - Pages of files on the LRU lists are taken back, dirty ones after they are written, so they do not count. Those
//!   locked in memory are on the unevictable list and do. tmpfs and memfd pages are on the lists of anonymous memory
//!   and do.
//! - Swapped-out memory is not charged to memory, neither here nor where the kernel enforces the limit.
//! - Kernel memory counts. cgroup2 tells which of it shrinks under pressure (`slab_reclaimable`: inodes, directory
//!   entries, buffer heads); v1 does not, and reads high by it: 2.7 % of file cache that was written on ext4.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use super::{HostError, HostRoot};

/// Largest file read, bytes; `memory.stat` has 2 to 4 KiB.
const MAX_FILE: usize = 1 << 16;
/// Room for a number with its line feed, and one byte more; for `memory.stat`.
const USUAL_NUMBER: usize = 32;
const USUAL_STAT: usize = 8 << 10;

/// Files of one memory cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupFiles {
    usage: PathBuf,
    stat: PathBuf,
    peak: PathBuf,
    names: &'static Names,
}

#[derive(Debug, PartialEq, Eq)]
struct Names {
    usage: &'static str,
    /// The highest `usage` ever.
    peak: &'static str,
    /// Keys of `memory.stat` for what can be taken back. v1's without `total_` leave out the descendants.
    reclaimable: &'static [&'static str],
    /// The same, where this kernel has it.
    optional: &'static [&'static str],
}

static V1: Names = Names {
    usage: "memory.usage_in_bytes",
    peak: "memory.max_usage_in_bytes",
    reclaimable: &["total_active_file", "total_inactive_file"],
    optional: &[],
};
static V2: Names = Names {
    usage: "memory.current",
    peak: "memory.peak",
    reclaimable: &["active_file", "inactive_file"],
    optional: &["slab_reclaimable"],
};

impl CgroupFiles {
    /// Of the cgroup whose folder on the host this is; `version` 1 or 2.
    pub fn new(folder: &Path, version: u8) -> Self {
        let names = if version == 1 { &V1 } else { &V2 };
        Self { usage: folder.join(names.usage), stat: folder.join("memory.stat"), peak: folder.join(names.peak), names }
    }

    /// Charge without what can be taken back, bytes.
    ///
    /// # Errors
    /// The cgroup is gone, or a file of it is not as it should be.
    pub fn charge(&self, root: &HostRoot) -> Result<u64, HostError> {
        self.read(root).map(|charge| charge.held_bytes())
    }

    /// The charge, and what of it can be taken back.
    ///
    /// # Errors
    /// The cgroup is gone, or a file of it is not as it should be.
    pub fn read(&self, root: &HostRoot) -> Result<Charge, HostError> {
        let usage_bytes = self.usage(&root.read_bounded(&self.usage, MAX_FILE)?)?;
        self.all(usage_bytes, root.read_bounded(&self.stat, MAX_FILE)?)
    }

    fn usage(&self, text: &[u8]) -> Result<u64, HostError> {
        number(text.trim_ascii()).ok_or_else(|| HostError::format(&self.usage, "not a number"))
    }

    fn all(&self, usage_bytes: u64, stat: Vec<u8>) -> Result<Charge, HostError> {
        let reclaimable_bytes = self.names.reclaimable(&stat).map_err(|key| HostError::format(&self.stat, key))?;
        Ok(Charge { usage_bytes, reclaimable_bytes, stat })
    }

    /// The highest charge ever, bytes, with what could have been taken back; `None` where the kernel does not tell.
    pub fn highest_charge(&self, root: &HostRoot) -> Option<u64> {
        number(root.read_bounded(&self.peak, MAX_FILE).ok()?.trim_ascii())
    }
}

/// A charge that moved less than this hardly moved, bytes.
const HARDLY: u64 = 1 << 20;

/// Reads the charge of one cgroup again and again: most look at one number only. What can be taken back is read again
/// once the charge moved by 1 MiB, when its time is over, and always where the charge with it comes near to where it
/// matters: there the kernel takes files back to make room, and the sum stands still while what is held grows.
#[derive(Debug)]
pub struct Gauge {
    files: CgroupFiles,
    usage: Option<OwnedFd>,
    stat: Option<OwnedFd>,
    last: Option<Last>,
}

/// How a gauge is read.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How long the part that can be taken back is believed while the charge hardly moves, nanoseconds.
    pub exact_every_ns: u64,
    /// Descriptors are kept for the next look. They keep neither the cgroup nor its memory, but some 10 KiB of the
    /// kernel's; to open the files again takes ten times as long as to read them.
    pub keeps: bool,
}

/// The last look at everything.
#[derive(Debug, Clone, Copy)]
struct Last {
    boot_ns: u64,
    usage_bytes: u64,
    reclaimable_bytes: u64,
}

/// What a look told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Charge without what can be taken back.
    pub bytes: u64,
    /// Everything, where all was read.
    pub exact: Option<Charge>,
}

impl Gauge {
    /// Of a cgroup.
    pub fn new(files: CgroupFiles) -> Self {
        Self { files, usage: None, stat: None, last: None }
    }

    /// Charge without what can be taken back. `near_bytes` is where it matters.
    ///
    /// # Errors
    /// The cgroup is gone, or a file of it is not as it should be.
    pub fn read(
        &mut self,
        root: &HostRoot,
        boot_ns: u64,
        near_bytes: Option<u64>,
        pace: Pace,
    ) -> Result<Held, HostError> {
        let held = self.look(root, boot_ns, near_bytes, pace.exact_every_ns);
        if !pace.keeps {
            (self.usage, self.stat) = (None, None);
        }
        held
    }

    fn look(
        &mut self,
        root: &HostRoot,
        boot_ns: u64,
        near_bytes: Option<u64>,
        exact_every_ns: u64,
    ) -> Result<Held, HostError> {
        let usage_bytes = self.usage(root)?;
        if let Some(last) = self.last
            && boot_ns.saturating_sub(last.boot_ns) < exact_every_ns
        {
            let is_near = near_bytes.is_some_and(|near| usage_bytes >= near);
            if !is_near && usage_bytes.abs_diff(last.usage_bytes) < HARDLY {
                return Ok(Held { bytes: usage_bytes.saturating_sub(last.reclaimable_bytes), exact: None });
            }
        }
        let stat = self.stat(root)?;
        let charge = self.files.all(usage_bytes, stat)?;
        let reclaimable_bytes = charge.reclaimable_bytes;
        self.last = Some(Last { boot_ns, usage_bytes, reclaimable_bytes });
        Ok(Held { bytes: charge.held_bytes(), exact: Some(charge) })
    }

    fn usage(&mut self, root: &HostRoot) -> Result<u64, HostError> {
        let mut text = [0; USUAL_NUMBER];
        let length = fill(&mut text, &mut self.usage, root, &self.files.usage)?;
        self.files.usage(text.get(..length).unwrap_or_default())
    }

    fn stat(&mut self, root: &HostRoot) -> Result<Vec<u8>, HostError> {
        let path = &self.files.stat;
        let mut text = vec![0; USUAL_STAT];
        loop {
            let length = fill(&mut text, &mut self.stat, root, path)?;
            if length < text.len() {
                text.truncate(length);
                return Ok(text);
            }
            if length >= MAX_FILE {
                return Err(HostError::format(path, format!("larger than {MAX_FILE} bytes")));
            }
            text.resize(length.saturating_mul(4).min(MAX_FILE), 0);
        }
    }
}

/// Fills `text` from a file of a cgroup, by a descriptor that is kept. The kernel makes the file anew for each reading, and
/// gives less than it was asked for where that is all.
fn fill(text: &mut [u8], descriptor: &mut Option<OwnedFd>, root: &HostRoot, path: &Path) -> Result<usize, HostError> {
    let file = match descriptor.take() {
        Some(file) => file,
        None => root.open(path, OFlags::RDONLY)?,
    };
    let length = rustix::io::pread(&file, text, 0).map_err(|errno| HostError::from_io(path, errno.into()))?;
    *descriptor = Some(file);
    Ok(length)
}

/// What a memory cgroup is charged with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// All of it.
    pub usage_bytes: u64,
    /// What the kernel can take back before it has to kill.
    pub reclaimable_bytes: u64,
    /// The `memory.stat` that it was read from.
    pub stat: Vec<u8>,
}

impl Charge {
    /// Without what can be taken back. The files are not of the same instant, so that may be more than all.
    pub fn held_bytes(&self) -> u64 {
        self.usage_bytes.saturating_sub(self.reclaimable_bytes)
    }
}

impl Names {
    /// What can be taken back, bytes; an error names the key that is missing or no number.
    fn reclaimable(&self, stat: &[u8]) -> Result<u64, String> {
        let mut sum = 0_u64;
        for key in self.reclaimable {
            let value = value(stat, key).ok_or_else(|| format!("no {key}"))?;
            sum = sum.saturating_add(value);
        }
        let optional = self.optional.iter().filter_map(|key| value(stat, key));
        Ok(optional.fold(sum, u64::saturating_add))
    }
}

/// Value of a `key value` line.
fn value(stat: &[u8], key: &str) -> Option<u64> {
    let mut lines = stat.split(|byte| *byte == b'\n');
    number(lines.find_map(|line| line.strip_prefix(key.as_bytes())?.strip_prefix(b" "))?)
}

fn number(text: &[u8]) -> Option<u64> {
    str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const STAT_V1: &str = "cache 1000\nactive_file 1\ninactive_file 2\nunevictable 4096\n\
        total_active_file 100\ntotal_inactive_file 200\ntotal_unevictable 4096\n";
    const STAT_V2: &str = "anon 10\nfile 5\nkernel 7\nactive_file 100\ninactive_file 200\nslab_reclaimable 50\n";

    fn charge(version: u8, usage: &str, stat: &str) -> Result<u64, String> {
        let folder = tempfile::tempdir().unwrap();
        let files = CgroupFiles::new(Path::new("/group"), version);
        fs::create_dir(folder.path().join("group")).unwrap();
        fs::write(folder.path().join(files.usage.strip_prefix("/").unwrap()), usage).unwrap();
        fs::write(folder.path().join("group/memory.stat"), stat).unwrap();
        files.charge(&HostRoot::new(folder.path())).map_err(|error| error.to_string())
    }

    #[test]
    fn file_cache_is_not_counted() {
        assert_eq!(charge(1, "1000\n", STAT_V1), Ok(700));
        assert_eq!(charge(2, "1000\n", STAT_V2), Ok(650));
    }

    #[test]
    fn cache_of_child_cgroups_is_not_counted_either() {
        let local_only = STAT_V1.replace("total_active_file", "total_other");
        assert_eq!(charge(1, "1000", &local_only), Err("/group/memory.stat: no total_active_file".into()));
    }

    #[test]
    fn a_kernel_that_does_not_tell_of_slabs_is_read_without_them() {
        assert_eq!(charge(2, "1000", &STAT_V2.replace("slab_", "other_")), Ok(700));
    }

    #[test]
    fn files_of_different_instants_give_nothing_below_zero() {
        assert_eq!(charge(1, "250", STAT_V1), Ok(0));
        let huge = format!("active_file {0}\ninactive_file {0}\n", u64::MAX);
        assert_eq!(charge(2, "1000", &huge), Ok(0));
    }

    #[test]
    fn what_is_no_number_is_an_error() {
        for usage in ["", "max", "-1", "1 2", "18446744073709551616", "\u{ff}"] {
            assert_eq!(charge(1, usage, STAT_V1), Err("/group/memory.usage_in_bytes: not a number".into()));
        }
        for stat in ["", "active_file\ninactive_file 1", "active_file x\ninactive_file 1", "active_filex 1"] {
            assert_eq!(charge(2, "1000", stat), Err("/group/memory.stat: no active_file".into()));
        }
    }

    #[test]
    fn a_cgroup_that_is_gone_is_gone() {
        let files = CgroupFiles::new(Path::new("/no/such/group"), 2);
        assert!(matches!(files.charge(&HostRoot::default()), Err(HostError::Gone { .. })));
    }

    /// A cgroup whose files the test writes.
    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> (Self, Gauge, HostRoot) {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("group")).unwrap();
            let root = HostRoot::new(folder.path());
            (Self(folder), Gauge::new(CgroupFiles::new(Path::new("/group"), 2)), root)
        }

        fn write(&self, usage: u64, file: u64) {
            fs::write(self.0.path().join("group/memory.current"), format!("{usage}\n")).unwrap();
            fs::write(self.0.path().join("group/memory.stat"), format!("active_file {file}\ninactive_file 0\n"))
                .unwrap();
        }
    }

    const MIB: u64 = 1 << 20;
    const PACE: Pace = Pace { exact_every_ns: 5_000_000_000, keeps: true };

    #[test]
    fn a_charge_that_hardly_moves_is_read_by_one_number() {
        let (files, mut gauge, root) = Files::new();
        files.write(50 * MIB, 10 * MIB);
        let mut held = |boot_ns| gauge.read(&root, boot_ns, Some(90 * MIB), PACE).unwrap();
        assert_eq!((held(0).bytes, held(0).exact.is_some()), (40 * MIB, false), "the first look told all");
        files.write(50 * MIB + 4096, 9 * MIB);
        assert_eq!(held(1), Held { bytes: 40 * MIB + 4096, exact: None });
        let late = held(PACE.exact_every_ns);
        assert_eq!((late.bytes, late.exact.is_some()), (41 * MIB + 4096, true));
        files.write(52 * MIB, 9 * MIB);
        assert_eq!(held(PACE.exact_every_ns + 1).bytes, 43 * MIB, "it moved");
    }

    #[test]
    fn where_it_matters_every_look_is_exact() {
        let (files, mut gauge, root) = Files::new();
        files.write(100 * MIB, 60 * MIB);
        assert_eq!(gauge.read(&root, 0, Some(95 * MIB), PACE).unwrap().bytes, 40 * MIB);
        // The kernel takes files back: the sum stands still.
        files.write(100 * MIB, 2 * MIB);
        assert_eq!(gauge.read(&root, 1, Some(95 * MIB), PACE).unwrap().bytes, 98 * MIB);
    }

    #[test]
    fn a_cgroup_that_is_gone_is_gone_for_the_gauge_too() {
        let (files, mut gauge, root) = Files::new();
        // Of one that goes later the kernel says `ENODEV` at the descriptors that are kept.
        drop(files);
        assert!(matches!(gauge.read(&root, 0, None, PACE), Err(HostError::Gone { .. })));
    }
}
