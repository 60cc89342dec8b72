//! What one component of a cgroup path can stand for: the names that engines and kubelets give.
//! Pure; strict on purpose: 64 lower-case hex digits are an id, 63 or 65 are not.

use super::{Engine, Qos};

/// Digits of a container's id as docker, containerd, podman and CRI-O make it.
const ID_DIGITS: usize = 64;

/// Units in whose cgroup containers land when containerd is told to use cgroupfs while the kubelet
/// hands it paths for systemd.
pub(super) const CONTAINERD_UNITS: [&str; 6] = [
    "containerd.service",
    "k3s.service",
    "k3s-agent.service",
    "rke2-server.service",
    "rke2-agent.service",
    "snap.microk8s.daemon-containerd.service",
];

/// A container's id: 64 lower-case hex digits, nothing else.
pub(crate) fn container_id(component: &[u8]) -> Option<&str> {
    (component.len() == ID_DIGITS).then_some(component).and_then(lower_hex)
}

/// Lower-case hex digits only.
fn lower_hex(text: &[u8]) -> Option<&str> {
    let hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (!text.is_empty() && text.iter().all(hex)).then_some(text).and_then(ascii)
}

fn ascii(text: &[u8]) -> Option<&str> {
    std::str::from_utf8(text).ok()
}

/// A container in a systemd scope: `docker-<id>.scope` and its likes, but not `libpod-conmon-<id>.scope`.
pub(super) fn container_scope(component: &[u8]) -> Option<(Engine, &str)> {
    let stem = component.strip_suffix(b".scope")?;
    [
        (&b"docker-"[..], Engine::Docker),
        (b"libpod-", Engine::Podman),
        (b"nerdctl-", Engine::Containerd),
        (b"cri-containerd-", Engine::Containerd),
        (b"crio-", Engine::Crio),
    ]
    .into_iter()
    .find_map(|(prefix, engine)| Some((engine, container_id(stem.strip_prefix(prefix)?)?)))
}

/// A container in the cgroup of a Kubernetes pod, by any engine and either driver.
pub(super) fn pod_container(component: &[u8]) -> Option<(Engine, &str)> {
    let plain = || container_id(component).map(|id| (Engine::Kubernetes, id));
    let crio = || prefixed(component, b"crio-").map(|id| (Engine::Crio, id));
    container_scope(component).or_else(plain).or_else(crio)
}

/// An id behind a prefix: `libpod-<id>`, `libpod-payload-<id>`, `crio-<id>`.
pub(super) fn prefixed<'a>(component: &'a [u8], prefix: &[u8]) -> Option<&'a str> {
    container_id(component.strip_prefix(prefix)?)
}

/// `<pod's slice>:cri-containerd:<id>`: a path for systemd, taken literally by a runtime that uses
/// cgroupfs. Gives the pod's uid, its `QoS` class and the container's id.
pub(super) fn unsplit_systemd_path(component: &[u8]) -> Option<(String, Qos, &str)> {
    let mut parts = component.splitn(3, |&byte| byte == b':');
    let (slice, prefix, id) = (parts.next()?, parts.next()?, parts.next()?);
    let (uid, qos) = kubelet_pod_slice(slice)?;
    (prefix == b"cri-containerd").then_some(())?;
    Some((uid, qos, container_id(id)?))
}

/// `[<cgroup root>-]kubepods[-burstable|-besteffort]-pod<uid>.slice`, the kubelet's systemd driver.
pub(super) fn kubelet_pod_slice(component: &[u8]) -> Option<(String, Qos)> {
    let stem = component.strip_suffix(b".slice")?;
    let mut parts = stem.rsplit(|&byte| byte == b'-');
    let uid = pod_uid(parts.next()?.strip_prefix(b"pod")?, b'_')?;
    let (qos, top) = match parts.next()? {
        b"burstable" => (Qos::Burstable, parts.next()?),
        b"besteffort" => (Qos::BestEffort, parts.next()?),
        top => (Qos::Guaranteed, top),
    };
    (top == b"kubepods").then_some((uid, qos))
}

