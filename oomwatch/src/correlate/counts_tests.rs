use super::*;
use crate::correlate::{
    looks::{LOOK_EVERY_NS, SILENT_NS},
    tally::MAX_RISES,
};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;
type Counts = super::Counts<u32>;

fn memcg(id: u64) -> MemcgId {
    MemcgId { hierarchy: 0, id }
}

fn path(id: u64) -> CgroupPath {
    CgroupPath::from_bytes(format!("/c{id}").as_bytes())
}

fn reading(id: u64, boot_ns: u64, kills: u64) -> Counters {
    Counters {
        boot_ns,
        memcg: memcg(id),
        path: path(id),
        local_oom_kill: Some(kills),
        local_oom: None,
        under_oom: None,
        local_oom_group_kill: None,
    }
}

fn both() -> Counts {
    Counts::new(Counting { counters: true, log: true, marks: false })
}

fn next_deadline(counts: &Counts) -> Option<u64> {
    counts.ask_at().into_iter().chain(counts.give_up_at()).min()
}

/// What is due when log and counters were read up to then.
fn due(counts: &mut Counts, now_ns: u64) -> Vec<Told<u32>> {
    assert_eq!(counts.seen(Seen::Counters(now_ns)), Some(Looker::Log).filter(|_| counts.counting.log));
    assert_eq!(counts.seen(Seen::Log(now_ns)), None);
    counts.due(now_ns)
}

#[test]
fn a_kill_that_is_witnessed_and_counted_is_one() {
    for witness_first in [true, false] {
        let mut counts = both();
        if !witness_first {
            counts.counted(&reading(1, SECOND, 1));
        }
        assert_eq!(counts.witnessed(memcg(1), SECOND, false, 7), Some(Told::Witnessed(7, None)));
        if witness_first {
            counts.counted(&reading(1, SECOND, 1));
        }
        assert!(!counts.waits());
        assert_eq!(due(&mut counts, 3 * SECOND), []);
    }
}

/// The first line of the log: nothing says yet when it was written.
#[test]
fn a_witness_read_late_is_of_the_count_that_waits() {
    let mut counts = both();
    counts.counted(&reading(1, SECOND, 1));
    assert_eq!(counts.witnessed(memcg(1), SECOND + 250 * MS, false, 7), Some(Told::Witnessed(7, None)));
    assert_eq!(due(&mut counts, 3 * SECOND), []);
}

#[test]
fn a_count_without_a_witness_is_told_after_its_grace() {
    let mut counts = both();
    counts.counted(&reading(1, SECOND, 2));
    assert_eq!(next_deadline(&counts), Some(SECOND + GRACE_NS));
    assert_eq!(due(&mut counts, SECOND + GRACE_NS - 1), []);
    let told = due(&mut counts, SECOND + GRACE_NS);
    assert_eq!(told, [Told::Counted(memcg(1), path(1), SECOND), Told::Counted(memcg(1), path(1), SECOND + 1)]);
    assert_eq!(counts.witnessed(memcg(1), 2 * SECOND, false, 7), None, "too late: it was told");
}

#[test]
fn a_count_waits_for_the_log_to_be_read_but_not_for_ever() {
    let mut counts = both();
    counts.counted(&reading(1, SECOND, 1));
    assert_eq!(counts.wants_look(SECOND + GRACE_NS - 1), None);
    assert_eq!(counts.due(SECOND + GRACE_NS), []);
    assert_eq!(counts.wants_look(SECOND + GRACE_NS), Some(Looker::Counters));
    assert_eq!(counts.wants_look(SECOND + GRACE_NS), None, "asked once");
    assert_eq!(next_deadline(&counts), Some(SECOND + GRACE_NS + SILENT_NS));
    // Its line was there all the time.
    assert_eq!(counts.witnessed(memcg(1), SECOND, false, 7), Some(Told::Witnessed(7, None)));
    assert_eq!(due(&mut counts, SECOND + GRACE_NS), []);
    assert!(!counts.waits());
    counts.counted(&reading(1, 2 * SECOND, 2));
    assert!(counts.wants_look(2 * SECOND + GRACE_NS).is_some());
    assert_eq!(counts.due(2 * SECOND + GRACE_NS + SILENT_NS - 1), []);
    assert_eq!(counts.due(2 * SECOND + GRACE_NS + SILENT_NS).len(), 1, "nobody reads the log any more");
}

