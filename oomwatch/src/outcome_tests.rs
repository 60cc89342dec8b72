//! Verdicts on containers without a kernel, in every order in which kills and ends may be told.

use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;

const SECOND: u64 = 1_000_000_000;
const KEY: SandboxKey = SandboxKey { pid: 7, start_ticks: 70 };

fn memcg(id: u64) -> MemcgId {
    MemcgId { hierarchy: 0, id }
}

fn cgroup(id: u64) -> WorkloadKey {
    WorkloadKey::Cgroup(memcg(id))
}

fn kill(incident_id: &str, container: u64, killed_ns: u64) -> Awaited {
    let path = CgroupPath::from_bytes(format!("/c{container}").as_bytes());
    let subject = Some(Subject { memcg: memcg(container), path: None });
    let container = Container::Cgroup { path, id: Some(memcg(container)) };
    Awaited { incident_id: incident_id.to_owned(), subject, container, killed_ns }
}

fn kill_in_sandbox(incident_id: &str, killed_ns: u64) -> Awaited {
    let container = Container::Sandbox { key: KEY, workload: Box::default() };
    Awaited { incident_id: incident_id.to_owned(), subject: None, container, killed_ns }
}

fn survived(awaited: Awaited) -> Verdict {
    Verdict { awaited, survived: true, exit_code: None, ended_ns: None }
}

fn ended(awaited: Awaited, exit_code: Option<i32>, ended_ns: u64) -> Verdict {
    Verdict { awaited, survived: false, exit_code, ended_ns: Some(ended_ns) }
}

fn outcomes() -> Outcomes {
    Outcomes::new(true)
}

fn due(outcomes: &mut Outcomes, now_ns: u64, populated: bool) -> Vec<Verdict> {
    let lives = |container: &Container| populated || matches!(container, Container::Sandbox { .. });
    let verdicts = outcomes.due(now_ns, lives);
    // What is on its way out is waited for once more.
    let later = if populated { Vec::new() } else { outcomes.due(now_ns.saturating_add(LAST_CODE_NS), lives) };
    verdicts.into_iter().chain(later).collect()
}

#[test]
fn the_exit_of_one_process_is_news_once() {
    let mut outcomes = Outcomes::new(true);
    let news = [(7, 1), (7, 1), (8, 1), (7, 2), (7, 1)].map(|(pid, start_ns)| outcomes.is_news(pid, start_ns));
    assert_eq!(news, [true, false, true, true, false]);
}

#[test]
fn a_verdict_is_due_once_for_each_incident_and_container() {
    let mut outcomes = outcomes();
    for (incident_id, container, killed_ns) in [("a", 1, 0), ("a", 1, 5), ("a", 2, 7), ("a", 1, 9)] {
        assert_eq!(outcomes.killed(kill(incident_id, container, killed_ns)), None);
    }
    assert!(due(&mut outcomes, SECOND, true).is_empty());
    assert_eq!(outcomes.next_deadline(), Some(VERDICT_AFTER_NS));
    assert_eq!(due(&mut outcomes, VERDICT_AFTER_NS, true), [survived(kill("a", 1, 0))]);
    assert_eq!(due(&mut outcomes, 2 * SECOND, true), [survived(kill("a", 2, 7))]);
    assert_eq!(outcomes.next_deadline(), None);
}

#[test]
fn another_incident_while_a_verdict_is_awaited_has_one_of_its_own() {
    let second = 175 * SECOND / 100;
    let mut outcomes = outcomes();
    outcomes.killed(kill("a", 1, 0));
    outcomes.killed(kill("b", 1, second));
    assert_eq!(due(&mut outcomes, VERDICT_AFTER_NS, true), [survived(kill("a", 1, 0))]);
    let end = outcomes.exited(&[cgroup(1)], VERDICT_AFTER_NS + 1, 137);
    assert_eq!(end, [ended(kill("b", 1, second), Some(137), VERDICT_AFTER_NS + 1)]);
    assert!(due(&mut outcomes, u64::MAX, true).is_empty());

    outcomes.killed(kill("a", 2, 0));
    outcomes.killed(kill("b", 2, SECOND));
    outcomes.killed(kill("c", 2, second));
    assert_eq!(due(&mut outcomes, VERDICT_AFTER_NS, true), [survived(kill("a", 2, 0))]);
    assert_eq!(outcomes.next_deadline(), Some(SECOND + VERDICT_AFTER_NS));
    assert_eq!(due(&mut outcomes, SECOND + VERDICT_AFTER_NS, true), [survived(kill("b", 2, SECOND))]);
    assert_eq!(due(&mut outcomes, second + VERDICT_AFTER_NS, true), [survived(kill("c", 2, second))]);
    assert_eq!(outcomes.next_deadline(), None);
}

