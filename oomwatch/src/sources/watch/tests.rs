//! On series of readings, made up and random.

use super::*;

const MIB: u64 = 1 << 20;
const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;
const LIMIT: u64 = 1000 * MIB;
const SETTINGS: Settings =
    Settings { threshold_percent: 95, rearm_percent: 90, poll_interval: Duration::from_millis(500) };

/// Numbers without a pattern, the same at each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    fn once_in(&mut self, times: u64) -> bool {
        self.next().is_multiple_of(times)
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what a reading has")]
fn enforced(bytes: u64) -> Option<Limit> {
    Some(Limit { bytes, enforced: true })
}

/// Kinds told of, with the number of the reading, for readings of (ms, percent of the limit).
fn told(limit: Option<Limit>, readings: impl IntoIterator<Item = (u64, u64)>) -> Vec<(usize, Kind)> {
    let mut watch = Watch::new(SETTINGS);
    let observe = |(ms, percent): (u64, u64)| {
        let reading = Reading { boot_ns: ms * MS, usage_bytes: LIMIT / 100 * percent, limit };
        watch.observe(reading).map(|crossing| crossing.kind)
    };
    let kinds: Vec<Option<Kind>> = readings.into_iter().map(observe).collect();
    kinds.into_iter().enumerate().filter_map(|(index, kind)| Some((index, kind?))).collect()
}

const NEAR: Kind = Kind::Rose(Line::NearLimit);
const OVER: Kind = Kind::Rose(Line::OverLimit);

#[test]
fn a_crossing_is_told_once_and_again_after_a_recovery() {
    let series = [(0, 94), (500, 95), (1000, 99), (1500, 89), (2000, 89), (3499, 89), (3500, 89), (4000, 96)];
    assert_eq!(told(enforced(LIMIT), series), [(1, NEAR), (6, Kind::Recovered), (7, NEAR)]);
}

#[test]
fn between_the_lines_nothing_is_told() {
    let series = [(0, 96), (500, 89), (1000, 90), (1500, 89), (3000, 89), (3400, 94), (3500, 89), (5400, 89)];
    assert_eq!(told(enforced(LIMIT), series), [(0, NEAR)]);
}

#[test]
fn a_limit_that_nothing_enforces_can_be_passed() {
    let limit = Some(Limit { bytes: LIMIT, enforced: false });
    let series = [(0, 96), (500, 99), (1000, 100), (1500, 130), (2000, 97), (2500, 101), (3000, 10), (5000, 10)];
    assert_eq!(told(limit, series), [(0, NEAR), (2, OVER), (7, Kind::Recovered)]);
    assert_eq!(told(limit, [(0, 50), (500, 200), (1000, 96)]), [(1, OVER)], "a jump over both lines is one thing");
    assert_eq!(told(enforced(LIMIT), [(0, 96), (500, 100), (1000, 101)]), [(0, NEAR)]);
}

#[test]
fn a_limit_may_change_come_and_go() {
    let mut watch = Watch::new(SETTINGS);
    let mut at = |ms: u64, limit: Option<Limit>| {
        let reading = Reading { boot_ns: ms * MS, usage_bytes: 96 * MIB, limit };
        watch.observe(reading).map(|crossing| crossing.kind)
    };
    assert_eq!(at(0, None), None);
    assert_eq!(at(500, enforced(200 * MIB)), None);
    assert_eq!(at(1000, enforced(100 * MIB)), Some(NEAR));
    assert_eq!(at(1500, enforced(200 * MIB)), None);
    assert_eq!(at(3500, enforced(200 * MIB)), Some(Kind::Recovered));
    assert_eq!(at(4000, Some(Limit { bytes: 90 * MIB, enforced: false })), Some(OVER));
    assert_eq!(at(4500, None), None);
    assert_eq!(at(6500, None), Some(Kind::Recovered));
    assert_eq!(at(7000, enforced(0)), None, "no limit can be 0");
}

#[test]
fn shares_are_exact_at_any_size() {
    assert_eq!(share(100, 95), 95);
    assert_eq!(share(101, 95), 96);
    assert_eq!(share(1, 95), 1);
    assert_eq!(share(u64::MAX, 100), u64::MAX);
    assert_eq!(share(u64::MAX, 255), u64::MAX);
}

