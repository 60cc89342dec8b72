//! Ids, paths and ends of cgroups, without a kernel.

use std::fs;

use super::*;

fn memcg(id: u64) -> MemcgId {
    MemcgId { hierarchy: 0, id }
}

fn registry(paths: &[&str]) -> Registry {
    let mut registry = Registry::new(HostRoot::new("/nowhere"), None, true);
    for (id, path) in (10..).zip(paths) {
        let path = Some(CgroupPath::from_bytes(path.as_bytes()));
        registry.made(&CgroupChange { boot_ns: 0, memcg: memcg(id), path });
    }
    registry
}

fn exit(own: u64, parent: Option<(u64, u32)>) -> Exited {
    let parent_memcg = parent.map(|(id, depth)| (memcg(id), depth));
    Exited {
        boot_ns: 0,
        pid: 1,
        start_ns: 0,
        is_init: true,
        may_be_sentry: false,
        exit_code: 0,
        memcg: Some(memcg(own)),
        parent_memcg,
    }
}

#[test]
fn an_init_ends_the_cgroups_that_its_parent_is_not_in() {
    let registry = registry(&["/pods", "/pods/shim", "/pods/c", "/pods/c/init.scope", "/pods/c/inner"]);
    let ends = |own, parent| registry.left_by(&exit(own, parent));
    assert_eq!(ends(12, Some((11, 2))), [memcg(12)], "a container whose shim is beside it");
    assert_eq!(ends(13, Some((11, 2))), [memcg(12), memcg(13)], "its init moved to a cgroup of its own");
    assert_eq!(ends(12, Some((1, 0))), [memcg(10), memcg(12)], "the parent is in the root");
    assert_eq!(ends(14, Some((12, 2))), [memcg(14)], "a container in the container");
    assert_eq!(ends(12, Some((12, 2))), [], "another namespace in the container");
    assert_eq!(ends(12, Some((14, 3))), [], "its parent is deeper still");
}

#[test]
fn an_init_of_cgroups_that_were_never_seen_ends_nothing() {
    let registry = registry(&["/c"]);
    for exit in [exit(10, None), exit(10, Some((99, 1))), exit(99, Some((1, 0)))] {
        assert_eq!(registry.left_by(&exit), []);
    }
}

#[test]
fn a_runtime_is_at_work_until_the_program_begins_or_for_a_minute() {
    let mut registry = registry(&["/c"]);
    let is_beginning = |registry: &Registry, now_ns| registry.is_beginning(memcg(10), now_ns);
    assert!(!is_beginning(&registry, 5), "nobody was seen there");
    registry.entries.get_mut(&memcg(10)).unwrap().looks.saw(true);
    assert!(is_beginning(&registry, 5) && !is_beginning(&registry, LONGEST_BEGINNING_NS));
    registry.entries.get_mut(&memcg(10)).unwrap().looks.saw(false);
    assert!(!is_beginning(&registry, 5));
}

#[test]
fn where_process_ids_are_shared_the_first_process_is_the_one_that_the_runtime_wrote_down() {
    let mut registry = registry(&["/c", "/c/inner", "/other"]);
    for (id, init_pid) in [(10, Some(7)), (11, Some(9)), (12, None)] {
        let known = Known { workload: Workload::default(), container_depth: Some(1), init_pid };
        registry.entries.get_mut(&memcg(id)).unwrap().known = Some(known);
    }
    let ends = |pid, own| registry.left_by(&Exited { pid, is_init: false, ..exit(own, Some((1, 0))) });
    assert_eq!(ends(7, 10), [memcg(10)]);
    assert_eq!(ends(7, 11), [memcg(10)], "it moved to a cgroup of its own");
    assert_eq!(ends(8, 10), [], "somebody was let in from outside");
    assert_eq!((ends(9, 11), ends(7, 12)), (vec![], vec![]), "a cgroup in it, and another one");
    let inner = Subject { memcg: memcg(11), path: None };
    assert!(registry.is_init(7, &inner, 1, 5) && !registry.is_init(8, &inner, 1, 5));
}

fn counters(id: u64, path: &str) -> Counters {
    let path = CgroupPath::from_bytes(path.as_bytes());
    let memcg = memcg(id);
    Counters {
        boot_ns: 5,
        memcg,
        path,
        local_oom_kill: None,
        local_oom: None,
        local_oom_group_kill: None,
        under_oom: None,
    }
}

