//! gVisor sandboxes, run by hand: a bundle and a root of our own, no engine.

use std::{
    fs::{self, File},
    os::fd::OwnedFd,
    path::Path,
    process::ExitStatus,
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;

use crate::{
    Agent, Cgroup, Event, PROCESS_TIMEOUT, Plan, Rootfs, attempt::Void, cgroup::hierarchies, container::cgroup_of,
    dialog::Dialog, program::succeed, unique_name, wait_for,
};

/// How long a kill may take to bring the end, also below an emulated processor.
pub(crate) const END_TIMEOUT: Duration = Duration::from_secs(30);

impl Plan {
    /// Starts it; it has said `ready`.
    pub fn start(self) -> Sandbox {
        let sandbox = self.launch();
        assert_eq!(sandbox.line(), "ready");
        sandbox
    }

    /// Starts it without waiting for anything: it may end at once.
    pub fn launch(self) -> Sandbox {
        let id = unique_name();
        let root = tempfile::tempdir().expect("make a root for runsc");
        let first = Container::prepare(&self, &id);
        let mut command = self.command(root.path());
        command.arg("run").args(self.detached.then_some("--detach")).arg("--bundle").arg(first.rootfs.folder());
        let log = File::create(first.rootfs.folder().join("log")).expect("make runsc's log");
        let dialog = Dialog::start(command.arg(&id).stderr(log));
        Sandbox { plan: self, root, first: Container { dialog: Some(dialog), ..first }, others: Vec::new() }
    }
}

/// A container of a sandbox.
#[derive(Debug)]
struct Container {
    id: String,
    rootfs: Rootfs,
    dialog: Option<Dialog>,
}

impl Container {
    fn prepare(plan: &Plan, id: &str) -> Self {
        let rootfs = Rootfs::new();
        let busybox = crate::requirement::find_program("busybox").expect("busybox");
        fs::copy(busybox, rootfs.root().join("busybox")).expect("copy busybox");
        if plan.big_mib > 0 {
            let big = File::create(rootfs.root().join("big")).expect("make a big file");
            big.set_len(plan.big_mib << 20).expect("make it big");
        }
        let configuration = plan.configuration(id).to_string();
        fs::write(rootfs.folder().join("config.json"), configuration).expect("write config.json");
        Self { id: id.to_owned(), rootfs, dialog: None }
    }

    fn dialog(&self) -> &Dialog {
        self.dialog.as_ref().expect("a container that was started")
    }
}

/// A running sandbox. Killed on drop, its cgroups removed.
#[derive(Debug)]
pub struct Sandbox {
    plan: Plan,
    root: tempfile::TempDir,
    first: Container,
    others: Vec<Container>,
}

impl Sandbox {
    /// Its id, which is that of its first container.
    pub fn id(&self) -> &str {
        &self.first.id
    }

    /// The sentry's process id.
    pub fn sentry(&self) -> u32 {
        number(&self.state(self.id())["sandbox"]["pid"])
    }

    /// Its gofers' process ids.
    pub fn gofers(&self) -> Vec<u32> {
        let containers = std::iter::once(&self.first).chain(&self.others);
        containers.map(|container| number(&self.state(&container.id)["goferPid"])).collect()
    }

    /// Its cgroup, as runsc made it.
    pub fn cgroup(&self) -> Cgroup {
        let cgroup = Cgroup::of_somebody(cgroup_of(self.sentry()), self.plan.limit_mib << 20);
        assert_eq!(cgroup.path(), Path::new("/").join(self.id()), "runsc made a cgroup elsewhere");
        cgroup
    }

    /// A state file of runsc's, which it may be about to write.
    fn state(&self, container: &str) -> Value {
        let file = self.root.path().join(format!("{container}_sandbox:{}.state", self.id()));
        wait_for("runsc's state file", PROCESS_TIMEOUT, || {
            let state: Value = serde_json::from_slice(&fs::read(&file).ok()?).ok()?;
            (state["sandbox"]["pid"].as_u64()? > 0).then_some(state)
        })
    }

    /// Ends one `wait` inside its first container.
    pub fn go(&mut self) {
        self.first.dialog.as_mut().expect("a container that was started").go();
    }

    /// The next line said inside its first container.
    pub fn line(&self) -> String {
        self.first.dialog().line()
    }

    /// The next line said inside its first container, if one is said in this time.
    pub fn line_within(&self, time: Duration) -> Option<String> {
        self.first.dialog().line_within(time)
    }

    /// Waits for the end that a kill brings.
    ///
    /// # Errors
    /// It hangs.
    pub fn end(&mut self) -> Result<ExitStatus, Void> {
        let dialog = self.first.dialog.as_mut().expect("a container that was started");
        let Some(status) = dialog.status_within(END_TIMEOUT) else {
            assert!(self.is_alive(), "runsc waits for a sandbox that is gone");
            return Err(Void::HUNG);
        };
        Ok(status)
    }

    /// Waits for the end of `runsc run`.
    pub fn wait(&mut self) -> ExitStatus {
        self.first.dialog.as_mut().expect("a container that was started").wait()
    }

    /// Whether the sentry still runs.
    pub fn is_alive(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/stat", self.sentry())).is_ok_and(|stat| !stat.contains(") Z "))
    }

    /// One more container in this pod; it has said `ready`. Its number begins with 1.
    pub fn add_container(&mut self, limit_mib: u64, steps: &[&str]) -> usize {
        let plan = self.plan.joining(self.id(), limit_mib, steps);
        let id = unique_name();
        let container = Container::prepare(&plan, &id);
        let mut command = plan.command(self.root.path());
        command.args(["run", "--bundle"]).arg(container.rootfs.folder()).arg(&id);
        let log = File::create(container.rootfs.folder().join("log")).expect("make runsc's log");
        let dialog = Dialog::start(command.stderr(log));
        self.others.push(Container { dialog: Some(dialog), ..container });
        let number = self.others.len();
        assert_eq!(self.line_of(number), "ready");
        number
    }

    /// Ends one `wait` inside a further container.
    pub fn let_go(&mut self, number: usize) {
        self.others[number - 1].dialog.as_mut().expect("a container that was started").go();
    }

    /// The next line said inside a further container.
    pub fn line_of(&self, number: usize) -> String {
        self.others[number - 1].dialog().line()
    }

    /// Saves it into a folder and ends it.
    pub fn checkpoint(&mut self, image: &Path) {
        succeed(self.plan.command(self.root.path()).arg("checkpoint").arg("--image-path").arg(image).arg(self.id()));
        self.wait();
    }

    /// Brings back what [`Self::checkpoint`] saved, as a new sandbox.
    pub fn restore(plan: Plan, image: &Path) -> Self {
        let id = unique_name();
        let root = tempfile::tempdir().expect("make a root for runsc");
        let first = Container::prepare(&plan, &id);
        let mut command = plan.command(root.path());
        command.args(["restore", "--image-path"]).arg(image).arg("--bundle").arg(first.rootfs.folder());
        let log = File::create(first.rootfs.folder().join("log")).expect("make runsc's log");
        let dialog = Dialog::start(command.arg(&id).stderr(log));
        Self { plan, root, first: Container { dialog: Some(dialog), ..first }, others: Vec::new() }
    }

    /// Lets the sentry run no further, until [`Self::resume`].
    pub fn pause(&self) {
        signal(&pidfd(self.sentry()), Signal::STOP);
        let stat = format!("/proc/{}/stat", self.sentry());
        wait_for("the sentry to stand still", Duration::from_secs(5), || {
            fs::read_to_string(&stat).expect("the sentry's state").contains(") T ").then_some(())
        });
    }

    /// Lets the sentry run again.
    pub fn resume(&self) {
        signal(&pidfd(self.sentry()), Signal::CONT);
    }

    /// Whether an event is about this sandbox.
    pub fn concerns(&self, event: &Event) -> bool {
        event.text("/workload/sandbox_id") == Some(self.id())
    }

    /// Waits for an event of this kind about this sandbox. Its names are checked.
    pub fn wait_for(&self, agent: &Agent, kind: &str) -> Event {
        let event =
            agent.wait_for(&format!("{kind} of {}", self.id()), |event| event.kind() == kind && self.concerns(event));
        assert_eq!(event.text("/workload/runtime"), Some("runsc"), "{event}");
        assert_eq!(event.text("/workload/container_id"), Some(self.id()), "{event}");
        event
    }

    /// `VmRSS` over the tree of the sentry, bytes: what the original system took for a sandbox' memory.
    pub fn rss_sum(&self) -> u64 {
        let mut tree = vec![self.sentry()];
        let mut at = 0;
        while let Some(pid) = tree.get(at).copied() {
            at += 1;
            for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
                tree.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            }
        }
        let rss = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
        };
        tree.iter().filter_map(rss).sum::<u64>() << 10
    }
}

