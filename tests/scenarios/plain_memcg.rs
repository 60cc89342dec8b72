//! One process in one cgroup that runs into the limit of that very cgroup.

use support::{Agent, Cgroup, Event, Events as _, ExpectedKill, Hog, Window, require};

#[test]
fn a_process_at_its_cgroups_limit_is_reported_once_with_everything_known() {
    require!(Agent);
    let cgroup = Cgroup::scratch().limited_to_mib(32);
    let agent = Agent::start();
    let mut hog = Hog::ready_in(&cgroup, ["eat=all"]);
    let window = Window::open();
    hog.go();
    hog.wait_until_killed();
    let window = window.close();
    agent.wait_for_kill_of(hog.pid());
    let events = agent.stop();
    let expected = ExpectedKill { anon_mib: 28, ..ExpectedKill::of(hog.pid(), &cgroup, window) };
    expected.check(events.only_kill_below(cgroup.path()));
    assert_eq!(cgroup.kernel_count_of_kills(), 1);
    assert!(events.without_kill_in(cgroup.id()).is_empty(), "a kill is no OOM without a kill");
    assert!(events.of_kind("oom_group_kill").is_empty(), "nothing asked for a group kill");
}

#[test]
fn user_score_and_name_are_those_of_the_victim() {
    require!(Agent);
    let cgroup = Cgroup::scratch().limited_to_mib(32);
    let agent = Agent::start();
    let mut hog = Hog::ready_in(&cgroup, ["oom-score-adj=300", "comm=big eater", "uid=65534", "eat=all"]);
    let window = Window::open();
    hog.go();
    hog.wait_until_killed();
    let window = window.close();
    let events = agent.stop();
    let expected = ExpectedKill {
        comm: b"big eater",
        uid: 65534,
        oom_score_adj: 300,
        trigger: Some((hog.pid(), b"big eater")),
        ..ExpectedKill::of(hog.pid(), &cgroup, window)
    };
    expected.check(events.only_kill_below(cgroup.path()));
}

#[test]
fn private_and_shared_memory_are_told_apart() {
    require!(Agent);
    let cgroup = Cgroup::scratch().limited_to_mib(48);
    let agent = Agent::start();
    let mut hog = Hog::ready_in(&cgroup, ["eat-shared=16", "eat=all"]);
    let window = Window::open();
    hog.go();
    hog.wait_until_killed();
    let window = window.close();
    let events = agent.stop();
    let kill = events.only_kill_below(cgroup.path());
    ExpectedKill { anon_mib: 28, ..ExpectedKill::of(hog.pid(), &cgroup, window) }.check(kill);
    let shared = kill.number("/memory/shmem_rss_bytes").unwrap();
    // The program itself is shared memory, too, where it lies in a file system in memory.
    assert!((16 << 20..18 << 20).contains(&shared), "16 MiB are shared: {kill}");
    let private = kill.number("/memory/anon_rss_bytes").unwrap();
    assert!(private < 33 << 20, "32 MiB are left for private memory: {kill}");
}

#[test]
fn kills_one_after_the_other_are_incidents_of_their_own() {
    require!(Agent);
    let cgroup = Cgroup::scratch().limited_to_mib(16);
    let agent = Agent::start();
    let mut pids = Vec::new();
    for _ in 0..3 {
        let mut hog = Hog::ready_in(&cgroup, ["eat=all"]);
        hog.go();
        hog.wait_until_killed();
        pids.push(hog.pid());
    }
    let events = agent.stop();
    let kills = events.kills_below(cgroup.path());
    let reported: Vec<_> = kills.iter().filter_map(|kill| kill.number("/victim/pid")).collect();
    assert_eq!(reported, pids.iter().map(|pid| u64::from(*pid)).collect::<Vec<_>>());
    let mut incidents: Vec<_> = kills.iter().filter_map(|kill| kill.text("/incident_id")).collect();
    incidents.sort_unstable();
    incidents.dedup();
    assert_eq!(incidents.len(), 3, "{kills:#?}");
    assert!(kills.iter().map(|kill: &&Event| kill.time()).is_sorted(), "{kills:#?}");
    assert_eq!(cgroup.kernel_count_of_kills(), 3);
}
