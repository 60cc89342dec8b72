//! The agent in a container: process ids and mounts of its own, the host below `--host-root`.

use std::{path::Path, process::Command};

use support::{Agent, Output, Plan, Runsc, agent_command, in_some_attempts, require};

/// Starts the agent as the first process of a pid namespace and with a `/proc` of its own, and has it run until the
/// host is seen at `host`.
fn start_in_a_container(host: &Path) -> Agent {
    let agent = agent_command(&[]).get_program().to_owned();
    // exec all along, so that the agent is the process that was started.
    let script = "mount --rbind / \"$2\" && mount -t proc proc /proc && \
                  exec \"$1\" run --output json --workload-events --gvisor-rpc --host-root \"$2\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(agent).arg(host).env("OOMWATCH_LOG", "debug");
    for (name, value) in agent_command(&[]).get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Agent::start_in_new_pids(Output::Json, command)
}

#[test]
fn an_agent_in_a_container_sees_sandboxes_of_the_host_their_kills_and_their_ends() {
    require!(Agent, Runsc, Program("unshare"));
    let host = tempfile::tempdir().expect("a folder for the host");
    let scenario = |runsc| {
        let agent = start_in_a_container(host.path());
        let mut steps = vec!["eat=75"];
        steps.extend(["eat=1", "pause=20"].repeat(160));
        let mut sandbox = Plan::hog(runsc, 128, &steps).start();
        let started = sandbox.wait_for(&agent, "workload_started");
        assert_eq!(started.number("/pid"), Some(sandbox.sentry().into()), "{started}");
        assert_eq!(started.text("/limit_source"), Some("cgroup"), "{started}");
        sandbox.go();
        let warning = sandbox.wait_for(&agent, "near_limit");
        let anonymous = warning.number("/breakdown/anonymous_bytes").unwrap_or_default();
        assert!(anonymous > 70 << 20, "its sentry was not asked: {warning}");
        let kill = sandbox.wait_for(&agent, "oom_kill");
        assert_eq!(kill.text("/victim/role"), Some("stub"), "{kill}");
        sandbox.end()?;
        let outcome = sandbox.wait_for(&agent, "oom_outcome");
        assert_eq!(outcome.flag("/container_survived"), Some(false), "{outcome}");
        for event in [&kill, &outcome] {
            assert_eq!(event.text("/incident_id"), warning.text("/incident_id"), "{event}");
        }
        sandbox.wait_for(&agent, "workload_stopped");
        drop(agent.stop());
        Ok(())
    };
    scenario(Runsc::OLD).unwrap();
    in_some_attempts(|| scenario(Runsc::SYSTRAP));
}
