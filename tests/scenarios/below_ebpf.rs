//! The rungs below eBPF, each forced: counters of cgroups, the kernel's log, both. The same kill is one event, in the
//! right cgroup or in none, and nothing is made up.

use std::{
    collections::HashSet,
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
    thread::sleep,
    time::Duration,
};

use support::{
    Agent, Cgroup, Container, EVENT_TIMEOUT, Event, Events as _, Gate, Hog, Output, PROCESS_TIMEOUT, Runtime,
    agent_command, get, let_the_log_rest, memory_cgroup_version, require, run, say_skipped, wait_for,
};

const BY_COUNTERS: &[&str] = &["--tier", "cgroup"];
const BY_LOG: &[&str] = &["--tier", "kmsg"];
const BY_BOTH: &[&str] = &["--withhold", "bpf"];
const STORM: usize = 50;
const ROUNDS: u64 = 8;

/// Whether victims and limits can be named.
fn reads_log(agent: &[&str]) -> bool {
    agent != BY_COUNTERS
}

fn start(arguments: &[&str]) -> Agent {
    Agent::start_with(Output::Json, arguments)
}

fn on_each_rung() -> [(&'static [&'static str], Agent); 3] {
    [BY_COUNTERS, BY_LOG, BY_BOTH].map(|arguments| (arguments, start(arguments)))
}

fn kill_in(cgroup: &Cgroup) -> u32 {
    let mut hog = Hog::ready_in(cgroup, ["eat=all"]);
    hog.go();
    hog.wait_until_killed();
    hog.pid()
}

fn wait_for_kill_in(agent: &Agent, cgroup: &Cgroup) -> Event {
    let there = |event: &Event| event.kind() == "oom_kill" && event.number("/task_memcg/id") == Some(cgroup.id());
    agent.wait_for("the kill", there)
}

/// What every report of a kill says that only the cgroup is known of.
fn check_counted(kill: &Event, cgroup: &Cgroup) {
    assert_eq!(kill.text("/source"), Some("cgroup"), "{kill}");
    assert_eq!(kill.text("/confidence"), Some("counted"), "{kill}");
    assert_eq!(kill.text("/task_memcg/path"), cgroup.path().to_str(), "{kill}");
    assert_eq!(kill.number("/task_memcg/id"), Some(cgroup.id()), "{kill}");
    assert_eq!(kill.text("/workload/cgroup_path"), cgroup.path().to_str(), "{kill}");
    for unknown in ["victim", "trigger", "scope", "oom_memcg", "oom_memcg_confidence", "limit_owner", "memory"] {
        assert_eq!(kill.field(&format!("/{unknown}")), None, "{unknown} of {kill}");
    }
    assert_eq!(kill.field("/latency_seconds"), None, "{kill}");
}

/// The same of one with all that the log says.
fn check_logged(kill: &Event, cgroup: &Cgroup, pid: u32) {
    assert_eq!(kill.text("/source"), Some("kmsg"), "{kill}");
    assert_eq!(kill.text("/confidence"), Some("exact"), "{kill}");
    assert_eq!(kill.number("/victim/pid"), Some(pid.into()), "{kill}");
    assert_eq!(kill.number("/victim/tid"), Some(pid.into()), "{kill}");
    assert_eq!(kill.text("/victim/comm"), Some("hog"), "{kill}");
    assert_eq!(kill.text("/trigger/comm"), Some("hog"), "{kill}");
    assert_eq!(kill.text("/scope"), Some("memcg"), "{kill}");
    assert_eq!(kill.text("/constraint"), Some("CONSTRAINT_MEMCG"), "{kill}");
    for field in ["/task_memcg", "/oom_memcg"] {
        assert_eq!(kill.text(&format!("{field}/path")), cgroup.path().to_str(), "{kill}");
        assert_eq!(kill.number(&format!("{field}/id")), Some(cgroup.id()), "{kill}");
    }
    assert_eq!(kill.number("/oom_memcg/limit_bytes"), Some(cgroup.limit_bytes()), "{kill}");
    assert_eq!(kill.text("/oom_memcg_confidence"), Some("exact"), "{kill}");
    assert_eq!(kill.text("/limit_owner"), Some("slice"), "{kill}");
    assert_eq!(kill.text("/workload/cgroup_path"), cgroup.path().to_str(), "{kill}");
    let anon = kill.number("/memory/anon_rss_bytes");
    assert!(anon.is_some_and(|anon| (12 << 20..=16 << 20).contains(&anon)), "{kill}");
}

