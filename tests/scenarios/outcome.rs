//! What became of a container after a kill in it: it lived on, or it ended, with the code that its runtime tells.

use support::{Agent, Container, Event, Events as _, Runtime, require};

const LIMIT_MIB: u64 = 48;
/// A child eats until it is killed, and the first process sees that.
const CHILD: [&str; 4] = ["child", "eat=all", "end", "reap"];

fn of(container: &Container) -> impl Fn(&Event) -> bool {
    let id = container.id().to_owned();
    move |event| event.kind() == "oom_outcome" && event.text("/workload/container_id") == Some(&*id)
}

fn killed_init(runtime: Runtime) {
    let agent = Agent::start();
    let mut container = Container::start(runtime, LIMIT_MIB, &["eat=all"]);
    container.go();
    assert_eq!(container.wait().code(), Some(137));
    let kill = agent.wait_for_kill_of(container.init());
    let outcome = agent.wait_for("what became of the container", of(&container));
    assert_eq!(outcome.text("/incident_id"), kill.text("/incident_id"), "{outcome}");
    assert_eq!(outcome.flag("/container_survived"), Some(false), "{outcome}");
    assert_eq!(outcome.number("/exit_code"), Some(137), "{outcome}");
    let events = agent.stop();
    let outcomes = events.of_kind("oom_outcome").into_iter().filter(|event| of(&container)(event)).count();
    assert_eq!(outcomes, 1, "{events:#?}");
}

/// The container lives on after the first kill; after the second one its first process gives up with a code. That the
/// agent stands still meanwhile makes it hear of the exit before it hears of the kill, however slow all is.
fn gives_up(runtime: Runtime, before: &[&'static str], code: u8) {
    let exit = format!("exit={code}");
    let steps = [before, &CHILD, &["say=alive", "wait"], &CHILD, &[&exit]].concat();
    let agent = Agent::start();
    let mut container = Container::start(runtime, LIMIT_MIB, &steps);
    container.go();
    assert_eq!(container.line(), "killed=9");
    assert_eq!(container.line(), "alive");
    let survived = agent.wait_for("what became of the container", of(&container));
    assert_eq!(survived.flag("/container_survived"), Some(true), "{survived}");
    assert_eq!(survived.field("/exit_code"), None, "{survived}");
    agent.pause();
    container.go();
    assert_eq!(container.line(), "killed=9");
    assert_eq!(container.wait().code(), Some(code.into()));
    agent.resume();
    let ended = agent.wait_for("the end of the container", |event| of(&container)(event) && *event != survived);
    assert_eq!(ended.flag("/container_survived"), Some(false), "{ended}");
    assert_eq!(ended.number("/exit_code"), Some(code.into()), "{ended}");
    let events = agent.stop();
    let kills = events.kills_below(container.cgroup().path());
    let incidents: Vec<_> = kills.iter().map(|kill| kill.text("/incident_id")).collect();
    assert_eq!(incidents, [survived.text("/incident_id"), ended.text("/incident_id")], "{events:#?}");
}

#[test]
fn a_runc_container_whose_init_is_killed_ends_with_137() {
    require!(Agent, Program("runc"));
    killed_init(Runtime::Runc);
}

#[test]
fn a_crun_container_whose_init_is_killed_ends_with_137() {
    require!(Agent, Program("crun"));
    killed_init(Runtime::Crun);
}

#[test]
fn a_runc_container_that_gives_up_after_a_kill_ends_with_the_code_of_its_init() {
    require!(Agent, Program("runc"));
    gives_up(Runtime::Runc, &[], 3);
}

#[test]
fn the_code_of_an_init_whose_first_thread_ended_long_ago_is_that_of_the_process() {
    require!(Agent, Program("crun"));
    gives_up(Runtime::Crun, &["lose-leader"], 5);
}
