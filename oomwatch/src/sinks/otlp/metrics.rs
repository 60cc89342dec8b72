//! Numbers for a collector: sums since the agent's start, and what each workload holds of its limit. Pure.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{KeyValue, any_value::Value as Any},
    metrics::v1::{
        AggregationTemporality, Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric::Data,
        number_data_point::Value as Number,
    },
    resource::v1::Resource,
};
use opentelemetry_semantic_conventions::SCHEMA_URL;
use serde_json::{Map, Value, json};

use super::{
    attributes::{self, key_value},
    logs::{scope, unix_nano},
};
use crate::{
    event::{Body, Event},
    inventory::Row,
    workload::Workload,
};

/// Series of one metric, as many as OpenTelemetry's SDKs keep; what goes beyond is summed up in one more.
const SERIES: usize = 2000;
/// OpenTelemetry's mark of that one.
const OVERFLOW: &str = "otel.metric.overflow";
/// Workloads in one request: those nearest to their limits.
const WORKLOADS: usize = 2000;

/// A sum since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Counter {
    OomKills,
    Ooms,
    NearLimits,
    EventsLost,
}

/// Every counter with its name, unit and description.
const COUNTERS: [(Counter, &str, &str, &str); 4] = [
    (Counter::OomKills, "oomwatch.oom_kills", "{kill}", "Processes killed by the kernel for want of memory"),
    (Counter::Ooms, "oomwatch.ooms", "{oom}", "Limits hit without a kill"),
    (Counter::NearLimits, "oomwatch.near_limits", "{warning}", "Warnings of usage near a limit"),
    (Counter::EventsLost, "oomwatch.events_lost", "{event}", "Events lost on their way"),
];

/// Sums by counter and, as JSON text, attributes.
#[derive(Debug, Default)]
struct Series(HashMap<(Counter, String), u64>);

/// Sums since the start.
#[derive(Debug)]
pub(super) struct Counters {
    started: SystemTime,
    series: Mutex<Series>,
}

impl Counters {
    /// All zero.
    pub(super) fn new(started: SystemTime) -> Self {
        Self { started, series: Mutex::default() }
    }

    /// Counts an event.
    pub(super) fn count(&self, event: &Event) {
        let workload = event.workload.as_deref();
        let (counter, fields, count) = match &event.body {
            Body::OomKill(kill) => {
                let limit = [("scope", json!(kill.scope)), ("limit_owner", json!(kill.limit_owner))];
                (Counter::OomKills, with_workload(workload, limit), 1)
            }
            Body::Oom(oom) => (Counter::Ooms, with_workload(workload, []), oom.count.unwrap_or(1)),
            Body::NearLimit(_) => (Counter::NearLimits, with_workload(workload, []), 1),
            Body::Loss(loss) => {
                let place = [("stage", json!(loss.stage)), ("sink", json!(loss.sink))];
                (Counter::EventsLost, with_workload(None, place), loss.lost)
            }
            _ => return,
        };
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        series.add(counter, Value::Object(fields).to_string(), count);
    }

    /// A request with all sums, and with these workloads as they are now.
    pub(super) fn request(&self, rows: &[Row], resource: &Resource, now: SystemTime) -> ExportMetricsServiceRequest {
        let times = (unix_nano(self.started), unix_nano(now));
        let mut metrics = self.sums(times);
        metrics.extend(gauges(rows, times.1));
        let metrics = ScopeMetrics { scope: Some(scope()), metrics, schema_url: SCHEMA_URL.to_owned() };
        let resource_metrics = vec![ResourceMetrics {
            resource: Some(resource.clone()),
            scope_metrics: vec![metrics],
            schema_url: SCHEMA_URL.to_owned(),
        }];
        ExportMetricsServiceRequest { resource_metrics }
    }