#[test]
fn a_kill_is_told_once_with_its_cgroup_by_counters_by_the_log_and_by_both() {
    require!(Agent);
    let_the_log_rest();
    let cgroup = Cgroup::scratch().limited_to_mib(16);
    let agents = on_each_rung();
    let pid = kill_in(&cgroup);
    for (arguments, agent) in agents {
        wait_for_kill_in(&agent, &cgroup);
        agent.wait_until_nothing_is_missing();
        let events = agent.stop();
        let kill = events.only_kill_below(cgroup.path());
        if reads_log(arguments) {
            check_logged(kill, &cgroup, pid);
        } else {
            check_counted(kill, &cgroup);
        }
        let tier = if arguments == BY_BOTH { "cgroup+kmsg" } else { arguments[1] };
        assert_eq!(events[0].text("/tier"), Some(tier));
        let of_us = |event: &&Event| event.number("/victim/tid") == Some(pid.into());
        let told = events.of_kind("oom_kill").into_iter().filter(of_us).count();
        assert_eq!(told, usize::from(reads_log(arguments)), "by {tier}");
        assert_eq!(events.of_kind("missed").len(), 0, "by {tier}");
    }
}

/// On cgroup v1 the kernel wakes who listens to the parent, to the victim's cgroup and to the sibling's.
#[test]
fn the_idle_sibling_of_a_victim_is_not_blamed() {
    require!(Agent);
    let parent = Cgroup::scratch().limited_to_mib(16);
    let (eater, idle) = (parent.child("eater"), parent.child("idle"));
    let mut bystander = Hog::ready_in(&idle, ["sleep"]);
    let agents = on_each_rung();
    kill_in(&eater);
    for (_, agent) in agents {
        agent.wait_until_nothing_is_missing();
        let events = agent.stop();
        let kills = events.kills_below(parent.path());
        assert!(kills.len() <= 1, "{kills:#?}");
        assert!(kills.iter().all(|kill| kill.number("/task_memcg/id") == Some(eater.id())), "{kills:#?}");
    }
    assert!(bystander.is_alive());
}

#[test]
fn a_storm_in_one_cgroup_is_told_kill_by_kill_on_each_rung() {
    require!(Agent);
    let (cgroup, gate) = (Cgroup::scratch().limited_to_mib(48), Gate::new());
    let hogs = (0..STORM).map(|_| Hog::start_behind(&gate, [cgroup.join_step(), "wait".into(), "eat=all".into()]));
    let mut hogs: Vec<Hog> = hogs.collect();
    wait_for("all hogs to be at their places", PROCESS_TIMEOUT, || (cgroup.processes().len() == STORM).then_some(()));
    let agents = on_each_rung();
    gate.open();
    hogs.iter_mut().for_each(Hog::wait_until_killed);
    let pids: HashSet<u64> = hogs.iter().map(|hog| hog.pid().into()).collect();
    assert_eq!(cgroup.kernel_count_of_kills(), STORM as u64);
    for (arguments, agent) in agents {
        agent.wait_until_nothing_is_missing();
        let events = agent.stop();
        let victim = |kill: &Event| kill.number("/victim/tid").filter(|tid| pids.contains(tid));
        let kills = events.of_kind("oom_kill");
        let in_cgroup = |kill: &Event| kill.number("/task_memcg/id") == Some(cgroup.id());
        let ours: Vec<_> = kills.into_iter().filter(|kill| victim(kill).is_some() || in_cgroup(kill)).collect();
        assert_eq!(ours.len(), STORM, "by {arguments:?}: {ours:#?}");
        let victims: HashSet<u64> = ours.iter().filter_map(|kill| victim(kill)).collect();
        assert_eq!(victims.len(), if reads_log(arguments) { STORM } else { 0 }, "by {arguments:?}");
        let elsewhere = |kill: &&&Event| kill.field("/task_memcg").is_some() && !in_cgroup(kill);
        assert_eq!(ours.iter().filter(elsewhere).count(), 0, "{ours:#?}");
        assert_eq!(events.of_kind("missed").len(), 0, "by {arguments:?}");
    }
}