#[test]
fn growth_and_time_to_the_limit_are_told() {
    let mut watch = Watch::new(SETTINGS);
    let mut crossings = Vec::new();
    for step in 0..=100 {
        let reading = Reading { boot_ns: step * 100 * MS, usage_bytes: step * 10 * MIB, limit: enforced(LIMIT) };
        crossings.extend(watch.observe(reading));
    }
    let growth = i64::try_from(100 * MIB).unwrap();
    let crossing = crossings.first().unwrap();
    assert_eq!(crossings.len(), 1);
    assert_eq!((crossing.kind, crossing.growth_bytes_per_second), (NEAR, Some(growth)));
    assert_eq!(crossing.time_to_limit, Some(Duration::from_millis(500)));
    assert_eq!((watch.peak_bytes(), watch.growth.recent()), (LIMIT, Some(growth)));
}

#[test]
fn what_does_not_grow_reaches_no_limit() {
    let mut watch = Watch::new(SETTINGS);
    let reading = |ms: u64, percent: u64| Reading {
        boot_ns: ms * MS,
        usage_bytes: LIMIT / 100 * percent,
        limit: enforced(LIMIT),
    };
    let first = watch.observe(reading(0, 96)).unwrap();
    assert_eq!((first.growth_bytes_per_second, first.time_to_limit), (None, None));
    assert_eq!(watch.observe(reading(500, 50)), None);
    let last = watch.observe(reading(2500, 50)).unwrap();
    assert_eq!((last.kind, last.growth_bytes_per_second, last.time_to_limit), (Kind::Recovered, Some(0), None));
}

#[test]
fn looks_come_faster_the_nearer_the_threshold_is() {
    let wait = |usage_mib: u64, limit: Option<Limit>| {
        let mut watch = Watch::new(SETTINGS);
        watch.observe(Reading { boot_ns: SECOND, usage_bytes: usage_mib * MIB, limit });
        assert_eq!(watch.due().latest_ns, SECOND + 500 * MS);
        Duration::from_nanos(watch.due().wanted_ns - SECOND)
    };
    assert_eq!(wait(10, None), Duration::from_millis(500));
    assert_eq!(wait(10, enforced(4096 * MIB)), Duration::from_millis(500));
    assert_eq!(wait(350, enforced(1000 * MIB)).as_millis(), 500);
    assert_eq!(wait(800, enforced(1000 * MIB)).as_millis(), 131);
    assert_eq!(wait(949, enforced(1000 * MIB)), SHORTEST_WAIT);
    assert_eq!(wait(950, enforced(1000 * MIB)).as_millis(), 500, "told: nothing to be early for");
    assert_eq!(Watch::new(SETTINGS).due().wanted_ns, 0);
}

#[test]
fn a_sandbox_faster_than_the_ceiling_is_looked_at_more_often() {
    let mut watch = Watch::new(SETTINGS);
    let limit = enforced(100_000 * MIB);
    watch.observe(Reading { boot_ns: 0, usage_bytes: 0, limit });
    watch.observe(Reading { boot_ns: 500 * MS, usage_bytes: 10_000 * MIB, limit });
    watch.observe(Reading { boot_ns: SECOND, usage_bytes: 93_000 * MIB, limit });
    // 2,000 MiB at 166,000 MiB/s would be 12 ms, but no memory is that fast.
    assert_eq!((watch.due().wanted_ns - SECOND) / MS, 2000 * MIB * 1000 / 64_000_000_000);
}

#[test]
fn a_poll_interval_shorter_than_the_shortest_wait_is_kept() {
    let mut watch = Watch::new(Settings { poll_interval: Duration::from_millis(1), ..SETTINGS });
    watch.observe(Reading { boot_ns: 0, usage_bytes: 940 * MIB, limit: enforced(LIMIT) });
    assert_eq!(watch.due(), Due { wanted_ns: MS, latest_ns: MS });
}

/// What must hold for any series: told once, in order, for a reason.
#[derive(Default)]
struct Oracle {
    told: Option<Line>,
    readings: Vec<Reading>,
}