#[test]
fn a_scan_makes_no_work_of_what_is_known_and_shows_what_is_gone() {
    let mut registry = registry(&["/a", "/b", "/c"]);
    while !registry.tick(u64::MAX, usize::MAX).is_empty() {}
    let scanned = [counters(10, "/a"), counters(12, "/c"), counters(20, "/new")];
    for counters in &scanned {
        registry.found(counters);
    }
    assert_eq!(registry.due.iter().map(|(_, due)| *due).collect::<Vec<_>>(), [memcg(20)]);
    assert_eq!(registry.not_among(&scanned), [(memcg(11), CgroupPath::from_bytes(b"/b"))]);
    let gone = CgroupChange { boot_ns: 9, memcg: memcg(11), path: None };
    registry.removed(&gone);
    registry.removed(&gone);
    assert_eq!(registry.removed.len(), 1, "its record may come yet");
    assert_eq!(registry.not_among(&scanned), []);
}

#[test]
fn what_begins_in_a_new_cgroup_is_looked_at_a_few_times_only() {
    let mut registry = registry(&["/a", "/b"]);
    let looks = |registry: &mut Registry, id| (0..20).filter(|_| registry.began(memcg(id))).count();
    assert_eq!(looks(&mut registry, 10), looks::AT_BEGINNINGS);
    assert_eq!(looks(&mut registry, 99), 0, "of no cgroup that is known");
    assert_eq!(registry.due.len(), 2, "and its other looks stay due");
    while !registry.tick(u64::MAX, usize::MAX).is_empty() {}
    assert_eq!(looks(&mut registry, 11), looks::AT_BEGINNINGS, "a runtime may be late");
}

#[test]
fn a_cgroup_in_which_a_program_begins_late_is_looked_at_anew() {
    let mut registry = registry(&["/a"]);
    let made_ns = registry.next_deadline().unwrap();
    for _ in 1..looks::AFTER_NS.len() {
        let now_ns = registry.next_deadline().unwrap();
        assert_eq!(registry.tick(now_ns, usize::MAX), [memcg(10)]);
    }
    assert!(registry.began(memcg(10)));
    let due: Vec<u64> = registry.due.iter().map(|(due_ns, _)| *due_ns).collect();
    assert_eq!(due.len(), 1);
    assert!(due[0] > made_ns && due[0] <= clock::boot_ns() + looks::AFTER_BEGINNING_NS);
    assert!(!registry.entries[&memcg(10)].is_final());
    registry.tick(due[0], usize::MAX);
    assert_eq!(registry.next_deadline(), Some(due[0] + looks::AFTER_NS[0]));
}

#[test]
fn an_agent_that_stood_still_does_not_look_at_a_cgroup_four_times_at_once() {
    let mut registry = registry(&[]);
    let made = |id, boot_ns| CgroupChange { boot_ns, memcg: memcg(id), path: Some(CgroupPath::from_bytes(b"/a")) };
    registry.made(&made(10, 1));
    let now_ns = 10_000_000_000;
    assert_eq!(registry.tick(now_ns, usize::MAX), [memcg(10)]);
    assert_eq!(registry.tick(now_ns, usize::MAX), []);
    assert_eq!(registry.next_deadline(), Some(now_ns + looks::AFTER_NS[1]));
    assert!(!registry.entries[&memcg(10)].is_final());
}

/// Whether a cgroup may have been a container's, gone after all looks at it of which the first found no process and the others
/// one of this name; in a gVisor sandbox' own or in another.
fn may_have_been_a_container(name: &str, is_sandbox: bool) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let root = HostRoot::new(folder.path());
    let hierarchy = MemoryHierarchy::of_files(&root);
    let mut registry = Registry::new(root, Some(hierarchy), true);
    let path = CgroupPath::from_bytes(b"/a");
    registry.made(&CgroupChange { boot_ns: 0, memcg: memcg(10), path: Some(path.clone()) });
    if is_sandbox {
        registry.sandbox_found(memcg(10));
    }
    for looks in 0..looks::AFTER_NS.len() {
        let now_ns = registry.next_deadline().unwrap();
        assert_eq!(registry.tick(now_ns, usize::MAX), [memcg(10)], "after {looks} looks");
        fs::create_dir_all(folder.path().join("a")).unwrap();
        fs::write(folder.path().join("a/cgroup.procs"), "7\n").unwrap();
        fs::create_dir_all(folder.path().join("proc/7")).unwrap();
        fs::write(folder.path().join("proc/7/stat"), format!("7 ({name}) S 1 7 7 0")).unwrap();
    }
    let mut looks = looks::AFTER_NS.len();
    while let Some(now_ns) = registry.next_deadline() {
        looks += registry.tick(now_ns, usize::MAX).len();
        assert!(looks <= looks::MOST, "{name} is looked at for ever");
    }
    fs::remove_dir_all(folder.path().join("a")).unwrap();
    registry.may_have_been_a_container(memcg(10), &path)
}

