//! What the agent knows across restarts, in its state folder: `lock`, held while it runs; `account`, one line that is
//! written over at once after each kill; `state.json`, the counters of cgroups and who the containers are, replaced as a
//! whole now and then.
//!
//! All of it holds for one boot, like the kernel's counters. What is not of this boot, or cannot be read, is said and
//! made anew.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use rustix::fs::{FlockOperation, OFlags, flock};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::{cgroup_path::CgroupPath, observation::MemcgId, workload::Workload};

/// Version of both files.
const VERSION: u32 = 1;
/// Cgroups kept; beyond it a kill that was missed is told without its cgroup.
pub(crate) const MAX_CGROUPS: usize = 8192;
/// Containers kept; beyond it one that ends while no agent runs has no name.
const MAX_CONTAINERS: usize = 8192;
/// Largest file read, bytes: 30 for a cgroup with kills, some 500 for a container.
const MAX_STATE: u64 = 16 << 20;
const MAX_ACCOUNT: u64 = 256;
const OWNER_ONLY: u32 = 0o600;
const OWNERS_FOLDER: u32 = 0o700;
const NO_LINK: i32 = OFlags::NOFOLLOW.bits().cast_signed();

/// Up to where kills are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Account {
    /// Of the kills that the kernel counted, those that are told, or were told to be missed.
    pub(crate) kills: u64,
    /// The ring that was read, by the boot time of its making; 0 for one that ended with its agent.
    pub(crate) generation: u64,
    /// Up to where it was read.
    pub(crate) position: u64,
    /// Its losses that are told.
    pub(crate) lost: u64,
}

/// What an earlier agent left.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// `None` where none of this boot is there.
    pub(crate) account: Option<Account>,
    /// Kills accounted for, by cgroup; `None` where not all is known.
    pub(crate) cgroups: Option<Vec<(MemcgId, u64)>>,
    /// Containers that lived when it was written.
    pub(crate) containers: Vec<Container>,
}

/// Who a container is, by its own cgroup: its files may be gone when its kill is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Container {
    hierarchy: u32,
    id: u64,
    path: String,
    workload: Workload,
}

impl Container {
    /// `None` where the path is no text, as that of an engine is.
    pub(crate) fn new(memcg: MemcgId, path: &CgroupPath, workload: &Workload) -> Option<Self> {
        let path = str::from_utf8(path.as_bytes()).ok()?.to_owned();
        Some(Self { hierarchy: memcg.hierarchy, id: memcg.id, path, workload: workload.clone() })
    }

    /// Its cgroup.
    pub(crate) fn memcg(&self) -> MemcgId {
        MemcgId { hierarchy: self.hierarchy, id: self.id }
    }

    /// Where that is.
    pub(crate) fn path(&self) -> CgroupPath {
        CgroupPath::from_bytes(self.path.as_bytes())
    }

    /// Who it is.
    pub(crate) fn into_workload(self) -> Workload {
        self.workload
    }
}

/// The state folder, locked.
#[derive(Debug)]
pub(crate) struct StateDir {
    folder: PathBuf,
    boot_id: String,
    account: fs::File,
    _lock: OwnedFd,
}

/// `state.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Cgroups {
    version: u32,
    boot_id: String,
    /// All that had kills are here.
    complete: bool,
    /// Hierarchy, id, kills accounted for.
    kills: Vec<(u32, u64, u64)>,
    /// Each a [`Container`]; one that another version wrote is left out.
    #[serde(default)]
    containers: Vec<serde_json::Value>,
}

