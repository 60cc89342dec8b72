//! Whose limit was hit in the trees of cgroups that systemd and Kubernetes make: the container's, the pod's, or another's.

use support::{Agent, Cgroup, Event, Events as _, Hog, require, unique_name};

/// 64 digits that no other container has.
fn container_id() -> String {
    let hex = unique_name().bytes().fold(0_u128, |hex, byte| (hex << 8) | u128::from(byte));
    format!("{hex:064x}")
}

/// The report of a kill in `cgroup`, which must name `limited`.
fn kill_in(cgroup: &Cgroup, limited: &Cgroup) -> Event {
    let agent = Agent::start();
    let mut hog = Hog::ready_in(cgroup, ["eat=all"]);
    hog.go();
    hog.wait_until_killed();
    let events = agent.stop();
    let kill = events.only_kill_below(cgroup.path());
    assert!(kill.is_kill_of(hog.pid()), "{kill}");
    assert_eq!(kill.text("/task_memcg/path"), cgroup.path().to_str(), "{kill}");
    assert_eq!(kill.text("/oom_memcg/path"), limited.path().to_str(), "{kill}");
    assert_eq!(kill.number("/oom_memcg/limit_bytes"), Some(limited.limit_bytes()), "{kill}");
    kill.clone()
}

#[test]
fn a_container_of_docker_below_systemd_at_its_own_limit() {
    require!(Agent);
    let id = container_id();
    let scope = Cgroup::make(format!("/system.slice/docker-{id}.scope")).limited_to_mib(16);
    let kill = kill_in(&scope, &scope);
    assert_eq!(kill.text("/limit_owner"), Some("container"), "{kill}");
    assert_eq!(kill.text("/workload/engine"), Some("docker"), "{kill}");
    assert_eq!(kill.text("/workload/container_id"), Some(&*id), "{kill}");
}

#[test]
fn a_container_of_docker_below_systemd_at_the_limit_of_its_slice() {
    require!(Agent);
    let (id, slice) = (container_id(), format!("/{}.slice", unique_name()));
    let slice = Cgroup::make(slice).limited_to_mib(16);
    let scope = slice.child(format!("docker-{id}.scope"));
    let kill = kill_in(&scope, &slice);
    assert_eq!(kill.text("/limit_owner"), Some("slice"), "{kill}");
    assert_eq!(kill.text("/workload/container_id"), Some(&*id), "{kill}");
}

/// What of a pod of Kubernetes is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limited {
    Container,
    Pod,
    AllPods,
}

fn kill_in_a_pod(limited: Limited, owner: &str) {
    let id = container_id();
    let uid = format!("1f2e3d4c-aaaa-bbbb-cccc-{}", &id[52..]);
    let limit = |cgroup: Cgroup, what: Limited| if what == limited { cgroup.limited_to_mib(16) } else { cgroup };
    let all = limit(Cgroup::make("/kubepods.slice/kubepods-burstable.slice"), Limited::AllPods);
    let slice = format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_"));
    let pod = limit(all.child(slice), Limited::Pod);
    let scope = limit(pod.child(format!("cri-containerd-{id}.scope")), Limited::Container);
    let hit = match limited {
        Limited::Container => &scope,
        Limited::Pod => &pod,
        Limited::AllPods => &all,
    };
    let kill = kill_in(&scope, hit);
    assert_eq!(kill.text("/limit_owner"), Some(owner), "{kill}");
    assert_eq!(kill.text("/workload/engine"), Some("containerd"), "{kill}");
    assert_eq!(kill.text("/workload/container_id"), Some(&*id), "{kill}");
    assert_eq!(kill.text("/workload/pod_uid"), Some(&*uid), "{kill}");
    // Innermost first: a cgroup goes after those in it.
    drop(scope);
    drop(pod);
}

#[test]
fn a_container_of_a_pod_at_its_own_limit() {
    require!(Agent);
    kill_in_a_pod(Limited::Container, "container");
}

#[test]
fn a_container_of_a_pod_at_the_limit_of_the_pod() {
    require!(Agent);
    kill_in_a_pod(Limited::Pod, "pod");
}

#[test]
fn a_container_of_a_pod_at_the_limit_of_all_pods() {
    require!(Agent);
    kill_in_a_pod(Limited::AllPods, "slice");
}
