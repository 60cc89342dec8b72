//! What holds for every history: whatever comes twice, late, in another order or not at all, each kill that was seen is
//! told once and nothing else is.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;
use crate::observation::{CgroupChange, Counters, Level, Run, RunEnded, Victim, VictimMemory};

const EXACT: SourceFacts = SourceFacts { sees_killing: true, sees_run: true, sees_no_kill: true };
const INFERRED: SourceFacts = SourceFacts { sees_killing: false, sees_run: false, sees_no_kill: false };
const STEP_NS: u64 = 50_000_000;

/// One mark of the kernel's, in its order.
#[derive(Debug, Clone, Copy)]
struct Mark {
    cgroup: u64,
    /// It is a kill; else the task was dying anyway.
    kill: bool,
}

fn marks() -> impl Strategy<Value = Vec<Mark>> {
    vec((0..4_u64, prop::bool::weighted(0.8)).prop_map(|(cgroup, kill)| Mark { cgroup, kill }), 1..40)
}

fn memcg(cgroup: u64) -> MemcgId {
    MemcgId { hierarchy: 0, id: 100 + cgroup }
}

/// What the hooks see of such a history: pids are used again, start times tell them apart.
fn victims(marks: &[Mark], with_runs: bool) -> Vec<Victim> {
    let mut kills = [0_u64; 4];
    let seen = marks.iter().zip(1_u64..).map(|(mark, number)| {
        let counter = &mut kills[usize::try_from(mark.cgroup).unwrap()];
        *counter += u64::from(mark.kill);
        let pid = u32::try_from(number % 7 + 10).unwrap();
        let boot_ns = number * STEP_NS;
        let level = Level {
            memcg: memcg(mark.cgroup),
            depth: 1,
            usage_bytes: 1 << 24,
            limit_bytes: Some(1 << 24),
            oom_group: false,
        };
        let run = Run {
            started_ns: boot_ns - 1,
            oom_memcg: Some(level),
            constraint: 3,
            victims: 1,
            killing: Some(mark.kill),
        };
        Victim {
            boot_ns,
            start_ns: Some(number),
            pid: Some(pid),
            tid: pid,
            ns_pid: None,
            comm: None,
            uid: None,
            oom_score_adj: None,
            memory: Some(VictimMemory::default()),
            trigger_pid: pid,
            trigger_tid: pid,
            trigger_comm: Vec::new(),
            memcg: Some(memcg(mark.cgroup)),
            path: Some(CgroupPath::from_bytes(format!("/c{}", mark.cgroup).as_bytes())),
            levels: vec![level],
            reclaimed: None,
            local_oom_kill: Some(*counter),
            run: with_runs.then_some(run),
        }
    });
    seen.collect()
}

fn ended(victim: &Victim) -> Option<Observation> {
    let run = victim.run.clone()?;
    Some(Observation::RunEnded(RunEnded { boot_ns: victim.boot_ns + 1, run, no_kill: false, trigger_pid: 1 }))
}

fn change(cgroup: u64, boot_ns: u64) -> CgroupChange {
    let path = Some(CgroupPath::from_bytes(format!("/c{cgroup}").as_bytes()));
    CgroupChange { boot_ns, memcg: memcg(cgroup), path }
}

fn counters(cgroup: u64, boot_ns: u64, kills: u64) -> Counters {
    Counters {
        boot_ns,
        memcg: memcg(cgroup),
        path: CgroupPath::from_bytes(format!("/c{cgroup}").as_bytes()),
        local_oom_kill: Some(kills),
        local_oom: None,
        under_oom: None,
        local_oom_group_kill: None,
    }
}

/// Moments of the kills that are told; each kill of these histories has one of its own.
fn told(correlator: &mut Correlator, observations: Vec<Observation>) -> Vec<u64> {
    let mut outputs: Vec<Output> =
        observations.into_iter().flat_map(|observation| correlator.observe(observation)).collect();
    outputs.extend(correlator.finish());
    let kills = outputs.into_iter().filter_map(|output| match output {
        Output::Found(finding) if matches!(finding.body, Body::OomKill(_)) => Some(finding.boot_ns),
        _ => None,
    });
    kills.collect()
}