#[test]
fn of_a_storm_in_one_container_the_first_incidents_and_the_last_have_a_verdict() {
    let mut outcomes = outcomes();
    for incident in 0..1000 {
        outcomes.killed(kill(&format!("i{incident}"), 1, incident));
    }
    let mut told = Vec::new();
    while let Some(at) = outcomes.next_deadline() {
        told.extend(due(&mut outcomes, at, true).into_iter().map(|verdict| verdict.awaited.incident_id));
    }
    let expected: Vec<_> = (0..MAX_LATER).chain([999]).map(|incident| format!("i{incident}")).collect();
    assert_eq!(told, expected);
    for incident in 0..3 {
        outcomes.killed(kill(&format!("i{incident}"), 2, incident));
    }
    let ends = outcomes.exited(&[cgroup(2)], 30, 137);
    assert_eq!(ends, [0, 1, 2].map(|incident| ended(kill(&format!("i{incident}"), 2, incident), Some(137), 30)));
}

#[test]
fn an_end_while_a_verdict_is_awaited_is_that_of_both_incidents() {
    let mut outcomes = outcomes();
    outcomes.killed(kill("a", 1, 10));
    outcomes.killed(kill("b", 1, 20));
    let both = [ended(kill("a", 1, 10), Some(137), 30), ended(kill("b", 1, 20), Some(137), 30)];
    assert_eq!(outcomes.exited(&[cgroup(1)], 30, 137), both);

    outcomes.killed(kill("a", 2, 10));
    outcomes.killed(kill("b", 2, 20));
    let codes: Vec<_> =
        due(&mut outcomes, 2 * SECOND, false).into_iter().map(|told| (told.awaited, told.survived)).collect();
    assert_eq!(codes, [(kill("a", 2, 10), false), (kill("b", 2, 20), false)]);

    outcomes.killed(kill("a", 3, 10));
    outcomes.killed(kill("b", 3, 40));
    let first = outcomes.exited(&[cgroup(3)], 30, 1);
    assert_eq!(first, [ended(kill("a", 3, 10), Some(1), 30)], "the next container is in that cgroup already");
    assert_eq!(due(&mut outcomes, 4 * SECOND, true), [survived(kill("b", 3, 40))]);
}

#[test]
fn a_late_kill_of_the_same_incident_that_ends_the_container_corrects_its_verdict() {
    let mut outcomes = outcomes();
    outcomes.killed(kill_in_sandbox("a", 0));
    outcomes.killed(kill_in_sandbox("a", SECOND));
    assert_eq!(due(&mut outcomes, VERDICT_AFTER_NS, true), [survived(kill_in_sandbox("a", 0))]);
    let end = outcomes.exited(&[WorkloadKey::Sandbox(KEY)], 2 * SECOND, 137);
    assert_eq!(end, [ended(kill_in_sandbox("a", SECOND), Some(137), 2 * SECOND)]);
}

#[test]
fn an_exit_after_the_kill_ends_the_wait_with_its_code() {
    let mut outcomes = outcomes();
    outcomes.killed(kill("a", 1, 10));
    outcomes.killed(kill("b", 2, 10));
    let keys = [cgroup(9), cgroup(1), WorkloadKey::Sandbox(KEY)];
    assert_eq!(outcomes.exited(&keys, 20, 137), [ended(kill("a", 1, 10), Some(137), 20)]);
    assert!(outcomes.removed(memcg(1), 30).is_empty(), "its end was told");
    assert_eq!(outcomes.killed(kill("c", 1, 15)), None, "a second victim of a container that is gone");
    assert_eq!(due(&mut outcomes, u64::MAX, true), [survived(kill("b", 2, 10))]);
}

#[test]
fn an_exit_told_before_the_kill_is_its_end() {
    let mut outcomes = outcomes();
    assert!(outcomes.exited(&[cgroup(1)], 20, 3).is_empty());
    assert_eq!(outcomes.killed(kill("a", 1, 10)), Some(ended(kill("a", 1, 10), Some(3), 20)));
    assert_eq!(outcomes.killed(kill("a", 1, 12)), None);
}