impl Drop for Sandbox {
    #[expect(clippy::print_stderr, reason = "the harness shows it with the failure")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.first.rootfs.folder().join("log")).unwrap_or_default();
            eprintln!("--- log of runsc {}:\n{log}", self.plan.runsc.version);
        }
        // By hand: `runsc delete --force` waits 5 s for a sentry that its parent, `runsc run`, does not reap.
        for container in self.others.iter_mut().chain([&mut self.first]) {
            container.dialog = None;
        }
        end_processes_that_name(self.root.path());
        for container in self.others.iter().chain([&self.first]) {
            remove_cgroups(&container.id);
        }
    }
}

fn number(value: &Value) -> u32 {
    value.as_u64().and_then(|number| u32::try_from(number).ok()).unwrap_or_else(|| panic!("no process id: {value}"))
}

fn pidfd(pid: u32) -> OwnedFd {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    pidfd_open(pid, PidfdFlags::empty()).unwrap_or_else(|error| panic!("open process {pid:?}: {error}"))
}

fn signal(process: &OwnedFd, signal: Signal) {
    pidfd_send_signal(process, signal).expect("send a sandbox a signal");
}

/// Ends processes with this folder in their arguments: sentries, gofers and shims that have their files there.
pub(crate) fn end_processes_that_name(folder: &Path) {
    let folder = folder.as_os_str().as_encoded_bytes();
    let names = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.file_name());
    for pid in names.filter_map(|name| Pid::from_raw(name.to_str()?.parse().ok()?)) {
        // Opened before it is looked at, so that it cannot be a later process of the same id.
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        let arguments = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        if arguments.windows(folder.len()).any(|part| part == folder) {
            // An error says that it ended before.
            let _ended: Result<(), _> = pidfd_send_signal(&process, Signal::KILL);
        }
    }
}

/// Removes what a sandbox that was killed leaves of its cgroups, in all hierarchies.
fn remove_cgroups(name: &str) {
    for folder in hierarchies().iter().map(|root| root.join(name)) {
        // The last process may be on its way out.
        for _ in 0..500 {
            if !folder.is_dir() || fs::remove_dir(&folder).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(!folder.is_dir() || std::thread::panicking(), "{} is left behind", folder.display());
    }
}
