//! `cargo xtask bench --many`: a thousand workloads on this host, half of them sandboxes; what watching them costs the
//! agent, and what it costs the original's method at the same time. Then as many whose sandboxes have more processes.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use anyhow::ensure;
use serde::Deserialize;

use super::{
    AnyEvent, EVENT_TIMEOUT, Kill, Started, kill, machine,
    original::{Original, Rounds},
    parse,
    plot::{self, Point},
    poll::{self, Poller},
    polled,
    report::{Samples, mib, shown},
    synthetic::{Host, Workload},
    usage::{Cpu, Resident},
};
use crate::{
    agent::{Agent, Output},
    cgroup::{Cgroup, Hierarchy},
    interrupt::Interrupt,
    process::say,
    root,
};

/// Workloads of each half, one step after the other.
const STEPS: [usize; 4] = [50, 125, 250, 500];
/// Stubs of each sandbox; with many, a host of Linux' usual 32,768 process ids is three quarters full.
const STUBS: usize = 3;
const MANY_STUBS: usize = 40;
/// From the start of the last workload until nothing is new any more.
const SETTLE: Duration = Duration::from_secs(15);
/// All sandboxes are found within this time.
const FIND_TIMEOUT: Duration = Duration::from_mins(1);
const IDLE: Duration = Duration::from_secs(30);
/// Made with all of the workloads there.
const KILLS: usize = 200;

/// Measures, writes table and plot into the docs, and gives the table.
pub(super) fn measure(binary: &Path, interrupt: &Interrupt) -> anyhow::Result<String> {
    let hierarchy = Hierarchy::find()?;
    let scratch = (0..8).map(|_| Cgroup::scratch(&hierarchy, super::LIMIT_BYTES)).collect::<Result<Vec<_>, _>>()?;
    let mut agent = Agent::start_with(binary, Output::Json, &["--workload-events"])?;
    let started: Started = parse(&agent.event(interrupt, "its start", EVENT_TIMEOUT)?.text)?;
    let mut host = Host::new(STUBS)?;
    let steps = STEPS
        .iter()
        .map(|each| step(*each, &hierarchy, &mut host, &mut agent, interrupt))
        .collect::<anyhow::Result<Vec<Step>>>()?;

    say(&format!("bench: {KILLS} kills"));
    let baseline = Poller::start(&scratch)?;
    let kills = kill(&scratch, KILLS, &mut agent, interrupt)?;
    interrupt.sleep(poll::EVERY * 2)?;
    let polled = polled(&kills, &baseline.stop()?);
    drop(host);
    let mut host = Host::new(MANY_STUBS)?;
    let with_many_stubs = step(most(&steps), &hierarchy, &mut host, &mut agent, interrupt)?;
    let resident = Resident::of_process(agent.pid())?;
    agent.ask_to_end()?;
    agent.wait(interrupt)?;
    let head = format!("{}\n\noomwatch {}, tier {}\n\n", machine(&hierarchy)?, started.version, started.tier);
    let table = head + &table(&steps, &with_many_stubs, resident, &kills, &polled);
    let docs = root().join("docs");
    plot::draw(&steps.iter().map(Step::point).collect::<Vec<_>>(), &docs.join("cost.svg"))?;
    fs::write(docs.join("cost.md"), format!("{TITLE}\n\n{table}\n\n![{PICTURE}](cost.svg)\n"))?;
    Ok(table)
}

const TITLE: &str = "# What watching many workloads costs

Made by `cargo xtask bench --many`: on one host, oomwatch beside a program that does what the original does, `VmRSS` summed over each
sandbox' tree and a counter of kills read for each other cgroup, every 500 ms. That program has one thread: where a look at all
takes longer than that it looks as often as it can. Resident memory and kills are with all workloads there.";
const PICTURE: &str = "Share of one processor by the number of workloads";

/// What so many workloads cost.
#[derive(Debug)]
struct Step {
    each: usize,
    stubs: usize,
    agent: Cpu,
    original: Cpu,
    rounds: Rounds,
}

