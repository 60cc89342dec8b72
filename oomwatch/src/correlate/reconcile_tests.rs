//! Comparisons without a kernel: whatever the order, what is told as missed is what was missed.

use proptest::prelude::*;

use super::*;
use crate::{cgroup_path::CgroupPath, observation::Level};

const SECOND: u64 = 1_000_000_000;

fn memcg(id: u64) -> MemcgId {
    MemcgId { hierarchy: 0, id }
}

fn victim(id: u64, boot_ns: u64, oom_group: bool) -> Victim {
    let level = Level { memcg: memcg(id), depth: 1, usage_bytes: 1, limit_bytes: Some(1), oom_group };
    Victim {
        boot_ns,
        start_ns: Some(1),
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
        memcg: Some(memcg(id)),
        path: None,
        levels: vec![level],
        reclaimed: None,
        local_oom_kill: None,
        run: None,
    }
}

fn counters(id: u64, boot_ns: u64, kills: u64) -> Counters {
    Counters {
        boot_ns,
        memcg: memcg(id),
        path: CgroupPath::from_bytes(format!("/c{id}").as_bytes()),
        local_oom_kill: Some(kills),
        local_oom: None,
        under_oom: None,
        local_oom_group_kill: None,
    }
}

fn missed(findings: &[Finding]) -> Vec<(Option<u64>, u64, u64, MissedSince)> {
    let missed = findings.iter().map(|finding| match finding.body {
        Body::Missed(Missed { expected, seen, since }) => {
            (finding.subject.as_ref().map(|subject| subject.memcg.id), expected, seen, since)
        }
        ref other => panic!("not missed: {other:?}"),
    });
    missed.collect()
}

/// The kernel's side: its counters, and the accounts that are told of them.
struct Host {
    now: u64,
    total: u64,
    by_cgroup: HashMap<u64, u64>,
    accounts: Accounts,
    found: Vec<Finding>,
}

impl Host {
    /// A host that killed before anybody looked.
    fn new() -> Self {
        let mut host = Self {
            now: SECOND,
            total: 40,
            by_cgroup: HashMap::from([(7, 3)]),
            accounts: Accounts::default(),
            found: Vec::new(),
        };
        host.read();
        host.accounts.begin(&counters(7, host.now, 3));
        host
    }

    fn kill(&mut self, id: u64) -> Victim {
        self.now += 1000;
        self.total += 1;
        *self.by_cgroup.entry(id).or_default() += 1;
        victim(id, self.now, false)
    }

    fn read(&mut self) {
        self.now += 1;
        if self.accounts.read(KillTotal { boot_ns: self.now, kills: self.total }) {
            let counters: Vec<_> = self.by_cgroup.iter().map(|(id, kills)| counters(*id, self.now, *kills)).collect();
            self.found.extend(self.accounts.compare(&counters));
        }
    }

    fn compare(&mut self) -> Vec<(Option<u64>, u64, u64, MissedSince)> {
        self.read();
        self.now += 2 * SECOND;
        self.read();
        let mut found = missed(&std::mem::take(&mut self.found));
        found.sort_by_key(|(id, ..)| *id);
        found
    }
}

#[test]
fn what_was_told_is_not_missed() {
    let mut host = Host::new();
    let victim = host.kill(7);
    host.accounts.told(&victim, false);
    assert_eq!(host.compare(), []);
}

#[test]
fn a_missed_kill_is_told_once_with_its_cgroup() {
    let mut host = Host::new();
    let told = host.kill(7);
    host.kill(7);
    host.kill(8);
    host.accounts.told(&told, false);
    let both = [(Some(7), 2, 1, MissedSince::Tier), (Some(8), 1, 0, MissedSince::Tier)];
    assert_eq!(host.compare(), both);
    assert_eq!(host.compare(), []);
}

#[test]
fn a_missed_kill_whose_cgroup_is_gone_is_told_without() {
    let mut host = Host::new();
    host.kill(7);
    host.kill(8);
    host.by_cgroup.remove(&8);
    host.accounts.lost(LostRecords::Oom);
    let found = [(None, 1, 0, MissedSince::Overflow), (Some(7), 1, 0, MissedSince::Overflow)];
    assert_eq!(host.compare(), found);
}