#[test]
fn the_sources_are_asked_ten_times_a_second_at_most() {
    let mut counts = both();
    counts.unplaced(SECOND, SECOND, None, 7);
    counts.unplaced(SECOND + MS, SECOND + MS, None, 8);
    let asked_ns = SECOND + GRACE_NS;
    assert!(counts.wants_look(asked_ns).is_some());
    assert_eq!(due(&mut counts, asked_ns), [Told::Witnessed(7, None)]);
    assert_eq!(counts.wants_look(asked_ns + MS), None);
    assert_eq!(next_deadline(&counts), Some(asked_ns + LOOK_EVERY_NS));
    assert!(counts.wants_look(asked_ns + LOOK_EVERY_NS).is_some());
    assert_eq!(due(&mut counts, asked_ns + LOOK_EVERY_NS), [Told::Witnessed(8, None)]);
}

#[test]
fn what_was_counted_before_is_nobodys_kill() {
    let mut counts = both();
    counts.settled(&reading(1, SECOND, 5));
    counts.counted(&reading(1, 2 * SECOND, 5));
    assert!(!counts.waits());
    counts.counted(&reading(1, 3 * SECOND, 6));
    assert_eq!(due(&mut counts, 4 * SECOND).len(), 1);
}

#[test]
fn a_witness_without_a_cgroup_is_placed_where_the_only_count_is() {
    let mut counts = both();
    assert_eq!(counts.unplaced(SECOND, SECOND, None, 7), None);
    counts.counted(&reading(1, SECOND + MS, 1));
    let told = due(&mut counts, SECOND + GRACE_NS);
    assert_eq!(told, [Told::Witnessed(7, Some((memcg(1), path(1))))]);
    assert!(!counts.waits());
}

#[test]
fn a_witness_without_a_cgroup_may_be_in_one_that_was_gone_before_it_was_looked_at() {
    let mut counts = both();
    counts.unplaced(SECOND, SECOND, None, 7);
    counts.unplaced(SECOND + MS, SECOND + MS, None, 8);
    counts.counted(&reading(1, SECOND + 2 * MS, 1));
    let told = due(&mut counts, 2 * SECOND);
    assert_eq!(told, [Told::Witnessed(7, None), Told::Witnessed(8, None), Told::Placed(memcg(1))]);
}

#[test]
fn marks_that_follow_each_other_in_one_cgroup_are_placed_there() {
    let mut counts = Counts::new(Counting { counters: true, log: false, marks: true });
    counts.unplaced(SECOND, SECOND, None, 7);
    counts.counted(&reading(1, SECOND + MS, 1));
    counts.unplaced(SECOND + 250 * MS, SECOND + 250 * MS, None, 8);
    counts.counted(&reading(1, SECOND + 251 * MS, 2));
    let place = Some((memcg(1), path(1)));
    assert_eq!(due(&mut counts, SECOND + GRACE_NS), [Told::Witnessed(7, place.clone())]);
    assert_eq!(due(&mut counts, SECOND + 250 * MS + GRACE_NS), [Told::Witnessed(8, place)]);
}

#[test]
fn one_in_a_cgroup_that_was_gone_keeps_no_later_one_from_being_placed() {
    let mut counts = both();
    counts.unplaced(SECOND, SECOND, None, 7);
    assert_eq!(due(&mut counts, SECOND + GRACE_NS), [Told::Witnessed(7, None)]);
    counts.unplaced(2 * SECOND, 2 * SECOND, None, 8);
    counts.counted(&reading(1, 2 * SECOND + MS, 1));
    assert_eq!(due(&mut counts, 2 * SECOND + GRACE_NS), [Told::Witnessed(8, Some((memcg(1), path(1))))]);
}

#[test]
fn a_witness_that_may_be_in_two_cgroups_is_in_none_and_no_count_of_them_is_told_again() {
    let mut counts = both();
    counts.unplaced(SECOND, SECOND, None, 7);
    counts.unplaced(SECOND, SECOND, None, 8);
    counts.counted(&reading(1, SECOND, 1));
    counts.counted(&reading(2, SECOND, 1));
    let told = due(&mut counts, 2 * SECOND);
    let expected = [Told::Witnessed(7, None), Told::Witnessed(8, None), Told::Placed(memcg(1)), Told::Placed(memcg(2))];
    assert_eq!(told, expected);
    assert!(!counts.waits());
}

