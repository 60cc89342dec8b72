//! The OCI bundle: the folder with `config.json` that an engine hands to the runtime. Found by
//! the shim or conmon, else in the usual places of containerd, k3s, dockerd, podman and CRI-O.

use std::path::{Path, PathBuf};

use super::Reason;
use super::search::{Fit, Search};
use super::supervisor::{Kind, Supervisor};
use crate::workload::engine::ShimOptions;
use crate::workload::oci::{Names, Spec};
use crate::workload::{Engine, Runtime, layout};

/// State folders of containerd: its own, k3s', microk8s', and dockerd's when it brings its own.
const CONTAINERD_STATES: [&str; 4] = [
    "/run/containerd",
    "/run/k3s/containerd",
    "/run/docker/containerd/daemon",
    "/var/snap/microk8s/common/run/containerd",
];
/// Folders of container storage: CRI-O keeps bundles in the first, podman in the second.
const STORAGES: [&str; 2] = ["/run/containers/storage", "/var/lib/containers/storage"];
/// Storage drivers, in whose folders the containers lie.
const STORAGE_DRIVERS: [&str; 3] = ["overlay", "vfs", "btrfs"];
/// Namespaces of containerd looked at: docker, the CRI and a few.
const MAX_NAMESPACES: usize = 64;

/// A folder that may be the bundle.
#[derive(Debug)]
struct Bundle {
    folder: PathBuf,
    id: String,
    /// containerd's namespace; `None` for podman, CRI-O, and a runtime used by hand.
    namespace: Option<String>,
}

/// Looks for the bundle and takes what it says.
pub(super) fn look(search: &mut Search<'_>, supervisor: Option<&Supervisor>) {
    if let Some(supervisor) = supervisor
        && let Some(bundle) = from_supervisor(search, &supervisor.kind)
        && take(search, &bundle, Some(supervisor))
    {
        ask_supervisor(search, &supervisor.kind);
        return;
    }
    for bundle in usual(search) {
        if take(search, &bundle, None) {
            return;
        }
    }
}

/// A pod's containers share one shim, which works in the bundle of the first: the others lie
/// beside it.
fn from_supervisor(search: &Search<'_>, kind: &Kind) -> Option<Bundle> {
    match kind {
        Kind::Shim { namespace, id, bundle, .. } => {
            let asked = search.id.as_ref().unwrap_or(id);
            let folder = bundle.parent()?.join(asked);
            Some(Bundle { folder, id: asked.clone(), namespace: Some(namespace.clone()) })
        }
        Kind::Conmon { id, bundle, .. } | Kind::Runtime { id, bundle, .. } => {
            Some(Bundle { folder: bundle.clone(), id: id.clone(), namespace: None })
        }
    }
}

fn ask_supervisor(search: &mut Search<'_>, kind: &Kind) {
    match kind {
        Kind::Shim { program, .. } => search.set_runtime(Runtime::from_program(program)),
        Kind::Runtime { program, .. } => {
            search.set_runtime(Runtime::from_program(program));
            search.workload.engine = search.workload.engine.or(Some(Engine::None));
        }
        Kind::Conmon { id, name, runtime, .. } => {
            search.set_runtime(runtime.as_deref().and_then(Runtime::from_program));
            // CRI-O gives conmon a name of its own making (`k8s_…`): the annotations say better.
            let name = name.clone().filter(|_| search.workload.engine == Some(Engine::Podman));
            let names = Names { container_id: Some(id.clone()), container_name: name, ..Names::default() };
            search.merge(names, Path::new("conmon"));
        }
    }
}

/// The usual places, for the known id or for every name in the path that can be one.
fn usual(search: &mut Search<'_>) -> Vec<Bundle> {
    let mut bundles = Vec::new();
    if let Some(id) = search.id.clone() {
        if search.may_be(Engine::Podman) || search.may_be(Engine::Crio) {
            bundles.extend(in_storage(&storages(search), &id));
        }
        if search.may_be(Engine::Containerd) || search.may_be(Engine::Docker) {
            bundles.extend(in_containerd(search, &id));
        }
        return bundles;
    }
    if !search.may_have_any_name {
        return bundles;
    }
    for id in possible_ids(search) {
        bundles.extend(in_containerd(search, &id));
        bundles.extend(in_storage(&storages(search), &id));
    }
    // containerd's own client: `/<namespace>/<id>`, both of any name.
    if let [namespace, id, ..] = search.names()
        && let (Some(namespace), Some(id)) = (file_name(namespace), file_name(id))
    {
        let folders = CONTAINERD_STATES.map(|state| task_folder(state, namespace, id));
        let bundle = |folder| Bundle { folder, id: id.to_owned(), namespace: Some(namespace.to_owned()) };
        bundles.extend(folders.map(bundle));
    }
    bundles
}

/// Ids of 64 hex digits in the path, bare or behind an engine's prefix, the outermost first.
pub(super) fn possible_ids(search: &Search<'_>) -> Vec<String> {
    let names = search.names().iter();
    let id = |name: &&[u8]| {
        let stem = name.strip_suffix(b".scope").unwrap_or(name);
        let last = stem.rsplit(|&byte| byte == b'-').next().unwrap_or(stem);
        layout::container_id(last).map(str::to_owned)
    };
    names.filter_map(id).collect()
}

/// A name that can be a file's without leading elsewhere.
pub(super) fn file_name(name: &[u8]) -> Option<&str> {
    std::str::from_utf8(name).ok().filter(|name| !name.is_empty() && *name != "." && *name != "..")
}