impl StateDir {
    /// Makes or opens the folder, and reads what an earlier agent left there.
    ///
    /// # Errors
    /// It cannot be written to, or another agent has it.
    pub(crate) fn open(folder: &Path, boot_id: &str) -> anyhow::Result<(Self, Left)> {
        let made = fs::DirBuilder::new().recursive(true).mode(OWNERS_FOLDER).create(folder);
        made.with_context(|| format!("make {}", folder.display()))?;
        let open = |name: &str| {
            let file = folder.join(name);
            let mut options = OpenOptions::new();
            let options = options.read(true).write(true).create(true).truncate(false);
            // Who can write to the folder above must not have another file cut short.
            let opened = options.mode(OWNER_ONLY).custom_flags(NO_LINK).open(&file);
            opened.with_context(|| format!("open {}", file.display()))
        };
        let lock: OwnedFd = open("lock")?.into();
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .with_context(|| format!("another agent keeps its state in {}", folder.display()))?;
        let state =
            Self { folder: folder.to_owned(), boot_id: boot_id.to_owned(), account: open("account")?, _lock: lock };
        let account = state.read_account().unwrap_or_else(|error| rebuilt("account", &error));
        if account.is_none() {
            state.account.set_len(0).context("begin an account")?;
        }
        let found = state.read_cgroups().unwrap_or_else(|error| rebuilt("state.json", &error));
        let (cgroups, containers) = found.map_or((None, Vec::new()), |found| {
            let kills = found.kills.into_iter().map(|(hierarchy, id, kills)| (MemcgId { hierarchy, id }, kills));
            let containers = found.containers.into_iter().filter_map(|it| serde_json::from_value(it).ok());
            (found.complete.then(|| kills.collect()), containers.collect())
        });
        Ok((state, Left { account, cgroups, containers }))
    }

    fn read_account(&self) -> anyhow::Result<Option<Account>> {
        let mut text = String::new();
        (&self.account).take(MAX_ACCOUNT).read_to_string(&mut text).context("read it")?;
        if text.is_empty() { Ok(None) } else { parse_account(&text, &self.boot_id) }
    }

    fn read_cgroups(&self) -> anyhow::Result<Option<Cgroups>> {
        #[expect(clippy::disallowed_methods, reason = "the agent's own file, not the host's")]
        let file = match fs::File::open(self.folder.join("state.json")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.context("open it")?,
        };
        let mut text = Vec::new();
        file.take(MAX_STATE).read_to_end(&mut text).context("read it")?;
        let found: Cgroups = serde_json::from_slice(&text).context("it is not what an agent writes")?;
        ensure!(found.version == VERSION, "it is of version {}, not {VERSION}", found.version);
        if found.boot_id != self.boot_id {
            tracing::info!("the state is of another boot of this host, and begins anew");
            return Ok(None);
        }
        Ok(Some(found))
    }

    /// Notes up to where kills are told. One write: it is there or not, whenever the agent is killed.
    pub(crate) fn write_account(&self, account: &Account) -> io::Result<()> {
        self.account.write_all_at(account_line(account, &self.boot_id).as_bytes(), 0)
    }

    /// What `save` is to write.
    pub(crate) fn contents(
        &self,
        cgroups: &[(MemcgId, u64)],
        complete: bool,
        containers: impl Iterator<Item = Container>,
    ) -> Contents {
        let kept = cgroups.iter().take(MAX_CGROUPS).map(|(memcg, kills)| (memcg.hierarchy, memcg.id, *kills));
        let complete = complete && cgroups.len() <= MAX_CGROUPS;
        let cgroups = Cgroups {
            version: VERSION,
            boot_id: self.boot_id.clone(),
            complete,
            kills: kept.collect(),
            containers: containers.take(MAX_CONTAINERS).filter_map(|it| serde_json::to_value(it).ok()).collect(),
        };
        Contents { folder: self.folder.clone(), cgroups }
    }
}

/// A new `state.json`, to be written where waiting does no harm.
#[derive(Debug)]
pub(crate) struct Contents {
    folder: PathBuf,
    cgroups: Cgroups,
}

impl Contents {
    /// Replaces the file as a whole.
    ///
    /// # Errors
    /// The folder cannot be written to, or is full; the old file stays.
    pub(crate) fn save(&self) -> anyhow::Result<()> {
        let mut file = NamedTempFile::new_in(&self.folder).context("make a file in the state folder")?;
        serde_json::to_writer(io::BufWriter::new(&mut file), &self.cgroups).context("write the state")?;
        file.flush().context("write the state")?;
        file.persist(self.folder.join("state.json")).context("replace state.json")?;
        Ok(())
    }
}

fn rebuilt<T>(file: &'static str, error: &anyhow::Error) -> Option<T> {
    tracing::warn!(file, "a file of the state folder cannot be used and is made anew: {error:#}");
    None
}