impl Step {
    fn point(&self) -> Point {
        let workloads = u32::try_from(2 * self.each).unwrap_or(u32::MAX);
        Point { workloads, agent: share(self.agent), original: share(self.original) }
    }
}

fn step(
    each: usize,
    hierarchy: &Hierarchy,
    host: &mut Host,
    agent: &mut Agent,
    interrupt: &Interrupt,
) -> anyhow::Result<Step> {
    say(&format!("bench: {} workloads", 2 * each));
    let there = host.sandboxes.len();
    host.fill(hierarchy, each, interrupt)?;
    wait_until_found(&host.sandboxes[there..], agent, interrupt)?;
    interrupt.sleep(SETTLE)?;
    let sentries = host.sandboxes.iter().map(|sandbox| sandbox.process.pid()).collect();
    let counters = host.containers.iter().map(|container| container.cgroup.counter().to_owned()).collect();
    let original = Original::start(sentries, counters)?;
    let (of_agent, of_original) = (Cpu::of_process(agent.pid())?, original.cpu()?);
    interrupt.sleep(IDLE)?;
    let of_agent = Cpu::of_process(agent.pid())?.since(of_agent);
    let of_original = original.cpu()?.since(of_original);
    Ok(Step { each, stubs: host.stubs, agent: of_agent, original: of_original, rounds: original.stop()? })
}

fn wait_until_found(sandboxes: &[Workload], agent: &mut Agent, interrupt: &Interrupt) -> anyhow::Result<()> {
    let mut missing: BTreeSet<&str> = sandboxes.iter().map(|sandbox| sandbox.cgroup.name()).collect();
    while !missing.is_empty() {
        let what = format!("{} more sandboxes to be found", missing.len());
        let line = agent.event(interrupt, &what, FIND_TIMEOUT)?;
        if parse::<AnyEvent>(&line.text)?.event == "workload_started" {
            let found: Found = parse(&line.text)?;
            missing.remove(found.workload.sandbox_id.as_deref().unwrap_or_default());
        }
    }
    ensure!(missing.is_empty(), "not all sandboxes were found");
    Ok(())
}

#[derive(Debug, Deserialize)]
struct Found {
    workload: FoundWorkload,
}

#[derive(Debug, Deserialize)]
struct FoundWorkload {
    sandbox_id: Option<String>,
}

fn table(steps: &[Step], with_many_stubs: &Step, resident: Resident, kills: &[Kill], polled: &Samples) -> String {
    let late = |kill: &Kill| kill.read_at.duration_since(kill.at).unwrap_or_default();
    let lines: Samples = kills.iter().map(late).collect();
    let mut rows = vec![
        (String::new(), "oomwatch".to_owned(), "the original's method".to_owned()),
        ("---".to_owned(), "---:".to_owned(), "---:".to_owned()),
    ];
    for step in steps.iter().chain([with_many_stubs]) {
        let Step { each, stubs, agent, original, rounds } = step;
        let what =
            format!("share of one processor: {each} sandboxes of {} processes and {each} other cgroups", 1 + stubs);
        rows.push((what, percent(*agent), percent(*original)));
        if *each == most(steps) {
            rows.push(("longest look at all of these".to_owned(), String::new(), shown(rounds.longest)));
        }
    }
    rows.extend([
        ("resident, `VmRSS`".to_owned(), mib(resident.rss), String::new()),
        (format!("of {KILLS} kills, told"), kills.len().to_string(), polled.len().to_string()),
        ("kernel to line, p50".to_owned(), shown(lines.percentile(50)), shown(polled.percentile(50))),
        ("kernel to line, p99".to_owned(), shown(lines.percentile(99)), shown(polled.percentile(99))),
    ]);
    rows.iter()
        .map(|(what, agent, original)| format!("| {what} | {agent} | {original} |"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Workloads of each half with all of them there.
fn most(steps: &[Step]) -> usize {
    steps.iter().map(|step| step.each).max().unwrap_or_default()
}

/// Percent.
fn share(cpu: Cpu) -> f64 {
    cpu.on_cpu().as_secs_f64() / IDLE.as_secs_f64() * 100.0
}

fn percent(cpu: Cpu) -> String {
    format!("{:.2} %", share(cpu))
}
