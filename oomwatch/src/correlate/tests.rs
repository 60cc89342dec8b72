//! The state machine without a kernel: what is told, what is not, and under which incident.

use super::*;
use crate::{
    event::{OomKill, OomMemcgConfidence, Scope},
    observation::{
        CgroupChange, Counters, FutileReclaim, Level, Lost, MemoryLine, Run, RunEnded, Victim, VictimMemory,
    },
};

const MIB: u64 = 1 << 20;
pub(super) const SECOND: u64 = 1_000_000_000;

/// A line that was crossed at 95 %.
pub(super) fn crossed(key: WorkloadKey, line: MemoryLine, boot_ns: u64) -> MemoryCrossed {
    MemoryCrossed {
        boot_ns,
        key,
        line,
        usage_bytes: 95,
        limit: None,
        threshold_percent: 95,
        estimator: "cgroup",
        growth_bytes_per_second: None,
        time_to_limit: None,
        breakdown: None,
    }
}
/// No hook but `mark_victim`: Linux 6.18 with fentry refused and no kprobes.
pub(super) const INFERRED: SourceFacts = SourceFacts { sees_killing: false, sees_run: false, sees_no_kill: false };
/// fentry or kprobe.
pub(super) const EXACT: SourceFacts = SourceFacts { sees_killing: true, sees_run: true, sees_no_kill: true };

pub(super) fn correlator(facts: SourceFacts) -> Correlator {
    Correlator::new(facts, "0123456789abcdef")
}

pub(super) fn level(id: u64, depth: u32, usage_mib: u64, limit_mib: Option<u64>) -> Level {
    Level {
        memcg: MemcgId { hierarchy: 0, id },
        depth,
        usage_bytes: usage_mib * MIB,
        limit_bytes: limit_mib.map(|mib| mib * MIB),
        oom_group: false,
    }
}

/// A process of `/pod/c`, whose parent `/pod` stands at its limit.
pub(super) fn victim(pid: u32, boot_ns: u64) -> Victim {
    Victim {
        boot_ns,
        start_ns: Some(1),
        pid: Some(pid),
        tid: pid,
        ns_pid: None,
        comm: Some(b"hog".to_vec()),
        uid: Some(0),
        oom_score_adj: Some(0),
        memory: Some(VictimMemory::default()),
        trigger_pid: 1,
        trigger_tid: 1,
        trigger_comm: b"trigger".to_vec(),
        memcg: Some(MemcgId { hierarchy: 0, id: 11 }),
        path: Some(CgroupPath::from_bytes(b"/pod/c")),
        levels: vec![level(11, 2, 40, None), level(10, 1, 50, Some(50)), level(1, 0, 900, None)],
        reclaimed: None,
        local_oom_kill: None,
        run: None,
    }
}

pub(super) fn run(started_ns: u64, killing: bool) -> Run {
    Run { started_ns, oom_memcg: Some(level(10, 1, 50, Some(50))), constraint: 3, victims: 1, killing: Some(killing) }
}

pub(super) fn findings(outputs: Vec<Output>) -> Vec<Finding> {
    let found = outputs.into_iter().filter_map(|output| match output {
        Output::Found(finding) => Some(*finding),
        Output::Read(_) | Output::ReadAll | Output::Await(_) | Output::Look(_) => None,
    });
    found.collect()
}

pub(super) fn observe(correlator: &mut Correlator, observation: Observation) -> Vec<Finding> {
    findings(correlator.observe(observation))
}

pub(super) fn kill(correlator: &mut Correlator, victim: Victim) -> Option<(Finding, OomKill)> {
    let mut found = observe(correlator, Observation::Victim(Box::new(victim)));
    assert!(found.len() <= 1);
    let finding = found.pop()?;
    match finding.body.clone() {
        Body::OomKill(kill) => Some((finding, *kill)),
        other => panic!("not a kill: {other:?}"),
    }
}