fn task_folder(state: &str, namespace: &str, id: &str) -> PathBuf {
    [state, "io.containerd.runtime.v2.task", namespace, id].iter().collect()
}

fn in_containerd(search: &mut Search<'_>, id: &str) -> Vec<Bundle> {
    let mut bundles = Vec::new();
    for state in CONTAINERD_STATES {
        let tasks = Path::new(state).join("io.containerd.runtime.v2.task");
        for namespace in search.list(&tasks, MAX_NAMESPACES).names {
            let Some(namespace) = namespace.to_str() else { continue };
            let folder = task_folder(state, namespace, id);
            bundles.push(Bundle { folder, id: id.to_owned(), namespace: Some(namespace.to_owned()) });
        }
    }
    bundles
}

/// Folders of container storage: the system's, or the user's where the path names one.
pub(super) fn storages(search: &mut Search<'_>) -> Vec<PathBuf> {
    let Some(user) = search.user else {
        return STORAGES.map(PathBuf::from).into();
    };
    let passwd = search.read(Path::new("/etc/passwd")).unwrap_or_default();
    let home = home_of(&passwd, user).map(|home| home.join(".local/share/containers/storage"));
    let runtime = PathBuf::from(format!("/run/user/{user}/containers"));
    home.into_iter().chain([runtime]).collect()
}

/// The home folder of the user `uid`: the sixth field of the line whose third is it.
fn home_of(passwd: &[u8], uid: u32) -> Option<PathBuf> {
    let lines = std::str::from_utf8(passwd).ok()?.lines();
    let mut found = lines.map(|line| line.split(':').collect::<Vec<_>>());
    let line = found.find(|fields| fields.get(2).is_some_and(|field| *field == uid.to_string()))?;
    line.get(5).map(PathBuf::from).filter(|home| home.is_absolute())
}

/// The folders with the containers of every storage driver.
pub(super) fn driver_folders(storages: &[PathBuf]) -> impl Iterator<Item = PathBuf> {
    let drivers = STORAGE_DRIVERS.map(|driver| format!("{driver}-containers"));
    storages.iter().flat_map(move |storage| drivers.clone().map(|driver| storage.join(driver)))
}

fn in_storage(storages: &[PathBuf], id: &str) -> Vec<Bundle> {
    driver_folders(storages)
        .map(|folder| Bundle { folder: folder.join(id).join("userdata"), id: id.to_owned(), namespace: None })
        .collect()
}

/// Reads the bundle and takes it if it is the asked container's.
fn take(search: &mut Search<'_>, bundle: &Bundle, supervisor: Option<&Supervisor>) -> bool {
    let config = bundle.folder.join("config.json");
    let Some(spec) = search.json::<Spec>(&config) else { return false };
    let fit = search.fits_spec(spec.cgroups_path());
    if let (Fit::Yes(depth), Some(supervisor)) = (fit, supervisor)
        && supervisor.is_inside(search.names(), depth)
    {
        search.problem(Reason::OtherContainer, &config);
        return false;
    }
    if !search.accept(&bundle.id, fit, &config) {
        return false;
    }
    match (&bundle.namespace, supervisor.map(|supervisor| &supervisor.kind)) {
        (Some(namespace), _) => take_task(search, bundle, namespace, &spec),
        // Whose bundle it is nobody knows.
        (None, Some(Kind::Runtime { .. })) => search.merge(spec.names(), &config),
        (None, _) => take_names(search, &bundle.folder, &spec),
    }
    true
}

fn take_task(search: &mut Search<'_>, bundle: &Bundle, namespace: &str, spec: &Spec) {
    let engine = if namespace == "moby" { Engine::Docker } else { Engine::Containerd };
    let names = spec.names();
    search.merge(Names { engine: names.engine.or(Some(engine)), ..names }, &bundle.folder.join("config.json"));
    if engine == Engine::Docker {
        search.docker_folders.extend(spec.docker_folders(&bundle.id).into_iter().map(PathBuf::from));
    }
    let options: Option<ShimOptions> = search.json(&bundle.folder.join("options.json"));
    let shim = text(search, &bundle.folder.join("shim-binary-path"));
    let root = options.as_ref().and_then(ShimOptions::root).unwrap_or("/run/containerd/runc");
    search.state_folders.push([root, namespace, &bundle.id].iter().collect());
    let told = match options.as_ref().map(ShimOptions::binary) {
        Some(Some(binary)) => Runtime::from_program(binary),
        // Without a name the shim for runc takes `runc`.
        Some(None) if shim.as_deref().is_some_and(is_runc_shim) => Some(Runtime::Runc),
        _ => text(search, &bundle.folder.join("runtime")).and_then(|text| Runtime::from_program(&text)),
    };
    search.set_runtime(told.or_else(|| Runtime::from_program(shim.as_deref()?)));
}

fn is_runc_shim(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.starts_with("containerd-shim-runc-"))
}

fn text(search: &mut Search<'_>, path: &Path) -> Option<String> {
    let content = String::from_utf8(search.read(path)?).ok()?;
    Some(content.trim().to_owned()).filter(|text| !text.is_empty())
}

/// A bundle of podman's or CRI-O's: `<storage>/<driver>-containers/<id>/userdata`.
pub(super) fn take_names(search: &mut Search<'_>, folder: &Path, spec: &Spec) {
    search.merge(spec.names(), &folder.join("config.json"));
    if let Some(containers) = folder.parent().and_then(Path::parent) {
        search.storage_folders.push(containers.to_owned());
    }
}