/// Of fixed length, so that it is written over as a whole.
fn account_line(account: &Account, boot_id: &str) -> String {
    let Account { kills, generation, position, lost } = account;
    format!(
        "oomwatch {VERSION} {boot_id} kills={kills:020} ring={generation:020} read={position:020} lost={lost:020}\n"
    )
}

fn parse_account(text: &str, boot_id: &str) -> anyhow::Result<Option<Account>> {
    let words: Vec<&str> = text.lines().next().unwrap_or_default().split(' ').collect();
    let ["oomwatch", version, of_boot, kills, generation, position, lost] = words[..] else {
        anyhow::bail!("it is not what an agent writes");
    };
    ensure!(version.parse() == Ok(VERSION), "it is of version {version}, not {VERSION}");
    if of_boot != boot_id {
        return Ok(None);
    }
    let number = |word: &str, key: &str| -> anyhow::Result<u64> {
        let digits = word.strip_prefix(key).with_context(|| format!("it has no {key}"))?;
        digits.parse().with_context(|| format!("{key} is no number"))
    };
    Ok(Some(Account {
        kills: number(kills, "kills=")?,
        generation: number(generation, "ring=")?,
        position: number(position, "read=")?,
        lost: number(lost, "lost=")?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "01234567-89ab-cdef-0123-456789abcdef";
    const ACCOUNT: Account = Account { kills: 12, generation: 3, position: u64::MAX, lost: 1 };

    fn memcg(id: u64) -> MemcgId {
        MemcgId { hierarchy: 4, id }
    }

    fn container() -> Container {
        let path = CgroupPath::from_bytes(b"/docker/4f1c");
        Container::new(memcg(9), &path, &Workload::from_path(path.as_bytes())).unwrap()
    }

    fn written() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let (state, left) = StateDir::open(folder.path(), BOOT).unwrap();
        assert!(left.account.is_none() && left.cgroups.is_none());
        state.write_account(&Account::default()).unwrap();
        state.write_account(&ACCOUNT).unwrap();
        state.contents(&[(memcg(7), 3)], true, [container()].into_iter()).save().unwrap();
        folder
    }

    #[test]
    fn what_one_agent_leaves_the_next_finds() {
        let folder = written();
        let (_state, left) = StateDir::open(folder.path(), BOOT).unwrap();
        assert_eq!(left.account, Some(ACCOUNT));
        assert_eq!(left.cgroups, Some(vec![(memcg(7), 3)]));
        assert_eq!(left.containers, [container()]);
    }

    #[test]
    fn another_boot_begins_anew() {
        let folder = written();
        let (_state, left) = StateDir::open(folder.path(), "another").unwrap();
        assert!(left.account.is_none() && left.cgroups.is_none());
    }

    #[test]
    fn two_agents_do_not_share_a_folder() {
        let folder = written();
        let first = StateDir::open(folder.path(), BOOT).unwrap();
        let refused = StateDir::open(folder.path(), BOOT).unwrap_err();
        assert!(format!("{refused:#}").contains("another agent"), "{refused:#}");
        drop(first);
        StateDir::open(folder.path(), BOOT).unwrap();
    }

    #[test]
    fn garbage_is_as_good_as_nothing() {
        let folder = written();
        let contents: [&[u8]; 5] =
            [b"\0\xff", b"oomwatch 9 x", b"{}", b"oomwatch 1 b kills=x ring= read= lost=", &[b'9'; 5000]];
        for content in contents {
            fs::write(folder.path().join("account"), content).unwrap();
            fs::write(folder.path().join("state.json"), content).unwrap();
            let (_state, left) = StateDir::open(folder.path(), BOOT).unwrap();
            assert!(left.account.is_none() && left.cgroups.is_none());
        }
    }

    #[test]
    fn cgroups_that_do_not_all_fit_are_none() {
        let folder = written();
        let many: Vec<_> = (0..=MAX_CGROUPS as u64).map(|id| (memcg(id), 1)).collect();
        let (state, _left) = StateDir::open(folder.path(), BOOT).unwrap();
        state.contents(&many, true, std::iter::empty()).save().unwrap();
        drop(state);
        let (_state, left) = StateDir::open(folder.path(), BOOT).unwrap();
        assert!(left.cgroups.is_none());
    }
}
