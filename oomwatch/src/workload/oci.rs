//! The OCI bundle's `config.json`: the annotations by which engines name container and pod, the
//! cgroup asked for, and where docker keeps its own files. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Engine, escape::escape};

/// The longest text taken from a file for a name: far above what any engine allows.
const MAX_NAME_BYTES: usize = 1024;

/// The part of an OCI runtime specification that matters here.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Spec {
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    mounts: Option<Vec<Mount>>,
    #[serde(default)]
    linux: Option<Linux>,
}

#[derive(Debug, Clone, Deserialize)]
struct Mount {
    #[serde(default)]
    destination: String,
    #[serde(default)]
    source: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Linux {
    #[serde(default, rename = "cgroupsPath")]
    cgroups_path: Option<String>,
}

/// Names of a container and its pod, as an engine wrote them down.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Which engine wrote them, where that can be told.
    pub engine: Option<Engine>,
    /// The container's id as the file has it: to be compared with the one asked for.
    pub container_id: Option<String>,
    /// The container's name.
    pub container_name: Option<String>,
    /// The image's name.
    pub image: Option<String>,
    /// The container that holds the pod's namespaces.
    pub sandbox_id: Option<String>,
    /// The pod's uid.
    pub pod_uid: Option<String>,
    /// The pod's name.
    pub pod_name: Option<String>,
    /// The pod's namespace.
    pub pod_namespace: Option<String>,
}

impl Spec {
    /// `linux.cgroupsPath`: a path for cgroupfs, `slice:prefix:name` for systemd; absent when empty.
    pub fn cgroups_path(&self) -> Option<&str> {
        self.linux.as_ref()?.cgroups_path.as_deref().filter(|path| !path.is_empty())
    }

    /// What the annotations of containerd's CRI, CRI-O, podman or nerdctl say.
    pub fn names(&self) -> Names {
        let Some(annotations) = &self.annotations else {
            return Names::default();
        };
        let get = |key: &str| name(annotations.get(key));
        let manager = annotations.get("io.container.manager").map(String::as_str);
        match manager {
            Some("libpod") => Names {
                engine: Some(Engine::Podman),
                sandbox_id: get("io.kubernetes.cri-o.SandboxID"),
                ..Names::default()
            },
            Some("cri-o") => crio_names(&get),
            _ if annotations.contains_key("io.kubernetes.cri.container-type") => containerd_names(&get),
            _ if annotations.contains_key("io.kubernetes.cri-o.ContainerID") => crio_names(&get),
            _ if annotations.contains_key("nerdctl/namespace") => {
                Names { engine: Some(Engine::Containerd), container_name: get("nerdctl/name"), ..Names::default() }
            }
            _ => Names::default(),
        }
    }

    /// The folders where docker may keep the files of the container `id`: the sources of its
    /// mounts on `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf`, wherever `--data-root` is.
    pub fn docker_folders(&self, id: &str) -> Vec<&str> {
        let suffix = format!("/containers/{id}");
        let own = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];
        let mounts = self.mounts.as_deref().unwrap_or_default().iter();
        let mut folders: Vec<&str> = mounts
            .filter(|mount| own.contains(&mount.destination.as_str()))
            .filter_map(|mount| mount.source.as_deref()?.rsplit_once('/'))
            .map(|(folder, _)| folder)
            .filter(|folder| folder.starts_with('/') && folder.ends_with(&suffix))
            .collect();
        folders.dedup();
        folders
    }
}

/// Annotations of containerd's CRI plugin.
fn containerd_names(get: &impl Fn(&str) -> Option<String>) -> Names {
    Names {
        engine: Some(Engine::Containerd),
        container_id: None,
        container_name: get("io.kubernetes.cri.container-name"),
        image: get("io.kubernetes.cri.image-name"),
        sandbox_id: get("io.kubernetes.cri.sandbox-id"),
        pod_uid: get("io.kubernetes.cri.sandbox-uid"),
        pod_name: get("io.kubernetes.cri.sandbox-name"),
        pod_namespace: get("io.kubernetes.cri.sandbox-namespace"),
    }
}

