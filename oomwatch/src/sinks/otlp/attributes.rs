//! Names of OpenTelemetry's semantic conventions where there are any; all else keeps the name that it has in the JSON of
//! an event, after `oomwatch.`. Pure but for [`resource`].

use std::path::Path;

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value as Any},
    resource::v1::Resource,
};
use opentelemetry_semantic_conventions::attribute::{
    CONTAINER_ID, CONTAINER_IMAGE_ID, CONTAINER_IMAGE_NAME, CONTAINER_IMAGE_TAGS, CONTAINER_NAME,
    CONTAINER_RUNTIME_NAME, HOST_ID, HOST_NAME, K8S_NAMESPACE_NAME, K8S_POD_NAME, K8S_POD_UID, OCI_MANIFEST_DIGEST,
    PROCESS_PID, PROCESS_TITLE, PROCESS_USER_ID, PROCESS_VPID, SERVICE_NAME, SERVICE_VERSION,
};
use serde_json::{Map, Value};

use crate::host::{HostRoot, system};

/// What all names of our own begin with.
pub(super) const OWN: &str = "oomwatch";

/// Fields of an event that have a name of the conventions. `process.title` is what `ps` and `top` show, which is what a
/// `comm` is; the conventions' other names of a process mean its file and its arguments.
const NAMES: &[(&str, &str)] = &[
    ("workload.container_id", CONTAINER_ID),
    ("workload.container_name", CONTAINER_NAME),
    ("victim.pid", PROCESS_PID),
    ("victim.ns_pid", PROCESS_VPID),
    ("victim.uid", PROCESS_USER_ID),
    ("victim.comm", PROCESS_TITLE),
    ("pid", PROCESS_PID),
];

/// Fields of a workload that have a name of the conventions where Kubernetes is: podman has pods of its own.
const NAMES_OF_KUBERNETES: &[(&str, &str)] = &[
    ("workload.pod_uid", K8S_POD_UID),
    ("workload.pod_name", K8S_POD_NAME),
    ("workload.pod_namespace", K8S_NAMESPACE_NAME),
];

/// Whom all records and metrics are from.
pub(super) fn resource(root: &HostRoot) -> Resource {
    let mut attributes = vec![text(SERVICE_NAME, OWN), text(SERVICE_VERSION, env!("CARGO_PKG_VERSION"))];
    attributes.push(text(HOST_NAME, &system::node_name()));
    // As the conventions say for hosts outside a cloud.
    if let Ok(id) = root.read_bounded(Path::new("/etc/machine-id"), 64) {
        let id = String::from_utf8_lossy(&id).trim().to_owned();
        if !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            attributes.push(text(HOST_ID, &id));
        }
    }
    Resource { attributes, ..Resource::default() }
}

/// All fields of a JSON object, those of an inner one behind a dot, but for the outer ones named in `but`.
pub(super) fn of_object(object: &Map<String, Value>, but: &[&str]) -> Vec<KeyValue> {
    let engine = object.get("workload").and_then(|workload| workload.get("engine")).and_then(Value::as_str);
    let mut naming = Naming { is_podman: engine == Some("podman"), attributes: Vec::new() };
    for (name, value) in object.iter().filter(|(name, _)| !but.contains(&name.as_str())) {
        naming.add(name, value);
    }
    if let Some(Value::Object(workload)) = object.get("workload") {
        naming.attributes.extend(manager(workload));
    }
    naming.attributes
}

/// What manages the container, which the conventions call its runtime: the engine, or runc and its like without one.
fn manager(workload: &Map<String, Value>) -> Option<KeyValue> {
    let field = |name: &str| workload.get(name).and_then(Value::as_str);
    let name = match field("engine") {
        Some("kubernetes") => return None,
        Some("none") | None => field("runtime").filter(|runtime| !["systemd", "process", "unknown"].contains(runtime)),
        engine => engine,
    };
    name.map(|name| text(CONTAINER_RUNTIME_NAME, name))
}

struct Naming {
    is_podman: bool,
    attributes: Vec<KeyValue>,
}

impl Naming {
    fn add(&mut self, path: &str, value: &Value) {
        match value {
            Value::Object(inner) => inner.iter().for_each(|(name, value)| self.add(&format!("{path}.{name}"), value)),
            Value::String(image) if path == "workload.image" => self.attributes.extend(of_image(image)),
            _ => {
                let name = self.name(path).map_or_else(|| format!("{OWN}.{path}"), str::to_owned);
                self.attributes.extend(any(value).map(|value| key_value(&name, value)));
            }
        }
    }

    fn name(&self, path: &str) -> Option<&'static str> {
        let of_kubernetes = if self.is_podman { &[] } else { NAMES_OF_KUBERNETES };
        NAMES.iter().chain(of_kubernetes).find(|(field, _)| *field == path).map(|(_, name)| *name)
    }
}

/// The parts of `registry:5000/name:tag@sha256:digest`, which the conventions keep apart.
fn of_image(image: &str) -> Vec<KeyValue> {
    if image.starts_with("sha256:") {
        return vec![text(CONTAINER_IMAGE_ID, image)];
    }
    let (rest, digest) = image.split_once('@').map_or((image, None), |(rest, digest)| (rest, Some(digest)));
    let last = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[last..].split_once(':') {
        Some((name, tag)) => (&rest[..last + name.len()], Some(tag)),
        None => (rest, None),
    };
    let mut attributes = vec![text(CONTAINER_IMAGE_NAME, name)];
    if let Some(tag) = tag {
        let tags = ArrayValue { values: vec![AnyValue { value: Some(Any::StringValue(tag.to_owned())) }] };
        attributes.push(key_value(CONTAINER_IMAGE_TAGS, Any::ArrayValue(tags)));
    }
    attributes.extend(digest.map(|digest| text(OCI_MANIFEST_DIGEST, digest)));
    attributes
}

/// A value; `None` where nothing is known.
fn any(value: &Value) -> Option<Any> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(flag) => Any::BoolValue(*flag),
        Value::String(text) => Any::StringValue(text.clone()),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), ..) => Any::IntValue(number),
            // OTLP's numbers have a sign; this one would come out negative.
            (None, Some(number), _) => Any::StringValue(number.to_string()),
            (None, None, number) => Any::DoubleValue(number?),
        },
        Value::Array(values) => {
            let values = values.iter().filter_map(any).map(|value| AnyValue { value: Some(value) }).collect();
            Any::ArrayValue(ArrayValue { values })
        }
        // Within an array only; no event has one there.
        Value::Object(_) => Any::StringValue(value.to_string()),
    })
}

pub(super) fn key_value(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

pub(super) fn text(key: &str, value: &str) -> KeyValue {
    key_value(key, Any::StringValue(value.to_owned()))
}
