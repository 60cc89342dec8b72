//! The search for a workload in trees made of real state files, and of files made to mislead.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::workload::{Engine, Runtime, escape};

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/containers/", $name))
    };
}

const WEB: &str = "f58243f83a80f4b20c568393a3745828c2a3192bbbb4a92898b5d200f6aca041";
const PARENT: &str = "6a078dd669574bdc3d0ee4661b02cfab67fbfa6f31cabd1624baf67524a2a9e2";
const PM_ONE: &str = "dd75781a616bf917043e9de7ebd91fc7cf8e1566d022c596b74b7b36dfc62644";
const PM_CRUN: &str = "39bd3956ae14e7c31a3f85c3d88ae8c94d793000cef4f2acf6f202dfff566f53";
const PM_INPOD: &str = "ec50f0ed8439974c89f9eaa1b32cf0605bcd6561fe2a16538dc4cd7d89f8e2fd";
const PM_INFRA: &str = "17db2c0931f031348ab2a40c077ae83d12bc25294093f8d56f173a512aab2cec";
const PM_POD: &str = "419e7c15d0ecd1c482b449c6805768fc33c7497b2dbbaabce07fc2e08e97b145";
const CRIO: &str = "438e2ba9d5970597608a7df68ae72f6085a1460f976f964ed5f369c793eaa4fe";
const KUBERNETES: &str = "1733e7a76be7ee5c026275bb563de617e1e5723164a1f07903469a320d5a67a4";
const MOBY: &str = "/tmp/wl-run/dk/exec/containerd/daemon/io.containerd.runtime.v2.task/moby";
const STORAGE: &str = "/tmp/wl-run/pod/root/vfs-containers";

/// A host's files.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path.trim_start_matches('/'))
    }

    fn file(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), content).unwrap();
        self
    }

    /// A process of root's: its parent, command line, cgroup in the memory hierarchy and working folder.
    fn process(&self, pid: u32, parent: u32, command: &str, cgroup: &str, cwd: &str) -> &Self {
        let program = command.split(' ').next().unwrap().rsplit('/').next().unwrap();
        let name = &program[..program.len().min(15)];
        self.belongs(pid, 0, "9")
            .file(&format!("/proc/{pid}/stat"), format!("{pid} ({name}) S {parent} 1 1"))
            .file(&format!("/proc/{pid}/cmdline"), command.replace(' ', "\0") + "\0")
            .file(&format!("/proc/{pid}/cgroup"), format!("9:name=systemd:/\n4:memory:{cgroup}\n0::/\n"));
        symlink(cwd, self.at(&format!("/proc/{pid}/cwd"))).unwrap();
        self
    }

    /// Whose a process is, and its ids in the namespaces that it has one in.
    fn belongs(&self, pid: u32, uid: u32, ids: &str) -> &Self {
        let status = format!("Name:\ta\nUid:\t0\t{uid}\t0\t0\nGid:\t0\t0\t0\t0\nNSpid:\t{ids}\n");
        self.file(&format!("/proc/{pid}/status"), status)
    }

    /// A process in `cgroup` whose grandparent is the shim of the bundle `bundle`.
    fn with_shim(&self, cgroup: &str, namespace: &str, bundle: &str) -> &Self {
        let id = bundle.rsplit('/').next().unwrap();
        let shim =
            format!("/usr/bin/containerd-shim-runc-v2 -namespace {namespace} -id {id} -address /x/containerd.sock");
        self.process(30, 20, "sleep 1000", cgroup, "/").process(20, 10, "sh", cgroup, "/").process(
            10,
            1,
            &shim,
            "/system.slice/containerd.service",
            bundle,
        )
    }

    fn with_conmon(&self, cgroup: &str, id: &str, name: &str, runtime: &str) -> &Self {
        let conmon = format!(
            "/usr/bin/conmon --api-version 1 -c {id} -u {id} -r {runtime} -b {STORAGE}/{id}/userdata -n {name} --full-attach"
        );
        self.process(20, 10, "sleep 1000", cgroup, "/").process(10, 1, &conmon, "/libpod_parent/conmon", "/")
    }

    fn root(&self) -> HostRoot {
        HostRoot::new(self.0.path())
    }

    fn describe(&self, path: &str, process: Option<u32>) -> Description {
        describe(&self.root(), &CgroupIdentity::of(path.as_bytes()), path.as_bytes(), process)
    }
}

