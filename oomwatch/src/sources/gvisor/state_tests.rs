//! State files of both Debian versions of runsc (recorded), as today's source writes them, and hostile ones.

use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::workload::Engine;

macro_rules! recorded {
    ($name:literal) => {
        include_bytes!(concat!("../../../../tests/fixtures/gvisor/", $name, ".state.json"))
    };
}

const DETACHED_2022: &[u8] = recorded!("20221219-detached");
const DETACHED_2024: &[u8] = recorded!("20240729-detached");
const IGNORING: &[u8] = recorded!("20240729-ignore-cgroups");
const BY_DO: &[u8] = recorded!("20240729-do");
const BY_DOCKER: &[u8] = recorded!("20240729-docker");
const RESTORED: &[u8] = recorded!("20240729-restored");
const POD: [&[u8]; 3] = [recorded!("20240729-pod-pause"), recorded!("20240729-pod-web"), recorded!("20240729-pod-db")];

fn state(json: &[u8]) -> State {
    State::parse(json).unwrap()
}

/// The least that a state file has to say.
fn least() -> Value {
    json!({"id": "c", "sandbox": {"id": "s", "pid": 7}})
}

/// [`least`] with `value` at `pointer`, whose parents are made.
fn with(pointer: &str, value: &Value) -> State {
    let mut json = least();
    let mut at = &mut json;
    for name in pointer.split('/').skip(1) {
        at = &mut at[name];
    }
    *at = value.clone();
    state(json.to_string().as_bytes())
}

fn path(text: &str) -> CgroupPath {
    CgroupPath::from_bytes(text.as_bytes())
}

#[test]
fn a_state_of_2022() {
    let state = state(DETACHED_2022);
    assert_eq!((state.id.as_str(), state.sandbox_id.as_str(), state.is_root()), ("det22", "det22", true));
    assert!(state.sandbox_pid.is_some() && state.gofer_pid.is_some() && state.sandbox_pid != state.gofer_pid);
    assert_eq!(state.cgroup, StateCgroup::V1 { path: path("/gvfix/one"), made: true });
    assert_eq!((state.memory_limit, state.cgroups_path.as_deref()), (Some(134_217_728), Some("/gvfix/one")));
    assert_eq!(state.bundle.as_deref(), Some(Path::new("/tmp/gv/bundle")));
    assert_eq!((state.platform, state.version, state.control_socket), (None, None, None));
    assert!(!state.in_pod);
}

#[test]
fn a_state_of_2024_tells_platform_version_and_control_socket() {
    let state = state(DETACHED_2024);
    assert_eq!((state.id.as_str(), state.is_root()), ("det24", true));
    assert_eq!(state.platform, Some(Platform::Systrap));
    assert_eq!(state.version.as_deref(), Some("0.0~20240729.0"));
    assert_eq!(state.control_socket.as_deref(), Some(Path::new("/tmp/gv/root/runsc-det24.sock")));
    assert_eq!(state.cgroup, StateCgroup::V1 { path: path("/gvfix/one"), made: true });
    assert_eq!((state.pod_name, state.pod_namespace), (None, None));
}

#[test]
fn without_cgroups_there_is_none_and_the_specification_still_has_the_limit() {
    let state = state(IGNORING);
    assert_eq!(state.cgroup, StateCgroup::None);
    assert_eq!(state.memory_limit, Some(134_217_728));
}

#[test]
fn runsc_do_makes_a_cgroup_without_a_limit() {
    let state = state(BY_DO);
    assert_eq!(state.memory_limit, None);
    assert_eq!(state.cgroup, StateCgroup::V1 { path: path(&format!("/{}", state.id)), made: true });
}

#[test]
fn docker_gives_a_cgroup_and_a_limit() {
    let state = state(BY_DOCKER);
    assert_eq!(state.cgroup, StateCgroup::V1 { path: path(&format!("/docker/{}", state.id)), made: true });
    assert_eq!(state.memory_limit, Some(268_435_456));
    assert_eq!(state.names, Names::default());
}

#[test]
fn a_restored_sandbox_has_a_state_like_any_other() {
    let state = state(RESTORED);
    assert_eq!((state.id.as_str(), state.is_root(), state.memory_limit), ("back24", true, Some(134_217_728)));
    assert!(state.sandbox_pid.is_some() && state.gofer_pid.is_some());
}

