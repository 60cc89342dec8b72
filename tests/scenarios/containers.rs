//! Containers of runc and crun without an engine: the first process is killed, or a child while the container lives on.

use support::{Agent, Cgroup, Container, Events as _, ExpectedKill, Runtime, Window, require};

const LIMIT_MIB: u64 = 48;

fn killed_init(runtime: Runtime) {
    let agent = Agent::start();
    let mut container = Container::start(runtime, LIMIT_MIB, &["eat=all"]);
    let window = Window::open();
    container.go();
    let status = container.wait();
    let window = window.close();
    assert_eq!(status.code(), Some(137), "{} tells a deadly signal by its code", runtime.name());
    agent.wait_for_kill_of(container.init());
    let events = agent.stop();
    let expected = ExpectedKill {
        role: "init",
        limit_owner: "container",
        runtime: runtime.name(),
        container_id: Some(container.id()),
        anon_mib: 30,
        ..ExpectedKill::of(container.init(), container.cgroup(), window)
    };
    expected.check(events.only_kill_below(container.cgroup().path()));
}

fn killed_child(runtime: Runtime) {
    let steps = ["child", "say=born", "wait", "eat=all", "end", "reap", "say=alive", "wait"];
    let agent = Agent::start();
    let mut container = Container::start(runtime, LIMIT_MIB, &steps);
    container.go();
    assert_eq!(container.line(), "born");
    let child = other_than(container.init(), container.cgroup());
    let window = Window::open();
    container.go();
    assert_eq!(container.line(), "killed=9");
    let window = window.close();
    assert_eq!(container.line(), "alive");
    agent.wait_for_kill_of(child);
    assert_eq!(container.state()["status"], "running", "the container survived");
    assert_eq!(container.cgroup().kernel_count_of_kills(), 1);
    let events = agent.stop();
    let expected = ExpectedKill {
        role: "process",
        limit_owner: "container",
        runtime: runtime.name(),
        container_id: Some(container.id()),
        anon_mib: 30,
        ..ExpectedKill::of(child, container.cgroup(), window)
    };
    expected.check(events.only_kill_below(container.cgroup().path()));
}

fn other_than(init: u32, cgroup: &Cgroup) -> u32 {
    let processes = cgroup.processes();
    let others: Vec<_> = processes.iter().copied().filter(|pid| *pid != init).collect();
    assert_eq!(others.len(), 1, "the first process of the container has one child: {processes:?}");
    others[0]
}

#[test]
fn the_killed_init_of_a_runc_container_is_reported_with_the_container() {
    require!(Agent, Program("runc"));
    killed_init(Runtime::Runc);
}

#[test]
fn the_killed_child_in_a_runc_container_that_survives_is_reported_with_the_container() {
    require!(Agent, Program("runc"));
    killed_child(Runtime::Runc);
}

#[test]
fn the_killed_init_of_a_crun_container_is_reported_with_the_container() {
    require!(Agent, Program("crun"));
    killed_init(Runtime::Crun);
}

#[test]
fn the_killed_child_in_a_crun_container_that_survives_is_reported_with_the_container() {
    require!(Agent, Program("crun"));
    killed_child(Runtime::Crun);
}

#[test]
fn a_container_that_was_there_before_the_agent_is_known() {
    require!(Agent, Program("runc"));
    let mut container = Container::start(Runtime::Runc, LIMIT_MIB, &["eat=all"]);
    let agent = Agent::start();
    let window = Window::open();
    container.go();
    container.wait();
    let window = window.close();
    let events = agent.stop();
    let expected = ExpectedKill {
        role: "init",
        limit_owner: "container",
        runtime: "runc",
        container_id: Some(container.id()),
        ..ExpectedKill::of(container.init(), container.cgroup(), window)
    };
    expected.check(events.only_kill_below(container.cgroup().path()));
}
