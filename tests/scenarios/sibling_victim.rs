//! The limit is on a parent: whoever runs into it need not be who is killed, nor even share its cgroup.

use support::{Agent, Cgroup, Events as _, ExpectedKill, Hog, Window, require};

#[test]
fn the_victim_is_the_big_sibling_and_not_who_ran_into_the_limit() {
    require!(Agent);
    let parent = Cgroup::scratch().limited_to_mib(64);
    let (big, small) = (parent.child("big"), parent.child("small"));
    let agent = Agent::start();
    let mut victim = Hog::ready_in(&big, ["comm=victim", "eat=40", "say=full", "sleep"]);
    victim.go();
    victim.wait_until_it_says("full");
    let mut trigger = Hog::ready_to_outlive(&small, ["comm=trigger", "eat=28", "say=full", "sleep"]);
    let window = Window::open();
    trigger.go();
    victim.wait_until_killed();
    let window = window.close();
    trigger.wait_until_it_says("full");
    agent.wait_for_kill_of(victim.pid());
    assert!(trigger.is_alive(), "the kill of one made room for the other");
    let events = agent.stop();
    let expected = ExpectedKill {
        comm: b"victim",
        oom_memcg: &parent,
        trigger: Some((trigger.pid(), b"trigger")),
        anon_mib: 39,
        ..ExpectedKill::of(victim.pid(), &big, window)
    };
    expected.check(events.only_kill_below(parent.path()));
    assert_eq!(big.kernel_count_of_kills(), 1);
    assert_eq!(small.kernel_count_of_kills(), 0);
}

#[test]
fn a_limit_of_the_grandparent_is_named_over_the_looser_ones_below_it() {
    require!(Agent);
    let top = Cgroup::scratch().limited_to_mib(32);
    let middle = top.child("middle").limited_to_mib(64);
    let bottom = middle.child("bottom").limited_to_mib(48);
    let agent = Agent::start();
    let mut hog = Hog::ready_in(&bottom, ["eat=all"]);
    let window = Window::open();
    hog.go();
    hog.wait_until_killed();
    let window = window.close();
    let events = agent.stop();
    let expected = ExpectedKill { oom_memcg: &top, anon_mib: 28, ..ExpectedKill::of(hog.pid(), &bottom, window) };
    expected.check(events.only_kill_below(top.path()));
}
