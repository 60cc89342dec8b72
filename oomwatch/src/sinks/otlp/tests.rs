//! Addresses, names and numbers; and a collector that is not one. A real one is in the scenarios.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::Arc,
    time::{Duration, SystemTime},
};

use opentelemetry_proto::tonic::{
    collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse},
    common::v1::{KeyValue, any_value::Value as Any},
    metrics::v1::{metric::Data, number_data_point::Value as Number},
    resource::v1::Resource,
};
use prost::Message as _;
use serde_json::{Value, json};

use super::{attributes, checked, export::Exporter, logs, metrics::Counters};
use crate::{
    event::{AgentStopped, Body, Confidence, Event, Loss, LossStage, Memcg, Oom, SCHEMA, Severity, Source},
    inventory::Row,
    sinks::Delivery,
    workload::{Engine, Runtime, Workload},
};

fn event(body: Body, workload: Option<Workload>) -> Event {
    Event {
        schema: SCHEMA,
        seq: 7,
        timestamp: SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 5),
        boot_id: "0123".into(),
        body,
        severity: Severity::Critical,
        source: Source::Bpf,
        confidence: Confidence::Exact,
        incident_id: Some("0123-ab".to_owned()),
        workload: workload.map(Arc::new),
    }
}

fn oom(id: &str) -> Event {
    let oom_memcg =
        Memcg { path: Some("/a".into()), id: Some(3), limit_bytes: Some(20 << 20), usage_bytes: Some(u64::MAX) };
    let workload = Workload {
        runtime: Runtime::Runc,
        engine: Some(Engine::Docker),
        container_id: Some(id.to_owned()),
        cgroup_path: Some("/a".to_owned()),
        ..Workload::default()
    };
    event(Body::Oom(Oom { oom_memcg, count: Some(2) }), Some(workload))
}

/// Attributes as JSON text, by name.
fn plain(attributes: &[KeyValue]) -> Value {
    let plain = attributes.iter().map(|attribute| {
        let value = match attribute.value.as_ref().and_then(|value| value.value.as_ref()).unwrap() {
            Any::StringValue(text) => json!(text),
            Any::BoolValue(flag) => json!(flag),
            Any::IntValue(number) => json!(number),
            Any::DoubleValue(number) => json!(number),
            other => json!(format!("{other:?}")),
        };
        (attribute.key.clone(), value)
    });
    let map: serde_json::Map<String, Value> = plain.collect();
    assert_eq!(map.len(), attributes.len(), "a name is there twice: {attributes:?}");
    Value::Object(map)
}

fn named(object: &Value) -> Value {
    plain(&attributes::of_object(object.as_object().unwrap(), &[]))
}

#[test]
fn an_address_is_plain_http_with_a_host() {
    for good in ["http://127.0.0.1:4318", "http://[::1]:4318/", "http://collector/otlp", "http://[::1]"] {
        assert_eq!(checked(good), Ok(good.to_owned()));
    }
    for (bad, why) in [
        ("https://collector:4318", "plain http only"),
        ("grpc://collector:4317", "must be a URL"),
        ("collector:4318", "must be a URL"),
        ("127.0.0.1", "must be a URL"),
        ("", "must be a URL"),
        ("http://", "must be a URL"),
        ("http://collector/?a=b", "query"),
        ("http://a b", "must be a URL"),
        ("http://127.0.0.1:99999", "port"),
        ("http://[::1]:x", "port"),
        ("http://collector:0", "port"),
    ] {
        let refused = checked(bad).unwrap_err();
        assert!(refused.contains(why), "{bad}: {refused}");
    }
}