pub(super) fn counters(memcg: u64, boot_ns: u64) -> Counters {
    Counters {
        boot_ns,
        memcg: MemcgId { hierarchy: 0, id: memcg },
        path: CgroupPath::from_bytes(b"/pod"),
        local_oom_kill: None,
        local_oom: None,
        under_oom: None,
        local_oom_group_kill: None,
    }
}

#[test]
fn the_nearest_full_ancestor_is_inferred() {
    let (_, kill) = kill(&mut correlator(INFERRED), victim(5, 100)).unwrap();
    let oom_memcg = kill.oom_memcg.unwrap();
    assert_eq!((oom_memcg.id, oom_memcg.path.as_deref()), (Some(10), Some("/pod")));
    assert_eq!(oom_memcg.limit_bytes, Some(50 * MIB));
    assert_eq!(kill.oom_memcg_confidence, Some(OomMemcgConfidence::Inferred));
    assert_eq!(kill.scope, Some(Scope::Memcg));
    assert_eq!(kill.constraint, None, "nobody said so");
}

#[test]
fn without_a_full_ancestor_the_host_ran_out() {
    let mut victim = victim(5, 100);
    victim.levels[1].usage_bytes = 20 * MIB;
    let (_, kill) = kill(&mut correlator(INFERRED), victim).unwrap();
    assert_eq!((kill.scope, kill.oom_memcg.is_none()), (Some(Scope::Host), true));
}

#[test]
fn what_the_trigger_reclaimed_for_is_the_limit_even_if_memory_was_freed_since() {
    let mut freed = victim(5, 100);
    freed.levels[1].usage_bytes = 20 * MIB;
    freed.reclaimed = Some((10, 3 * SECOND));
    let (_, told) = kill(&mut correlator(INFERRED), freed.clone()).unwrap();
    assert_eq!(told.oom_memcg.unwrap().id, Some(10));
    freed.reclaimed = Some((77, 3 * SECOND));
    let (_, told) = kill(&mut correlator(INFERRED), freed.clone()).unwrap();
    assert_eq!(told.scope, Some(Scope::Host), "it was not of the victim's chain");
    freed.reclaimed = Some((10, 300 * SECOND));
    let (_, told) = kill(&mut correlator(INFERRED), freed).unwrap();
    assert_eq!(told.scope, Some(Scope::Host), "that was long ago");
}

#[test]
fn a_fresh_reclaim_tells_the_limit_that_was_hit_from_another_full_one() {
    let mut victim = victim(5, 100);
    victim.levels[0] = level(11, 2, 30, Some(30));
    victim.reclaimed = Some((10, SECOND / 100));
    let (_, kill) = kill(&mut correlator(INFERRED), victim).unwrap();
    assert_eq!(kill.oom_memcg.unwrap().id, Some(10));
}

#[test]
fn what_the_kernel_names_is_exact_even_where_it_is_not_full() {
    let mut victim = victim(5, 100);
    victim.levels[1].usage_bytes = MIB;
    victim.run = Some(run(90, true));
    let (_, kill) = kill(&mut correlator(EXACT), victim).unwrap();
    assert_eq!(kill.oom_memcg.unwrap().id, Some(10));
    assert_eq!(kill.oom_memcg_confidence, Some(OomMemcgConfidence::Exact));
    assert_eq!(kill.constraint.as_deref(), Some("CONSTRAINT_MEMCG"));
}

#[test]
fn nothing_is_said_of_a_limit_where_nothing_is_known() {
    let mut victim = victim(5, 100);
    victim.levels.clear();
    let (_, kill) = kill(&mut correlator(INFERRED), victim).unwrap();
    assert_eq!((kill.scope, kill.oom_memcg_confidence, kill.group_kill), (None, None, None));
    assert_eq!(kill.task_memcg.unwrap().path.as_deref(), Some("/pod/c"));
}

#[test]
fn a_task_that_was_dying_anyway_is_not_a_kill() {
    let mut exact = correlator(EXACT);
    let mut dying = victim(5, 100);
    dying.run = Some(run(90, false));
    assert!(kill(&mut exact, dying).is_none());
    assert!(kill(&mut exact, victim(6, 100)).is_none(), "marked outside a run");
}

