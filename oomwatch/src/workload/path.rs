//! From a cgroup's path to the workload it belongs to. Pure: the path enters as the kernel has it,
//! from the root of the memory hierarchy, in any bytes; [`CgroupIdentity`] leaves.

use serde::Serialize;

use super::{Engine, Runtime, escape, layout};

/// The class of service the kubelet gave a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Qos {
    /// Requests equal limits: no level of its own in the path.
    Guaranteed,
    /// Some requests.
    Burstable,
    /// Neither requests nor limits.
    BestEffort,
}

/// What a cgroup's path says about its workload.
///
/// **Outermost first.** The path is read from the root, and the first container found is the
/// answer; what lies below a container's cgroup never changes it, because a container with a
/// delegated cgroup names the groups inside as it likes. So docker in docker, and a kind, k3d or
/// LXC node full of pods, are the outer container for an agent on the host. That is right there:
/// the host's administrator gave the node its limit and can look up no id of the inside. An agent
/// inside such a node wants the pods: it takes the node's own cgroup as its root and asks
/// [`Self::below`], which ignores the levels of the node and knows everything under them.
///
/// **Only layouts that the engine itself would make.** A scope counts only below slices, a pod's
/// slice only where systemd nests it, and nothing inside a service or scope counts but podman's
/// `--cgroups=split`. Of what a user's own service manager made only podman's layout is taken:
/// its other names are the user's word. A bare id below a parent that is not known for one
/// (`docker run --cgroup-parent /mine`) stays out too: `host::containers` finds it on disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CgroupIdentity {
    /// `Unknown` for a container or a pod: the path tells the engine, not the runtime.
    pub runtime: Runtime,
    /// What manages it.
    pub engine: Option<Engine>,
    /// The container's id.
    pub container_id: Option<String>,
    /// Kubernetes' uid of the pod, with dashes; podman's id of it.
    pub pod_uid: Option<String>,
    /// The pod's class, under Kubernetes.
    pub qos: Option<Qos>,
    /// The innermost unit of the system's systemd that is not inside a container.
    pub unit: Option<String>,
    /// The innermost unit of the user's service manager, below `user@UID.service`.
    pub user_unit: Option<String>,
    /// The user below whose service manager the cgroup lies.
    pub user: Option<u32>,
    /// How many components of the path are above the agent's own host (see [`Self::below`]).
    pub base_depth: usize,
    /// The container's cgroup: how many components its path has.
    pub container_depth: Option<usize>,
    /// The pod's cgroup: how many components its path has.
    pub pod_depth: Option<usize>,
    /// How many components the whole path has.
    pub depth: usize,
}

impl CgroupIdentity {
    /// The identity of a cgroup on a host whose cgroups begin at the root of the hierarchy.
    pub fn of(path: &[u8]) -> Self {
        Self::below(b"", path)
    }

    /// The identity of a cgroup on a host that is itself the cgroup `base`; a path that is not
    /// below it is read from the root.
    pub fn below(base: &[u8], path: &[u8]) -> Self {
        let all: Vec<&[u8]> = components(path).collect();
        let base: Vec<&[u8]> = components(base).collect();
        let base_depth = if all.starts_with(&base) { base.len() } else { 0 };
        let names = all.get(base_depth..).unwrap_or_default();
        let mut walk = Walk { names, place: Place::Top, identity: Self::default() };
        for at in 0..names.len() {
            if walk.step(at).is_none() {
                break;
            }
        }
        walk.finish(base_depth, all.len())
    }

    /// Whether the path names a container.
    pub fn is_container(&self) -> bool {
        self.container_depth.is_some()
    }
}

/// The names of a path, from the root down.
pub(crate) fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty())
}

/// Where the walk stands, which decides what the next name may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At the root, or below slices only.
    Top,
    /// Below a plain cgroup: systemd makes nothing there.
    Plain,
    /// Below `user.slice`: only podman is looked for.
    UserSlice,
    /// In a user's service manager, whose names begin at this index.
    UserManager(usize),
    /// In a unit that holds processes.
    Unit,
    /// In a pod.
    Pod,
}

struct Walk<'a> {
    names: &'a [&'a [u8]],
    place: Place,
    identity: CgroupIdentity,
}

impl<'a> Walk<'a> {
    /// Takes the name at index `at`; `None` ends the walk.
    fn step(&mut self, at: usize) -> Option<()> {
        let name = *self.names.get(at)?;
        if name == b".." || name == b"." {
            return None;
        }
        match self.place {
            Place::Top => self.at_top(name, at),
            Place::Plain => self.at_plain(name, at),
            Place::UserSlice => self.at_user_slice(name, at),
            Place::UserManager(begin) => self.at_user_manager(name, at, begin),
            Place::Unit => self.in_unit(name, at),
            Place::Pod => self.in_pod(name, at),
        }
    }

    fn at_top(&mut self, name: &'a [u8], at: usize) -> Option<()> {
        if at == 0
            && let Some(found) = layout::unsplit_systemd_path(name)
        {
            return self.unsplit(found, at);
        }
        let Some(unit) = escape::unit_name(name) else {
            return if at == 0 { self.at_plain(name, at) } else { None };
        };
        self.identity.unit = Some(unit.to_owned());
        if let Some((engine, id)) = layout::container_scope(name) {
            return self.container(engine, id, at);
        }
        if !escape::is_slice(unit) {
            self.place = unit_place(unit, at);
            self.identity.user = layout::user_manager(unit);
            return Some(());
        }
        if unit == "user.slice" && at == 0 {
            self.place = Place::UserSlice;
            return Some(());
        }
        self.slice(name, at, 0)
    }

