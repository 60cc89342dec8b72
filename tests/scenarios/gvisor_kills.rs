//! Kernel kills inside sandboxes of real runsc: whose they were, in which role the victim was, and what became of the
//! sandbox, whatever its exit code pretends.

use std::{collections::HashSet, fs, time::Duration};

use support::{
    Agent, Cgroup, EVENT_TIMEOUT, Event, Events as _, Output, PROCESS_TIMEOUT, Plan, Runsc, Sandbox, Void, in_guest,
    in_some_attempts, memory_cgroup_version, require, wait_for,
};

/// Enough for the application to be larger than the sentry, which has 33 MiB, and no more: an emulated processor takes long to
/// fill it.
const LIMIT_MIB: u64 = 64;
/// Of two containers, of which one has 40 MiB: the other is to be larger than the sentry, too.
const POD_LIMIT_MIB: u64 = 160;

fn watching() -> Agent {
    Agent::start_with(Output::Json, &["--workload-events"])
}

/// What the report of a kill in a sandbox must say.
fn check_kill(kill: &Event, sandbox: &Sandbox, cgroup: &Cgroup, role: &str) {
    let limit = cgroup.limit_bytes();
    let path = cgroup.path().to_str().unwrap_or("no path");
    for (field, value) in [
        ("/severity", "critical"),
        ("/source", "bpf"),
        ("/confidence", "exact"),
        ("/scope", "memcg"),
        ("/limit_owner", "container"),
        ("/victim/role", role),
        ("/workload/runtime", "runsc"),
        ("/workload/container_id", sandbox.id()),
        ("/workload/sandbox_id", sandbox.id()),
        ("/workload/cgroup_path", path),
        ("/oom_memcg/path", path),
        ("/task_memcg/path", path),
    ] {
        assert_eq!(kill.text(field), Some(value), "{field} of {kill}");
    }
    assert_eq!(kill.number("/oom_memcg/id"), Some(cgroup.id()), "{kill}");
    assert_eq!(kill.number("/oom_memcg/limit_bytes"), Some(limit), "{kill}");
    let usage = kill.number("/oom_memcg/usage_bytes").unwrap_or_default();
    // A charge that is being tried counts until it is refused, so the limit may seem to be passed.
    assert!(usage.abs_diff(limit) < 2 << 20, "{kill}");
}

/// How long the agent waits for the end of a sandbox in which the kernel killed, at least.
const VERDICT: Duration = Duration::from_millis(1700);

/// By the kernel's count, or because the sandbox and its cgroup are gone already.
fn was_killed_in(cgroup: &Cgroup) -> bool {
    let file = if memory_cgroup_version() == 1 { "memory.oom_control" } else { "memory.events" };
    let Ok(text) = fs::read_to_string(cgroup.folder().join(file)) else { return true };
    text.lines().filter_map(|line| line.strip_prefix("oom_kill ")).any(|count| count != "0")
}

/// Lets a sandbox run into its limit; the kill and what became of it.
fn kill_in(agent: &Agent, sandbox: &mut Sandbox, role: &str) -> (Event, Event) {
    let cgroup = sandbox.cgroup();
    let (sentry, gofers) = (sandbox.sentry(), sandbox.gofers());
    sandbox.wait_for(agent, "workload_started");
    sandbox.go();
    // Until then it fills its memory, for as long as that takes an emulated processor.
    wait_for("the kernel to kill", PROCESS_TIMEOUT, || was_killed_in(&cgroup).then_some(()));
    let kill = sandbox.wait_for(agent, "oom_kill");
    check_kill(&kill, sandbox, &cgroup, role);
    let victim = kill.number("/victim/pid");
    assert!(victim.is_some(), "{kill}");
    assert_eq!(victim == Some(sentry.into()), role == "sentry", "{kill}");
    assert!(gofers.iter().all(|gofer| victim != Some((*gofer).into())), "{kill}");
    let outcome = sandbox.wait_for(agent, "oom_outcome");
    assert_eq!(outcome.text("/incident_id"), kill.text("/incident_id"), "{outcome}");
    (kill, outcome)
}

/// The sandbox ended, and the code told is that of `runsc run`.
fn check_end(outcome: &Event, sandbox: &mut Sandbox) {
    assert_eq!(outcome.flag("/container_survived"), Some(false), "{outcome}");
    let code = sandbox.wait().code().and_then(|code| u64::try_from(code).ok());
    assert!(code.is_some());
    assert_eq!(outcome.number("/exit_code"), code, "{outcome}");
}

/// A sentry on a slow machine takes longer to end than the verdict may wait; then it was true when it was said.
fn check_survived_until_then(agent: &Agent, sandbox: &mut Sandbox, kill: &Event, outcome: &Event) -> Result<(), Void> {
    sandbox.end()?;
    let ended = sandbox.wait_for(agent, "workload_stopped");
    let (said, later) = (outcome.time().duration_since(kill.time()), ended.time().duration_since(outcome.time()));
    assert!(said.is_ok_and(|said| said >= VERDICT) && later.is_ok(), "{kill} {outcome} {ended}");
    Ok(())
}