#[test]
fn a_counter_that_stood_still_tells_a_dying_task_too() {
    let mut inferred = correlator(INFERRED);
    let change = CgroupChange { boot_ns: 1, memcg: MemcgId { hierarchy: 0, id: 11 }, path: None };
    inferred.observe(Observation::CgroupMade(change));
    let with_counter = |pid, boot_ns, kills| Victim { local_oom_kill: Some(kills), ..victim(pid, boot_ns) };
    assert!(kill(&mut inferred, with_counter(5, 100, 0)).is_none());
    assert!(kill(&mut inferred, with_counter(6, 200, 1)).is_some());
    assert!(kill(&mut inferred, with_counter(7, 300, 1)).is_none());
    assert!(kill(&mut inferred, with_counter(8, 400, 2)).is_some());
}

#[test]
fn a_reading_taken_after_the_kill_does_not_hide_it() {
    let mut inferred = correlator(INFERRED);
    inferred.observe(Observation::Counters(Counters { local_oom_kill: Some(1), ..counters(11, 150) }));
    let early = Victim { local_oom_kill: Some(1), ..victim(5, 100) };
    assert!(kill(&mut inferred, early).is_some());
}

#[test]
fn a_reading_between_the_count_and_the_mark_of_a_kill_does_not_hide_it() {
    let with_counter = |pid, boot_ns, kills| Victim { local_oom_kill: Some(kills), ..victim(pid, boot_ns) };
    let read = |boot_ns| Observation::Counters(Counters { local_oom_kill: Some(3), ..counters(11, boot_ns) });
    let mut inferred = correlator(INFERRED);
    inferred.observe(read(50));
    assert!(kill(&mut inferred, with_counter(5, 100, 3)).is_some());
    assert!(kill(&mut inferred, with_counter(6, 200, 3)).is_none(), "the mark before this one had that count");
    let mut inferred = correlator(INFERRED);
    inferred.observe(read(50));
    assert!(kill(&mut inferred, with_counter(5, 2_000_000_000, 3)).is_none(), "counted long before");
}

#[test]
fn a_file_that_counted_no_kill_tells_a_dying_task_at_once() {
    let mut inferred = correlator(INFERRED);
    inferred.observe(Observation::Counters(Counters { local_oom_kill: Some(0), ..counters(11, 50) }));
    let dying = Victim { local_oom_kill: Some(0), ..victim(5, 100) };
    assert!(kill(&mut inferred, dying).is_none());
}

#[test]
fn an_unknown_counter_hides_nothing() {
    let first = Victim { local_oom_kill: Some(7), ..victim(5, 100) };
    assert!(kill(&mut correlator(INFERRED), first).is_some());
}

#[test]
fn a_process_is_told_once() {
    let mut inferred = correlator(INFERRED);
    assert!(kill(&mut inferred, victim(5, 100)).is_some());
    assert!(kill(&mut inferred, victim(5, 101)).is_none());
    let reborn = Victim { start_ns: Some(2), ..victim(5, 102) };
    assert!(kill(&mut inferred, reborn).is_some());
}

#[test]
fn a_group_kill_is_one_incident_that_ends_with_its_run() {
    let mut exact = correlator(EXACT);
    let member = |pid, boot_ns| {
        let mut victim = victim(pid, boot_ns);
        victim.levels[1].oom_group = true;
        victim.run = Some(run(90, true));
        victim
    };
    let (first, body) = kill(&mut exact, member(5, 100)).unwrap();
    assert_eq!(body.group_kill, Some(true));
    let (second, _) = kill(&mut exact, member(6, 101)).unwrap();
    assert_eq!(first.incident_id, second.incident_id);
    let ended = RunEnded { boot_ns: 110, run: run(90, true), no_kill: false, trigger_pid: 1 };
    let end = observe(&mut exact, Observation::RunEnded(ended)).pop().unwrap();
    assert_eq!(end.incident_id, first.incident_id);
    let Body::OomGroupKill(group) = end.body else { panic!("not a group kill") };
    assert_eq!((group.victims, group.oom_memcg.unwrap().id), (2, Some(10)));
    assert_eq!(next_deadline(&exact), None);
}

