//! Whose limit was hit: the container's own, its pod's, a group's above them, or the host's. Pure.

use serde::{Deserialize, Serialize};

use super::path::CgroupIdentity;

/// Who owns the limit that an OOM ran into (`limit_owner` of an event).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitOwner {
    /// The container's own cgroup, or one that the container made below it.
    Container,
    /// The pod's cgroup, above the container's.
    Pod,
    /// Any other cgroup: a systemd slice or service, a `QoS` class, a plain cgroup.
    Slice,
    /// No cgroup's limit: the machine ran out of memory.
    Host,
}

/// The owner of the limit of the cgroup that lies `oom_depth` components below the hierarchy's root
/// and that is the victim's own cgroup or one of its ancestors; `None` for an OOM of the whole
/// machine. `identity` is the victim's.
pub fn limit_owner(identity: &CgroupIdentity, oom_depth: Option<usize>) -> LimitOwner {
    let at_or_below = |level: Option<usize>, depth| level.is_some_and(|level| depth >= level);
    match oom_depth {
        None | Some(0) => LimitOwner::Host,
        Some(depth) if at_or_below(identity.container_depth, depth) => LimitOwner::Container,
        Some(depth) if at_or_below(identity.pod_depth, depth) => LimitOwner::Pod,
        Some(_) => LimitOwner::Slice,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "f45298cd514d1930c4fe3afc4412e59547f7e3148fddd22ca33cefce046eb830";

    #[test]
    fn every_level_of_a_kubernetes_path_has_its_owner() {
        let path = format!(
            "/kubepods.slice/kubepods-besteffort.slice/\
             kubepods-besteffort-poddd1bf9d1_241d_47f5_8e25_12de83135812.slice/\
             cri-containerd-{ID}.scope/made/by/the/container"
        );
        let identity = CgroupIdentity::of(path.as_bytes());
        let owners: Vec<_> = (0..=8).map(|depth| limit_owner(&identity, Some(depth))).collect();
        let (host, slice, pod, container) =
            (LimitOwner::Host, LimitOwner::Slice, LimitOwner::Pod, LimitOwner::Container);
        assert_eq!(owners, [host, slice, slice, pod, container, container, container, container, container]);
        assert_eq!(limit_owner(&identity, None), host);
    }

    #[test]
    fn a_container_without_a_pod_and_a_pod_without_a_container() {
        let docker = CgroupIdentity::of(format!("/docker/{ID}").as_bytes());
        assert_eq!(limit_owner(&docker, Some(1)), LimitOwner::Slice);
        assert_eq!(limit_owner(&docker, Some(2)), LimitOwner::Container);
        let pod = CgroupIdentity::of(b"/kubepods/pod69e15281-b5b0-4aff-917c-a24553aafb61");
        assert_eq!(limit_owner(&pod, Some(1)), LimitOwner::Slice);
        assert_eq!(limit_owner(&pod, Some(2)), LimitOwner::Pod);
        let service = CgroupIdentity::of(b"/system.slice/cron.service");
        assert_eq!(limit_owner(&service, Some(2)), LimitOwner::Slice);
        assert_eq!(limit_owner(&CgroupIdentity::of(b"/"), None), LimitOwner::Host);
    }
}
