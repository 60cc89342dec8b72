//! Scratch memory cgroups of either version with a small limit, and a process that runs into it. All removed on drop.

use std::{
    fs, io,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{self, Child, Command},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use crate::process::say;

/// A cgroup stays busy for a moment after its last process ended.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Moves itself into the cgroup, and only there becomes a program that takes memory without end.
const EAT: &str = r#"echo $$ > "$1/cgroup.procs" && exec tail /dev/zero"#;
/// The signal of the OOM killer.
const SIGKILL: i32 = 9;

/// The hierarchy that has the memory controller.
#[derive(Debug, Clone)]
pub(crate) struct Hierarchy {
    pub(crate) version: u8,
    mount: PathBuf,
}

impl Hierarchy {
    /// Finds it by `/proc/mounts`.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let mounts = fs::read_to_string("/proc/mounts").context("read /proc/mounts")?;
        parse_mounts(&mounts, has_memory).context("no memory cgroup hierarchy is mounted here")
    }

    /// The file of a cgroup that counts its kills.
    pub(crate) fn counter_file(&self) -> &'static str {
        if self.version == 1 { "memory.oom_control" } else { "memory.events" }
    }

    /// An error where a cgroup of a [`unique_name`] is still there.
    pub(crate) fn check_nothing_is_left(&self) -> anyhow::Result<()> {
        for entry in fs::read_dir(&self.mount).with_context(|| format!("read {}", self.mount.display()))? {
            let name = entry?.file_name();
            ensure!(!name.to_string_lossy().starts_with(&name_prefix()), "cgroup {} is left behind", name.display());
        }
        Ok(())
    }

    /// Whether swap can be limited.
    pub(crate) fn limits_swap(&self) -> bool {
        self.version == 2 || self.mount.join("memory.memsw.limit_in_bytes").exists()
    }

    /// Lets cgroups right below the root have a limit.
    fn prepare_root(&self) -> anyhow::Result<()> {
        if self.version == 1 {
            return Ok(());
        }
        let file = self.mount.join("cgroup.subtree_control");
        let enabled = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        if enabled.split_whitespace().any(|it| it == "memory") {
            return Ok(());
        }
        fs::write(&file, "+memory").with_context(|| format!("enable memory in {}", file.display()))
    }
}

fn parse_mounts(mounts: &str, has_memory: impl Fn(&Path) -> bool) -> Option<Hierarchy> {
    let mut unified = None;
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (mount, kind, options) = (Path::new(fields.next()?), fields.next()?, fields.next()?);
        if kind == "cgroup" && options.split(',').any(|it| it == "memory") {
            return Some(Hierarchy { version: 1, mount: mount.to_owned() });
        }
        if kind == "cgroup2" && has_memory(mount) {
            unified = Some(Hierarchy { version: 2, mount: mount.to_owned() });
        }
    }
    unified
}

fn has_memory(mount: &Path) -> bool {
    fs::read_to_string(mount.join("cgroup.controllers")).is_ok_and(|it| it.split_whitespace().any(|it| it == "memory"))
}

/// A name that nothing else on this host has.
pub(crate) fn unique_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{}{}", name_prefix(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn name_prefix() -> String {
    format!("oomwatch-{}-", process::id())
}

/// A memory cgroup right below the root.
#[derive(Debug)]
pub(crate) struct Cgroup {
    name: String,
    folder: PathBuf,
    counter: PathBuf,
}

impl Cgroup {
    /// A new one with this limit.
    pub(crate) fn scratch(hierarchy: &Hierarchy, limit_bytes: u64) -> anyhow::Result<Self> {
        hierarchy.prepare_root()?;
        let cgroup = Self::left_by(hierarchy, unique_name());
        fs::create_dir(&cgroup.folder).with_context(|| format!("make {}", cgroup.folder.display()))?;
        let limit = limit_bytes.to_string();
        if hierarchy.version == 1 {
            cgroup.write("memory.limit_in_bytes", &limit)?;
            cgroup.write_if_there("memory.memsw.limit_in_bytes", &limit)?;
        } else {
            cgroup.write("memory.max", &limit)?;
            cgroup.write_if_there("memory.swap.max", "0")?;
        }
        Ok(cgroup)
    }

    /// One that something else makes and may leave behind.
    pub(crate) fn left_by(hierarchy: &Hierarchy, name: String) -> Self {
        let folder = hierarchy.mount.join(&name);
        let counter = folder.join(hierarchy.counter_file());
        Self { name, folder, counter }
    }

    /// Its name, which is unique.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where its files are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file that counts its kills.
    pub(crate) fn counter(&self) -> &Path {
        &self.counter
    }

    /// Starts a process in it that eats memory until it is killed.
    pub(crate) fn eater(&self) -> anyhow::Result<Eater> {
        let child = Command::new("sh").args(["-c", EAT, "sh"]).arg(&self.folder).spawn();
        child.map(Eater).context("run sh")
    }

    fn write(&self, file: &str, value: &str) -> anyhow::Result<()> {
        let file = self.folder.join(file);
        fs::write(&file, value).with_context(|| format!("write {value} to {}", file.display()))
    }

    fn write_if_there(&self, file: &str, value: &str) -> anyhow::Result<()> {
        if self.folder.join(file).exists() { self.write(file, value) } else { Ok(()) }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let deadline = Instant::now() + REMOVE_TIMEOUT;
        loop {
            match fs::remove_dir(&self.folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    if Instant::now() >= deadline {
                        say(&format!("cannot remove {}: {error}", self.folder.display()));
                        return;
                    }
                    thread::sleep(Duration::from_millis(5));
                }
                _ => return,
            }
        }
    }
}

/// The process that eats. Ended on drop.
#[derive(Debug)]
pub(crate) struct Eater(Child);

impl Eater {
    /// Waits until it was killed.
    pub(crate) fn wait_for_kill(&mut self) -> anyhow::Result<()> {
        let status = self.0.wait().context("wait for the process that eats memory")?;
        ensure!(status.signal() == Some(SIGKILL), "the process that eats memory was not killed: {status}");
        Ok(())
    }
}

impl Drop for Eater {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait()
            && let Err(error) = self.0.kill().and_then(|()| self.0.wait())
        {
            say(&format!("cannot end the process that eats memory: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "proc /proc proc rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu,cpuacct 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
                      cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n";
    const V2: &str = "cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n";

    #[test]
    fn the_hierarchy_with_the_memory_controller_is_taken() {
        let v1 = parse_mounts(V1, |_| false).unwrap();
        assert_eq!((v1.version, v1.mount.as_path()), (1, Path::new("/sys/fs/cgroup/memory")));
        let v2 = parse_mounts(V2, |_| true).unwrap();
        assert_eq!((v2.version, v2.mount.as_path()), (2, Path::new("/sys/fs/cgroup")));
        assert!(parse_mounts(V2, |_| false).is_none());
    }
}
