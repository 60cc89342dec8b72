//! A container of a real containerd, without docker.

use support::{Agent, Containerd, Events as _, ExpectedKill, Window, require};

const LIMIT_MIB: u64 = 64;

#[test]
fn kills_in_a_container_of_containerd_are_told_with_their_roles_and_its_end() {
    require!(Agent, Program("containerd"), Program("ctr"));
    let daemon = Containerd::new();
    let agent = Agent::start();
    let steps = ["child", "say=born", "wait", "eat=all", "end", "reap", "say=alive", "wait", "eat=all"];
    let mut container = daemon.start_container(LIMIT_MIB, &steps);
    container.go();
    assert_eq!(container.line(), "born");
    let child = container.cgroup().processes().into_iter().find(|pid| *pid != container.init()).unwrap();
    let window = Window::open();
    container.go();
    assert_eq!(container.line(), "killed=9");
    assert_eq!(container.line(), "alive");
    let outcome = || {
        let of_it = |event: &support::Event| event.text("/workload/container_id") == Some(container.id());
        agent.wait_for("what became of it", |event| event.kind() == "oom_outcome" && of_it(event))
    };
    assert_eq!(outcome().flag("/container_survived"), Some(true));
    container.go();
    assert_eq!(container.wait().code(), Some(137));
    let window = window.close();
    let ended = agent.wait_for("its end", |event| event.flag("/container_survived") == Some(false));
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
            // containerd makes its containers likelier victims than its shims.
            oom_score_adj: kill.number("/victim/oom_score_adj").map_or(0, u64::cast_signed),
            ..ExpectedKill::of(pid, container.cgroup(), window)
        };
        expected.check(kill);
    }
}
