use std::fs;

use super::*;

const SECOND: u64 = 1_000_000_000;

/// A hierarchy of cgroup2 that is made of files.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> (Self, Cgroups) {
        let folder = tempfile::tempdir().unwrap();
        let root = HostRoot::new(folder.path());
        let hierarchy = MemoryHierarchy::of_files(&root);
        let watches = Watches::new(&hierarchy);
        assert_eq!(watches.lacking(), None);
        let files = Self(folder);
        files.cgroup("old", 5);
        let known = HashSet::from([files.id("old")]);
        let mut cgroups = Cgroups::new(root, hierarchy, watches, true, known);
        cgroups.begin(SECOND);
        (files, cgroups)
    }

    fn cgroup(&self, path: &str, kills: u64) {
        fs::create_dir(self.0.path().join(path)).unwrap();
        self.count(path, kills);
        fs::write(self.0.path().join(path).join("cgroup.events"), "populated 1\n").unwrap();
    }

    fn count(&self, path: &str, kills: u64) {
        let text = format!("oom {kills}\noom_kill {kills}\n");
        fs::write(self.0.path().join(path).join("memory.events.local"), text).unwrap();
    }

    fn id(&self, path: &str) -> MemcgId {
        use std::os::unix::fs::MetadataExt as _;
        MemcgId { hierarchy: 0, id: fs::metadata(self.0.path().join(path)).unwrap().ino() }
    }

    fn remove(&self, path: &str) {
        fs::remove_dir_all(self.0.path().join(path)).unwrap();
    }
}

/// What is told, in short.
fn told(cgroups: &mut Cgroups, now_ns: u64) -> Vec<String> {
    cgroups.turn(now_ns);
    let path = |path: &CgroupPath| String::from_utf8(path.as_bytes().to_vec()).unwrap();
    let short = |observation| match observation {
        Observation::CgroupMade(change) => format!("made {}", path(&change.path.unwrap())),
        Observation::CgroupRemoved(change) => format!("removed {}", path(&change.path.unwrap())),
        Observation::Counted(counters) => format!("{} {}", path(&counters.path), counters.local_oom_kill.unwrap()),
        other => panic!("{other:?}"),
    };
    cgroups.take_observations().into_iter().map(short).collect()
}

#[test]
fn what_the_agent_knows_is_not_made_again_and_its_counter_is_told_once() {
    let (_files, mut cgroups) = Files::new();
    assert_eq!(told(&mut cgroups, SECOND), ["/old 5"]);
    assert_eq!(told(&mut cgroups, SECOND), [""; 0]);
    cgroups.look_at_all(SECOND);
    assert_eq!(told(&mut cgroups, SECOND), [""; 0]);
}

#[test]
fn cgroups_that_come_and_go_and_kills_in_them_are_told_at_once() {
    let (files, mut cgroups) = Files::new();
    told(&mut cgroups, SECOND);
    files.cgroup("new", 0);
    files.cgroup("new/child", 0);
    assert_eq!(told(&mut cgroups, SECOND), ["made /new", "made /new/child"]);
    files.count("new/child", 2);
    assert_eq!(told(&mut cgroups, SECOND), ["/new/child 2"]);
    files.remove("new");
    let mut gone = told(&mut cgroups, SECOND);
    gone.sort();
    assert_eq!(gone, ["removed /new", "removed /new/child"]);
}

#[test]
fn a_cgroup_at_the_path_of_another_is_not_the_other() {
    let (files, mut cgroups) = Files::new();
    told(&mut cgroups, SECOND);
    let before = files.id("old");
    fs::rename(files.0.path().join("old"), files.0.path().join("aside")).unwrap();
    files.cgroup("old", 9);
    assert_ne!(files.id("old"), before);
    files.remove("aside");
    let told = told(&mut cgroups, SECOND);
    assert!(told.contains(&"removed /old".to_owned()) && told.contains(&"made /old".to_owned()), "{told:?}");
    assert_eq!(told.last().map(String::as_str), Some("/old 9"));
}

#[test]
fn what_no_hint_told_of_is_found_by_the_next_scan() {
    let (files, mut cgroups) = Files::new();
    told(&mut cgroups, SECOND);
    cgroups.watches.changes();
    files.cgroup("new", 1);
    drop(cgroups.watches.changes());
    assert_eq!(told(&mut cgroups, 2 * SECOND), [""; 0]);
    assert_eq!(told(&mut cgroups, SECOND + SCAN_EVERY_NS), ["made /new", "/new 1"]);
}

#[test]
fn group_kills_that_the_kernel_does_not_count_are_concluded_once_for_the_group() {
    let (files, mut cgroups) = Files::new();
    let write = |file: &str, text: &str| fs::write(files.0.path().join(file), text).unwrap();
    for cgroup in ["pod", "pod/a", "pod/b"] {
        files.cgroup(cgroup, 0);
        write(&format!("{cgroup}/memory.max"), "max\n");
    }
    write("pod/memory.oom.group", "1\n");
    write("pod/memory.max", "1048576\n");
    let groups = |cgroups: &mut Cgroups| -> Vec<String> {
        cgroups.turn(SECOND);
        let counted = cgroups.take_observations().into_iter().filter_map(|observation| match observation {
            Observation::Counted(counters) => {
                let path = String::from_utf8(counters.path.as_bytes().to_vec()).unwrap();
                Some(format!(
                    "{path} {} {:?}",
                    counters.local_oom_kill.unwrap(),
                    counters.local_oom_group_kill.unwrap()
                ))
            }
            _ => None,
        });
        counted.collect()
    };
    groups(&mut cgroups);
    // A limit below it: what is killed for this is not of the group.
    write("pod/a/memory.max", "4096\n");
    files.count("pod/a", 1);
    assert_eq!(groups(&mut cgroups), ["/pod/a 1 0"]);
    write("pod/a/memory.max", "max\n");
    files.count("pod/a", 3);
    assert_eq!(groups(&mut cgroups), ["/pod 0 1", "/pod/a 3 0"]);
    files.count("pod/b", 2);
    files.count("pod/a", 4);
    let mut told = groups(&mut cgroups);
    told.sort();
    assert_eq!(told, ["/pod/a 4 0", "/pod/b 2 0"], "of the same");
}
