//! What stays in the kernel when the agent ends: links and maps, pinned below the BPF file system, so that kills go on
//! being recorded and the next agent reads them.
//!
//! `<bpffs>/oomwatch/<state folder>/<generation>/`: each start makes a generation of its own, attached before the former
//! one is read for the last time. Its name says how its records are to be read and when it was made.

use std::{
    fs::{self, DirBuilder},
    io,
    os::fd::OwnedFd,
    os::unix::{ffi::OsStrExt as _, fs::DirBuilderExt as _},
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context as _, ensure};
use aya::{
    maps::{MapData, PerCpuArray},
    programs::links::FdLink,
};
use oomwatch_common::{CgroupRecord, KillRecord, OOM_RING, OomEndRecord, RECORD_LAYOUT, TraceRecord};
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, fstat, open, statfs},
    process::geteuid,
};

use super::{decode::Decoder, load::per_cpu, ring::Ring};
use crate::{clock, host::HostRoot, observation::SourceFacts};

/// `BPF_FS_MAGIC`.
const BPF_FS: u64 = 0xcafe_4a11;
/// Generations read at most: each start that was killed leaves one.
const MAX_GENERATIONS: usize = 256;
/// Files of a generation: three maps and the links.
const MAX_FILES: usize = 64;
const OOMS: &str = "map_OOMS";
const CHANGES: &str = "map_CHANGES";
const LOST: &str = "map_LOST";

/// Where this agent pins; locked while this value lives.
#[derive(Debug)]
pub(crate) struct Pins {
    folder: PathBuf,
    _lock: OwnedFd,
}

/// Says how records of a generation are read, and when it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Name {
    reading: String,
    number: u64,
}

/// What an agent before this one left.
#[derive(Debug)]
pub(crate) struct Past {
    /// When it was pinned, boot time.
    pub(crate) number: u64,
    /// What its rings hold; `None` where that cannot be read.
    pub(crate) rings: Option<PastRings>,
    pub(super) folder: PathBuf,
}

/// Rings of a generation.
pub(crate) struct PastRings {
    /// Victims and ends of runs.
    pub(crate) ooms: Ring,
    /// Cgroups.
    pub(crate) changes: Ring,
    lost: PerCpuArray<MapData, u64>,
    /// Losses that are told.
    pub(super) told_lost: u64,
}

impl std::fmt::Debug for PastRings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("PastRings").field("ooms", &self.ooms).finish_non_exhaustive()
    }
}

impl PastRings {
    /// Kills that found no room in the ring, and are not told.
    pub(crate) fn lost(&self) -> u64 {
        let lost = self.lost.get(&OOM_RING, 0).map_or(0, |by_cpu| by_cpu.iter().sum::<u64>());
        lost.saturating_sub(self.told_lost)
    }
}

/// What is to be pinned.
#[derive(Debug)]
pub(crate) struct Kept<'a> {
    pub(crate) ooms: &'a MapData,
    pub(crate) changes: &'a MapData,
    pub(crate) lost: &'a MapData,
    /// How its records are read.
    pub(crate) reading: String,
}

/// A hash that is the same in every build.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// How records are read depends on their layout and on what was hooked when they were made.
pub(crate) fn reading(facts: SourceFacts, decoder: &Decoder) -> String {
    let bits = [facts.sees_killing, facts.sees_run, facts.sees_no_kill, decoder.trace.is_some()];
    let bits = bits.iter().fold(0, |bits, bit| 2 * bits + u8::from(*bit));
    let sizes =
        size_of::<KillRecord>() + size_of::<OomEndRecord>() + size_of::<CgroupRecord>() + size_of::<TraceRecord>();
    format!("{RECORD_LAYOUT}-{sizes}-{bits:x}")
}

impl FromStr for Name {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let (reading, number) = name.rsplit_once('-').ok_or(())?;
        let number = u64::from_str_radix(number, 16).map_err(drop)?;
        Ok(Self { reading: reading.to_owned(), number })
    }
}

impl Pins {
    /// The place that belongs to a state folder.
    ///
    /// # Errors
    /// There is no BPF file system, it may not be written to, or another agent has the place.
    pub(crate) fn open(bpf_fs: &Path, state_dir: &Path) -> anyhow::Result<Self> {
        is_bpf_fs(bpf_fs)?;
        let state_dir = state_dir.canonicalize().with_context(|| format!("find {}", state_dir.display()))?;
        let all = bpf_fs.join("oomwatch");
        let folder = all.join(format!("{:016x}", fnv1a(state_dir.as_os_str().as_bytes())));
        drop(own_folder(&all)?);
        let lock = own_folder(&folder)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .with_context(|| format!("another agent has pinned its programs in {}", folder.display()))?;
        Ok(Self { folder, _lock: lock })
    }

    /// What agents before this one left, oldest first. `reading` is how this one reads records.
    pub(crate) fn past(&self, reading: &str) -> Vec<Past> {
        let names = HostRoot::default().list(&self.folder, MAX_GENERATIONS).unwrap_or_default().names;
        let names = names.into_iter().filter_map(|name| Some((name.to_str()?.parse::<Name>().ok()?, name)));
        let mut past: Vec<Past> = names
            .map(|(name, file)| {
                let folder = self.folder.join(file);
                let rings = if name.reading == reading { open_rings(&folder) } else { None };
                Past { number: name.number, rings, folder }
            })
            .collect();
        past.sort_by_key(|past| past.number);
        past
    }