#[test]
fn a_removal_told_before_the_kill_is_its_end_too() {
    let mut outcomes = outcomes();
    outcomes.exited(&[cgroup(1)], 20, 3);
    outcomes.removed(memcg(1), 30);
    outcomes.removed(memcg(2), 30);
    assert_eq!(outcomes.killed(kill("a", 1, 10)), Some(ended(kill("a", 1, 10), Some(3), 20)));
    assert_eq!(outcomes.killed(kill("a", 2, 10)), Some(ended(kill("a", 2, 10), None, 30)));
}

#[test]
fn a_removed_cgroup_ends_the_wait_without_a_code_where_no_init_was_seen() {
    let mut outcomes = outcomes();
    outcomes.killed(kill("a", 1, 10));
    assert_eq!(outcomes.removed(memcg(1), 20), [ended(kill("a", 1, 10), None, 20)]);
}

#[test]
fn an_exit_before_the_kill_may_be_that_of_the_container_before() {
    let mut outcomes = outcomes();
    outcomes.exited(&[cgroup(1)], 5, 3);
    assert_eq!(outcomes.killed(kill("a", 1, 10)), None);
    assert_eq!(due(&mut outcomes, 2 * SECOND, true), [survived(kill("a", 1, 10))]);
    outcomes.killed(kill("b", 1, 3 * SECOND));
    let second = outcomes.exited(&[cgroup(1)], 3 * SECOND + 1, 4);
    assert_eq!(second, [ended(kill("b", 1, 3 * SECOND), Some(4), 3 * SECOND + 1)]);
}

#[test]
fn a_cgroup_without_processes_ended_with_the_code_of_its_init() {
    let mut outcomes = outcomes();
    outcomes.exited(&[cgroup(1)], 5, 3);
    outcomes.killed(kill("a", 1, 10));
    outcomes.killed(kill("a", 2, 10));
    let verdicts = due(&mut outcomes, 2 * SECOND, false);
    let codes: Vec<_> = verdicts.iter().map(|verdict| (verdict.survived, verdict.exit_code)).collect();
    assert_eq!(codes, [(false, Some(3)), (false, None)]);
}

#[test]
fn the_code_of_a_container_that_is_on_its_way_out_is_waited_for_a_moment() {
    let mut outcomes = outcomes();
    outcomes.killed(kill("a", 1, 10));
    outcomes.killed(kill("b", 2, 10));
    assert_eq!(outcomes.due(2 * SECOND, |_| false), []);
    assert_eq!(outcomes.next_deadline(), Some(2 * SECOND + LAST_CODE_NS));
    let exit_ns = 2 * SECOND + 1;
    assert_eq!(outcomes.exited(&[cgroup(1)], exit_ns, 137), [ended(kill("a", 1, 10), Some(137), exit_ns)]);
    let told = outcomes.due(2 * SECOND + LAST_CODE_NS, |_| true);
    assert_eq!(told.iter().map(|told| (told.survived, told.exit_code)).collect::<Vec<_>>(), [(false, None)]);
}

#[test]
fn at_the_end_nothing_that_is_overdue_is_left_untold() {
    let mut outcomes = outcomes();
    for (incident_id, container) in [("a", 1), ("b", 1), ("c", 2)] {
        outcomes.killed(kill(incident_id, container, 10));
    }
    let lives = |container: &Container| matches!(container, Container::Cgroup { id: Some(id), .. } if *id == memcg(2));
    let mut told = outcomes.finish(3 * SECOND, lives);
    told.sort_by_key(|told| told.awaited.incident_id.clone());
    assert_eq!(told.iter().map(|told| told.survived).collect::<Vec<_>>(), [false, false, true]);

    let mut outcomes = self::outcomes();
    outcomes.killed(kill("a", 1, 10));
    assert_eq!(outcomes.due(2 * SECOND, |_| false), []);
    outcomes.killed(kill("b", 2, 2 * SECOND));
    let told = outcomes.finish(2 * SECOND + 1, |_| true);
    assert_eq!(told.iter().map(|told| told.survived).collect::<Vec<_>>(), [false], "the other may yet end");
}

#[test]
fn an_init_that_gives_up_after_the_verdict_had_survived() {
    let mut outcomes = outcomes();
    outcomes.killed(kill("a", 1, 10));
    assert_eq!(due(&mut outcomes, VERDICT_AFTER_NS + 10, true), [survived(kill("a", 1, 10))]);
    assert!(outcomes.exited(&[cgroup(1)], 19 * SECOND / 10, 1).is_empty());
}