#[test]
fn a_witness_is_told_though_its_count_was_given_to_another() {
    let mut counts = both();
    counts.unplaced(SECOND, SECOND, None, 7);
    // Nobody looked at the counters.
    assert_eq!(counts.due(4 * SECOND), [Told::Witnessed(7, None)]);
    counts.counted(&reading(1, 4 * SECOND, 1));
    assert_eq!(due(&mut counts, 5 * SECOND), [Told::Placed(memcg(1))]);
    assert_eq!(counts.witnessed(memcg(1), 5 * SECOND, false, 8), Some(Told::Witnessed(8, None)));
}

#[test]
fn a_group_kill_says_in_which_cgroup_its_members_are() {
    let mut counts = both();
    counts.unplaced(SECOND, SECOND, Some(path(2)), 7);
    counts.counted(&reading(1, SECOND, 1));
    counts.counted(&reading(2, SECOND, 1));
    let told = due(&mut counts, 2 * SECOND);
    assert!(told.contains(&Told::Witnessed(7, Some((memcg(2), path(2))))), "{told:?}");
    assert!(told.contains(&Told::Counted(memcg(1), path(1), SECOND)), "{told:?}");
}

#[test]
fn a_witness_is_not_taken_for_a_kill_that_was_counted_long_before_it() {
    let mut counts = both();
    counts.counted(&reading(1, SECOND, 1));
    counts.unplaced(SECOND + 200 * MS, SECOND + 200 * MS, None, 7);
    assert_eq!(due(&mut counts, SECOND + GRACE_NS), [Told::Counted(memcg(1), path(1), SECOND)]);
    assert_eq!(due(&mut counts, 2 * SECOND), [Told::Witnessed(7, None)]);
}

#[test]
fn a_count_that_comes_after_its_witness_was_told_without_a_cgroup_is_not_told() {
    let mut counts = both();
    counts.unplaced(SECOND, SECOND, None, 7);
    // Nobody looked at the counters.
    assert_eq!(counts.due(4 * SECOND), [Told::Witnessed(7, None)]);
    counts.counted(&reading(1, 4 * SECOND, 1));
    assert_eq!(due(&mut counts, 5 * SECOND), [Told::Placed(memcg(1))]);
    counts.counted(&reading(1, 5 * SECOND, 2));
    assert_eq!(due(&mut counts, 6 * SECOND), [Told::Counted(memcg(1), path(1), 5 * SECOND)]);
}

#[test]
fn a_witness_without_a_cgroup_that_comes_after_its_count_was_told_is_not_told() {
    let mut counts = both();
    counts.counted(&reading(1, SECOND, 1));
    counts.counted(&reading(2, SECOND, 1));
    assert_eq!(due(&mut counts, SECOND + GRACE_NS).len(), 2);
    // Both happened before their counts were read; only their lines were read so late.
    assert_eq!(counts.unplaced(SECOND - MS, SECOND - MS, None, 7), None);
    assert_eq!(counts.unplaced(SECOND - MS, SECOND - MS, Some(path(2)), 8), None);
    assert_eq!(due(&mut counts, 2 * SECOND), []);
    // A third one is another.
    assert_eq!(counts.unplaced(SECOND - MS, SECOND - MS, None, 9), None);
    assert_eq!(due(&mut counts, 2 * SECOND), [Told::Witnessed(9, None)]);
}

#[test]
fn a_count_told_alone_is_the_same_kill_for_its_own_line_too() {
    let mut counts = both();
    counts.counted(&reading(1, SECOND, 1));
    assert_eq!(due(&mut counts, SECOND + GRACE_NS).len(), 1);
    assert_eq!(counts.unplaced(SECOND - MS, SECOND - MS, None, 7), None);
    assert_eq!(due(&mut counts, 2 * SECOND), []);
    assert_eq!(counts.witnessed(memcg(1), SECOND - MS, false, 8), None);
    // So the other's count is still to be told, wherever it is.
    counts.counted(&reading(2, 2 * SECOND, 1));
    assert_eq!(due(&mut counts, 3 * SECOND).len(), 1);
}

