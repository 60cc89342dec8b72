//! Victims that are not one process with one thread: thread and process id differ, or memory belongs to two processes.

#![expect(clippy::expect_used, reason = "a test fails by a panic, its helpers too")]

use support::{Agent, Cgroup, Events as _, ExpectedKill, Hog, PROCESS_TIMEOUT, Window, require, wait_for};

#[test]
fn a_victim_whose_first_thread_has_ended_goes_by_its_process_id() {
    require!(Agent);
    let cgroup = Cgroup::scratch().limited_to_mib(32);
    let agent = Agent::start();
    let steps = ["lose-leader", "comm=worker", "say=alone", "wait", "eat=all"];
    let mut hog = Hog::ready_in(&cgroup, steps);
    hog.go();
    hog.wait_until_it_says("alone");
    let worker = wait_for("the first thread to end", PROCESS_TIMEOUT, || {
        let leader = std::fs::read_to_string(format!("/proc/{}/task/{0}/stat", hog.pid())).unwrap();
        let others = threads_of(hog.pid()).into_iter().find(|thread| *thread != hog.pid());
        if leader.contains(") Z ") { others } else { None }
    });
    let window = Window::open();
    hog.go();
    hog.wait_until_killed();
    let window = window.close();
    let events = agent.stop();
    let expected = ExpectedKill {
        tid: worker,
        comm: b"worker",
        trigger: Some((hog.pid(), b"worker")),
        anon_mib: 28,
        ..ExpectedKill::of(hog.pid(), &cgroup, window)
    };
    expected.check(events.only_kill_below(cgroup.path()));
    assert_eq!(cgroup.kernel_count_of_kills(), 1);
}

fn threads_of(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("threads of the hog");
    let names = tasks.flatten().map(|task| task.file_name());
    names.filter_map(|name| name.to_str()?.parse().ok()).collect()
}

#[test]
fn two_processes_with_one_memory_are_one_kill() {
    require!(Agent);
    let cgroup = Cgroup::scratch().limited_to_mib(32);
    let agent = Agent::start();
    let mut hog = Hog::ready_in(&cgroup, ["sharer", "say=shared", "wait", "eat=all"]);
    hog.go();
    hog.wait_until_it_says("shared");
    let sharer = cgroup.processes().into_iter().find(|pid| *pid != hog.pid()).unwrap();
    let window = Window::open();
    hog.go();
    hog.wait_until_killed();
    let window = window.close();
    wait_for("the kernel to end the other process too", PROCESS_TIMEOUT, || {
        cgroup.processes().is_empty().then_some(())
    });
    let events = agent.stop();
    let kill = events.only_kill_below(cgroup.path());
    // Which of the two the kernel takes for the owner is its own choice; the other dies with it.
    let victim = if kill.is_kill_of(sharer) { sharer } else { hog.pid() };
    let expected =
        ExpectedKill { trigger: Some((hog.pid(), b"hog")), anon_mib: 28, ..ExpectedKill::of(victim, &cgroup, window) };
    expected.check(kill);
    assert_eq!(cgroup.kernel_count_of_kills(), 1);
}