/// Annotations of CRI-O, with the kubelet's labels among them.
fn crio_names(get: &impl Fn(&str) -> Option<String>) -> Names {
    Names {
        engine: Some(Engine::Crio),
        container_id: get("io.kubernetes.cri-o.ContainerID"),
        image: get("io.kubernetes.cri-o.ImageName").or_else(|| get("io.kubernetes.cri-o.Image")),
        sandbox_id: get("io.kubernetes.cri-o.SandboxID"),
        ..kubelet_names(get)
    }
}

/// The labels that the kubelet puts on every container it asks an engine for.
pub(super) fn kubelet_names(get: &impl Fn(&str) -> Option<String>) -> Names {
    Names {
        container_name: get("io.kubernetes.container.name"),
        pod_uid: get("io.kubernetes.pod.uid"),
        pod_name: get("io.kubernetes.pod.name"),
        pod_namespace: get("io.kubernetes.pod.namespace"),
        ..Names::default()
    }
}

/// A name worth taking: not empty, not absurdly long; made printable.
pub(super) fn name(text: Option<&String>) -> Option<String> {
    text.filter(|text| !text.is_empty() && text.len() <= MAX_NAME_BYTES).map(|text| escape(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(annotations: &serde_json::Value) -> Names {
        let spec: Spec = serde_json::from_value(serde_json::json!({"annotations": annotations})).unwrap();
        spec.names()
    }

    #[test]
    fn a_specification_without_the_usual_parts_says_nothing() {
        for text in ["{}", r#"{"annotations":null,"mounts":null,"linux":null}"#, r#"{"linux":{"cgroupsPath":""}}"#] {
            let spec: Spec = serde_json::from_str(text).unwrap();
            assert_eq!(spec.names(), Names::default());
            assert_eq!(spec.cgroups_path(), None);
            assert!(spec.docker_folders("ab").is_empty());
        }
    }

    #[test]
    fn empty_and_absurd_names_are_absent() {
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        let found = names(&serde_json::json!({
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.container-name": "",
            "io.kubernetes.cri.sandbox-name": long,
            "io.kubernetes.cri.sandbox-namespace": "n\n",
        }));
        assert_eq!((found.container_name, found.pod_name), (None, None));
        assert_eq!(found.pod_namespace.as_deref(), Some("n\\x0a"));
    }

    #[test]
    fn nerdctl_keeps_the_name_in_an_annotation() {
        let found = names(&serde_json::json!({"nerdctl/name": "web", "nerdctl/namespace": "default"}));
        assert_eq!((found.container_name.as_deref(), found.engine), (Some("web"), Some(Engine::Containerd)));
    }

    #[test]
    fn labels_of_a_kubelet_do_not_count_without_an_engine_that_vouches_for_them() {
        let found = names(&serde_json::json!({"io.kubernetes.pod.name": "p", "io.kubernetes.pod.uid": "u"}));
        assert_eq!(found, Names::default());
    }

    #[test]
    fn docker_folders_come_from_dockers_own_mounts_of_this_container_only() {
        let spec: Spec = serde_json::from_value(serde_json::json!({"mounts": [
            {"destination": "/etc/hosts", "source": "/data/containers/ab/hosts"},
            {"destination": "/etc/hostname", "source": "/data/containers/ab/hostname"},
            {"destination": "/etc/resolv.conf", "source": "/other/containers/cd/resolv.conf"},
            {"destination": "/mnt", "source": "/evil/containers/ab/hosts"},
            {"destination": "/etc/hosts", "source": "containers/ab/hosts"},
            {"destination": "/etc/hosts"},
            {}
        ]}))
        .unwrap();
        assert_eq!(spec.docker_folders("ab"), ["/data/containers/ab"]);
    }
}
