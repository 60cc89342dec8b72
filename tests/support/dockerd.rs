//! A docker daemon of our own, with all its files in one folder, and containers of it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    Cgroup, PROCESS_TIMEOUT, Rootfs, Runsc, Void,
    cgroup::memory_hierarchy,
    container::cgroup_of,
    dialog::Dialog,
    mount::unmount_below,
    program::{run, succeed},
    rootfs::HOG,
    sandbox::{END_TIMEOUT, end_processes_that_name},
    unique_name, wait_for,
};

/// Name of the image.
const IMAGE: &str = "oomwatch-test-image:1";

/// A running daemon. Stopped on drop.
#[derive(Debug)]
pub struct Dockerd {
    child: Child,
    socket: String,
    /// Parents of containers that were not there before.
    parents: Vec<PathBuf>,
    folder: TempDir,
}

impl Dockerd {
    /// Starts one that has an image with the hog.
    pub fn start() -> Self {
        Self::start_configured(&json!({}))
    }

    /// Starts one whose containers gVisor runs.
    pub fn start_with_runsc(runsc: Runsc) -> Self {
        Self::start_configured(&json!({ "runtimes": { "runsc": runtime(runsc) }, "default-runtime": "runsc" }))
    }

    /// Starts one whose containers runc runs, and gVisor where that is asked for.
    pub fn start_with_both(runsc: Runsc) -> Self {
        Self::start_configured(&json!({ "runtimes": { "runsc": runtime(runsc) } }))
    }

    fn start_configured(configuration: &Value) -> Self {
        let folder = tempfile::Builder::new().prefix("dockerd").tempdir().expect("make a folder");
        let at = |name: &str| folder.path().join(name).to_str().expect("a path in UTF-8").to_owned();
        let socket = format!("unix://{}", at("sock"));
        let log = File::create(at("log")).expect("make the daemon's log");
        let parents = missing_parents("docker");
        fs::write(at("daemon.json"), configuration.to_string()).expect("write the daemon's configuration");
        let child = Command::new("dockerd")
            .args(["--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs"])
            .args(["--data-root", &at("data"), "--exec-root", &at("exec"), "--pidfile", &at("pid")])
            .args(["--config-file", &at("daemon.json"), "--host", &socket])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("share the log"))
            .stderr(log)
            .spawn()
            .expect("start dockerd");
        let daemon = Self { child, socket, parents, folder };
        wait_for("dockerd to answer", PROCESS_TIMEOUT, || {
            (run(&mut daemon.docker(&["info"])).code == Some(0)).then_some(())
        });
        daemon.import_image();
        daemon
    }

    /// `docker ARGUMENTS`, for this daemon.
    fn docker(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["--host", &self.socket]).args(arguments).env("DOCKER_CONFIG", self.folder.path());
        command
    }

    fn import_image(&self) {
        let rootfs = Rootfs::new();
        let tar = self.folder.path().join("image.tar");
        succeed(Command::new("tar").arg("-C").arg(rootfs.root()).arg("-cf").arg(&tar).arg("."));
        succeed(&mut self.docker(&["import", tar.to_str().expect("a path in UTF-8"), IMAGE]));
    }

    /// Starts a container that waits to be let go.
    pub fn start_container(&self, limit_mib: u64, steps: &[&str]) -> DockerContainer<'_> {
        self.start_with(&[], Vec::new(), limit_mib, steps)
    }

    /// Starts one that gVisor runs, beside others.
    pub fn start_sandbox(&self, limit_mib: u64, steps: &[&str]) -> DockerContainer<'_> {
        self.start_with(&["--runtime", "runsc"], Vec::new(), limit_mib, steps)
    }

    /// Starts one below a cgroup of the user's choice.
    pub fn start_container_below(&self, parent: &str, limit_mib: u64, steps: &[&str]) -> DockerContainer<'_> {
        let parents = missing_parents(parent);
        self.start_with(&["--cgroup-parent", &format!("/{parent}")], parents, limit_mib, steps)
    }

    fn start_with(
        &self,
        options: &[&str],
        parents: Vec<PathBuf>,
        limit_mib: u64,
        steps: &[&str],
    ) -> DockerContainer<'_> {
        let name = unique_name();
        let memory = format!("{limit_mib}m");
        let mut command = self.docker(&["run", "--interactive", "--network=none", "--name", &name]);
        command.args(["--memory", &memory, "--memory-swap", &memory]).args(options);
        command.args([IMAGE, HOG, "say=ready", "wait"]).args(steps);
        let log = File::create(self.folder.path().join(&name)).expect("make the client's log");
        let dialog = Dialog::start(command.stderr(log));
        // From here on the container is removed, whatever fails below.
        let cgroup = Cgroup::of_nobody(&name);
        let mut container = DockerContainer { daemon: self, name, id: String::new(), init: 0, cgroup, parents, dialog };
        assert_eq!(container.line(), "ready");
        container.id = container.inspect("{{.Id}}");
        container.init = container.inspect("{{.State.Pid}}").parse().expect("a process id");
        container.cgroup = Cgroup::of_somebody(cgroup_of(container.init), limit_mib << 20);
        container
    }
}