#[expect(clippy::ref_option, reason = "every field it is asked about is one")]
fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or_default()
}

fn reasons(description: &Description) -> Vec<&'static str> {
    description.problems.iter().map(|problem| problem.reason.as_str()).collect()
}

/// A host with docker's container `wl-web` as dockerd left it, in unusual folders.
fn docker_host() -> Host {
    let host = Host::new();
    let record = format!("/tmp/wl-run/dk/data/containers/{WEB}");
    host.file(&format!("{MOBY}/{WEB}/config.json"), fixture!("docker/wl-web/bundle.config.json"))
        .file(&format!("{MOBY}/{WEB}/options.json"), fixture!("docker/wl-web/options.json"))
        .file(&format!("{MOBY}/{WEB}/runtime"), fixture!("docker/wl-web/runtime"))
        .file(&format!("{MOBY}/{WEB}/shim-binary-path"), fixture!("docker/wl-web/shim-binary-path"))
        .file(&format!("{record}/config.v2.json"), fixture!("docker/wl-web/config.v2.json"))
        .file(&format!("{record}/hostconfig.json"), fixture!("docker/wl-web/hostconfig.json"))
        .file(&format!("/tmp/wl-run/dk/exec/runtime-runc/moby/{WEB}/state.json"), fixture!("docker/wl-web/state.json"))
        .with_shim(&format!("/docker/{WEB}"), "moby", &format!("{MOBY}/{WEB}"));
    host
}

#[test]
fn docker_in_unusual_folders_is_found_through_the_shim() {
    let found = docker_host().describe(&format!("/docker/{WEB}"), Some(30));
    let work = &found.workload;
    assert_eq!((work.runtime, work.engine), (Runtime::Runc, Some(Engine::Docker)));
    assert_eq!((text(&work.container_id), text(&work.container_name), text(&work.image)), (WEB, "wl-web", "bb:test"));
    assert_eq!((found.container_depth, found.init_pid), (Some(2), Some(9252)));
    assert_eq!((&work.pod_uid, &work.sandbox_id), (&None, &None));
    assert_eq!(found.problems, []);
}

#[test]
fn docker_in_unusual_folders_without_a_process_is_known_by_its_path_only() {
    let found = docker_host().describe(&format!("/docker/{WEB}"), None);
    assert_eq!((found.workload.runtime, text(&found.workload.container_name)), (Runtime::Unknown, ""));
    assert_eq!((found.workload.engine, text(&found.workload.container_id)), (Some(Engine::Docker), WEB));
}

#[test]
fn docker_in_the_usual_folders_needs_no_process() {
    let host = Host::new();
    host.file(&format!("/var/lib/docker/containers/{WEB}/config.v2.json"), fixture!("docker/wl-web/config.v2.json"))
        .file(&format!("/var/lib/docker/containers/{WEB}/hostconfig.json"), fixture!("docker/wl-web/hostconfig.json"));
    let found = host.describe(&format!("/system.slice/docker-{WEB}.scope/made/inside"), None);
    assert_eq!((text(&found.workload.container_name), text(&found.workload.image)), ("wl-web", "bb:test"));
    assert_eq!((found.workload.runtime, found.init_pid), (Runtime::Runc, Some(9252)));
}

