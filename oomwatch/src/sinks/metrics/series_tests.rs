//! Series as a scraper sees them: begun at 0, risen, outliving their workload, bounded.

use super::*;

const SECOND: u64 = 1_000_000_000;
const BY_CONTAINER: Cause = (Some(Scope::Memcg), Some(LimitOwner::Container));

fn container(id: &str) -> Workload {
    Workload { runtime: Runtime::Runc, container_id: Some(id.to_owned()), ..Workload::default() }
}

fn series() -> Series {
    Series::new(Limits::Always)
}

fn counts(series: &Series, workload: &Workload) -> Option<Counts> {
    series.workloads.get(&Labels::of(Some(workload)).key()).cloned()
}

fn kills(series: &Series, workload: &Workload, cause: Cause) -> Option<u64> {
    counts(series, workload)?.kills.iter().find(|kills| kills.cause == cause).map(|kills| kills.count)
}

#[test]
fn a_workload_begins_at_zero_and_rises_by_its_kills() {
    let (mut series, web) = (series(), container("web"));
    series.live([&web], SECOND);
    assert_eq!(kills(&series, &web, BY_CONTAINER), Some(0));
    assert_eq!(kills(&series, &web, (Some(Scope::Memcg), Some(LimitOwner::Pod))), None, "it is in no pod");
    series.killed(Some(&web), BY_CONTAINER, 2 * SECOND);
    series.killed(Some(&web), (None, None), 2 * SECOND);
    series.oom(Some(&web), 3, 2 * SECOND);
    series.near_limit(Some(&web), 2 * SECOND);
    assert_eq!((kills(&series, &web, BY_CONTAINER), kills(&series, &web, (None, None))), (Some(1), Some(1)));
    let counts = counts(&series, &web).unwrap();
    assert_eq!((counts.ooms, counts.near_limits), (3, 1));
    assert_eq!(series.size, series.workloads.values().map(Counts::size).sum::<usize>());
}

#[test]
fn processes_outside_of_containers_and_the_unknown_are_there_from_the_beginning() {
    let mut series = series();
    series.live([], SECOND);
    for runtime in NO_CONTAINER {
        let rest = Workload { runtime, ..Workload::default() };
        assert_eq!(kills(&series, &rest, (Some(Scope::Memcg), Some(LimitOwner::Slice))), Some(0));
        assert_eq!(kills(&series, &rest, (Some(Scope::Host), Some(LimitOwner::Host))), Some(0));
    }
    series.killed(None, (Some(Scope::Host), Some(LimitOwner::Host)), SECOND);
    assert_eq!(kills(&series, &Workload::default(), (Some(Scope::Host), Some(LimitOwner::Host))), Some(1));
}

/// What a reader sees of a container's kills, limits hit without one, and warnings.
fn seen(series: &mut Series, reader: Reader, workload: &Workload) -> (Vec<u64>, u64, u64) {
    let of = Labels::of(Some(workload));
    let (all, _) = series.read(reader);
    let counts = all.into_iter().find(|counts| *counts.labels == of).unwrap();
    (counts.kills.iter().map(|kills| kills.count).filter(|count| *count > 0).collect(), counts.ooms, counts.near_limits)
}

#[test]
fn a_scraper_sees_every_counter_at_zero_first_and_others_what_it_is() {
    let (mut series, web) = (series(), container("web"));
    series.killed(Some(&web), BY_CONTAINER, SECOND);
    series.oom(Some(&web), 3, SECOND);
    series.near_limit(Some(&web), SECOND);
    assert_eq!(seen(&mut series, Reader::Other, &web), (vec![1], 3, 1));
    assert_eq!(seen(&mut series, Reader::Scraper, &web), (vec![], 0, 0));
    assert_eq!(seen(&mut series, Reader::Scraper, &web), (vec![1], 3, 1));
    // A cause that was not reckoned with.
    series.killed(Some(&web), (None, None), SECOND);
    series.killed(Some(&web), BY_CONTAINER, SECOND);
    assert_eq!(seen(&mut series, Reader::Scraper, &web), (vec![2], 3, 1));
    assert_eq!(seen(&mut series, Reader::Scraper, &web), (vec![2, 1], 3, 1));
}

#[test]
fn without_limits_kills_are_counted_from_zero_without_a_cause() {
    let (mut series, web) = (Series::new(Limits::Never), container("web"));
    series.live([&web], SECOND);
    let kills: Vec<_> = counts(&series, &web).unwrap().kills.iter().map(|kills| (kills.cause, kills.count)).collect();
    assert_eq!(kills, [((None, None), 0)]);
}

#[test]
fn series_outlive_their_workload_by_ten_minutes() {
    let (mut series, web) = (series(), container("web"));
    series.live([&web], SECOND);
    series.killed(Some(&web), BY_CONTAINER, 10 * SECOND);
    series.live([], 609 * SECOND);
    assert_eq!(kills(&series, &web, BY_CONTAINER), Some(1));
    series.live([], 610 * SECOND);
    assert!(counts(&series, &web).is_none());
    // Nobody scraped for long, but it lived all the time.
    series.live([&web], 700 * SECOND);
    series.killed(Some(&web), BY_CONTAINER, 701 * SECOND);
    series.live([&web], 9000 * SECOND);
    assert_eq!(kills(&series, &web, BY_CONTAINER), Some(1));
}

#[test]
fn a_name_that_is_learned_later_changes_labels_only_when_scraped_and_keeps_counts() {
    let (mut series, web) = (series(), container("web"));
    let named = Workload { container_name: Some("shop".into()), ..web.clone() };
    series.live([&web], SECOND);
    series.killed(Some(&named), BY_CONTAINER, SECOND);
    assert_eq!(*counts(&series, &web).unwrap().labels, Labels::of(Some(&web)), "the series a scraper knows rises");
    series.live([&named], 2 * SECOND);
    assert_eq!(*counts(&series, &web).unwrap().labels, Labels::of(Some(&named)));
    assert_eq!(kills(&series, &named, BY_CONTAINER), Some(1));
}

#[test]
fn the_number_of_series_is_bounded_and_what_counted_nothing_goes_first() {
    let mut series = Series { max: 40, ..series() };
    let (killed, idle) = (container("killed"), container("idle"));
    series.live([&killed, &idle], SECOND);
    series.killed(Some(&killed), BY_CONTAINER, SECOND);
    for number in 0..50 {
        let other = container(&format!("other-{number}"));
        series.live([&other], (2 + number) * SECOND);
        assert!(series.size <= 40, "{}", series.size);
    }
    assert_eq!(kills(&series, &killed, BY_CONTAINER), Some(1));
    assert!(counts(&series, &idle).is_none());
    assert!(counts(&series, &container("other-49")).is_some());
    assert!(series.read(Reader::Other).1 > 0);
}

#[test]
fn what_lives_does_not_yield_to_zeros_but_to_a_kill() {
    let mut series = Series { max: 40, ..series() };
    let all: Vec<Workload> = (0..50).map(|number| container(&format!("c{number}"))).collect();
    series.live(&all, SECOND);
    let (first, evicted) = series.read(Reader::Other);
    assert!(series.size <= 40 && evicted > 0);
    series.live(&all, 2 * SECOND);
    assert_eq!(series.read(Reader::Other).0.len(), first.len(), "the same live ones are kept from scrape to scrape");
    series.killed(Some(&all[49]), BY_CONTAINER, 3 * SECOND);
    assert_eq!(kills(&series, &all[49], BY_CONTAINER), Some(1));
    assert!(series.size <= 40);
}