#[test]
fn looks_at_a_cgroup_whose_program_has_not_begun_tell_of_no_container_and_against_none() {
    for name in ["runc", "6", "runc:[1:CHILD]", "runc:[2:INIT]", "youki:[2:INIT]", "crun", "exe", "memfd:crun_clone"] {
        assert!(may_have_been_a_container(name, false), "{name}: its state comes later");
    }
    for name in ["sleep", "runcible", "crunchd", "7zip", "a) S (runc:["] {
        assert!(!may_have_been_a_container(name, false), "{name}");
    }
    assert!(!may_have_been_a_container("exe", true), "a sentry");
}

#[test]
fn a_sandbox_that_took_long_to_begin_has_the_usual_looks_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = HostRoot::new(folder.path());
    let hierarchy = MemoryHierarchy::of_files(&root);
    for (file, text) in [("a/cgroup.procs", "7\n"), ("proc/7/stat", "7 (exe) S 1 7 7 0")] {
        let file = folder.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    let mut registry = Registry::new(root, Some(hierarchy), true);
    registry.made(&CgroupChange { boot_ns: 0, memcg: memcg(10), path: Some(CgroupPath::from_bytes(b"/a")) });
    for _ in 0..looks::MOST / 2 {
        let now_ns = registry.next_deadline().unwrap();
        registry.tick(now_ns, usize::MAX);
    }
    registry.sandbox_found(memcg(10));
    registry.sandbox_found(memcg(10));
    registry.sandbox_gone(memcg(10));
    let mut looks = 0;
    while let Some(now_ns) = registry.next_deadline() {
        looks += registry.tick(now_ns, usize::MAX).len();
        assert!(looks <= looks::MOST, "one of two sandboxes in it is still there");
    }
    // The one that follows a beginning does not count.
    assert_eq!(looks, looks::AFTER_NS.len() + 1);
    registry.sandbox_gone(memcg(10));
    assert!(registry.of_sandboxes.is_empty());
}

#[test]
fn a_cgroup_is_known_by_its_path_and_the_time() {
    let mut registry = registry(&["/a"]);
    let path = CgroupPath::from_bytes(b"/a");
    let second = CgroupChange { boot_ns: 7, memcg: memcg(50), path: Some(path.clone()) };
    registry.removed(&CgroupChange { boot_ns: 6, memcg: memcg(10), path: None });
    registry.made(&second);
    assert_eq!(registry.id(&path), Some(memcg(50)));
    assert_eq!(registry.id_at(&path, 5), Some(memcg(10)));
    assert_eq!(registry.id_at(&path, 7), Some(memcg(50)));
    assert_eq!(registry.id_at(&CgroupPath::from_bytes(b"/b"), 7), None);
}

#[test]
fn a_container_that_an_earlier_agent_knew_has_its_name_though_it_is_gone() {
    let mut registry = registry(&["/lives"]);
    let workload = |name: &str| Workload { container_name: Some(name.into()), ..Workload::default() };
    let recalled = |id, path: &str, name| {
        Container::new(memcg(id), &CgroupPath::from_bytes(path.as_bytes()), &workload(name)).unwrap()
    };
    for (id, path, name) in [(10, "/lives", "web"), (90, "/gone", "db")] {
        registry.recall(recalled(id, path, name), 5);
    }
    let mut name = |id| {
        let (workload, depth) = registry.workload(&Subject { memcg: memcg(id), path: None }).unwrap();
        (workload.container_name.clone(), depth)
    };
    assert_eq!(name(10), (None, None), "it lives and is looked at: it may have been renamed");
    assert_eq!(name(90), (Some("db".into()), Some(1)));
    let inner = Subject { memcg: memcg(91), path: Some(CgroupPath::from_bytes(b"/gone/inner")) };
    assert_eq!(registry.workload(&inner).unwrap().0.container_name.as_deref(), Some("db"));
    assert!(registry.is_removed(memcg(90)) && !registry.is_removed(memcg(10)));
}