#[test]
fn names_are_those_of_the_conventions_and_own_ones_for_the_rest() {
    let event = json!({
        "seq": 1, "incident_id": "i", "group_kill": false, "latency_seconds": 0.5,
        "victim": {"pid": 41, "ns_pid": 1, "uid": 0, "comm": "hog", "role": "init"},
        "oom_memcg": {"path": "/a", "limit_bytes": 20},
        "workload": {
            "runtime": "runc", "engine": "containerd", "container_id": "abc", "container_name": "web",
            "pod_uid": "u", "pod_name": "p", "pod_namespace": "n", "image": "docker.io/library/web",
        },
    });
    assert_eq!(
        named(&event),
        json!({
            "oomwatch.seq": 1, "oomwatch.incident_id": "i", "oomwatch.group_kill": false,
            "oomwatch.latency_seconds": 0.5, "process.pid": 41, "process.vpid": 1, "process.user.id": 0,
            "process.title": "hog", "oomwatch.victim.role": "init", "oomwatch.oom_memcg.path": "/a",
            "oomwatch.oom_memcg.limit_bytes": 20, "oomwatch.workload.runtime": "runc",
            "oomwatch.workload.engine": "containerd", "container.runtime.name": "containerd", "container.id": "abc",
            "container.name": "web", "k8s.pod.uid": "u", "k8s.pod.name": "p", "k8s.namespace.name": "n",
            "container.image.name": "docker.io/library/web",
        })
    );
}

#[test]
fn a_pod_of_podman_is_none_of_kubernetes_and_without_an_engine_the_runtime_manages() {
    let podman = named(&json!({"workload": {"engine": "podman", "pod_uid": "u", "pod_name": "p"}}));
    assert_eq!(podman["oomwatch.workload.pod_uid"], "u");
    assert_eq!(podman["oomwatch.workload.pod_name"], "p");
    assert_eq!(podman["container.runtime.name"], "podman");
    for (workload, manager) in [
        (json!({"engine": "none", "runtime": "runsc"}), Some("runsc")),
        (json!({"runtime": "crun"}), Some("crun")),
        (json!({"engine": "none", "runtime": "systemd"}), None),
        (json!({"engine": "kubernetes", "runtime": "runc"}), None),
        (json!({"runtime": "unknown"}), None),
    ] {
        let attributes = named(&json!({"workload": workload}));
        assert_eq!(attributes.get("container.runtime.name").and_then(Value::as_str), manager, "{attributes}");
    }
}

#[test]
fn an_image_is_taken_apart_as_the_conventions_want_it() {
    let parts = |image: &str| named(&json!({"workload": {"image": image}}));
    let name = |image: &str| parts(image)["container.image.name"].clone();
    for image in ["r:5000/a/web", "r:5000/a/web:1.2", "r:5000/a/web:1.2@sha256:00", "r:5000/a/web@sha256:00"] {
        assert_eq!(name(image), "r:5000/a/web", "{image}");
        let tags = parts(image).get("container.image.tags").map(ToString::to_string);
        assert_eq!(tags.is_some_and(|tags| tags.contains("1.2")), image.contains(":1.2"), "{image}");
        let digest = parts(image).get("oci.manifest.digest").cloned();
        assert_eq!(digest, image.contains('@').then(|| json!("sha256:00")), "{image}");
    }
    assert_eq!(parts("sha256:00"), json!({"container.image.id": "sha256:00"}));
    assert_eq!(name(""), "");
}

#[test]
fn a_record_has_times_severity_name_and_line() {
    let delivery = Delivery::new(oom("abc"));
    let record = logs::record(&delivery, SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_001));
    assert_eq!(record.time_unix_nano, 1_700_000_000_000_000_005);
    assert_eq!(record.observed_time_unix_nano, 1_700_000_001_000_000_000);
    assert_eq!((record.severity_number, record.severity_text.as_str()), (18, "critical"));
    assert_eq!(record.event_name, "oomwatch.oom");
    let attributes = plain(&record.attributes);
    assert_eq!(attributes["oomwatch.schema"], 1);
    assert_eq!(attributes["oomwatch.oom_memcg.limit_bytes"], 20 << 20);
    // No number of OTLP holds it.
    assert_eq!(attributes["oomwatch.oom_memcg.usage_bytes"], u64::MAX.to_string());
    for elsewhere in ["event", "severity", "timestamp"] {
        assert_eq!(attributes.get(format!("oomwatch.{elsewhere}")), None);
    }
    let Some(Any::StringValue(body)) = record.body.and_then(|body| body.value) else { panic!("no body") };
    assert!(body.starts_with("2023-11-14T22:13:20.000000005Z WRN OOM without a kill container_id=abc"), "{body}");
}

