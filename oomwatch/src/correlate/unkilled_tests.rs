//! Limits hit without a kill, again and again.

use super::{
    tests::{EXACT, INFERRED, SECOND, correlator, counters, findings, futile, level, next_deadline, observe, run},
    *,
};
use crate::observation::{CgroupChange, Run, RunEnded};

#[test]
fn runs_without_a_kill_while_it_is_quiet_are_told_though_no_other_follows() {
    let mut exact = correlator(EXACT);
    let ended =
        |boot_ns| Observation::RunEnded(RunEnded { boot_ns, run: run(boot_ns, false), no_kill: true, trigger_pid: 1 });
    assert_eq!(observe(&mut exact, ended(SECOND)).len(), 1);
    for step in 1..=3 {
        assert!(observe(&mut exact, ended(SECOND + step)).is_empty());
    }
    assert_eq!(next_deadline(&exact), Some(11 * SECOND));
    assert!(findings(exact.tick(10 * SECOND)).is_empty());
    assert_eq!(counts(&findings(exact.tick(11 * SECOND))), [Some(3)]);
    assert_eq!(next_deadline(&exact), None);
    assert!(observe(&mut exact, ended(12 * SECOND)).is_empty(), "it is quiet again");
    assert_eq!(counts(&findings(exact.finish())), [Some(1)], "the end of the agent tells it");
    observe(&mut exact, ended(40 * SECOND));
    assert!(observe(&mut exact, ended(41 * SECOND)).is_empty());
    let change = CgroupChange { boot_ns: 42 * SECOND, memcg: MemcgId { hierarchy: 0, id: 10 }, path: None };
    assert_eq!(counts(&observe(&mut exact, Observation::CgroupRemoved(change))), [Some(1)], "so does the cgroup's");
}

#[test]
fn what_counters_tell_while_it_is_quiet_is_told_after() {
    let mut inferred = correlator(INFERRED);
    let mut told = Vec::new();
    for (second, local_oom) in [(1, 3), (3, 5), (5, 9)] {
        inferred.observe(futile(second * SECOND, if second == 1 { 0 } else { local_oom }));
        let read = Counters { local_oom: Some(local_oom), ..counters(10, (second + 1) * SECOND) };
        told.extend(counts(&observe(&mut inferred, Observation::Counters(read))));
    }
    assert_eq!(told, [Some(3)]);
    let later = findings(inferred.tick(12 * SECOND));
    assert_eq!((counts(&later), later[0].confidence), (vec![Some(6)], Confidence::Counted));
    assert!(later[0].incident_id.is_some());
}

#[test]
fn limits_that_are_watched_are_bounded_and_go_with_their_cgroup() {
    let mut exact = correlator(EXACT);
    for id in 0..10_000 {
        let run = Run { oom_memcg: Some(level(id, 1, 50, Some(50))), ..run(id, false) };
        exact.observe(Observation::RunEnded(RunEnded { boot_ns: id + 1, run, no_kill: true, trigger_pid: 1 }));
    }
    assert_eq!(exact.unkilled.watched(), 4096);
    for id in 0..10_000 {
        let memcg = MemcgId { hierarchy: 0, id };
        exact.observe(Observation::CgroupRemoved(CgroupChange { boot_ns: SECOND, memcg, path: None }));
    }
    assert_eq!(exact.unkilled.watched(), 0);
}

/// Of limits hit without a kill.
fn counts(findings: &[Finding]) -> Vec<Option<u64>> {
    let count = |finding: &Finding| match &finding.body {
        Body::Oom(oom) => oom.count,
        other => panic!("not an oom: {other:?}"),
    };
    findings.iter().map(count).collect()
}