    fn at_plain(&mut self, name: &'a [u8], at: usize) -> Option<()> {
        self.place = Place::Plain;
        let above = self.names.get(..at)?;
        if let Some((engine, id)) = layout::cgroupfs_container(above, name) {
            return self.container(engine, id, at);
        }
        if let Some(name) = layout::lxc_container(above, name) {
            self.identity.container_id = Some(name.to_owned());
            self.identity.container_depth = Some(at + 1);
            return None;
        }
        if let Some((uid, qos)) = layout::kubelet_pod(above, name) {
            self.identity.qos = Some(qos);
            self.pod(Engine::Kubernetes, uid, at);
            return Some(());
        }
        let Some(id) = layout::container_id(name) else {
            return Some(());
        };
        if above == [b"libpod_parent"] {
            self.pod(Engine::Podman, id.to_owned(), at);
            return Some(());
        }
        // Perhaps a container, of a parent that is not known: no name inside can be trusted.
        None
    }

    fn at_user_slice(&mut self, name: &'a [u8], at: usize) -> Option<()> {
        let unit = escape::unit_name(name)?;
        self.identity.unit = Some(unit.to_owned());
        if !escape::is_slice(unit) {
            self.place = unit_place(unit, at);
            self.identity.user = layout::user_manager(unit);
        }
        Some(())
    }

    fn at_user_manager(&mut self, name: &'a [u8], at: usize, begin: usize) -> Option<()> {
        let unit = escape::unit_name(name)?;
        self.identity.user_unit = Some(unit.to_owned());
        match layout::container_scope(name) {
            Some((Engine::Podman, id)) => return self.container(Engine::Podman, id, at),
            Some(_) => return None,
            None => {}
        }
        if escape::is_slice(unit) {
            return self.slice(name, at, begin);
        }
        self.place = Place::Unit;
        Some(())
    }

    /// A slice whose parents begin at the name with the index `begin`.
    fn slice(&mut self, name: &'a [u8], at: usize, begin: usize) -> Option<()> {
        if !layout::slice_nests(self.names.get(begin..at)?, name) {
            return Some(());
        }
        if let Some(id) = layout::podman_pod_slice(name) {
            self.pod(Engine::Podman, id.to_owned(), at);
            return Some(());
        }
        if begin == 0
            && let Some((uid, qos)) = layout::kubelet_pod_slice(name)
        {
            self.identity.qos = Some(qos);
            self.pod(Engine::Kubernetes, uid, at);
            return Some(());
        }
        Some(())
    }

    fn in_unit(&mut self, name: &'a [u8], at: usize) -> Option<()> {
        let known = self.identity.unit.as_deref().is_some_and(|unit| layout::CONTAINERD_UNITS.contains(&unit));
        if known && let Some(found) = layout::unsplit_systemd_path(name) {
            return self.unsplit(found, at);
        }
        let id = layout::prefixed(name, b"libpod-payload-")?;
        self.container(Engine::Podman, id, at)
    }

    fn in_pod(&mut self, name: &'a [u8], at: usize) -> Option<()> {
        let (engine, id) = if self.identity.engine == Some(Engine::Podman) {
            let cgroupfs = || layout::prefixed(name, b"libpod-").map(|id| (Engine::Podman, id));
            layout::container_scope(name).filter(|(engine, _)| *engine == Engine::Podman).or_else(cgroupfs)?
        } else {
            layout::pod_container(name)?
        };
        let unit = escape::unit_name(name).map(str::to_owned);
        if self.identity.user.is_some() {
            self.identity.user_unit = unit.or(self.identity.user_unit.take());
        } else {
            self.identity.unit = unit.or(self.identity.unit.take());
        }
        self.container(engine, id, at)
    }

    fn pod(&mut self, engine: Engine, uid: String, at: usize) {
        self.identity.engine = Some(engine);
        self.identity.pod_uid = Some(uid);
        self.identity.pod_depth = Some(at + 1);
        self.place = Place::Pod;
    }

    fn unsplit(&mut self, (uid, qos, id): (String, Qos, &str), at: usize) -> Option<()> {
        self.identity.pod_uid = Some(uid);
        self.identity.qos = Some(qos);
        self.container(Engine::Containerd, id, at)
    }

    fn container(&mut self, engine: Engine, id: &str, at: usize) -> Option<()> {
        self.identity.engine = Some(engine);
        self.identity.container_id = Some(id.to_owned());
        self.identity.container_depth = Some(at + 1);
        None
    }

    /// The identity, with depths counted from the root of the hierarchy.
    fn finish(mut self, base_depth: usize, depth: usize) -> CgroupIdentity {
        let from_root = |below: Option<usize>| below.map(|below| below + base_depth);
        self.identity.container_depth = from_root(self.identity.container_depth);
        self.identity.pod_depth = from_root(self.identity.pod_depth);
        self.identity.base_depth = base_depth;
        self.identity.depth = depth;
        if self.identity.container_depth.is_none() && self.identity.pod_depth.is_none() {
            self.identity.engine = Some(Engine::None);
            self.identity.runtime = if self.identity.unit.is_some() { Runtime::Systemd } else { Runtime::Process };
        }
        self.identity
    }
}

fn unit_place(unit: &str, at: usize) -> Place {
    if layout::user_manager(unit).is_some() { Place::UserManager(at + 1) } else { Place::Unit }
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;
