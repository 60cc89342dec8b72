//! Workloads that cost a host little and an agent as much as real ones: a process that looks like a sentry of gVisor's
//! (its arguments, threads, children, memory file and state file), and cgroups with one process that sleeps.

use std::{
    env, fs,
    io::{self, BufRead as _, Read as _, Write as _},
    os::unix::{fs::symlink, process::CommandExt as _},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    thread,
};

use anyhow::{Context as _, ensure};
use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    cgroup::{Cgroup, Hierarchy},
    interrupt::Interrupt,
    process::say,
};

/// What runsc calls its sentries.
const SENTRY: &str = "runsc-sandbox";
/// Threads of a sentry (Go's runtime and the sandbox' tasks).
const THREADS: usize = 8;
/// Memory of each, bytes: little, for there are many.
const MEMORY_BYTES: usize = 1 << 20;
/// Limit of each: a usual one. The nearer a sandbox is to its limit, the more often it is measured.
pub(super) const LIMIT_BYTES: u64 = 1 << 30;

/// Whether this process was started as one.
pub(crate) fn is_sentry() -> bool {
    env::args_os().next().is_some_and(|name| name == SENTRY)
}

/// Is one until its standard input ends, whose first line has the number of its stubs.
pub(crate) fn be_sentry() -> anyhow::Result<()> {
    let mut input = io::stdin().lock();
    let mut stubs = String::new();
    input.read_line(&mut stubs).context("wait for the number of stubs")?;
    let stubs: usize = stubs.trim().parse().context("the number of stubs")?;
    let memory = memfd_create("runsc-memory", MemfdFlags::CLOEXEC).context("make a memory file")?;
    let mut memory = fs::File::from(memory);
    memory.write_all(&vec![1; MEMORY_BYTES]).context("fill the memory file")?;
    for _ in 1..THREADS {
        thread::spawn(|| {
            loop {
                thread::park();
            }
        });
    }
    let stubs = (0..stubs).map(|_| sleeper(None)).collect::<anyhow::Result<Vec<_>>>()?;
    io::stdout().write_all(b"\n").and_then(|()| io::stdout().flush()).context("say that it runs")?;
    let _end = input.read_to_end(&mut Vec::new()).context("wait for the end")?;
    drop(stubs);
    Ok(())
}

/// Both halves of a host full of workloads. Ended and removed on drop.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) sandboxes: Vec<Workload>,
    pub(super) containers: Vec<Workload>,
    /// Children of each sentry.
    pub(super) stubs: usize,
    /// Program and state files of the sandboxes.
    folder: TempDir,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Workload {
    /// Before the cgroup: it must be empty to be removed.
    pub(super) process: Process,
    pub(super) cgroup: Cgroup,
}

impl Host {
    /// None of them yet; each sandbox will have so many stubs.
    pub(super) fn new(stubs: usize) -> anyhow::Result<Self> {
        // runsc executes itself as `/proc/self/exe`, so its sentries have that name.
        let folder = tempfile::tempdir().context("make a folder")?;
        let program = folder.path().join("exe");
        symlink(env::current_exe().context("find this program")?, &program).context("link this program")?;
        Ok(Self { sandboxes: Vec::new(), containers: Vec::new(), stubs, folder })
    }

    /// Starts what is missing to so many of each half.
    pub(super) fn fill(&mut self, hierarchy: &Hierarchy, each: usize, interrupt: &Interrupt) -> anyhow::Result<()> {
        let program = self.folder.path().join("exe");
        while self.sandboxes.len() < each {
            self.containers.push(Workload::container(hierarchy)?);
            self.sandboxes.push(Workload::sandbox(hierarchy, &program, self.stubs)?);
            interrupt.check()?;
        }
        Ok(())
    }
}

impl Workload {
    fn container(hierarchy: &Hierarchy) -> anyhow::Result<Self> {
        let cgroup = Cgroup::scratch(hierarchy, LIMIT_BYTES)?;
        Ok(Self { process: sleeper(Some(&cgroup))?, cgroup })
    }

