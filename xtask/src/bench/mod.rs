//! `cargo xtask bench`: measures the release build of the agent on this host, beside a loop that polls as the original
//! system does, and prints a table in Markdown.

mod many;
mod original;
mod plot;
mod poll;
mod report;
pub(crate) mod synthetic;
mod usage;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use xshell::Shell;

use self::{
    poll::{Noticed, Poller},
    report::{Report, Samples},
    usage::{Cpu, Resident},
};
use crate::{
    agent::{Agent, Output},
    cgroup::{Cgroup, Hierarchy},
    compile,
    interrupt::Interrupt,
    process::{self, say},
    runsc,
    setup::{self, Part},
};

/// Cgroups that kills are spread over.
const CGROUPS: usize = 16;
/// Small, so that a kill is soon there.
const LIMIT_BYTES: u64 = 8 << 20;
/// After its start the agent looks at each cgroup four times, the last time after 6.2 s.
const SETTLE: Duration = Duration::from_secs(7);
const EVENT_TIMEOUT: Duration = Duration::from_secs(10);

/// How much is measured.
struct Plan {
    starts: usize,
    idle: Duration,
    kills: usize,
}

/// Some two minutes.
const FULL: Plan = Plan { starts: 10, idle: Duration::from_mins(1), kills: 500 };
/// Some half a minute.
const QUICK: Plan = Plan { starts: 10, idle: Duration::from_secs(10), kills: 200 };

/// How true the memory of gVisor sandboxes is measured: a table of workloads, of which `only` names some.
pub(crate) fn gvisor(sh: &Shell, only: Option<&str>) -> anyhow::Result<()> {
    setup::setup(sh, Part::Demo)?;
    let program = compile::absolute(&compile::gvisor_accuracy(sh)?)?;
    let only = only.map(|text| ["--only", text]);
    process::run(process::as_root(&program)?.arg("--runsc").arg(runsc::folder()).args(only.into_iter().flatten()))
}

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// Latency and cost on a quiet host.
    Few {
        /// Less time idle, fewer kills.
        quick: bool,
    },
    /// The cost of a thousand workloads.
    Many,
}

/// Measures the agent `ready`, or one built now.
pub(crate) fn bench(sh: &Shell, what: What, ready: Option<PathBuf>) -> anyhow::Result<()> {
    let agent = match ready {
        Some(agent) => agent,
        None => compile::agent(sh)?,
    };
    let interrupt = Interrupt::watch()?;
    if process::is_root()? {
        let table = match what {
            What::Few { quick } => measure(&agent, if quick { &QUICK } else { &FULL }, &interrupt)?.markdown(),
            What::Many => many::measure(&agent, &interrupt)?,
        };
        return process::print(table.trim_end());
    }
    let agent = compile::absolute(&agent)?;
    let what = match what {
        What::Few { quick: false } => None,
        What::Few { quick: true } => Some("--quick"),
        What::Many => Some("--many"),
    };
    process::run(process::as_root(&env::current_exe()?)?.arg("bench").args(what).arg("--agent").arg(agent))
}

fn measure(binary: &Path, plan: &Plan, interrupt: &Interrupt) -> anyhow::Result<Report> {
    let hierarchy = Hierarchy::find()?;
    say(&format!("bench: starting the agent {} times", plan.starts));
    let starts = (0..plan.starts).map(|_| start_to_armed(binary, interrupt)).collect::<Result<Samples, _>>()?;

    let cgroups = (0..CGROUPS).map(|_| Cgroup::scratch(&hierarchy, LIMIT_BYTES)).collect::<Result<Vec<_>, _>>()?;
    let mut agent = Agent::start(binary, Output::Json)?;
    let started: Started = parse(&agent.event(interrupt, "its start", EVENT_TIMEOUT)?.text)?;
    let baseline = Poller::start(&cgroups)?;
    interrupt.sleep(SETTLE)?;
    let armed = Resident::of_process(agent.pid())?;
    drop(agent.events_so_far());
    let started_before = usage::processes_started()?;
    let (idle_agent, idle_poller) = idle(&agent, &baseline, plan.idle, interrupt)?;
    let idle_processes = usage::processes_started()?.saturating_sub(started_before);
    let idle_events = agent.events_so_far().len();

    say(&format!("bench: {} kills", plan.kills));
    let before = Cpu::of_process(agent.pid())?;
    let kills = kill(&cgroups, plan.kills, &mut agent, interrupt)?;
    let busy_agent = Cpu::of_process(agent.pid())?.since(before);
    let after = Resident::of_process(agent.pid())?;
    // The poller has to look once more.
    interrupt.sleep(poll::EVERY * 2)?;
    let polled = polled(&kills, &baseline.stop()?);
    agent.ask_to_end()?;
    agent.wait(interrupt)?;
    Ok(Report {
        machine: machine(&hierarchy)?,
        agent: format!("oomwatch {}, tier {}", started.version, started.tier),
        binary_bytes: fs::metadata(binary).with_context(|| format!("stat {}", binary.display()))?.len(),
        starts,
        within: kills.iter().map(|kill| Duration::from_secs_f64(kill.event.latency_seconds.max(0.0))).collect(),
        lines: kills.iter().map(|kill| kill.read_at.duration_since(kill.at).unwrap_or_default()).collect(),
        polled,
        kills: plan.kills,
        cgroups: cgroups.len(),
        idle: plan.idle,
        idle_events,
        idle_processes,
        idle_agent,
        idle_poller,
        busy_agent,
        armed,
        after,
        interval: poll::EVERY,
        counter_file: hierarchy.counter_file(),
    })
}

