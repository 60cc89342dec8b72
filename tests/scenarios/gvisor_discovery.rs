//! Sandboxes are found by themselves, however short they live and wherever they come from; what only looks like one
//! is not.

use std::{
    ffi::OsString,
    thread,
    time::{Duration, SystemTime},
};

use support::{Agent, Cgroup, Container, Event, Events as _, Hog, Output, Plan, Runsc, Runtime, require};

/// Shorter than the time to a scan, which would see every end, too.
const NO_SCAN_BY_THEN: Duration = Duration::from_secs(5);
/// A scan that every sandbox would be found by.
const FOUND_BY_THEN: Duration = Duration::from_secs(2);

/// Longer than a sandbox takes to begin where nothing holds it up.
const SLOW: Duration = Duration::from_secs(10);

fn watching() -> Agent {
    Agent::start_with(Output::Json, &["--workload-events"])
}

#[test]
fn a_sandbox_that_lives_for_300_ms_is_seen_to_start_and_to_stop() {
    require!(Agent, Runsc);
    for runsc in [Runsc::OLD, Runsc::PTRACE, Runsc::SYSTRAP] {
        let agent = watching();
        let mut sandbox = Plan::script(runsc, 128, "/hog pause=300").launch();
        assert!(sandbox.wait().success());
        let ended = SystemTime::now();
        let started = sandbox.wait_for(&agent, "workload_started");
        let stopped = sandbox.wait_for(&agent, "workload_stopped");
        assert_eq!(started.number("/limit_bytes"), Some(128 << 20), "{started}");
        assert_eq!(started.text("/limit_source"), Some("cgroup"), "{started}");
        assert_eq!(stopped.number("/pid"), started.number("/pid"), "{stopped}");
        assert!(started.time() <= stopped.time(), "it stopped before it started: {stopped}");
        assert!(stopped.time() < ended + NO_SCAN_BY_THEN, "{stopped}");
        drop(agent.stop());
    }
}

/// As with a small `cpu` limit in Kubernetes.
#[test]
fn a_sandbox_that_hardly_gets_a_processor_is_found_when_it_has_begun() {
    require!(Agent, Runsc);
    let agent = watching();
    let before = SystemTime::now();
    let sandbox = Plan::hog(Runsc::OLD, 128, &[]).cpu_percent(1).start();
    let began = SystemTime::now();
    let started = sandbox.wait_for(&agent, "workload_started");
    let took = began.duration_since(before).expect("a clock that goes on");
    assert!(took > SLOW, "it began within {took:?}");
    assert!(started.time() < began + FOUND_BY_THEN, "{started}");
    drop(agent.stop());
}

#[test]
fn sandboxes_that_were_there_before_the_agent_are_found() {
    require!(Agent, Runsc);
    let attached = Plan::hog(Runsc::OLD, 128, &[]).start();
    let detached = Plan::hog(Runsc::SYSTRAP, 128, &[]).detached().start();
    let agent = watching();
    for sandbox in [&attached, &detached] {
        let started = sandbox.wait_for(&agent, "workload_started");
        assert_eq!(started.number("/pid"), Some(sandbox.sentry().into()), "{started}");
    }
    drop(agent.stop());
}