/// The kernel may have killed the sentry as well, which needs memory before it has freed the application's: then both are
/// one incident. On systrap no other end has this code.
fn only_the_stub_is_killed(agent: &Agent, sandbox: &mut Sandbox, outcome: &Event) -> Result<(), Void> {
    if outcome.number("/exit_code") != Some(137) {
        return Ok(());
    }
    let second = agent.wait_for("the kill of the sentry", |event| {
        event.kind() == "oom_kill" && sandbox.concerns(event) && event.text("/victim/role") == Some("sentry")
    });
    assert_eq!(second.text("/incident_id"), outcome.text("/incident_id"), "{second} {outcome}");
    check_end(outcome, sandbox);
    Err(Void("the kernel killed the sentry as well"))
}

fn killed_stub(runsc: Runsc) -> Result<(), Void> {
    let agent = watching();
    let mut sandbox = Plan::hog(runsc, LIMIT_MIB, &["eat=all"]).start();
    let (kill, outcome) = kill_in(&agent, &mut sandbox, "stub");
    if outcome.flag("/container_survived") == Some(true) {
        check_survived_until_then(&agent, &mut sandbox, &kill, &outcome)?;
    } else {
        check_end(&outcome, &mut sandbox);
    }
    let events = agent.stop();
    let of_it = |kind| events.of_kind(kind).into_iter().filter(|event| sandbox.concerns(event)).count();
    // A stub's death frees nothing, for the memory is the sentry's: the kernel may have to kill once more.
    assert!((1..=2).contains(&of_it("oom_kill")), "{events:#?}");
    let kills = events.of_kind("oom_kill").into_iter().filter(|event| sandbox.concerns(event));
    let victims: HashSet<_> = kills.map(|kill| kill.number("/victim/pid")).collect();
    assert_eq!(victims.len(), of_it("oom_kill"), "a victim is told twice: {events:#?}");
    // Where that comes after the verdict, this is corrected.
    let is_corrected = of_it("oom_kill") == 2 && outcome.flag("/container_survived") == Some(true);
    assert!(of_it("oom_outcome") == 1 || is_corrected && of_it("oom_outcome") == 2, "{events:#?}");
    assert_eq!(of_it("workload_stopped"), 1, "{events:#?}");
    Ok(())
}

#[test]
fn the_application_of_the_old_runsc_is_killed_as_a_stub() {
    require!(Agent, Runsc);
    killed_stub(Runsc::OLD).unwrap();
}

#[test]
fn the_application_on_ptrace_is_killed_as_a_stub() {
    require!(Agent, Runsc);
    killed_stub(Runsc::PTRACE).unwrap();
}

#[test]
fn the_application_on_systrap_is_killed_as_a_stub() {
    require!(Agent, Runsc);
    in_some_attempts(|| killed_stub(Runsc::SYSTRAP));
}

#[test]
fn files_in_memory_kill_the_sentry() {
    require!(Agent, Runsc);
    let all = [Runsc::SYSTRAP, Runsc::OLD, Runsc::PTRACE];
    // Each takes ten seconds in the virtual machine.
    for runsc in all.into_iter().take(if in_guest() { 1 } else { all.len() }) {
        let agent = watching();
        let mut sandbox = Plan::hog(runsc, LIMIT_MIB, &["write-file=/tmp/file"]).start();
        let (_kill, outcome) = kill_in(&agent, &mut sandbox, "sentry");
        assert_eq!(outcome.number("/exit_code"), Some(137), "{outcome}");
        check_end(&outcome, &mut sandbox);
        drop(agent.stop());
    }
}

#[test]
fn a_sandbox_on_systrap_survives_the_kill_of_a_child() {
    require!(Agent, Runsc);
    in_some_attempts(|| {
        let agent = watching();
        let steps = ["child", "eat=all", "end", "reap", "say=alive", "wait"];
        let mut sandbox = Plan::hog(Runsc::SYSTRAP, LIMIT_MIB, &steps).start();
        let (_kill, outcome) = kill_in(&agent, &mut sandbox, "stub");
        only_the_stub_is_killed(&agent, &mut sandbox, &outcome)?;
        assert_eq!(outcome.flag("/container_survived"), Some(true), "{outcome}");
        assert_eq!(outcome.field("/exit_code"), None, "{outcome}");
        assert!(sandbox.is_alive());
        let line = sandbox.line_within(EVENT_TIMEOUT).ok_or(Void::HUNG)?;
        assert_eq!(line, "exited=1", "the parent is not told that it was a signal");
        assert_eq!(sandbox.line(), "alive");
        sandbox.go();
        assert!(sandbox.wait().success());
        drop(agent.stop());
        Ok(())
    });
}