impl Oracle {
    fn check(&mut self, reading: Reading, crossing: Option<Crossing>) {
        self.readings.push(reading);
        let limit = reading.limit;
        let percent = |limit: Limit| u128::from(reading.usage_bytes) * 100 / u128::from(limit.bytes);
        let near = limit.is_some_and(|limit| percent(limit) >= 95);
        let over = limit.is_some_and(|limit| !limit.enforced && reading.usage_bytes >= limit.bytes);
        match crossing.map(|crossing| crossing.kind) {
            None => {
                assert!(!near || self.told.is_some(), "missed: {reading:?}");
                assert!(!over || self.told == Some(Line::OverLimit), "missed: {reading:?}");
                assert!(self.told.is_none() || !self.is_below_long_enough(), "no recovery: {reading:?}");
            }
            Some(Kind::Rose(line)) => {
                assert!(near || over, "{reading:?}");
                assert_eq!(line, if over { Line::OverLimit } else { Line::NearLimit });
                assert!(self.told < Some(line), "told again: {reading:?}");
                self.told = Some(line);
            }
            Some(Kind::Recovered) => {
                assert!(self.told.take().is_some(), "from nothing: {reading:?}");
                assert!(self.is_below_long_enough(), "{reading:?}");
                self.readings.clear();
            }
        }
    }

    /// All readings of the last 2 s and one that is as old are below 90 %.
    fn is_below_long_enough(&self) -> bool {
        let below = |reading: &&Reading| {
            reading.limit.is_none_or(|limit| u128::from(reading.usage_bytes) * 100 < u128::from(limit.bytes) * 90)
        };
        let newest_ns = self.readings.last().unwrap().boot_ns;
        let oldest_ns = self.readings.iter().rev().take_while(below).last().map(|reading| reading.boot_ns);
        oldest_ns.is_some_and(|oldest_ns| newest_ns - oldest_ns >= 2 * SECOND)
    }
}

#[test]
fn any_series_is_told_in_order_and_for_a_reason() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut counts = [0_usize; 3];
    for _ in 0..300 {
        let (mut watch, mut oracle) = (Watch::new(SETTINGS), Oracle::default());
        let (mut boot_ns, mut usage, mut limit) = (0, 500 * MIB, enforced(LIMIT));
        for _ in 0..400 {
            boot_ns += random.within(1, 1000) * MS;
            usage = match random.within(0, 9) {
                0 => random.within(0, 2 * LIMIT),
                1..=3 => random.within(LIMIT / 100 * 85, LIMIT / 100 * 101),
                _ => usage.saturating_add(random.within(0, 100 * MIB)).saturating_sub(50 * MIB),
            };
            if random.once_in(40) {
                let bytes = random.within(1, 2 * LIMIT);
                limit = (!random.once_in(5)).then_some(Limit { bytes, enforced: random.once_in(2) });
            }
            let reading = Reading { boot_ns, usage_bytes: usage, limit };
            let crossing = watch.observe(reading);
            oracle.check(reading, crossing);
            match crossing.map(|crossing| crossing.kind) {
                Some(NEAR) => counts[0] += 1,
                Some(OVER) => counts[1] += 1,
                Some(Kind::Recovered) => counts[2] += 1,
                _ => {}
            }
        }
    }
    assert!(counts.iter().all(|count| *count > 500), "the series are too tame: {counts:?}");
}

#[test]
fn flapping_around_the_lines_is_told_once() {
    let mut random = Random(42);
    for _ in 0..200 {
        let mut readings = vec![(0, 96)];
        let mut ms = 0;
        let mut high_ms = 0;
        while ms < 120_000 {
            ms += random.within(5, 500);
            // Never away from the threshold for 2 s.
            let is_high = ms - high_ms >= 1500 || random.once_in(3);
            let percent = if is_high { random.within(95, 100) } else { random.within(0, 94) };
            high_ms = if is_high { ms } else { high_ms };
            readings.push((ms, percent));
        }
        assert_eq!(told(enforced(LIMIT), readings), [(0, NEAR)]);
    }
}

/// Usage that grows and shrinks from point to point.
struct Curve(Vec<(u64, u64)>);

