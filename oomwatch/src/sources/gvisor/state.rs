//! runsc's state file of one container, `<root>/<container>_sandbox:<sandbox>.state`: JSON in, [`State`] out. Pure.
//!
//! Read from the files of 20221219 and 20240729 and the source of 2026. It is written in place, so a reader may meet
//! half of it; its `status` says `running` long after the end and is not read.

use std::path::PathBuf;

use serde::Deserialize;

use super::{
    argv::{Platform, is_id},
    lenient::{Leaf, List, Object},
};
use crate::{
    cgroup_path::CgroupPath,
    workload::oci::{self, Names},
};

/// Largest state file read, bytes: it holds a whole OCI specification, seldom above 100 kB.
pub(crate) const MAX_STATE_FILE: usize = 4 << 20;
/// Ends the name of a state file.
const SUFFIX: &str = ".state";
/// Parts container and sandbox in it.
const BETWEEN: &str = "_sandbox:";

/// The cgroup that runsc put a sandbox into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StateCgroup {
    /// None: the sandbox lives in its caller's (`cgroupunknown`, with `--ignore-cgroups`), or nothing is said.
    None,
    /// One of cgroup v1.
    V1 {
        /// Its path in every hierarchy.
        path: CgroupPath,
        /// runsc made it in the memory hierarchy; it was there before otherwise.
        made: bool,
    },
    /// One of cgroup2, made by runsc itself or by systemd for it.
    V2 {
        /// Its path.
        path: CgroupPath,
        /// runsc made it, or had it made; it was there before otherwise.
        made: bool,
    },
}

/// What a state file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    /// The container.
    pub id: String,
    /// Its sandbox: the id of the sandbox's first container.
    pub sandbox_id: String,
    /// The sentry.
    pub sandbox_pid: Option<u32>,
    /// The container's gofer.
    pub gofer_pid: Option<u32>,
    /// The sandbox's cgroup, also in the files of its other containers.
    pub cgroup: StateCgroup,
    /// `linux.resources.memory.limit` of the specification, as it stands there.
    pub memory_limit: Option<i64>,
    /// `linux.cgroupsPath` of the specification.
    pub cgroups_path: Option<String>,
    /// The OCI bundle; relative where the caller gave it so.
    pub bundle: Option<PathBuf>,
    /// The pod, where the engine told runsc.
    pub pod_name: Option<String>,
    /// Its namespace.
    pub pod_namespace: Option<String>,
    /// Names in the engine's annotations.
    pub names: Names,
    /// The container holds a pod's namespaces, or runs in such a pod.
    pub in_pod: bool,
    /// How the sandbox intercepts system calls.
    pub platform: Option<Platform>,
    /// runsc's version.
    pub version: Option<String>,
    /// The sentry's control socket.
    pub control_socket: Option<PathBuf>,
}

/// Why a state file is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// More than [`MAX_STATE_FILE`].
    #[error("state file of {0} bytes")]
    TooLarge(usize),
    /// No JSON, or only a part: it may be whole the next time.
    #[error("state file: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It names no container or no sandbox that runsc could have made.
    #[error("state file without a valid id")]
    BadId,
}

impl State {
    /// Reads the content of a state file.
    ///
    /// # Errors
    /// It is of no use. A field of a wrong type is as good as absent.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, StateError> {
        if json.len() > MAX_STATE_FILE {
            return Err(StateError::TooLarge(json.len()));
        }
        let file: File = serde_json::from_slice(json)?;
        // A second look: what is wrong with the annotations costs the names, not the limit.
        let names = serde_json::from_slice::<Annotated>(json).map(|file| file.spec.names()).unwrap_or_default();
        let sandbox = file.sandbox.content();
        let spec = file.spec.content();
        let pod = spec.annotations.content();
        let linux = spec.linux.content();
        let metadata = sandbox.metric_metadata.content();
        let id = |leaf: Leaf| leaf.text().filter(|id| is_id(id.as_bytes())).ok_or(StateError::BadId);
        Ok(Self {
            id: id(file.id)?,
            sandbox_id: id(sandbox.id)?,
            sandbox_pid: sandbox.pid.pid(),
            gofer_pid: file.gofer_pid.pid(),
            cgroup: sandbox.cgroup.content().cgroup(),
            memory_limit: linux.resources.content().memory.content().limit.integer(),
            cgroups_path: linux.cgroups_path.text(),
            bundle: file.bundle_dir.text().map(PathBuf::from),
            pod_name: sandbox.pod_name.text(),
            pod_namespace: sandbox.namespace.text(),
            names,
            in_pod: pod.containerd != Leaf::Nothing || pod.crio != Leaf::Nothing,
            platform: metadata.platform.text().and_then(|name| Platform::from_name(name.as_bytes())),
            version: metadata.version.text(),
            control_socket: sandbox.control_socket_path.text().map(PathBuf::from).filter(|path| path.is_absolute()),
        })
    }

    /// It is the sandbox's first container, whose id is the sandbox's.
    pub(crate) fn is_root(&self) -> bool {
        self.id == self.sandbox_id
    }
}

