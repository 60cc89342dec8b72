//! The victim's cgroup, and all files about it, are gone before the agent gets to look.

use std::{path::Path, thread::sleep, time::Duration};

use support::{Agent, Cgroup, Container, Events as _, ExpectedKill, Hog, Runtime, Window, require};

/// An agent at rest reads the files of a container when its program begins, which takes some milliseconds. Nothing
/// outside shows that it did.
const LONG_ENOUGH_TO_LOOK: Duration = Duration::from_millis(100);

#[test]
fn a_cgroup_removed_before_the_agent_looks_is_still_named() {
    require!(Agent);
    let mut cgroup = Cgroup::scratch().limited_to_mib(16);
    let agent = Agent::start();
    let mut hog = Hog::ready_in(&cgroup, ["eat=all"]);
    agent.pause();
    let window = Window::open();
    hog.go();
    hog.wait_until_killed();
    let window = window.close();
    cgroup.remove();
    agent.resume();
    let events = agent.stop();
    let expected = ExpectedKill { latency: Duration::from_secs(20), ..ExpectedKill::of(hog.pid(), &cgroup, window) };
    expected.check(events.only_kill_below(cgroup.path()));
}

#[test]
fn a_cgroup_that_came_and_went_while_the_agent_stood_still_is_named() {
    require!(Agent);
    let agent = Agent::start();
    agent.pause();
    let mut cgroup = Cgroup::scratch().limited_to_mib(16);
    let mut hog = Hog::ready_in(&cgroup, ["eat=all"]);
    let window = Window::open();
    hog.go();
    hog.wait_until_killed();
    let window = window.close();
    cgroup.remove();
    agent.resume();
    let events = agent.stop();
    let expected = ExpectedKill { latency: Duration::from_secs(20), ..ExpectedKill::of(hog.pid(), &cgroup, window) };
    expected.check(events.only_kill_below(cgroup.path()));
}

#[test]
fn a_cgroup_that_takes_the_path_of_a_removed_one_is_another() {
    require!(Agent);
    let parent = Cgroup::scratch();
    let agent = Agent::start();
    let mut victims = Vec::new();
    for _ in 0..2 {
        let mut cgroup = parent.child("again").limited_to_mib(16);
        let mut hog = Hog::ready_in(&cgroup, ["eat=all"]);
        let window = Window::open();
        hog.go();
        hog.wait_until_killed();
        let window = window.close();
        cgroup.remove();
        victims.push((hog.pid(), cgroup, window));
    }
    let events = agent.stop();
    let kills = events.kills_below(parent.path());
    assert_eq!(kills.len(), 2, "{kills:#?}");
    for ((pid, cgroup, window), kill) in victims.iter().zip(kills) {
        ExpectedKill::of(*pid, cgroup, *window).check(kill);
    }
}

fn container_deleted_before_the_agent_looks(runtime: Runtime) {
    let agent = Agent::start();
    let mut container = Container::start(runtime, 48, &["eat=all"]);
    sleep(LONG_ENOUGH_TO_LOOK);
    agent.pause();
    let window = Window::open();
    container.go();
    container.wait();
    let window = window.close();
    container.delete();
    assert!(!container.cgroup().folder().exists(), "{} has not removed the cgroup", runtime.name());
    agent.resume();
    let events = agent.stop();
    let expected = ExpectedKill {
        role: "init",
        limit_owner: "container",
        runtime: runtime.name(),
        container_id: Some(container.id()),
        latency: Duration::from_secs(20),
        ..ExpectedKill::of(container.init(), container.cgroup(), window)
    };
    expected.check(events.only_kill_below(container.cgroup().path()));
}

#[test]
fn a_container_of_runc_deleted_before_the_agent_looks_keeps_its_id() {
    require!(Agent, Program("runc"));
    container_deleted_before_the_agent_looks(Runtime::Runc);
}

#[test]
fn a_container_of_crun_deleted_before_the_agent_looks_keeps_its_id() {
    require!(Agent, Program("crun"));
    container_deleted_before_the_agent_looks(Runtime::Crun);
}

/// The runtime deletes the container the moment its first process ends, without being asked.
fn container_killed_at_once(runtime: Runtime) {
    let agent = Agent::start();
    let mut container = Container::start(runtime, 48, &["eat=all"]);
    let window = Window::open();
    container.go();
    container.wait();
    let window = window.close();
    let events = agent.stop();
    let expected = ExpectedKill {
        role: "init",
        limit_owner: "container",
        runtime: runtime.name(),
        container_id: Some(container.id()),
        ..ExpectedKill::of(container.init(), container.cgroup(), window)
    };
    expected.check(events.only_kill_below(container.cgroup().path()));
}

#[test]
fn a_container_of_runc_killed_right_after_its_start_has_its_id() {
    require!(Agent, Program("runc"));
    container_killed_at_once(Runtime::Runc);
}

#[test]
fn a_container_of_crun_killed_right_after_its_start_has_its_id() {
    require!(Agent, Program("crun"));
    container_killed_at_once(Runtime::Crun);
}

/// From exec to kill no time passes that a look now and then would hit.
fn containers_that_wait_for_nobody(runtime: Runtime) {
    let agent = Agent::start();
    let ids: Vec<String> = (0..10).map(|_| Container::live_and_die(runtime, 24, &["eat=all"])).collect();
    let events = agent.stop();
    for id in ids {
        let kills = events.kills_below(Path::new(&format!("/{id}")));
        assert_eq!(kills.len(), 1, "{kills:#?}");
        let said = ["/workload/container_id", "/workload/runtime", "/limit_owner"].map(|field| kills[0].text(field));
        assert_eq!(said, [Some(id.as_str()), Some(runtime.name()), Some("container")], "{kills:#?}");
    }
}

#[test]
fn containers_of_runc_that_die_in_their_first_moment_have_their_ids() {
    require!(Agent, Program("runc"));
    containers_that_wait_for_nobody(Runtime::Runc);
}

#[test]
fn containers_of_crun_that_die_in_their_first_moment_have_their_ids() {
    require!(Agent, Program("crun"));
    containers_that_wait_for_nobody(Runtime::Crun);
}
