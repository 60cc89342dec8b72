//! The whole machine is out of memory, or all of it that a process may use. In the virtual machine only: elsewhere the
//! kernel would choose among processes that are nobody's to kill.

#![expect(clippy::expect_used, reason = "a test fails by a panic, its helpers too")]

use std::{fs, path::Path};

use support::{
    Agent, Cgroup, Event, Events as _, Hog, Output, Sysctl, in_guest, marks_carry_the_task, memory_cgroup_version,
    require, say_skipped, spare_this_process,
};

const NOT_HERE: &str = "a host that is out of memory may kill anything; the virtual machine shows it";
/// What is left of the machine's memory, bytes: enough for the agent and the tests, and used up soon.
const LEFT: u64 = 192 << 20;
const HUGE_PAGE: u64 = 2 << 20;
/// Nobody else in the guest has a score above 0, and those who matter have none at all.
const FIRST: &str = "oom-score-adj=500";
const INFERRED: &[&str] = &["--withhold", "fentry,kprobe"];

/// Takes memory away until little is left.
fn make_memory_scarce() -> [Sysctl; 2] {
    let meminfo = fs::read_to_string("/proc/meminfo").expect("the machine's memory");
    let available = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB"));
    let available = available.and_then(|kib| kib.trim().parse::<u64>().ok()).expect("available memory") << 10;
    let pages = available.saturating_sub(LEFT) / HUGE_PAGE;
    [Sysctl::set("vm/overcommit_memory", "1"), Sysctl::set("vm/nr_hugepages", &pages.to_string())]
}

fn kernel_count() -> u64 {
    let counters = fs::read_to_string("/proc/vmstat").expect("the kernel's counters");
    counters.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).expect("a count of kills")
}

/// A hog of this cgroup is killed by no cgroup's limit.
fn check(events: &[Event], pid: u32, cgroup: &Cgroup, constraint: Option<&str>) {
    let kills = events.of_kind("oom_kill");
    assert_eq!(kills.len(), 1, "{kills:#?}");
    let kill = kills[0];
    assert!(kill.is_kill_of(pid), "{kill}");
    assert_eq!(kill.text("/task_memcg/path"), cgroup.path().to_str(), "{kill}");
    assert_eq!(kill.text("/scope"), Some("host"), "{kill}");
    assert_eq!(kill.text("/limit_owner"), Some("host"), "{kill}");
    assert_eq!(kill.text("/constraint"), constraint, "{kill}");
    assert_eq!(kill.field("/oom_memcg"), None, "{kill}");
    assert!(events.of_kind("oom").is_empty(), "a kill is no OOM without one: {events:#?}");
}

/// Agents on both kinds of rungs see a hog that eats until the kernel kills it.
fn eaten_up(cgroup: &Cgroup, steps: &[&str], constraint: &str) {
    spare_this_process();
    let agent = Agent::start();
    let inferring = marks_carry_the_task().then(|| Agent::start_with(Output::Json, INFERRED));
    let before = kernel_count();
    let mut hog = Hog::ready_in(cgroup, [&[FIRST], steps, &["eat=all"]].concat());
    hog.go();
    hog.wait_until_killed();
    assert_eq!(kernel_count() - before, 1, "the kernel's own count");
    agent.wait_for_kill_of(hog.pid());
    check(&agent.stop(), hog.pid(), cgroup, Some(constraint));
    if let Some(agent) = inferring {
        check(&agent.stop(), hog.pid(), cgroup, None);
    }
}

#[test]
fn a_kill_for_want_of_memory_on_the_host_is_nobodys_limit() {
    require!(Agent);
    if !in_guest() {
        return say_skipped(NOT_HERE);
    }
    let cgroup = Cgroup::scratch();
    let _scarce = make_memory_scarce();
    eaten_up(&cgroup, &[], "CONSTRAINT_NONE");
}

/// The small one of the guest's two nodes.
fn small_node() {
    assert!(Path::new("/sys/devices/system/node/node1").exists(), "the guest has a second node");
}

#[test]
fn a_kill_in_a_cpuset_whose_node_is_full_is_told_as_such() {
    require!(Agent);
    if !in_guest() {
        return say_skipped(NOT_HERE);
    }
    if memory_cgroup_version() == 1 {
        return say_skipped("cgroup v1 has cpusets in another hierarchy");
    }
    small_node();
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+cpuset").expect("cpusets");
    let cgroup = Cgroup::scratch();
    cgroup.write("cpuset.mems", "1");
    eaten_up(&cgroup, &[], "CONSTRAINT_CPUSET");
}

#[test]
fn a_kill_of_a_process_bound_to_a_node_that_is_full_is_told_as_such() {
    require!(Agent);
    if !in_guest() {
        return say_skipped(NOT_HERE);
    }
    small_node();
    let cgroup = Cgroup::scratch();
    eaten_up(&cgroup, &["bind-memory=1"], "CONSTRAINT_MEMORY_POLICY");
}
