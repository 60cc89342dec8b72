//! What became of a container after a kill in it: it lived on, or it ended, with the code that its runtime tells.

use std::{ffi::OsString, thread, time::Duration};

use support::{Agent, Cgroup, Container, Event, Events as _, Hog, Runtime, require};

const LIMIT_MIB: u64 = 48;
/// A child eats until it is killed, and the first process sees that.
const CHILD: [&str; 4] = ["child", "eat=all", "end", "reap"];

fn of(container: &Container) -> impl Fn(&Event) -> bool {
    of_id(container.id())
}

fn of_id(id: &str) -> impl Fn(&Event) -> bool {
    let id = id.to_owned();
    move |event| event.kind() == "oom_outcome" && event.text("/workload/container_id") == Some(&*id)
}

/// A cgroup with the name that docker would give it, and the container's id; no runtime has to work on this kernel.
fn of_docker_form() -> (Cgroup, String) {
    let name = support::unique_name();
    let hex = name.bytes().fold(0_u128, |hex, byte| (hex << 8) | u128::from(byte));
    let id = format!("{hex:064x}");
    let path = format!("/{name}.slice/docker-{id}.scope");
    (Cgroup::make(path).limited_to_mib(16), id)
}

/// The container lives on after the first kill, and ends after the second one. That the agent stands still meanwhile
/// makes it hear of the end before it hears of the kill, however slow all is.
fn ends(runtime: Runtime, before: &[&str], last: &[&str], code: u8) {
    ends_where(|steps| Container::start(runtime, LIMIT_MIB, steps), before, last, code);
}

fn ends_where(start: impl Fn(&[&str]) -> Container, before: &[&str], last: &[&str], code: u8) {
    let steps = [before, &CHILD, &["say=alive", "wait"], last].concat();
    let agent = Agent::start();
    let mut container = start(&steps);
    container.go();
    assert_eq!(container.line(), "killed=9");
    assert_eq!(container.line(), "alive");
    let survived = agent.wait_for("what became of the container", of(&container));
    assert_eq!(survived.flag("/container_survived"), Some(true), "{survived}");
    assert_eq!(survived.field("/exit_code"), None, "{survived}");
    agent.pause();
    container.go();
    assert_eq!(container.wait().code(), Some(code.into()), "what its runtime says");
    agent.resume();
    let ended = agent.wait_for("the end of the container", |event| of(&container)(event) && *event != survived);
    assert_eq!(ended.flag("/container_survived"), Some(false), "{ended}");
    assert_eq!(ended.number("/exit_code"), Some(code.into()), "{ended}");
    let events = agent.stop();
    let kills = events.kills_below(container.cgroup().path());
    let outcomes = events.of_kind("oom_outcome").into_iter().filter(|event| of(&container)(event));
    let roles: Vec<_> = kills.iter().map(|kill| kill.text("/victim/role")).collect();
    assert_eq!(roles, [Some("process"), Some(if code == 137 { "init" } else { "process" })], "{events:#?}");
    let incident = |event: &Event| event.text("/incident_id").map(str::to_owned);
    let told: Vec<_> = outcomes.map(incident).collect();
    assert_eq!(told, kills.into_iter().map(incident).collect::<Vec<_>>(), "one for each kill: {events:#?}");
    assert_eq!(told.len(), 2, "{events:#?}");
}

/// The agent knows of the kill, and of the end only after it should have told what became of the container.
#[test]
fn a_container_that_ended_while_the_agent_stood_still_has_its_code() {
    require!(Agent, Program("runc"));
    let agent = Agent::start();
    let mut container =
        Container::start(Runtime::Runc, LIMIT_MIB, &[&CHILD[..], &["say=alive", "wait", "exit=3"]].concat());
    container.go();
    assert_eq!(container.line(), "killed=9");
    assert_eq!(container.line(), "alive");
    agent.wait_for("the kill", |event| {
        event.kind() == "oom_kill" && event.text("/workload/container_id") == Some(container.id())
    });
    agent.pause();
    container.go();
    assert_eq!(container.wait().code(), Some(3));
    thread::sleep(Duration::from_secs(3));
    agent.resume();
    let ended = agent.wait_for("the end of the container", of(&container));
    assert_eq!(ended.flag("/container_survived"), Some(false), "{ended}");
    assert_eq!(ended.number("/exit_code"), Some(3), "{ended}");
    drop(agent.stop());
}

