//! Containers of a real dockerd with runsc as their runtime: docker gives the names, and does not know of the sandbox.

use std::collections::HashSet;

use support::{Agent, Dockerd, Events as _, Runsc, Void, in_some_attempts, require};

fn killed_in_docker(runsc: Runsc) -> Result<(), Void> {
    let daemon = Dockerd::start_with_runsc(runsc);
    let agent = Agent::start();
    let mut container = daemon.start_container(128, &["eat=all"]);
    container.go();
    container.end()?;
    let kill = agent.wait_for("the kill", |event| {
        event.kind() == "oom_kill" && event.text("/workload/container_id") == Some(container.id())
    });
    let outcome = agent.wait_for("its outcome", |event| {
        event.kind() == "oom_outcome" && event.text("/workload/container_id") == Some(container.id())
    });
    assert_eq!(container.inspect("{{.State.Status}}"), "exited");
    let code = outcome.number("/exit_code").map(|code| code.to_string());
    assert_eq!(code, Some(container.inspect("{{.State.ExitCode}}")), "{outcome}");
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
    // A stub's death frees nothing, for the memory is the sentry's: the kernel may have to kill once more.
    let kills = events.kills_below(container.cgroup().path());
    let victims: HashSet<_> = kills.iter().map(|kill| kill.number("/victim/pid")).collect();
    assert_eq!(victims.len(), kills.len(), "a victim is told twice: {kills:#?}");
    assert!(kills.iter().all(|kill| kill.text("/workload/container_id") == Some(container.id())), "{kills:#?}");
    Ok(())
}

#[test]
fn a_kill_in_a_docker_container_of_the_old_runsc_is_reported_by_name_and_image() {
    require!(Agent, Runsc, Program("dockerd"), Program("docker"), Program("tar"));
    killed_in_docker(Runsc::OLD).unwrap();
}

#[test]
fn a_kill_in_a_docker_container_on_systrap_is_reported_by_name_and_image() {
    require!(Agent, Runsc, Program("dockerd"), Program("docker"), Program("tar"));
    in_some_attempts(|| killed_in_docker(Runsc::SYSTRAP));
}
