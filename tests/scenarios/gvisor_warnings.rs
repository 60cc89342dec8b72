//! Warnings of a sandbox' memory before anything is killed, by real runsc: in time, true, and none where there is no
//! cause.

use std::collections::HashSet;

use std::{thread, time::Duration};

use support::{Agent, Event, Events as _, Output, Plan, Runsc, Sandbox, Void, in_some_attempts, require};

const MIB: u64 = 1 << 20;

fn watching() -> Agent {
    Agent::start_with(Output::Json, &["--workload-events"])
}

/// Share of the limit; no warning comes without one.
fn percent(event: &Event) -> f64 {
    event.seconds("/usage_percent").unwrap_or(f64::NAN)
}

/// What a warning of a limit in the sandbox' own cgroup must say.
fn check_warning(warning: &Event, sandbox: &Sandbox, limit_bytes: u64) {
    assert_eq!(warning.number("/limit_bytes"), Some(limit_bytes), "{warning}");
    assert_eq!(warning.number("/pid"), Some(sandbox.sentry().into()), "{warning}");
    assert_eq!(warning.text("/limit_source"), Some("cgroup"), "{warning}");
    assert_eq!(warning.flag("/limit_enforced"), Some(true), "{warning}");
    assert_eq!(warning.text("/estimator"), Some("cgroup"), "{warning}");
    assert_eq!(warning.number("/threshold_percent"), Some(95), "{warning}");
    assert!((95.0..=100.0).contains(&percent(warning)), "{warning}");
    assert_eq!(warning.text("/source"), Some("gvisor"), "{warning}");
    assert_eq!(warning.text("/severity"), Some("warning"), "{warning}");
}

fn warned_before_the_kill(runsc: Runsc) -> Result<(), Void> {
    let agent = watching();
    let mut steps = ["eat=1", "pause=20"].repeat(160);
    // Far from the threshold with whatever gVisor and the kernel need themselves, which depends on the machine.
    steps.insert(0, "eat=75");
    let mut sandbox = Plan::hog(runsc, 128, &steps).start();
    let cgroup = sandbox.cgroup();
    sandbox.wait_for(&agent, "workload_started");
    // Its state is gone with it.
    let sentry = sandbox.sentry();
    sandbox.go();
    let warning = sandbox.wait_for(&agent, "near_limit");
    let kill = sandbox.wait_for(&agent, "oom_kill");
    assert!(!sandbox.end()?.success());
    let outcome = sandbox.wait_for(&agent, "oom_outcome");

    assert_eq!(warning.number("/pid"), Some(sentry.into()), "{warning}");
    assert_eq!(warning.number("/limit_bytes"), Some(128 * MIB), "{warning}");
    assert_eq!(warning.text("/limit_source"), Some("cgroup"), "{warning}");
    assert_eq!(warning.flag("/limit_enforced"), Some(true), "{warning}");
    assert_eq!(warning.text("/estimator"), Some("cgroup"), "{warning}");
    assert!((95.0..=100.0).contains(&percent(&warning)), "{warning}");
    let growth = warning.field("/growth_bytes_per_second").and_then(serde_json::Value::as_i64);
    assert!(growth.is_some_and(|growth| growth > 0), "{warning}");
    assert!(warning.seconds("/time_to_limit_seconds").is_some_and(|time| time > 0.0 && time < 60.0), "{warning}");
    assert!(warning.time() < kill.time(), "warned after the kill: {warning}\n{kill}");
    assert_eq!(kill.text("/oom_memcg/path").map(str::as_bytes), Some(cgroup.path_bytes()), "{kill}");
    for event in [&kill, &outcome] {
        assert_eq!(event.text("/incident_id"), warning.text("/incident_id"), "another incident: {event}");
    }
    assert_eq!(outcome.flag("/container_survived"), Some(false), "{outcome}");
    let events = agent.stop();
    let count = |kind| events.of_kind(kind).into_iter().filter(|event| sandbox.concerns(event)).count();
    // A stub's death frees nothing, for the memory is the sentry's: the kernel may have to kill once more.
    assert!((1..=2).contains(&count("oom_kill")), "{events:#?}");
    let kills = events.of_kind("oom_kill").into_iter().filter(|event| sandbox.concerns(event));
    let victims: HashSet<_> = kills.map(|kill| kill.number("/victim/pid")).collect();
    assert_eq!(victims.len(), count("oom_kill"), "a victim is told twice: {events:#?}");
    assert_eq!(["near_limit", "over_limit", "oom_outcome"].map(count), [1, 0, 1], "{events:#?}");
    Ok(())
}

#[test]
fn a_sandbox_of_the_old_runsc_is_warned_of_before_its_kill() {
    require!(Agent, Runsc);
    warned_before_the_kill(Runsc::OLD).unwrap();
}

