//! A program of the operator's, run for each event: what it gets, and what it cannot do to the rest.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic, its helpers too")]

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use rustix::process::Signal;
use support::{
    Agent, Cgroup, Event, Events as _, Gate, Hog, Output, PROCESS_TIMEOUT, agent_command, require, run, wait_for,
};
use tempfile::TempDir;

const HUNG_CGROUPS: usize = 5;
const HOGS_IN_EACH: usize = 10;

/// A folder with a script.
struct Script {
    folder: TempDir,
}

impl Script {
    fn new(body: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("the hook");
        fs::write(&program, format!("#!/bin/sh\ncd '{}' || exit 1\n{body}\n", folder.path().display())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What `--hook` wants.
    fn command(&self, arguments: &str) -> String {
        format!("'{}' {arguments}", self.file("the hook").display())
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap_or_default()
    }
}

fn hooked(command: &str) -> Agent {
    Agent::start_with(Output::Json, &["--hook", command])
}

fn is_loss(event: &Event) -> bool {
    event.kind() == "loss" && event.text("/sink") == Some("hook")
}

fn wait_for_loss(agent: &Agent) -> Event {
    wait_for("a loss to be told", PROCESS_TIMEOUT, || agent.events().into_iter().find(is_loss))
}

fn kill_in(cgroup: &Cgroup) -> u32 {
    let mut hog = Hog::ready_in(cgroup, ["eat=all"]);
    hog.go();
    hog.wait_until_killed();
    hog.pid()
}

fn is_running(pid: &str) -> bool {
    let stat = Path::new("/proc").join(pid).join("stat");
    fs::read_to_string(stat).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn the_hook_gets_each_event_as_the_line_of_standard_output() {
    require!(Agent);
    // Several run at once, so each writes a file of its own.
    let script = Script::new(
        "echo \"$1,$2\" >arguments; file=$(mktemp got.XXXXXX) && cat >$file && mv $file $OOMWATCH_EVENT.$file",
    );
    let agent = hooked(&script.command("--to 'on call'"));
    let cgroup = Cgroup::scratch().limited_to_mib(16);
    let pid = kill_in(&cgroup);
    agent.wait_for_kill_of(pid);
    let finished = agent.finish(Signal::TERM);
    let mut got = BTreeSet::new();
    for entry in fs::read_dir(script.folder.path()).unwrap() {
        let (path, name) = (entry.as_ref().unwrap().path(), entry.unwrap().file_name().into_string().unwrap());
        let Some((event, _)) = name.split_once(".got.") else { continue };
        let line = fs::read_to_string(path).unwrap();
        assert!(line.contains(&format!("\"event\":\"{event}\"")), "OOMWATCH_EVENT={event} for {line}");
        got.insert(line);
    }
    let expected: BTreeSet<String> = finished.stdout.lines().map(|line| format!("{line}\n")).collect();
    let kill = expected.iter().find(|line| line.contains("\"oom_kill\"") && line.contains(&format!("\"pid\":{pid},")));
    assert!(kill.is_some(), "the kill is told: {expected:?}");
    assert_eq!(got, expected);
    assert_eq!(script.read("arguments"), "--to,on call\n");
}

#[test]
fn the_agent_is_the_last_to_be_killed_and_the_first_to_run_and_its_hook_one_among_others() {
    require!(Agent);
    let script = Script::new("nice >nice; cat /proc/self/oom_score_adj >score.$$; mv score.$$ score");
    let agent = hooked(&script.command(""));
    wait_for("the hook to have run", PROCESS_TIMEOUT, || script.file("score").exists().then_some(()));
    assert_eq!((&*script.read("score"), &*script.read("nice")), ("0\n", "0\n"));
    // What others may keep busy has no precedence.
    for (thread, nice) in nice_of_threads(agent.pid()) {
        let is_first = thread == "oomwatch" || thread == "stdout";
        assert_eq!(nice, if is_first { -10 } else { 0 }, "{thread}");
    }
    let own = fs::read_to_string(format!("/proc/{}/oom_score_adj", agent.pid())).unwrap();
    // Virtual machines of some clouds give root no `CAP_SYS_RESOURCE`.
    assert_eq!(own, if may_be_spared() { "-999\n" } else { "0\n" });
    agent.stop();
}

/// Names of a process' threads, and how nice they are.
fn nice_of_threads(pid: u32) -> Vec<(String, i64)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let stats = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("stat")).unwrap());
    let nice = |stat: String| {
        let (begin, rest) = stat.rsplit_once(") ").unwrap();
        let (_, name) = begin.split_once(" (").unwrap();
        // The nineteenth field, of which the third is the first behind the name.
        (name.to_owned(), rest.split(' ').nth(16).unwrap().parse().unwrap())
    };
    stats.map(nice).collect()
}