/// Name of the state file of a container.
pub(crate) fn file_name(container_id: &str, sandbox_id: &str) -> String {
    format!("{container_id}{BETWEEN}{sandbox_id}{SUFFIX}")
}

/// Container and sandbox in the name of a state file.
pub(crate) fn ids_in_name(name: &[u8]) -> Option<(&str, &str)> {
    let (container, sandbox) = std::str::from_utf8(name).ok()?.strip_suffix(SUFFIX)?.split_once(BETWEEN)?;
    (is_id(container.as_bytes()) && is_id(sandbox.as_bytes())).then_some((container, sandbox))
}

/// What an OCI bundle's `config.json` says of limits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BundleLimit {
    /// `linux.resources.memory.limit`, as it stands there.
    pub memory_limit: Option<i64>,
    /// `linux.cgroupsPath`.
    pub cgroups_path: Option<String>,
}

impl BundleLimit {
    /// Reads a `config.json`; `None` where it is none.
    pub(crate) fn parse(json: &[u8]) -> Option<Self> {
        let linux = serde_json::from_slice::<Spec>(json).ok()?.linux.content();
        let memory_limit = linux.resources.content().memory.content().limit.integer();
        Some(Self { memory_limit, cgroups_path: linux.cgroups_path.text() })
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct File {
    id: Leaf,
    spec: Object<Spec>,
    bundle_dir: Leaf,
    gofer_pid: Leaf,
    sandbox: Object<Sandbox>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Annotated {
    spec: oci::Spec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    annotations: Object<Annotations>,
    linux: Object<Linux>,
}

/// The two by which runsc tells a pod.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Annotations {
    #[serde(rename = "io.kubernetes.cri.container-type")]
    containerd: Leaf,
    #[serde(rename = "io.kubernetes.cri-o.ContainerType")]
    crio: Leaf,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Linux {
    resources: Object<Resources>,
    cgroups_path: Leaf,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Resources {
    memory: Object<Memory>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Memory {
    limit: Leaf,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Sandbox {
    id: Leaf,
    pid: Leaf,
    pod_name: Leaf,
    namespace: Leaf,
    cgroup: Object<Cgroup>,
    metric_metadata: Object<Metadata>,
    control_socket_path: Leaf,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    platform: Leaf,
    version: Leaf,
}

/// One of the keys is there, and `cgroupunknown` where there is no cgroup.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Cgroup {
    cgroupv1: Object<CgroupV1>,
    cgroupv2: Object<CgroupV2>,
    cgroupsystemd: Object<CgroupV2>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CgroupV1 {
    name: Leaf,
    /// Where a relative name begins, by controller.
    parents: Object<Controllers>,
    /// Controllers in whose hierarchy runsc made it.
    own: Object<Controllers>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Controllers {
    memory: Leaf,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CgroupV2 {
    path: Leaf,
    /// Folders that runsc made.
    own: List,
}

impl Cgroup {
    fn cgroup(self) -> StateCgroup {
        let systemd = self.cgroupsystemd.is_there();
        if self.cgroupv1.is_there() {
            let found = self.cgroupv1.content();
            let parent = found.parents.content().memory.text().unwrap_or_default();
            let made = found.own.content().memory.is_true();
            found.name.text().map_or(StateCgroup::None, |name| StateCgroup::V1 { path: joined(&parent, &name), made })
        } else {
            let found = if systemd { self.cgroupsystemd } else { self.cgroupv2 }.content();
            let made = systemd || found.own.elements() > 0;
            found.path.text().map_or(StateCgroup::None, |path| StateCgroup::V2 { path: joined("", &path), made })
        }
    }
}

fn joined(parent: &str, name: &str) -> CgroupPath {
    CgroupPath::from_bytes(format!("{parent}/{name}").as_bytes())
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
