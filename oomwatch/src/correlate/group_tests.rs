//! Group kills of which only the kernel's log tells.

use super::super::{
    Correlator, Counting,
    tests::{INFERRED, SECOND, findings},
};
use crate::{
    cgroup_path::CgroupPath,
    event::Body,
    observation::{Counters, LoggedGroup, LoggedKill, LoggedMemcg, MemcgId, Observation, Seen},
};

const MS: u64 = 1_000_000;

fn of_log_and_counters() -> Correlator {
    let counting = Counting { counters: true, log: true, marks: false };
    Correlator::new(INFERRED, "0123456789abcdef").with_counts(counting)
}

fn group() -> CgroupPath {
    CgroupPath::from_bytes(b"/g")
}

/// The member with this line, in a cgroup where that was still to be seen.
fn member(seq: u64, boot_ns: u64, is_placed: bool) -> Observation {
    let memcg = LoggedMemcg {
        memcg: Some(MemcgId { hierarchy: 0, id: 7 }),
        path: group(),
        limit_bytes: None,
        usage_bytes: None,
    };
    Observation::Logged(Box::new(LoggedKill {
        boot_ns,
        read_ns: boot_ns,
        seq,
        tid: u32::try_from(seq).unwrap(),
        comm: b"hog".to_vec(),
        of_memcg: true,
        oom_memcg: Some(memcg.clone()),
        task_memcg: is_placed.then_some(memcg),
        group: Some(LoggedGroup { first_seq: 1, path: group() }),
        ..LoggedKill::default()
    }))
}

fn counted(boot_ns: u64, kills: u64) -> Observation {
    Observation::Counted(Counters {
        memcg: MemcgId { hierarchy: 0, id: 7 },
        path: group(),
        boot_ns,
        local_oom: None,
        local_oom_kill: Some(kills),
        local_oom_group_kill: None,
        under_oom: None,
    })
}

#[test]
fn a_member_that_waited_a_second_for_its_count_is_of_the_incident() {
    let mut correlator = of_log_and_counters();
    let mut told = findings(correlator.observe(member(1, SECOND, true)));
    told.extend(findings(correlator.observe(member(2, SECOND + MS, false))));
    // The agent asks for the counters, and is answered late.
    for now_ms in (1000..2000).step_by(50) {
        told.extend(findings(correlator.ask(now_ms * MS)));
        told.extend(findings(correlator.tick(now_ms * MS)));
    }
    told.extend(findings(correlator.observe(counted(2 * SECOND, 2))));
    told.extend(findings(correlator.observe(Observation::Seen(Seen::Counters(2 * SECOND)))));
    told.extend(findings(correlator.observe(Observation::Seen(Seen::Log(2 * SECOND)))));
    told.extend(findings(correlator.tick(10 * SECOND)));
    let sums: Vec<_> = told.iter().filter(|it| matches!(it.body, Body::OomGroupKill(_))).collect();
    let kills: Vec<_> = told.iter().filter(|it| matches!(it.body, Body::OomKill(_))).collect();
    assert_eq!((sums.len(), kills.len()), (1, 2), "{told:#?}");
    assert!(told.iter().all(|finding| finding.incident_id == told[0].incident_id), "{told:#?}");
}

#[test]
fn a_member_whose_line_was_held_up_is_of_the_incident_and_there_is_one_sum() {
    let mut correlator = of_log_and_counters();
    let mut told = findings(correlator.observe(member(1, SECOND, true)));
    told.extend(findings(correlator.observe(member(2, SECOND + MS, true))));
    told.extend(findings(correlator.tick(4 * SECOND)));
    assert!(matches!(told.pop().unwrap().body, Body::OomGroupKill(sum) if sum.victims == 2));
    told.extend(findings(correlator.observe(member(3, 5 * SECOND, true))));
    told.extend(findings(correlator.tick(10 * SECOND)));
    assert_eq!(told.len(), 3, "{told:#?}");
    assert!(told.iter().all(|finding| finding.incident_id == told[0].incident_id), "{told:#?}");
}
