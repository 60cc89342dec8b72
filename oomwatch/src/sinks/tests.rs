//! Lines as people and programs read them: their words and names are an interface.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::Delivery;
use crate::{
    config::OutputFormat,
    event::{
        AgentStarted, Body, Confidence, Event, Memcg, Memory, MemoryWarning, OomKill, OomMemcgConfidence, Process,
        Role, SCHEMA, Scope, Severity, Source, Trigger, WorkloadStarted,
    },
    workload::{LimitOwner, Workload, escape::escape},
};

fn line(format: OutputFormat, event: &Event) -> String {
    Delivery::new(event.clone()).line(format)
}

fn event(body: Body, severity: Severity) -> Event {
    Event {
        schema: SCHEMA,
        seq: 7,
        timestamp: SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 5),
        boot_id: "0123".into(),
        body,
        severity,
        source: Source::Bpf,
        confidence: Confidence::Exact,
        incident_id: Some("0123-ab".to_owned()),
        workload: None,
    }
}

fn kill(comm: &[u8]) -> Event {
    let memcg =
        Memcg { path: Some("/a".into()), id: Some(3), limit_bytes: Some(20 << 20), usage_bytes: Some(19 << 20) };
    let body = OomKill {
        victim: Some(Process {
            pid: Some(41),
            tid: 42,
            start_boottime_ns: Some(44),
            ns_pid: Some(1),
            comm: Some(escape(comm)),
            uid: Some(0),
            oom_score_adj: Some(-5),
            role: Some(Role::Init),
        }),
        trigger: Some(Trigger { pid: Some(43), comm: escape(comm) }),
        scope: Some(Scope::Memcg),
        constraint: None,
        task_memcg: Some(memcg.clone()),
        oom_memcg: Some(memcg),
        oom_memcg_confidence: Some(OomMemcgConfidence::Inferred),
        limit_owner: Some(LimitOwner::Slice),
        memory: Some(Memory {
            total_vm_bytes: 1,
            anon_rss_bytes: 18 << 20,
            file_rss_bytes: 0,
            shmem_rss_bytes: 0,
            swap_bytes: None,
            pgtables_bytes: 4096,
        }),
        group_kill: Some(false),
        latency_seconds: Some(0.5),
    };
    event(Body::OomKill(Box::new(body)), Severity::Critical)
}

#[test]
fn a_kill_in_text() {
    let mut kill = kill(b"hog");
    kill.workload = Some(Arc::new(Workload { container_id: Some("abc".into()), ..Workload::from_path(b"/a") }));
    assert_eq!(
        line(OutputFormat::Text, &kill),
        "2023-11-14T22:13:20.000000005Z WRN OOM kill detected container_id=abc cgroup_path=/a pid=41 tid=42 comm=hog \
         role=init uid=0 scope=memcg limit_owner=slice oom_memcg=/a memory_usage_mb=19 memory_limit_mb=20 \
         oom_memcg_confidence=inferred anon_rss_mb=18 file_rss_mb=0 shmem_rss_mb=0 trigger_pid=43 trigger_comm=hog \
         incident_id=0123-ab"
    );
}

