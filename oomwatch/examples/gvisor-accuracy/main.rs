//! How true the estimators are: real gVisor sandboxes with known workloads, each measured by every estimator and held
//! against what its memory cgroup is charged with and cannot give back.
//!
//! `gvisor-accuracy [--runsc DIR] [--only TEXT]` prints a table and fails where an estimator that claims to be right is
//! off by more than 3 % and more than 10 MB. DIR holds `<version>/runsc`. Needs root, cgroups with a memory controller
//! and a static build of itself: it is also the workload (`gvisor-accuracy inside NAME`).

#![expect(clippy::disallowed_methods, reason = "a measurement, not the agent: it reads files and clocks itself")]

use std::{
    env, fs,
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

mod inside;
#[expect(dead_code, reason = "names of estimators are for events")]
#[path = "../../src/sources/gvisor/memory/mod.rs"]
mod memory;

use memory::{Choice, Estimator, Meter, MeterError, ProcessKey};
use oomwatch::host::{self, HostError, HostRoot, charge::CgroupFiles};
use serde_json::{Value, json};

/// Versions and platforms looked at; one whose program is not there is named and fails the run.
const SANDBOXES: [(&str, &str); 3] = [("20221219", "ptrace"), ("20240729", "ptrace"), ("20240729", "systrap")];
const MB: f64 = 1e6;
/// The larger of these is allowed.
const ALLOWED_BYTES: f64 = 10.0 * MB;
const ALLOWED_SHARE: f64 = 0.03;
/// What is done in a sandbox, with the amount: MiB, or children, threads, files.
const WORKLOADS: [(&str, usize); 16] = [
    ("idle", 0),
    ("brk", 200),
    ("map", 200),
    ("readers", 200),
    ("cow", 50),
    ("children", 100),
    ("read-file", 300),
    ("map-file", 300),
    ("tmpfs", 200),
    ("overlay", 200),
    ("overlay-on-tmpfs", 200),
    ("threads", 100),
    ("small-files", 3000),
    ("freed", 200),
    ("big", 1500),
    ("big-readers", 600),
];

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["inside", name, amount] => inside::run(name, amount.parse().unwrap_or_default()).map(|()| true),
        options => measure_all(options),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            drop(writeln!(io::stderr(), "gvisor-accuracy: {error}"));
            ExitCode::from(2)
        }
    }
}

fn option<'a>(options: &[&'a str], name: &str) -> Option<&'a str> {
    let mut pairs = options.windows(2);
    pairs.find_map(|pair| if let [key, value] = pair { (*key == name).then_some(*value) } else { None })
}

/// True where every estimator that claims to be right was.
fn measure_all(options: &[&str]) -> Outcome<bool> {
    let home = env::var("HOME").unwrap_or_default();
    let programs = option(options, "--runsc").map_or(PathBuf::from(home).join(".cache/oomwatch/runsc"), PathBuf::from);
    let only = option(options, "--only").unwrap_or_default();
    let mut out = io::stdout().lock();
    writeln!(out, "{}", Row::HEAD)?;
    let (mut rows, mut is_right) = (0, true);
    for (version, platform) in SANDBOXES {
        for (workload, amount) in WORKLOADS {
            if !format!("{version}/{platform}/{workload}").contains(only) {
                continue;
            }
            let setup = Setup { program: programs.join(version).join("runsc"), version, platform, workload, amount };
            let row = measure(&setup).map_err(|error| format!("{version} {platform} {workload}: {error}"))?;
            is_right &= row.is_right();
            rows += 1;
            writeln!(out, "{row}")?;
        }
    }
    if rows == 0 {
        return Err(format!("nothing is called {only}").into());
    }
    Ok(is_right)
}

/// One sandbox to be.
struct Setup {
    program: PathBuf,
    version: &'static str,
    platform: &'static str,
    workload: &'static str,
    amount: usize,
}

/// One line of the table; bytes and microseconds.
struct Row {
    version: &'static str,
    platform: &'static str,
    workload: &'static str,
    processes: usize,
    truth: f64,
    cgroup: f64,
    memfd: f64,
    stopped: f64,
    rss_sum: f64,
    cgroup_us: f64,
    memfd_us: f64,
    survey_us: f64,
    rss_sum_us: f64,
}

impl Row {
    const HEAD: &'static str = "| runsc | platform | workload | processes | truth MB | cgroup | memfd | off MB | off % | stopped off MB | rss-sum MB | rss-sum x | us: cgroup | memfd | survey | rss-sum | |\n|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|";