#[test]
fn a_group_kill_is_told_victim_by_victim_though_the_kernel_counts_the_first_one_twice() {
    require!(Agent);
    if memory_cgroup_version() == 1 {
        return say_skipped("cgroup v1 has no memory.oom.group");
    }
    let_the_log_rest();
    let cgroup = Cgroup::scratch().limited_to_mib(32);
    cgroup.write("memory.oom.group", "1");
    let counts_groups = cgroup.read("memory.events.local").contains("oom_group_kill");
    let mut members = [Hog::ready_in(&cgroup, ["sleep"]), Hog::ready_in(&cgroup, ["sleep"])];
    let agents = on_each_rung();
    let first = kill_in(&cgroup);
    members.iter_mut().for_each(Hog::wait_until_killed);
    let pids = HashSet::from([first, members[0].pid(), members[1].pid()].map(u64::from));
    for (arguments, agent) in agents {
        agent.wait_until_nothing_is_missing();
        let by_log = reads_log(arguments);
        if by_log {
            let sum = agent.wait_for("the sum", |event| event.kind() == "oom_group_kill");
            assert_eq!(sum.number("/victims"), Some(3), "{sum}");
        }
        let events = agent.stop();
        let kills = events.of_kind("oom_kill");
        let ours: Vec<_> = kills
            .into_iter()
            .filter(|kill| {
                kill.number("/task_memcg/id") == Some(cgroup.id())
                    || kill.number("/victim/tid").is_some_and(|tid| pids.contains(&tid))
            })
            .collect();
        if by_log || counts_groups {
            assert_eq!(ours.len(), 3, "by {arguments:?}: {ours:#?}");
        }
        if by_log {
            assert!(ours.iter().all(|kill| kill.flag("/group_kill") == Some(true)), "{ours:#?}");
            let incidents: HashSet<_> = ours.iter().map(|kill| kill.text("/incident_id")).collect();
            assert_eq!(incidents.len(), 1, "{ours:#?}");
        }
        assert_eq!(events.of_kind("missed").len(), 0, "by {arguments:?}: {events:#?}");
    }
}

