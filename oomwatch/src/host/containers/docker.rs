//! dockerd's own record of a container: `<data-root>/containers/<id>/config.v2.json` with name,
//! image and labels, and `hostconfig.json` with the runtime.

use std::path::{Path, PathBuf};

use super::bundle::possible_ids;
use super::search::{Fit, Search};
use crate::workload::Engine;
use crate::workload::engine::{DockerContainer, DockerHostConfig};
use crate::workload::path::components;

/// Where dockerd keeps its data: the default, and that of its snap.
const DATA_ROOTS: [&str; 2] = ["/var/lib/docker", "/var/snap/docker/common/var-lib-docker"];

/// Takes the record of the known container; without one, looks for a container whose
/// `--cgroup-parent` explains the path.
pub(super) fn look(search: &mut Search<'_>) {
    if let Some(id) = search.id.clone() {
        if search.may_be(Engine::Docker) {
            let mut folders = std::mem::take(&mut search.docker_folders);
            folders.extend(usual(search, &id));
            _ = folders.iter().any(|folder| take(search, folder));
        }
        return;
    }
    if !search.may_have_any_name {
        return;
    }
    for id in possible_ids(search) {
        for folder in usual(search, &id) {
            let hostconfig: Option<DockerHostConfig> = search.json(&folder.join("hostconfig.json"));
            let parent = hostconfig.as_ref().and_then(DockerHostConfig::cgroup_parent);
            let fit = parent.map_or(Fit::No, |parent| below(search, parent, &id));
            if search.accept(&id, fit, &folder) && take(search, &folder) {
                return;
            }
        }
    }
}

/// Of a user's cgroup nothing of the system's docker: users make cgroups of any name.
fn usual(search: &Search<'_>, id: &str) -> Vec<PathBuf> {
    let roots = DATA_ROOTS.iter().filter(|_| search.user.is_none());
    roots.map(|root| [root, "containers", id].iter().collect()).collect()
}

/// Whether docker, on cgroupfs, would put the container `id` with this parent where the path says.
fn below(search: &Search<'_>, parent: &str, id: &str) -> Fit {
    let path: Vec<&[u8]> = components(parent.as_bytes()).chain([id.as_bytes()]).collect();
    if search.names().starts_with(&path) { Fit::Yes(path.len()) } else { Fit::No }
}

fn take(search: &mut Search<'_>, folder: &Path) -> bool {
    let path = folder.join("config.v2.json");
    let Some(container) = search.json::<DockerContainer>(&path) else { return false };
    let names = container.names(search.workload.pod_uid.as_deref());
    if !search.accept(names.container_id.as_deref().unwrap_or_default(), Fit::Unknown, &path) {
        return false;
    }
    search.merge(names, &path);
    search.init_pid = search.init_pid.or(container.init_pid());
    let hostconfig: Option<DockerHostConfig> = search.json(&folder.join("hostconfig.json"));
    search.set_runtime(hostconfig.and_then(|hostconfig| hostconfig.runtime()));
    true
}
