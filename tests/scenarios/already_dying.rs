//! A task that was dying anyway: the kernel marks it as a victim to free its memory sooner, but kills nobody.

use rustix::process::{Pid, Signal, kill_process};
use support::{Agent, Cgroup, EVENT_TIMEOUT, Events as _, Freezer, Hog, require, say_skipped, wait_for};

/// A frozen process keeps a deadly signal pending, so it is dying for as long as one likes.
#[test]
fn a_victim_that_was_dying_anyway_is_not_reported_as_a_kill() {
    require!(Agent);
    let cgroup = Cgroup::scratch().limited_to_mib(48);
    let Some(freezer) = Freezer::new() else {
        return say_skipped("this kernel has no freezer of cgroup v1");
    };
    let agent = Agent::start();
    let mut dying = Hog::ready_in(&cgroup, ["eat=32", "say=full", "sleep"]);
    dying.go();
    dying.wait_until_it_says("full");
    freezer.freeze(dying.pid());
    kill_process(Pid::from_raw(i32::try_from(dying.pid()).unwrap()).unwrap(), Signal::KILL).unwrap();
    let mut eater = Hog::ready_in(&cgroup, ["eat=32", "say=full", "wait"]);
    assert!(dying.is_alive(), "the signal is pending while the process is frozen");
    eater.go();
    // Room for both is only where the first one ended, and only the OOM killer can thaw it. A kernel that frees its
    // memory between a failed charge of the eater and its next look for a victim kills the eater too, and counts that.
    let mut killed = Vec::new();
    if eater.says("full") {
        assert_eq!(cgroup.kernel_count_of_kills(), 0, "the kernel counts no kill");
    } else {
        eater.wait_until_killed();
        assert_eq!(cgroup.kernel_count_of_kills(), 1, "the kernel counts the eater only");
        killed.push(u64::from(eater.pid()));
    }
    dying.wait_until_killed();
    killed.push(u64::from(kill_another(&agent, &cgroup)));
    let events = agent.stop();
    let kills = events.kills_below(cgroup.path());
    let victims: Vec<_> = kills.iter().filter_map(|kill| kill.number("/victim/pid")).collect();
    assert_eq!(victims, killed, "only who was killed: {kills:#?}");
    assert_eq!(cgroup.kernel_count_of_kills(), u64::try_from(killed.len()).unwrap());
    drop(eater);
}

/// The next real kill in the same cgroup, which must be told from the one that was none.
fn kill_another(agent: &Agent, cgroup: &Cgroup) -> u32 {
    let mut victim = Hog::ready_in(cgroup, ["oom-score-adj=1000", "eat=all"]);
    victim.go();
    victim.wait_until_killed();
    agent.wait_for_kill_of(victim.pid());
    victim.pid()
}

#[test]
fn a_process_that_somebody_else_killed_is_not_reported() {
    require!(Agent);
    let cgroup = Cgroup::scratch().limited_to_mib(32);
    let agent = Agent::start();
    let mut hog = Hog::ready_in(&cgroup, ["eat=24", "say=full", "sleep"]);
    hog.go();
    hog.wait_until_it_says("full");
    kill_process(Pid::from_raw(i32::try_from(hog.pid()).unwrap()).unwrap(), Signal::KILL).unwrap();
    hog.wait_until_killed();
    wait_for("the cgroup to be empty", EVENT_TIMEOUT, || cgroup.processes().is_empty().then_some(()));
    let events = agent.stop();
    assert!(events.kills_below(cgroup.path()).is_empty());
}