#[test]
fn a_runc_container_is_named_and_its_outcome_told() {
    require!(Agent, Program("runc"));
    let_the_log_rest();
    let agents = on_each_rung();
    let steps = ["child", "eat=all", "end", "reap", "say=alive", "wait", "eat=all"];
    let mut container = Container::start(Runtime::Runc, 48, &steps);
    let id = container.id().to_owned();
    let named = |event: &Event| event.text("/workload/container_id") == Some(&*id);
    let outcome = |survived: bool| {
        move |event: &Event| event.kind() == "oom_outcome" && event.flag("/container_survived") == Some(survived)
    };
    container.go();
    assert_eq!(container.line(), "killed=9");
    assert_eq!(container.line(), "alive");
    for (_, agent) in &agents {
        let kill = agent.wait_for("the kill of the child", |event| event.kind() == "oom_kill" && named(event));
        assert_eq!(kill.text("/workload/runtime"), Some("runc"), "{kill}");
        let survived = agent.wait_for("the outcome", |event| named(event) && outcome(true)(event));
        assert_eq!(survived.text("/incident_id"), kill.text("/incident_id"));
    }
    container.go();
    container.wait();
    for (arguments, agent) in agents {
        if !reads_log(arguments) {
            // Its counter may have been gone before it was read.
            let told = |event: &Event| event.kind() == "missed" || (named(event) && outcome(false)(event));
            agent.wait_for("the end, or the news of a missed kill", told);
            continue;
        }
        let ended = agent.wait_for("the end", |event| named(event) && outcome(false)(event));
        assert_eq!(ended.field("/exit_code"), None, "nobody saw it: {ended}");
        let events = agent.stop();
        let kills: Vec<_> = events.of_kind("oom_kill").into_iter().filter(|event| named(event)).collect();
        assert_eq!(kills.len(), 2, "by {arguments:?}: {kills:#?}");
        assert!(kills.iter().all(|kill| kill.text("/limit_owner") == Some("container")), "{kills:#?}");
    }
}

#[test]
fn a_kill_in_a_cgroup_that_is_twenty_milliseconds_old_is_in_that_cgroup() {
    require!(Agent);
    let agents = on_each_rung();
    let cgroup = Cgroup::scratch().limited_to_mib(16);
    sleep(Duration::from_millis(20));
    kill_in(&cgroup);
    for (arguments, agent) in agents {
        if arguments == BY_LOG {
            // Which cgroup, the log may have left out.
            agent.wait_until_nothing_is_missing();
        } else {
            wait_for_kill_in(&agent, &cgroup);
        }
        let events = agent.stop();
        assert!(events.kills_below(cgroup.path()).len() <= 1, "{events:#?}");
    }
}

/// Kills told below a path, and kills told to be missed.
fn accounted(events: &[Event], parent: &Cgroup, pids: &HashSet<u64>) -> (u64, u64) {
    let of_us = |kill: &&&Event| {
        let path = kill.text("/task_memcg/path").unwrap_or_default();
        Path::new(path).starts_with(parent.path()) || kill.number("/victim/tid").is_some_and(|tid| pids.contains(&tid))
    };
    let told = events.of_kind("oom_kill").iter().filter(of_us).count() as u64;
    let missing =
        |event: &Event| event.number("/expected").unwrap_or_default() - event.number("/seen").unwrap_or_default();
    let missed = events.of_kind("missed").into_iter().map(missing).sum();
    (told, missed)
}

#[test]
fn a_cgroup_that_is_removed_at_once_leaves_an_event_or_the_news_of_a_missed_one() {
    require!(Agent);
    let parent = Cgroup::scratch();
    let agents = on_each_rung();
    let mut pids = HashSet::new();
    for round in 0..ROUNDS {
        let mut cgroup = parent.child(format!("c{round}")).limited_to_mib(16);
        pids.insert(u64::from(kill_in(&cgroup)));
        cgroup.remove();
    }
    for (arguments, agent) in agents {
        wait_for("all of them", EVENT_TIMEOUT, || {
            let (told, missed) = accounted(&agent.events(), &parent, &pids);
            (told + missed >= ROUNDS).then_some(())
        });
        agent.wait_until_nothing_is_missing();
        let (told, missed) = accounted(&agent.stop(), &parent, &pids);
        assert!(told <= ROUNDS, "told {told} of {ROUNDS} by {arguments:?}");
        assert_eq!(told + missed, ROUNDS, "told {told}, missed {missed} by {arguments:?}");
        if reads_log(arguments) {
            assert_eq!(told, ROUNDS, "by {arguments:?}");
        }
    }
}

