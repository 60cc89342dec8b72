//! Who a series is about. Names come from containers, which may be hostile: control characters are made visible and
//! long values cut; quotes and backslashes are the exposition format's own matter.

use prometheus_client::encoding::{EncodeLabel as _, EncodeLabelSet, LabelSetEncoder};

use crate::workload::{CgroupIdentity, Runtime, Workload, escape::escape};

/// Longest value of a label, bytes; beyond what any engine allows for a name or an id.
const MAX_VALUE: usize = 256;

/// What tells one workload from another for as long as it lives: all of this is in its labels too, so two workloads
/// never share a series.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// A container, by its runtime, the user whose it is where that is not root, and its id.
    Container(&'static str, Option<u32>, String),
    /// A pod's own processes, by namespace and name.
    Pod(&'static str, Option<String>, String),
    /// Everything else that has this runtime: processes of the host, units of systemd.
    Rest(&'static str),
}

/// The labels that all series of a workload have. What is not known is absent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Labels {
    runtime: &'static str,
    namespace: Option<String>,
    pod: Option<String>,
    container: Option<String>,
    container_id: Option<String>,
    /// A user's own containers have ids of his choice, that of another container among them.
    uid: Option<u32>,
}

impl Labels {
    /// Those of a workload; of `None`, of one that nothing is known of.
    pub(super) fn of(workload: Option<&Workload>) -> Self {
        let nothing = Workload::default();
        let workload = workload.unwrap_or(&nothing);
        let bounded = |value: &Option<String>| value.as_deref().filter(|value| !value.is_empty()).map(bounded);
        Self {
            runtime: runtime(workload.runtime),
            namespace: bounded(&workload.pod_namespace),
            pod: bounded(&workload.pod_name),
            container: bounded(&workload.container_name),
            container_id: bounded(&workload.container_id),
            uid: workload.cgroup_path.as_deref().and_then(user),
        }
    }

    /// What finds the series again.
    pub(super) fn key(&self) -> Key {
        match (&self.container_id, &self.pod) {
            (Some(id), _) => Key::Container(self.runtime, self.uid, id.clone()),
            (None, Some(pod)) => Key::Pod(self.runtime, self.namespace.clone(), pod.clone()),
            (None, None) => Key::Rest(self.runtime),
        }
    }

    /// Whether it is one container.
    pub(super) fn is_container(&self) -> bool {
        self.container_id.is_some()
    }

    /// Whether it is in a pod.
    pub(super) fn is_in_pod(&self) -> bool {
        self.pod.is_some()
    }
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        let labels = [
            ("runtime", Some(self.runtime)),
            ("namespace", self.namespace.as_deref()),
            ("pod", self.pod.as_deref()),
            ("container", self.container.as_deref()),
            ("container_id", self.container_id.as_deref()),
        ];
        for (name, value) in labels {
            if let Some(value) = value {
                (name, value).encode(encoder.encode_label())?;
            }
        }
        self.uid.into_iter().try_for_each(|uid| ("uid", uid).encode(encoder.encode_label()))
    }
}

fn runtime(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Runc => "runc",
        Runtime::Crun => "crun",
        Runtime::Runsc => "runsc",
        Runtime::Youki => "youki",
        Runtime::Kata => "kata",
        Runtime::Systemd => "systemd",
        Runtime::Process => "process",
        Runtime::Unknown => "unknown",
    }
}

/// The user in whose service manager a container's cgroup is; root's own is not told.
fn user(cgroup_path: &str) -> Option<u32> {
    let path = cgroup_path.starts_with("/user.slice/").then_some(cgroup_path)?;
    let identity = CgroupIdentity::of(path.as_bytes());
    identity.user.filter(|user| *user != 0 && identity.is_container())
}

/// A value without control characters, and not longer than [`MAX_VALUE`].
pub(super) fn bounded(value: &str) -> String {
    let mut text = if value.chars().any(char::is_control) { escape(value.as_bytes()) } else { value.to_owned() };
    text.truncate(text.floor_char_boundary(MAX_VALUE));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_names_are_bounded_and_hold_no_control_character() {
        assert_eq!(bounded("web-1 \u{e9}\"\\"), "web-1 \u{e9}\"\\");
        assert_eq!(bounded("a\nb\u{1b}[31m"), "a\\x0ab\\x1b[31m");
        let long = "\u{20ac}".repeat(1000);
        let cut = bounded(&long);
        assert!(cut.len() <= MAX_VALUE && long.starts_with(&cut) && cut.len() > MAX_VALUE - 4, "{cut}");
    }

    #[test]
    fn a_container_is_its_runtime_and_id_and_the_rest_share_series() {
        let of = |workload: Workload| Labels::of(Some(&workload)).key();
        let named = |name: &str| Workload {
            container_id: Some("c".into()),
            container_name: Some(name.into()),
            ..Workload::default()
        };
        assert_eq!(of(named("a")), of(named("b")), "a name may be learned later");
        let of_runsc = Workload { runtime: Runtime::Runsc, ..named("a") };
        assert_ne!(of(named("a")), of(of_runsc));
        let scope = format!("user.slice/libpod-{}.scope", "ab".repeat(32));
        let of_user = |user: u32| {
            let path = format!("/user.slice/user-{user}.slice/user@{user}.service/{scope}");
            of(Workload { cgroup_path: Some(path), ..named("a") })
        };
        assert_ne!(of(named("a")), of_user(1000));
        assert_eq!(of(named("a")), of_user(0));
        assert_eq!(of(Workload::from_path(b"/a/b")), of(Workload::from_path(b"/c")));
        assert_eq!(Labels::of(None).key(), Key::Rest("unknown"));
        let empty = Workload { container_id: Some(String::new()), ..Workload::default() };
        assert_eq!(of(empty), Key::Rest("unknown"), "empty is absent");
    }
}
