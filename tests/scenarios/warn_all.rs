//! `--warn-all`: workloads outside gVisor are warned of before they are killed, and not again and again.

use support::{Agent, Cgroup, Container, Event, Events as _, Hog, Place, Runtime, require};

const MIB: u64 = 1 << 20;

/// Up to 90 MiB at once, then slowly until it is killed.
fn growing() -> Vec<&'static str> {
    let mut steps = vec!["eat=90"];
    // Slow enough for a virtual machine, where looks are dear and so are rare.
    steps.extend(["eat=1", "pause=150"].repeat(200));
    steps
}

fn concerns<'a>(cgroup: &'a Cgroup, kind: &'a str) -> impl Fn(&Event) -> bool + 'a {
    move |event| event.kind() == kind && event.number("/workload/cgroup_id") == Some(cgroup.id())
}

fn wait_for(agent: &Agent, cgroup: &Cgroup, kind: &str) -> Event {
    agent.wait_for(&format!("{kind} of {}", cgroup.path().display()), concerns(cgroup, kind))
}

fn check_warning(warning: &Event, limit_mib: u64) {
    assert_eq!(warning.text("/source"), Some("cgroup"), "{warning}");
    assert_eq!(warning.text("/estimator"), Some("cgroup"), "{warning}");
    assert_eq!(warning.text("/confidence"), Some("exact"), "{warning}");
    assert_eq!(warning.text("/severity"), Some("warning"), "{warning}");
    assert_eq!(warning.number("/limit_bytes"), Some(limit_mib * MIB), "{warning}");
    assert_eq!(warning.flag("/limit_enforced"), Some(true), "{warning}");
    assert_eq!(warning.number("/pid"), None, "a cgroup has no process of its own: {warning}");
    let percent = warning.seconds("/usage_percent").unwrap_or(f64::NAN);
    assert!((95.0..=100.0).contains(&percent), "{warning}");
}

#[test]
fn a_growing_cgroup_is_warned_of_before_its_kill_and_recovers() {
    require!(Agent);
    let place = Place::new();
    let agent = place.agent(&["--warn-all"]);
    let cgroup = Cgroup::scratch().limited_to_mib(128);
    let mut hog = Hog::ready_in(&cgroup, growing());
    agent.wait_until_measured(&cgroup);
    hog.go();
    let warning = wait_for(&agent, &cgroup, "near_limit");
    hog.wait_until_killed();
    let kill = agent.wait_for_kill_of(hog.pid());
    let recovered = wait_for(&agent, &cgroup, "recovered");
    check_warning(&warning, 128);
    assert!(warning.time() < kill.time(), "warned after the kill: {warning}\n{kill}");
    let growth = warning.field("/growth_bytes_per_second").and_then(serde_json::Value::as_i64);
    assert!(growth.is_some_and(|growth| growth > 0), "{warning}");
    for event in [&kill, &recovered] {
        assert_eq!(event.text("/incident_id"), warning.text("/incident_id"), "another incident: {event}");
    }
    let events = agent.stop();
    let count = |kind| events.iter().filter(|event| concerns(&cgroup, kind)(event)).count();
    assert_eq!(["near_limit", "oom_kill", "recovered"].map(count), [1, 1, 1], "{events:#?}");
}

#[test]
fn warning_kill_and_outcome_of_a_container_are_one_incident() {
    require!(Agent, Program("runc"));
    let place = Place::new();
    let agent = place.agent(&["--warn-all"]);
    let mut container = Container::start(Runtime::Runc, 128, &growing());
    agent.wait_until_measured(container.cgroup());
    container.go();
    let warning = wait_for(&agent, container.cgroup(), "near_limit");
    container.wait();
    let kill = agent.wait_for_kill_of(container.init());
    let outcome = wait_for(&agent, container.cgroup(), "oom_outcome");
    check_warning(&warning, 128);
    assert_eq!(warning.text("/workload/container_id"), Some(container.id()), "{warning}");
    assert_eq!(outcome.flag("/container_survived"), Some(false), "{outcome}");
    for event in [&kill, &outcome] {
        assert_eq!(event.text("/incident_id"), warning.text("/incident_id"), "another incident: {event}");
    }
    agent.stop();
}

#[test]
fn each_rise_is_told_once_and_only_where_it_is_asked_for() {
    require!(Agent);
    let place = Place::new();
    let agent = place.agent(&["--warn-all"]);
    let quiet = Agent::start();
    let cgroup = Cgroup::scratch().limited_to_mib(128);
    let turn = ["eat=123", "say=full", "wait", "free", "say=free", "wait"];
    let mut hog = Hog::ready_in(&cgroup, turn.repeat(2));
    agent.wait_until_measured(&cgroup);
    let mut incidents = Vec::new();
    for _turn in 0..2 {
        let seen = incidents.clone();
        let is_new = |event: &Event| event.text("/incident_id").is_some_and(|id| !seen.iter().any(|other| other == id));
        hog.go();
        hog.wait_until_it_says("full");
        let warning = agent.wait_for("a new warning", |event| concerns(&cgroup, "near_limit")(event) && is_new(event));
        check_warning(&warning, 128);
        hog.go();
        hog.wait_until_it_says("free");
        let recovered = agent.wait_for("its end", |event| concerns(&cgroup, "recovered")(event) && is_new(event));
        assert_eq!(recovered.text("/incident_id"), warning.text("/incident_id"), "{recovered}");
        incidents.extend(warning.text("/incident_id").map(str::to_owned));
    }
    let events = agent.stop();
    let count = |kind| events.iter().filter(|event| concerns(&cgroup, kind)(event)).count();
    assert_eq!(["near_limit", "recovered", "oom_kill"].map(count), [2, 2, 0], "{events:#?}");
    let events = quiet.stop();
    assert!(events.of_kind("near_limit").is_empty(), "nobody asked for it: {events:#?}");
}