#[test]
fn containers_of_a_pod_share_sentry_and_cgroup_and_have_gofers_and_names_of_their_own() {
    let [pause, web, db] = POD.map(state);
    assert!(pause.is_root() && !web.is_root() && !db.is_root());
    for other in [&web, &db] {
        assert_eq!((&other.sandbox_id, other.sandbox_pid), (&pause.id, pause.sandbox_pid));
        assert_eq!(other.cgroup, pause.cgroup);
        assert_ne!(other.gofer_pid, pause.gofer_pid);
        assert!(other.in_pod);
    }
    assert_eq!(pause.cgroup, StateCgroup::V1 { path: path("/gvfix/pod-pause"), made: true });
    assert_eq!(web.cgroups_path.as_deref(), Some("/gvfix/pod-web"));
    assert_eq!(
        (pause.memory_limit, web.memory_limit, db.memory_limit),
        (Some(1 << 30), Some(60 << 20), Some(100 << 20))
    );
    assert_eq!((web.pod_name.as_deref(), web.pod_namespace.as_deref()), (Some("shop-0"), Some("prod")));
    assert_eq!((web.names.engine, web.names.container_name.as_deref()), (Some(Engine::Containerd), Some("web")));
    assert_eq!(web.names.image.as_deref(), Some("registry.example/web:1"));
}

#[test]
fn cgroups_of_every_form() {
    let cgroup = |value: Value| with("/sandbox/cgroup", &value).cgroup;
    let v1 = json!({"cgroupv1": {"name": "x/y", "parents": {"cpu": "/c", "memory": "/m/n"}, "own": {"cpu": true}}});
    assert_eq!(cgroup(v1), StateCgroup::V1 { path: path("/m/n/x/y"), made: false });
    let v2 = json!({"cgroupv2": {"mountpoint": "/sys/fs/cgroup", "path": "/a/b", "controllers": ["memory"], "own": ["/a/b"]}});
    assert_eq!(cgroup(v2), StateCgroup::V2 { path: path("/a/b"), made: true });
    let found =
        json!({"cgroupv2": {"mountpoint": "/sys/fs/cgroup", "path": "/a/b", "controllers": ["memory"], "own": null}});
    assert_eq!(cgroup(found), StateCgroup::V2 { path: path("/a/b"), made: false });
    let systemd = json!({"cgroupsystemd": {"mountpoint": "/sys/fs/cgroup", "path": "/kubepods.slice/cri-containerd-1.scope",
        "controllers": [], "own": null, "Name": "1", "Parent": "kubepods.slice", "ScopePrefix": "cri-containerd"}});
    assert_eq!(cgroup(systemd), StateCgroup::V2 { path: path("/kubepods.slice/cri-containerd-1.scope"), made: true });
    for none in [json!({"cgroupunknown": null}), json!({}), json!(null), json!("x"), json!({"cgroupv1": {"name": 5}})] {
        assert_eq!(cgroup(none.clone()), StateCgroup::None, "{none}");
    }
}

#[test]
fn process_ids_that_are_none_are_absent() {
    for pid in [json!(0), json!(-1), json!(4_194_305), json!(1e3), json!(u64::MAX), json!("7"), json!([7]), json!({})] {
        assert_eq!(with("/sandbox/pid", &pid).sandbox_pid, None, "{pid}");
        assert_eq!(with("/goferPid", &pid).gofer_pid, None, "{pid}");
    }
    assert_eq!(with("/sandbox/pid", &json!(4_194_304)).sandbox_pid, Some(4_194_304));
}

#[test]
fn a_field_of_a_wrong_type_costs_no_other() {
    for wrong in [json!(5), json!(true), json!(1.5), json!(null), json!([1, [2]]), json!({"x": {}})] {
        for pointer in [
            "/spec",
            "/spec/linux",
            "/spec/annotations",
            "/spec/linux/resources",
            "/spec/linux/resources/memory",
            "/spec/linux/cgroupsPath",
            "/bundleDir",
            "/sandbox/cgroup",
            "/sandbox/metricMetadata",
            "/sandbox/metricMetadata/platform",
            "/sandbox/controlSocketPath",
            "/sandbox/podName",
            "/status",
        ] {
            let state = with(pointer, &wrong);
            let known = (state.id.as_str(), state.sandbox_id.as_str(), state.sandbox_pid, state.memory_limit);
            assert_eq!(known, ("c", "s", Some(7), None), "{pointer} = {wrong}");
            assert_eq!((state.bundle, state.platform, state.control_socket), (None, None, None), "{pointer} = {wrong}");
        }
    }
    let state = with("/spec/annotations", &json!({"io.kubernetes.cri.container-type": "sandbox", "x": 5}));
    assert!(state.in_pod);
    assert_eq!(state.names, Names::default(), "an annotation that is no text: no names, and the rest stays");
}

