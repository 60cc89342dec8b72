//! Very many kills at once.

use std::collections::{HashMap, HashSet};

use support::{Agent, Cgroup, Event, Events as _, Gate, Hog, PROCESS_TIMEOUT, require, wait_for};

const CGROUPS: usize = 10;
const HOGS_IN_EACH: usize = 50;

#[test]
fn five_hundred_kills_by_parallel_processes_are_reported_each_exactly_once_in_the_right_cgroup() {
    require!(Agent);
    let parent = Cgroup::scratch();
    let cgroups: Vec<Cgroup> = (0..CGROUPS).map(|index| parent.child(format!("c{index}")).limited_to_mib(48)).collect();
    let gate = Gate::new();
    let mut home = HashMap::new();
    let mut hogs = Vec::new();
    for cgroup in &cgroups {
        for _ in 0..HOGS_IN_EACH {
            let hog = Hog::start_behind(&gate, [cgroup.join_step(), "wait".into(), "eat=all".into()]);
            home.insert(u64::from(hog.pid()), cgroup);
            hogs.push(hog);
        }
    }
    wait_for("all hogs to be at their places", PROCESS_TIMEOUT, || {
        cgroups.iter().all(|cgroup| cgroup.processes().len() == HOGS_IN_EACH).then_some(())
    });
    let agent = Agent::start();
    gate.open();
    for hog in &mut hogs {
        hog.wait_until_killed();
    }
    let events = agent.stop();
    let kills = events.kills_below(parent.path());
    let mut seen = HashSet::new();
    for kill in &kills {
        let pid = kill.number("/victim/pid").unwrap();
        assert!(seen.insert(pid), "reported twice: {kill}");
        let cgroup = home.get(&pid).unwrap_or_else(|| panic!("no hog of ours: {kill}"));
        assert_eq!(kill.number("/task_memcg/id"), Some(cgroup.id()), "{kill}");
        assert_eq!(kill.text("/workload/cgroup_path"), cgroup.path().to_str(), "{kill}");
    }
    let counted: u64 = cgroups.iter().map(Cgroup::kernel_count_of_kills).sum();
    assert_eq!(counted, (CGROUPS * HOGS_IN_EACH) as u64, "the kernel's own count");
    assert_eq!(kills.len() as u64, counted, "reports and the kernel's own count");
    let right_limit = |kill: &&&Event| kill.number("/oom_memcg/id") == kill.number("/task_memcg/id");
    let wrong: Vec<_> = kills.iter().filter(|kill| !right_limit(kill)).collect();
    assert!(
        wrong.is_empty(),
        "{} of {} name another limit than the one that was hit: {wrong:#?}",
        wrong.len(),
        kills.len()
    );
}