impl Curve {
    /// Grows at most at the ceiling; memory can be freed in no time.
    fn random(random: &mut Random, limit: u64) -> Self {
        let (mut ns, mut bytes) = (0, random.within(0, limit / 2));
        let mut points = vec![(ns, bytes)];
        while points.len() < 60 {
            let target = random.within(0, limit - 1);
            let fastest_ns = GROWTH_CEILING.time_for(target.saturating_sub(bytes)) + 1;
            ns += fastest_ns * if random.once_in(2) { 1 } else { random.within(1, 200) };
            bytes = target;
            points.push((ns, bytes));
            ns += random.within(0, 3) * random.within(1, SECOND);
            points.push((ns, bytes));
        }
        Self(points)
    }

    fn at(&self, ns: u64) -> u64 {
        let index = self.0.partition_point(|point| point.0 <= ns);
        let Some(next) = self.0.get(index) else { return self.0.last().unwrap().1 };
        let before = self.0[index - 1];
        let part = i128::from(ns - before.0) * (i128::from(next.1) - i128::from(before.1));
        u64::try_from(i128::from(before.1) + part / i128::from(next.0 - before.0)).unwrap()
    }

    fn most_between(&self, from_ns: u64, to_ns: u64) -> u64 {
        let inside = self.0.iter().filter(|point| (from_ns..to_ns).contains(&point.0));
        let turns = inside.map(|point| point.1);
        turns.chain([self.at(from_ns), self.at(to_ns)]).max().unwrap()
    }

    fn end(&self) -> u64 {
        self.0.last().unwrap().0
    }
}

#[test]
fn no_crossing_is_missed_while_growth_stays_below_the_ceiling() {
    let mut random = Random(7);
    let (mut crossings, mut looks) = (0, 0);
    for _ in 0..60 {
        let limit = random.within(120, 8000) * 1_000_000;
        let threshold = share(limit, 95);
        let curve = Curve::random(&mut random, limit);
        let (mut watch, mut now_ns, mut armed) = (Watch::new(SETTINGS), 0, true);
        while now_ns < curve.end() {
            let reading = Reading { boot_ns: now_ns, usage_bytes: curve.at(now_ns), limit: enforced(limit) };
            match watch.observe(reading).map(|crossing| crossing.kind) {
                Some(Kind::Recovered) => armed = true,
                Some(Kind::Rose(_)) => (armed, crossings) = (false, crossings + 1),
                None => {}
            }
            let due_ns = watch.due().wanted_ns;
            // Whatever happens until then but for its last 5 ms lies below the threshold.
            let unseen_until_ns = due_ns.saturating_sub(5 * MS);
            if armed && unseen_until_ns > now_ns {
                let unseen = curve.most_between(now_ns, unseen_until_ns);
                assert!(unseen < threshold, "limit {limit}, look at {now_ns}: {unseen} before {due_ns}");
            }
            (now_ns, looks) = (due_ns, looks + 1);
        }
    }
    assert!(crossings > 60 && looks > 60 * 60, "the curves are too tame: {crossings} crossings, {looks} looks");
}

#[test]
fn the_warning_comes_before_the_limit_even_at_the_ceiling() {
    let mut random = Random(99);
    for _ in 0..2000 {
        let limit = random.within(120, 4000) * 1_000_000;
        let start = random.within(0, share(limit, 95) - 1);
        let quiet_ns = random.within(1, 20 * SECOND);
        let full_ns = quiet_ns + GROWTH_CEILING.time_for(limit - start);
        let curve = Curve(vec![(0, start), (quiet_ns, start), (full_ns + 1, limit)]);
        let (mut watch, mut now_ns) = (Watch::new(SETTINGS), 0);
        let told_ns = loop {
            let reading = Reading { boot_ns: now_ns, usage_bytes: curve.at(now_ns), limit: enforced(limit) };
            if watch.observe(reading).is_some() {
                break now_ns;
            }
            now_ns = watch.due().wanted_ns;
        };
        assert!(told_ns <= full_ns, "limit {limit} from {start}: told {} ns too late", told_ns - full_ns);
    }
}
