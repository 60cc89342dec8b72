//! Runs of workloads without an agent.

use super::*;

fn run(id: &str, seconds: u64) -> Run {
    Run {
        id: id.to_owned(),
        first_seconds: seconds,
        last_seconds: seconds,
        peak_bytes: 100,
        limit_bytes: Some(200),
        kills: 1,
        killed_at_bytes: Some(200),
        warnings: 2,
    }
}

#[test]
fn a_run_that_outlives_the_agent_stays_one_run() {
    let mut history = History::default();
    history.observe("web", run("a", 10), false);
    let json = serde_json::to_vec(&history).unwrap();
    let mut history = History::parse(&json).unwrap();
    history.observe("web", Run { peak_bytes: 150, limit_bytes: None, kills: 0, ..run("a", 20) }, false);
    let (_, group) = history.groups().next().unwrap();
    let expected = Run { first_seconds: 10, peak_bytes: 150, limit_bytes: None, warnings: 4, ..run("a", 20) };
    assert_eq!(group.runs, [expected]);
}

#[test]
fn runs_and_workloads_are_bounded_and_the_oldest_go() {
    let mut history = History::default();
    for at in 0..40 {
        history.observe("web", run(&at.to_string(), at), false);
    }
    let (_, group) = history.groups().next().unwrap();
    assert_eq!((group.runs.len(), group.earlier_runs), (MAX_RUNS, 24));
    assert_eq!(group.runs[0].id, "24");
    for at in 0..2000 {
        history.observe(&format!("w{at}"), run("a", 1000 + at), false);
    }
    assert_eq!(history.groups.len(), MAX_GROUPS);
    assert!(!history.groups.contains_key("web") && history.groups.contains_key("w1999"));
}

#[test]
fn a_run_that_went_for_newer_ones_does_not_come_back() {
    let mut history = History::default();
    for round in 0..5 {
        for at in 0..100 {
            let peak_bytes = if at == 3 { 100 + round } else { 100 };
            let seen = Run { peak_bytes, last_seconds: 100 + round, ..run(&at.to_string(), at) };
            history.observe("web", seen, round > 0);
        }
    }
    let (_, group) = history.groups().next().unwrap();
    assert_eq!(group.earlier_runs, 84);
    let ids: Vec<_> = group.runs.iter().map(|run| run.id.clone()).collect();
    assert_eq!(ids, (84..100).map(|at| at.to_string()).collect::<Vec<_>>());
    assert!(group.runs.iter().all(|run| run.kills == 5), "{group:?}");
    assert_eq!((group.earlier_kills, group.earlier_warnings), (5 * 84, 10 * 84), "what happens in them counts still");
    assert_eq!(group.beside().map(|beside| (beside.peak_bytes, beside.killed_at_bytes)), Some((104, Some(200))));
}

#[test]
fn runs_that_live_on_are_no_new_ones_to_the_next_agent() {
    let mut history = History::default();
    (0..20).for_each(|at| history.observe("web", run(&at.to_string(), at), false));
    let mut history = History::parse(&serde_json::to_vec(&history).unwrap()).unwrap();
    (0..20).for_each(|at| history.observe("web", run(&at.to_string(), at), false));
    let (_, group) = history.groups().next().unwrap();
    assert_eq!((group.runs.len(), group.earlier_runs), (MAX_RUNS, 4));
}

#[test]
fn what_was_beside_is_forgotten_with_the_runs_of_its_time() {
    let mut history = History::default();
    (0..17).for_each(|at| history.observe("web", run(&at.to_string(), at), false));
    history.observe("web", Run { peak_bytes: 900, ..run("0", 17) }, true);
    assert_eq!(history.groups().next().unwrap().1.beside().map(|beside| beside.peak_bytes), Some(900));
    (20..40).for_each(|at| history.observe("web", run(&at.to_string(), at), false));
    assert_eq!(history.groups().next().unwrap().1.beside(), None);
}

#[test]
fn what_is_no_history_is_refused() {
    for text in ["", "{", "[]", "{}", "null", r#"{"version":"1"}"#, r#"{"version":1}"#, r#"{"version":1,"groups":7}"#] {
        assert!(matches!(History::parse(text.as_bytes()), Err(HistoryError::Malformed(_))), "{text}");
    }
    let other = History::parse(br#"{"version":2,"groups":{},"more":1}"#);
    assert!(matches!(other, Err(HistoryError::OtherVersion(2))), "{other:?}");
}

#[test]
fn runs_are_gathered_under_a_name_that_the_next_one_has_too() {
    let of = |namespace: Option<&str>, container: Option<&str>, image: Option<&str>, id: &str| {
        name(&Workload {
            pod_namespace: namespace.map(str::to_owned),
            container_name: container.map(str::to_owned),
            image: image.map(str::to_owned),
            container_id: Some(id.to_owned()),
            ..Workload::default()
        })
    };
    let long = "f".repeat(64);
    assert_eq!(of(Some("shop"), Some("web"), Some("reg:5000/web:1.2"), &long).unwrap(), "shop/web (reg:5000/web)");
    assert_eq!(of(Some("shop"), Some("web"), None, &long).unwrap(), "shop/web");
    assert_eq!(of(None, Some("web"), Some("nginx:1"), &long).unwrap(), "web");
    assert_eq!(of(None, Some("eager_hopper"), Some("nginx:1"), &long).unwrap(), "nginx");
    assert_eq!(of(None, Some("eager_hopper"), None, &long).unwrap(), "eager_hopper");
    assert_eq!(of(None, Some("web.2.x7q0a1b2c3d4e5f6g7h8i9j0k"), Some("nginx:1"), &long).unwrap(), "web");
    assert_eq!(of(None, None, Some("reg:5000/nginx"), &long).unwrap(), "reg:5000/nginx");
    assert_eq!(of(None, None, Some("nginx@sha256:0123"), &long).unwrap(), "nginx");
    assert_eq!(of(None, None, None, "mine").unwrap(), "mine");
    assert_eq!(of(None, None, None, &long), None);
    assert_eq!(name(&Workload::from_path(b"/system.slice/cron.service")).unwrap(), "/system.slice/cron.service");
    assert_eq!(of(None, Some(&"x".repeat(5000)), None, "a").unwrap().len(), MAX_NAME);
}