#[test]
fn a_relative_control_socket_and_absurdly_long_names_are_absent() {
    assert_eq!(with("/sandbox/controlSocketPath", &json!("a.sock")).control_socket, None);
    assert_eq!(with("/sandbox/podName", &json!("x".repeat(5000))).pod_name, None);
}

#[test]
fn ids_that_runsc_would_not_make_are_refused() {
    for id in [json!("../x"), json!("a/b"), json!("a\nb"), json!(""), json!(7), json!(null), json!("x".repeat(500))] {
        for pointer in ["/id", "/sandbox/id"] {
            let mut json = least();
            *json.pointer_mut(pointer).unwrap() = id.clone();
            let parsed = State::parse(json.to_string().as_bytes());
            assert!(matches!(parsed, Err(StateError::BadId)), "{pointer} = {id}: {parsed:?}");
        }
    }
}

#[test]
fn half_of_a_file_is_malformed_wherever_it_ends() {
    for end in 0..DETACHED_2024.len() {
        let parsed = State::parse(&DETACHED_2024[..end]);
        assert!(matches!(parsed, Err(StateError::Malformed(_))), "{end}");
    }
}

#[test]
fn garbage_is_malformed_and_a_huge_file_too_large() {
    let deep = "[".repeat(100_000);
    for garbage in [&b"\0\0\0\0"[..], b"\xff\xfe", b"null", b"5", b"\"x\"", deep.as_bytes()] {
        assert!(matches!(State::parse(garbage), Err(StateError::Malformed(_))), "{}", garbage.len());
    }
    for empty in [&b"{}"[..], b"[]"] {
        assert!(matches!(State::parse(empty), Err(StateError::BadId)));
    }
    let huge = vec![b' '; MAX_STATE_FILE + 1];
    assert!(matches!(State::parse(&huge), Err(StateError::TooLarge(_))));
}

#[test]
fn a_changed_byte_never_makes_it_panic_nor_an_id_that_is_none() {
    for (at, byte) in (0..DETACHED_2024.len()).zip((0..=u8::MAX).cycle()) {
        let mut json = DETACHED_2024.to_vec();
        json[at] = byte;
        if let Ok(state) = State::parse(&json) {
            assert!(is_id(state.id.as_bytes()) && is_id(state.sandbox_id.as_bytes()));
        }
    }
}

#[test]
fn names_of_state_files() {
    assert_eq!(file_name("web", "pause"), "web_sandbox:pause.state");
    assert_eq!(ids_in_name(b"web_sandbox:pause.state"), Some(("web", "pause")));
    assert_eq!(ids_in_name(b"a_sandbox_sandbox:s.state"), Some(("a_sandbox", "s")));
    let others = ["web_sandbox:pause.lock", "runsc-pause.sock", "_sandbox:x.state", "a_sandbox:.state", "a.state"];
    for name in others.into_iter().chain(["a_sandbox:../x.state", "-a_sandbox:b.state", "a_sandbox:b_sandbox:c.state"])
    {
        assert_eq!(ids_in_name(name.as_bytes()), None, "{name}");
    }
    assert_eq!(ids_in_name(b"\xff_sandbox:x.state"), None);
}

#[test]
fn the_limit_of_a_bundle() {
    let bundle = BundleLimit::parse(br#"{"linux":{"cgroupsPath":"/a","resources":{"memory":{"limit":5}}}}"#);
    assert_eq!(bundle, Some(BundleLimit { memory_limit: Some(5), cgroups_path: Some("/a".into()) }));
    assert_eq!(BundleLimit::parse(b"{}"), Some(BundleLimit::default()));
    assert_eq!(BundleLimit::parse(br#"{"linux":{"resources":{"memory":{"limit":"#), None);
}
