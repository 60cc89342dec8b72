//! Memory cgroups of either version, made and removed.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    process,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait_for;

/// A cgroup stays busy for a moment after its last process ended.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(10);
const MIB: u64 = 1 << 20;

/// The hierarchy that has the memory controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub(crate) version: u8,
    pub(crate) mount: PathBuf,
}

/// Finds it by `/proc/mounts`.
pub(crate) fn memory_hierarchy() -> Option<&'static Hierarchy> {
    static FOUND: OnceLock<Option<Hierarchy>> = OnceLock::new();
    FOUND.get_or_init(find_memory_hierarchy).as_ref()
}

fn find_memory_hierarchy() -> Option<Hierarchy> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let mut unified = None;
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (mount, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        if kind == "cgroup" && options.split(',').any(|option| option == "memory") {
            return Some(Hierarchy { version: 1, mount: mount.into() });
        }
        let controllers = || fs::read_to_string(Path::new(mount).join("cgroup.controllers")).unwrap_or_default();
        if kind == "cgroup2" && controllers().split_whitespace().any(|name| name == "memory") {
            unified = Some(Hierarchy { version: 2, mount: mount.into() });
        }
    }
    unified
}

/// Where all hierarchies are mounted, that of the memory controller first.
pub(crate) fn hierarchies() -> Vec<PathBuf> {
    let memory = memory_hierarchy().expect("a memory cgroup hierarchy");
    let mut roots = vec![memory.mount.clone()];
    if memory.version == 1 {
        let all = memory.mount.parent().unwrap_or(Path::new("/sys/fs/cgroup"));
        roots.extend(fs::read_dir(all).expect("the cgroup hierarchies").flatten().map(|root| root.path()));
    }
    roots
}

/// 1 or 2.
pub fn memory_cgroup_version() -> u8 {
    memory_hierarchy().expect("a memory cgroup hierarchy").version
}

/// Whether memory can go elsewhere, so that a limit must bind that too.
pub(crate) fn host_swaps() -> bool {
    fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() > 1)
}

