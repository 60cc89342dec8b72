//! Records that an earlier agent told already.

use super::{
    tests::{EXACT, SECOND, correlator, findings, kill, observe, run, victim},
    *,
};
use crate::observation::{KillTotal, RunEnded, Victim};

#[test]
fn what_an_earlier_agent_told_is_accounted_for_and_not_told_again() {
    let mut next = correlator(EXACT);
    next.restore(10, None);
    let of_group = |pid, boot_ns| {
        let mut victim = Victim { run: Some(run(90, true)), ..victim(pid, boot_ns) };
        victim.levels[1].oom_group = true;
        victim
    };
    let mut told = Told::default();
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
    let mut told = Told::default();
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
