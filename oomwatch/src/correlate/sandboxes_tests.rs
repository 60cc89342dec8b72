//! Whose sandbox a victim belonged to, and which incident.

use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;
use crate::{cgroup_path::CgroupPath, observation::WorkloadKey, workload::Workload};

const SECOND: u64 = 1_000_000_000;
const TICK_NS: u64 = 10_000_000;
const KEY: SandboxKey = SandboxKey { pid: 4, start_ticks: 7 };

fn memcg(id: u64) -> MemcgId {
    MemcgId { hierarchy: 0, id }
}

fn sandbox(key: SandboxKey, cgroup: Option<(u64, &str)>) -> Sandbox {
    let cgroup = cgroup.map(|(id, path)| (memcg(id), CgroupPath::from_bytes(path.as_bytes())));
    Sandbox { key, boot_ns: 50, cgroup, gofers: vec![3], workload: Workload::default(), limit: None }
}

fn known(all: impl IntoIterator<Item = Sandbox>) -> Sandboxes {
    let mut sandboxes = Sandboxes::default();
    all.into_iter().for_each(|sandbox| sandboxes.found(sandbox));
    sandboxes
}

fn one() -> Sandboxes {
    known([sandbox(KEY, Some((11, "/a")))])
}

/// In the cgroups of these ids, its own first.
fn victim(pid: u32, start_ns: Option<u64>, memcgs: &[u64], boot_ns: u64) -> Victim {
    let level = |(depth, id): (usize, &u64)| Level {
        memcg: memcg(*id),
        depth: u32::try_from(memcgs.len() - depth).unwrap(),
        usage_bytes: 0,
        limit_bytes: None,
        oom_group: false,
    };
    Victim {
        boot_ns,
        start_ns,
        pid: Some(pid),
        tid: pid,
        ns_pid: None,
        comm: None,
        uid: None,
        oom_score_adj: None,
        memory: None,
        trigger_pid: 1,
        trigger_tid: 1,
        trigger_comm: Vec::new(),
        memcg: memcgs.first().map(|id| memcg(*id)),
        path: None,
        levels: memcgs.iter().enumerate().map(level).collect(),
        reclaimed: None,
        local_oom_kill: None,
        run: None,
    }
}

fn crossed(line: MemoryLine, boot_ns: u64) -> MemoryCrossed {
    super::super::tests::crossed(WorkloadKey::Sandbox(KEY), line, boot_ns)
}

/// The incident of a line that was crossed, called `new` where it is one of its own.
fn cross(sandboxes: &mut Sandboxes, line: MemoryLine, boot_ns: u64, new: &str) -> String {
    sandboxes.crossed(KEY, &crossed(line, boot_ns), new.to_owned()).unwrap().incident_id.unwrap()
}

/// The same of a kill.
fn kill(sandboxes: &mut Sandboxes, boot_ns: u64, new: &str) -> String {
    let of = sandboxes.of(&(&victim(9, None, &[11], boot_ns)).into()).unwrap();
    let incident_id = of.incident_id.unwrap_or_else(|| new.to_owned());
    sandboxes.killed(of.of.key, boot_ns, incident_id.clone()).unwrap();
    incident_id
}

#[test]
fn a_kill_is_of_the_warning_before_it_however_long_that_stands() {
    let mut sandboxes = one();
    assert_eq!(cross(&mut sandboxes, MemoryLine::Near, SECOND, "a"), "a");
    assert_eq!(cross(&mut sandboxes, MemoryLine::Over, 2 * SECOND, "b"), "a");
    assert_eq!(kill(&mut sandboxes, 1000 * SECOND, "c"), "a");
    assert_eq!(cross(&mut sandboxes, MemoryLine::Recovered, 1001 * SECOND, "d"), "a");
}

#[test]
fn a_warning_that_is_told_after_the_kill_is_of_the_kill() {
    for measured in [SECOND - 100, SECOND + 100] {
        let mut sandboxes = one();
        assert_eq!(kill(&mut sandboxes, SECOND, "kill"), "kill");
        assert_eq!(cross(&mut sandboxes, MemoryLine::Near, measured, "warning"), "kill");
    }
}