/// As any container, but started by hand. The agent stands still around what happens, so its order is the rings'.
#[test]
fn the_init_of_a_namespace_in_a_container_is_not_the_containers() {
    require!(Agent);
    let (cgroup, id) = of_docker_form();
    let agent = Agent::start();
    let nested = ["child", "new-pids", "child", "exit=9", "end", "reap", "end", "reap"];
    let inside = [&["say=ready", "wait"][..], &CHILD[..], &nested, &["wait"], &CHILD, &["exit=7"]].concat();
    let mut steps: Vec<OsString> = vec!["new-pids".into(), "child".into(), cgroup.join_step()];
    steps.extend(inside.into_iter().chain(["end", "reap"]).map(OsString::from));
    let mut hog = Hog::start(steps);
    hog.wait_until_it_says("ready");
    agent.pause();
    hog.go();
    for line in ["killed=9", "exited=9", "exited=0"] {
        hog.wait_until_it_says(line);
    }
    agent.resume();
    let survived = agent.wait_for("what became of the container", of_id(&id));
    assert_eq!(survived.flag("/container_survived"), Some(true), "{survived}");
    agent.pause();
    hog.go();
    for line in ["killed=9", "exited=7"] {
        hog.wait_until_it_says(line);
    }
    assert!(hog.wait().success());
    agent.resume();
    let ended = agent.wait_for("the end of the container", |event| of_id(&id)(event) && *event != survived);
    assert_eq!(ended.flag("/container_survived"), Some(false), "{ended}");
    assert_eq!(ended.number("/exit_code"), Some(7), "{ended}");
    drop(agent.stop());
}

#[test]
fn a_container_in_the_namespace_of_the_host_ends_without_a_code() {
    require!(Agent);
    let (cgroup, id) = of_docker_form();
    let agent = Agent::start();
    let steps = [&CHILD[..], &["exit=4"]].concat();
    let mut hog = Hog::ready_in(&cgroup, steps);
    agent.pause();
    hog.go();
    hog.wait_until_it_says("killed=9");
    assert_eq!(hog.wait().code(), Some(4));
    agent.resume();
    let ended = agent.wait_for("the end of the container", of_id(&id));
    assert_eq!(ended.flag("/container_survived"), Some(false), "{ended}");
    assert_eq!(ended.field("/exit_code"), None, "no init tells of it: {ended}");
    drop(agent.stop());
}

#[test]
fn a_runc_container_whose_init_is_killed_ends_with_137() {
    require!(Agent, Program("runc"));
    ends(Runtime::Runc, &[], &["eat=all"], 137);
}

#[test]
fn a_crun_container_whose_init_is_killed_ends_with_137() {
    require!(Agent, Program("crun"));
    ends(Runtime::Crun, &[], &["eat=all"], 137);
}

#[test]
fn a_runc_container_that_gives_up_after_a_kill_ends_with_the_code_of_its_init() {
    require!(Agent, Program("runc"));
    ends(Runtime::Runc, &[], &[&CHILD[..], &["exit=3"]].concat(), 3);
}

/// Its runtime says which of the host's processes is its first.
fn ends_with_the_pids_of_the_host(runtime: Runtime, last: &[&str], code: u8) {
    ends_where(|steps| Container::start_with_pids_of_host(runtime, LIMIT_MIB, steps), &[], last, code);
}

#[test]
fn a_runc_container_with_the_process_ids_of_the_host_ends_with_the_code_of_its_first_process() {
    require!(Agent, Program("runc"));
    ends_with_the_pids_of_the_host(Runtime::Runc, &["eat=all"], 137);
}

#[test]
fn a_crun_container_with_the_process_ids_of_the_host_ends_with_the_code_of_its_first_process() {
    require!(Agent, Program("crun"));
    ends_with_the_pids_of_the_host(Runtime::Crun, &[&CHILD[..], &["exit=3"]].concat(), 3);
}

#[test]
fn the_code_of_an_init_whose_first_thread_ended_long_ago_is_that_of_the_process() {
    require!(Agent, Program("crun"));
    ends(Runtime::Crun, &["lose-leader"], &[&CHILD[..], &["exit=5"]].concat(), 5);
}