/// Whether this machine lets a process of root's be killed later than others.
fn may_be_spared() -> bool {
    let file = "/proc/self/oom_score_adj";
    let before = fs::read_to_string(file).unwrap();
    let may = fs::write(file, "-1").is_ok();
    fs::write(file, before).unwrap();
    may
}

#[test]
fn a_hung_hook_delays_no_kill_is_told_and_leaves_nothing_behind() {
    require!(Agent);
    let script = Script::new("sleep 600 &\necho $$ $! >>pids\nwait");
    let agent = hooked(&script.command(""));
    let parent = Cgroup::scratch();
    let cgroups: Vec<Cgroup> =
        (0..HUNG_CGROUPS).map(|index| parent.child(format!("c{index}")).limited_to_mib(48)).collect();
    let gate = Gate::new();
    let mut hogs: Vec<Hog> = cgroups
        .iter()
        .flat_map(|cgroup| vec![cgroup; HOGS_IN_EACH])
        .map(|cgroup| Hog::start_behind(&gate, [cgroup.join_step(), "wait".into(), "eat=all".into()]))
        .collect();
    wait_for("all hogs to be at their places", PROCESS_TIMEOUT, || {
        cgroups.iter().all(|cgroup| cgroup.processes().len() == HOGS_IN_EACH).then_some(())
    });
    gate.open();
    hogs.iter_mut().for_each(Hog::wait_until_killed);
    for hog in &hogs {
        agent.wait_for_kill_of(hog.pid());
    }
    let loss = wait_for_loss(&agent);
    assert_eq!(loss.text("/stage"), Some("sink"), "{loss}");
    let events = agent.stop_though_lossy("hook");
    assert_eq!(events.kills_below(parent.path()).len(), HUNG_CGROUPS * HOGS_IN_EACH);
    let pids = script.read("pids");
    assert!(pids.lines().count() > 4, "a hook that hangs is ended, and the next one has its turn: {pids}");
    for pid in pids.split_whitespace() {
        wait_for(&format!("{pid} to be over"), PROCESS_TIMEOUT, || (!is_running(pid)).then_some(()));
    }
}

#[test]
fn a_hook_that_fails_is_told_with_its_reason_and_only_its_own_events_are_lost() {
    require!(Agent);
    let script = Script::new("echo 'no pager today' >&2; exit 3");
    let agent = hooked(&script.command(""));
    let cgroup = Cgroup::scratch().limited_to_mib(16);
    let pid = kill_in(&cgroup);
    agent.wait_for_kill_of(pid);
    wait_for("the loss of all events but the news of it", PROCESS_TIMEOUT, || {
        let (news, others): (Vec<Event>, Vec<Event>) = agent.events().into_iter().partition(is_loss);
        let lost: u64 = news.iter().filter_map(|event| event.number("/lost")).sum();
        (lost == others.len() as u64).then_some(())
    });
    let finished = agent.finish(Signal::TERM);
    let reason = "the hook failed: it ended with exit status: 3: no pager today";
    assert!(finished.stderr.contains(reason), "{}", finished.stderr);
}

#[test]
fn a_hook_that_is_not_there_is_told_at_the_start() {
    require!(Agent);
    let agent = hooked("/no/such/hook --really");
    wait_for_loss(&agent);
    let finished = agent.finish(Signal::TERM);
    assert!(finished.stderr.contains("there is no program /no/such/hook"), "{}", finished.stderr);
}

#[test]
fn a_hook_that_is_no_command_is_refused() {
    require!(Agent);
    for (hook, why) in [("notify 'on call", "not closed"), ("", "must be a command"), ("''", "must be a command")] {
        let finished = run(&mut agent_command(&["run", "--hook", hook]));
        assert_eq!((finished.code, finished.stdout.as_str()), (Some(2), ""), "{hook}: {finished:?}");
        let named = ["--hook", why].iter().all(|word| finished.stderr.contains(word));
        assert!(named, "{hook}: {}", finished.stderr);
    }
}