#[test]
fn a_group_kill_whose_end_nobody_sees_ends_when_it_is_quiet() {
    let mut inferred = correlator(INFERRED);
    let member = |pid, boot_ns, usage_mib: u64| {
        let mut victim = victim(pid, boot_ns);
        victim.levels[1] = Level { oom_group: true, ..level(10, 1, usage_mib, Some(50)) };
        victim
    };
    assert!(kill(&mut inferred, member(5, 100, 50)).is_some());
    let (_, third) = kill(&mut inferred, member(6, 200, 30)).unwrap();
    assert_eq!(third.oom_memcg.unwrap().id, Some(10), "the first member's answer holds: memory was freed since");
    let (_, late) = kill(&mut inferred, member(7, SECOND, 30)).unwrap();
    assert_eq!(late.group_kill, Some(true), "the host stood still");
    assert!(findings(inferred.tick(2 * SECOND)).is_empty());
    let ended = findings(inferred.tick(3 * SECOND));
    let Body::OomGroupKill(group) = &ended[0].body else { panic!("not a group kill") };
    assert_eq!(group.victims, 3);
}

#[test]
fn a_kill_elsewhere_by_the_same_trigger_is_of_no_group_kill() {
    let mut inferred = correlator(INFERRED);
    let mut member = victim(5, 100);
    member.levels[0] = Level { oom_group: true, ..level(11, 2, 40, None) };
    let (first, _) = kill(&mut inferred, member).unwrap();
    let mut other = victim(6, 200);
    other.levels[0] = level(12, 2, 40, None);
    let (second, body) = kill(&mut inferred, other).unwrap();
    assert_eq!((body.group_kill, first.incident_id == second.incident_id), (Some(false), false));
}

#[test]
fn a_group_setting_above_the_limit_makes_no_group_kill() {
    let mut victim = victim(5, 100);
    victim.levels[2].oom_group = true;
    let (_, kill) = kill(&mut correlator(INFERRED), victim).unwrap();
    assert_eq!(kill.group_kill, Some(false));
}

#[test]
fn a_run_without_a_kill_is_told_once_and_then_summed() {
    let mut exact = correlator(EXACT);
    let ended =
        |boot_ns| Observation::RunEnded(RunEnded { boot_ns, run: run(boot_ns, false), no_kill: true, trigger_pid: 1 });
    let first = observe(&mut exact, ended(SECOND));
    assert_eq!(first.len(), 1);
    for step in 1..50 {
        assert!(observe(&mut exact, ended(SECOND + step)).is_empty());
    }
    let later = observe(&mut exact, ended(20 * SECOND)).pop().unwrap();
    let Body::Oom(oom) = later.body else { panic!("not an oom") };
    assert_eq!(oom.count, Some(50));
}

pub(super) fn futile(boot_ns: u64, local_oom: u64) -> Observation {
    Observation::FutileReclaim(FutileReclaim {
        boot_ns,
        level: level(10, 1, 50, Some(50)),
        path: Some(CgroupPath::from_bytes(b"/pod")),
        passes: 1,
        local_oom,
    })
}

#[test]
fn a_limit_hit_without_a_kill_is_told_from_counters() {
    let mut inferred = correlator(INFERRED);
    inferred.observe(futile(SECOND, 0));
    assert_eq!(next_deadline(&inferred), Some(2 * SECOND));
    assert!(matches!(inferred.tick(2 * SECOND).as_slice(), [Output::Read(_)]));
    let read = Counters { local_oom: Some(3), ..counters(10, 2 * SECOND) };
    let found = observe(&mut inferred, Observation::Counters(read)).pop().unwrap();
    assert_eq!(found.confidence, Confidence::Counted);
    let Body::Oom(oom) = found.body else { panic!("not an oom") };
    assert_eq!(oom.count, Some(3));
}

