//! Records that an earlier agent told already.

use super::{
    tests::{EXACT, SECOND, correlator, crossed, findings, kill, observe, run, victim},
    *,
};
use crate::observation::{KillTotal, Measurement, MemcgId, MemoryLine, RunEnded, Victim, WorkloadKey};

#[test]
fn what_an_earlier_agent_told_is_accounted_for_and_not_told_again() {
    let mut next = correlator(EXACT);
    next.restore(10, None);
    let of_group = |pid, boot_ns| {
        let mut victim = Victim { run: Some(run(90, true)), ..victim(pid, boot_ns) };
        victim.levels[1].oom_group = true;
        victim
    };
    let mut told = Told::new(SECOND);
    told.process(5, 1);
    told.process(6, 1);
    told.mark(8, 60 * SECOND);
    next.told_before(told);
    assert!(kill(&mut next, of_group(5, 100)).is_none(), "told");
    assert!(kill(&mut next, of_group(6, 101)).is_none(), "told");
    let (third, body) = kill(&mut next, of_group(7, 102)).unwrap();
    assert_eq!(body.group_kill, Some(true));
    let ended = RunEnded { boot_ns: 110, run: run(90, true), no_kill: false, trigger_pid: 1 };
    let end = observe(&mut next, Observation::RunEnded(ended)).pop().unwrap();
    assert_eq!(end.incident_id, third.incident_id);
    assert!(matches!(end.body, Body::OomGroupKill(group) if group.victims == 3), "the members told before are of it");
    let unnamed = |boot_ns| Victim { start_ns: None, run: Some(run(boot_ns, true)), ..victim(8, boot_ns) };
    assert!(kill(&mut next, unnamed(60 * SECOND + 500)).is_none(), "told");
    assert!(kill(&mut next, unnamed(90 * SECOND)).is_some());
    assert!(kill(&mut next, unnamed(90 * SECOND + 1)).is_none(), "in both rings");
    assert_eq!(next.accounted(), Some(15));
    for boot_ns in [91 * SECOND, 93 * SECOND] {
        let total = Observation::KillTotal(KillTotal { boot_ns, kills: 15 });
        assert!(next.observe(total).is_empty(), "nothing is missing");
    }
}

#[test]
fn the_end_of_a_group_kill_is_not_told_again_either() {
    let mut next = correlator(EXACT);
    let mut told = Told::new(SECOND);
    told.process(5, 1);
    told.group("01234567-64");
    next.told_before(told);
    let mut member = Victim { run: Some(run(90, true)), ..victim(5, 100) };
    member.levels[1].oom_group = true;
    assert!(kill(&mut next, member).is_none());
    let ended = RunEnded { boot_ns: 110, run: run(90, true), no_kill: false, trigger_pid: 1 };
    assert!(observe(&mut next, Observation::RunEnded(ended)).is_empty());
    assert!(findings(next.finish()).is_empty());
}

fn near(boot_ns: u64, line: MemoryLine) -> Observation {
    let key = WorkloadKey::Cgroup(MemcgId { hierarchy: 0, id: 10 });
    Observation::MemoryCrossed(Box::new(crossed(key, line, boot_ns)))
}

fn warned_before() -> Correlator {
    let mut next = correlator(EXACT);
    let mut told = Told::new(SECOND);
    told.crossed(Warned::Cgroup(10), MemoryLine::Near, "before");
    told.crossed(Warned::Cgroup(11), MemoryLine::Near, "over");
    told.crossed(Warned::Cgroup(11), MemoryLine::Recovered, "over");
    next.told_before(told);
    next
}

#[test]
fn a_warning_in_force_is_not_told_again_and_what_follows_is_of_its_incident() {
    let mut next = warned_before();
    assert!(observe(&mut next, near(SECOND, MemoryLine::Near)).is_empty(), "told");
    let incidents = |findings: Vec<Finding>| findings.into_iter().map(|it| it.incident_id.unwrap()).collect::<Vec<_>>();
    assert_eq!(incidents(observe(&mut next, near(2 * SECOND, MemoryLine::Over))), ["before"]);
    assert_eq!(incidents(observe(&mut next, near(3 * SECOND, MemoryLine::Recovered))), ["before"]);
    let again = incidents(observe(&mut next, near(4 * SECOND, MemoryLine::Near)));
    assert!(again.len() == 1 && again != ["before"], "{again:?}");
}

#[test]
fn who_is_below_the_line_at_the_start_is_warned_of_anew() {
    let mut next = warned_before();
    let measured = Measurement {
        key: WorkloadKey::Cgroup(MemcgId { hierarchy: 0, id: 10 }),
        boot_ns: SECOND,
        usage_bytes: 1,
        peak_bytes: 1,
        limit: None,
        estimator: "cgroup",
        growth_bytes_per_second: None,
        time_to_limit: None,
        pressure: None,
        is_near: false,
    };
    assert!(observe(&mut next, Observation::Measured(vec![measured])).is_empty());
    assert_eq!(observe(&mut next, near(2 * SECOND, MemoryLine::Near)).len(), 1);
}