#[test]
fn what_recovered_is_over() {
    let mut sandboxes = one();
    cross(&mut sandboxes, MemoryLine::Near, SECOND, "a");
    cross(&mut sandboxes, MemoryLine::Recovered, 2 * SECOND, "b");
    assert_eq!(kill(&mut sandboxes, 3 * SECOND, "c"), "c");
    assert_eq!(kill(&mut sandboxes, 4 * SECOND, "d"), "c", "the kernel had to kill once more");
    assert_eq!(kill(&mut sandboxes, 60 * SECOND, "e"), "e", "the sandbox lived on");
}

#[test]
fn roles_are_told_by_process() {
    let sandboxes = one();
    let role = |pid, start_ns| sandboxes.of(&(&victim(pid, start_ns, &[11], SECOND)).into()).unwrap().role;
    assert_eq!(role(4, Some(7 * TICK_NS + 1)), Role::Sentry);
    assert_eq!(role(4, None), Role::Sentry);
    assert_eq!(role(3, None), Role::Gofer);
    assert_eq!(role(9, None), Role::Stub);
}

#[test]
fn a_process_id_that_went_to_another_is_nobodys() {
    let mut sandboxes = known([sandbox(KEY, None)]);
    let is_ours = |sandboxes: &Sandboxes, victim: Victim| sandboxes.of(&(&victim).into()).is_some();
    assert!(is_ours(&sandboxes, victim(4, Some(7 * TICK_NS), &[99], SECOND)));
    assert!(!is_ours(&sandboxes, victim(4, Some(8 * TICK_NS), &[99], SECOND)));
    assert!(is_ours(&sandboxes, victim(3, None, &[99], SECOND)));
    sandboxes.gone(SandboxGone { key: KEY, boot_ns: 2 * SECOND, peak_bytes: 0 });
    assert!(is_ours(&sandboxes, victim(3, None, &[99], SECOND)), "told after its end");
    assert!(!is_ours(&sandboxes, victim(3, None, &[99], 3 * SECOND)));
}

#[test]
fn of_sandboxes_in_one_another_the_innermost_is_meant_but_for_a_process_of_the_outer() {
    let inner = SandboxKey { pid: 5, start_ticks: 8 };
    let outer = Sandbox { boot_ns: 99, ..sandbox(KEY, Some((11, "/a"))) };
    let sandboxes = known([sandbox(inner, Some((12, "/a/b"))), outer]);
    let of = |pid| sandboxes.of(&(&victim(pid, None, &[12, 11], SECOND)).into()).unwrap().of.key;
    assert_eq!((of(9), of(5), of(4)), (inner, inner, KEY));
}

proptest! {
    /// A warning, a second one and kills within the same moment are one incident, whoever is told first and however often.
    #[test]
    fn in_any_order_warnings_and_kills_of_one_moment_are_one_incident(
        times in vec(0..SAME_KILL_NS, 2..12),
        kinds in vec(0..3_u8, 12),
        order in vec(any::<Index>(), 24),
    ) {
        let mut news: Vec<(u8, u64)> = kinds.into_iter().zip(times).map(|(kind, at)| (kind, 100 * SECOND + at)).collect();
        news.push((0, 100 * SECOND));
        news.extend(news.clone());
        for (place, other) in order.iter().enumerate().take(news.len()) {
            let other = other.index(news.len());
            news.swap(place, other);
        }
        let mut sandboxes = one();
        let mut incidents: Vec<String> = (0..).zip(news).map(|(number, (kind, at)): (u32, _)| {
            let new = format!("incident {number}");
            match kind {
                0 => kill(&mut sandboxes, at, &new),
                1 => cross(&mut sandboxes, MemoryLine::Near, at, &new),
                _ => cross(&mut sandboxes, MemoryLine::Over, at, &new),
            }
        }).collect();
        incidents.dedup();
        prop_assert_eq!(incidents.len(), 1);
    }
}