#[test]
fn a_sandbox_on_ptrace_is_warned_of_before_its_kill() {
    require!(Agent, Runsc);
    warned_before_the_kill(Runsc::PTRACE).unwrap();
}

#[test]
fn a_sandbox_on_systrap_is_warned_of_before_its_kill() {
    require!(Agent, Runsc);
    in_some_attempts(|| warned_before_the_kill(Runsc::SYSTRAP));
}

#[test]
fn one_allocation_that_grew_to_96_percent_is_warned_of_where_the_sum_of_rss_sees_a_fraction_of_it() {
    require!(Agent, Runsc);
    for runsc in [Runsc::OLD, Runsc::SYSTRAP] {
        let agent = watching();
        let mut steps = vec!["grow=205", "say=grown"];
        steps.extend(["wait", "grow=1", "say=grown"].repeat(45));
        let mut sandbox = Plan::hog(runsc, 256, &steps).start();
        let cgroup = sandbox.cgroup();
        sandbox.wait_for(&agent, "workload_started");
        sandbox.go();
        assert_eq!(sandbox.line(), "grown");
        thread::sleep(Duration::from_secs(1));
        let early = agent.events();
        assert_eq!(early.of_kind("near_limit"), Vec::<&Event>::new(), "warned below the threshold");
        // What the kernel cannot take back.
        let charge = || {
            cgroup.usage()
                - cgroup.counter("memory.stat", "active_file")
                - cgroup.counter("memory.stat", "inactive_file")
        };
        while charge() < 256 * MIB / 100 * 96 {
            sandbox.go();
            assert_eq!(sandbox.line(), "grown");
        }
        let warning = sandbox.wait_for(&agent, "near_limit");
        check_warning(&warning, &sandbox, 256 * MIB);
        let rss = sandbox.rss_sum();
        assert!(rss < 256 * MIB / 2, "the sum of VmRSS sees it too, {rss} bytes: this tests nothing");
        assert!(sandbox.is_alive());
        let events = agent.stop();
        assert_eq!(events.kills_below(cgroup.path()).len(), 0);
        assert_eq!(events.of_kind("near_limit").len(), 1, "{events:#?}");
    }
}

#[test]
fn eight_readers_of_a_fifth_of_the_limit_are_no_cause_except_for_the_sum_of_rss() {
    require!(Agent, Runsc);
    for runsc in [Runsc::OLD, Runsc::SYSTRAP] {
        let agent = watching();
        let original = Agent::start_with(Output::Json, &["--workload-events", "--estimator", "rss-sum"]);
        let child = ["child", "read-again", "say=read", "wait", "end"];
        let mut steps = vec!["eat=80"];
        steps.extend(child.repeat(8));
        steps.push("wait");
        let mut sandbox = Plan::hog(runsc, 500, &steps).start();
        sandbox.wait_for(&agent, "workload_started");
        sandbox.wait_for(&original, "workload_started");
        sandbox.go();
        for _child in 0..8 {
            assert_eq!(sandbox.line(), "read");
        }
        let false_alarm = sandbox.wait_for(&original, "near_limit");
        assert_eq!(false_alarm.text("/estimator"), Some("rss-sum"), "{false_alarm}");
        assert_eq!(false_alarm.text("/confidence"), Some("estimated"), "{false_alarm}");
        thread::sleep(Duration::from_secs(2));
        drop(original);
        let events = agent.stop();
        let warned = ["near_limit", "over_limit"].map(|kind| events.of_kind(kind).len());
        assert_eq!(warned, [0, 0], "a false alarm: {events:#?}");
    }
}

#[test]
fn a_limit_that_nothing_enforces_is_told_as_such_and_so_is_the_recovery() {
    require!(Agent, Runsc);
    for runsc in [Runsc::OLD, Runsc::SYSTRAP] {
        let agent = watching();
        let steps = ["eat=160", "say=full", "wait", "free", "say=free", "wait"];
        let mut sandbox = Plan::hog(runsc, 128, &steps).flag("--ignore-cgroups").start();
        let started = sandbox.wait_for(&agent, "workload_started");
        assert_eq!(started.number("/limit_bytes"), Some(128 * MIB), "{started}");
        sandbox.go();
        let over = sandbox.wait_for(&agent, "over_limit");
        assert_eq!(sandbox.line(), "full", "the application lives");
        assert_eq!(over.text("/limit_source"), Some("state"), "{over}");
        assert_eq!(over.flag("/limit_enforced"), Some(false), "{over}");
        assert_eq!(over.text("/estimator"), Some("memfd"), "{over}");
        assert_eq!(over.text("/confidence"), Some("estimated"), "{over}");
        assert_eq!(over.number("/limit_bytes"), Some(128 * MIB), "{over}");
        assert!(over.number("/usage_bytes").is_some_and(|usage| usage >= 128 * MIB), "{over}");
        sandbox.go();
        assert_eq!(sandbox.line(), "free");
        let recovered = sandbox.wait_for(&agent, "recovered");
        assert_eq!(recovered.text("/incident_id"), over.text("/incident_id"), "{recovered}");
        assert!(percent(&recovered) < 90.0, "{recovered}");
        assert!(sandbox.is_alive());
        let events = agent.stop();
        let of_it = |kind| events.of_kind(kind).into_iter().filter(|event| sandbox.concerns(event)).count();
        assert_eq!(["over_limit", "recovered", "oom_kill"].map(of_it), [1, 1, 0], "{events:#?}");
    }
}

