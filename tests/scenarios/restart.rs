//! Agents that end and begin again while the kernel kills.

use std::{
    collections::{HashMap, HashSet},
    fs,
    time::SystemTime,
};

use support::{
    Agent, Cgroup, Container, EVENT_TIMEOUT, Event, Events as _, Gate, Hog, PROCESS_TIMEOUT, Runtime, State, in_guest,
    memory_cgroup_version, require, unescaped, wait_for,
};

/// A process killed for its cgroup's limit.
fn kill_one(cgroup: &Cgroup) -> u32 {
    let mut hog = Hog::ready_in(cgroup, ["comm=victim", "eat=all"]);
    hog.go();
    hog.wait_until_killed();
    hog.pid()
}

/// An agent that came, told of a kill in this cgroup, and ended.
fn an_agent_tells_a_kill(state: &State, cgroup: &Cgroup) {
    let agent = state.agent();
    agent.wait_for_kill_of(kill_one(cgroup));
    agent.stop();
}

/// The programs that go on recording while no agent runs.
fn pinned_links(state: &State) -> Vec<String> {
    let files = state.generations().into_iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten());
    let names = files.filter_map(|file| Some(file.ok()?.file_name().to_string_lossy().into_owned()));
    names.filter(|name| name.starts_with("link_")).collect()
}

/// What is told to be missing in a cgroup.
fn missed_in<'a>(events: &'a [Event], cgroup: &Cgroup) -> Vec<&'a Event> {
    let there =
        |event: &&Event| event.text("/workload/cgroup_path").is_some_and(|path| unescaped(path) == cgroup.path_bytes());
    events.of_kind("missed").into_iter().filter(there).collect()
}

#[test]
fn a_kill_while_no_agent_runs_is_told_by_the_next_one_in_full_and_by_no_other() {
    require!(Agent);
    let state = State::new();
    let cgroup = Cgroup::scratch().limited_to_mib(32);
    an_agent_tells_a_kill(&state, &cgroup);
    let links = pinned_links(&state);
    assert!(!links.is_empty() && !links.iter().any(|link| link.contains("sched_process")), "{links:?}");
    let victim = kill_one(&cgroup);
    let after = SystemTime::now();

    let second = state.agent();
    let kill = second.wait_for_kill_of(victim);
    assert_eq!(kill.text("/victim/comm"), Some("victim"), "{kill}");
    assert_eq!(kill.number("/task_memcg/id"), Some(cgroup.id()), "{kill}");
    assert!(kill.number("/memory/anon_rss_bytes").is_some_and(|bytes| bytes > 0), "{kill}");
    assert!(kill.time() <= after, "it happened before the agent began: {kill}");
    second.wait_until_nothing_is_missing();
    let events = second.stop();
    assert_eq!(events.kills_below(cgroup.path()).len(), 1, "{events:#?}");
    assert_eq!(missed_in(&events, &cgroup).len(), 0, "{events:#?}");
    assert_eq!(state.generations().len(), 1, "only the last agent's programs stay");

    let third = state.agent();
    third.wait_until_nothing_is_missing();
    let events = third.stop();
    assert_eq!(events.kills_below(cgroup.path()).len(), 0, "{events:#?}");
    assert_eq!(missed_in(&events, &cgroup).len(), 0, "{events:#?}");
}

#[test]
fn a_warning_is_not_told_again_by_the_next_agent_and_the_kill_after_it_is_of_the_same_incident() {
    require!(Agent);
    let state = State::new();
    let near_limit_of = |cgroup: &Cgroup| {
        let id = cgroup.id();
        move |event: &Event| event.kind() == "near_limit" && event.number("/workload/cgroup_id") == Some(id)
    };
    let full = || {
        let cgroup = Cgroup::scratch().limited_to_mib(128);
        let mut hog = Hog::ready_in(&cgroup, ["eat=123", "say=full", "wait", "eat=all"]);
        hog.go();
        hog.wait_until_it_says("full");
        (hog, cgroup)
    };
    let first = state.agent_with(&["--warn-all"]);
    let (mut hog, cgroup) = full();
    let warning = first.wait_for("a warning", near_limit_of(&cgroup));
    let is_kept = || state.journal().iter().any(near_limit_of(&cgroup)).then_some(());
    wait_for("it to be in the journal", EVENT_TIMEOUT, is_kept);
    first.kill();
    let second = state.agent_with(&["--warn-all"]);
    let (_hog, later) = full();
    second.wait_for("a warning of what is new, so that all was looked at", near_limit_of(&later));
    hog.go();
    hog.wait_until_killed();
    let kill = second.wait_for_kill_of(hog.pid());
    assert_eq!(kill.text("/incident_id"), warning.text("/incident_id"), "{kill}");
    let events = second.stop();
    let is_again = near_limit_of(&cgroup);
    assert_eq!(events.iter().filter(|event| is_again(event)).count(), 0, "{events:#?}");
}

