//! `--workload-events`: workloads outside gVisor as they come and go.

#![expect(clippy::panic, reason = "a test fails by a panic, its helpers too")]

use support::{
    Agent, Cgroup, Container, EVENT_TIMEOUT, Event, Events as _, Hog, Output, Place, Runtime, require, wait_for,
};

const LIMIT_MIB: u64 = 48;

fn of_cgroup<'a>(events: &'a [Event], kind: &str, cgroup: &Cgroup) -> Vec<&'a Event> {
    let is_ours = |event: &&Event| event.text("/workload/cgroup_path") == cgroup.path().to_str();
    events.of_kind(kind).into_iter().filter(is_ours).collect()
}

/// The one start and the one end.
fn both<'a>(events: &'a [Event], cgroup: &Cgroup) -> [&'a Event; 2] {
    ["workload_started", "workload_stopped"].map(|kind| match of_cgroup(events, kind, cgroup)[..] {
        [only] => only,
        ref all => panic!("{kind}: {all:#?}"),
    })
}

#[test]
fn a_container_of_runc_comes_with_its_limit_and_goes_with_its_peak() {
    require!(Agent, Program("runc"));
    let silent = Agent::start();
    let place = Place::new();
    let agent = place.agent(&["--workload-events"]);
    let mut container = Container::start(Runtime::Runc, LIMIT_MIB, &["eat=24", "say=full", "wait"]);
    container.go();
    assert_eq!(container.line(), "full");
    agent.wait_for_workload("what it holds to be measured", |row| {
        row["workload"]["container_id"] == container.id() && row["usage_bytes"].as_u64() >= Some(24 << 20)
    });
    container.go();
    container.wait();
    let is_over = || (!of_cgroup(&agent.events(), "workload_stopped", container.cgroup()).is_empty()).then_some(());
    wait_for("its end", EVENT_TIMEOUT, is_over);
    let events = agent.stop();
    let [started, stopped] = both(&events, container.cgroup());
    for event in [started, stopped] {
        let said = ["/workload/container_id", "/workload/runtime", "/limit_source", "/severity"];
        let expected = [Some(container.id()), Some("runc"), Some("cgroup"), Some("info")];
        assert_eq!(said.map(|field| event.text(field)), expected, "{event}");
        assert_eq!(event.number("/limit_bytes"), Some(LIMIT_MIB << 20), "{event}");
    }
    let peak = stopped.number("/peak_usage_bytes").unwrap();
    assert!((24 << 20..=LIMIT_MIB << 20).contains(&peak), "{stopped}");
    assert!(silent.stop().iter().all(|event| !event.kind().starts_with("workload")), "nobody asked for it");
}

#[test]
fn a_container_that_was_never_measured_came_and_went_too() {
    require!(Agent, Program("runc"));
    let agent = Agent::start_with(Output::Json, &["--workload-events"]);
    let id = Container::live_and_die(Runtime::Runc, LIMIT_MIB, &["say=gone"]);
    let of_it = |events: &[Event]| -> Vec<String> {
        let ours = events.iter().filter(|event| event.text("/workload/container_id") == Some(&id));
        ours.map(|event| event.kind().to_owned()).collect()
    };
    wait_for("its end", EVENT_TIMEOUT, || (of_it(&agent.events()).len() >= 2).then_some(()));
    assert_eq!(of_it(&agent.stop()), ["workload_started", "workload_stopped"]);
}

#[test]
fn a_cgroup_with_a_limit_of_its_own_comes_and_goes_as_a_container_does() {
    require!(Agent);
    let agent = Agent::start_with(Output::Json, &["--workload-events"]);
    let mut cgroup = Cgroup::scratch().limited_to_mib(LIMIT_MIB);
    let hog = Hog::ready_in(&cgroup, ["wait"]);
    let is_told = || (!of_cgroup(&agent.events(), "workload_started", &cgroup).is_empty()).then_some(());
    wait_for("the cgroup to be told of", EVENT_TIMEOUT, is_told);
    drop(hog);
    cgroup.remove();
    let is_over = || (!of_cgroup(&agent.events(), "workload_stopped", &cgroup).is_empty()).then_some(());
    wait_for("its end", EVENT_TIMEOUT, is_over);
    let events = agent.stop();
    let [started, _] = both(&events, &cgroup);
    assert_eq!(started.text("/workload/runtime"), Some("process"), "{started}");
    assert_eq!(started.number("/limit_bytes"), Some(LIMIT_MIB << 20), "{started}");
}
