//! What the running system says of itself: kernel release, boot id, BTF, the agent's own privileges.

use std::path::Path;

use caps::{CapSet, Capability};

use super::{HostError, HostRoot};

/// Largest BTF read, bytes: today's kernels have 4 to 8 MB.
const MAX_BTF: usize = 64 << 20;
const BTF: &str = "/sys/kernel/btf/vmlinux";
/// Size that sysfs claims for its files, bytes.
const MAX_SYSFS: usize = 4096;
const KPROBE_TYPE: &str = "/sys/bus/event_source/devices/kprobe/type";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Release of the running kernel, as `uname -r` says.
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// First number of the running kernel's release, e.g. 7 of `7.2.13`; 0 where it does not begin with one.
pub fn kernel_major() -> u32 {
    let release = kernel_release();
    release.split('.').next().and_then(|major| major.parse().ok()).unwrap_or_default()
}

/// What this host calls itself, as `uname -n` says.
pub fn node_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The kernel's boot id.
///
/// # Errors
/// `/proc` cannot be read.
pub fn boot_id() -> Result<String, HostError> {
    let text = HostRoot::default().read_bounded(Path::new(BOOT_ID), 64)?;
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}

/// BTF of the running kernel.
///
/// # Errors
/// The kernel was built without it, or `/sys` is not there.
pub fn kernel_btf() -> Result<Vec<u8>, HostError> {
    HostRoot::default().read_bounded(Path::new(BTF), MAX_BTF)
}

/// Whether the kernel was built with kprobes.
pub fn has_kprobes() -> bool {
    HostRoot::default().read_bounded(Path::new(KPROBE_TYPE), MAX_SYSFS).is_ok()
}

/// A privilege that the agent does without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Privilege {
    any_of: &'static [Capability],
    costs: &'static str,
}

const PRIVILEGES: &[Privilege] = &[
    Privilege { any_of: &[Capability::CAP_BPF, Capability::CAP_SYS_ADMIN], costs: "no eBPF program can be loaded" },
    Privilege { any_of: &[Capability::CAP_PERFMON, Capability::CAP_SYS_ADMIN], costs: "no tracepoint can be traced" },
    Privilege {
        any_of: &[Capability::CAP_DAC_READ_SEARCH, Capability::CAP_DAC_OVERRIDE],
        costs: "container names and images stay unknown",
    },
    Privilege {
        any_of: &[Capability::CAP_SYS_PTRACE],
        costs: "containers of an engine with unusual folders stay without a name",
    },
];

/// One sentence for each privilege that is missing: what, what it costs, what to do.
pub fn missing_privileges() -> Vec<String> {
    let has = |capability: &Capability| caps::has_cap(None, CapSet::Effective, *capability).unwrap_or(false);
    let missing = PRIVILEGES.iter().filter(|privilege| !privilege.any_of.iter().any(has));
    missing
        .map(|privilege| {
            let names: Vec<String> = privilege.any_of.iter().map(ToString::to_string).collect();
            format!(
                "missing {}: {}; run oomwatch as root or give it this capability",
                names.join(" or "),
                privilege.costs
            )
        })
        .collect()
}

/// Whether process ids of the host whose root is `root` mean the same here; they do not in a container with a pid
/// namespace of its own.
pub fn shares_process_ids(root: &HostRoot) -> bool {
    if root.as_path() == Path::new("/") {
        return true;
    }
    let own = HostRoot::default().read_link(Path::new("/proc/self/ns/pid"));
    let theirs = root.read_link(Path::new("/proc/1/ns/pid"));
    matches!((own, theirs), (Ok(own), Ok(theirs)) if own == theirs)
}

/// Descriptors are kept of the cgroups under measurement; the usual limit of 1,024 is for programs that use `select`.
pub fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::debug!(%error, "cannot raise RLIMIT_NOFILE");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_shares_the_ids_of_the_host_it_runs_on_and_of_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let root = HostRoot::new(folder.path());
        assert!(!shares_process_ids(&root));
        std::fs::create_dir_all(folder.path().join("proc/1/ns")).unwrap();
        std::os::unix::fs::symlink("pid:[1]", folder.path().join("proc/1/ns/pid")).unwrap();
        assert!(!shares_process_ids(&root));
        let own = std::fs::read_link("/proc/self/ns/pid").unwrap();
        std::fs::remove_file(folder.path().join("proc/1/ns/pid")).unwrap();
        std::os::unix::fs::symlink(own, folder.path().join("proc/1/ns/pid")).unwrap();
        assert!(shares_process_ids(&root));
    }
}
