//! What holds for every history of kills, lines and readings, whatever of them is missing, late within the grace, or
//! comes twice: each kill is told once, in its own cgroup or in none, and with its victim if all have a line.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;

const MS: u64 = 1_000_000;
/// The kernel's counter is read this much after the kill at most, unless the source is asked to look.
const LATE_MS: u64 = 900;
const CGROUPS: u64 = 3;
/// One more, which is gone before its counter is read.
const GONE: u64 = CGROUPS;

/// What is known of a kill beside its count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// All of it.
    Whole,
    /// Not the cgroup.
    WithoutCgroup,
    /// Nothing.
    None,
}

#[derive(Debug, Clone, Copy)]
struct Kill {
    cgroup: u64,
    gap_ms: u64,
    line: Line,
    line_after_ms: u64,
    read_after_ms: u64,
    read_twice: bool,
}

/// With lines that are read this late at most.
fn kills(lines_after_ms: u64, cgroups: u64) -> impl Strategy<Value = Vec<Kill>> {
    let line = prop_oneof![3 => Just(Line::Whole), 3 => Just(Line::WithoutCgroup), 1 => Just(Line::None)];
    let gap = prop_oneof![0..5_u64, 0..400_u64, Just(3000_u64)];
    let kill = (0..cgroups, gap, line, 0..lines_after_ms, 0..LATE_MS, any::<bool>());
    let kill = kill.prop_map(|(cgroup, gap_ms, line, line_after_ms, read_after_ms, read_twice)| Kill {
        cgroup,
        gap_ms,
        line,
        line_after_ms,
        read_after_ms,
        read_twice,
    });
    vec(kill, 1..40)
}

#[derive(Debug, Clone)]
enum Step {
    Line(usize),
    Read(u64),
}

/// Steps by time, and when each kill happened.
fn history(kills: &[Kill]) -> (Vec<(u64, Step)>, Vec<u64>) {
    let (mut steps, mut times) = (Vec::new(), Vec::new());
    let (mut now, mut last_line) = (1000, 0);
    for (number, kill) in kills.iter().enumerate() {
        now += kill.gap_ms;
        times.push(now);
        // The log is in the order of the kills.
        last_line = (now + kill.line_after_ms).max(last_line);
        if kill.line != Line::None {
            steps.push((last_line, Step::Line(number)));
        }
        if kill.cgroup == GONE {
            continue;
        }
        steps.push((now + kill.read_after_ms, Step::Read(kill.cgroup)));
        if kill.read_twice {
            steps.push((now + kill.read_after_ms + 1, Step::Read(kill.cgroup)));
        }
    }
    steps.sort_by_key(|(at, _)| *at);
    (steps, times)
}

fn memcg(id: u64) -> MemcgId {
    MemcgId { hierarchy: 4, id }
}

const BY_LOG: Counting = Counting { counters: true, log: true, marks: false };
const BY_MARKS: Counting = Counting { counters: true, log: false, marks: true };

fn play(kills: &[Kill], counting: Counting) -> Vec<Told<usize>> {
    let (steps, times) = history(kills);
    let mut counts = Counts::new(counting);
    let mut told = Vec::new();
    let written_and_read = |(at, step): &(u64, Step)| match step {
        Step::Line(number) => Some((times[*number], *at)),
        Step::Read(_) => None,
    };
    let lines: Vec<(u64, u64)> = steps.iter().filter_map(written_and_read).collect();
    let reading = |cgroup: u64, at_ns: u64| {
        let until = kills.iter().zip(&times).filter(|(kill, time)| kill.cgroup == cgroup && **time * MS <= at_ns);
        Counters {
            boot_ns: at_ns,
            memcg: memcg(cgroup),
            path: CgroupPath::from_bytes(format!("/c{cgroup}").as_bytes()),
            local_oom_kill: Some(until.count() as u64),
            local_oom: None,
            under_oom: None,
            local_oom_group_kill: None,
        }
    };
    // When the source of the log can answer how far it read, and up to where.
    let mut answers: Vec<(u64, u64)> = Vec::new();
    for (at, step) in steps {
        loop {
            answers.sort_unstable();
            let answer = answers.first().copied().filter(|(when, _)| *when < at * MS);
            let due = counts.ask_at().into_iter().chain(counts.give_up_at()).min().filter(|due| *due <= at * MS);
            match (answer, due) {
                (Some((when, until_ns)), due) if due.is_none_or(|due| when <= due) => {
                    answers.remove(0);
                    assert_eq!(counts.seen(Seen::Log(until_ns)), None);
                    told.extend(counts.seen_due(until_ns));
                }
                (_, Some(due)) => {
                    told.extend(if counts.ask_at() == Some(due) { counts.seen_due(due) } else { counts.due(due) });
                    if counts.wants_look(due).is_some() {
                        (0..CGROUPS).for_each(|cgroup| counts.counted(&reading(cgroup, due)));
                        assert_eq!(counts.seen(Seen::Counters(due)).is_some(), counting.log);
                        let read = lines.iter().filter(|(written, _)| written * MS <= due).map(|(_, read)| read * MS);
                        answers.push((read.max().unwrap_or(0).max(due), due));
                    }
                }
                (None | Some(_), None) => break,
            }
        }
        match step {
            // A line carries the time at which it was written.
            Step::Line(number) if kills[number].line == Line::Whole => {
                told.extend(counts.witnessed(memcg(kills[number].cgroup), times[number] * MS, false, number));
            }
            Step::Line(number) => told.extend(counts.unplaced(times[number] * MS, at * MS, None, number)),
            Step::Read(cgroup) => counts.counted(&reading(cgroup, at * MS)),
        }
    }
    told.extend(counts.rest());
    assert!(!counts.waits());
    told
}

