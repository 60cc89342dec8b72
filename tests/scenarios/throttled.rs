//! `memory.high` of cgroup v2: the kernel slows a process down and kills nobody. Pressure tells of it.

use std::{thread::sleep, time::Duration};

use support::{
    Agent, Cgroup, EVENT_TIMEOUT, Event, Events as _, Hog, Output, Place, memory_cgroup_version, require, say_skipped,
    wait_for,
};

const NO_V1: &str = "cgroup v1 has neither memory.high nor memory.pressure";
/// The agent judges a limit that was hit once the counters had time to tell; nothing shows that it did.
const LONGER_THAN_A_VERDICT: Duration = Duration::from_millis(1500);

/// A process far above what it should have.
fn throttled_in(cgroup: &Cgroup) -> Hog {
    cgroup.write("memory.high", "8388608");
    let mut hog = Hog::ready_in(cgroup, ["eat=32", "say=full", "sleep"]);
    hog.go();
    let times = || cgroup.counter("memory.events", "high");
    wait_for("the process to be slowed down", EVENT_TIMEOUT, || (times() > 10).then_some(()));
    hog
}

#[test]
fn a_process_that_is_slowed_down_is_neither_a_kill_nor_an_oom() {
    require!(Agent);
    if memory_cgroup_version() == 1 {
        return say_skipped(NO_V1);
    }
    let cgroup = Cgroup::scratch();
    let agent = Agent::start();
    let mut hog = throttled_in(&cgroup);
    sleep(LONGER_THAN_A_VERDICT);
    assert!(hog.is_alive());
    let events = agent.stop();
    assert!(events.kills_below(cgroup.path()).is_empty(), "{events:#?}");
    assert!(events.without_kill_in(cgroup.id()).is_empty(), "{events:#?}");
    assert_eq!(cgroup.kernel_count_of_kills(), 0);
    assert_eq!(cgroup.counter("memory.events", "oom"), 0, "the kernel saw no OOM either");
}

#[test]
fn its_pressure_is_shown() {
    require!(Agent);
    if memory_cgroup_version() == 1 {
        return say_skipped(NO_V1);
    }
    let place = Place::new();
    let cgroup = Cgroup::scratch().limited_to_mib(64);
    let hog = throttled_in(&cgroup);
    // An agent that is there before reads it half a minute later.
    let is_there = || !cgroup.read("memory.pressure").starts_with("some avg10=0.00");
    wait_for("pressure by the kernel's own word", EVENT_TIMEOUT, || is_there().then_some(()));
    let agent = place.agent(&[]);
    let row = agent.wait_for_workload("pressure", |row| {
        row["workload"]["cgroup_path"].as_str() == cgroup.path().to_str() && row["some_avg10"].as_f64() > Some(0.0)
    });
    assert!(row["full_avg10"].as_f64() <= row["some_avg10"].as_f64(), "{row}");
    drop(hog);
    drop(agent.stop());
}

#[test]
fn pressure_above_a_line_is_reported_once_to_who_asks_for_it() {
    require!(Agent);
    if memory_cgroup_version() == 1 {
        return say_skipped(NO_V1);
    }
    let cgroup = Cgroup::scratch().limited_to_mib(64);
    let silent = Agent::start();
    let agent = Agent::start_with(Output::Json, &["--pressure-percent", "5"]);
    let hog = throttled_in(&cgroup);
    let ours = |event: &Event| {
        event.kind() == "memory_pressure" && event.text("/workload/cgroup_path") == cgroup.path().to_str()
    };
    let pressure = agent.wait_for("pressure", ours);
    assert!(pressure.seconds("/some_avg10") >= Some(5.0), "{pressure}");
    assert!(pressure.seconds("/full_avg10") <= pressure.seconds("/some_avg10"), "{pressure}");
    let said = ["/severity", "/source", "/confidence"].map(|field| pressure.text(field));
    assert_eq!(said, [Some("warning"), Some("cgroup"), Some("exact")], "{pressure}");
    assert_eq!(pressure.number("/threshold_percent"), Some(5), "{pressure}");
    // The kernel averages twice more.
    sleep(Duration::from_millis(4500));
    let now = cgroup.read("memory.pressure");
    drop(hog);
    assert_eq!(agent.stop().iter().filter(|event| ours(event)).count(), 1, "the kernel's word: {now}");
    assert!(silent.stop().of_kind("memory_pressure").is_empty());
}