#[test]
fn a_line_that_a_program_writes_to_the_log_is_no_kill() {
    require!(Agent);
    let cgroup = Cgroup::scratch().limited_to_mib(16);
    let agents = on_each_rung();
    let path = cgroup.path().display();
    let forged = [
        format!(
            "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg={path},\
             task_memcg={path},task=forged,pid=4242,uid=0"
        ),
        "Memory cgroup out of memory: Killed process 4242 (forged) total-vm:1kB, anon-rss:1kB, file-rss:1kB, \
         shmem-rss:1kB, UID:0 pgtables:1kB oom_score_adj:0"
            .to_owned(),
    ];
    for line in forged {
        let mut log = OpenOptions::new().write(true).open("/dev/kmsg").expect("the log");
        log.write_all(format!("<0>{line}\n").as_bytes()).expect("write to the log");
    }
    // A real one behind it says that the agents came by.
    kill_in(&cgroup);
    for (_, agent) in agents {
        agent.wait_until_nothing_is_missing();
        let events = agent.stop();
        assert!(events.iter().all(|event| event.text("/victim/comm") != Some("forged")), "{events:#?}");
        assert!(events.kills_below(cgroup.path()).len() <= 1, "{events:#?}");
    }
}

#[test]
fn names_that_look_like_the_logs_own_words_are_names() {
    require!(Agent);
    let_the_log_rest();
    let parent = Cgroup::scratch().limited_to_mib(16);
    let cgroup = parent.child("x,task=init,pid=1,uid=0");
    let agents = [BY_LOG, BY_BOTH].map(start);
    let mut hog = Hog::ready_in(&cgroup, ["comm=a,task=b) c", "eat=all"]);
    hog.go();
    hog.wait_until_killed();
    for agent in agents {
        wait_for_kill_in(&agent, &cgroup);
        let events = agent.stop();
        let kill = events.only_kill_below(parent.path());
        assert_eq!(kill.number("/victim/tid"), Some(hog.pid().into()), "{kill}");
        assert_eq!(kill.text("/victim/comm"), Some("a,task=b) c"), "{kill}");
        assert_eq!(kill.text("/oom_memcg/path"), parent.path().to_str(), "{kill}");
    }
}

/// The record of the tracepoint names a thread, and `/proc` does not always say where it was.
#[test]
fn a_victim_without_a_cgroup_is_placed_by_the_counters() {
    require!(Agent);
    let cgroup = Cgroup::scratch().limited_to_mib(16);
    let agent = start(&["--withhold", "btf"]);
    for _ in 0..5 {
        let pid = kill_in(&cgroup);
        let of_us = |event: &Event| event.kind() == "oom_kill" && event.number("/victim/tid") == Some(pid.into());
        let kill = agent.wait_for("the kill", of_us);
        if let Some(path) = kill.text("/task_memcg/path") {
            assert_eq!(Some(path), cgroup.path().to_str(), "{kill}");
            assert!(matches!(kill.text("/confidence"), Some("exact" | "counted")), "{kill}");
        }
    }
    agent.wait_until_nothing_is_missing();
    let events = agent.stop();
    assert_eq!(events[0].text("/tier"), Some("bpf+record"));
    let counted = events.kills_below(cgroup.path());
    assert_eq!(counted.len(), 5, "{counted:#?}");
    assert_eq!(events.of_kind("missed").len(), 0);
}

#[test]
fn kills_while_no_agent_ran_are_told_by_their_number() {
    require!(Agent);
    let cgroup = Cgroup::scratch().limited_to_mib(16);
    let folder = tempfile::tempdir().unwrap();
    let arguments = [BY_BOTH, &["--state-dir", folder.path().to_str().unwrap()]].concat();
    let first = start(&arguments);
    kill_in(&cgroup);
    first.wait_until_nothing_is_missing();
    drop(first.stop());
    kill_in(&cgroup);
    kill_in(&cgroup);
    let second = start(&arguments);
    let ours = |event: &Event| event.kind() == "missed" && event.number("/workload/cgroup_id") == Some(cgroup.id());
    let missed = second.wait_for("the news of kills that were missed", ours);
    assert_eq!((missed.number("/expected"), missed.number("/seen")), (Some(2), Some(0)), "{missed}");
    assert_eq!(missed.text("/since"), Some("agent_down"), "{missed}");
    assert_eq!(second.stop().kills_below(cgroup.path()).len(), 0);
}

