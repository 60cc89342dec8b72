//! `cargo xtask bench --many`: a thousand workloads on this host, half of them sandboxes; what watching them costs the
//! agent, and what it costs the original's method at the same time.

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::ensure;
use serde::Deserialize;

use super::{
    AnyEvent, EVENT_TIMEOUT, Kill, Started, kill, machine,
    original::{Original, Rounds},
    parse,
    report::{Samples, mib, shown},
    synthetic::{self, Host},
    usage::{Cpu, Resident},
};
use crate::{
    agent::{Agent, Output},
    cgroup::{Cgroup, Hierarchy},
    interrupt::Interrupt,
    process::say,
};

/// Workloads of each half.
const EACH: usize = 500;
/// From the start of the last workload until nothing is new any more.
const SETTLE: Duration = Duration::from_secs(15);
/// All sandboxes are found within this time.
const FIND_TIMEOUT: Duration = Duration::from_mins(1);
const IDLE: Duration = Duration::from_secs(30);
const KILLS: usize = 200;

/// Measures, and gives the table.
pub(super) fn measure(binary: &Path, interrupt: &Interrupt) -> anyhow::Result<String> {
    let hierarchy = Hierarchy::find()?;
    let scratch = (0..8).map(|_| Cgroup::scratch(&hierarchy, super::LIMIT_BYTES)).collect::<Result<Vec<_>, _>>()?;
    let mut agent = Agent::start_with(binary, Output::Json, &["--workload-events"])?;
    let started: Started = parse(&agent.event(interrupt, "its start", EVENT_TIMEOUT)?.text)?;
    say(&format!("bench: starting {} workloads", 2 * EACH));
    let host = Host::fill(&hierarchy, EACH)?;
    wait_until_found(&host, &mut agent, interrupt)?;
    interrupt.sleep(SETTLE)?;

    let sentries = host.sandboxes.iter().map(|sandbox| sandbox.process.pid()).collect();
    let counters = host.containers.iter().map(|container| container.cgroup.counter().to_owned()).collect();
    let original = Original::start(sentries, counters)?;
    say(&format!("bench: {} s of watching", IDLE.as_secs()));
    let (of_agent, of_original) = (Cpu::of_process(agent.pid())?, original.cpu()?);
    interrupt.sleep(IDLE)?;
    let of_agent = Cpu::of_process(agent.pid())?.since(of_agent);
    let of_original = original.cpu()?.since(of_original);
    let rounds = original.stop()?;
    let resident = Resident::of_process(agent.pid())?;

    say(&format!("bench: {KILLS} kills"));
    let kills = kill(&scratch, KILLS, &mut agent, interrupt)?;
    agent.ask_to_end()?;
    agent.wait(interrupt)?;
    let head = format!("{}\n\noomwatch {}, tier {}\n\n", machine(&hierarchy)?, started.version, started.tier);
    Ok(head + &table(of_agent, of_original, rounds, resident, &kills))
}

fn wait_until_found(host: &Host, agent: &mut Agent, interrupt: &Interrupt) -> anyhow::Result<()> {
    let mut missing: BTreeSet<&str> = host.sandboxes.iter().map(|sandbox| sandbox.cgroup.name()).collect();
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

fn table(agent: Cpu, original: Cpu, rounds: Rounds, resident: Resident, kills: &[Kill]) -> String {
    let late = |kill: &Kill| kill.read_at.duration_since(kill.at).unwrap_or_default();
    let lines: Samples = kills.iter().map(late).collect();
    let rows = [
        (String::new(), "oomwatch".to_owned(), "the original's method".to_owned()),
        ("---".to_owned(), "---:".to_owned(), "---:".to_owned()),
        (
            format!(
                "{EACH} sandboxes of {} processes and {EACH} other cgroups: share of one processor",
                1 + synthetic::STUBS
            ),
            percent(agent.on_cpu()),
            percent(original.on_cpu()),
        ),
        ("longest look at all of them".to_owned(), String::new(), shown(rounds.longest)),
        ("resident, `VmRSS`".to_owned(), mib(resident.rss), String::new()),
        (format!("of {KILLS} kills, told"), kills.len().to_string(), String::new()),
        ("kernel to line, p50".to_owned(), shown(lines.percentile(50)), String::new()),
        ("kernel to line, p99".to_owned(), shown(lines.percentile(99)), String::new()),
    ];
    rows.iter()
        .map(|(what, agent, original)| format!("| {what} | {agent} | {original} |"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn percent(cpu: Duration) -> String {
    format!("{:.2} %", cpu.as_secs_f64() / IDLE.as_secs_f64() * 100.0)
}
