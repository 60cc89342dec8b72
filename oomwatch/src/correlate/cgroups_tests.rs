//! Which kills are of the incident of a warning.

use super::*;
use crate::{
    cgroup_path::CgroupPath,
    event::Body,
    observation::{Level, Victim, WorkloadKey},
};

const SECOND: u64 = 1_000_000_000;
const MEMCG: MemcgId = MemcgId { hierarchy: 0, id: 10 };

fn crossed(line: MemoryLine, boot_ns: u64) -> MemoryCrossed {
    super::super::tests::crossed(WorkloadKey::Cgroup(MEMCG), line, boot_ns)
}

/// A process of a cgroup below the warned one.
fn victim(boot_ns: u64) -> Victim {
    let level = |id: u64, depth: u32| Level {
        memcg: MemcgId { hierarchy: 0, id },
        depth,
        usage_bytes: 0,
        limit_bytes: None,
        oom_group: false,
    };
    Victim {
        boot_ns,
        start_ns: None,
        pid: Some(1),
        tid: 1,
        ns_pid: None,
        comm: None,
        uid: None,
        oom_score_adj: None,
        memory: None,
        trigger_pid: 1,
        trigger_tid: 1,
        trigger_comm: Vec::new(),
        memcg: Some(MemcgId { hierarchy: 0, id: 11 }),
        path: Some(CgroupPath::from_bytes(b"/a/b")),
        levels: vec![level(11, 2), level(10, 1)],
        reclaimed: None,
        local_oom_kill: None,
        run: None,
    }
}

fn warned() -> Cgroups {
    let mut cgroups = Cgroups::default();
    let finding = cgroups.crossed(MEMCG, &crossed(MemoryLine::Near, SECOND), "first".to_owned());
    assert!(matches!(finding.body, Body::NearLimit(_)));
    assert_eq!(finding.incident_id.as_deref(), Some("first"));
    cgroups
}

#[test]
fn a_kill_while_warned_is_of_the_warnings_incident_and_so_is_the_recovery() {
    let mut cgroups = warned();
    assert_eq!(cgroups.incident_of(&Whose::from(&victim(500 * SECOND)), None).as_deref(), Some("first"));
    let by_limit_at = |depth| cgroups.incident_of(&Whose::from(&victim(500 * SECOND)), Some(depth));
    assert_eq!([0, 1].map(by_limit_at), ["first", "first"].map(|it| Some(it.to_owned())), "at or above the warned one");
    assert_eq!(by_limit_at(2), None, "a limit below it, while it had room");
    let elsewhere = Victim { memcg: None, levels: Vec::new(), ..victim(2 * SECOND) };
    assert_eq!(cgroups.incident_of(&Whose::from(&elsewhere), None), None);
    let recovered = cgroups.crossed(MEMCG, &crossed(MemoryLine::Recovered, 600 * SECOND), "unused".to_owned());
    assert_eq!(recovered.incident_id.as_deref(), Some("first"));
}

#[test]
fn what_comes_after_the_recovery_is_another_incident() {
    let mut cgroups = warned();
    cgroups.crossed(MEMCG, &crossed(MemoryLine::Recovered, 5 * SECOND), "unused".to_owned());
    assert_eq!(cgroups.incident_of(&Whose::from(&victim(4 * SECOND)), None).as_deref(), Some("first"), "told late");
    assert_eq!(cgroups.incident_of(&Whose::from(&victim(6 * SECOND)), None), None);
    let again = cgroups.crossed(MEMCG, &crossed(MemoryLine::Near, 7 * SECOND), "second".to_owned());
    assert_eq!(again.incident_id.as_deref(), Some("second"));
    assert_eq!(cgroups.incident_of(&Whose::from(&victim(8 * SECOND)), None).as_deref(), Some("second"));
}

#[test]
fn a_kill_may_be_told_after_the_end_of_the_cgroup_and_is_forgotten_later() {
    let mut cgroups = warned();
    cgroups.removed(MEMCG, 3 * SECOND);
    assert_eq!(cgroups.incident_of(&Whose::from(&victim(2 * SECOND)), None).as_deref(), Some("first"));
    cgroups.removed(MemcgId { hierarchy: 0, id: 99 }, 3 * SECOND + REMEMBER_NS);
    assert!(cgroups.warnings.is_empty());
}