#[test]
fn kills_while_nothing_is_pinned_are_told_by_their_number() {
    require!(Agent);
    let state = State::new();
    let cgroup = Cgroup::scratch().limited_to_mib(32);
    an_agent_tells_a_kill(&state, &cgroup);
    state.unpin();
    kill_one(&cgroup);
    kill_one(&cgroup);

    let second = state.agent();
    let ours = |event: &Event| !missed_in(std::slice::from_ref(event), &cgroup).is_empty();
    let missed = second.wait_for("the news of kills that were missed", ours);
    assert_eq!(missed.number("/expected"), Some(2), "{missed}");
    assert_eq!(missed.number("/seen"), Some(0), "{missed}");
    assert_eq!(missed.text("/since"), Some("agent_down"), "{missed}");
    assert_eq!(missed.text("/source"), Some("reconcile"), "{missed}");
    second.wait_until_nothing_is_missing();
    let events = second.stop();
    assert_eq!(missed_in(&events, &cgroup).len(), 1, "{events:#?}");
    let third = state.agent();
    third.wait_until_nothing_is_missing();
    assert_eq!(missed_in(&third.stop(), &cgroup).len(), 0);
}

#[test]
fn what_became_of_a_container_is_told_of_a_kill_just_before_the_start_too() {
    require!(Agent, Program("runc"));
    let state = State::new();
    let first = state.agent();
    let mut container = Container::start(Runtime::Runc, 48, &["child", "eat=all", "end", "reap", "say=alive", "wait"]);
    first.kill();
    container.go();
    assert_eq!(container.line(), "killed=9");
    let second = state.agent();
    let of_it = |kind: &'static str| {
        let id = container.cgroup().id();
        move |event: &Event| event.kind() == kind && event.number("/workload/cgroup_id") == Some(id)
    };
    let kill = second.wait_for("the kill", of_it("oom_kill"));
    let outcome = second.wait_for("the outcome", of_it("oom_outcome"));
    assert_eq!(outcome.flag("/container_survived"), Some(true), "{outcome}");
    assert_eq!(outcome.text("/incident_id"), kill.text("/incident_id"), "{outcome}");
    second.stop();
}

#[test]
fn a_container_that_was_killed_and_deleted_while_no_agent_ran_is_named() {
    require!(Agent, Program("runc"));
    let state = State::new();
    let first = state.agent();
    let mut container = Container::start(Runtime::Runc, 48, &["eat=all"]);
    let is_kept = || {
        let kept = fs::read_to_string(state.file("state.json")).unwrap_or_default();
        kept.contains(container.id()).then_some(())
    };
    wait_for("the container to be in the agent's state", EVENT_TIMEOUT, is_kept);
    first.kill();
    container.go();
    container.wait();
    assert!(!container.cgroup().folder().exists(), "its cgroup is gone");

    let second = state.agent();
    let kill = second.wait_for_kill_of(container.init());
    let said = ["/workload/container_id", "/workload/runtime", "/limit_owner"].map(|field| kill.text(field));
    assert_eq!(said, [Some(container.id()), Some("runc"), Some("container")], "{kill}");
    drop(second.stop());
}