#[test]
fn docker_with_a_cgroup_parent_is_told_by_the_shim_or_by_its_own_record() {
    let path = format!("/wl-par/a/{PARENT}");
    let host = Host::new();
    host.file(&format!("{MOBY}/{PARENT}/config.json"), fixture!("docker/wl-parent/bundle.config.json"))
        .file(
            &format!("/tmp/wl-run/dk/data/containers/{PARENT}/config.v2.json"),
            fixture!("docker/wl-parent/config.v2.json"),
        )
        .with_shim(&path, "moby", &format!("{MOBY}/{PARENT}"));
    let usual = Host::new();
    usual
        .file(
            &format!("/var/lib/docker/containers/{PARENT}/config.v2.json"),
            fixture!("docker/wl-parent/config.v2.json"),
        )
        .file(
            &format!("/var/lib/docker/containers/{PARENT}/hostconfig.json"),
            fixture!("docker/wl-parent/hostconfig.json"),
        );
    for found in
        [host.describe(&path, Some(20)), usual.describe(&path, None), usual.describe(&format!("{path}/x"), None)]
    {
        assert_eq!((text(&found.workload.container_id), text(&found.workload.container_name)), (PARENT, "wl-parent"));
        assert_eq!((found.workload.engine, found.container_depth), (Some(Engine::Docker), Some(3)));
    }
    for other in [format!("/elsewhere/{PARENT}"), format!("/wl-par/{PARENT}"), "/wl-par/a".to_owned()] {
        let found = usual.describe(&other, None);
        assert_eq!((found.workload.container_id, found.container_depth), (None, None), "{other}");
        assert_eq!(found.workload.runtime, Runtime::Process, "{other}");
    }
}

#[test]
fn containers_of_ctr_are_told_by_their_bundle() {
    let host = Host::new();
    let bundle = "/run/containerd/io.containerd.runtime.v2.task/default/ctr-test";
    host.file(&format!("{bundle}/config.json"), fixture!("containerd/config.json"))
        .file(&format!("{bundle}/options.json"), fixture!("containerd/options.json"))
        .file(&format!("{bundle}/runtime"), fixture!("containerd/runtime"))
        .file(&format!("{bundle}/shim-binary-path"), fixture!("containerd/shim-binary-path"));
    let found = host.describe("/default/ctr-test", None);
    assert_eq!((found.workload.runtime, found.workload.engine), (Runtime::Runc, Some(Engine::Containerd)));
    assert_eq!((text(&found.workload.container_id), found.container_depth), ("ctr-test", Some(2)));
    host.file("/run/containerd/runc/default/ctr-test/state.json", fixture!("containerd/state.json"));
    let found = host.describe("/default/ctr-test/child", None);
    assert_eq!((found.workload.runtime, found.container_depth), (Runtime::Runc, Some(2)));
    assert!(found.init_pid.is_some());
    assert_eq!(host.describe("/default", None).workload.container_id, None);
}

fn podman_host() -> Host {
    let host = Host::new();
    host.file(&format!("{STORAGE}/containers.json"), fixture!("podman/containers.json"));
    for (id, config) in [
        (PM_ONE, fixture!("podman/pm-one.config.json")),
        (PM_CRUN, fixture!("podman/pm-crun.config.json")),
        (PM_INPOD, fixture!("podman/pm-inpod.config.json")),
    ] {
        host.file(&format!("{STORAGE}/{id}/userdata/config.json"), config);
    }
    host.file(&format!("/run/runc/{PM_ONE}/state.json"), fixture!("podman/pm-one.state.json"))
        .file(&format!("/run/crun/{PM_CRUN}/status"), fixture!("podman/pm-crun.status"));
    host
}