/// A name that nothing else on this machine has.
pub fn unique_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("oomwatch-test-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A memory cgroup.
#[derive(Debug)]
pub struct Cgroup {
    /// From the root of the hierarchy.
    path: PathBuf,
    folder: PathBuf,
    id: u64,
    limit_bytes: Option<u64>,
    /// Removed on drop, innermost first.
    made: Vec<PathBuf>,
}

impl Cgroup {
    /// A new one right below the root.
    pub fn scratch() -> Self {
        Self::make(Path::new("/").join(unique_name()))
    }

    /// A new one at a path from the root of the hierarchy. What is missing above it is made, and removed with it.
    pub fn make(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let hierarchy = memory_hierarchy().expect("a memory cgroup hierarchy");
        let mut made = Vec::new();
        let mut folder = hierarchy.mount.clone();
        for name in path.strip_prefix("/").expect("an absolute path") {
            prepare_for_children(hierarchy.version, &folder);
            folder.push(name);
            if !folder.is_dir() {
                fs::create_dir(&folder).unwrap_or_else(|error| panic!("make {}: {error}", folder.display()));
                made.push(folder.clone());
            }
        }
        let id = fs::metadata(&folder).expect("stat a cgroup").ino();
        Self { path, folder, id, limit_bytes: None, made }
    }

    /// One that somebody else made and will remove.
    pub(crate) fn of_somebody(path: impl Into<PathBuf>, limit_bytes: u64) -> Self {
        let path = path.into();
        let hierarchy = memory_hierarchy().expect("a memory cgroup hierarchy");
        let folder = hierarchy.mount.join(path.strip_prefix("/").expect("an absolute path"));
        let id = fs::metadata(&folder).unwrap_or_else(|error| panic!("stat {}: {error}", folder.display())).ino();
        Self { path, folder, id, limit_bytes: Some(limit_bytes), made: Vec::new() }
    }

    /// One that is not there yet and that somebody else will make.
    pub(crate) fn of_nobody(name: &str) -> Self {
        Self { path: Path::new("/").join(name), folder: PathBuf::new(), id: 0, limit_bytes: None, made: Vec::new() }
    }

    /// A new one below this one.
    #[must_use]
    pub fn child(&self, name: impl AsRef<OsStr>) -> Self {
        Self::make(self.path.join(name.as_ref()))
    }

    /// Limits memory and swap together to this much.
    #[must_use]
    pub fn limited_to_mib(mut self, mib: u64) -> Self {
        let bytes = mib * MIB;
        self.limit_bytes = Some(bytes);
        let (limit, swap, swap_value) = if memory_cgroup_version() == 1 {
            ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", bytes)
        } else {
            ("memory.max", "memory.swap.max", 0)
        };
        self.write(limit, &bytes.to_string());
        if host_swaps() {
            self.write(swap, &swap_value.to_string());
        }
        self
    }

    /// Its limit.
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes.expect("a cgroup with a limit")
    }

    /// From the root of the hierarchy.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its path as bytes.
    pub fn path_bytes(&self) -> &[u8] {
        self.path.as_os_str().as_bytes()
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Inode number of its folder, also after the end of it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The step that moves a hog here.
    pub fn join_step(&self) -> std::ffi::OsString {
        let mut step = std::ffi::OsString::from("cgroup=");
        step.push(&self.folder);
        step
    }

    /// Writes one of its files.
    pub fn write(&self, file: &str, value: &str) {
        let file = self.folder.join(file);
        fs::write(&file, value).unwrap_or_else(|error| panic!("write {value} to {}: {error}", file.display()));
    }

    /// Reads one of its files.
    pub fn read(&self, file: &str) -> String {
        let file = self.folder.join(file);
        fs::read_to_string(&file).unwrap_or_else(|error| panic!("read {}: {error}", file.display()))
    }

    /// What it is charged with, bytes.
    pub fn usage(&self) -> u64 {
        let file = if memory_cgroup_version() == 1 { "memory.usage_in_bytes" } else { "memory.current" };
        self.read(file).trim().parse().expect("a number")
    }

    /// Processes in it.
    pub fn processes(&self) -> Vec<u32> {
        self.read("cgroup.procs").lines().map(|line| line.parse().expect("a process id")).collect()
    }

    /// The kernel's own count of processes it killed in this very cgroup for want of memory.
    pub fn kernel_count_of_kills(&self) -> u64 {
        self.counter(
            if memory_cgroup_version() == 1 { "memory.oom_control" } else { "memory.events.local" },
            "oom_kill",
        )
    }

    /// How often it ran into its limit, by the kernel's own count.
    pub fn times_at_the_limit(&self) -> u64 {
        if memory_cgroup_version() == 1 {
            self.read("memory.failcnt").trim().parse().expect("a count")
        } else {
            self.counter("memory.events", "max")
        }
    }

    /// A `key value` line of one of its files.
    pub fn counter(&self, file: &str, key: &str) -> u64 {
        let text = self.read(file);
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("no {key} in {file}: {text}"))
    }

    /// Removes it now.
    pub fn remove(&mut self) {
        for folder in self.made.drain(..).rev() {
            wait_for("a cgroup to be removed", REMOVE_TIMEOUT, || remove(&folder).then_some(()));
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let deadline = Instant::now() + REMOVE_TIMEOUT;
        for folder in self.made.drain(..).rev() {
            while !remove(&folder) && Instant::now() < deadline {
                end_processes_in(&folder);
                std::thread::sleep(Duration::from_millis(5));
            }
            assert!(!folder.exists() || std::thread::panicking(), "{} is left behind", folder.display());
        }
    }
}

/// Ends what outlived its parent.
fn end_processes_in(folder: &Path) {
    let processes = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
        let _ended_already: Result<(), _> = kill_process(pid, Signal::KILL);
    }
}

/// False where it must be tried again.
fn remove(folder: &Path) -> bool {
    match fs::remove_dir(folder) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Makes limits of `folder` bind what is made below it.
fn prepare_for_children(version: u8, folder: &Path) {
    let (file, wanted, value) =
        if version == 1 { ("memory.use_hierarchy", "1", "1") } else { ("cgroup.subtree_control", "memory", "+memory") };
    let file = folder.join(file);
    let Ok(present) = fs::read_to_string(&file) else { return };
    if !present.split_whitespace().any(|word| word == wanted) {
        fs::write(&file, value).unwrap_or_else(|error| panic!("write {value} to {}: {error}", file.display()));
    }
}