    /// Pins a new generation; gives its number.
    ///
    /// # Errors
    /// The kernel refuses; what was pinned of it is pinned no more.
    pub(crate) fn pin(&self, kept: &Kept<'_>, links: &mut Vec<(String, FdLink)>) -> anyhow::Result<u64> {
        let number = clock::boot_ns();
        let folder = self.folder.join(format!("{}-{number:016x}", kept.reading));
        fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        pin_all(&folder, kept, links).inspect_err(|_| remove(&folder))?;
        Ok(number)
    }
}

/// Whether a BPF file system is mounted there.
///
/// # Errors
/// It is not, or the folder cannot be looked at.
pub(crate) fn is_bpf_fs(folder: &Path) -> anyhow::Result<()> {
    let found = statfs(folder).with_context(|| format!("look at {}", folder.display()))?;
    ensure!(found.f_type.cast_unsigned() == BPF_FS, "no BPF file system is mounted at {}", folder.display());
    Ok(())
}

/// Opens a folder, which is made where there is none. Everybody may make folders in a BPF file system that is mounted as
/// it is by default, and whoever owns this one could hold it, or pin rings of his own that would be read as kills.
fn own_folder(folder: &Path) -> anyhow::Result<OwnedFd> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("make {}", folder.display()))?;
        }
        _ => {}
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = open(folder, flags, Mode::empty()).with_context(|| format!("open {}", folder.display()))?;
    let stat = fstat(&opened).with_context(|| format!("look at {}", folder.display()))?;
    let others_write = Mode::from_raw_mode(stat.st_mode).intersects(Mode::WGRP | Mode::WOTH);
    ensure!(
        stat.st_uid == geteuid().as_raw() && !others_write,
        "{} belongs to another user or may be written to by others: remove it",
        folder.display()
    );
    Ok(opened)
}

fn pin_all(folder: &Path, kept: &Kept<'_>, links: &mut Vec<(String, FdLink)>) -> anyhow::Result<()> {
    for (name, map) in [(OOMS, kept.ooms), (CHANGES, kept.changes), (LOST, kept.lost)] {
        map.pin(folder.join(name)).with_context(|| format!("pin {name}"))?;
    }
    for (program, link) in std::mem::take(links) {
        let pinned = link.pin(folder.join(format!("link_{program}")));
        let pinned = pinned.with_context(|| format!("pin the link of {program}"))?;
        links.push((program, pinned.into()));
    }
    Ok(())
}

fn open_rings(folder: &Path) -> Option<PastRings> {
    let map = |name: &str| MapData::from_pin(folder.join(name)).map_err(anyhow::Error::from);
    let rings = || -> anyhow::Result<PastRings> {
        Ok(PastRings {
            ooms: Ring::new(OOMS, map(OOMS)?)?,
            changes: Ring::new(CHANGES, map(CHANGES)?)?,
            lost: per_cpu(LOST, map(LOST)?)?,
            told_lost: 0,
        })
    };
    rings().inspect_err(|error| tracing::warn!("what was recorded meanwhile cannot be read: {error:#}")).ok()
}

impl Past {
    /// Ends its recording.
    pub(crate) fn detach(&self) {
        let names = HostRoot::default().list(&self.folder, MAX_FILES).unwrap_or_default().names;
        let links = names.iter().filter(|name| name.as_bytes().starts_with(b"link_"));
        links.for_each(|name| remove_file(&self.folder.join(name)));
    }
}

/// Ends a generation.
pub(super) fn remove(folder: &Path) {
    let names = HostRoot::default().list(folder, MAX_FILES).unwrap_or_default().names;
    for name in names {
        remove_file(&folder.join(name));
    }
    if let Err(error) = fs::remove_dir(folder) {
        tracing::warn!(%error, "cannot remove {}", folder.display());
    }
}

fn remove_file(file: &Path) {
    if let Err(error) = fs::remove_file(file) {
        tracing::warn!(%error, "cannot remove {}", file.display());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};

    use super::*;

    #[test]
    fn a_name_says_how_to_read_and_when() {
        let facts = SourceFacts { sees_killing: true, sees_run: true, sees_no_kill: false };
        let reading = reading(facts, &Decoder::default());
        let name: Name = format!("{reading}-{:016x}", 77).parse().unwrap();
        assert_eq!(name, Name { reading: reading.clone(), number: 77 });
        assert_ne!(reading, super::reading(SourceFacts::default(), &Decoder::default()));
    }

    #[test]
    fn a_folder_of_somebody_else_is_not_used() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str, mode: u32| {
            let folder = place.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
            folder
        };
        let made = place.path().join("made");
        own_folder(&made).unwrap();
        assert_eq!(fs::metadata(&made).unwrap().mode() & 0o777, 0o700);
        own_folder(&made).unwrap();
        own_folder(&at("readable", 0o755)).unwrap();
        for mode in [0o1777, 0o770, 0o702] {
            let error = own_folder(&at(&format!("{mode:o}"), mode)).unwrap_err().to_string();
            assert!(error.contains("may be written to by others"), "{error}");
        }
        symlink(&made, place.path().join("link")).unwrap();
        own_folder(&place.path().join("link")).unwrap_err();
        let foreign = at("foreign", 0o700);
        // Only root can give it away.
        if geteuid().is_root() {
            chown(&foreign, Some(65534), None).unwrap();
            own_folder(&foreign).unwrap_err();
        }
    }

    #[test]
    fn other_names_are_nobodys() {
        for name in ["", "-", "x", "1-2-x", "1-5-"] {
            assert_eq!(name.parse::<Name>(), Err(()), "{name}");
        }
    }
}