/// CPU that agent and poller use while nothing happens.
fn idle(agent: &Agent, baseline: &Poller, time: Duration, interrupt: &Interrupt) -> anyhow::Result<(Cpu, Cpu)> {
    say(&format!("bench: {} s without a kill", time.as_secs()));
    let (of_agent, of_poller) = (Cpu::of_process(agent.pid())?, baseline.cpu()?);
    interrupt.sleep(time)?;
    Ok((Cpu::of_process(agent.pid())?.since(of_agent), baseline.cpu()?.since(of_poller)))
}

/// From the start of the process to its first event, which says that it watches.
fn start_to_armed(binary: &Path, interrupt: &Interrupt) -> anyhow::Result<Duration> {
    let (start, wall) = (Instant::now(), SystemTime::now());
    let mut agent = Agent::start(binary, Output::Json)?;
    let line = agent.event(interrupt, "its start", EVENT_TIMEOUT)?;
    // The reading thread knows the moment better than this one, which looks now and then.
    let armed = line.read_at.duration_since(wall).unwrap_or_else(|_clock_was_set| start.elapsed());
    parse::<Started>(&line.text)?;
    agent.ask_to_end()?;
    agent.wait(interrupt)?;
    Ok(armed)
}

/// A kill that the agent reported.
#[derive(Debug)]
struct Kill {
    /// By the kernel's stamp.
    at: SystemTime,
    read_at: SystemTime,
    cgroup: String,
    event: KillEvent,
}

/// Kills one process after another, in the cgroups by turns, and gathers what the agent says of them.
fn kill(cgroups: &[Cgroup], count: usize, agent: &mut Agent, interrupt: &Interrupt) -> anyhow::Result<Vec<Kill>> {
    for cgroup in cgroups.iter().cycle().take(count) {
        interrupt.check()?;
        cgroup.eater()?.wait_for_kill()?;
    }
    let mut kills = Vec::new();
    while kills.len() < count {
        let what = format!("the report of all kills ({} of {count} so far)", kills.len());
        let line = agent.event(interrupt, &what, EVENT_TIMEOUT)?;
        let event: AnyEvent = parse(&line.text)?;
        if event.event != "oom_kill" {
            continue;
        }
        let event: KillEvent = parse(&line.text)?;
        let path = event.workload.as_ref().and_then(|it| it.cgroup_path.as_deref()).unwrap_or_default();
        // Other kills of this host are not ours.
        if let Some(cgroup) = cgroups.iter().find(|it| path.rsplit('/').next() == Some(it.name())) {
            let at = humantime::parse_rfc3339(&event.timestamp).context("read an event's time")?;
            kills.push(Kill { at, read_at: line.read_at, cgroup: cgroup.name().to_owned(), event });
        }
    }
    Ok(kills)
}

/// How late the poller noticed; it knows only how many there were, so the n-th of a cgroup is the n-th.
fn polled(kills: &[Kill], noticed: &Noticed) -> Samples {
    let mut by_cgroup: BTreeMap<&str, Vec<SystemTime>> = BTreeMap::new();
    for kill in kills {
        by_cgroup.entry(&kill.cgroup).or_default().push(kill.at);
    }
    let late = |(cgroup, mut kills): (&str, Vec<SystemTime>)| {
        kills.sort_unstable();
        let noticed = noticed.get(cgroup).cloned().unwrap_or_default();
        kills.into_iter().zip(noticed).map(|(at, seen)| seen.duration_since(at).unwrap_or_default()).collect::<Vec<_>>()
    };
    by_cgroup.into_iter().flat_map(late).collect()
}

#[derive(Debug, Deserialize)]
struct AnyEvent {
    event: String,
}

#[derive(Debug, Deserialize)]
struct Started {
    version: String,
    tier: String,
}

#[derive(Debug, Deserialize)]
struct KillEvent {
    timestamp: String,
    latency_seconds: f64,
    workload: Option<Workload>,
}

#[derive(Debug, Deserialize)]
struct Workload {
    cgroup_path: Option<String>,
}

fn parse<'a, T: Deserialize<'a>>(line: &'a str) -> anyhow::Result<T> {
    serde_json::from_str(line).with_context(|| format!("read the event {line}"))
}

/// Kernel, processors, cgroups of this host.
fn machine(hierarchy: &Hierarchy) -> anyhow::Result<String> {
    let read = |file: &str| fs::read_to_string(file).with_context(|| format!("read {file}"));
    let kernel = read("/proc/sys/kernel/osrelease")?;
    let cpuinfo = read("/proc/cpuinfo")?;
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("processors", |(_, model)| model);
    let processors = thread::available_parallelism().context("count the processors")?;
    let version = hierarchy.version;
    ensure!(!kernel.trim().is_empty(), "the kernel has no release");
    Ok(format!("Linux {}, {processors} x {model}, cgroup v{version}", kernel.trim()))
}
