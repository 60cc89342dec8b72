//! Containers of runc and crun, used by hand: a bundle of our own, no engine.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use serde_json::{Value, json};

use crate::{
    Cgroup, Rootfs,
    cgroup::{hierarchies, host_swaps, memory_hierarchy},
    dialog::Dialog,
    program::run,
    rootfs::HOG,
    unique_name,
    wait::{PROCESS_TIMEOUT, wait_for},
};

/// A runtime with runc's command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// runc
    Runc,
    /// crun
    Crun,
}

impl Runtime {
    fn command(self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.name());
        command.args(arguments);
        if self == Self::Crun {
            hide_cgroup2_from_crun(&mut command);
        }
        command
    }

    /// Its program, which is also its name in events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Crun => "crun",
        }
    }
}

/// A running container whose first process is a hog. Deleted on drop.
#[derive(Debug)]
pub struct Container {
    runtime: Runtime,
    id: String,
    init: u32,
    /// The cgroup in which it has its own.
    around: PathBuf,
    cgroup: Cgroup,
    dialog: Dialog,
    rootfs: Rootfs,
}

impl Container {
    /// Starts one that waits to be let go.
    pub fn start(runtime: Runtime, limit_mib: u64, steps: &[&str]) -> Self {
        Self::start_below(Path::new("/"), runtime, Some(limit_mib), steps)
    }

    /// The same with its cgroup in another, and perhaps without a limit of its own.
    pub fn start_below(around: &Path, runtime: Runtime, limit_mib: Option<u64>, steps: &[&str]) -> Self {
        Self::start_with(around, runtime, limit_mib, &OWN_NAMESPACES, steps)
    }

    /// The same with the process ids of the host.
    pub fn start_with_pids_of_host(runtime: Runtime, limit_mib: u64, steps: &[&str]) -> Self {
        let [_pids, others @ ..] = OWN_NAMESPACES;
        Self::start_with(Path::new("/"), runtime, Some(limit_mib), &others, steps)
    }

    fn start_with(
        around: &Path,
        runtime: Runtime,
        limit_mib: Option<u64>,
        namespaces: &[&str],
        steps: &[&str],
    ) -> Self {
        let id = unique_name();
        let rootfs = bundle(&around.join(&id), limit_mib, namespaces, &[&["say=ready", "wait"], steps].concat());
        let log = File::create(rootfs.folder().join("log")).expect("make the runtime's log");
        let mut command = runtime.command(&["run", "--bundle"]);
        command.arg(rootfs.folder()).arg(&id).stderr(log);
        let dialog = Dialog::start(&mut command);
        // From here on the container is deleted, whatever fails below.
        let (around, cgroup) = (around.to_owned(), Cgroup::of_nobody(&id));
        let mut container = Self { runtime, init: 0, around, cgroup, id, dialog, rootfs };
        assert_eq!(container.line(), "ready");
        // crun writes its state at the same time.
        let pid = || container.state_now()?["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        container.init = wait_for("the runtime's state of the container", PROCESS_TIMEOUT, pid);
        container.cgroup = Cgroup::of_somebody(cgroup_of(container.init), limit_mib.unwrap_or_default() << 20);
        container
    }

    /// Runs one that waits for nobody, until its runtime has deleted it; its id.
    pub fn live_and_die(runtime: Runtime, limit_mib: u64, steps: &[&str]) -> String {
        let id = unique_name();
        let rootfs = bundle(&Path::new("/").join(&id), Some(limit_mib), &OWN_NAMESPACES, steps);
        let mut command = runtime.command(&["run", "--bundle"]);
        command.arg(rootfs.folder()).arg(&id).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().unwrap_or_else(|error| panic!("{}: {error}", runtime.name()));
        id
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its first process, on the host.
    pub fn init(&self) -> u32 {
        self.init
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Ends one `wait` inside.
    pub fn go(&mut self) {
        self.dialog.go();
    }

    /// The next line said inside.
    pub fn line(&self) -> String {
        self.dialog.line()
    }

    /// What the runtime says of it.
    pub fn state(&self) -> Value {
        self.state_now().expect("the runtime's state of the container")
    }

    fn state_now(&self) -> Option<Value> {
        let finished = run(&mut self.runtime.command(&["state", &self.id]));
        if finished.code != Some(0) {
            return None;
        }
        let text = finished.stdout;
        Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("the state {text}: {error}")))
    }

    /// Waits until the runtime, too, is done with it: cgroup and state are gone.
    pub fn wait(&mut self) -> ExitStatus {
        self.dialog.wait()
    }

    /// Deletes it now, with its cgroup and its state.
    pub fn delete(&mut self) {
        // Fails where it is gone already.
        drop(run(&mut self.runtime.command(&["delete", "--force", &self.id])));
        self.dialog.wait();
    }
}

impl Drop for Container {
    #[expect(clippy::print_stderr, reason = "the harness shows it with the failure")]
    fn drop(&mut self) {
        drop(run(&mut self.runtime.command(&["delete", "--force", &self.id])));
        // The runtime made it in every hierarchy. The last container in it takes it along; that of memory is the test's own.
        let memory = memory_hierarchy().map(|memory| &memory.mount);
        let others = hierarchies().into_iter().filter(|root| Some(root) != memory && self.around != Path::new("/"));
        for root in others {
            let around = self.around.strip_prefix("/").unwrap_or(&self.around);
            let _kept: io::Result<()> = fs::remove_dir(root.join(around));
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.rootfs.folder().join("log")).unwrap_or_default();
            eprintln!("--- log of {}:\n{log}", self.runtime.name());
        }
    }
}