#[test]
fn a_total_that_still_moves_or_is_too_fresh_says_nothing() {
    let mut host = Host::new();
    host.kill(7);
    host.read();
    host.now += SECOND / 2;
    host.read();
    let late = host.kill(7);
    host.now += SECOND;
    host.read();
    host.accounts.told(&late, false);
    host.now += SECOND;
    host.read();
    assert!(host.found.is_empty());
}

/// Linux 5.10 to 7.2: the first victim of a group kill goes through `__oom_kill_process` twice.
#[test]
fn a_group_kill_may_count_one_more_than_it_has_victims() {
    for second_count in [0, 1] {
        let mut host = Host::new();
        for index in 0..3 {
            let member = Victim { levels: victim(9, 0, true).levels, ..host.kill(9) };
            host.accounts.told(&member, index == 0);
        }
        host.total += second_count;
        *host.by_cgroup.get_mut(&9).unwrap() += second_count;
        assert_eq!(host.compare(), []);
        let lost = host.kill(8);
        host.by_cgroup.remove(&8);
        assert_eq!(host.compare(), [(None, 1, 0, MissedSince::Tier)], "not blamed on the group: {lost:?}");
    }
}

#[test]
fn more_told_than_counted_hides_nothing_later() {
    let mut host = Host::new();
    host.now += 1000;
    let dying_anyway = victim(7, host.now, false);
    host.accounts.told(&dying_anyway, false);
    assert_eq!(host.compare(), []);
    host.kill(7);
    assert_eq!(host.compare().len(), 1);
}

#[test]
fn a_kill_that_the_base_holds_already_counts_for_nothing() {
    let mut host = Host::new();
    let before = victim(7, 5, false);
    host.accounts.told(&before, false);
    host.kill(7);
    assert_eq!(host.compare(), [(Some(7), 1, 0, MissedSince::Tier)]);
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// In this cgroup; told unless lost.
    Kill {
        id: u64,
        lost: bool,
    },
    /// What waits is told, the newest first.
    Tell,
    Read,
    Wait,
    /// This cgroup goes.
    Remove {
        id: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u64..5, prop::bool::weighted(0.2)).prop_map(|(id, lost)| Step::Kill { id, lost }),
        2 => Just(Step::Tell),
        2 => Just(Step::Read),
        1 => Just(Step::Wait),
        1 => (1_u64..5).prop_map(|id| Step::Remove { id }),
    ]
}

proptest! {
    /// Kills are told in any order before a total that came a second later; then what is said to be missed is what was
    /// lost, no more and no less, and of no cgroup more than was lost there.
    #[test]
    fn missed_is_what_was_lost(steps in prop::collection::vec(step(), 0..60)) {
        let mut host = Host::new();
        let mut waiting = Vec::new();
        let (mut lost, mut lost_in) = (0, HashMap::<u64, u64>::new());
        for step in steps {
            match step {
                Step::Kill { id, lost: true } => {
                    host.kill(id);
                    lost += 1;
                    *lost_in.entry(id).or_default() += 1;
                }
                Step::Kill { id, lost: false } => waiting.push(host.kill(id)),
                Step::Tell => waiting.drain(..).rev().for_each(|victim| host.accounts.told(&victim, false)),
                Step::Read => host.read(),
                Step::Wait => {
                    waiting.drain(..).rev().for_each(|victim| host.accounts.told(&victim, false));
                    host.now += SECOND;
                }
                Step::Remove { id } => {
                    host.by_cgroup.remove(&id);
                    host.accounts.removed(memcg(id));
                }
            }
        }
        waiting.drain(..).for_each(|victim| host.accounts.told(&victim, false));
        host.read();
        host.now += 2 * SECOND;
        host.read();
        let found = missed(&host.found);
        let sum: u64 = found.iter().map(|(_, expected, seen, _)| expected - seen).sum();
        prop_assert_eq!(sum, lost);
        for (id, expected, seen, _) in found {
            if let Some(id) = id {
                prop_assert!(expected - seen <= lost_in.get(&id).copied().unwrap_or_default());
            }
        }
    }

    /// Numbers that make no sense never panic.
    #[test]
    fn any_numbers_are_borne(totals in prop::collection::vec((any::<u64>(), any::<u64>()), 0..20)) {
        let mut accounts = Accounts::default();
        for (boot_ns, kills) in totals {
            accounts.told(&victim(kills, boot_ns, kills % 2 == 0), kills % 3 == 0);
            if accounts.read(KillTotal { boot_ns, kills }) {
                accounts.compare(&[counters(kills, boot_ns, kills)]);
            }
        }
    }
}
