//! A containerd of our own, with all its files in one folder, and a container that its own client starts.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{
    Cgroup, PROCESS_TIMEOUT, Rootfs,
    container::cgroup_of,
    dialog::Dialog,
    dockerd::{missing_parents, remove_parents},
    mount::unmount_below,
    program::{run, succeed},
    rootfs::HOG,
    sandbox::end_processes_that_name,
    unique_name,
    wait::within,
    wait_for,
};

/// A running daemon. Stopped on drop.
#[derive(Debug)]
pub struct Containerd {
    child: Child,
    /// Of its containers; the name of a cgroup around theirs, too.
    namespace: String,
    /// What is left of those.
    parents: Vec<PathBuf>,
    folder: TempDir,
}

impl Containerd {
    /// Starts one without the part for Kubernetes.
    #[expect(clippy::new_without_default, reason = "it starts a process")]
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("containerd").tempdir().expect("make a folder");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let configuration = format!(
            "version = 2\nroot = '{}'\nstate = '{}'\ndisabled_plugins = ['io.containerd.grpc.v1.cri', \
             'io.containerd.internal.v1.opt']\n[grpc]\naddress = '{}'\n[ttrpc]\naddress = '{}'\n",
            at("root"),
            at("state"),
            at("sock"),
            at("ttrpc")
        );
        fs::write(at("config.toml"), configuration).expect("write the daemon's configuration");
        let log = File::create(at("log")).expect("make the daemon's log");
        let child = Command::new("containerd")
            .args(["--config", &at("config.toml")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("share the log"))
            .stderr(log)
            .spawn()
            .expect("start containerd");
        let namespace = unique_name();
        let daemon = Self { child, parents: missing_parents(&namespace), namespace, folder };
        wait_for("containerd to answer", PROCESS_TIMEOUT, || {
            (run(&mut daemon.ctr(&["version"])).code == Some(0)).then_some(())
        });
        daemon
    }

    /// `ctr ARGUMENTS`, for this daemon.
    fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.folder.path().join("sock"));
        command.args(["--namespace", &self.namespace]).args(arguments);
        command
    }

    /// Starts a container that waits to be let go.
    pub fn start_container(&self, limit_mib: u64, steps: &[&str]) -> ContainerdContainer<'_> {
        let (id, rootfs) = (unique_name(), Rootfs::new());
        let limit = (limit_mib << 20).to_string();
        let mut command = self.ctr(&["run", "--memory-limit", &limit, "--rootfs"]);
        command.arg(rootfs.root()).args([&id, HOG, "say=ready", "wait"]).args(steps);
        let log = File::create(self.folder.path().join(&id)).expect("make the client's log");
        let dialog = Dialog::start(command.stderr(log));
        // From here on the container is removed, whatever fails below.
        let cgroup = Cgroup::of_nobody(&id);
        let mut container = ContainerdContainer { daemon: self, id, init: 0, cgroup, dialog, _rootfs: rootfs };
        assert_eq!(container.line(), "ready");
        let pids = succeed(&mut self.ctr(&["task", "ls"]));
        let row = pids.lines().find_map(|line| line.strip_prefix(container.id())).expect("a row of the container");
        container.init = row.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("a process id");
        container.cgroup = Cgroup::of_somebody(cgroup_of(container.init), limit_mib << 20);
        container
    }
}

/// Where its shims tell runc to keep state, in a folder for each namespace that nobody removes.
const RUNC_STATES: &str = "/run/containerd/runc";

impl Drop for Containerd {
    #[expect(clippy::print_stderr, reason = "the harness shows it with the failure")]
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // An error says that it ended before.
            let _ended: Result<(), _> = kill_process(pid, Signal::TERM);
        }
        if within(PROCESS_TIMEOUT, || self.child.try_wait().ok().flatten()).is_none() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
        // A shim outlives the daemon.
        end_processes_that_name(self.folder.path());
        unmount_below(self.folder.path());
        remove_parents(&self.parents);
        remove_parents(&[Path::new(RUNC_STATES).join(&self.namespace)]);
        if thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the end of containerd's log:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
        }
    }
}

/// A running container whose first process is a hog. Removed on drop, with its shim.
#[derive(Debug)]
pub struct ContainerdContainer<'a> {
    daemon: &'a Containerd,
    id: String,
    init: u32,
    cgroup: Cgroup,
    dialog: Dialog,
    _rootfs: Rootfs,
}

impl ContainerdContainer<'_> {
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

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.dialog.wait()
    }
}

impl Drop for ContainerdContainer<'_> {
    fn drop(&mut self) {
        for arguments in [["task", "delete", "--force"].as_slice(), &["container", "delete"]] {
            drop(run(self.daemon.ctr(arguments).arg(&self.id)));
        }
    }
}
