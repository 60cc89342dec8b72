//! Containers of a real dockerd. On the host only: the daemon wants kernel modules and a disk.

use support::{Agent, DockerContainer, Dockerd, Events as _, ExpectedKill, Window, require};

const LIMIT_MIB: u64 = 64;

fn expected<'a>(container: &'a DockerContainer<'_>, pid: u32, window: Window) -> ExpectedKill<'a> {
    ExpectedKill {
        limit_owner: "container",
        runtime: "runc",
        engine: "docker",
        container_id: Some(container.id()),
        container_name: Some(container.name()),
        image: Some(container.image()),
        anon_mib: 40,
        ..ExpectedKill::of(pid, container.cgroup(), window)
    }
}

#[test]
fn the_killed_init_of_a_docker_container_is_reported_by_name_and_image() {
    require!(Agent, Program("dockerd"), Program("docker"), Program("tar"));
    let daemon = Dockerd::start();
    let agent = Agent::start();
    let mut container = daemon.start_container(LIMIT_MIB, &["eat=all"]);
    let window = Window::open();
    container.go();
    let status = container.wait();
    let window = window.close();
    assert_eq!(status.code(), Some(137));
    agent.wait_for_kill_of(container.init());
    let outcome = agent.wait_for("its outcome", |event| {
        event.kind() == "oom_outcome" && event.text("/workload/container_id") == Some(container.id())
    });
    assert_eq!((outcome.flag("/container_survived"), outcome.number("/exit_code")), (Some(false), Some(137)));
    let events = agent.stop();
    let expected = ExpectedKill { role: "init", ..expected(&container, container.init(), window) };
    expected.check(events.only_kill_below(container.cgroup().path()));
}

#[test]
fn the_killed_child_in_a_docker_container_that_survives_is_reported_by_name_and_image() {
    require!(Agent, Program("dockerd"), Program("docker"), Program("tar"));
    let daemon = Dockerd::start();
    let agent = Agent::start();
    let steps = ["child", "say=born", "wait", "eat=all", "end", "reap", "say=alive", "wait"];
    let mut container = daemon.start_container(LIMIT_MIB, &steps);
    container.go();
    assert_eq!(container.line(), "born");
    let child = container.cgroup().processes().into_iter().find(|pid| *pid != container.init()).unwrap();
    let window = Window::open();
    container.go();
    assert_eq!(container.line(), "killed=9");
    let window = window.close();
    assert_eq!(container.line(), "alive");
    agent.wait_for_kill_of(child);
    assert_eq!(container.inspect("{{.State.Running}}"), "true", "the container survived");
    assert_eq!(container.cgroup().kernel_count_of_kills(), 1);
    let events = agent.stop();
    let expected = ExpectedKill { role: "process", ..expected(&container, child, window) };
    expected.check(events.only_kill_below(container.cgroup().path()));
}

#[test]
fn a_docker_container_below_a_parent_of_the_users_own_is_found_too() {
    require!(Agent, Program("dockerd"), Program("docker"), Program("tar"));
    let daemon = Dockerd::start();
    let agent = Agent::start();
    let parent = support::unique_name();
    let mut container = daemon.start_container_below(&parent, LIMIT_MIB, &["eat=all"]);
    let window = Window::open();
    container.go();
    container.wait();
    let window = window.close();
    let events = agent.stop();
    let expected = ExpectedKill { role: "init", ..expected(&container, container.init(), window) };
    expected.check(events.only_kill_below(container.cgroup().path()));
}
