//! The versions of runsc, and what it is asked to start.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Map, Value, json};

use crate::{Hog, container::memory, dialog::Dialog, rootfs::HOG};

/// A version of runsc, and how it runs applications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runsc {
    /// As in `runsc --version`.
    pub version: &'static str,
    /// `ptrace` or `systrap`.
    pub platform: &'static str,
}

impl Runsc {
    /// Debian 12's.
    pub const OLD: Self = Self { version: "20221219", platform: "ptrace" };
    /// That of Debian 12's backports, with the older platform.
    pub const PTRACE: Self = Self { version: "20240729", platform: "ptrace" };
    /// That of Debian 12's backports, as it runs by default.
    pub const SYSTRAP: Self = Self { version: "20240729", platform: "systrap" };

    /// `runsc do`: a hog with these steps, in a sandbox that has the host's files and no limit.
    pub fn do_it(self, steps: &[&str]) -> Dialog {
        let mut command = Command::new(self.program().expect("runsc"));
        command.arg(format!("--platform={}", self.platform)).args(["--network=none", "do"]);
        Dialog::start(command.arg(Hog::program()).args(steps))
    }

    /// The program; `None` where `cargo xtask setup` did not get it.
    pub(crate) fn program(self) -> Option<PathBuf> {
        let program = Path::new(&env::var_os("OOMWATCH_RUNSC")?).join(self.version).join("runsc");
        program.is_file().then_some(program)
    }
}

/// A sandbox to be started.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(crate) runsc: Runsc,
    pub(crate) limit_mib: u64,
    args: Vec<String>,
    flags: Vec<&'static str>,
    annotations: Map<String, Value>,
    pub(crate) detached: bool,
    writable: bool,
    pub(crate) big_mib: u64,
    cpu_percent: Option<u32>,
}

impl Plan {
    /// One whose first process is a hog that says `ready` and waits to be let go.
    pub fn hog(runsc: Runsc, limit_mib: u64, steps: &[&str]) -> Self {
        let args = [HOG, "say=ready", "wait"].iter().chain(steps).map(|&arg| arg.to_owned()).collect();
        Self { args, ..Self::script(runsc, limit_mib, "") }
    }

    /// One whose first process is a shell. `/hog` is there, too, and must say `ready` first.
    pub fn script(runsc: Runsc, limit_mib: u64, script: &str) -> Self {
        Self {
            runsc,
            limit_mib,
            args: ["/busybox", "sh", "-c", script].map(str::to_owned).to_vec(),
            flags: Vec::new(),
            annotations: Map::new(),
            detached: false,
            writable: false,
            big_mib: 0,
            cpu_percent: None,
        }
    }

    /// Gives runsc one more flag.
    #[must_use]
    pub fn flag(mut self, flag: &'static str) -> Self {
        self.flags.push(flag);
        self
    }

    /// `runsc run --detach`: the state stays when the sandbox has ended.
    #[must_use]
    pub fn detached(self) -> Self {
        Self { detached: true, ..self }
    }

    /// The application may write into its root file system.
    #[must_use]
    pub fn writable(self) -> Self {
        Self { writable: true, ..self }
    }

    /// With a file `/big` of this size, which takes no room on the disk.
    #[must_use]
    pub fn with_big_file(self, mib: u64) -> Self {
        Self { big_mib: mib, ..self }
    }

    /// With no more than this part of a processor.
    #[must_use]
    pub fn cpu_percent(self, percent: u32) -> Self {
        Self { cpu_percent: Some(percent), ..self }
    }

    /// The first container of a pod, as containerd's plugin for Kubernetes marks it.
    #[must_use]
    pub fn pod(self) -> Self {
        self.annotation("io.kubernetes.cri.container-type", "sandbox")
    }

    /// A further container of a pod.
    pub(crate) fn joining(&self, pod: &str, limit_mib: u64, steps: &[&str]) -> Self {
        Self { flags: self.flags.clone(), ..Self::hog(self.runsc, limit_mib, steps) }
            .annotation("io.kubernetes.cri.container-type", "container")
            .annotation("io.kubernetes.cri.sandbox-id", pod)
    }

    /// Adds what an engine would tell runsc by `config.json`.
    #[must_use]
    fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.into());
        self
    }

    /// `config.json`.
    pub(crate) fn configuration(&self, id: &str) -> Value {
        let namespaces: Vec<Value> =
            ["pid", "mount", "ipc", "uts", "network"].iter().map(|kind| json!({ "type": kind })).collect();
        let mut resources = json!({ "memory": memory(self.limit_mib << 20) });
        if let Some(percent) = self.cpu_percent {
            resources["cpu"] = json!({ "quota": percent * 1000, "period": 100_000 });
        }
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false, "user": { "uid": 0, "gid": 0 }, "args": self.args, "env": ["PATH=/"], "cwd": "/",
            },
            "root": { "path": "rootfs", "readonly": !self.writable },
            "hostname": "hog",
            "annotations": self.annotations,
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/tmp", "type": "tmpfs", "source": "tmpfs" },
            ],
            "linux": {
                "cgroupsPath": Path::new("/").join(id),
                "namespaces": namespaces,
                "resources": resources,
            },
        })
    }

    /// `runsc` with this plan's flags.
    pub(crate) fn command(&self, root: &Path) -> Command {
        let mut command = Command::new(self.runsc.program().expect("runsc"));
        command.arg("--root").arg(root).arg(format!("--platform={}", self.runsc.platform));
        command.arg("--network=none").args(&self.flags);
        command
    }
}
