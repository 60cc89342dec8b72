//! The name of a Kubernetes pod where no container told it: kubelet's folders of logs,
//! `/var/log/pods/<namespace>_<name>_<uid>`.

use std::path::Path;

use super::search::Search;
use crate::workload::Engine;
use crate::workload::oci::Names;

/// Pods looked at: kubelets run some hundred at most.
const MAX_PODS: usize = 4096;

/// Adds the name and namespace of the pod that the path names.
pub(super) fn look(search: &mut Search<'_>) {
    let known = search.workload.pod_name.is_some() || search.workload.engine == Some(Engine::Podman);
    let Some(uid) = search.workload.pod_uid.clone().filter(|_| !known) else { return };
    let logs = Path::new("/var/log/pods");
    for folder in search.list(logs, MAX_PODS).names {
        let Some((namespace, name)) = folder.to_str().and_then(|folder| pod(folder, &uid)) else { continue };
        let names =
            Names { pod_name: Some(name.to_owned()), pod_namespace: Some(namespace.to_owned()), ..Names::default() };
        search.merge(names, logs);
        return;
    }
}

/// Namespaces and names of pods hold no `_`.
fn pod<'a>(folder: &'a str, uid: &str) -> Option<(&'a str, &'a str)> {
    let (namespace, name) = folder.strip_suffix(uid)?.strip_suffix('_')?.split_once('_')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains('_')).then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use super::pod;

    #[test]
    fn folders_of_logs_name_the_pod() {
        assert_eq!(pod("kube-system_etcd-a_99", "99"), Some(("kube-system", "etcd-a")));
        for other in ["kube-system_etcd-a_98", "a_99", "_a_99", "a__99", "a_b_c_99", "99", "", "a_b99"] {
            assert_eq!(pod(other, "99"), None, "{other}");
        }
    }
}
