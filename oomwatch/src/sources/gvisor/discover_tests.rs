//! Discovery on a host made of files. The mount that a program comes from is a real one: that of the temporary folder
//! stands for the host's, that of `/proc` for a container's.

use std::{fs, os::unix::fs::symlink};

use rustix::{
    fs::{AtFlags, CWD, Mode, StatxFlags, Timestamps, mkfifoat, statx, utimensat},
    time::Timespec,
};
use tempfile::TempDir;

use super::*;
use crate::{
    cgroup_path::CgroupPath,
    sources::gvisor::limit::{Limit, LimitSource},
};

const SENTRY: u32 = 100;
const GOFER: u32 = 90;
const TICK_NS: u64 = 10_000_000;
/// Start of all processes, clock ticks.
const START: u64 = 1000;
const YOUNG: u64 = START * TICK_NS + 50_000_000;
/// An emulated machine's.
const SLOW: u64 = START * TICK_NS + 2_000_000_000;
const SETTLED: u64 = START * TICK_NS + SETTLED_NS;
const LATER: u64 = START * TICK_NS + GOFER_NS;
/// On no mount of the host.
const FOREIGN: &str = "/proc/version";
const LIMIT: u64 = 128 << 20;

struct Tree {
    folder: TempDir,
    version: u8,
}

impl Tree {
    fn new(version: u8) -> Self {
        let tree = Self { folder: TempDir::new().unwrap(), version };
        tree.write("/runsc", "");
        let mount = statx(CWD, tree.path("/runsc"), AtFlags::empty(), StatxFlags::MNT_ID).unwrap().stx_mnt_id;
        let memory = match version {
            1 => "35 1 0:32 / /cg rw,relatime - cgroup cgroup rw,memory",
            _ => "35 1 0:32 / /cg rw,relatime - cgroup2 cgroup2 rw",
        };
        tree.write("/proc/1/mountinfo", &format!("{mount} 1 254:0 / / rw - ext4 /dev/vda rw\n{memory}\n"));
        tree.write("/proc/cgroups", "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t4\t7\t1\n");
        tree.write("/proc/meminfo", "MemTotal:       25165824 kB\n");
        tree.write("/cg/cgroup.controllers", "cpu memory\n");
        tree
    }

    fn path(&self, absolute: &str) -> PathBuf {
        self.folder.path().join(absolute.trim_start_matches('/'))
    }

    fn write(&self, absolute: &str, content: &str) {
        let path = self.path(absolute);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn read(&self, absolute: &str) -> String {
        let content = HostRoot::new(self.folder.path()).read_bounded(Path::new(absolute), 1 << 20).unwrap();
        String::from_utf8(content).unwrap()
    }

    fn process(&self, pid: u32, elements: &[&str], program: &str) {
        let of = |name: &str| format!("/proc/{pid}/{name}");
        self.write(&of("comm"), "exe\n");
        self.write(&of("cmdline"), &elements.iter().flat_map(|element| [element, "\0"]).collect::<String>());
        let zeros = " 0".repeat(30);
        self.write(
            &of("stat"),
            &format!("{pid} (e x) e) S 1 {pid} {pid} 0 -1 0{} 20 0 9 0 {START}{zeros}\n", " 0".repeat(8)),
        );
        self.write(&of("status"), "Name:\texe\nUid:\t0\t0\t0\t0\n");
        self.in_cgroup(pid, "/g/s1");
        fs::create_dir_all(self.path(&of("fd"))).unwrap();
        symlink(program, self.path(&of("exe"))).unwrap();
    }

    fn in_cgroup(&self, pid: u32, cgroup: &str) {
        let line = if self.version == 1 { "4:memory:" } else { "0::" };
        self.write(&format!("/proc/{pid}/cgroup"), &format!("{line}{cgroup}\n"));
    }

    fn has_memory_file(&self, pid: u32) {
        symlink("/memfd:memory-usage (deleted)", self.path(&format!("/proc/{pid}/fd/4"))).unwrap();
        symlink("/memfd:runsc-memory (deleted)", self.path(&format!("/proc/{pid}/fd/7"))).unwrap();
    }

    /// A sentry and its gofer, as they are before runsc wrote the state.
    fn sandbox_of(&self, program: &str) {
        self.process(GOFER, &["runsc-gofer", "--root=/r", "gofer", "--bundle=/b"], &self.runsc());
        self.process(SENTRY, &["runsc-sandbox", "--root=/r", "boot", "--bundle=/b", "s1"], program);
        self.has_memory_file(SENTRY);
        self.write("/cg/g/s1/memory.stat", &format!("cache 0\nhierarchical_memory_limit {LIMIT}\n"));
    }

    fn runsc(&self) -> String {
        self.path("/runsc").to_str().unwrap().to_owned()
    }

    fn state(&self, container: &str, pid: u32, gofer: u32, cgroup: &str) {
        let json = format!(
            r#"{{"id":"{container}","goferPid":{gofer},"spec":{{"annotations":{{"io.kubernetes.cri.container-type":"sandbox"}},"linux":{{"resources":{{"memory":{{"limit":1000000}}}}}}}},"sandbox":{{"id":"s1","pid":{pid},"cgroup":{cgroup}}}}}"#
        );
        self.write(&format!("/r/{container}_sandbox:s1.state"), &json);
    }

    fn own(&self) -> &'static str {
        match self.version {
            1 => r#"{"cgroupv1":{"name":"/g/s1","parents":null,"own":{"memory":true}}}"#,
            _ => r#"{"cgroupv2":{"mountpoint":"/cg","path":"/g/s1","own":["/cg/g/s1"]}}"#,
        }
    }