    fn sandbox(hierarchy: &Hierarchy, program: &Path, stubs: usize) -> anyhow::Result<Self> {
        let cgroup = Cgroup::scratch(hierarchy, LIMIT_BYTES)?;
        let bundle = program.with_file_name(cgroup.name());
        let root = program.with_file_name("root");
        fs::create_dir_all(&root).context("make a root for runsc")?;
        // A shell moves itself into the cgroup, so that memory is charged there from the first page on.
        let mut command = Command::new("bash");
        command
            .args([
                "-c",
                r#"echo $$ > "$1/cgroup.procs" && exec -a runsc-sandbox "$2" --root="$3" boot --bundle="$4" "$5""#,
                "sh",
            ])
            .arg(cgroup.folder())
            .arg(program)
            .arg(&root)
            .arg(&bundle)
            .arg(cgroup.name());
        // Ctrl-C is for the bench, which ends them one by one.
        let mut process = Process::start(command.process_group(0))?;
        writeln!(process.1.as_mut().context("its input")?, "{stubs}").context("tell a sentry its stubs")?;
        let mut said = [0];
        process.0.stdout.as_mut().context("its output")?.read_exact(&mut said).context("wait for a sentry")?;
        ensure!(said == *b"\n", "a sentry said something else");
        let state = root.join(format!("{0}_sandbox:{0}.state", cgroup.name()));
        fs::write(state, state_of(cgroup.name(), process.pid(), hierarchy)?).context("write a state file")?;
        Ok(Self { process, cgroup })
    }
}

/// What runsc's state file would say of a sandbox: a real one of runsc 20240729, with another name.
fn state_of(name: &str, pid: u32, hierarchy: &Hierarchy) -> anyhow::Result<String> {
    const REAL: (&str, &str) = ("det24", include_str!("../../../tests/fixtures/gvisor/20240729-detached.state.json"));
    let mut state: Value =
        serde_json::from_str(&REAL.1.replace(REAL.0, name)).context("the state file of a sandbox")?;
    let path = format!("/{name}");
    state["goferPid"] = Value::Null;
    state["spec"]["linux"]["resources"]["memory"]["limit"] = LIMIT_BYTES.into();
    state["sandbox"]["pid"] = pid.into();
    state["sandbox"]["cgroup"] = match hierarchy.version {
        1 => json!({"cgroupv1": {"name": path, "own": {"memory": true}}}),
        _ => json!({"cgroupv2": {"path": path, "own": [path]}}),
    };
    Ok(state.to_string())
}

/// A process that does nothing.
fn sleeper(cgroup: Option<&Cgroup>) -> anyhow::Result<Process> {
    let mut command = Command::new("sh");
    match cgroup {
        Some(cgroup) => {
            command.args(["-c", r#"echo $$ > "$1/cgroup.procs" && exec sleep infinity"#, "sh"]).arg(cgroup.folder())
        }
        None => command.args(["-c", "exec sleep infinity"]),
    };
    Process::start(command.process_group(0))
}

/// A process, ended on drop.
#[derive(Debug)]
pub(super) struct Process(Child, Option<ChildStdin>);

impl Process {
    fn start(command: &mut Command) -> anyhow::Result<Self> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().with_context(|| format!("run {command:?}"))?;
        let input = child.stdin.take();
        Ok(Self(child, input))
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A sentry ends its children and then itself; all others are killed.
        let is_sentry = fs::read(Path::new("/proc").join(self.pid().to_string()).join("cmdline"))
            .is_ok_and(|line| line.starts_with(SENTRY.as_bytes()));
        drop(self.1.take());
        let killed = if is_sentry { Ok(()) } else { self.0.kill() };
        if let Err(error) = killed.and_then(|()| self.0.wait().map(drop)) {
            say(&format!("cannot end process {}: {error}", self.pid()));
        }
    }
}
