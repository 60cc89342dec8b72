//! Mounts cgroups of either version as systemd does.

use std::{error::Error, ffi::CString, fs};

use crate::mount_new;

/// One hierarchy with all controllers.
pub(crate) fn mount_v2() -> Result<(), Box<dyn Error>> {
    mount_new("cgroup2", "/sys/fs/cgroup", None)?;
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory +pids +cpu")
        .map_err(|error| format!("enable cgroup controllers: {error}").into())
}

/// A hierarchy for each controller, and one of version 2 without any.
pub(crate) fn mount_v1() -> Result<(), Box<dyn Error>> {
    mount_new("tmpfs", "/sys/fs/cgroup", Some(c"mode=755"))?;
    let table = fs::read_to_string("/proc/cgroups").map_err(|error| format!("read /proc/cgroups: {error}"))?;
    for name in table.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split('\t').next()) {
        let options = CString::new(name)?;
        mount_new("cgroup", &format!("/sys/fs/cgroup/{name}"), Some(&options))?;
    }
    mount_new("cgroup2", "/sys/fs/cgroup/unified", None)?;
    // Before Linux 5.11 limits do not bind what is below otherwise.
    fs::write("/sys/fs/cgroup/memory/memory.use_hierarchy", "1")
        .map_err(|error| format!("let limits bind children: {error}").into())
}