#[test]
fn tasks_that_wait_for_a_switched_off_killer_are_told() {
    let mut inferred = correlator(INFERRED);
    inferred.observe(futile(SECOND, 0));
    let read = Counters { under_oom: Some(true), ..counters(10, 2 * SECOND) };
    assert_eq!(observe(&mut inferred, Observation::Counters(read)).len(), 1);
}

#[test]
fn a_kill_below_the_memcg_answers_the_question() {
    let mut inferred = correlator(INFERRED);
    inferred.observe(futile(SECOND, 0));
    kill(&mut inferred, victim(5, SECOND + 10)).unwrap();
    let read = Counters { local_oom: Some(3), ..counters(10, 2 * SECOND) };
    assert!(observe(&mut inferred, Observation::Counters(read)).is_empty());
    // The tasks that had waited behind that kill counted more; later pressure that is relieved is no OOM.
    inferred.observe(futile(60 * SECOND, 8));
    let read = Counters { local_oom: Some(8), ..counters(10, 61 * SECOND) };
    assert!(observe(&mut inferred, Observation::Counters(read)).is_empty());
}

#[test]
fn pressure_that_is_relieved_is_nothing() {
    let mut inferred = correlator(INFERRED);
    inferred.observe(futile(SECOND, 2));
    let read = Counters { local_oom: Some(2), ..counters(10, 2 * SECOND) };
    assert!(observe(&mut inferred, Observation::Counters(read)).is_empty());
    assert!(inferred.tick(2 * SECOND).is_empty());
    assert_eq!(next_deadline(&inferred), None);
}

#[test]
fn losses_are_told_with_their_number() {
    let found =
        observe(&mut correlator(EXACT), Observation::Lost(Lost { records: LostRecords::Oom, count: 3 })).pop().unwrap();
    assert!(matches!(
        found.body,
        Body::Loss(Loss { stage: LossStage::Ringbuf, lost: 3, records: Some(LostRecords::Oom), .. })
    ));
    let found = observe(&mut correlator(EXACT), Observation::Undecodable("x".into())).pop().unwrap();
    assert!(matches!(found.body, Body::Loss(Loss { lost: 1, .. })));
}

#[test]
fn a_sandbox_whose_kernel_has_to_kill_twice_is_one_incident() {
    use crate::{
        event::Role,
        observation::{Sandbox, SandboxGone, SandboxKey},
        workload::Workload,
    };
    let mut exact = correlator(EXACT);
    let key = SandboxKey::of(4, 1);
    let cgroup = (MemcgId { hierarchy: 0, id: 11 }, CgroupPath::from_bytes(b"/pod/c"));
    let sandbox =
        Sandbox { key, boot_ns: 50, cgroup: Some(cgroup), gofers: vec![], workload: Workload::default(), limit: None };
    exact.observe(Observation::SandboxFound(Box::new(sandbox)));
    let in_sandbox = |pid, boot_ns| Victim { run: Some(run(boot_ns - 5, true)), ..victim(pid, boot_ns) };
    let (stub, body) = kill(&mut exact, in_sandbox(5, 100)).unwrap();
    assert_eq!((body.victim.unwrap().role, body.memory.is_none()), (Some(Role::Stub), true));
    let gone = Observation::SandboxGone(SandboxGone { key, boot_ns: 150, peak_bytes: 0 });
    assert!(observe(&mut exact, gone).is_empty());
    let outputs = exact.observe(Observation::Victim(Box::new(in_sandbox(4, 140))));
    let [Output::Found(sentry), Output::Await(outcome)] = &*outputs else { panic!("{outputs:?}") };
    assert!(matches!(&sentry.body, Body::OomKill(kill) if kill.victim.as_ref().unwrap().role == Some(Role::Sentry)));
    assert_eq!((&sentry.incident_id, Some(&outcome.incident_id)), (&stub.incident_id, stub.incident_id.as_ref()));
    assert!(matches!(outcome.container, crate::outcome::Container::Sandbox { key: awaited, .. } if awaited == key));
}

pub(super) fn next_deadline(correlator: &Correlator) -> Option<u64> {
    correlator.ask_at().into_iter().chain(correlator.judge_at()).min()
}