#[test]
fn a_sandbox_restored_from_a_checkpoint_is_found_and_measured() {
    require!(Agent, Runsc);
    for runsc in [Runsc::OLD, Runsc::SYSTRAP] {
        let agent = watching();
        // A restored sandbox has more memory files than one, of the same name.
        let by_files = Agent::start_with(Output::Json, &["--workload-events", "--estimator", "memfd"]);
        let mut steps = vec!["eat=50", "say=eaten", "pause=6000"];
        steps.extend(["eat=1", "pause=20"].repeat(90));
        let mut first = Plan::hog(runsc, 128, &steps).start();
        first.wait_for(&agent, "workload_started");
        first.go();
        assert_eq!(first.line(), "eaten");
        let image = tempfile::tempdir().expect("make a folder for the image");
        first.checkpoint(image.path());
        first.wait_for(&agent, "workload_stopped");
        let second = support::Sandbox::restore(Plan::hog(runsc, 128, &steps), image.path());
        for agent in [&agent, &by_files] {
            let started = second.wait_for(agent, "workload_started");
            assert_eq!(started.number("/pid"), Some(second.sentry().into()), "{started}");
        }
        for (agent, estimator) in [(&agent, "cgroup"), (&by_files, "memfd")] {
            // Half of its memory came from the image, the other half is new.
            let warning = second.wait_for(agent, "near_limit");
            assert_eq!(warning.number("/limit_bytes"), Some(128 << 20), "{warning}");
            assert_eq!(warning.text("/estimator"), Some(estimator), "{warning}");
        }
        drop((agent.stop(), by_files.stop()));
    }
}

#[test]
fn runsc_do_is_found_though_its_root_is_nowhere_usual() {
    require!(Agent, Runsc);
    for runsc in [Runsc::OLD, Runsc::SYSTRAP] {
        let agent = watching();
        let mut done = runsc.do_it(&["say=ready", "pause=1500"]);
        assert_eq!(done.line(), "ready");
        let started = agent.wait_for("the start of it", |event| {
            event.kind() == "workload_started"
                && event.text("/workload/sandbox_id").is_some_and(|id| id.starts_with("runsc-"))
        });
        assert_eq!(started.text("/workload/runtime"), Some("runsc"), "{started}");
        assert_eq!(started.field("/limit_bytes"), None, "nobody limits it: {started}");
        assert!(done.wait().success());
        agent.wait_for("its end", |event| {
            event.kind() == "workload_stopped" && event.number("/pid") == started.number("/pid")
        });
        drop(agent.stop());
    }
}

/// Arguments as a sentry has them.
const PRETENDED: [&str; 6] =
    ["pretend", "--root=/var/run/runsc", "--platform=systrap", "boot", "--bundle=/tmp", "pretended"];

fn pretender_on_the_host(cgroup: &Cgroup) -> Hog {
    // A mount namespace of its own, as every container has.
    let mut steps: Vec<OsString> = ["exec", "/usr/bin/env", "unshare", "--mount"].map(OsString::from).to_vec();
    steps.push(Hog::program());
    steps.extend(PRETENDED.map(OsString::from));
    let mut hog = Hog::ready_in(cgroup, steps);
    hog.go();
    hog.wait_until_it_says("pretending");
    hog
}

fn pretender_in_a_container() -> Container {
    let mut container = Container::start(Runtime::Runc, 64, &PRETENDED);
    container.go();
    assert_eq!(container.line(), "pretending");
    container
}

#[test]
fn what_calls_itself_a_sentry_is_none() {
    require!(Agent, Runsc, Program("runc"), Program("unshare"));
    let cgroup = Cgroup::scratch().limited_to_mib(64);
    // Before the agent looks around for the first time, and while it is told of every start.
    let (on_host, in_container) = (pretender_on_the_host(&cgroup), pretender_in_a_container());
    let agent = watching();
    let (on_host_too, in_container_too) = (pretender_on_the_host(&cgroup), pretender_in_a_container());
    let real = Plan::hog(Runsc::SYSTRAP, 128, &[]).start();
    real.wait_for(&agent, "workload_started");
    thread::sleep(FOUND_BY_THEN);
    let pretenders = [on_host.pid(), on_host_too.pid(), in_container.init(), in_container_too.init()];
    for pid in pretenders {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).expect("the arguments of a pretender");
        assert!(arguments.starts_with(b"runsc-sandbox\0"), "{pid} does not pretend");
    }
    let events = agent.stop();
    let all = events.of_kind("workload_started").into_iter();
    let started: Vec<&Event> = all.filter(|event| event.text("/source") == Some("gvisor")).collect();
    assert_eq!(started.len(), 1, "{started:#?}");
    assert!(real.concerns(started[0]), "{started:#?}");
}
