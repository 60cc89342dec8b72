//! The rungs below the best: fewer ways into the kernel, less known, nothing wrong.

use std::{fs, process::Command, thread};

use support::{
    Agent, Cgroup, Events as _, ExpectedKill, Hog, Output, Window, kernel_names_the_limit, marks_carry_the_task,
    require, say_skipped,
};

/// Why a scenario of a rung says nothing here.
const ONLY_AN_ID: &str = "the mark of this kernel carries a thread's id only";

/// A kill, seen by an agent that may not use some ways into the kernel.
fn kill_seen_without(withheld: &str) -> (Cgroup, u32, Window, Vec<support::Event>) {
    let cgroup = Cgroup::scratch().limited_to_mib(16);
    let agent = Agent::start_with(Output::Json, &["--withhold", withheld]);
    let mut hog = Hog::ready_in(&cgroup, ["eat=all"]);
    let window = Window::open();
    hog.go();
    hog.wait_until_killed();
    let window = window.close();
    (cgroup, hog.pid(), window, agent.stop())
}

#[test]
fn without_fentry_the_limit_is_known_by_kprobes_where_there_are_any() {
    require!(Agent);
    let (cgroup, pid, window, events) = kill_seen_without("fentry");
    let tier = if kernel_names_the_limit() { "bpf+kprobe" } else { "bpf+inferred" };
    assert_eq!(events[0].text("/tier"), Some(tier));
    ExpectedKill::of(pid, &cgroup, window).check(events.only_kill_below(cgroup.path()));
}

#[test]
fn where_no_hook_is_handed_the_victim_its_record_and_the_counters_tell_of_it() {
    require!(Agent);
    if marks_carry_the_task() {
        return say_skipped("this kernel's mark is handed the victim");
    }
    let (cgroup, pid, _, events) = kill_seen_without("fentry,kprobe");
    assert_eq!(events[0].text("/tier"), Some("bpf+record"));
    let degraded = events[0].field("/degraded").map(ToString::to_string).unwrap_or_default();
    assert!(degraded.contains("no hook is handed the victim"), "{degraded}");
    let kill = events.only_kill_below(cgroup.path());
    assert_eq!(kill.number("/victim/tid"), Some(pid.into()), "{kill}");
    assert_eq!(kill.number("/task_memcg/id"), Some(cgroup.id()), "{kill}");
}

#[test]
fn without_fentry_and_kprobes_the_limit_is_inferred_and_says_so() {
    require!(Agent);
    if !marks_carry_the_task() {
        return say_skipped(ONLY_AN_ID);
    }
    let (cgroup, pid, window, events) = kill_seen_without("fentry,kprobe");
    assert_eq!(events[0].text("/tier"), Some("bpf+inferred"));
    let expected = ExpectedKill { limit_is_exact: false, ..ExpectedKill::of(pid, &cgroup, window) };
    expected.check(events.only_kill_below(cgroup.path()));
}

#[test]
fn without_btf_the_victim_is_reported_and_what_is_not_known_is_absent() {
    require!(Agent);
    let (cgroup, pid, _, events) = kill_seen_without("btf");
    assert_eq!(events[0].text("/tier"), Some("bpf+record"));
    assert!(events[0].field("/degraded").is_some_and(|reasons| reasons.to_string().contains("BTF")));
    let kills = events.of_kind("oom_kill");
    let ours: Vec<_> = kills.iter().filter(|kill| kill.number("/victim/tid") == Some(pid.into())).collect();
    assert_eq!(ours.len(), 1, "{kills:#?}");
    let kill = ours[0];
    if marks_carry_the_task() {
        assert_eq!(kill.text("/victim/comm"), Some("hog"), "{kill}");
        assert_eq!(kill.number("/victim/uid"), Some(0), "{kill}");
        let anon = kill.number("/memory/anon_rss_bytes").unwrap();
        assert!((12 << 20..=16 << 20).contains(&anon), "{kill}");
    } else {
        // A record of nothing but an id.
        for unknown in ["/victim/comm", "/victim/uid", "/memory/anon_rss_bytes"] {
            assert_eq!(kill.field(unknown), None, "{unknown} of {kill}");
        }
    }
    // Where the victim still is when the agent looks into /proc its cgroup is found, else it is absent.
    let path = kill.text("/task_memcg/path");
    assert!(path.is_none() || path == cgroup.path().to_str(), "{kill}");
    assert_eq!(kill.text("/workload/cgroup_path"), path, "{kill}");
    assert!(path.is_none() || kill.number("/task_memcg/id") == Some(cgroup.id()), "{kill}");
    for unknown in ["/oom_memcg", "/oom_memcg_confidence", "/limit_owner", "/constraint"] {
        assert_eq!(kill.field(unknown), None, "{unknown} of {kill}");
    }
    assert_eq!(kill.number("/trigger/pid"), Some(pid.into()), "{kill}");
}

/// How often the kernel left out programs of an agent, for they were under way on that CPU already; `None` where it does not
/// count that (before Linux 5.12).
fn left_out(agent: &Agent) -> Option<u64> {
    let files = fs::read_dir(format!("/proc/{}/fdinfo", agent.pid())).into_iter().flatten();
    // The agent opens and closes others meanwhile.
    let texts = files.filter_map(|file| fs::read_to_string(file.ok()?.path()).ok());
    let programs: Vec<String> = texts.filter(|text| text.contains("prog_jited:")).collect();
    assert!(!programs.is_empty(), "the agent has no program");
    let count = |text: &String| {
        text.lines().find_map(|line| line.strip_prefix("recursion_misses:")?.trim().parse::<u64>().ok())
    };
    programs.iter().map(count).sum()
}

#[test]
fn no_program_is_left_out_where_many_processes_begin_and_end_at_once() {
    require!(Agent);
    let agent = Agent::start();
    if left_out(&agent).is_none() {
        return say_skipped("this kernel does not count what it leaves out");
    }
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..100 {
                    Command::new("true").status().expect("start a process that ends at once");
                }
            });
        }
    });
    assert_eq!(left_out(&agent), Some(0));
    drop(agent.stop());
}

#[test]
fn a_sibling_victim_is_told_from_the_trigger_on_every_rung() {
    require!(Agent);
    if !marks_carry_the_task() {
        return say_skipped(ONLY_AN_ID);
    }
    let parent = Cgroup::scratch().limited_to_mib(64);
    let (big, small) = (parent.child("big"), parent.child("small"));
    let agent = Agent::start_with(Output::Json, &["--withhold", "fentry,kprobe"]);
    let mut victim = Hog::ready_in(&big, ["eat=40", "say=full", "sleep"]);
    victim.go();
    victim.wait_until_it_says("full");
    let mut trigger = Hog::ready_to_outlive(&small, ["eat=28", "say=full", "sleep"]);
    let window = Window::open();
    trigger.go();
    victim.wait_until_killed();
    let window = window.close();
    trigger.wait_until_it_says("full");
    let events = agent.stop();
    let expected = ExpectedKill {
        oom_memcg: &parent,
        trigger: Some((trigger.pid(), b"hog")),
        limit_is_exact: false,
        ..ExpectedKill::of(victim.pid(), &big, window)
    };
    expected.check(events.only_kill_below(parent.path()));
}