#[test]
fn a_rung_that_cannot_be_had_ends_the_agent_where_it_is_asked_for() {
    require!(Agent);
    for (tier, reason) in [("bpf", "withheld"), ("cgroup", "withheld"), ("kmsg", "withheld")] {
        let finished = run(&mut agent_command(&["run", "--tier", tier, "--withhold", tier]));
        assert_eq!(finished.code, Some(1), "{finished:?}");
        let last = finished.stderr.lines().last().unwrap_or_default();
        assert!(last.contains("nothing works on this host") && last.contains(reason), "{finished:?}");
        assert_eq!(finished.stdout, "");
    }
    let finished = run(&mut agent_command(&["run", "--tier", "best"]));
    assert_eq!(finished.code, Some(2), "{finished:?}");
}

#[test]
fn check_shows_the_rungs_below_ebpf_and_takes_the_best_that_is_left() {
    require!(Agent);
    let check = |withheld: &str| {
        let finished = run(&mut agent_command(&["check", "--output", "json", "--withhold", withheld]));
        let report: serde_json::Value = serde_json::from_str(&finished.stdout).expect("a report");
        (finished.code, report)
    };
    let counters = if memory_cgroup_version() == 1 { "eventfd" } else { "inotify" };
    for (withheld, tier) in [("bpf", "cgroup+kmsg"), ("bpf,kmsg", "cgroup"), ("bpf,cgroup", "kmsg")] {
        let (code, report) = check(withheld);
        assert_eq!((code, report["tier"].as_str()), (Some(3), Some(tier)), "{report}");
        let by = |target: &str| {
            let features = report["features"].as_array().expect("features");
            let feature = features.iter().find(|feature| feature["target"] == target).expect("the feature");
            feature["by"].as_str().or(feature["reason"].as_str()).map(str::to_owned)
        };
        let expected = |way: &str, by: &str| if withheld.contains(way) { "withheld".to_owned() } else { by.to_owned() };
        assert_eq!(by("cgroup counters"), Some(expected("cgroup", counters)), "{report}");
        assert_eq!(by("/dev/kmsg"), Some(expected("kmsg", "kmsg")), "{report}");
        assert!(report["degraded"].to_string().contains("no eBPF program sees kills (withheld)"), "{report}");
    }
    let (code, report) = check("bpf,cgroup,kmsg");
    assert_eq!((code, report.get("tier")), (Some(1), None), "{report}");
}

#[test]
fn health_covers_the_sources_of_the_rung() {
    require!(Agent);
    for (arguments, sources) in
        [(BY_COUNTERS, &["counters"][..]), (BY_LOG, &["counters", "kmsg"]), (BY_BOTH, &["counters", "kmsg"])]
    {
        let agent = start(&[arguments, &["--listen-address", "127.0.0.1:0"]].concat());
        let address = agent.served_at();
        let healthy = wait_for("health", EVENT_TIMEOUT, || {
            let reply = get(&format!("http://{address}/healthz"), "*/*")?;
            (reply.status == 200).then_some(reply.body)
        });
        for source in sources {
            assert!(healthy.contains(&format!("{source} up")), "{healthy}");
        }
        assert!(!healthy.contains("kernel"), "{healthy}");
        let page = get(&format!("http://{address}/metrics"), "*/*").expect("a page").body;
        assert!(page.contains("oomwatch_source_up{source=\"counters\"} 1"), "{page}");
        drop(agent.stop());
    }
    assert!(fs::exists("/dev/kmsg").unwrap());
}