    fn sums(&self, times: (u64, u64)) -> Vec<Metric> {
        // Copied, for who counts must not wait long.
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner).0.clone();
        let point = |attributes: Vec<KeyValue>, value: u64| NumberDataPoint {
            start_time_unix_nano: times.0,
            ..data_point(attributes, times.1, value)
        };
        let sums = COUNTERS.into_iter().map(|(counter, name, unit, description)| {
            let of_it = series.iter().filter(|((it, _), _)| *it == counter);
            let mut data_points: Vec<_> = of_it.map(|((_, key), sum)| point(attributes_of(key), *sum)).collect();
            if data_points.is_empty() {
                // So that the first one is an increase.
                data_points.push(point(Vec::new(), 0));
            }
            let sum = Sum {
                data_points,
                aggregation_temporality: AggregationTemporality::Cumulative.into(),
                is_monotonic: true,
            };
            metric(name, unit, description, Data::Sum(sum))
        });
        sums.collect()
    }
}

impl Series {
    fn add(&mut self, counter: Counter, key: String, count: u64) {
        let is_full = || self.0.keys().filter(|(it, _)| *it == counter).count() >= SERIES;
        let key = if !self.0.contains_key(&(counter, key.clone())) && is_full() { OVERFLOW.to_owned() } else { key };
        *self.0.entry((counter, key)).or_default() += count;
    }
}

/// Fields of an event that a series is told by.
fn with_workload<const N: usize>(workload: Option<&Workload>, others: [(&str, Value); N]) -> Map<String, Value> {
    let mut fields: Map<String, Value> = others.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    if let Some(Value::Object(mut workload)) = workload.map(|workload| json!(workload)) {
        // The id tells it; a path is long, and is needed only where there is no id.
        if workload.contains_key("container_id") {
            workload.remove("cgroup_path");
        }
        for more in ["cgroup_id", "cgroup_version"] {
            workload.remove(more);
        }
        fields.insert("workload".to_owned(), Value::Object(workload));
    }
    fields
}

fn attributes_of(key: &str) -> Vec<KeyValue> {
    match serde_json::from_str(key) {
        Ok(fields) => attributes::of_object(&fields, &[]),
        Err(_overflow) => vec![key_value(OVERFLOW, Any::BoolValue(true))],
    }
}

/// A figure of a workload, where it is known.
type Figure = fn(&Row) -> Option<u64>;

/// What workloads hold.
fn gauges(rows: &[Row], now: u64) -> Vec<Metric> {
    let names: [(&str, &str, Figure); 3] = [
        ("oomwatch.workload.memory.usage", "Memory held, as oomwatch measures it", |row| row.usage_bytes),
        ("oomwatch.workload.memory.limit", "The limit that holds for it", |row| row.limit_bytes),
        ("oomwatch.workload.memory.peak", "The most memory seen", |row| row.peak_bytes),
    ];
    let alive: Vec<_> = rows
        .iter()
        .filter(|row| !row.ended)
        .take(WORKLOADS)
        .map(|row| (row, attributes::of_object(&with_workload(Some(&row.workload), []), &[])))
        .collect();
    let gauges = names.into_iter().map(|(name, description, value)| {
        let points = alive.iter().filter_map(|(row, attributes)| Some((attributes.clone(), value(row)?)));
        let data_points: Vec<_> = points.map(|(attributes, value)| data_point(attributes, now, value)).collect();
        metric(name, "By", description, Data::Gauge(Gauge { data_points }))
    });
    gauges.filter(|metric| !matches!(&metric.data, Some(Data::Gauge(gauge)) if gauge.data_points.is_empty())).collect()
}

fn metric(name: &str, unit: &str, description: &str, data: Data) -> Metric {
    Metric {
        name: name.to_owned(),
        unit: unit.to_owned(),
        description: description.to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

fn data_point(attributes: Vec<KeyValue>, now: u64, value: u64) -> NumberDataPoint {
    let value = Number::AsInt(i64::try_from(value).unwrap_or(i64::MAX));
    NumberDataPoint { attributes, time_unix_nano: now, value: Some(value), ..NumberDataPoint::default() }
}