#[test]
fn podman_in_unusual_folders_is_found_through_conmon() {
    for (id, name, runtime, pid) in [(PM_ONE, "pm-one", Runtime::Runc, 9724), (PM_CRUN, "pm-crun", Runtime::Crun, 9839)]
    {
        let host = podman_host();
        let path = format!("/libpod_parent/libpod-{id}");
        let program = if runtime == Runtime::Runc { "/usr/bin/runc" } else { "/usr/bin/crun" };
        let found = host.with_conmon(&path, id, name, program).describe(&path, Some(20));
        assert_eq!((found.workload.runtime, found.workload.engine), (runtime, Some(Engine::Podman)));
        assert_eq!((text(&found.workload.container_name), text(&found.workload.image)), (name, "localhost/bb:test"));
        assert_eq!((found.init_pid, found.problems.as_slice()), (Some(pid), &[][..]));
    }
}

#[test]
fn podman_in_unusual_folders_without_a_process_is_found_through_its_runtimes_state() {
    let found = podman_host().describe(&format!("/libpod_parent/libpod-{PM_ONE}"), None);
    assert_eq!((text(&found.workload.container_name), text(&found.workload.image)), ("pm-one", "localhost/bb:test"));
    assert_eq!((found.workload.runtime, found.problems.as_slice()), (Runtime::Runc, &[][..]));
}

#[test]
fn a_container_in_a_podman_pod_names_pod_and_sandbox() {
    let path = format!("/libpod_parent/{PM_POD}/libpod-{PM_INPOD}");
    let found = podman_host().with_conmon(&path, PM_INPOD, "pm-inpod", "runc").describe(&path, Some(20));
    let work = &found.workload;
    assert_eq!((text(&work.container_name), text(&work.sandbox_id)), ("pm-inpod", PM_INFRA));
    assert_eq!((text(&work.pod_uid), work.runtime), (PM_POD, Runtime::Runc));
    assert_eq!((found.container_depth, &work.pod_name), (Some(3), &None));
}

#[test]
fn rootless_podman_is_found_in_the_users_home() {
    let host = Host::new();
    let storage = "/home/u/.local/share/containers/storage/overlay-containers";
    let path = format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{PM_CRUN}.scope/container");
    let config = fixture!("podman/pm-crun.config.json").replace("/libpod_parent/libpod-", "user.slice:libpod:");
    let status = fixture!("podman/pm-crun.status").replace(&format!("/libpod_parent/libpod-{PM_CRUN}"), &path);
    host.file("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nu:x:1000:1000::/home/u:/bin/sh\n")
        .file(&format!("{storage}/{PM_CRUN}/userdata/config.json"), config)
        .file(&format!("{storage}/containers.json"), fixture!("podman/containers.json"))
        .file(&format!("/run/user/1000/crun/{PM_CRUN}/status"), status);
    let found = host.describe(&path, None);
    assert_eq!((text(&found.workload.container_name), found.workload.runtime), ("pm-crun", Runtime::Crun));
    assert_eq!((found.container_depth, found.problems.as_slice()), (Some(5), &[][..]));
}

