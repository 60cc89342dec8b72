//! `oomwatch ps`: what is under watch, runc and gVisor alike.

use serde_json::Value;
use support::{Cgroup, Container, Hog, Place, Runtime, agent_command, require, run_on_terminal};

const MIB: u64 = 1 << 20;

fn is_container(id: &str) -> impl Fn(&Value) -> bool + '_ {
    move |row| row["workload"]["container_id"] == id
}

fn holds(row: &Value, mib: u64) -> bool {
    row["usage_bytes"].as_u64().is_some_and(|usage| usage >= mib * MIB)
}

/// At which line of the table a workload stands, which is within 80 columns.
fn line_of(table: &str, begin: &str) -> usize {
    for line in table.lines() {
        assert!(line.chars().count() <= 80, "more than 80 columns: {line}");
    }
    let short: String = begin.chars().take(12).collect();
    let found: Vec<usize> =
        table.lines().enumerate().filter(|(_, line)| line.starts_with(&short)).map(|(at, _)| at).collect();
    assert!(!found.is_empty(), "no {short} in\n{table}");
    found[0]
}

/// As with `kubepods.slice`: what one of them holds alone says nothing of their limit.
#[test]
fn a_limit_that_containers_share_stands_in_a_row_of_its_own() {
    require!(Agent, Program("runc"));
    let place = Place::new();
    let agent = place.agent(&["--warn-all"]);
    let around = Cgroup::scratch().limited_to_mib(128);
    let start = || {
        let mut container =
            Container::start_below(around.path(), Runtime::Runc, None, &["eat=50", "say=full", "wait", "eat=all"]);
        container.go();
        assert_eq!(container.line(), "full");
        container
    };
    let mut both = [start(), start()];
    for container in &both {
        let row = agent.wait_for_workload("a container", |row| is_container(container.id())(row) && holds(row, 50));
        assert_eq!(row["limit_bytes"], Value::Null, "{row}");
        assert_eq!(row["usage_percent"], Value::Null, "{row}");
    }
    let path = around.path().to_str().unwrap();
    let is_around = |row: &Value| row["workload"]["cgroup_path"] == path;
    let row = agent.wait_for_workload("their cgroup", |row| is_around(row) && holds(row, 100));
    assert_eq!(row["limit_bytes"], 128 * MIB, "{row}");
    both[0].go();
    both[0].wait();
    let kill = agent.wait_for_kill_of(both[0].init());
    assert_eq!(kill.text("/workload/container_id"), Some(both[0].id()), "{kill}");
    assert_eq!(kill.text("/limit_owner"), Some("slice"), "{kill}");
    agent.wait_for_workload("the kill at their limit", |row| is_around(row) && row["kills"] == 1);
    agent.wait_for_workload("the kill in it", |row| is_container(both[0].id())(row) && row["kills"] == 1);
    let warning = |event: &support::Event| event.kind() == "near_limit";
    let warned = agent.wait_for("a warning", warning);
    assert_eq!(warned.text("/workload/cgroup_path"), Some(path), "{warned}");
    assert_eq!(agent.stop().iter().filter(|event| warning(event)).count(), 1, "of nobody else");
}

