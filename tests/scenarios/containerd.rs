//! A container of a real containerd, without docker.

use std::fs;

use support::{Agent, Containerd, Event, Events as _, ExpectedKill, Window, require};

const LIMIT_MIB: u64 = 64;

#[test]
fn kills_in_a_container_of_containerd_are_told_with_their_roles_and_its_end() {
    require!(Agent, Program("containerd"), Program("containerd-shim-runc-v2"), Program("ctr"), Program("runc"));
    let daemon = Containerd::new();
    let agent = Agent::start();
    let steps = ["child", "say=born", "wait", "eat=all", "end", "reap", "say=alive", "wait", "eat=all"];
    let mut container = daemon.start_container(LIMIT_MIB, &steps);
    container.go();
    assert_eq!(container.line(), "born");
    let child = container.cgroup().processes().into_iter().find(|pid| *pid != container.init()).unwrap();
    // Its shims make them likelier victims than themselves.
    let score = fs::read_to_string(format!("/proc/{child}/oom_score_adj")).unwrap().trim().parse().unwrap();
    let window = Window::open();
    container.go();
    assert_eq!(container.line(), "killed=9");
    assert_eq!(container.line(), "alive");
    let id = container.id().to_owned();
    let outcome = |survived| {
        let of_it = |event: &Event| event.text("/workload/container_id") == Some(&*id);
        let is_so = |event: &Event| event.flag("/container_survived") == Some(survived);
        agent.wait_for("what became of it", |event| event.kind() == "oom_outcome" && of_it(event) && is_so(event))
    };
    outcome(true);
    container.go();
    assert_eq!(container.wait().code(), Some(137));
    let window = window.close();
    let ended = outcome(false);
    assert_eq!(ended.number("/exit_code"), Some(137), "{ended}");
    let events = agent.stop();
    let kills = events.kills_below(container.cgroup().path());
    assert_eq!(kills.len(), 2, "{events:#?}");
    for (kill, pid, role) in [(kills[0], child, "process"), (kills[1], container.init(), "init")] {
        let expected = ExpectedKill {
            role,
            limit_owner: "container",
            runtime: "runc",
            engine: "containerd",
            container_id: Some(container.id()),
            anon_mib: 40,
            oom_score_adj: score,
            ..ExpectedKill::of(pid, container.cgroup(), window)
        };
        expected.check(kill);
    }
}
