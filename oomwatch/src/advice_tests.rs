//! Advice on made-up runs, and what must hold for any.

use proptest::prelude::*;

use super::*;
use crate::history::Beside;

fn run(peak_mib: u64, limit_mib: Option<u64>) -> Run {
    Run {
        id: String::new(),
        first_seconds: 0,
        last_seconds: 600,
        peak_bytes: peak_mib * MIB,
        limit_bytes: limit_mib.map(|mib| mib * MIB),
        kills: 0,
        killed_at_bytes: None,
        warnings: 0,
    }
}

fn killed(peak_mib: u64, limit_mib: u64) -> Run {
    Run { kills: 2, killed_at_bytes: Some(limit_mib * MIB), warnings: 1, ..run(peak_mib, Some(limit_mib)) }
}

fn advice(runs: impl IntoIterator<Item = Run>) -> Advice {
    advise("web", &Group { runs: runs.into_iter().collect(), ..Group::default() })
}

fn said(runs: impl IntoIterator<Item = Run>) -> (Verdict, Option<u64>, String) {
    let advice = advice(runs);
    (advice.verdict, advice.suggested_limit_bytes.map(|bytes| bytes / MIB), advice.reason)
}

#[test]
fn a_limit_that_killed_is_too_small_after_one_run() {
    assert_eq!(
        said([killed(500, 512)]),
        (
            Verdict::TooSmall,
            Some(768),
            "1 run watched for 10m00s; peak 500 MiB; 2 kills; 1 warning. It was killed at its limit of 512 MiB: how \
             much it would have held is not known, so raise to 768 MiB and look again."
                .to_owned()
        )
    );
}

#[test]
fn a_peak_near_the_limit_is_too_small() {
    assert_eq!(
        said([run(480, Some(512))]),
        (
            Verdict::TooSmall,
            Some(608),
            "1 run watched for 10m00s; peak 480 MiB. The highest peak is within 10 % of the limit of 512 MiB: raise \
             to 608 MiB."
                .to_owned()
        )
    );
}

#[test]
fn less_than_half_is_wasteful_once_enough_was_seen() {
    let runs = [run(200, Some(2048)), run(300, Some(2048)), run(250, Some(2048))];
    assert_eq!(
        said(runs),
        (
            Verdict::Wasteful,
            Some(384),
            "3 runs watched for 30m00s; peak 300 MiB (typically 250 MiB). Less than half of the limit of 2.00 GiB was \
             ever held: 384 MiB is enough, with 25 % above the highest peak."
                .to_owned()
        )
    );
    let (verdict, suggested, reason) = said([run(200, Some(2048)), run(300, Some(2048))]);
    assert_eq!((verdict, suggested), (Verdict::TooLittleEvidence, None), "{reason}");
    let long = Run { last_seconds: 90_000, ..run(300, Some(2048)) };
    assert_eq!(said([long]).0, Verdict::Wasteful, "a day is enough, too");
}

#[test]
fn what_fits_is_left_alone() {
    assert_eq!(said([run(350, Some(512)), run(400, Some(512)), run(380, Some(512))]).0, Verdict::Fits);
    assert_eq!(said([run(5, Some(64)), run(5, Some(64)), run(5, Some(64))]).0, Verdict::Fits, "not worth the change");
}

#[test]
fn a_limit_that_was_raised_since_a_kill_is_not_too_small() {
    let runs = [killed(500, 512), run(600, Some(1024)), Run { last_seconds: 700, ..run(650, Some(1024)) }];
    assert_eq!(said(runs).0, Verdict::Fits);
}

#[test]
fn a_workload_without_a_limit_gets_one_that_fits() {
    assert_eq!(said([run(100, None)]).0, Verdict::TooLittleEvidence);
    let (verdict, suggested, _) = said([run(100, None), run(100, None), run(100, None)]);
    assert_eq!((verdict, suggested), (Verdict::NoLimit, Some(128)));
}

prop_compose! {
    fn any_run()(
        peak_bytes in prop_oneof![0..16 * GIB, Just(u64::MAX)],
        limit_bytes in prop::option::of(prop_oneof![1..16 * GIB, Just(u64::MAX)]),
        times in (0_u64..1 << 40, 0_u64..1 << 40),
        kills in 0_u64..3,
        warnings in any::<u64>(),
    ) -> Run {
        Run {
            id: String::new(),
            first_seconds: times.0,
            last_seconds: times.1,
            peak_bytes,
            limit_bytes,
            kills,
            killed_at_bytes: limit_bytes.filter(|_| kills > 0),
            warnings,
        }
    }
}

proptest! {
    #[test]
    fn no_advice_is_below_what_was_held_and_none_contradicts_itself(
        runs in prop::collection::vec(any_run(), 0..20),
        earlier_runs in any::<u64>(),
    ) {
        let advice = advise("web", &Group { runs: runs.into(), earlier_runs, ..Group::default() });
        let suggested = advice.suggested_limit_bytes;
        if let Some(suggested) = suggested {
            prop_assert!(suggested >= advice.evidence.highest_peak_bytes);
            prop_assert!(suggested == u64::MAX || Some(suggested) > advice.evidence.killed_at_bytes);
        }
        let limit = advice.limit_bytes;
        match advice.verdict {
            Verdict::TooSmall => prop_assert!(suggested >= limit && (suggested > limit || suggested == Some(u64::MAX))),
            Verdict::Wasteful => prop_assert!(suggested < limit && advice.evidence.killed_at_bytes < limit),
            Verdict::NoLimit => prop_assert!(suggested.is_some() && limit.is_none()),
            Verdict::Fits | Verdict::TooLittleEvidence => prop_assert!(suggested.is_none()),
        }
        prop_assert!(advice.evidence.typical_peak_bytes <= advice.evidence.highest_peak_bytes);
    }
}

#[test]
fn replicas_beside_the_remembered_runs_count_too() {
    let mut group = Group { runs: (0..16).map(|_| run(60, Some(256))).collect(), ..Group::default() };
    assert_eq!(advise("web", &group).verdict, Verdict::Wasteful);
    group.beside = Some(Beside { last_seconds: u64::MAX, peak_bytes: 250 * MIB, killed_at_bytes: None });
    (group.earlier_runs, group.earlier_kills) = (4, 3);
    let advice = advise("web", &group);
    assert_eq!((advice.verdict, advice.evidence.runs, advice.evidence.kills), (Verdict::TooSmall, 20, 3), "{advice:?}");
}
