//! What is told against what the kernel counted.

use std::fmt::Write as _;

use rustix::process::{Pid, Signal, kill_process};
use support::{
    Agent, Cgroup, Event, Events as _, Freezer, Gate, Hog, Output, PROCESS_TIMEOUT, in_guest, marks_carry_the_task,
    memory_cgroup_version, require, unescaped, wait_for,
};

/// More than the ring has room for at four kilobytes each.
const KILLS: usize = 400;

/// Each way down the ladder, seen by an agent of its own.
const RUNGS: [&[&str]; 4] = [&[], &["--withhold", "fentry"], &["--withhold", INFERRED], &["--withhold", "btf"]];
/// Wants the task in the kernel's mark.
const INFERRED: &str = "fentry,kprobe";

/// Kills in each cgroup of a storm; each takes a third of a second in the virtual machine.
fn storm_of() -> usize {
    if in_guest() { 8 } else { 20 }
}

fn on_every_rung() -> Vec<Agent> {
    let there = |arguments: &&&[&str]| marks_carry_the_task() || !arguments.contains(&INFERRED);
    RUNGS.iter().filter(there).map(|arguments| Agent::start_with(Output::Json, arguments)).collect()
}

/// Nobody may miss a kill.
fn none_is_missed(agents: Vec<Agent>) {
    agents.iter().for_each(Agent::wait_until_nothing_is_missing);
    for agent in agents {
        let events = agent.stop();
        let missed = events.of_kind("missed");
        assert!(missed.is_empty(), "{missed:#?} by {}", events[0]);
    }
}

fn start_behind(gate: &Gate, cgroup: &Cgroup, count: usize) -> Vec<Hog> {
    let hogs = (0..count).map(|_| Hog::start_behind(gate, [cgroup.join_step(), "wait".into(), "eat=all".into()]));
    let hogs: Vec<Hog> = hogs.collect();
    wait_for("all hogs to be at their places", PROCESS_TIMEOUT, || (cgroup.processes().len() == count).then_some(()));
    hogs
}

#[test]
fn a_storm_in_many_cgroups_misses_nothing_on_any_rung() {
    require!(Agent);
    let (parent, gate) = (Cgroup::scratch(), Gate::new());
    let cgroups: Vec<Cgroup> = (0..10).map(|index| parent.child(format!("c{index}")).limited_to_mib(24)).collect();
    let mut hogs: Vec<Hog> = cgroups.iter().flat_map(|cgroup| start_behind(&gate, cgroup, storm_of())).collect();
    let agents = on_every_rung();
    gate.open();
    hogs.iter_mut().for_each(Hog::wait_until_killed);
    none_is_missed(agents);
}

/// What the kernel counts and marks differently: a shared memory, a group, a task that was dying anyway.
#[test]
fn what_the_kernel_counts_in_its_own_way_is_no_miss_on_any_rung() {
    require!(Agent);
    let agents = on_every_rung();
    let cgroup = Cgroup::scratch().limited_to_mib(48);
    let mut sharing = Hog::ready_in(&cgroup, ["sharer", "eat=all"]);
    sharing.go();
    sharing.wait_until_killed();
    if memory_cgroup_version() == 2 {
        let group = Cgroup::scratch().limited_to_mib(48);
        group.write("memory.oom.group", "1");
        let gate = Gate::new();
        let mut members = start_behind(&gate, &group, 3);
        gate.open();
        members.iter_mut().for_each(Hog::wait_until_killed);
    }
    if let Some(freezer) = Freezer::new() {
        let cgroup = Cgroup::scratch().limited_to_mib(48);
        let mut dying = Hog::ready_in(&cgroup, ["eat=32", "say=full", "sleep"]);
        dying.go();
        dying.wait_until_it_says("full");
        freezer.freeze(dying.pid());
        kill_process(Pid::from_raw(i32::try_from(dying.pid()).unwrap()).unwrap(), Signal::KILL).unwrap();
        let mut eater = Hog::ready_in(&cgroup, ["eat=32", "say=full", "wait"]);
        eater.go();
        let _either_way = eater.says("full");
        none_is_missed(agents);
    } else {
        none_is_missed(agents);
    }
}

/// A long path makes a record of four kilobytes, so that few hundred kills overflow a ring that nobody reads.
#[test]
fn kills_that_found_no_room_are_told_by_their_number() {
    require!(Agent);
    let mut path = format!("/{}", support::unique_name());
    for depth in 0..12 {
        write!(path, "/{depth:x<250}").unwrap();
    }
    // Cgroup2 charges what the kernel itself holds for each of them too.
    let cgroup = Cgroup::make(path).limited_to_mib(160);
    let gate = Gate::new();
    let mut hogs = start_behind(&gate, &cgroup, KILLS);
    let agent = Agent::start();
    agent.pause();
    gate.open();
    hogs.iter_mut().for_each(Hog::wait_until_killed);
    agent.resume();
    let ours = |event: &Event| {
        let path = event.text("/workload/cgroup_path").map(unescaped).unwrap_or_default();
        event.kind() == "missed" && path == cgroup.path_bytes()
    };
    let missed = agent.wait_for("the news of kills that were missed", ours);
    agent.wait_until_nothing_is_missing();
    let events: Vec<Event> = agent.events();
    assert_eq!(events.iter().filter(|event| ours(event)).count(), 1, "told once");
    let told = events.kills_below(cgroup.path()).len() as u64;
    let counted = cgroup.kernel_count_of_kills();
    let (expected, seen) = (missed.number("/expected").unwrap(), missed.number("/seen").unwrap());
    assert_eq!(missed.text("/since"), Some("overflow"), "{missed}");
    assert_eq!((counted, seen, expected), (KILLS as u64, told, counted), "{missed}");
    let lost: u64 = events.of_kind("loss").iter().filter_map(|event| event.number("/lost")).sum();
    assert!(lost >= expected - seen && lost > 0, "{lost} records were lost, and {missed}");
}
