//! The agent's end: what was killed before it is still told.

use rustix::process::Signal;
use support::{Agent, Cgroup, Events as _, ExpectedKill, Hog, Output, Window, require};

/// Ends the agent as soon as the test knows of the kill itself, a few milliseconds after it.
fn kill_right_before(signal: Signal) {
    let cgroup = Cgroup::scratch().limited_to_mib(16);
    let agent = Agent::start();
    let mut hog = Hog::ready_in(&cgroup, ["eat=all"]);
    let window = Window::open();
    hog.go();
    hog.wait_until_killed();
    let window = window.close();
    let events = agent.stop_by(signal);
    ExpectedKill::of(hog.pid(), &cgroup, window).check(events.only_kill_below(cgroup.path()));
}

#[test]
fn a_kill_right_before_sigterm_is_reported() {
    require!(Agent);
    for _ in 0..3 {
        kill_right_before(Signal::TERM);
    }
}

#[test]
fn a_kill_right_before_sigint_is_reported() {
    require!(Agent);
    kill_right_before(Signal::INT);
}

#[test]
fn kills_that_the_agent_had_no_time_to_read_are_reported_at_its_end() {
    require!(Agent);
    let cgroup = Cgroup::scratch().limited_to_mib(16);
    let agent = Agent::start();
    agent.pause();
    let mut pids = Vec::new();
    for _ in 0..5 {
        let mut hog = Hog::ready_in(&cgroup, ["eat=all"]);
        hog.go();
        hog.wait_until_killed();
        pids.push(u64::from(hog.pid()));
    }
    // Both signals are there when it runs again.
    agent.ask_to_end(Signal::TERM);
    agent.resume();
    let events = agent.stop();
    let kills = events.kills_below(cgroup.path());
    let reported: Vec<_> = kills.iter().filter_map(|kill| kill.number("/victim/pid")).collect();
    assert_eq!(reported, pids, "{kills:#?}");
}

#[test]
fn an_agent_with_nothing_to_tell_starts_and_stops() {
    require!(Agent);
    let events = Agent::start().stop();
    for event in [&events[0], &events[events.len() - 1]] {
        assert_eq!(event.text("/severity"), Some("info"), "{event}");
        assert_eq!(event.text("/source"), Some("agent"), "{event}");
        assert!(event.text("/version").is_some_and(|version| !version.is_empty()), "{event}");
        assert!(event.text("/tier").is_some_and(|tier| tier.starts_with("bpf+")), "{event}");
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(event.text("/kernel"), Some(kernel.trim()), "{event}");
        assert_eq!(event.number("/cgroup_version"), Some(support::memory_cgroup_version().into()), "{event}");
        assert!(event.field("/degraded").is_some_and(serde_json::Value::is_array), "{event}");
        assert_eq!(event.field("/workload"), None, "{event}");
    }
}

#[test]
fn text_begins_and_ends_with_the_agents_own_lines_and_the_log_is_elsewhere() {
    require!(Agent);
    let finished = Agent::start_with(Output::Text, &[]).finish(Signal::TERM);
    let lines: Vec<&str> = finished.stdout.lines().collect();
    assert!(lines[0].contains(" INF oomwatch started version="), "{lines:?}");
    assert!(lines[lines.len() - 1].contains(" INF oomwatch stopped "), "{lines:?}");
    assert!(!finished.stderr.contains("oomwatch started"), "an event in the log: {}", finished.stderr);
}