/// The original system's lines are the beginning of ours.
#[test]
fn the_start_and_the_warning_of_a_sandbox_in_text() {
    let sandbox = || Some(Arc::new(Workload { container_id: Some("abc".into()), ..Workload::default() }));
    let started = WorkloadStarted {
        pid: Some(123),
        limit_bytes: Some(4096 << 20),
        limit_source: Some("state".into()),
        threshold_percent: 95,
    };
    let started = Event {
        workload: sandbox(),
        incident_id: None,
        source: Source::Gvisor,
        ..event(Body::WorkloadStarted(started), Severity::Info)
    };
    assert_eq!(
        line(OutputFormat::Text, &started),
        "2023-11-14T22:13:20.000000005Z INF starting gVisor OOM watcher with memory monitoring pid=123 \
         memory_limit_mb=4096 threshold_mb=3891 threshold_percent=95 container_id=abc limit_source=state"
    );
    let warning = MemoryWarning {
        pid: Some(123),
        usage_bytes: 3920 << 20,
        limit_bytes: Some(4096 << 20),
        usage_percent: Some(95.7),
        threshold_percent: 95,
        limit_source: Some("cgroup".into()),
        limit_enforced: Some(true),
        estimator: "cgroup".into(),
        growth_bytes_per_second: Some(2 << 20),
        time_to_limit_seconds: Some(88.0),
        breakdown: None,
    };
    let warning = Event { workload: sandbox(), ..event(Body::NearLimit(warning), Severity::Warning) };
    assert_eq!(
        line(OutputFormat::Text, &warning),
        "2023-11-14T22:13:20.000000005Z WRN memory usage exceeded threshold - OOM likely pid=123 memory_usage_mb=3920 \
         memory_limit_mb=4096 usage_percent=95.7 container_id=abc limit_source=cgroup limit_enforced=true \
         estimator=cgroup growth_mb_per_second=2 time_to_limit_seconds=88.0 incident_id=0123-ab"
    );
}

#[test]
fn a_kill_in_json_leaves_out_what_is_not_known() {
    let json: serde_json::Value = serde_json::from_str(&line(OutputFormat::Json, &kill(b"hog"))).unwrap();
    assert_eq!(json["schema"], 1);
    assert_eq!(json["event"], "oom_kill");
    assert_eq!(json["timestamp"], "2023-11-14T22:13:20.000000005Z");
    assert_eq!(json["victim"]["role"], "init");
    assert_eq!(json["oom_memcg"]["limit_bytes"], 20 << 20);
    assert!(json.get("constraint").is_none());
    assert!(json["memory"].get("swap_bytes").is_none());
    assert!(json.get("workload").is_none());
}

#[test]
fn no_name_breaks_out_of_its_value() {
    let hostile = b"a\n WRN fake=\"1\"\x1b[31m\\\xff=";
    let text = line(OutputFormat::Text, &kill(hostile));
    assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text}");
    let quoted = r#"comm="a\\x0a WRN fake=\"1\"\\x1b[31m\\x5c\\xff=" role"#;
    assert!(text.contains(quoted), "{text}");
    let json = line(OutputFormat::Json, &kill(hostile));
    assert!(json.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{json}");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["victim"]["comm"], r#"a\x0a WRN fake="1"\x1b[31m\x5c\xff="#);
}

#[test]
fn an_empty_value_is_still_seen() {
    assert!(line(OutputFormat::Text, &kill(b"")).contains(r#" comm="" "#));
}

#[test]
fn the_start_names_the_tier() {
    let started = AgentStarted {
        version: "1.2.3".into(),
        tier: "bpf+fentry".into(),
        kernel: "6.12".into(),
        cgroup_version: Some(2),
        degraded: vec![],
    };
    let mut event = event(Body::AgentStarted(started), Severity::Info);
    event.incident_id = None;
    assert_eq!(
        line(OutputFormat::Text, &event),
        "2023-11-14T22:13:20.000000005Z INF oomwatch started version=1.2.3 tier=bpf+fentry kernel=6.12 \
         cgroup_version=2 degraded=0"
    );
}

/// One of each kind, and of each that has several forms.
const EVERY_EVENT: &str = include_str!("fixtures/every_event.jsonl");

pub(super) fn every_event() -> Vec<Event> {
    EVERY_EVENT
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect()
}

#[test]
fn every_event_in_text() {
    let text: Vec<String> = every_event().iter().map(|event| line(OutputFormat::Text, event)).collect();
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn every_event_in_json_is_read_again_as_it_was_written() {
    for (event, written) in every_event().iter().zip(EVERY_EVENT.lines()) {
        assert_eq!(line(OutputFormat::Json, event), written);
    }
    let kinds: HashSet<&str> = every_event().iter().map(|event| event.body.name()).collect();
    assert_eq!(kinds, HashSet::from(Body::NAMES));
}
