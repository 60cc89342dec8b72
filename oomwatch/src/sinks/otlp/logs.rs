//! Events as log records. Pure but for the clock.

use std::{sync::Arc, time::SystemTime};

use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, any_value::Value as Any},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
    resource::v1::Resource,
};
use opentelemetry_semantic_conventions::SCHEMA_URL;
use serde_json::{Map, Value};

use super::attributes;
use crate::{clock, config::OutputFormat, event::Severity, sinks::Delivery};

/// Fields that a record has places of its own for.
const ELSEWHERE: [&str; 3] = ["event", "severity", "timestamp"];

/// A request with these events.
pub(super) fn request(batch: &[Arc<Delivery>], resource: &Resource) -> ExportLogsServiceRequest {
    let now = clock::wall_time(clock::boot_ns());
    let log_records = batch.iter().map(|delivery| record(delivery, now)).collect();
    let records = ScopeLogs { scope: Some(scope()), log_records, schema_url: SCHEMA_URL.to_owned() };
    let logs =
        ResourceLogs { resource: Some(resource.clone()), scope_logs: vec![records], schema_url: SCHEMA_URL.to_owned() };
    ExportLogsServiceRequest { resource_logs: vec![logs] }
}

/// What makes records and metrics.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: attributes::OWN.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

/// One event.
pub(super) fn record(delivery: &Delivery, now: SystemTime) -> LogRecord {
    let fields: Map<String, Value> = serde_json::from_str(delivery.json()).unwrap_or_default();
    let (number, severity) = severity(delivery.event.severity);
    let kind = fields.get("event").and_then(Value::as_str).unwrap_or_default();
    LogRecord {
        time_unix_nano: unix_nano(delivery.event.timestamp),
        observed_time_unix_nano: unix_nano(now),
        severity_number: number.into(),
        severity_text: severity.to_owned(),
        event_name: format!("{}.{kind}", attributes::OWN),
        body: Some(AnyValue { value: Some(Any::StringValue(delivery.line(OutputFormat::Text))) }),
        attributes: attributes::of_object(&fields, &ELSEWHERE),
        ..LogRecord::default()
    }
}

/// OpenTelemetry's number for a word; its table for syslog has the same ones.
fn severity(severity: Severity) -> (SeverityNumber, &'static str) {
    match severity {
        Severity::Info => (SeverityNumber::Info, "info"),
        Severity::Warning => (SeverityNumber::Warn, "warning"),
        Severity::Critical => (SeverityNumber::Error2, "critical"),
    }
}

/// Nanoseconds since 1970; 0, which is OTLP's "unknown", for a time that it cannot hold.
pub(super) fn unix_nano(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or_default()
}