    fn is_right(&self) -> bool {
        let allowed = ALLOWED_BYTES.max(self.truth * ALLOWED_SHARE);
        [self.cgroup, self.memfd, self.stopped].iter().all(|estimate| (estimate - self.truth).abs() <= allowed)
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let off = self.memfd - self.truth;
        write!(f, "| {} | {} | {} | {} ", self.version, self.platform, self.workload, self.processes)?;
        write!(f, "| {:.1} | {:.1} | {:.1} ", self.truth / MB, self.cgroup / MB, self.memfd / MB)?;
        write!(f, "| {:+.1} | {:+.1} | {:+.1} ", off / MB, off / self.truth * 100.0, (self.stopped - self.truth) / MB)?;
        write!(f, "| {:.0} | {:.2} ", self.rss_sum / MB, self.rss_sum / self.truth)?;
        write!(f, "| {:.0} | {:.0} ", self.cgroup_us, self.memfd_us)?;
        write!(f, "| {:.0} | {:.0} ", self.survey_us, self.rss_sum_us)?;
        write!(f, "| {} |", if self.is_right() { "right" } else { "WRONG" })
    }
}

fn measure(setup: &Setup) -> Outcome<Row> {
    let sandbox = Sandbox::start(setup)?;
    // Goroutines that ended their work a moment ago still free memory.
    thread::sleep(Duration::from_millis(500));
    let key = sandbox.sentry()?;
    let cgroup = sandbox.cgroup(key.pid)?;
    let root = HostRoot::default();
    let before = truth(&cgroup)?;
    let mut by_files = Meter::new(Choice::Only(Estimator::Memfd), key, None);
    let gofers = sandbox.gofers()?;
    by_files.set_gofers(gofers.clone());
    let memfd = usage(&mut by_files, &root)?;
    let mut by_cgroup = Meter::new(Choice::Auto, key, Some(CgroupFiles::new(&cgroup.folder, cgroup.version)));
    let charge = usage(&mut by_cgroup, &root)?;
    let after = truth(&cgroup)?;
    let mut by_rss = Meter::new(Choice::Only(Estimator::RssSum), key, None);
    let rss_sum = usage(&mut by_rss, &root)?;
    let stopped = Sandbox::stopped(key, || {
        let mut meter = Meter::new(Choice::Only(Estimator::Memfd), key, None);
        meter.set_gofers(gofers.clone());
        usage(&mut meter, &root)
    })?;
    let row = Row {
        version: setup.version,
        platform: setup.platform,
        workload: setup.workload,
        processes: cgroup.processes()?,
        truth: f64::midpoint(before, after),
        cgroup: charge,
        memfd,
        stopped,
        rss_sum,
        cgroup_us: microseconds(200, || usage(&mut by_cgroup, &root))?,
        memfd_us: microseconds(200, || usage(&mut by_files, &root))?,
        survey_us: microseconds(5, || {
            by_files.set_gofers(Vec::new());
            by_files.set_gofers(gofers.clone());
            usage(&mut by_files, &root)
        })?,
        rss_sum_us: microseconds(5, || usage(&mut by_rss, &root))?,
    };
    sandbox.end()?;
    match by_files.read(&root, 0, None) {
        Err(MeterError::Host(HostError::Gone { .. })) => Ok(row),
        other => Err(format!("a dead sandbox was measured: {other:?}").into()),
    }
}

/// Time is not what is measured here: the same for all readings, so that a meter surveys its sandbox once only.
fn usage(meter: &mut Meter, root: &HostRoot) -> Outcome<f64> {
    #[expect(clippy::cast_precision_loss, reason = "printed in MB")]
    Ok(meter.read(root, 0, None)?.usage_bytes as f64)
}

fn microseconds(times: u32, mut action: impl FnMut() -> Outcome<f64>) -> Outcome<f64> {
    let start = Instant::now();
    for _ in 0..times {
        action()?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / f64::from(times))
}

/// A memory cgroup, read by hand.
struct Cgroup {
    folder: PathBuf,
    version: u8,
}

impl Cgroup {
    fn processes(&self) -> Outcome<usize> {
        Ok(fs::read_to_string(self.folder.join("cgroup.procs"))?.lines().count())
    }
}

/// What the cgroup is charged with and cannot give back, bytes.
fn truth(cgroup: &Cgroup) -> Outcome<f64> {
    let (file, keys): (&str, &[&str]) = if cgroup.version == 1 {
        ("memory.usage_in_bytes", &["total_active_file", "total_inactive_file"])
    } else {
        ("memory.current", &["active_file", "inactive_file", "slab_reclaimable"])
    };
    let usage: f64 = fs::read_to_string(cgroup.folder.join(file))?.trim().parse()?;
    let stat = fs::read_to_string(cgroup.folder.join("memory.stat"))?;
    let mut reclaimable = 0.0;
    for line in stat.lines() {
        if let Some((key, value)) = line.split_once(' ')
            && keys.contains(&key)
        {
            reclaimable += value.parse::<f64>()?;
        }
    }
    Ok(usage - reclaimable)
}

/// A running sandbox; ended and removed on drop.
struct Sandbox<'a> {
    setup: &'a Setup,
    id: String,
    /// Bundle, root file system, state.
    folder: PathBuf,
    child: Child,
}