/// `pod<uid>` below `kubepods`, the kubelet's cgroupfs driver.
pub(super) fn kubelet_pod(above: &[&[u8]], component: &[u8]) -> Option<(String, Qos)> {
    let uid = pod_uid(component.strip_prefix(b"pod")?, b'-')?;
    let qos = match above {
        [.., b"kubepods", b"burstable"] => Qos::Burstable,
        [.., b"kubepods", b"besteffort"] => Qos::BestEffort,
        [.., b"kubepods"] => Qos::Guaranteed,
        _ => return None,
    };
    Some((uid, qos))
}

/// `[<parent>-]libpod_pod_<id>.slice`: a pod of podman's.
pub(super) fn podman_pod_slice(component: &[u8]) -> Option<&str> {
    let stem = component.strip_suffix(b".slice")?;
    prefixed(stem.rsplit(|&byte| byte == b'-').next()?, b"libpod_pod_")
}

/// A pod's uid: a UUID whose groups `separator` parts, or the 32 hex digits of a static pod's
/// configuration. Given back the way the API server writes it, with dashes.
fn pod_uid(text: &[u8], separator: u8) -> Option<String> {
    if text.len() == 32 {
        return lower_hex(text).map(str::to_owned);
    }
    let groups: Vec<&str> = text.split(|&byte| byte == separator).map(lower_hex).collect::<Option<_>>()?;
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]).then(|| groups.join("-"))
}

/// Whether systemd would put the slice `component` below exactly the slices `above`:
/// `a-b-c.slice` lies in `a.slice/a-b.slice`.
pub(super) fn slice_nests(above: &[&[u8]], component: &[u8]) -> bool {
    let Some(stem) = component.strip_suffix(b".slice") else { return false };
    let dashes = stem.iter().enumerate().filter(|(_, byte)| **byte == b'-').map(|(at, _)| at);
    let parents = dashes.filter_map(|at| stem.get(..at));
    parents.eq(above.iter().map(|parent| parent.strip_suffix(b".slice").unwrap_or(parent)))
}

/// The user whose service manager runs in the unit: `user@1000.service`.
pub(super) fn user_manager(unit: &str) -> Option<u32> {
    let digits = unit.strip_prefix("user@")?.strip_suffix(".service")?;
    let canonical = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if canonical { digits.parse().ok() } else { None }
}

/// A container that docker or containerd placed by cgroupfs below a parent known for it:
/// `/docker/<id>`, `/k8s.io/<id>` (the CRI without a kubelet), `/default/<id>` (nerdctl),
/// `/ecs/[<cluster>/]<task>/<id>` (the ECS agent, by docker), `/crio/crio-<id>`.
pub(super) fn cgroupfs_container<'a>(above: &[&[u8]], component: &'a [u8]) -> Option<(Engine, &'a str)> {
    let engine = match above {
        [b"docker"] => Engine::Docker,
        [b"k8s.io" | b"default"] => Engine::Containerd,
        [b"ecs", task] | [b"ecs", _, task] if pod_uid(task, b'-').is_some() => Engine::Docker,
        [b"crio"] => return prefixed(component, b"crio-").map(|id| (Engine::Crio, id)),
        [] | [b"libpod_parent"] => return prefixed(component, b"libpod-").map(|id| (Engine::Podman, id)),
        _ => return None,
    };
    container_id(component).map(|id| (engine, id))
}

/// An LXC or Incus container's name: `/lxc.payload.<name>`, `/lxc/<name>`, `/lxc.payload/<name>`.
pub(super) fn lxc_container<'a>(above: &[&[u8]], component: &'a [u8]) -> Option<&'a str> {
    let name = match above {
        [] => component.strip_prefix(b"lxc.payload.")?,
        [b"lxc" | b"lxc.payload"] => component,
        _ => return None,
    };
    let clean = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    (!name.is_empty() && name.iter().all(clean)).then_some(name).and_then(ascii)
}