#[test]
fn a_container_and_a_cgroup_with_a_limit_are_shown_nearest_to_the_limit_first() {
    require!(Agent, Program("runc"));
    let place = Place::new();
    let agent = place.agent(&[]);
    let mut container = Container::start(Runtime::Runc, 128, &["eat=30", "say=full", "wait"]);
    container.go();
    assert_eq!(container.line(), "full");
    let cgroup = Cgroup::scratch().limited_to_mib(64);
    let mut hog = Hog::ready_in(&cgroup, ["eat=54", "say=full", "wait"]);
    hog.go();
    hog.wait_until_it_says("full");
    let unlimited = Cgroup::scratch();
    let _unseen = Hog::ready_in(&unlimited, ["wait"]);

    let row = agent.wait_for_workload("the container", |row| is_container(container.id())(row) && holds(row, 30));
    assert_eq!(row["workload"]["runtime"], "runc", "{row}");
    assert_eq!(row["limit_bytes"], 128 * MIB, "{row}");
    assert_eq!(row["limit_source"], "cgroup", "{row}");
    assert_eq!(row["limit_enforced"], true, "{row}");
    assert_eq!(row["estimator"], "cgroup", "{row}");
    assert_eq!(row["kills"], 0, "{row}");
    assert_eq!(row["ended"], false, "{row}");
    assert!(row["usage_percent"].as_f64().is_some_and(|percent| (23.0..60.0).contains(&percent)), "{row}");
    assert!(row["peak_bytes"].as_u64() >= row["usage_bytes"].as_u64(), "{row}");
    let path = cgroup.path().to_str().unwrap();
    let is_cgroup = |row: &Value| row["workload"]["cgroup_path"] == path;
    agent.wait_for_workload("the cgroup", |row| is_cgroup(row) && holds(row, 54));
    let workloads = agent.workloads();
    let at = |wanted: &dyn Fn(&Value) -> bool| workloads.iter().position(wanted);
    assert!(at(&is_cgroup) < at(&is_container(container.id())), "not the nearest to its limit first: {workloads:#?}");
    let unlimited = unlimited.path().to_str().unwrap();
    assert_eq!(at(&|row| row["workload"]["cgroup_path"] == unlimited), None, "a cgroup without a limit is no workload");

    let table = place.ask("ps", &[]);
    assert_eq!(table.code, Some(0), "{table:?}");
    let (above, below) =
        (line_of(&table.stdout, &format!("cgroup {}", cgroup.id())), line_of(&table.stdout, container.id()));
    assert!(0 < above && above < below, "{}", table.stdout);
    assert!(!table.stdout.contains('\x1b'), "colours without a terminal: {:?}", table.stdout);
    let on_terminal = |columns: u16, colour: &str| {
        let mut command = agent_command(&["ps", "--socket", place.socket().to_str().unwrap()]);
        command.env("NO_COLOR", colour);
        run_on_terminal(command, columns).lines().map(|line| line.trim_end().to_owned()).collect::<Vec<String>>()
    };
    let coloured = on_terminal(80, "");
    // 54 of 64 MiB and what the process is itself: near the limit, yet not beyond the threshold.
    let short: String = format!("cgroup {}", cgroup.id()).chars().take(12).collect();
    let of_cgroup = coloured.iter().find(|line| line.contains(&short)).unwrap();
    assert!(of_cgroup.starts_with("\x1b[33m") && of_cgroup.ends_with("\x1b[0m"), "{of_cgroup:?}");
    for columns in [60, 80, 120] {
        let lines = on_terminal(columns, "1");
        assert!(lines.iter().all(|line| line.chars().count() <= columns.into()), "{columns}: {lines:#?}");
        assert!(!lines.concat().contains('\x1b'), "colours that were refused: {lines:#?}");
    }
    drop(hog);
    agent.stop();
}

#[test]
fn kills_are_counted_and_an_ended_container_is_shown_on_request_only() {
    require!(Agent, Program("runc"));
    let place = Place::new();
    let agent = place.agent(&[]);
    let mut container = Container::start(Runtime::Runc, 48, &["eat=all"]);
    // What its files say is read a moment after its start.
    agent.wait_until_measured(container.cgroup());
    container.go();
    container.wait();
    agent.wait_for_kill_of(container.init());
    let row = agent
        .wait_for_workload("the end of the container", |row| is_container(container.id())(row) && row["ended"] == true);
    assert_eq!(row["kills"], 1, "{row}");
    let (shown, all) = (place.ask("ps", &[]), place.ask("ps", &["--all"]));
    let short = &container.id()[..12];
    let full_id = |text: &str| text.lines().filter(|line| line.starts_with(short) && line.contains("ended")).count();
    assert_eq!((full_id(&shown.stdout), full_id(&all.stdout)), (0, 1), "{shown:?}{all:?}");
    agent.stop();
}

#[test]
fn without_an_agent_one_sentence_says_what_to_do() {
    require!(Agent);
    let finished = Place::new().ask("ps", &[]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert_eq!(finished.stdout, "");
    assert_eq!(finished.stderr.lines().count(), 1, "{finished:?}");
    assert!(finished.stderr.contains("oomwatch run"), "{finished:?}");
}