#[test]
fn the_memory_files_alone_are_enough_where_they_are_asked_for() {
    require!(Agent, Runsc);
    let agent = Agent::start_with(Output::Json, &["--estimator", "memfd"]);
    let mut sandbox = Plan::hog(Runsc::SYSTRAP, 400, &["eat=376", "say=full", "wait"]).start();
    sandbox.go();
    let warning = sandbox.wait_for(&agent, "near_limit");
    assert_eq!(sandbox.line(), "full");
    assert_eq!(warning.text("/estimator"), Some("memfd"), "{warning}");
    assert_eq!(warning.text("/confidence"), Some("estimated"), "{warning}");
    assert_eq!(warning.text("/limit_source"), Some("cgroup"), "{warning}");
    drop(agent.stop());
}

fn limit_file() -> &'static str {
    if support::memory_cgroup_version() == 1 { "memory.limit_in_bytes" } else { "memory.max" }
}

/// Brings the limit of a sandbox' cgroup down to a little more than its memory.
fn lower_limit(sandbox: &Sandbox) -> u64 {
    let cgroup = sandbox.cgroup();
    let limit = (cgroup.usage() / 50 * 51) & !0xfff;
    cgroup.write(limit_file(), &limit.to_string());
    limit
}

#[test]
fn a_limit_that_changes_is_the_limit_of_the_next_warning() {
    require!(Agent, Runsc);
    for (runsc, estimator) in [(Runsc::OLD, "cgroup"), (Runsc::SYSTRAP, "cgroup"), (Runsc::SYSTRAP, "memfd")] {
        let agent = Agent::start_with(Output::Json, &["--workload-events", "--estimator", estimator]);
        let mut sandbox = Plan::hog(runsc, 512, &["eat=200", "say=full", "wait"]).start();
        sandbox.wait_for(&agent, "workload_started");
        sandbox.go();
        assert_eq!(sandbox.line(), "full");
        thread::sleep(Duration::from_secs(1));
        assert_eq!(agent.events().of_kind("near_limit"), Vec::<&Event>::new());
        let changed = std::time::Instant::now();
        let limit = lower_limit(&sandbox);
        let warning = sandbox.wait_for(&agent, "near_limit");
        assert!(changed.elapsed() < Duration::from_secs(7), "after {:?}: {warning}", changed.elapsed());
        assert_eq!(warning.text("/estimator"), Some(estimator), "{warning}");
        assert_eq!(warning.number("/limit_bytes"), Some(limit), "{warning}");
        assert_eq!(warning.text("/limit_source"), Some("cgroup"), "{warning}");
        assert_eq!(warning.flag("/limit_enforced"), Some(true), "{warning}");
        drop(agent.stop());
    }
}

#[test]
fn a_limit_that_changes_as_soon_as_a_sandbox_is_found_is_seen() {
    require!(Agent, Runsc);
    for estimator in ["auto", "memfd"] {
        let mut sandbox = Plan::hog(Runsc::SYSTRAP, 400, &["eat=200", "say=full", "wait"]).start();
        sandbox.go();
        assert_eq!(sandbox.line(), "full");
        let agent = Agent::start_with(Output::Json, &["--workload-events", "--estimator", estimator]);
        sandbox.wait_for(&agent, "workload_started");
        let limit = lower_limit(&sandbox);
        let warning = sandbox.wait_for(&agent, "near_limit");
        assert_eq!(warning.number("/limit_bytes"), Some(limit), "{warning}");
        drop(agent.stop());
    }
}

#[test]
fn a_sandbox_that_stands_still_is_measured_and_holds_up_no_other() {
    require!(Agent, Runsc);
    for (runsc, estimator) in [(Runsc::SYSTRAP, "auto"), (Runsc::OLD, "memfd"), (Runsc::SYSTRAP, "memfd")] {
        let agent = Agent::start_with(Output::Json, &["--workload-events", "--estimator", estimator]);
        let mut still = Plan::hog(runsc, 400, &["eat=200", "say=full", "wait"]).start();
        let mut other = Plan::hog(Runsc::OLD, 256, &["eat=242", "say=full", "wait"]).start();
        for sandbox in [&still, &other] {
            sandbox.wait_for(&agent, "workload_started");
        }
        still.go();
        assert_eq!(still.line(), "full");
        still.pause();
        other.go();
        other.wait_for(&agent, "near_limit");
        // What stands still is measured as ever: its memory comes near a limit that comes near its memory.
        let limit = lower_limit(&still);
        let warning = still.wait_for(&agent, "near_limit");
        assert_eq!(warning.number("/limit_bytes"), Some(limit), "{warning}");
        still.resume();
        drop(agent.stop());
    }
}