/// Namespaces of a container's own.
const OWN_NAMESPACES: [&str; 4] = ["pid", "mount", "ipc", "uts"];

/// Path of the memory cgroup that a process is in.
pub(crate) fn cgroup_of(pid: u32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the cgroups of a process");
    let path = text.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let version = memory_hierarchy()?.version;
        let wanted =
            if version == 1 { controllers.split(',').any(|it| it == "memory") } else { controllers.is_empty() };
        wanted.then(|| path.to_owned())
    });
    path.unwrap_or_else(|| panic!("no memory cgroup in {text}"))
}

fn bundle(cgroup: &Path, limit_mib: Option<u64>, namespaces: &[&str], steps: &[&str]) -> Rootfs {
    let rootfs = Rootfs::new();
    let config = configuration(cgroup, limit_mib.map(|mib| mib << 20), namespaces, steps);
    fs::write(rootfs.folder().join("config.json"), config.to_string()).expect("write config.json");
    rootfs
}

fn configuration(cgroup: &Path, limit_bytes: Option<u64>, namespaces: &[&str], steps: &[&str]) -> Value {
    let args = [&[HOG], steps].concat();
    let namespaces: Vec<Value> = namespaces.iter().map(|kind| json!({ "type": kind })).collect();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "user": { "uid": 0, "gid": 0 }, "args": args, "env": ["PATH=/"], "cwd": "/",
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "hog",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"] },
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": namespaces,
            "resources": limit_bytes.map_or(json!({}), |bytes| json!({ "memory": memory(bytes) })),
        },
    })
}

/// The limits of memory in `config.json`.
pub(crate) fn memory(limit_bytes: u64) -> Value {
    if host_swaps() { json!({ "limit": limit_bytes, "swap": limit_bytes }) } else { json!({ "limit": limit_bytes }) }
}

/// Where cgroup v2 has a controller beside cgroup v1, crun refuses to work; so there it is not shown cgroup v2.
fn hide_cgroup2_from_crun(command: &mut Command) {
    let hierarchy = memory_hierarchy().expect("a memory cgroup hierarchy");
    let unified = Path::new("/sys/fs/cgroup/unified");
    let controllers = fs::read_to_string(unified.join("cgroup.controllers")).unwrap_or_default();
    if hierarchy.version == 2 || controllers.trim().is_empty() {
        return;
    }
    let unmount_for_itself = || {
        unshare(libc::CLONE_NEWNS)?;
        mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        Ok(unmount(c"/sys/fs/cgroup/unified", UnmountFlags::DETACH)?)
    };
    // SAFETY: between fork and exec the closure makes only system calls and allocates nothing.
    unsafe { command.pre_exec(unmount_for_itself) };
}

fn unshare(what: i32) -> io::Result<()> {
    // SAFETY: the call takes a number; the process has one thread after the fork.
    if unsafe { libc::unshare(what) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