/// As after an upgrade to a build that reads records otherwise.
#[test]
fn kills_recorded_in_a_way_that_cannot_be_read_are_told_by_their_number() {
    require!(Agent);
    let state = State::new();
    let cgroup = Cgroup::scratch().limited_to_mib(32);
    an_agent_tells_a_kill(&state, &cgroup);
    let [generation] = &state.generations()[..] else { panic!("{:?}", state.generations()) };
    let (folder, name) = (generation.parent().unwrap(), generation.file_name().unwrap().to_str().unwrap());
    let number = name.rsplit('-').next().unwrap();
    fs::rename(generation, folder.join(format!("0-1-f-{number}"))).unwrap();
    kill_one(&cgroup);
    kill_one(&cgroup);

    let second = state.agent();
    let ours = |event: &Event| !missed_in(std::slice::from_ref(event), &cgroup).is_empty();
    let missed = second.wait_for("the news of kills that were missed", ours);
    assert_eq!((missed.number("/expected"), missed.number("/seen")), (Some(2), Some(0)), "{missed}");
    second.wait_until_nothing_is_missing();
    let events = second.stop();
    assert_eq!(events.kills_below(cgroup.path()).len(), 0, "{events:#?}");
    assert_eq!(missed_in(&events, &cgroup).len(), 1, "{events:#?}");
    let left = state.generations();
    assert!(
        left.len() == 1 && !left[0].to_str().unwrap().contains("0-1-f-"),
        "what cannot be read is removed: {left:?}"
    );
}

/// Many processes that are killed one after the other.
struct Rain {
    cgroups: Vec<Cgroup>,
    parent: Cgroup,
    hogs: Vec<Hog>,
}

impl Rain {
    const CGROUPS: usize = 4;

    /// A hundred and sixty take half a minute to start and to be killed in the virtual machine.
    fn hogs_in_each() -> usize {
        if in_guest() { 20 } else { 40 }
    }

    /// Ready to fall when the gate opens.
    fn behind(gate: &Gate) -> Self {
        let parent = Cgroup::scratch();
        let cgroups: Vec<Cgroup> =
            (0..Self::CGROUPS).map(|index| parent.child(format!("c{index}")).limited_to_mib(24)).collect();
        let mut hogs = Vec::new();
        for cgroup in &cgroups {
            for _ in 0..Self::hogs_in_each() {
                hogs.push(Hog::start_behind(gate, [cgroup.join_step(), "wait".into(), "eat=all".into()]));
            }
        }
        wait_for("all hogs to be at their places", PROCESS_TIMEOUT, || {
            cgroups.iter().all(|cgroup| cgroup.processes().len() == Self::hogs_in_each()).then_some(())
        });
        Self { cgroups, parent, hogs }
    }

    fn wait_for_end(&mut self) -> HashSet<u64> {
        self.hogs.iter_mut().for_each(Hog::wait_until_killed);
        let counted: u64 = self.cgroups.iter().map(Cgroup::kernel_count_of_kills).sum();
        assert_eq!(counted, self.hogs.len() as u64, "the kernel's own count");
        self.hogs.iter().map(|hog| u64::from(hog.pid())).collect()
    }

    fn wait_for_kills(&self, agent: &Agent, count: usize) {
        wait_for("some kills", PROCESS_TIMEOUT, || {
            (agent.events().kills_below(self.parent.path()).len() >= count).then_some(())
        });
    }

    /// How often each victim was told.
    fn told(&self, runs: &[Vec<Event>]) -> HashMap<u64, usize> {
        let mut told = HashMap::new();
        for events in runs {
            for kill in events.kills_below(self.parent.path()) {
                *told.entry(kill.number("/victim/pid").unwrap_or_default()).or_default() += 1;
            }
            for cgroup in &self.cgroups {
                assert_eq!(missed_in(events, cgroup).len(), 0, "{:#?}", events.of_kind("missed"));
            }
        }
        told
    }
}

#[test]
fn an_agent_killed_in_a_storm_loses_nothing() {
    require!(Agent);
    let (state, gate) = (State::new(), Gate::new());
    let mut rain = Rain::behind(&gate);
    let first = state.agent();
    gate.open();
    rain.wait_for_kills(&first, 10);
    let before = first.kill();
    let second = state.agent();
    rain.wait_for_kills(&second, 1);
    let between = second.kill();
    let third = state.agent();
    let victims = rain.wait_for_end();
    third.wait_until_nothing_is_missing();
    let after = third.stop();
    let told = rain.told(&[before, between, after]);
    let lost: Vec<_> = victims.iter().filter(|pid| !told.contains_key(pid)).collect();
    assert!(lost.is_empty(), "{} of {} kills are told by nobody: {lost:?}", lost.len(), victims.len());
    assert_eq!(told.len(), victims.len(), "others than the victims are told");
    let journal = rain.told(&[state.journal()]);
    let twice: Vec<_> = journal.iter().filter(|(_, times)| **times != 1).collect();
    assert!(
        twice.is_empty(),
        "{} of {} kills are in the journal more than once: {twice:?}",
        twice.len(),
        victims.len()
    );
    assert_eq!(journal.into_keys().collect::<HashSet<_>>(), victims, "the journal of all agents is the kernel's count");
}

