//! What only a machine of one's own can be asked to do: settings of the kernel and swap. Undone on drop.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::program::succeed;

/// The kernel writes ten dumps of an OOM into its log in five seconds, whoever caused them.
pub fn let_the_log_rest() {
    std::thread::sleep(std::time::Duration::from_millis(5500));
}

/// Whether this is the virtual machine, which is nobody's.
pub fn in_guest() -> bool {
    env::var_os("OOMWATCH_GUEST").is_some()
}

/// Keeps the kernel from killing this process and, unless they say otherwise, those that it starts.
pub fn spare_this_process() {
    fs::write("/proc/self/oom_score_adj", "-1000").expect("spare this process");
}

/// A setting of the kernel's. Set back on drop.
#[derive(Debug)]
pub struct Sysctl {
    file: PathBuf,
    before: String,
}

impl Sysctl {
    /// Changes it: `Sysctl::set("vm/overcommit_memory", "1")`.
    pub fn set(name: &str, value: &str) -> Self {
        let file = Path::new("/proc/sys").join(name);
        let before = fs::read_to_string(&file).unwrap_or_else(|error| panic!("read {name}: {error}"));
        fs::write(&file, value).unwrap_or_else(|error| panic!("set {name} to {value}: {error}"));
        Self { file, before }
    }
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        let undone = fs::write(&self.file, self.before.trim());
        assert!(undone.is_ok() || std::thread::panicking(), "{} is not set back: {undone:?}", self.file.display());
    }
}

/// A disk that memory is swapped out to. Taken away on drop.
#[derive(Debug)]
pub struct Swap(&'static str);

impl Swap {
    /// Takes the whole disk.
    pub fn on(disk: &'static str) -> Self {
        succeed(Command::new("mkswap").arg(disk));
        succeed(Command::new("swapon").arg(disk));
        Self(disk)
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        succeed(Command::new("swapoff").arg(self.0));
    }
}