#[test]
fn where_kills_were_counted_of_late_another_may_be_counted_yet() {
    let mut counts = both();
    assert_eq!(counts.witnessed(memcg(1), SECOND, false, 7), Some(Told::Witnessed(7, None)));
    assert_eq!(counts.unplaced(2 * SECOND, 2 * SECOND, None, 8), None);
    counts.counted(&reading(2, 2 * SECOND, 1));
    assert_eq!(due(&mut counts, 2 * SECOND + GRACE_NS), [Told::Witnessed(8, None), Told::Placed(memcg(2))]);
}

#[test]
fn the_first_victim_of_a_group_kill_is_counted_twice_and_told_once() {
    let mut with_log = both();
    assert!(with_log.witnessed(memcg(1), SECOND, false, 7).is_some());
    assert_eq!(with_log.witnessed(memcg(1), SECOND, true, 7), Some(Told::Twice(memcg(1))));
    assert!(with_log.witnessed(memcg(1), SECOND, false, 8).is_some());
    with_log.counted(&Counters { local_oom_group_kill: Some(1), ..reading(1, SECOND, 3) });
    assert_eq!(due(&mut with_log, 3 * SECOND), []);

    let mut alone = Counts::new(Counting { counters: true, log: false, marks: false });
    alone.counted(&Counters { local_oom_group_kill: Some(1), ..reading(1, SECOND, 3) });
    let told = alone.due(SECOND + ALONE_NS);
    assert_eq!(told.iter().filter(|told| matches!(told, Told::Counted(..))).count(), 2, "{told:?}");
    assert_eq!(told.iter().filter(|told| matches!(told, Told::Twice(_))).count(), 1, "{told:?}");
}

#[test]
fn more_witnesses_than_counts_excuse_no_count_later() {
    let mut counts = both();
    assert!(counts.witnessed(memcg(1), SECOND, false, 7).is_some());
    counts.counted(&reading(1, 20 * SECOND, 1));
    assert_eq!(due(&mut counts, 30 * SECOND).len(), 1, "ten seconds later it is another kill");
}

#[test]
fn without_counters_nothing_waits() {
    let mut counts = Counts::new(Counting { counters: false, log: true, marks: false });
    assert_eq!(counts.unplaced(SECOND, SECOND, None, 7), Some(Told::Witnessed(7, None)));
    assert_eq!(counts.witnessed(memcg(1), SECOND, false, 8), Some(Told::Witnessed(8, None)));
    assert_eq!((counts.waits(), next_deadline(&counts)), (false, None));
}

#[test]
fn what_is_compared_with_the_count_of_all_is_told_by_that() {
    let mut counts = both();
    counts.counted(&reading(1, SECOND, 1));
    counts.settled(&reading(1, SECOND, 2));
    counts.counted(&reading(1, SECOND, 2));
    assert!(!counts.waits());
}

#[test]
fn memory_is_bounded() {
    let mut counts = both();
    for kill in 0..MAX_WAITING + 10 {
        counts.unplaced(SECOND, SECOND, None, u32::try_from(kill).unwrap());
    }
    assert_eq!(counts.waiting.len(), MAX_WAITING);
    for kills in 1..1000 {
        counts.counted(&reading(1, SECOND + kills, kills));
    }
    assert!(counts.tallies[&memcg(1)].rises.len() <= MAX_RISES);
    assert_eq!(counts.tallies[&memcg(1)].risen_until(u64::MAX), 999);
    counts.removed(memcg(1), SECOND);
    counts.rest();
    counts.removed(memcg(2), u64::MAX);
    assert!(counts.tallies.is_empty());
}

#[test]
fn a_mark_is_told_however_long_after_its_count_it_comes() {
    let mut counts = Counts::new(Counting { counters: true, log: false, marks: true });
    counts.counted(&reading(1, SECOND, 3));
    assert_eq!(due(&mut counts, SECOND + GRACE_NS), [], "a count alone only says where");
    assert_eq!(counts.witnessed(memcg(1), SECOND, false, 7), Some(Told::Witnessed(7, None)));
    assert_eq!(counts.unplaced(SECOND, SECOND, None, 8), None);
    assert_eq!(counts.unplaced(SECOND, SECOND, Some(path(1)), 9), None);
    assert_eq!(due(&mut counts, 2 * SECOND), [Told::Witnessed(8, None), Told::Witnessed(9, None)]);
}