/// How the daemon is to start sandboxes.
fn runtime(runsc: Runsc) -> Value {
    let arguments = [format!("--platform={}", runsc.platform), "--network=none".to_owned()];
    json!({ "path": runsc.program().expect("runsc"), "runtimeArgs": arguments })
}

impl Drop for Dockerd {
    #[expect(clippy::print_stderr, reason = "the harness shows it with the failure")]
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // An error says that it ended before.
            let _ended: Result<(), _> = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + PROCESS_TIMEOUT;
        while self.child.try_wait().is_ok_and(|status| status.is_none()) {
            if Instant::now() > deadline {
                drop(self.child.kill());
            }
            thread::sleep(Duration::from_millis(10));
        }
        // Sandboxes that could not be started outlive the daemon.
        end_processes_that_name(self.folder.path());
        unmount_below(self.folder.path());
        remove_parents(&self.parents);
        if thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the end of dockerd's log:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
        }
    }
}

/// Cgroups of this name below the root of each hierarchy that are not there yet: docker makes them for containers and
/// leaves them behind.
pub(crate) fn missing_parents(name: &str) -> Vec<PathBuf> {
    let memory = memory_hierarchy().expect("a memory cgroup hierarchy");
    let roots: Vec<PathBuf> = if memory.version == 2 {
        vec![memory.mount.clone()]
    } else {
        let all = memory.mount.parent().unwrap_or(Path::new("/sys/fs/cgroup"));
        fs::read_dir(all).expect("the cgroup hierarchies").flatten().map(|root| root.path()).collect()
    };
    roots.iter().map(|root| root.join(name)).filter(|parent| !parent.exists()).collect()
}

pub(crate) fn remove_parents(parents: &[PathBuf]) {
    for parent in parents {
        // Fails where it was not made, or where somebody else uses it by now.
        drop(fs::remove_dir(parent));
    }
}

/// A running container whose first process is a hog. Removed on drop.
#[derive(Debug)]
pub struct DockerContainer<'a> {
    daemon: &'a Dockerd,
    name: String,
    id: String,
    init: u32,
    cgroup: Cgroup,
    parents: Vec<PathBuf>,
    dialog: Dialog,
}

impl DockerContainer<'_> {
    /// The name we gave it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id the daemon gave it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The image as we named it.
    pub fn image(&self) -> &'static str {
        IMAGE
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

    /// What the daemon says of it, by a template.
    pub fn inspect(&self, template: &str) -> String {
        succeed(&mut self.daemon.docker(&["inspect", "--format", template, &self.name]))
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.dialog.wait()
    }

    /// Waits for the end that a kill brings.
    ///
    /// # Errors
    /// It hangs.
    pub fn end(&mut self) -> Result<ExitStatus, Void> {
        self.dialog.status_within(END_TIMEOUT).ok_or(Void::HUNG)
    }
}

impl Drop for DockerContainer<'_> {
    fn drop(&mut self) {
        drop(run(&mut self.daemon.docker(&["rm", "--force", "--volumes", &self.name])));
        remove_parents(&self.parents);
    }
}
