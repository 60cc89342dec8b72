//! `memory.oom.group`: the kernel kills all of a cgroup as one.

use support::{
    Agent, Cgroup, Events as _, ExpectedKill, Hog, Window, kernel_names_the_limit, memory_cgroup_version, require,
    say_skipped,
};

#[test]
fn every_member_of_a_group_kill_is_reported_and_then_their_sum_as_one_incident() {
    require!(Agent);
    if memory_cgroup_version() == 1 {
        return say_skipped("cgroup v1 has no memory.oom.group");
    }
    let cgroup = Cgroup::scratch().limited_to_mib(32);
    cgroup.write("memory.oom.group", "1");
    let agent = Agent::start();
    let mut bystanders = [Hog::ready_in(&cgroup, ["sleep"]), Hog::ready_in(&cgroup, ["sleep"])];
    let mut eater = Hog::ready_in(&cgroup, ["eat=all"]);
    let window = Window::open();
    eater.go();
    eater.wait_until_killed();
    bystanders.iter_mut().for_each(Hog::wait_until_killed);
    let window = window.close();
    let sum = agent.wait_for("the end of the group kill", |event| {
        event.kind() == "oom_group_kill" && event.number("/oom_memcg/id") == Some(cgroup.id())
    });
    let events = agent.stop();
    let kills = events.kills_below(cgroup.path());
    assert_eq!(kills.len(), 3, "{kills:#?}");
    for pid in [eater.pid(), bystanders[0].pid(), bystanders[1].pid()] {
        let kill = kills.iter().find(|kill| kill.is_kill_of(pid)).expect("a report of each");
        let trigger = Some((eater.pid(), b"hog".as_slice()));
        ExpectedKill { group_kill: true, trigger, ..ExpectedKill::of(pid, &cgroup, window) }.check(kill);
        assert_eq!(kill.text("/incident_id"), sum.text("/incident_id"), "{kill}");
        assert!(kill.number("/seq") < sum.number("/seq"), "the sum comes last");
    }
    assert_eq!(sum.number("/victims"), Some(3), "{sum}");
    assert_eq!(sum.text("/oom_memcg/path"), cgroup.path().to_str(), "{sum}");
    assert_eq!(sum.number("/oom_memcg/limit_bytes"), Some(cgroup.limit_bytes()), "{sum}");
    assert_eq!(sum.text("/workload/cgroup_path"), cgroup.path().to_str(), "{sum}");
    let sums = events.of_kind("oom_group_kill");
    assert_eq!(sums.iter().filter(|sum| sum.number("/oom_memcg/id") == Some(cgroup.id())).count(), 1);
    // Linux counts the first victim of a group twice.
    assert!(cgroup.kernel_count_of_kills() >= 3);
    assert!(kernel_names_the_limit() || sum.text("/confidence").is_some());
}

#[test]
fn a_group_kill_set_on_a_parent_takes_the_children_along() {
    require!(Agent);
    if memory_cgroup_version() == 1 {
        return say_skipped("cgroup v1 has no memory.oom.group");
    }
    let parent = Cgroup::scratch().limited_to_mib(32);
    parent.write("memory.oom.group", "1");
    let (left, right) = (parent.child("left"), parent.child("right"));
    let agent = Agent::start();
    let mut bystander = Hog::ready_in(&left, ["sleep"]);
    let mut eater = Hog::ready_in(&right, ["eat=all"]);
    let window = Window::open();
    eater.go();
    eater.wait_until_killed();
    bystander.wait_until_killed();
    let window = window.close();
    let events = agent.stop();
    let kills = events.kills_below(parent.path());
    assert_eq!(kills.len(), 2, "{kills:#?}");
    for (pid, cgroup) in [(eater.pid(), &right), (bystander.pid(), &left)] {
        let kill = kills.iter().find(|kill| kill.is_kill_of(pid)).expect("a report of each");
        let trigger = Some((eater.pid(), b"hog".as_slice()));
        let plain = ExpectedKill::of(pid, cgroup, window);
        ExpectedKill { group_kill: true, oom_memcg: &parent, trigger, ..plain }.check(kill);
    }
    let sums = events.of_kind("oom_group_kill");
    let sum = sums.iter().find(|sum| sum.number("/oom_memcg/id") == Some(parent.id())).expect("the sum");
    assert_eq!(sum.number("/victims"), Some(2), "{sum}");
}