#[test]
fn a_container_whose_cgroup_was_never_seen_is_known_by_its_path() {
    let mut outcomes = outcomes();
    let unseen = |path: &[u8]| Awaited {
        container: Container::Cgroup { path: CgroupPath::from_bytes(path), id: None },
        ..kill("a", 1, 10)
    };
    for path in [&b"/x"[..], b"/y", b"/x"] {
        assert_eq!(outcomes.killed(unseen(path)), None);
    }
    assert!(outcomes.exited(&[cgroup(1)], 20, 3).is_empty());
    assert_eq!(due(&mut outcomes, u64::MAX, true), [survived(unseen(b"/x")), survived(unseen(b"/y"))]);
}

#[test]
fn a_sandbox_ends_once_whoever_tells_of_it_first() {
    let sandbox = [WorkloadKey::Sandbox(KEY)];
    let verdict = ended(kill_in_sandbox("a", 10), Some(0), 20);

    let mut exit_first = outcomes();
    exit_first.killed(kill_in_sandbox("a", 10));
    assert_eq!(exit_first.exited(&sandbox, 20, 0), std::slice::from_ref(&verdict));
    assert_eq!(exit_first.killed(kill_in_sandbox("a", 25)), None, "a stub that was killed while the sentry ended");
    assert!(exit_first.sandbox_gone(KEY, 30).is_empty());

    let mut gone_first = outcomes();
    gone_first.killed(kill_in_sandbox("a", 10));
    assert!(gone_first.sandbox_gone(KEY, 30).is_empty());
    assert_eq!(gone_first.next_deadline(), Some(30 + CODE_AFTER_NS));
    assert_eq!(gone_first.exited(&sandbox, 20, 0), std::slice::from_ref(&verdict));
    assert_eq!(gone_first.killed(kill_in_sandbox("a", 15)), None);

    let mut kill_last = outcomes();
    kill_last.sandbox_gone(KEY, 30);
    assert_eq!(kill_last.killed(kill_in_sandbox("a", 10)), None);
    assert_eq!(kill_last.exited(&sandbox, 20, 0), [verdict]);
}

#[test]
fn a_sandbox_whose_exit_is_never_told_ended_without_a_code() {
    let mut blind = Outcomes::new(false);
    blind.killed(kill_in_sandbox("a", 10));
    assert_eq!(blind.sandbox_gone(KEY, 30), [ended(kill_in_sandbox("a", 10), None, 30)]);

    let mut lost = outcomes();
    lost.killed(kill_in_sandbox("a", 10));
    lost.sandbox_gone(KEY, 30);
    assert_eq!(due(&mut lost, SECOND, true), [ended(kill_in_sandbox("a", 10), None, 30)]);
}

#[test]
fn a_sandbox_that_is_still_there_survived() {
    let mut outcomes = outcomes();
    outcomes.killed(kill_in_sandbox("a", 10));
    assert_eq!(due(&mut outcomes, 2 * SECOND, false), [survived(kill_in_sandbox("a", 10))]);
}

#[test]
fn ends_are_remembered_for_a_while_and_in_bounded_number() {
    let mut outcomes = outcomes();
    let count = u64::try_from(MAX_ENDS).unwrap();
    for id in 0..2 * count {
        outcomes.removed(memcg(id), 20);
    }
    assert_eq!((outcomes.ends.len(), outcomes.ended.len()), (MAX_ENDS, MAX_ENDS));
    assert!(outcomes.killed(kill("a", 2 * count - 1, 10)).is_some());
    outcomes.removed(memcg(0), 21 + REMEMBER_NS);
    assert_eq!((outcomes.ends.len(), outcomes.ended.len()), (1, 1));
}

/// What happened to a container after kills in it.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each may be so or not, whatever the others are")]
struct Story {
    in_sandbox: bool,
    kills: u64,
    ended: bool,
    /// Of the news of its end, what arrives.
    exit_arrives: bool,
    removal_arrives: bool,
}

#[derive(Debug, Clone, Copy)]
enum News {
    Kill(u64),
    Exit,
    Removal,
}

const CODE: i32 = 137;
const EXITED_NS: u64 = SECOND;
const REMOVED_NS: u64 = SECOND + 1;

