//! Containers of a real dockerd with runsc as their runtime: what docker does not tell.

use support::{Agent, Dockerd, Events as _, Runsc, require};

#[test]
fn a_kill_that_docker_denies_is_reported_by_name_and_image() {
    require!(Agent, Runsc, Program("dockerd"), Program("docker"), Program("tar"));
    let daemon = Dockerd::start_with_runsc(Runsc::SYSTRAP);
    let agent = Agent::start();
    let mut container = daemon.start_container(128, &["eat=all"]);
    container.go();
    container.wait();
    let kill = agent.wait_for("the kill", |event| {
        event.kind() == "oom_kill" && event.text("/workload/container_id") == Some(container.id())
    });
    let outcome = agent.wait_for("its outcome", |event| event.kind() == "oom_outcome");
    assert_eq!(container.inspect("{{.State.OOMKilled}}"), "false", "docker knows by now: this tests nothing");
    for (field, value) in [
        ("/confidence", "exact"),
        ("/victim/role", "stub"),
        ("/workload/runtime", "runsc"),
        ("/workload/engine", "docker"),
        ("/workload/sandbox_id", container.id()),
        ("/workload/container_name", container.name()),
        ("/workload/image", container.image()),
    ] {
        assert_eq!(kill.text(field), Some(value), "{field} of {kill}");
    }
    assert_eq!(outcome.text("/incident_id"), kill.text("/incident_id"), "{outcome}");
    assert_eq!(outcome.text("/workload/container_name"), Some(container.name()), "{outcome}");
    let events = agent.stop();
    assert_eq!(events.kills_below(container.cgroup().path()).len(), 1);
}