fn kills(victims: &[Victim], marks: &[Mark]) -> BTreeSet<u64> {
    victims.iter().zip(marks).filter(|(_, mark)| mark.kill).map(|(victim, _)| victim.boot_ns).collect()
}

proptest! {
    /// Where the hooks see whether a mark is a kill, neither order nor repetition nor loss of anything matters.
    #[test]
    fn every_kill_seen_is_told_once(
        marks in marks(),
        copies in vec(0..3_usize, 40),
        order in vec(any::<Index>(), 240),
    ) {
        let victims = victims(&marks, true);
        let mut observations = Vec::new();
        for (victim, copies) in victims.iter().zip(&copies) {
            for _ in 0..*copies {
                observations.push(Observation::Victim(Box::new(victim.clone())));
                observations.extend(ended(victim));
            }
        }
        for (place, other) in order.iter().enumerate().take(observations.len()) {
            let other = other.index(observations.len());
            observations.swap(place, other);
        }
        let seen = victims.iter().zip(&marks).zip(&copies).filter(|((_, mark), copies)| mark.kill && **copies > 0);
        let expected: Vec<u64> = seen.map(|((victim, _), _)| victim.boot_ns).collect();
        let mut told = told(&mut Correlator::new(EXACT, "boot"), observations);
        told.sort_unstable();
        prop_assert_eq!(told, expected);
    }

    /// Where only counters tell a kill from a task that was dying anyway, the ring's order is kept by the kernel; all
    /// else (births read twice, readings of counters at any time, a second program's copies) may come between.
    #[test]
    fn counters_tell_kills_from_marks(
        marks in marks(),
        readings in vec((any::<Index>(), 0..4_u64), 0..20),
        early in vec(0..40_usize, 0..10),
        again in vec(any::<Index>(), 0..10),
    ) {
        let victims = victims(&marks, false);
        let expected: Vec<u64> = kills(&victims, &marks).into_iter().collect();
        let mut observations: Vec<Observation> =
            (0..4).map(|cgroup| Observation::CgroupMade(change(cgroup, 1))).collect();
        let mut so_far = [0_u64; 4];
        for (place, victim) in victims.iter().enumerate() {
            let cgroup = marks[place].cgroup;
            so_far[usize::try_from(cgroup).unwrap()] = victim.local_oom_kill.unwrap();
            if early.contains(&place) {
                // Counted and read, and the mark is yet to come.
                let kills = victim.local_oom_kill.unwrap();
                observations.push(Observation::Counters(counters(cgroup, victim.boot_ns - 1, kills)));
            }
            observations.push(Observation::Victim(Box::new(victim.clone())));
            for (_, cgroup) in readings.iter().filter(|(at, _)| at.index(victims.len()) == place) {
                let kills = so_far[usize::try_from(*cgroup).unwrap()];
                observations.push(Observation::Counters(counters(*cgroup, victim.boot_ns + 1, kills)));
                observations.push(Observation::CgroupMade(change(*cgroup, 1)));
            }
        }
        for copy in again {
            observations.push(Observation::Victim(Box::new(victims[copy.index(victims.len())].clone())));
        }
        prop_assert_eq!(told(&mut Correlator::new(INFERRED, "boot"), observations), expected);
    }

    /// Members come in any order and any number of times, between those of other runs: each run is one incident with
    /// its own members, summed once.
    #[test]
    fn a_group_kill_is_one_incident_with_its_members(
        sizes in vec(1..6_usize, 1..6),
        keys in vec(any::<u32>(), 120),
        copies in vec(1..3_usize, 30),
    ) {
        let total: usize = sizes.iter().sum();
        let mut victims = victims(&vec![Mark { cgroup: 0, kill: true }; total], true);
        let run_of: Vec<usize> = sizes.iter().enumerate().flat_map(|(run, size)| vec![run; *size]).collect();
        for (victim, run) in victims.iter_mut().zip(&run_of) {
            victim.levels[0].oom_group = true;
            let size = u32::try_from(sizes[*run]).unwrap();
            victim.run = victim.run.take().map(|it| Run {
                started_ns: u64::try_from(*run).unwrap() + 1,
                oom_memcg: it.oom_memcg.map(|level| Level { oom_group: true, ..level }),
                victims: size,
                ..it
            });
        }
        let mut seen: Vec<(u32, Observation)> = Vec::new();
        let mut keys = keys.into_iter().cycle();
        for (victim, copies) in victims.iter().zip(&copies) {
            seen.extend((0..*copies).map(|_| (keys.next().unwrap(), Observation::Victim(Box::new(victim.clone())))));
        }
        // What a run's end cannot come before is each of its members once.
        for run in 0..sizes.len() {
            let of_run = |observation: &Observation| match observation {
                Observation::Victim(victim) => victim.run.as_ref().unwrap().started_ns == run as u64 + 1,
                _ => false,
            };
            let last = seen.iter().filter(|(_, it)| of_run(it)).map(|(key, _)| *key).max().unwrap();
            let member = victims.iter().zip(&run_of).find(|(_, of)| **of == run).unwrap().0;
            seen.push((last, ended(member).unwrap()));
        }
        seen.sort_by_key(|(key, _)| *key);
        let mut correlator = Correlator::new(EXACT, "boot");
        let mut outputs: Vec<Output> = seen.into_iter().flat_map(|(_, it)| correlator.observe(it)).collect();
        outputs.extend(correlator.finish());
        let findings: Vec<Finding> = outputs.into_iter().filter_map(|output| match output {
            Output::Found(finding) => Some(*finding),
            _ => None,
        }).collect();
        let mut incidents = BTreeSet::new();
        for (run, size) in sizes.iter().enumerate() {
            let moments: Vec<u64> =
                victims.iter().zip(&run_of).filter(|(_, of)| **of == run).map(|(victim, _)| victim.boot_ns).collect();
            let is_member = |finding: &&Finding| {
                matches!(finding.body, Body::OomKill(_)) && moments.contains(&finding.boot_ns)
            };
            let members: Vec<&Finding> = findings.iter().filter(is_member).collect();
            prop_assert_eq!(members.len(), *size);
            let incident = members[0].incident_id.clone();
            prop_assert!(members.iter().all(|member| member.incident_id == incident));
            let sums: Vec<u32> = findings.iter().filter(|finding| finding.incident_id == incident).filter_map(|finding| {
                if let Body::OomGroupKill(group) = &finding.body { Some(group.victims) } else { None }
            }).collect();
            prop_assert_eq!(sums, [u32::try_from(*size).unwrap()]);
            incidents.insert(incident);
        }
        prop_assert_eq!(incidents.len(), sizes.len());
    }

    /// A reading that comes before the news of kills it already holds takes none of them away.
    #[test]
    fn a_reading_ahead_of_the_ring_loses_no_kill(count in 1..20_u64, read_after in 0..20_u64) {
        let marks = vec![Mark { cgroup: 0, kill: true }; usize::try_from(count).unwrap()];
        let victims = victims(&marks, false);
        let read_after = read_after.min(count);
        let mut observations = vec![
            Observation::CgroupMade(change(0, 1)),
            Observation::Counters(counters(0, read_after * STEP_NS + 1, read_after)),
        ];
        observations.extend(victims.iter().map(|victim| Observation::Victim(Box::new(victim.clone()))));
        let told = told(&mut Correlator::new(INFERRED, "boot"), observations);
        prop_assert_eq!(told.len() as u64, count);
    }
}