#[test]
fn a_sandbox_of_a_thousand_processes_is_measured_as_one_of_few() {
    require!(Agent, Runsc);
    // On systrap each process of the application is two of the host's.
    let agent = Agent::start_with(Output::Json, &["--workload-events", "--estimator", "memfd"]);
    let by_cgroup = watching();
    let mut steps = ["child", "sleep", "end"].repeat(1000);
    steps.extend(["eat=300", "say=full", "wait"]);
    let mut sandbox = Plan::hog(Runsc::SYSTRAP, 1024, &steps).start();
    for agent in [&agent, &by_cgroup] {
        sandbox.wait_for(agent, "workload_started");
    }
    sandbox.go();
    assert_eq!(sandbox.line(), "full");
    let processes = sandbox.cgroup().read("cgroup.procs").lines().count();
    assert!(processes >= 2000, "{processes} processes: this tests nothing");
    assert_eq!(agent.events().of_kind("near_limit"), Vec::<&Event>::new(), "a false alarm");
    lower_limit(&sandbox);
    for (agent, estimator) in [(&agent, "memfd"), (&by_cgroup, "cgroup")] {
        let warning = sandbox.wait_for(agent, "near_limit");
        assert_eq!(warning.text("/estimator"), Some(estimator), "{warning}");
        assert!((95.0..=103.0).contains(&percent(&warning)), "{warning}");
    }
    drop((agent.stop(), by_cgroup.stop()));
}

#[test]
fn a_sentry_that_is_asked_says_what_its_memory_is() {
    require!(Agent, Runsc);
    for runsc in [Runsc::OLD, Runsc::SYSTRAP] {
        let agent = Agent::start_with(Output::Json, &["--workload-events", "--gvisor-rpc"]);
        let mut sandbox = Plan::hog(runsc, 256, &["eat=236", "say=full", "wait"]).start();
        sandbox.wait_for(&agent, "workload_started");
        sandbox.go();
        let warning = sandbox.wait_for(&agent, "near_limit");
        check_warning(&warning, &sandbox, 256 * MIB);
        assert_eq!(sandbox.line(), "full");
        let anonymous = warning.number("/breakdown/anonymous_bytes").unwrap_or_default();
        assert!((200 * MIB..=256 * MIB).contains(&anonymous), "{warning}");
        assert!(warning.number("/breakdown/total_bytes").is_some_and(|total| total >= anonymous), "{warning}");
        drop(agent.stop());
    }
}

#[test]
fn a_sentry_that_does_not_answer_is_warned_of_all_the_same() {
    require!(Agent, Runsc);
    let agent = Agent::start_with(Output::Json, &["--workload-events", "--gvisor-rpc"]);
    let mut sandbox = Plan::hog(Runsc::SYSTRAP, 400, &["eat=100", "say=full", "wait"]).start();
    sandbox.wait_for(&agent, "workload_started");
    sandbox.go();
    assert_eq!(sandbox.line(), "full");
    sandbox.pause();
    lower_limit(&sandbox);
    let warning = sandbox.wait_for(&agent, "near_limit");
    assert_eq!(warning.field("/breakdown"), None, "{warning}");
    sandbox.resume();
    drop(agent.stop());
}

#[test]
fn a_threshold_that_is_lowered_while_the_agent_runs_warns_of_what_is_above_it() {
    require!(Agent, Runsc);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, "").unwrap();
    let agent = Agent::start_with(Output::Json, &["--workload-events", "--config", file.to_str().unwrap()]);
    let mut sandbox = Plan::hog(Runsc::SYSTRAP, 256, &["eat=160", "say=full", "wait"]).start();
    sandbox.wait_for(&agent, "workload_started");
    sandbox.go();
    assert_eq!(sandbox.line(), "full");
    thread::sleep(Duration::from_secs(1));
    assert_eq!(agent.events().of_kind("near_limit"), Vec::<&Event>::new(), "warned below the threshold");
    std::fs::write(&file, "threshold-percent = 50\nestimator = 'memfd'").unwrap();
    agent.hang_up();
    let warning = sandbox.wait_for(&agent, "near_limit");
    assert_eq!(warning.number("/threshold_percent"), Some(50), "{warning}");
    assert_eq!(warning.text("/estimator"), Some("memfd"), "{warning}");
    drop(agent.stop());
}