#[test]
fn an_exit_code_of_0_hides_no_kill() {
    require!(Agent, Runsc);
    in_some_attempts(|| {
        let agent = watching();
        let mut sandbox = Plan::script(Runsc::SYSTRAP, LIMIT_MIB, "/hog say=ready wait eat=all; exit 0").start();
        let (kill, outcome) = kill_in(&agent, &mut sandbox, "stub");
        if outcome.flag("/container_survived") == Some(true) {
            check_survived_until_then(&agent, &mut sandbox, &kill, &outcome)?;
            return Err(Void("the sentry did not end in time"));
        }
        only_the_stub_is_killed(&agent, &mut sandbox, &outcome)?;
        assert_eq!(outcome.number("/exit_code"), Some(0), "runsc says that all is well: {outcome}");
        check_end(&outcome, &mut sandbox);
        drop(agent.stop());
        Ok(())
    });
}

#[test]
fn a_detached_sandbox_whose_state_says_running_for_ever_did_not_survive() {
    require!(Agent, Runsc);
    let agent = watching();
    let mut sandbox = Plan::hog(Runsc::OLD, LIMIT_MIB, &["eat=all"]).detached().start();
    let (_kill, outcome) = kill_in(&agent, &mut sandbox, "stub");
    assert_eq!(outcome.flag("/container_survived"), Some(false), "{outcome}");
    drop(agent.stop());
}

#[test]
fn a_gofer_is_told_from_sentry_and_stubs() {
    require!(Agent, Runsc);
    for runsc in [Runsc::OLD, Runsc::SYSTRAP] {
        let agent = watching();
        let mut sandbox = Plan::hog(runsc, LIMIT_MIB, &["eat=all"]).start();
        sandbox.wait_for(&agent, "workload_started");
        let gofer = sandbox.gofers()[0];
        // By itself the kernel chooses another.
        fs::write(format!("/proc/{gofer}/oom_score_adj"), "1000").expect("make the gofer the one to be killed");
        sandbox.go();
        let kill = sandbox.wait_for(&agent, "oom_kill");
        assert_eq!(kill.number("/victim/pid"), Some(gofer.into()), "{kill}");
        assert_eq!(kill.text("/victim/role"), Some("gofer"), "{kill}");
        sandbox.wait_for(&agent, "oom_outcome");
        drop(agent.stop());
    }
}

#[test]
fn a_sandbox_whose_limit_does_not_let_it_begin_is_no_stranger() {
    require!(Agent, Runsc);
    for runsc in [Runsc::OLD, Runsc::SYSTRAP] {
        let agent = watching();
        let mut sandbox = Plan::script(runsc, 6, "exit 0").launch();
        let kill = sandbox.wait_for(&agent, "oom_kill");
        assert!(!sandbox.wait().success());
        assert_eq!(kill.text("/confidence"), Some("exact"), "{kill}");
        assert!(matches!(kill.text("/victim/role"), Some("sentry" | "stub" | "gofer")), "{kill}");
        let outcome = sandbox.wait_for(&agent, "oom_outcome");
        assert_eq!(outcome.flag("/container_survived"), Some(false), "{outcome}");
        assert_eq!(outcome.text("/incident_id"), kill.text("/incident_id"), "{outcome}");
        drop(agent.stop());
    }
}

#[test]
fn a_pod_of_three_containers_is_one_sandbox_and_its_limit_that_of_the_first() {
    require!(Agent, Runsc);
    for runsc in [Runsc::OLD, Runsc::SYSTRAP] {
        let agent = watching();
        let mut pod = Plan::hog(runsc, POD_LIMIT_MIB, &["wait"]).pod().start();
        let cgroup = pod.cgroup();
        pod.wait_for(&agent, "workload_started");
        let eater = pod.add_container(32, &["eat=all"]);
        let idle = pod.add_container(32, &["eat=40", "say=full", "wait"]);
        assert_eq!(pod.gofers().len(), 3);
        pod.let_go(idle);
        assert_eq!(pod.line_of(idle), "full", "nothing enforces the limit of a container in a pod");
        pod.let_go(eater);
        let kill = pod.wait_for(&agent, "oom_kill");
        check_kill(&kill, &pod, &cgroup, "stub");
        pod.wait_for(&agent, "oom_outcome");
        let events = agent.stop();
        let started = events.of_kind("workload_started").into_iter().filter(|event| pod.concerns(event)).count();
        assert_eq!(started, 1, "{events:#?}");
        // Other sandboxes of this host are none of this scenario's.
        let ours = format!("oomwatch-test-{}-", std::process::id());
        let is_ours = |event: &&Event| event.text("/workload/container_id").is_some_and(|id| id.starts_with(&ours));
        let all = events.of_kind("workload_started").into_iter().filter(is_ours).count();
        assert_eq!(all, 1, "a container of the pod counts as a sandbox: {events:#?}");
    }
}
