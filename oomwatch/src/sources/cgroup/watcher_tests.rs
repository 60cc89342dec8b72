//! On made-up trees of both versions: what is measured, what is told, and when it is looked at next.

use std::{cell::Cell, fs, path::PathBuf};

use super::*;
use crate::{observation::Pressure, sources::watch::Line};

const MIB: u64 = 1 << 20;
/// No limit, as cgroup v1 says it.
const NONE: u64 = 9_223_372_036_854_771_712;
const LOOKED_AT: MemcgId = MemcgId { hierarchy: 0, id: 7 };

/// A host with one cgroup, `/a/b`.
struct Tree {
    folder: tempfile::TempDir,
    version: u8,
    /// `hierarchical_memory_limit`.
    lowest: Cell<u64>,
}

impl Tree {
    fn new(version: u8) -> Self {
        let tree = Self { folder: tempfile::tempdir().unwrap(), version, lowest: Cell::new(NONE) };
        let kind = if version == 1 { "cgroup cgroup rw,memory" } else { "cgroup2 cgroup2 rw" };
        tree.write("proc/1/mountinfo", &format!("30 20 0:26 / /cg rw - {kind}\n"));
        tree.write("proc/1/stat", "");
        let figures = ["MemTotal", "MemFree", "Buffers", "Cached", "SwapCached", "Active", "Inactive", "SwapTotal"];
        let more = ["SwapFree", "Dirty", "Writeback", "Mapped", "Slab", "Committed_AS", "VmallocTotal", "VmallocUsed"];
        let lines = figures.into_iter().chain(more).chain(["VmallocChunk"]).map(|name| format!("{name}: 1048576 kB\n"));
        tree.write("proc/meminfo", &lines.collect::<String>());
        tree.write("proc/cgroups", "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t4\t1\t1\n");
        tree.write("cg/cgroup.controllers", "memory\n");
        tree.charge(60, 10, 60);
        tree.limits(None, None);
        tree
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Charge, file cache in it, and the highest charge, MiB.
    fn charge(&self, usage: u64, cache: u64, mark: u64) {
        let (usage, cache, mark) = (usage * MIB, cache * MIB, mark * MIB);
        if self.version == 1 {
            self.write("cg/a/b/memory.usage_in_bytes", &usage.to_string());
            self.write("cg/a/b/memory.max_usage_in_bytes", &mark.to_string());
            let lowest = self.lowest.get();
            let stat =
                format!("total_active_file {cache}\ntotal_inactive_file 0\nhierarchical_memory_limit {lowest}\n");
            self.write("cg/a/b/memory.stat", &stat);
        } else {
            self.write("cg/a/b/memory.current", &usage.to_string());
            self.write("cg/a/b/memory.peak", &mark.to_string());
            self.write("cg/a/b/memory.stat", &format!("active_file {cache}\ninactive_file 0\n"));
            self.write("cg/a/b/memory.pressure", "some avg10=1.50 total=1\nfull avg10=0.50 total=1\n");
        }
    }

    /// Limits of `/a` and of `/a/b`, MiB.
    fn limits(&self, above: Option<u64>, own: Option<u64>) {
        let bytes = |limit: Option<u64>| limit.map(|mib| mib * MIB);
        if self.version == 1 {
            self.write("cg/a/b/memory.limit_in_bytes", &bytes(own).unwrap_or(NONE).to_string());
            self.lowest.set(bytes(above.into_iter().chain(own).min()).unwrap_or(NONE));
            self.charge(60, 10, 60);
        } else {
            let text = |limit: Option<u64>| bytes(limit).map_or("max".to_owned(), |bytes| bytes.to_string());
            self.write("cg/a/memory.max", &text(above));
            self.write("cg/a/b/memory.max", &text(own));
        }
    }

    fn watcher(&self, is_container: bool, warn: bool) -> Watcher {
        self.watcher_of(is_container, warn, None)
    }

    fn watcher_of(&self, is_container: bool, warn: bool, pressure_percent: Option<u8>) -> Watcher {
        let root = HostRoot::new(self.folder.path());
        let hierarchy = MemoryHierarchy::find(&root).unwrap().unwrap();
        assert_eq!(hierarchy.version, self.version);
        let settings = Settings { threshold_percent: 95, rearm_percent: 90, poll_interval: Duration::from_millis(500) };
        let mut watcher = Watcher::new(root, hierarchy, Wanted { warn, settings, pressure_percent });
        let path = CgroupPath::from_bytes(b"/a/b");
        watcher.change(Change::Measure(Candidate { memcg: LOOKED_AT, path, is_container }), 0);
        watcher
    }
}

/// What the next look tells; it is taken now, whenever it is due.
fn look(watcher: &mut Watcher) -> Vec<Observation> {
    if let Some(due_ns) = watcher.next_deadline() {
        watcher.turn(due_ns);
    }
    watcher.take_observations()
}

fn only_measurement(observations: &[Observation]) -> Measurement {
    match observations {
        [Observation::Measured(measured)] => match measured.as_slice() {
            [measurement] => measurement.clone(),
            other => panic!("{other:#?}"),
        },
        other => panic!("{other:#?}"),
    }
}

#[test]
fn a_container_is_measured_without_its_file_cache_with_its_own_limit() {
    for version in [1, 2] {
        let tree = Tree::new(version);
        tree.limits(Some(300), Some(100));
        let measured = only_measurement(&look(&mut tree.watcher(true, false)));
        assert_eq!(measured.key, WorkloadKey::Cgroup(LOOKED_AT));
        assert_eq!((measured.usage_bytes, measured.peak_bytes), (50 * MIB, 50 * MIB));
        let limit = MemoryLimit { bytes: 100 * MIB, source: "cgroup", enforced: true };
        assert_eq!(measured.limit, Some(limit), "cgroup v{version}");
        let pressure = Pressure { some_avg10: 1.5, full_avg10: 0.5 };
        assert_eq!(measured.pressure, Some(pressure).filter(|_| version == 2));
    }
}

/// What a container holds alone says nothing of a limit that it shares.
#[test]
fn a_limit_above_is_not_the_containers() {
    for version in [1, 2] {
        let tree = Tree::new(version);
        tree.limits(Some(100), None);
        let measured = only_measurement(&look(&mut tree.watcher(true, false)));
        assert_eq!((measured.usage_bytes, measured.limit), (50 * MIB, None), "cgroup v{version}");
    }
}

#[test]
fn tasks_that_wait_for_memory_are_told_of_once_where_that_is_wanted() {
    let tree = Tree::new(2);
    let told = |line| {
        let mut watcher = tree.watcher_of(true, false, line);
        let seen: Vec<_> = (0..5).flat_map(|_| look(&mut watcher)).collect();
        seen.into_iter()
            .filter_map(|seen| if let Observation::Stalled(stalled) = seen { Some(stalled) } else { None })
            .collect::<Vec<_>>()
    };
    let lines: Vec<_> = told(Some(1)).iter().map(|stalled| (stalled.key, stalled.pressure.some_avg10)).collect();
    assert_eq!(lines, [(WorkloadKey::Cgroup(LOOKED_AT), 1.5)]);
    assert_eq!(told(Some(2)), []);
    assert_eq!(told(None), []);
}

#[test]
fn a_limit_above_what_the_host_has_is_none() {
    for version in [1, 2] {
        let tree = Tree::new(version);
        tree.limits(None, Some(1 << 20));
        assert_eq!(only_measurement(&look(&mut tree.watcher(true, false))).limit, None, "cgroup v{version}");
    }
}

#[test]
fn others_are_measured_while_they_have_a_limit_of_their_own() {
    for version in [1, 2] {
        let tree = Tree::new(version);
        tree.limits(Some(100), None);
        let mut watcher = tree.watcher(false, false);
        assert_eq!(look(&mut watcher), [], "cgroup v{version}");
        tree.limits(Some(100), Some(200));
        assert_eq!(only_measurement(&look(&mut watcher)).limit.map(|limit| limit.bytes), Some(200 * MIB));
        assert_eq!(tree.watcher(true, false).watched.len(), 1);
    }
}

#[test]
fn a_peak_between_two_looks_is_seen() {
    for version in [1, 2] {
        let tree = Tree::new(version);
        let mut watcher = tree.watcher(true, false);
        look(&mut watcher);
        tree.charge(60, 10, 90);
        assert_eq!(only_measurement(&look(&mut watcher)).peak_bytes, 80 * MIB, "cgroup v{version}");
    }
}

#[test]
fn only_where_it_is_wanted_is_a_crossing_told() {
    for (warn, told) in [(true, 1), (false, 0)] {
        let tree = Tree::new(2);
        tree.limits(None, Some(100));
        tree.charge(97, 1, 97);
        let mut watcher = tree.watcher(false, warn);
        let crossed = |observation: &Observation| matches!(observation, Observation::MemoryCrossed(crossed) if crossed.line == crate::observation::MemoryLine::Near);
        assert_eq!(look(&mut watcher).iter().filter(|it| crossed(it)).count(), told);
        assert_eq!(look(&mut watcher).iter().filter(|it| crossed(it)).count(), 0, "told again");
    }
}

#[test]
fn the_end_of_a_warning_is_told_where_the_warning_was_and_only_there() {
    let tree = Tree::new(2);
    let mut watcher = tree.watcher(true, false);
    let cgroup = watcher.watched.get_mut(&LOOKED_AT).unwrap();
    let (rose, over) = (Kind::Rose(Line::NearLimit), Kind::Recovered);
    let told = [(rose, false), (over, false), (over, true), (rose, true), (over, false), (over, true)];
    assert_eq!(told.map(|(kind, warn)| cgroup.tells(kind, warn)), [false, false, false, true, true, false]);
}

#[test]
fn the_pace_is_slow_unless_a_warning_needs_more() {
    let wait = |warn: bool, used: u64| {
        let tree = Tree::new(2);
        tree.limits(None, Some(200));
        tree.charge(used, 0, used);
        let mut watcher = tree.watcher(true, warn);
        for _first in FIRST_LOOKS_NS {
            look(&mut watcher);
        }
        Duration::from_nanos(watcher.next_deadline().unwrap().saturating_sub(clock::boot_ns()))
    };
    assert!(wait(false, 180) > Duration::from_secs(9));
    assert!(wait(true, 180) < Duration::from_millis(50));
    assert!(wait(true, 10) < Duration::from_millis(501));
}

#[test]
fn what_is_gone_is_told_once_and_what_is_left_not_at_all() {
    let tree = Tree::new(2);
    let (mut watcher, mut leaving) = (tree.watcher(true, false), tree.watcher(true, false));
    look(&mut watcher);
    fs::remove_dir_all(tree.path("cg/a")).unwrap();
    assert_eq!(look(&mut watcher), [Observation::MeasuredGone(LOOKED_AT)]);
    assert_eq!((look(&mut watcher), watcher.next_deadline()), (vec![], None));
    leaving.change(Change::Leave(LOOKED_AT), 0);
    assert_eq!((look(&mut leaving), leaving.next_deadline()), (vec![], None));
}

#[test]
fn garbage_gives_no_figure_and_no_end() {
    let tree = Tree::new(2);
    let mut watcher = tree.watcher(true, false);
    tree.write("cg/a/b/memory.current", "lots");
    assert_eq!(look(&mut watcher), []);
    tree.charge(60, 10, 60);
    tree.write("cg/a/b/memory.max", "lots");
    tree.write("cg/a/b/memory.peak", "");
    tree.write("cg/a/b/memory.pressure", "some");
    let measured = only_measurement(&look(&mut watcher));
    assert_eq!((measured.usage_bytes, measured.limit, measured.pressure), (50 * MIB, None, None));
}

#[test]
fn a_turn_is_bounded() {
    let tree = Tree::new(2);
    let mut watcher = tree.watcher(true, false);
    for id in 100..300 {
        let memcg = MemcgId { hierarchy: 0, id };
        let path = CgroupPath::from_bytes(b"/a/b");
        watcher.change(Change::Measure(Candidate { memcg, path, is_container: true }), 0);
    }
    let measured = match look(&mut watcher).as_slice() {
        [Observation::Measured(measured)] => measured.len(),
        other => panic!("{other:#?}"),
    };
    assert_eq!(measured, LOOKS_A_TURN);
}