impl<'a> Sandbox<'a> {
    /// Starts one and waits until its workload is done.
    fn start(setup: &'a Setup) -> Outcome<Self> {
        let id = format!("oomwatch-accuracy-{}", std::process::id());
        let parent =
            if setup.workload == "overlay-on-tmpfs" { Path::new("/dev/shm").to_owned() } else { env::temp_dir() };
        let folder = parent.join(&id);
        for name in ["rootfs/proc", "rootfs/dev", "rootfs/mnt", "rootfs/data", "rootfs/tmp", "data", "state"] {
            fs::create_dir_all(folder.join(name))?;
        }
        fs::copy(env::current_exe()?, folder.join("rootfs/program"))?;
        if ["read-file", "map-file"].contains(&setup.workload) {
            fs::File::create(folder.join("data/file"))?.set_len((setup.amount << 20).try_into()?)?;
        }
        fs::write(folder.join("config.json"), configuration(setup, &id, &folder).to_string())?;
        let log = fs::File::create(folder.join("log"))?;
        let mut command = runsc(setup, &folder);
        command.args(["run", "--bundle"]).arg(&folder).arg(&id);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn()?;
        let mut sandbox = Self { setup, id, folder, child };
        let mut line = String::new();
        if let Some(output) = sandbox.child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        if line == "done\n" { Ok(sandbox) } else { Err(fs::read_to_string(sandbox.folder.join("log"))?.into()) }
    }

    fn state(&self) -> Outcome<Value> {
        let name = format!("{0}_sandbox:{0}.state", self.id);
        Ok(serde_json::from_slice(&fs::read(self.folder.join("state").join(name))?)?)
    }

    fn sentry(&self) -> Outcome<ProcessKey> {
        key(&self.state()?["sandbox"]["pid"])
    }

    fn gofers(&self) -> Outcome<Vec<ProcessKey>> {
        Ok(vec![key(&self.state()?["goferPid"])?])
    }

    fn cgroup(&self, sentry: u32) -> Outcome<Cgroup> {
        let text = fs::read_to_string(format!("/proc/{sentry}/cgroup"))?;
        let line = |controller: &str| {
            text.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                controllers.split(',').any(|name| name == controller).then(|| path.trim_start_matches('/').to_owned())
            })
        };
        let (folder, version) = match line("memory") {
            Some(path) => (Path::new("/sys/fs/cgroup/memory").join(path), 1),
            None => (Path::new("/sys/fs/cgroup").join(line("").ok_or("no cgroup")?), 2),
        };
        if folder.ends_with(&self.id) { Ok(Cgroup { folder, version }) } else { Err("no cgroup of its own".into()) }
    }

    /// Does something while a sandbox is stopped.
    fn stopped(sentry: ProcessKey, action: impl FnOnce() -> Outcome<f64>) -> Outcome<f64> {
        let signal = |name: &str| Command::new("kill").args([name, &sentry.pid.to_string()]).status();
        signal("-STOP")?;
        let outcome = action();
        signal("-CONT")?;
        outcome
    }

    fn end(mut self) -> Outcome<()> {
        self.kill();
        self.child.wait()?;
        Ok(())
    }

    fn kill(&self) {
        let command = |arguments: [&str; 3]| {
            let mut command = runsc(self.setup, &self.folder);
            let arguments = arguments.into_iter().filter(|argument| !argument.is_empty());
            drop(command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status());
        };
        command(["kill", &self.id, "KILL"]);
        command(["delete", "--force", &self.id]);
    }
}

impl Drop for Sandbox<'_> {
    fn drop(&mut self) {
        self.kill();
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_dir_all(&self.folder));
    }
}

fn runsc(setup: &Setup, folder: &Path) -> Command {
    let mut command = Command::new(&setup.program);
    command.arg("--root").arg(folder.join("state"));
    command.args(["--network=none", &format!("--platform={}", setup.platform)]);
    let is_overlay = ["overlay", "overlay-on-tmpfs", "small-files"].contains(&setup.workload);
    if is_overlay && setup.version == "20221219" {
        command.arg("--overlay=true");
    }
    command
}

fn configuration(setup: &Setup, id: &str, folder: &Path) -> Value {
    let namespaces: Vec<Value> =
        ["pid", "mount", "ipc", "uts", "network"].iter().map(|kind| json!({ "type": kind })).collect();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 }, "cwd": "/", "env": ["PATH=/"],
            "args": ["/program", "inside", setup.workload, setup.amount.to_string()],
        },
        "root": { "path": "rootfs", "readonly": false },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/mnt", "type": "tmpfs", "source": "tmpfs" },
            { "destination": "/data", "type": "bind", "source": folder.join("data"), "options": ["rbind", "ro"] },
        ],
        "linux": {
            "cgroupsPath": format!("/{id}"), "namespaces": namespaces,
            "resources": { "memory": { "limit": 8_u64 << 30 } },
        },
    })
}

fn key(pid: &Value) -> Outcome<ProcessKey> {
    let pid = u32::try_from(pid.as_u64().ok_or("no pid in the state file")?)?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = stat.rsplit_once(')').and_then(|(_name, fields)| fields.split_whitespace().nth(19));
    Ok(ProcessKey { pid, start_ticks: ticks.ok_or("no start time")?.parse()? })
}