/// A victim that is said to be in another cgroup than its own.
fn misplaced(told: &[Told<usize>], kills: &[Kill]) -> Option<usize> {
    told.iter().find_map(|told| match told {
        Told::Witnessed(number, Some((place, _))) => (*place != memcg(kills[*number].cgroup)).then_some(*number),
        _ => None,
    })
}

proptest! {
    #[test]
    fn no_kill_is_told_twice_or_in_another_cgroup_however_late_its_line_is(kills in kills(900, CGROUPS + 1)) {
        let kills: Vec<Kill> = kills.into_iter().filter(|kill| kill.line != Line::None).collect();
        let told = play(&kills, BY_LOG);
        let events = told.iter().filter(|told| !matches!(told, Told::Placed(_))).count();
        prop_assert!(events <= kills.len(), "{} of {}: {:?}", events, kills.len(), told);
        prop_assert!(misplaced(&told, &kills).is_none(), "{:?}", told);
    }

    #[test]
    fn each_mark_is_told_once_and_in_no_other_cgroup(kills in kills(20, CGROUPS + 1)) {
        let kills: Vec<Kill> = kills.into_iter().filter(|kill| kill.line != Line::None).collect();
        let told = play(&kills, BY_MARKS);
        let events = told.iter().filter(|told| !matches!(told, Told::Placed(_))).count();
        prop_assert_eq!(events, kills.len(), "{:?}", told);
        prop_assert!(misplaced(&told, &kills).is_none(), "{:?}", told);
    }

    #[test]
    fn each_kill_is_told_once_and_never_in_another_cgroup(kills in kills(20, CGROUPS)) {
        let told = play(&kills, BY_LOG);
        let mut victims = BTreeMap::new();
        let mut in_cgroup = [0_usize; 3];
        let mut events = 0;
        for told in &told {
            match told {
                Told::Witnessed(number, place) => {
                    events += 1;
                    *victims.entry(*number).or_insert(0) += 1;
                    let own = memcg(kills[*number].cgroup);
                    if let Some((memcg, _)) = place {
                        prop_assert_eq!(*memcg, own, "victim {} is placed elsewhere", number);
                        in_cgroup[usize::try_from(memcg.id).unwrap()] += 1;
                    } else if kills[*number].line == Line::Whole {
                        in_cgroup[usize::try_from(own.id).unwrap()] += 1;
                    }
                }
                Told::Counted(memcg, _, _) => {
                    events += 1;
                    in_cgroup[usize::try_from(memcg.id).unwrap()] += 1;
                }
                Told::Twice(_) => prop_assert!(false, "no group was killed"),
                Told::Placed(_) => {}
            }
        }
        prop_assert_eq!(events, kills.len(), "{:?}", told);
        prop_assert!(victims.values().all(|times| *times == 1), "{:?}", told);
        let with_line = kills.iter().filter(|kill| kill.line != Line::None).count();
        // What comes right after a kill without a line may be taken for that one's.
        if with_line == kills.len() {
            prop_assert_eq!(victims.len(), with_line, "every line is told");
        }
        for (cgroup, told) in (0..).zip(in_cgroup) {
            let killed = kills.iter().filter(|kill| kill.cgroup == cgroup).count();
            prop_assert!(told <= killed, "{} of {} in {}", told, killed, cgroup);
        }
    }
}
