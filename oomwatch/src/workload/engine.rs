//! The state files of engines and runtimes other than the OCI bundle: docker's and podman's
//! records, containerd's options, and the state of runc and crun. Pure: decoded with serde.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::oci::{Names, kubelet_names, name};
use super::{Engine, Runtime};

/// docker: `<data-root>/containers/<id>/config.v2.json`.
#[derive(Debug, Clone, Deserialize)]
pub struct DockerContainer {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default, rename = "Name")]
    name: Option<String>,
    #[serde(default, rename = "Config")]
    config: Option<DockerConfig>,
    #[serde(default, rename = "State")]
    state: Option<DockerState>,
}

#[derive(Debug, Clone, Deserialize)]
struct DockerConfig {
    #[serde(default, rename = "Image")]
    image: Option<String>,
    #[serde(default, rename = "Labels")]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Deserialize)]
struct DockerState {
    #[serde(default, rename = "Pid")]
    pid: Option<u32>,
}

impl DockerContainer {
    /// The names in it. A kubelet's labels count only when they name the pod `pod_uid` that the
    /// cgroup path names too: anybody may label a container.
    pub fn names(&self, pod_uid: Option<&str>) -> Names {
        let config = self.config.as_ref();
        let labels = config.and_then(|config| config.labels.as_ref());
        let label = |key: &str| name(labels.and_then(|labels| labels.get(key)));
        let kubelet = kubelet_names(&label);
        let vouched = pod_uid.is_some() && kubelet.pod_uid.as_deref() == pod_uid;
        let pod =
            if vouched { Names { sandbox_id: label("io.kubernetes.sandbox.id"), ..kubelet } } else { Names::default() };
        let own_name = self.name.as_deref().map(|name| name.trim_start_matches('/').to_owned());
        Names {
            engine: Some(Engine::Docker),
            container_id: Some(self.id.clone()),
            container_name: pod.container_name.clone().or_else(|| name(own_name.as_ref())),
            image: name(config.and_then(|config| config.image.as_ref())),
            ..pod
        }
    }

    /// The container's init process while it runs.
    pub fn init_pid(&self) -> Option<u32> {
        self.state.as_ref()?.pid.filter(|pid| *pid != 0)
    }
}

/// docker: `hostconfig.json` beside `config.v2.json`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct DockerHostConfig {
    #[serde(default, rename = "Runtime")]
    runtime: Option<String>,
    #[serde(default, rename = "CgroupParent")]
    cgroup_parent: Option<String>,
}

impl DockerHostConfig {
    /// The runtime it was started with.
    pub fn runtime(&self) -> Option<Runtime> {
        Runtime::from_program(self.runtime.as_deref()?)
    }

    /// `--cgroup-parent`, absent when docker chose it.
    pub fn cgroup_parent(&self) -> Option<&str> {
        self.cgroup_parent.as_deref().filter(|parent| !parent.is_empty())
    }
}

/// containerd's runc shim: `options.json` in the bundle.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ShimOptions {
    #[serde(default)]
    binary_name: Option<String>,
    #[serde(default)]
    root: Option<String>,
}

impl ShimOptions {
    /// The binary asked for; absent when the shim's default, runc, serves.
    pub fn binary(&self) -> Option<&str> {
        self.binary_name.as_deref().filter(|binary| !binary.is_empty())
    }

    /// Where the runtime keeps its state, without the namespace.
    pub fn root(&self) -> Option<&str> {
        self.root.as_deref().filter(|root| root.starts_with('/'))
    }
}

/// podman and CRI-O: one entry of `containers.json` in the container storage.
#[derive(Debug, Clone, Deserialize)]
pub struct StorageContainer {
    /// The container's id.
    pub id: String,
    #[serde(default)]
    names: Option<Vec<String>>,
    #[serde(default)]
    metadata: Option<String>,
}

#[derive(Debug, Deserialize)]
struct StorageMetadata {
    #[serde(default, rename = "image-name")]
    image_name: Option<String>,
}

impl StorageContainer {
    /// Name and image. CRI-O's own names (`k8s_…`) are for itself: its annotations say better.
    pub fn names(&self) -> Names {
        let metadata: Option<StorageMetadata> =
            self.metadata.as_deref().and_then(|text| serde_json::from_str(text).ok());
        let own = self.names.as_deref().unwrap_or_default().first();
        Names {
            container_id: Some(self.id.clone()),
            container_name: name(own.filter(|name| !name.starts_with("k8s_"))),
            image: name(metadata.and_then(|metadata| metadata.image_name).as_ref()),
            ..Names::default()
        }
    }
}

/// Where runc finds the hierarchies mounted (`/proc/self/mountinfo` may say otherwise: then its
/// paths are not understood here).
const CGROUP_MOUNTS: &str = "/sys/fs/cgroup/";