/// Points of a metric: attributes, start, value.
fn points(counters: &Counters, rows: &[Row], name: &str) -> Vec<(Value, u64, i64)> {
    let request = counters.request(rows, &Resource::default(), SystemTime::UNIX_EPOCH + Duration::from_secs(9));
    let metrics = &request.resource_metrics[0].scope_metrics[0].metrics;
    let Some(metric) = metrics.iter().find(|metric| metric.name == name) else { return Vec::new() };
    let points = match metric.data.as_ref().unwrap() {
        Data::Sum(sum) => {
            assert!(sum.is_monotonic && sum.aggregation_temporality == 2, "{sum:?}");
            &sum.data_points
        }
        Data::Gauge(gauge) => &gauge.data_points,
        other => panic!("{other:?}"),
    };
    let value = |value| match value {
        Some(Number::AsInt(number)) => number,
        other => panic!("{other:?}"),
    };
    points.iter().map(|point| (plain(&point.attributes), point.start_time_unix_nano, value(point.value))).collect()
}

#[test]
fn sums_are_since_the_start_and_begin_with_zero() {
    let counters = Counters::new(SystemTime::UNIX_EPOCH + Duration::from_nanos(4));
    assert_eq!(points(&counters, &[], "oomwatch.ooms"), [(json!({}), 4, 0)]);
    counters.count(&oom("abc"));
    counters.count(&oom("abc"));
    counters.count(&oom("def"));
    let mut ooms = points(&counters, &[], "oomwatch.ooms");
    ooms.sort_by_key(|(_, _, sum)| *sum);
    assert_eq!(ooms.iter().map(|(_, start, sum)| (*start, *sum)).collect::<Vec<_>>(), [(4, 2), (4, 4)]);
    assert_eq!(
        ooms[1].0,
        json!({"container.id": "abc", "container.runtime.name": "docker", "oomwatch.workload.engine": "docker",
               "oomwatch.workload.runtime": "runc"})
    );
    let full = Loss { stage: LossStage::Sink, lost: 5, records: None, sink: Some("hook".into()) };
    counters.count(&event(Body::Loss(full), None));
    let lost = points(&counters, &[], "oomwatch.events_lost");
    assert_eq!(lost, [(json!({"oomwatch.stage": "sink", "oomwatch.sink": "hook"}), 4, 5)]);
}

#[test]
fn series_are_bounded_and_nothing_is_left_out_of_the_sum() {
    let counters = Counters::new(SystemTime::UNIX_EPOCH);
    for id in 0..2100 {
        counters.count(&oom(&id.to_string()));
    }
    let ooms = points(&counters, &[], "oomwatch.ooms");
    assert_eq!(ooms.len(), 2001);
    assert_eq!(ooms.iter().map(|(_, _, sum)| sum).sum::<i64>(), 4200);
    let overflow: Vec<_> =
        ooms.iter().filter(|(attributes, ..)| *attributes == json!({"otel.metric.overflow": true})).collect();
    assert_eq!(overflow.len(), 1);
    assert_eq!(overflow[0].2, 200);
}

