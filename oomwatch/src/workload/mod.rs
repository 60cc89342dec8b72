//! What a cgroup path, and the files a container engine leaves on disk, say about a workload.
//! Pure: bytes come in, [`Workload`] goes out; `host::containers` does the reading.

pub mod engine;
pub mod escape;
pub(crate) mod layout;
pub(crate) mod made_up;
pub mod oci;
pub mod owner;
pub mod path;

use serde::{Deserialize, Serialize};

pub use self::owner::{LimitOwner, limit_owner};
pub use self::path::{CgroupIdentity, Qos};

/// What executes a workload (`workload.runtime`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Runtime {
    /// The reference implementation of the OCI runtime.
    Runc,
    /// The OCI runtime in C, podman's and CRI-O's usual one.
    Crun,
    /// gVisor.
    Runsc,
    /// The OCI runtime in Rust.
    Youki,
    /// Kata Containers.
    Kata,
    /// No container: a unit of systemd.
    Systemd,
    /// No container and no unit: a process of the host or of a plain cgroup.
    Process,
    /// A container, or a pod's cgroup, whose runtime nothing tells.
    #[default]
    Unknown,
}

impl Runtime {
    /// The runtime behind the name of a program, its path, or a containerd runtime type
    /// (`crun`, `/usr/local/sbin/runsc`, `containerd-shim-kata-v2`, `io.containerd.runsc.v1`).
    ///
    /// `None` for all others: a wrapper (`nvidia-container-runtime`) runs what its configuration
    /// says, and containerd's `runc` shim runs any binary with runc's command line.
    pub fn from_program(program: &str) -> Option<Self> {
        let name = program.rsplit('/').next().unwrap_or(program);
        let shim = name.strip_prefix("containerd-shim-").or_else(|| name.strip_prefix("io.containerd."));
        let stem = shim.map_or(name, |rest| rest.split(['-', '.']).next().unwrap_or(rest));
        match stem {
            "runc" if shim.is_none() => Some(Self::Runc),
            "crun" => Some(Self::Crun),
            "runsc" => Some(Self::Runsc),
            "youki" => Some(Self::Youki),
            "kata" | "kata-runtime" => Some(Self::Kata),
            _ => None,
        }
    }
}

/// What manages a container (`workload.engine`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// dockerd, also under Kubernetes (cri-dockerd).
    Docker,
    /// containerd, also under Kubernetes.
    Containerd,
    /// podman.
    Podman,
    /// CRI-O.
    Crio,
    /// Kubernetes, where the path does not tell which engine serves it.
    Kubernetes,
    /// Nothing: a runtime used by hand, a systemd unit, a process of the host.
    None,
}

/// `workload` of an event: what is known about the victim's workload. A field that is not known
/// is absent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Workload {
    /// What executes it.
    pub runtime: Runtime,
    /// What manages it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
    /// The engine's id of the container; the runtime's where there is no engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// The name its owner gave the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_name: Option<String>,
    /// The id of the container that holds the pod's namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox_id: Option<String>,
    /// Kubernetes' uid of the pod; podman's id of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// The pod's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
    /// The pod's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_namespace: Option<String>,
    /// The image's name as its owner wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The cgroup's path from the root of the memory hierarchy, made text by [`escape::escape`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup_path: Option<String>,
    /// The cgroup's id: the inode number of its folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup_id: Option<u64>,
    /// The version of the memory hierarchy, 1 or 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup_version: Option<u8>,
}

impl Workload {
    /// What the path alone says.
    pub fn from_path(cgroup_path: &[u8]) -> Self {
        Self::from_identity(&CgroupIdentity::of(cgroup_path), cgroup_path)
    }

    /// What the path alone says, where it was taken apart already.
    pub fn from_identity(identity: &CgroupIdentity, cgroup_path: &[u8]) -> Self {
        Self {
            runtime: identity.runtime,
            engine: identity.engine,
            container_id: identity.container_id.clone(),
            pod_uid: identity.pod_uid.clone(),
            cgroup_path: Some(escape::escape(cgroup_path)),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_name_their_runtime_and_wrappers_do_not() {
        for (program, runtime) in [
            ("runc", Some(Runtime::Runc)),
            ("/usr/bin/crun", Some(Runtime::Crun)),
            ("/opt/gvisor/runsc", Some(Runtime::Runsc)),
            ("io.containerd.runsc.v1", Some(Runtime::Runsc)),
            ("/usr/local/bin/containerd-shim-runsc-v1", Some(Runtime::Runsc)),
            ("containerd-shim-kata-v2", Some(Runtime::Kata)),
            ("io.containerd.kata.v2", Some(Runtime::Kata)),
            ("kata-runtime", Some(Runtime::Kata)),
            ("youki", Some(Runtime::Youki)),
            ("containerd-shim-runc-v2", None),
            ("io.containerd.runc.v2", None),
            ("nvidia-container-runtime", None),
            ("runc-wrapper", None),
            ("", None),
            ("/", None),
        ] {
            assert_eq!(Runtime::from_program(program), runtime, "{program}");
        }
    }

    #[test]
    fn absent_fields_are_left_out_and_present_ones_have_the_fixed_names() -> serde_json::Result<()> {
        let empty = serde_json::to_value(Workload::default())?;
        assert_eq!(empty, serde_json::json!({"runtime": "unknown"}));
        let id = "ec08435e04266c5ba381fccbb829f626d11d8ddf5f8f547263c7a2d79ab4787a";
        let full = Workload {
            container_name: Some("web".into()),
            sandbox_id: Some("s".into()),
            pod_uid: Some("u".into()),
            pod_name: Some("p".into()),
            pod_namespace: Some("n".into()),
            image: Some("i".into()),
            cgroup_id: Some(42),
            cgroup_version: Some(2),
            ..Workload::from_path(format!("/docker/{id}").as_bytes())
        };
        assert_eq!(
            serde_json::to_value(full)?,
            serde_json::json!({
                "runtime": "unknown", "engine": "docker", "container_id": id, "container_name": "web",
                "sandbox_id": "s", "pod_uid": "u", "pod_name": "p", "pod_namespace": "n", "image": "i",
                "cgroup_path": format!("/docker/{id}"), "cgroup_id": 42, "cgroup_version": 2,
            })
        );
        Ok(())
    }
}
