//! A victim in namespaces of its own: the report is in the words of the host.

use support::{Agent, Cgroup, Events as _, ExpectedKill, Hog, Window, require};

#[test]
fn user_and_cgroup_of_a_victim_in_namespaces_of_its_own_are_those_of_the_host() {
    require!(Agent);
    let cgroup = Cgroup::scratch().limited_to_mib(16);
    let agent = Agent::start();
    // As a rootless container: inside, it is nobody, and its cgroup is the root.
    let steps = ["uid=4321", "new-user", "new-cgroups", "say=inside", "wait", "eat=all"];
    let mut hog = Hog::ready_in(&cgroup, steps);
    hog.go();
    hog.wait_until_it_says("inside");
    let window = Window::open();
    hog.go();
    hog.wait_until_killed();
    let window = window.close();
    let events = agent.stop();
    let expected = ExpectedKill { uid: 4321, ..ExpectedKill::of(hog.pid(), &cgroup, window) };
    expected.check(events.only_kill_below(cgroup.path()));
}
