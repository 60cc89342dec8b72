//! `oomwatch recommend`: advice from several runs, also after a restart of the agent and without one.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
};

use serde_json::Value;
use support::{
    AskedAgent, Capability, Cgroup, Hog, Place, agent_command, require, run, unique_name, without_capabilities,
};

const MIB: u64 = 1 << 20;

/// Advice on the cgroup of this path.
fn advice(place: &Place, path: &str) -> Option<Value> {
    let finished = place.ask("recommend", &["--output", "json", "--state-dir", place.state().to_str()?]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let all: Vec<Value> = serde_json::from_str(&finished.stdout).ok()?;
    all.into_iter().find(|advice| advice["workload"] == path)
}

/// One life of a cgroup in which so much is held; measured.
fn run_once(agent: &AskedAgent<'_>, path: &str, limit_mib: u64, holds_mib: u64) {
    let mut cgroup = Cgroup::make(path).limited_to_mib(limit_mib);
    let mut hog = Hog::ready_in(&cgroup, [format!("eat={holds_mib}"), "say=full".to_owned(), "wait".to_owned()]);
    hog.go();
    hog.wait_until_it_says("full");
    agent.wait_for_workload("what it holds", |row| {
        row["workload"]["cgroup_id"] == cgroup.id()
            && row["usage_bytes"].as_u64().is_some_and(|usage| usage >= holds_mib * MIB)
    });
    drop(hog);
    cgroup.remove();
    agent.wait_for_workload("its end", |row| row["workload"]["cgroup_id"] == cgroup.id() && row["ended"] == true);
}

#[test]
fn a_wasteful_limit_is_told_after_enough_runs_through_a_restart_of_the_agent() {
    require!(Agent);
    let (place, path) = (Place::new(), format!("/{}", unique_name()));
    let agent = place.agent(&[]);
    for _run in 0..2 {
        run_once(&agent, &path, 512, 40);
    }
    let early = advice(&place, &path).expect("advice");
    assert_eq!(early["verdict"], "too_little_evidence", "{early}");
    agent.stop();
    let agent = place.agent(&[]);
    run_once(&agent, &path, 512, 30);
    let told = advice(&place, &path).expect("advice");
    assert_eq!(told["verdict"], "wasteful", "{told}");
    assert_eq!(told["evidence"]["runs"], 3, "{told}");
    assert_eq!(told["evidence"]["kills"], 0, "{told}");
    assert_eq!(told["limit_bytes"], 512 * MIB, "{told}");
    let peak = told["evidence"]["highest_peak_bytes"].as_u64().expect("a peak");
    assert!((40 * MIB..60 * MIB).contains(&peak), "{told}");
    let suggested = told["suggested_limit_bytes"].as_u64().expect("a limit");
    assert!(peak < suggested && suggested < 128 * MIB, "{told}");

    let shown = place.ask("recommend", &[]);
    assert!(shown.stdout.contains(&format!("{path}: wasteful, lower to ")), "{shown:?}");
    assert!(shown.stdout.lines().all(|line| line.chars().count() <= 80), "more than 80 columns: {}", shown.stdout);
    agent.stop();
    let left = advice(&place, &path).expect("advice");
    for same in ["/verdict", "/suggested_limit_bytes", "/limit_bytes", "/evidence/runs", "/evidence/highest_peak_bytes"]
    {
        assert_eq!(left.pointer(same), told.pointer(same), "what an agent left is what it told: {left}");
    }
}

#[test]
fn a_limit_that_killed_is_too_small_at_once() {
    require!(Agent);
    let place = Place::new();
    let agent = place.agent(&[]);
    let mut cgroup = Cgroup::scratch().limited_to_mib(48);
    let mut hog = Hog::ready_in(&cgroup, ["eat=all"]);
    hog.go();
    hog.wait_until_killed();
    agent.wait_for_kill_of(hog.pid());
    cgroup.remove();
    agent.wait_for_workload("its end", |row| row["workload"]["cgroup_id"] == cgroup.id() && row["ended"] == true);
    let told = advice(&place, cgroup.path().to_str().expect("text")).expect("advice");
    assert_eq!(told["verdict"], "too_small", "{told}");
    assert_eq!(told["evidence"]["kills"], 1, "{told}");
    assert_eq!(told["evidence"]["killed_at_bytes"], 48 * MIB, "{told}");
    assert!(told["suggested_limit_bytes"].as_u64() > Some(64 * MIB), "{told}");
    assert!(told["reason"].as_str().is_some_and(|reason| reason.contains("1 kill")), "{told}");
    agent.stop();
}

#[test]
fn a_kept_history_that_is_damaged_is_said_and_begun_anew() {
    require!(Agent);
    for damaged in ["{\"version\":1,\"groups\":{", "{\"version\":99}"] {
        let place = Place::new();
        fs::create_dir_all(place.state()).expect("make the folder");
        fs::write(place.state().join("history.json"), damaged).expect("write");
        let agent = place.agent(&[]);
        let log = agent.finish().stderr;
        assert_eq!(log.matches("the history cannot be read: it begins anew").count(), 1, "{log}");
        let kept = fs::read(place.state().join("history.json")).expect("the history");
        assert_eq!(serde_json::from_slice::<Value>(&kept).expect("JSON")["version"], 1);
    }
}

#[test]
fn without_an_agent_and_its_state_one_sentence_says_so() {
    require!(Agent);
    let place = Place::new();
    let state = place.state();
    let finished = place.ask("recommend", &["--state-dir", state.to_str().expect("text")]);
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(1), ""), "{finished:?}");
    assert_eq!(finished.stderr.lines().count(), 1, "{finished:?}");
}

#[test]
fn a_history_that_is_not_for_this_user_is_named_with_what_to_do() {
    require!(Agent);
    let place = Place::new();
    let (state, file) = (place.state(), place.state().join("history.json"));
    fs::create_dir_all(&state).expect("make the folder");
    fs::write(&file, "{}").expect("write");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("close it");
    chown(&file, Some(1), Some(1)).expect("give it away");
    let mut command = agent_command(&["recommend", "--socket", "none", "--state-dir", state.to_str().expect("text")]);
    without_capabilities(&mut command, &[Capability::DacOverride, Capability::DacReadSearch]);
    let finished = run(&mut command);
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(1), ""), "{finished:?}");
    let said = format!("{} is for root only; run this as root", file.display());
    assert!(finished.stderr.contains(&said) && finished.stderr.lines().count() == 1, "{finished:?}");
}
