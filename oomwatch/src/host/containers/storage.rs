//! podman's and CRI-O's list of containers, `containers.json` in the container storage: names and
//! images. Containers of `--rm` stand in `volatile-containers.json`.

use std::path::PathBuf;

use super::bundle::{driver_folders, storages};
use super::search::Search;
use crate::workload::Engine;
use crate::workload::engine::StorageContainer;

/// Takes the entry of the known container.
pub(super) fn look(search: &mut Search<'_>) {
    let ours = matches!(search.workload.engine, Some(Engine::Podman | Engine::Crio));
    let complete = search.workload.container_name.is_some() && search.workload.image.is_some();
    let Some(id) = search.id.clone().filter(|_| ours && !complete) else { return };
    let mut folders = std::mem::take(&mut search.storage_folders);
    let usual: Vec<PathBuf> = driver_folders(&storages(search)).collect();
    folders.extend(usual);
    for folder in folders {
        for file in ["containers.json", "volatile-containers.json"] {
            let path = folder.join(file);
            let Some(containers) = search.json::<Vec<StorageContainer>>(&path) else { continue };
            if let Some(container) = containers.iter().find(|container| container.id == id) {
                search.merge(container.names(), &path);
                return;
            }
        }
    }
}
