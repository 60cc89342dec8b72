//! What is told of sandboxes: observations of them, and the original system's words in the log.

use super::{discover::Sandbox, limit::Limit, process::ProcessId, rpc::Address};
use crate::{
    host::HostRoot,
    observation::{self, MemoryCrossed, MemoryLimit, SandboxKey, WorkloadKey},
    sources::watch::{Crossing, Settings},
    workload::{Runtime, Workload},
};

/// Its name in observations.
pub(super) fn observed(id: ProcessId) -> SandboxKey {
    SandboxKey { pid: id.pid, start_ticks: id.start_ticks }
}

/// Its limit in observations.
pub(super) fn limit(limit: Limit) -> MemoryLimit {
    MemoryLimit { bytes: limit.bytes, source: limit.source.name(), enforced: limit.enforced }
}

/// A line that it crossed.
pub(super) fn crossed(
    id: ProcessId,
    crossing: &Crossing,
    in_force: Option<Limit>,
    threshold_percent: u8,
    estimator: &'static str,
) -> MemoryCrossed {
    MemoryCrossed {
        boot_ns: crossing.reading.boot_ns,
        key: WorkloadKey::Sandbox(observed(id)),
        line: crossing.kind.into(),
        usage_bytes: crossing.reading.usage_bytes,
        limit: in_force.map(limit),
        threshold_percent,
        estimator,
        growth_bytes_per_second: crossing.growth_bytes_per_second,
        time_to_limit: crossing.time_to_limit,
        breakdown: None,
    }
}

/// Where the sentry listens: what its state file says, or the name that it had before it said so.
pub(super) fn address(root: &HostRoot, sandbox: &Sandbox) -> Address {
    let socket = sandbox.details.root().and_then(|state| root.join(state.control_socket.as_deref()?).ok());
    socket.map_or_else(|| Address::Abstract(sandbox.args.sandbox_id.clone()), Address::Path)
}

/// What the files of a sandbox say of it. Names of the container come from its engine's files, by its id.
pub(super) fn describe(sandbox: &Sandbox, now_ns: u64) -> observation::Sandbox {
    let root = sandbox.details.root();
    let own = sandbox.details.own_cgroup();
    let names = root.map(|state| &state.names);
    let workload = Workload {
        runtime: Runtime::Runsc,
        engine: names.and_then(|names| names.engine),
        container_id: Some(sandbox.args.sandbox_id.clone()),
        container_name: names.and_then(|names| names.container_name.clone()),
        sandbox_id: Some(sandbox.args.sandbox_id.clone()),
        pod_uid: names.and_then(|names| names.pod_uid.clone()),
        pod_name: root.and_then(|state| state.pod_name.clone()),
        pod_namespace: root.and_then(|state| state.pod_namespace.clone()),
        image: names.and_then(|names| names.image.clone()),
        ..Workload::default()
    };
    observation::Sandbox {
        key: observed(sandbox.sentry),
        boot_ns: now_ns,
        cgroup: own.map(|cgroup| (cgroup.memcg, cgroup.path.clone())),
        gofers: sandbox.details.gofers.iter().map(|gofer| gofer.pid).collect(),
        workload,
        limit: sandbox.details.limit.map(limit),
    }
}

/// The original system's words.
pub(super) fn say_found(sandbox: &Sandbox, settings: Settings) {
    const MIB: u64 = 1 << 20;
    let limit = sandbox.details.limit.map(|limit| limit.bytes);
    let threshold = limit.map(|bytes| bytes / 100 * u64::from(settings.threshold_percent));
    tracing::info!(
        pid = sandbox.sentry.pid,
        memory_limit_mb = limit.map(|bytes| bytes / MIB),
        threshold_mb = threshold.map(|bytes| bytes / MIB),
        threshold_percent = settings.threshold_percent,
        sandbox_id = sandbox.args.sandbox_id,
        "starting gVisor OOM watcher with memory monitoring"
    );
}