fn nth_sandbox(number: u32) -> SandboxKey {
    SandboxKey { pid: number, start_ticks: 1 }
}

impl Story {
    fn awaited(&self, number: u32, nth: u64) -> Awaited {
        let incident_id = format!("incident {number}");
        if self.in_sandbox {
            let container = Container::Sandbox { key: nth_sandbox(number), workload: Box::default() };
            Awaited { incident_id, subject: None, container, killed_ns: nth }
        } else {
            kill(&incident_id, number.into(), nth)
        }
    }

    fn news(&self) -> Vec<News> {
        let end = [(News::Exit, self.exit_arrives), (News::Removal, self.removal_arrives)];
        let end = end.into_iter().filter(|(_, arrives)| self.ended && *arrives).map(|(news, _)| news);
        (1..=self.kills).map(News::Kill).chain(end).collect()
    }

    fn hear(&self, outcomes: &mut Outcomes, number: u32, news: News) -> Vec<Verdict> {
        let sandbox = WorkloadKey::Sandbox(nth_sandbox(number));
        match (news, self.in_sandbox) {
            (News::Kill(nth), _) => outcomes.killed(self.awaited(number, nth)).into_iter().collect(),
            (News::Exit, true) => outcomes.exited(&[sandbox], EXITED_NS, CODE),
            (News::Exit, false) => outcomes.exited(&[cgroup(number.into())], EXITED_NS, CODE),
            (News::Removal, true) => outcomes.sandbox_gone(nth_sandbox(number), REMOVED_NS),
            (News::Removal, false) => outcomes.removed(memcg(number.into()), REMOVED_NS),
        }
    }

    /// Survived, and with which code it ended. A sandbox whose end nobody tells is taken to live.
    fn verdict(&self) -> (bool, Option<i32>) {
        let seen = if self.in_sandbox { self.exit_arrives || self.removal_arrives } else { true };
        let ended = self.ended && seen;
        (!ended, (ended && self.exit_arrives).then_some(CODE))
    }
}

proptest! {
    /// Kills and ends of several containers, in any order among all and with any of the ends lost: one verdict for each,
    /// and the same one. Of a cgroup the kernel tells first that its init exited, then that it was removed.
    #[test]
    fn in_any_order_each_container_has_the_same_verdict_once(
        stories in vec(
            (any::<bool>(), 1..4_u64, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
                |(in_sandbox, kills, ended, exit_arrives, removal_arrives)| {
                    Story { in_sandbox, kills, ended, exit_arrives, removal_arrives }
                },
            ),
            1..6,
        ),
        order in vec(any::<Index>(), 40),
    ) {
        let mut all: Vec<(u32, News)> = (1..).zip(&stories).flat_map(|(number, story)| {
            story.news().into_iter().map(move |news| (number, news))
        }).collect();
        for (place, other) in order.iter().enumerate().take(all.len()) {
            let other = other.index(all.len());
            all.swap(place, other);
        }
        let story = |number: u32| &stories[usize::try_from(number - 1).unwrap()];
        for number in (1..).zip(&stories).filter(|(_, story)| !story.in_sandbox).map(|(number, _)| number) {
            let place = |wanted: fn(&News) -> bool| all.iter().position(|(at, news)| *at == number && wanted(news));
            let exit = place(|news| matches!(news, News::Exit));
            let removal = place(|news| matches!(news, News::Removal));
            if let (Some(exit), Some(removal)) = (exit, removal) && removal < exit {
                all.swap(exit, removal);
            }
        }
        let mut outcomes = outcomes();
        let mut verdicts: Vec<Verdict> = Vec::new();
        for (number, news) in all {
            verdicts.extend(story(number).hear(&mut outcomes, number, news));
        }
        for later_ns in [0, SECOND, 2 * SECOND] {
            verdicts.extend(outcomes.due(u64::MAX / 2 + later_ns, |container| match container {
                Container::Cgroup { id, .. } => !story(u32::try_from(id.unwrap().id).unwrap()).ended,
                Container::Sandbox { .. } => true,
            }));
        }
        let mut told: Vec<_> = verdicts.into_iter().map(|verdict| {
            (verdict.awaited.incident_id, (verdict.survived, verdict.exit_code))
        }).collect();
        told.sort();
        let expected: Vec<_> = (1..).zip(&stories).map(|(number, story)| {
            (story.awaited(number, 0).incident_id, story.verdict())
        }).collect();
        prop_assert_eq!(told, expected);
    }
}