    /// A whole sandbox.
    fn running(version: u8) -> Self {
        let tree = Self::new(version);
        tree.sandbox_of(&tree.runsc());
        tree.state("s1", SENTRY, GOFER, tree.own());
        tree
    }

    fn discovery(&self) -> Discovery {
        let root = HostRoot::new(self.folder.path());
        let hierarchy = MemoryHierarchy::find(&root).unwrap();
        assert_eq!(hierarchy.as_ref().map(|hierarchy| hierarchy.version), Some(self.version));
        Discovery::new(root, hierarchy).unwrap()
    }

    fn scan(&self, now_ns: u64) -> Scan {
        self.discovery().scan(now_ns).unwrap()
    }

    /// The one sandbox that a scan finds.
    fn only(&self) -> Sandbox {
        let mut found = self.scan(SETTLED).found;
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    /// The one reason why nothing is found.
    fn refused(&self) -> Reason {
        let scan = self.scan(LATER);
        assert_eq!((scan.found.len(), scan.skipped.len()), (0, 1), "{scan:?}");
        *scan.skipped.keys().next().unwrap()
    }
}

/// Changed so many seconds after 1970.
fn set_changed(path: &Path, seconds: i64) {
    let at = Timespec { tv_sec: seconds, tv_nsec: 0 };
    utimensat(CWD, path, &Timestamps { last_access: at, last_modification: at }, AtFlags::empty()).unwrap();
}

fn id(pid: u32) -> ProcessId {
    ProcessId { pid, start_ticks: START }
}

fn enforced(bytes: u64) -> Limit {
    Limit { bytes, source: LimitSource::Cgroup, enforced: true }
}

#[test]
fn a_sentry_of_the_host_is_found_with_containers_gofers_cgroup_and_limit() {
    let found = Tree::running(1).only();
    assert_eq!((found.sentry, found.proof, found.args.sandbox_id.as_str()), (id(SENTRY), Proof::HostProgram, "s1"));
    let details = found.details;
    assert_eq!(details.root().map(|state| state.id.as_str()), Some("s1"));
    assert_eq!(details.gofers, [id(GOFER)]);
    let cgroup = details.cgroup.unwrap();
    assert_eq!((cgroup.path, cgroup.own, cgroup.made_by_runsc), (CgroupPath::from_bytes(b"/g/s1"), true, true));
    assert_eq!((details.limit, details.problems), (Some(enforced(LIMIT)), vec![]));
}

#[test]
fn on_cgroup2_the_lowest_limit_up_to_the_root_counts() {
    let tree = Tree::running(2);
    tree.write("/cg/g/s1/memory.max", "max\n");
    tree.write("/cg/g/memory.max", "67108864\n");
    assert_eq!(tree.only().details.limit, Some(enforced(64 << 20)));
    tree.write("/cg/g/s1/memory.max", "33554432\n");
    assert_eq!(tree.only().details.limit, Some(enforced(32 << 20)));
    fs::remove_file(tree.path("/cg/g/memory.max")).unwrap();
    let asked_for = Some(Limit { bytes: 1_000_000, source: LimitSource::State, enforced: true });
    assert_eq!(tree.only().details.limit, asked_for, "a level that cannot be read: what was asked for");
}

#[test]
fn in_its_callers_cgroup_it_has_none_of_its_own() {
    let tree = Tree::running(1);
    tree.state("s1", SENTRY, GOFER, r#"{"cgroupunknown":null}"#);
    let details = tree.only().details;
    assert!(details.cgroup.is_some_and(|cgroup| !cgroup.own && !cgroup.made_by_runsc));
    assert_eq!(details.limit, Some(Limit { bytes: 1_000_000, source: LimitSource::State, enforced: false }));
}

#[test]
fn a_cgroup_that_the_state_names_and_the_process_is_not_in_is_not_its_own() {
    let tree = Tree::running(1);
    tree.in_cgroup(SENTRY, "/g/s10");
    fs::create_dir_all(tree.path("/cg/g/s10")).unwrap();
    assert!(tree.only().details.cgroup.is_some_and(|cgroup| !cgroup.own));
}

#[test]
fn arguments_without_the_memory_file_are_not_enough() {
    let tree = Tree::running(1);
    fs::remove_file(tree.path("/proc/100/fd/7")).unwrap();
    let scan = tree.scan(LATER);
    assert!(scan.found.is_empty() && scan.starting.contains(&SENTRY), "{scan:?}");
}

#[test]
fn a_program_of_a_container_is_refused_whatever_it_says_and_holds() {
    let tree = Tree::new(1);
    tree.process(SENTRY, &["runsc-sandbox", "--root=/evil", "boot", "--bundle=/b", "s1"], FOREIGN);
    tree.has_memory_file(SENTRY);
    let state = r#"{"id":"s1","sandbox":{"id":"s1","pid":100,"cgroup":{"cgroupv1":{"name":"/g/s1"}}}}"#;
    tree.write("/evil/s1_sandbox:s1.state", state);
    assert_eq!(tree.refused(), Reason::ForeignProgram);
    let verdict = tree.discovery().check(SENTRY, YOUNG, false).unwrap();
    assert!(matches!(verdict, Verdict::Refused(Reason::ForeignProgram)), "{verdict:?}");
}

#[test]
fn a_gofer_of_a_container_makes_no_root_known() {
    let tree = Tree::running(1);
    for pid in [SENTRY, GOFER] {
        fs::remove_file(tree.path(&format!("/proc/{pid}/exe"))).unwrap();
        symlink(FOREIGN, tree.path(&format!("/proc/{pid}/exe"))).unwrap();
    }
    assert_eq!(tree.refused(), Reason::ForeignProgram);
}

#[test]
fn arguments_of_a_foreign_program_are_not_even_read() {
    let tree = Tree::new(1);
    tree.process(SENTRY, &[], FOREIGN);
    fs::remove_file(tree.path("/proc/100/cmdline")).unwrap();
    mkfifoat(CWD, tree.path("/proc/100/cmdline"), Mode::RUSR).unwrap();
    // Opening it would wait for ever.
    assert_eq!(tree.refused(), Reason::ForeignProgram);
}

#[test]
fn a_sentry_in_a_mount_namespace_of_its_own_is_found_by_the_state_in_its_gofers_root() {
    let tree = Tree::new(1);
    tree.sandbox_of(FOREIGN);
    tree.state("s1", SENTRY, GOFER, tree.own());
    let scan = tree.scan(SETTLED);
    assert!(scan.skipped.is_empty() && scan.starting.is_empty(), "{scan:?}");
    let found = &scan.found[0];
    assert_eq!((found.sentry, found.proof, found.details.limit), (id(SENTRY), Proof::StateFile, Some(enforced(LIMIT))));
    assert_eq!(found.details.gofers, [id(GOFER)]);
    tree.state("s1", SENTRY, GOFER, r#"{"cgroupunknown":null}"#);
    assert_eq!(tree.only().proof, Proof::StateFile, "without a cgroup the living gofer vouches");
}

#[test]
fn it_is_found_at_once_when_its_gofer_is_looked_at() {
    let tree = Tree::new(1);
    tree.sandbox_of(FOREIGN);
    let mut discovery = tree.discovery();
    let verdict = discovery.check(GOFER, YOUNG, false).unwrap();
    assert!(matches!(verdict, Verdict::NotYet(Reason::StateMissing, None)), "{verdict:?}");
    tree.state("s1", SENTRY, GOFER, tree.own());
    let verdict = discovery.check(GOFER, YOUNG, false).unwrap();
    assert!(matches!(verdict, Verdict::Found(_)), "{verdict:?}");
    let verdict = discovery.check(GOFER, YOUNG, false).unwrap();
    assert!(matches!(verdict, Verdict::Known(sentry) if sentry == id(SENTRY)), "{verdict:?}");
}

#[test]
fn it_is_found_in_a_usual_root_where_no_process_tells_one() {
    let tree = Tree::new(1);
    tree.sandbox_of(FOREIGN);
    fs::remove_dir_all(tree.path("/proc/90")).unwrap();
    tree.state("s1", SENTRY, GOFER, tree.own());
    assert_eq!(tree.refused(), Reason::ForeignProgram);
    fs::create_dir_all(tree.path("/run/containerd/runsc")).unwrap();
    fs::rename(tree.path("/r"), tree.path("/run/containerd/runsc/k8s.io")).unwrap();
    let found = tree.only();
    assert_eq!(found.args.root.as_deref(), Some(Path::new("/run/containerd/runsc/k8s.io")));
}

#[test]
fn a_state_that_was_left_behind_names_nobody() {
    let tree = Tree::new(1);
    tree.sandbox_of(FOREIGN);
    tree.state("s1", SENTRY, GOFER, r#"{"cgroupv1":{"name":"/g/other"}}"#);
    assert_eq!(tree.refused(), Reason::ForeignProgram, "the process id went to another, in another cgroup");
    tree.state("s1", SENTRY, GOFER + 1, r#"{"cgroupunknown":null}"#);
    assert_eq!(tree.refused(), Reason::ForeignProgram, "no gofer vouches");
    tree.state("s1", SENTRY + 1, GOFER, tree.own());
    assert_eq!(tree.refused(), Reason::ForeignProgram, "a process that is gone");
}

#[test]
fn a_sentry_without_a_state_is_waited_for_and_then_taken_with_what_its_bundle_says() {
    let tree = Tree::new(1);
    tree.sandbox_of(&tree.runsc());
    tree.write("/b/config.json", r#"{"linux":{"cgroupsPath":"/g/s1","resources":{"memory":{"limit":1000000}}}}"#);
    for now_ns in [YOUNG, SLOW] {
        let young = tree.scan(now_ns);
        assert!(young.found.is_empty() && young.starting.contains(&SENTRY), "{young:?}");
    }
    let details = tree.only().details;
    assert_eq!((details.containers.len(), details.problems), (0, vec![Reason::StateMissing]));
    assert_eq!(details.gofers, [id(GOFER)], "by its root and bundle");
    assert_eq!(details.limit, Some(enforced(LIMIT)));
}

#[test]
fn a_sentry_that_has_not_opened_its_memory_file_is_waited_for() {
    let tree = Tree::running(1);
    fs::remove_file(tree.path("/proc/100/fd/7")).unwrap();
    for now_ns in [YOUNG, SLOW, SETTLED, LATER] {
        let verdict = tree.discovery().check(SENTRY, now_ns, false).unwrap();
        let Verdict::NotYet(Reason::NoMemoryFile, Some(sandbox)) = verdict else { panic!("{verdict:?}") };
        // A kill in it may come before.
        assert_eq!((sandbox.sentry, sandbox.details.cgroup.map(|cgroup| cgroup.own)), (id(SENTRY), Some(true)));
    }
}

#[test]
fn states_of_no_use_are_told_and_hide_no_sandbox() {
    let tree = Tree::running(1);
    let state = tree.path("/r/s1_sandbox:s1.state");
    let problems = || tree.only().details.problems;
    let whole = tree.read("/r/s1_sandbox:s1.state");
    fs::write(&state, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(problems(), [Reason::StateMalformed]);
    fs::File::create(&state).unwrap().set_len(5 << 20).unwrap();
    assert_eq!(problems(), [Reason::StateMalformed]);
    fs::write(&state, whole.replace("\"pid\":100", "\"pid\":101")).unwrap();
    assert_eq!(problems(), [Reason::StateOfAnother]);
    fs::write(&state, whole.replace("\"id\":\"s1\"", "\"id\":\"s2\"")).unwrap();
    assert_eq!(problems(), [Reason::StateOfAnother]);
    fs::remove_file(&state).unwrap();
    mkfifoat(CWD, &state, Mode::RUSR).unwrap();
    assert_eq!(problems(), [Reason::StateMalformed]);
}

#[test]
fn what_a_state_said_is_kept_while_it_cannot_be_read() {
    let tree = Tree::running(1);
    let mut discovery = tree.discovery();
    let found = discovery.scan(SETTLED).unwrap().found.remove(0);
    tree.write("/r/s1_sandbox:s1.state", "{\"id\":");
    tree.write("/cg/g/s1/memory.stat", "hierarchical_memory_limit 1048576\n");
    let details = discovery.look(&found).unwrap();
    assert_eq!((&details.containers, &details.gofers), (&found.details.containers, &found.details.gofers));
    assert_eq!((details.limit, details.problems), (Some(enforced(1 << 20)), vec![Reason::StateMalformed]));
}

#[test]
fn containers_that_joined_a_pod_are_known_and_no_others() {
    let tree = Tree::running(1);
    tree.process(91, &["runsc-gofer", "--root=/r", "gofer", "--bundle=/c"], &tree.runsc());
    tree.state("web", SENTRY, 91, tree.own());
    tree.state("left-behind", SENTRY + 1, 92, tree.own());
    tree.write("/r/x_sandbox:s2.state", "{}");
    tree.write("/r/web_sandbox:s1.lock", "");
    let details = tree.only().details;
    let ids: Vec<&str> = details.containers.iter().map(|state| state.id.as_str()).collect();
    assert_eq!((ids, details.problems), (vec!["s1", "web"], vec![Reason::StateOfAnother]));
    assert_eq!(details.gofers, [id(GOFER), id(91)]);
}

#[test]
fn state_files_of_others_concern_a_pod_only() {
    let tree = Tree::running(1);
    let discovery = tree.discovery();
    let stamps = || {
        let mut sandbox = tree.only();
        let of_pod = discovery.stamp(&sandbox).unwrap();
        sandbox.details.containers[0].in_pod = false;
        let alone = discovery.stamp(&sandbox).unwrap();
        assert_eq!(of_pod.of(&sandbox.details), alone);
        (of_pod, alone)
    };
    let before = stamps();
    set_changed(&tree.path("/r"), 1);
    assert!(stamps().0 != before.0 && stamps().1 == before.1);
    set_changed(&tree.path("/r/s1_sandbox:s1.state"), 1);
    assert_ne!(stamps().1, before.1);
}

#[test]
fn a_process_id_that_went_to_another_is_no_gofer() {
    let tree = Tree::running(1);
    fs::remove_dir_all(tree.path("/proc/90")).unwrap();
    tree.process(GOFER, &["sleep", "9"], &tree.runsc());
    assert_eq!(tree.only().details.gofers, []);
}

#[test]
fn files_that_a_users_sentry_names_are_not_opened() {
    let tree = Tree::running(1);
    tree.write("/proc/100/status", "Name:\texe\nUid:\t1000\t1000\t1000\t1000\n");
    tree.write("/b/config.json", r#"{"linux":{"cgroupsPath":"/g/s1","resources":{"memory":{"limit":1000000}}}}"#);
    let details = tree.only().details;
    assert_eq!((details.containers.len(), details.problems), (0, vec![Reason::UntrustedUser]));
    assert_eq!((details.limit, details.cgroup.map(|cgroup| cgroup.own)), (None, Some(false)), "the bundle was read");
}

#[test]
fn what_any_user_can_imitate_is_no_sandbox_without_a_state_of_runscs() {
    let tree = Tree::running(1);
    tree.write("/proc/100/status", "Name:\texe\nUid:\t1000\t1000\t1000\t1000\n");
    fs::remove_file(tree.path("/r/s1_sandbox:s1.state")).unwrap();
    assert_eq!(tree.refused(), Reason::UntrustedUser);
}

#[test]
fn arguments_of_a_users_program_are_not_even_read() {
    let tree = Tree::new(1);
    tree.process(SENTRY, &[], &tree.runsc());
    tree.write("/proc/100/status", "Name:\texe\nUid:\t1000\t1000\t1000\t1000\n");
    fs::remove_file(tree.path("/proc/100/cmdline")).unwrap();
    mkfifoat(CWD, tree.path("/proc/100/cmdline"), Mode::RUSR).unwrap();
    // Opening it would wait for ever.
    assert_eq!(tree.refused(), Reason::UntrustedUser);
}

#[test]
fn a_sandbox_is_found_once_and_again_when_it_was_forgotten_or_is_another() {
    let tree = Tree::running(1);
    let mut discovery = tree.discovery();
    assert_eq!(discovery.scan(SETTLED).unwrap().found.len(), 1);
    assert_eq!(discovery.scan(SETTLED).unwrap().found.len(), 0);
    let verdict = discovery.check(SENTRY, SETTLED, false).unwrap();
    assert!(matches!(verdict, Verdict::Known(sentry) if sentry == id(SENTRY)), "{verdict:?}");
    discovery.forget(id(SENTRY));
    assert_eq!(discovery.scan(SETTLED).unwrap().found.len(), 1);
    let stat = tree.read("/proc/100/stat");
    tree.write("/proc/100/stat", &stat.replace(" 1000 ", " 2000 "));
    let found = discovery.scan(SETTLED).unwrap().found;
    assert_eq!(found.iter().map(|found| found.sentry.start_ticks).collect::<Vec<_>>(), [2000]);
}

#[test]
fn a_sentry_on_its_way_out_tells_nothing_new() {
    let tree = Tree::running(1);
    let mut discovery = tree.discovery();
    let found = discovery.scan(SETTLED).unwrap().found.remove(0);
    tree.in_cgroup(SENTRY, "/");
    fs::remove_file(tree.path("/proc/100/exe")).unwrap();
    assert_eq!(discovery.look(&found), None);
    fs::remove_dir_all(tree.path("/proc/100")).unwrap();
    assert_eq!(discovery.look(&found), None);
    assert!(matches!(discovery.check(SENTRY, SETTLED, false), Ok(Verdict::Other)));
}

#[test]
fn other_processes_are_passed_over() {
    let tree = Tree::new(1);
    tree.process(1000, &["/proc/self/exe", "init"], &tree.runsc());
    // A stub: no arguments at all.
    tree.process(1001, &[], &tree.runsc());
    tree.process(1002, &["runsc-sandbox", "boot", "x"], &tree.runsc());
    tree.write("/proc/1002/comm", "sh\n");
    fs::create_dir_all(tree.path("/proc/1003")).unwrap();
    let scan = tree.scan(SETTLED);
    assert!(scan.found.is_empty() && scan.starting.is_empty() && scan.skipped.is_empty(), "{scan:?}");
}

#[test]
fn bad_arguments_and_arguments_without_end_are_refused() {
    let tree = Tree::new(1);
    tree.process(SENTRY, &["runsc-sandbox", "boot", "../../etc"], &tree.runsc());
    assert_eq!(tree.refused(), Reason::BadArguments);
    tree.write("/proc/100/cmdline", &"runsc-sandbox\0boot\0x".repeat(10_000));
    assert_eq!(tree.refused(), Reason::BadArguments);
}

#[test]
fn a_pod_of_which_a_state_is_half_written_is_not_taken_for_a_smaller_one() {
    let tree = Tree::running(1);
    tree.state("web", SENTRY, 91, tree.own());
    let mut discovery = tree.discovery();
    let found = discovery.scan(SETTLED).unwrap().found.remove(0);
    let whole = tree.read("/r/web_sandbox:s1.state");
    tree.write("/r/web_sandbox:s1.state", &whole[..whole.len() / 2]);
    let details = discovery.look(&found).unwrap();
    assert_eq!((&details.containers, details.incomplete), (&found.details.containers, false));
    assert_eq!(details.problems, [Reason::StateMalformed]);
    let details = tree.only().details;
    assert_eq!((details.containers.len(), details.incomplete), (1, true), "nobody knows what it was before");
}

#[test]
fn a_cgroup_that_is_gone_is_absent() {
    let tree = Tree::running(1);
    fs::remove_dir_all(tree.path("/cg/g")).unwrap();
    let details = tree.only().details;
    assert_eq!((details.root().is_some(), details.cgroup), (true, None));
}

#[test]
fn a_link_in_the_place_of_a_state_is_not_followed() {
    let tree = Tree::running(1);
    fs::rename(tree.path("/r/s1_sandbox:s1.state"), tree.path("/r/elsewhere")).unwrap();
    symlink("elsewhere", tree.path("/r/s1_sandbox:s1.state")).unwrap();
    assert_eq!(tree.only().details.problems, [Reason::Unreadable]);
}

#[test]
fn this_very_process_comes_from_a_mount_of_the_host_and_its_memory_file_is_seen() {
    let root = HostRoot::default();
    let process = Processes::open(&root).unwrap().process(std::process::id()).unwrap();
    assert_eq!(HostMounts::holds(&root, &process), Ok(true));
    assert_eq!(process.has_memory_file(), Ok(false));
    let file = rustix::fs::memfd_create("runsc-memory", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    assert_eq!(process.has_memory_file(), Ok(true));
    drop(file);
    let id = process.id().unwrap();
    assert!(id.start_ns() > 0 && id.start_ns() <= crate::clock::boot_ns());
    assert_eq!(process.uid().unwrap(), rustix::process::geteuid().as_raw());
}
