//! The state that runc and crun keep of every container: which of the two runs it, its init
//! process and its cgroup. The only witness for a runtime used by hand.

use std::path::{Path, PathBuf};

use super::Reason;
use super::bundle::{file_name, possible_ids, take_names};
use super::search::{Fit, Search};
use crate::workload::engine::{CrunStatus, RuncState};
use crate::workload::oci::Spec;
use crate::workload::{Engine, Runtime, layout};

/// Where runc and crun keep state for root when nobody says otherwise.
const ROOTS: [&str; 2] = ["/run/runc", "/run/crun"];
/// Where engines tell runc, and whatever takes its place, to keep state.
const ENGINE_ROOTS: [&str; 4] = [
    "/run/containerd/runc/k8s.io",
    "/run/containerd/runc/default",
    "/run/containerd/runc/moby",
    "/run/docker/runtime-runc/moby",
];
/// States looked at for a container of unknown name; hosts with more run an engine, whose
/// containers are not among those looked at.
const MAX_STATES: usize = 256;

/// Takes the state of the known container; without one, looks for a container that has the cgroup.
pub(super) fn look(search: &mut Search<'_>) {
    if let Some(id) = search.id.clone() {
        let mut folders = std::mem::take(&mut search.state_folders);
        folders.extend(roots(search).iter().chain(&ENGINE_ROOTS.map(PathBuf::from)).map(|root| root.join(&id)));
        _ = folders.iter().any(|folder| take(search, folder, &id));
    } else if search.may_have_any_name {
        look_around(search);
    }
}

fn roots(search: &Search<'_>) -> Vec<PathBuf> {
    match search.user {
        None => ROOTS.map(PathBuf::from).into(),
        Some(user) => ["runc", "crun"].map(|runtime| PathBuf::from(format!("/run/user/{user}/{runtime}"))).into(),
    }
}

/// First the states that are called like a name in the path, which is the rule; then all others.
fn look_around(search: &mut Search<'_>) {
    let mut likely = possible_ids(search);
    let names = search.names().iter().filter_map(|name| file_name(name));
    likely.extend(names.flat_map(|name| [Some(name.to_owned()), in_scope(name)]).flatten());
    for root in roots(search) {
        let listing = search.list(&root, MAX_STATES);
        let may_be_there = |id: &&String| !listing.complete || listing.names.iter().any(|name| name == id.as_str());
        if likely.iter().filter(may_be_there).any(|id| take(search, &root.join(id), id)) {
            return;
        }
        let others = listing.names.iter().filter_map(|name| name.to_str());
        // 64 hex digits are an engine's: it has them in the path, and they were looked at.
        let mut others = others.filter(|name| layout::container_id(name.as_bytes()).is_none());
        if others.any(|id| take(search, &root.join(id), id)) {
            return;
        }
    }
}

/// The id in a scope that runc or crun asked systemd for: `runc-<id>.scope`.
fn in_scope(name: &str) -> Option<String> {
    let stem = name.strip_suffix(".scope")?;
    stem.strip_prefix("runc-").or_else(|| stem.strip_prefix("crun-")).map(str::to_owned)
}

fn take(search: &mut Search<'_>, folder: &Path, id: &str) -> bool {
    search.has_folder(folder) && take_state(search, folder, id)
}

fn take_state(search: &mut Search<'_>, folder: &Path, id: &str) -> bool {
    take_runc(search, &folder.join("state.json"), id) || take_crun(search, &folder.join("status"), id)
}

fn take_runc(search: &mut Search<'_>, path: &Path, id: &str) -> bool {
    let Some(state) = search.json::<RuncState>(path) else { return false };
    if state.id != id {
        search.problem(Reason::OtherContainer, path);
        return false;
    }
    let fit = state.memory_cgroup().map_or(Fit::No, |cgroup| search.fits(cgroup.as_bytes()));
    taken(search, path, id, fit, &Found { runtime: Runtime::Runc, pid: state.init_process_pid, bundle: state.bundle() })
}

fn take_crun(search: &mut Search<'_>, path: &Path, id: &str) -> bool {
    let Some(status) = search.json::<CrunStatus>(path) else { return false };
    let fit = status.cgroup().map_or(Fit::No, |cgroup| search.fits(cgroup.as_bytes()));
    taken(search, path, id, fit, &Found { runtime: Runtime::Crun, pid: status.pid, bundle: status.bundle() })
}

struct Found<'a> {
    runtime: Runtime,
    pid: u32,
    bundle: Option<&'a str>,
}

fn taken(search: &mut Search<'_>, path: &Path, id: &str, fit: Fit, found: &Found<'_>) -> bool {
    if !search.accept(id, fit, path) {
        return false;
    }
    // The runtime's own state is a better witness than a name in a configuration.
    search.workload.runtime = found.runtime;
    search.init_pid = Some(found.pid).filter(|pid| *pid != 0);
    ask_bundle(search, found.bundle);
    search.workload.engine = search.workload.engine.or(Some(Engine::None));
    true
}

/// The state leads to a bundle in an unusual place; and a container found by its state alone may
/// yet be podman's, with a `--cgroup-parent`.
fn ask_bundle(search: &mut Search<'_>, bundle: Option<&str>) {
    let podman = matches!(search.workload.engine, None | Some(Engine::Podman));
    let Some(folder) = bundle.map(Path::new).filter(|_| podman && search.workload.container_name.is_none()) else {
        return;
    };
    if let Some(spec) = search.json::<Spec>(&folder.join("config.json"))
        && spec.names().engine == Some(Engine::Podman)
        && search.fits_spec(spec.cgroups_path()) != Fit::No
    {
        take_names(search, folder, &spec);
    }
}