#[test]
fn workloads_are_gauges_and_what_is_not_known_is_absent() {
    let row: Row = serde_json::from_value(json!({
        "workload": {"runtime": "runsc", "container_id": "abc"},
        "usage_bytes": 5, "peak_bytes": 6, "kills": 0, "near_limits": 0, "ended": false,
    }))
    .unwrap();
    let ended = Row { ended: true, ..row.clone() };
    let counters = Counters::new(SystemTime::UNIX_EPOCH);
    let rows = [row, ended];
    let who = json!({"container.id": "abc", "container.runtime.name": "runsc", "oomwatch.workload.runtime": "runsc"});
    assert_eq!(points(&counters, &rows, "oomwatch.workload.memory.usage"), [(who.clone(), 0, 5)]);
    assert_eq!(points(&counters, &rows, "oomwatch.workload.memory.peak"), [(who, 0, 6)]);
    assert_eq!(points(&counters, &rows, "oomwatch.workload.memory.limit"), []);
}

/// Reads one request.
fn request_of(connection: &mut TcpStream) -> Vec<u8> {
    let mut got = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&got).to_lowercase();
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            let length: usize =
                head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().trim().parse().unwrap();
            if got.len() >= head.len() + 4 + length {
                return got;
            }
        }
        let count = connection.read(&mut buffer).unwrap();
        assert!(count > 0, "the request ended early: {text}");
        got.extend_from_slice(&buffer[..count]);
    }
}

/// Gives these answers, one a connection; whom to ask, in an agent that may be about to end.
fn answering(answers: Vec<Vec<u8>>, closing: bool) -> (Exporter, std::thread::JoinHandle<Vec<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let server = std::thread::spawn(move || {
        let answer = |answer: Vec<u8>| {
            let (mut connection, _) = listener.accept().unwrap();
            let request = request_of(&mut connection);
            connection.write_all(&answer).unwrap();
            request
        };
        answers.into_iter().map(answer).collect()
    });
    (Exporter::new(&endpoint, Arc::new(closing.into())), server)
}

fn answer(status: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn some_request() -> ExportLogsServiceRequest {
    let stopped = AgentStopped {
        version: "1".into(),
        tier: "t".into(),
        kernel: "k".into(),
        cgroup_version: None,
        degraded: Vec::new(),
    };
    let delivery = Delivery::new(event(Body::AgentStopped(stopped), None));
    logs::request(&[Arc::new(delivery)], &Resource::default())
}

#[test]
fn a_busy_collector_is_asked_again_and_a_refusal_is_final() {
    let busy = answer("503 Service Unavailable", b"");
    let (exporter, server) = answering(vec![busy, answer("429 Too Many Requests", b""), answer("200 OK", b"")], false);
    assert_eq!(exporter.export(&some_request()).unwrap(), 0);
    let requests = server.join().unwrap();
    assert!(requests[0].starts_with(b"POST /v1/logs HTTP/1.1\r\n"), "{:?}", String::from_utf8_lossy(&requests[0]));
    let (exporter, server) = answering(vec![answer("400 Bad Request", b"")], false);
    assert!(exporter.export(&some_request()).unwrap_err().to_string().contains("400"));
    server.join().unwrap();
}

#[test]
fn what_a_collector_rejects_is_counted_and_nonsense_in_an_answer_is_not() {
    let partial = ExportLogsPartialSuccess { rejected_log_records: 3, error_message: "no\nroom".to_owned() };
    let some = ExportLogsServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    let (exporter, server) = answering(vec![answer("200 OK", &some), answer("200 OK", b"\xff\xff<html>")], false);
    assert_eq!(exporter.export(&some_request()).unwrap(), 3);
    assert_eq!(exporter.export(&some_request()).unwrap(), 0);
    server.join().unwrap();
}

#[test]
fn the_end_of_the_agent_ends_the_tries() {
    let (exporter, server) = answering(vec![answer("503 Service Unavailable", b"")], true);
    let failure = exporter.export(&some_request()).unwrap_err().to_string();
    // Of the first try: for a second one nobody would be there.
    assert!(failure.contains("503"), "{failure}");
    server.join().unwrap();
}