#[test]
fn cri_o_and_containerd_under_kubernetes_name_container_pod_and_image() {
    let host = Host::new();
    let crio = format!(
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod5b5e07db_f1b9_4530_81ef_b7d04d66b83e.slice/crio-{CRIO}.scope"
    );
    let kubernetes = format!(
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod4fe556a4_0bd7_45be_966f_46e2cbf4c4ac.slice/cri-containerd-{KUBERNETES}.scope"
    );
    let task = format!("/run/containerd/io.containerd.runtime.v2.task/k8s.io/{KUBERNETES}");
    host.file(
        &format!("/run/containers/storage/overlay-containers/{CRIO}/userdata/config.json"),
        fixture!("crio/config.json"),
    )
    .file(&format!("{task}/config.json"), fixture!("kubernetes/config.json"))
    .file(&format!("{task}/options.json"), r#"{"binary_name":"/usr/bin/crun","systemd_cgroup":true}"#)
    .file(&format!("{task}/shim-binary-path"), "/usr/bin/containerd-shim-runc-v2");
    for (path, engine, runtime, name, pod, namespace) in [
        (&crio, Engine::Crio, Runtime::Unknown, "coredns", "coredns-6d4b75cb6d-4mtdm", "kube-system"),
        (&kubernetes, Engine::Containerd, Runtime::Crun, "test-pod-9240", "test-pod-9240", "default"),
    ] {
        let found = host.describe(path, None);
        let work = &found.workload;
        assert_eq!((work.engine, work.runtime), (Some(engine), runtime));
        assert_eq!((text(&work.container_name), text(&work.pod_name)), (name, pod));
        assert_eq!(text(&work.pod_namespace), namespace);
        assert!(work.image.is_some() && work.sandbox_id.as_ref().is_some_and(|id| id.len() == 64));
        assert_eq!(found.problems, []);
    }
}

#[test]
fn a_pods_second_container_lies_beside_the_bundle_its_shim_works_in() {
    let host = Host::new();
    let path = format!("/kubepods/besteffort/pod4fe556a4-0bd7-45be-966f-46e2cbf4c4ac/{KUBERNETES}");
    let tasks = "/odd/containerd/io.containerd.runtime.v2.task/k8s.io";
    let config = fixture!("kubernetes/config.json").replace(
        "kubepods-besteffort-pod4fe556a4_0bd7_45be_966f_46e2cbf4c4ac.slice:cri-containerd:",
        "/kubepods/besteffort/pod4fe556a4-0bd7-45be-966f-46e2cbf4c4ac/",
    );
    host.file(&format!("{tasks}/{KUBERNETES}/config.json"), config).with_shim(
        &path,
        "k8s.io",
        &format!("{tasks}/{CRIO}"),
    );
    let found = host.describe(&path, Some(30));
    assert_eq!((text(&found.workload.container_name), found.problems.as_slice()), ("test-pod-9240", &[][..]));
    assert_eq!(found.workload.engine, Some(Engine::Containerd));
}

#[test]
fn a_pod_without_a_known_container_is_named_by_its_logs() {
    let host = Host::new();
    fs::create_dir_all(host.at("/var/log/pods/prod_web-0_1858680e-b044-4fd5-9dd4-f137e30e2180")).unwrap();
    fs::create_dir_all(host.at("/var/log/pods/prod_web-1_2858680e-b044-4fd5-9dd4-f137e30e2180")).unwrap();
    let found = host.describe("/kubepods/burstable/pod1858680e-b044-4fd5-9dd4-f137e30e2180", None);
    assert_eq!((text(&found.workload.pod_name), text(&found.workload.pod_namespace)), ("web-0", "prod"));
    assert_eq!((found.workload.engine, found.container_depth), (Some(Engine::Kubernetes), None));
}

#[test]
fn runc_and_crun_by_hand_are_told_by_their_state() {
    let host = Host::new();
    host.file("/run/runc/wl-runc-one/state.json", fixture!("runc/wl-runc-one.state.json"))
        .file("/run/runc/wl-runc-two/state.json", fixture!("runc/wl-runc-two.state.json"))
        .file("/run/crun/wl-crun-one/status", fixture!("crun/wl-crun-one.status"))
        .file("/run/crun/wl-crun-two/status", fixture!("crun/wl-crun-two.status"));
    for (path, runtime, id, depth) in [
        ("/wl-runc/named", Runtime::Runc, "wl-runc-one", 2),
        ("/wl-runc/named/child/of/it", Runtime::Runc, "wl-runc-one", 2),
        ("/outer/c8ec7e6976f781a9d61ec2a80e73f261/wl-runc-two", Runtime::Runc, "wl-runc-two", 3),
        ("/wl-crun/named", Runtime::Crun, "wl-crun-one", 2),
        ("/wl-crun-two/below", Runtime::Crun, "wl-crun-two", 1),
    ] {
        let found = host.describe(path, None);
        assert_eq!((found.workload.runtime, found.workload.engine), (runtime, Some(Engine::None)), "{path}");
        assert_eq!((text(&found.workload.container_id), found.container_depth), (id, Some(depth)), "{path}");
        assert!(found.init_pid.is_some() && found.problems.is_empty(), "{path}: {found:?}");
    }
    for other in ["/", "/wl-runc", "/wl-runc/named2", "/other/wl-runc-two", "/wl-crun-one", "/wl-runc-one"] {
        let found = host.describe(other, None);
        assert_eq!((found.workload.runtime, found.container_depth), (Runtime::Process, None), "{other}");
    }
}

#[test]
fn runc_by_hand_under_systemd_is_told_by_its_state() {
    let host = Host::new();
    let state =
        |cgroup: &str| format!(r#"{{"id":"web","init_process_pid":7,"cgroup_paths":{{"":"/sys/fs/cgroup{cgroup}"}}}}"#);
    host.file("/run/runc/web/state.json", state("/system.slice/runc-web.scope"));
    let found = host.describe("/system.slice/runc-web.scope", None);
    assert_eq!((found.workload.runtime, text(&found.workload.container_id)), (Runtime::Runc, "web"));
    host.file("/run/runc/web/state.json", state("/system.slice/cron.service"));
    let service = host.describe("/system.slice/cron.service", None);
    assert_eq!((service.workload.runtime, service.container_depth), (Runtime::Systemd, None));
}

#[test]
fn a_podman_container_with_a_cgroup_parent_is_told_by_its_runtimes_state() {
    let path = format!("/mine/libpod-{PM_CRUN}");
    let host = podman_host();
    let moved = |text: &str| text.replace("/libpod_parent/", "/mine/");
    host.file(&format!("/run/crun/{PM_CRUN}/status"), moved(fixture!("podman/pm-crun.status")))
        .file(&format!("{STORAGE}/{PM_CRUN}/userdata/config.json"), moved(fixture!("podman/pm-crun.config.json")));
    let found = host.describe(&path, None);
    assert_eq!((found.workload.engine, found.workload.runtime), (Some(Engine::Podman), Runtime::Crun));
    assert_eq!((text(&found.workload.container_name), found.container_depth), ("pm-crun", Some(2)));
}

#[test]
fn files_about_another_container_or_cgroup_are_not_used() {
    let path = format!("/docker/{WEB}");
    let host = docker_host();
    let record = format!("/tmp/wl-run/dk/data/containers/{WEB}/config.v2.json");
    host.file(&record, fixture!("docker/wl-parent/config.v2.json"));
    let found = host.describe(&path, Some(30));
    assert_eq!((text(&found.workload.container_name), reasons(&found)), ("", vec!["other_container"]));

    let host = docker_host();
    host.file(&format!("{MOBY}/{WEB}/config.json"), fixture!("docker/wl-parent/bundle.config.json"));
    let found = host.describe(&path, Some(30));
    assert_eq!((text(&found.workload.container_name), reasons(&found)), ("", vec!["other_cgroup"]));

    let host = Host::new();
    host.file(&format!("/run/runc/{WEB}/state.json"), fixture!("docker/wl-parent/state.json"));
    let found = host.describe(&path, None);
    assert_eq!((found.workload.runtime, reasons(&found)), (Runtime::Unknown, vec!["other_container"]));
}

#[test]
fn a_conmon_or_record_of_another_container_is_not_used() {
    let host = podman_host();
    let path = format!("/libpod_parent/libpod-{PM_ONE}");
    let config = fixture!("podman/pm-inpod.config.json").replace("cgroupsPath", "unset");
    host.file(&format!("{STORAGE}/{PM_INPOD}/userdata/config.json"), config);
    let found = host.with_conmon(&path, PM_INPOD, "pm-inpod", "runsc").describe(&path, Some(20));
    assert_eq!((text(&found.workload.sandbox_id), text(&found.workload.container_name)), ("", "pm-one"));
    assert_eq!((found.workload.runtime, reasons(&found)), (Runtime::Runc, vec!["other_container"]));

    let host = Host::new();
    let config = fixture!("crio/config.json").replacen(CRIO, KUBERNETES, 1);
    host.file(&format!("/run/containers/storage/overlay-containers/{CRIO}/userdata/config.json"), config);
    let found = host.describe(&format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod5b5e07db_f1b9_4530_81ef_b7d04d66b83e.slice/crio-{CRIO}.scope"), None);
    assert_eq!((text(&found.workload.container_name), reasons(&found)), ("", vec!["other_container"]));
}

#[test]
fn a_container_in_the_root_cgroup_owns_nobody_elses() {
    let host = Host::new();
    let config = fixture!("containerd/config.json").replace("/default/ctr-test", "/");
    host.file("/run/containerd/io.containerd.runtime.v2.task/default/ctr-test/config.json", config);
    let found = host.describe("/default/ctr-test", None);
    assert_eq!((found.workload.container_id, found.container_depth), (None, None));
}

#[test]
fn a_file_that_names_another_pod_gives_no_pods_name() {
    let host = Host::new();
    let id = KUBERNETES;
    host.file(&format!("/run/containerd/io.containerd.runtime.v2.task/k8s.io/{id}/config.json"), {
        fixture!("kubernetes/config.json").replace(
            "kubepods-besteffort-pod4fe556a4_0bd7_45be_966f_46e2cbf4c4ac.slice:cri-containerd:",
            "/kubepods/pod1858680e-b044-4fd5-9dd4-f137e30e2180/",
        )
    });
    let found = host.describe(&format!("/kubepods/pod1858680e-b044-4fd5-9dd4-f137e30e2180/{id}"), None);
    assert_eq!((text(&found.workload.pod_name), text(&found.workload.container_name)), ("", "test-pod-9240"));
    assert_eq!(reasons(&found), ["other_pod"]);
}

#[test]
fn a_shim_is_roots_and_outside_of_containers() {
    for (uid, ids) in [(1000, "10"), (0, "10\t1"), (0, "")] {
        let host = docker_host();
        host.belongs(10, uid, ids);
        let found = host.describe(&format!("/docker/{WEB}"), Some(30));
        assert_eq!(found.workload.container_name, None, "its folders are unusual, and only the shim tells of them");
    }
}

/// A user may call his cgroups as he likes.
#[test]
fn a_users_cgroup_is_no_container_of_the_systems_docker() {
    let host = Host::new();
    host.file(&format!("/var/lib/docker/containers/{WEB}/config.v2.json"), fixture!("docker/wl-web/config.v2.json"));
    let name = |path: &str| host.describe(path, None).workload.container_name;
    assert_eq!(name(&format!("/system.slice/docker-{WEB}.scope")).as_deref(), Some("wl-web"));
    let in_users = format!("/user.slice/user-1000.slice/user@1000.service/app.slice/docker-{WEB}.scope");
    assert_eq!(name(&in_users), None);
    let in_users = format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{WEB}.scope");
    assert_eq!(name(&in_users), None);
}

#[test]
fn a_container_that_plays_the_shim_is_seen_through() {
    let host = Host::new();
    let path = format!("/docker/{WEB}");
    let fake = format!("/fake/moby/{WEB}");
    let command = format!("containerd-shim-runc-v2 -namespace moby -id {WEB}");
    host.file(&format!("{fake}/config.json"), fixture!("docker/wl-web/bundle.config.json"))
        .file(&format!("{fake}/options.json"), r#"{"binary_name":"runsc"}"#)
        .file(&format!("{MOBY}/{WEB}/config.json"), fixture!("docker/wl-web/bundle.config.json"))
        .file(&format!("{MOBY}/{WEB}/options.json"), r#"{"binary_name":"crun"}"#)
        .process(30, 20, "sleep 1000", &path, "/")
        .process(20, 10, &command, &format!("{path}/mine"), &fake)
        .process(10, 1, &command, "/system.slice/containerd.service", &format!("{MOBY}/{WEB}"));
    assert_eq!(host.describe(&path, Some(30)).workload.runtime, Runtime::Crun);

    // The same in a cgroup whose path tells no container: its own claim is about its own cgroup.
    let host = Host::new();
    let config = fixture!("docker/wl-parent/bundle.config.json").replace("/wl-par/a/", "/plain/");
    let path = format!("/plain/{PARENT}");
    host.file(&format!("/fake/moby/{PARENT}/config.json"), config).process(30, 20, "sleep 1000", &path, "/").process(
        20,
        1,
        &command.replace(WEB, PARENT),
        &path,
        &format!("/fake/moby/{PARENT}"),
    );
    let found = host.describe(&path, Some(30));
    assert_eq!((found.workload.container_id.as_ref(), reasons(&found)), (None, vec!["other_container"]));
}

#[test]
fn hostile_files_are_absent_and_counted() {
    let path = format!("/docker/{WEB}");
    let record = format!("/var/lib/docker/containers/{WEB}/config.v2.json");
    let deep = "[".repeat(100_000);
    let wrong_type = fixture!("docker/wl-web/config.v2.json").replace("\"/wl-web\"", "{}");
    let cut = &fixture!("docker/wl-web/config.v2.json")[..700];
    let texts: [&[u8]; 7] =
        [b"", b"null", b"{", deep.as_bytes(), wrong_type.as_bytes(), cut.as_bytes(), b"\xff\xfe\x00"];
    for content in texts {
        let host = Host::new();
        host.file(&record, content);
        let found = host.describe(&path, None);
        assert_eq!((text(&found.workload.container_name), reasons(&found)), ("", vec!["malformed"]));
    }
    let host = Host::new();
    host.file(&record, "");
    fs::File::options().write(true).open(host.at(&record)).unwrap().set_len(5 << 20).unwrap();
    assert_eq!(reasons(&host.describe(&path, None)), ["not_usable"]);

    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(outside.path(), fixture!("docker/wl-web/config.v2.json")).unwrap();
    fs::remove_file(host.at(&record)).unwrap();
    symlink(outside.path(), host.at(&record)).unwrap();
    let found = host.describe(&path, None);
    assert_eq!((text(&found.workload.container_name), reasons(&found)), ("", vec!["unreadable"]));
}

#[test]
fn a_folder_full_of_states_costs_a_bounded_amount() {
    let host = Host::new();
    for number in 0..300 {
        host.file(&format!("/run/runc/c{number}/state.json"), vec![b' '; 256 << 10]);
    }
    let found = host.describe("/plain", None);
    assert_eq!(found.workload.runtime, Runtime::Process);
    let reasons = reasons(&found);
    assert!(reasons.contains(&"too_many_entries"), "{reasons:?}");
    assert!(found.problems.len() <= 16, "{reasons:?}");
}

#[test]
fn paths_of_any_bytes_are_described_without_harm() {
    let host = docker_host();
    for path in
        [&b"/\xff\xfe/\x01"[..], b"/../../etc", b"/.", b"/a\0b", b"", &[b'/'; 4096], b"/~/$(x)/`y`", &[0xff; 4096]]
    {
        let found = describe(&host.root(), &CgroupIdentity::of(path), path, Some(4_000_000_000));
        assert_eq!(found.workload.cgroup_path.as_deref(), Some(escape::escape(path).as_str()));
        assert_eq!(found.workload.container_id, None);
    }
}

#[test]
fn processes_that_are_gone_or_form_a_ring_end_the_walk() {
    let host = docker_host();
    host.process(40, 41, "a", "/", "/").process(41, 40, "b", "/", "/");
    let path = format!("/docker/{WEB}");
    for pid in [0, 1, 39, 40, u32::MAX] {
        let found = host.describe(&path, Some(pid));
        assert_eq!((text(&found.workload.container_name), found.problems.as_slice()), ("", &[][..]), "{pid}");
    }
}
