//! A limit is hit, and the kernel kills nobody: it may not, or it was told not to.

#![expect(clippy::expect_used, reason = "a test fails by a panic, its helpers too")]

use std::{
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use support::{
    Agent, Cgroup, Event, Events as _, Hog, kernel_names_the_limit, memory_cgroup_version, require, say_skipped,
};

/// Linux `include/uapi/linux/magic.h`.
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;
const RAMFS_MAGIC: rustix::fs::FsWord = 0x8584_58f6;

/// The agent judges a limit that was hit once the counters had time to tell; nothing shows that it did.
const LONGER_THAN_A_VERDICT: Duration = Duration::from_millis(1500);

/// The report of the limit of this cgroup.
fn wait_for_oom(agent: &Agent, cgroup: &Cgroup) -> Event {
    agent.wait_for("the limit that was hit without a kill", |event| {
        event.kind() == "oom" && event.number("/oom_memcg/id") == Some(cgroup.id())
    })
}

fn check(oom: &Event, cgroup: &Cgroup) {
    assert_eq!(oom.text("/severity"), Some("warning"), "{oom}");
    assert_eq!(oom.text("/oom_memcg/path"), cgroup.path().to_str(), "{oom}");
    assert_eq!(oom.number("/oom_memcg/limit_bytes"), Some(cgroup.limit_bytes()), "{oom}");
    let usage = oom.number("/oom_memcg/usage_bytes").expect("oom_memcg.usage_bytes");
    assert!(usage <= cgroup.limit_bytes() && usage + (1 << 20) >= cgroup.limit_bytes(), "{oom}");
    assert_ne!(oom.number("/count"), Some(0), "{oom}");
    assert_eq!(oom.text("/workload/cgroup_path"), cgroup.path().to_str(), "{oom}");
    assert_eq!(oom.number("/workload/cgroup_id"), Some(cgroup.id()), "{oom}");
    assert!(oom.text("/incident_id").is_some(), "{oom}");
}

fn nobody_may_be_killed(fill: &str) {
    let cgroup = Cgroup::scratch().limited_to_mib(8);
    let agent = Agent::start();
    let hog = Hog::that_nobody_may_kill(&cgroup, fill);
    let oom = wait_for_oom(&agent, &cgroup);
    check(&oom, &cgroup);
    let exact = kernel_names_the_limit();
    assert_eq!(oom.text("/confidence"), Some(if exact { "exact" } else { "counted" }), "{oom}");
    assert_eq!(oom.text("/source"), Some(if exact { "bpf" } else { "cgroup" }), "{oom}");
    let events = agent.stop();
    assert!(events.kills_below(cgroup.path()).is_empty(), "nobody was killed");
    assert_eq!(cgroup.kernel_count_of_kills(), 0);
    drop(hog);
}

#[test]
fn a_limit_hit_again_and_again_where_nobody_may_be_killed_is_reported_without_a_kill() {
    require!(Agent);
    nobody_may_be_killed("fill-pipes=all");
}

#[test]
fn a_limit_hit_once_where_nobody_may_be_killed_is_reported_without_a_kill() {
    require!(Agent);
    if memory_cgroup_version() == 1 && !kernel_names_the_limit() {
        return say_skipped("no file of cgroup v1 counts this, and no hook may see it here");
    }
    nobody_may_be_killed("fill-pipes=32");
}

#[test]
fn a_limit_hit_with_the_oom_killer_switched_off_is_reported_without_a_kill() {
    require!(Agent);
    if memory_cgroup_version() == 2 {
        return say_skipped("cgroup v2 has no switch for the OOM killer");
    }
    let cgroup = Cgroup::scratch().limited_to_mib(16);
    cgroup.write("memory.oom_control", "1");
    let agent = Agent::start();
    let mut hog = Hog::ready_in(&cgroup, ["eat=all"]);
    hog.go();
    let oom = wait_for_oom(&agent, &cgroup);
    check(&oom, &cgroup);
    assert_eq!(cgroup.counter("memory.oom_control", "under_oom"), 1);
    assert!(hog.is_alive(), "it waits for memory");
    let events = agent.stop();
    assert!(events.kills_below(cgroup.path()).is_empty(), "nobody was killed");
    assert_eq!(events.without_kill_in(cgroup.id()).len(), 1, "a process that waits is one report, not many");
}

#[test]
fn a_limit_at_which_reclaim_finds_enough_is_not_reported() {
    require!(Agent);
    let folder = tempfile::tempdir().unwrap();
    let Some(file) = file_on_disk(folder.path()) else {
        return say_skipped("there is no disk here: pages of files in memory cannot be given back");
    };
    let cgroup = Cgroup::scratch().limited_to_mib(16);
    let agent = Agent::start();
    let mut read = OsString::from("read-file=");
    read.push(&file);
    let mut hog = Hog::ready_in(&cgroup, ["eat=12".into(), read, "say=read".into(), "wait".into()]);
    hog.go();
    hog.wait_until_it_says("read");
    assert!(cgroup.times_at_the_limit() > 0, "the limit was hit, or this shows nothing");
    sleep(LONGER_THAN_A_VERDICT);
    let events = agent.stop();
    assert!(events.without_kill_in(cgroup.id()).is_empty());
    assert!(events.kills_below(cgroup.path()).is_empty());
}

/// 32 MiB that are not in memory; `None` where files are nowhere else.
fn file_on_disk(folder: &Path) -> Option<PathBuf> {
    let path = folder.join("file");
    std::fs::write(&path, vec![1; 32 << 20]).expect("write a file");
    let file = File::open(&path).expect("open the file");
    if [TMPFS_MAGIC, RAMFS_MAGIC].contains(&rustix::fs::fstatfs(&file).expect("ask for the file system").f_type) {
        return None;
    }
    file.sync_all().expect("write the file to disk");
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("drop the file's pages");
    Some(path)
}