/// runc: `<root>/<id>/state.json`.
#[derive(Debug, Clone, Deserialize)]
pub struct RuncState {
    /// The container's id.
    pub id: String,
    /// The container's init process.
    pub init_process_pid: u32,
    cgroup_paths: BTreeMap<String, String>,
    #[serde(default)]
    config: Option<RuncConfig>,
}

#[derive(Debug, Clone, Deserialize)]
struct RuncConfig {
    #[serde(default)]
    labels: Option<Vec<String>>,
}

impl RuncState {
    /// The container's cgroup below the root of the memory hierarchy; `None` when it has none of
    /// its own.
    ///
    /// runc keeps a path per controller of version 1 (`/sys/fs/cgroup/memory/a`), and one without
    /// a controller for version 2 (`/sys/fs/cgroup/a`).
    pub fn memory_cgroup(&self) -> Option<&str> {
        let relative = match self.cgroup_paths.get("memory") {
            Some(path) => path.strip_prefix(CGROUP_MOUNTS)?.split_once('/')?.1,
            None => self.cgroup_paths.get("")?.strip_prefix(CGROUP_MOUNTS)?,
        };
        Some(relative).filter(|path| !path.trim_matches('/').is_empty())
    }

    /// The bundle's folder, from the label runc keeps.
    pub fn bundle(&self) -> Option<&str> {
        let labels = self.config.as_ref()?.labels.as_deref()?;
        labels.iter().find_map(|label| label.strip_prefix("bundle=")).filter(|path| path.starts_with('/'))
    }
}

/// crun: `<root>/<id>/status`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CrunStatus {
    /// The container's init process.
    pub pid: u32,
    #[serde(default)]
    cgroup_path: Option<String>,
    #[serde(default)]
    bundle: Option<String>,
}

impl CrunStatus {
    /// The container's cgroup from the root of the hierarchy; `None` when it has none of its own.
    /// Under systemd it may be a child of the container's scope (`.../libpod-<id>.scope/container`).
    pub fn cgroup(&self) -> Option<&str> {
        self.cgroup_path.as_deref().filter(|path| !path.trim_matches('/').is_empty())
    }

    /// The bundle's folder.
    pub fn bundle(&self) -> Option<&str> {
        self.bundle.as_deref().filter(|path| path.starts_with('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(paths: &serde_json::Value) -> RuncState {
        let text = serde_json::json!({"id": "a", "init_process_pid": 7, "cgroup_paths": paths}).to_string();
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn runcs_memory_cgroup_on_both_versions() {
        for (paths, expected) in [
            (
                serde_json::json!({"memory": "/sys/fs/cgroup/memory/docker/ab", "": "/sys/fs/cgroup/unified/x"}),
                Some("docker/ab"),
            ),
            (
                serde_json::json!({"": "/sys/fs/cgroup/system.slice/docker-ab.scope"}),
                Some("system.slice/docker-ab.scope"),
            ),
            (serde_json::json!({"memory": "/sys/fs/cgroup/memory"}), None),
            (serde_json::json!({"memory": "/sys/fs/cgroup/memory/"}), None),
            (serde_json::json!({"": "/sys/fs/cgroup/"}), None),
            (serde_json::json!({"": "/elsewhere/ab"}), None),
            (serde_json::json!({"memory": ""}), None),
            (serde_json::json!({}), None),
        ] {
            assert_eq!(state(&paths).memory_cgroup(), expected, "{paths}");
        }
    }

    #[test]
    fn crun_without_a_cgroup_has_none() {
        for text in [r#"{"pid":1}"#, r#"{"pid":1,"cgroup-path":""}"#, r#"{"pid":1,"cgroup-path":"/"}"#] {
            assert_eq!(serde_json::from_str::<CrunStatus>(text).unwrap().cgroup(), None, "{text}");
        }
    }

    #[test]
    fn dockers_labels_of_a_pod_count_only_where_the_path_agrees() {
        let text = serde_json::json!({"ID": "ab", "Name": "/k8s_app_web_ns_u_0", "Config": {"Image": "sha256:1", "Labels": {
            "io.kubernetes.container.name": "app", "io.kubernetes.pod.name": "web", "io.kubernetes.pod.namespace": "ns",
            "io.kubernetes.pod.uid": "u", "io.kubernetes.sandbox.id": "s"}}});
        let docker: DockerContainer = serde_json::from_value(text).unwrap();
        let (vouched, claimed) = (docker.names(Some("u")), docker.names(Some("other")));
        assert_eq!((vouched.container_name.as_deref(), vouched.pod_name.as_deref()), (Some("app"), Some("web")));
        assert_eq!(vouched.sandbox_id.as_deref(), Some("s"));
        assert_eq!((claimed.container_name.as_deref(), claimed.pod_name), (Some("k8s_app_web_ns_u_0"), None));
        assert_eq!(docker.names(None).pod_uid, None);
    }
}