#[test]
fn an_upgrade_while_kills_rain_down_loses_none_and_tells_none_twice() {
    require!(Agent);
    let (state, gate) = (State::new(), Gate::new());
    let upgraded = state.file("oomwatch");
    fs::copy(std::env::var_os("OOMWATCH_BIN").expect("OOMWATCH_BIN"), &upgraded).expect("copy the agent");
    let mut rain = Rain::behind(&gate);
    let old = state.agent();
    gate.open();
    rain.wait_for_kills(&old, 10);
    let before = old.stop();
    let new = state.agent_of(&upgraded);
    let victims = rain.wait_for_end();
    new.wait_until_nothing_is_missing();
    let after = new.stop();
    let told = rain.told(&[before, after]);
    assert_eq!(told.keys().copied().collect::<HashSet<_>>(), victims);
    assert!(told.values().all(|times| *times == 1), "{told:?}");
}

#[test]
fn state_that_cannot_be_used_is_said_once_and_made_anew() {
    require!(Agent);
    let state = State::new();
    let cgroup = Cgroup::scratch().limited_to_mib(32);
    state.agent().stop();
    let account = fs::read_to_string(state.file("account")).expect("an account");
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("the boot id");
    let another = account.replace(boot_id.trim(), "01234567-89ab-cdef-0123-456789abcdef");
    assert_ne!(account, another);
    for (content, said) in [(another.as_bytes(), false), (b"\xff garbage".as_slice(), true)] {
        fs::write(state.file("account"), content).expect("spoil the account");
        let agent = state.agent();
        let victim = kill_one(&cgroup);
        agent.wait_for_kill_of(victim);
        agent.wait_until_nothing_is_missing();
        let news = agent.log().iter().filter(|line| line.contains("made anew")).count();
        assert_eq!(news, usize::from(said), "{:#?}", agent.log());
        let events = agent.stop();
        assert_eq!(events.kills_below(cgroup.path()).len(), 1);
        assert_eq!(missed_in(&events, &cgroup).len(), 0);
    }
    let agent = state.agent();
    agent.wait_until_nothing_is_missing();
    assert!(!agent.log().iter().any(|line| line.contains("made anew")), "it is whole again");
    agent.stop();
}

#[test]
fn a_second_agent_with_the_same_state_says_so_and_keeps_nothing() {
    require!(Agent);
    let state = State::new();
    let cgroup = Cgroup::scratch().limited_to_mib(32);
    let (first, second) = (state.agent(), state.agent());
    second.wait_for_log("another agent keeps its state");
    let victim = kill_one(&cgroup);
    for agent in [&first, &second] {
        agent.wait_for_kill_of(victim);
        agent.wait_until_nothing_is_missing();
    }
    second.stop();
    assert_eq!(state.generations().len(), 1, "only the first one's programs stay");
    first.stop();
    let third = state.agent();
    third.wait_until_nothing_is_missing();
    assert_eq!(third.stop().kills_below(cgroup.path()).len(), 0, "the first one told it");
}

#[test]
fn a_folder_for_pins_that_belongs_to_somebody_else_is_said_and_not_used() {
    require!(Agent);
    let state = State::new();
    state.pre_empt();
    let cgroup = Cgroup::scratch().limited_to_mib(32);
    let agent = state.agent();
    agent.wait_for_log("belongs to another user");
    let victim = kill_one(&cgroup);
    agent.wait_for_kill_of(victim);
    agent.wait_until_nothing_is_missing();
    agent.stop();
    assert_eq!(state.generations().len(), 0, "nothing of ours is there");
}

#[test]
fn an_agent_that_keeps_nothing_leaves_nothing() {
    require!(Agent);
    assert!(matches!(memory_cgroup_version(), 1 | 2));
    let state = State::new();
    let agent = Agent::start();
    agent.stop();
    assert_eq!(state.generations().len(), 0);
}
