//! The journal, the socket and `oomwatch events`: each event once, across restarts, and each output fails alone.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic, its helpers too")]

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    io::{BufRead as _, BufReader, Read, Write as _, pipe},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
};

use rustix::process::Signal;
use serde_json::Value;
use support::{
    Agent, Cgroup, EVENT_TIMEOUT, Finished, Gate, Hog, Mount, Output, PROCESS_TIMEOUT, agent_command, require, run,
    wait_for,
};
use tempfile::TempDir;

/// Where an agent has its outputs.
struct Place {
    folder: TempDir,
    limited: Cgroup,
    // Last: it holds the other.
    cgroup: Cgroup,
}

impl Place {
    fn new() -> Self {
        let cgroup = Cgroup::scratch();
        let limited = cgroup.child("limited").limited_to_mib(16);
        Self { folder: tempfile::tempdir().unwrap(), cgroup, limited }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).into_os_string().into_string().unwrap()
    }

    fn socket(&self) -> String {
        self.path("run/oomwatch.sock")
    }

    fn state(&self) -> String {
        self.path("state")
    }

    fn start(&self, output: Output) -> Agent {
        Agent::start_with(output, &["--socket", &self.socket(), "--state-dir", &self.state()])
    }

    /// One more process killed; its id.
    fn kill(&self) -> u64 {
        let mut hog = Hog::ready_in(&self.limited, ["eat=all"]);
        hog.go();
        hog.wait_until_killed();
        hog.pid().into()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = agent_command(&["events", "--socket", &self.socket(), "--state-dir", &self.state()]);
        command.args(arguments);
        command
    }

    fn events(&self, arguments: &[&str]) -> Finished {
        run(&mut self.command(arguments))
    }

    /// Victims in the order they are told.
    fn victims(&self, lines: &str) -> Vec<u64> {
        lines.lines().filter_map(|line| self.victim(&json(line))).collect()
    }

    /// The victim, if this is a kill here: others on this machine may run out of memory at the same time.
    fn victim(&self, event: &Value) -> Option<u64> {
        let path = event.pointer("/task_memcg/path").and_then(Value::as_str)?;
        Path::new(path)
            .starts_with(self.cgroup.path())
            .then(|| event.pointer("/victim/pid").and_then(Value::as_u64))
            .flatten()
    }

    fn journal(&self) -> PathBuf {
        self.folder.path().join("state/events")
    }
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON ({error}): {line}"))
}

/// Everything in the journal's files, oldest first, but a line that is being written.
fn journal(folder: &Path) -> String {
    let mut text = raw_journal(folder);
    text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
    text
}

fn raw_journal(folder: &Path) -> String {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read_to_string(file).unwrap()).collect()
}

/// A program whose lines are followed. Ended on drop.
struct Following {
    child: Child,
    lines: Receiver<String>,
}

impl Following {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn wait_for_line(&self, wanted: impl Fn(&str) -> bool) -> String {
        wait_for_line(&self.lines, wanted)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // An error says that it ended before.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn lines_of(source: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        BufReader::new(source).lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
    });
    lines
}

fn wait_for_line(lines: &Receiver<String>, wanted: impl Fn(&str) -> bool) -> String {
    wait_for("a line", EVENT_TIMEOUT, || lines.try_iter().find(|line| wanted(line)))
}

#[test]
fn kills_are_in_the_journal_and_at_the_socket_exactly_once_also_across_restarts() {
    require!(Agent);
    let place = Place::new();
    let agent = place.start(Output::Text);
    let client = UnixStream::connect(place.socket()).unwrap();
    let heard = lines_of(client);
    let first = place.kill();
    wait_for_line(&heard, |line| place.victim(&json(line)) == Some(first));
    let told = agent.finish(Signal::TERM).stdout;

    let shown = place.events(&[]);
    assert_eq!((shown.code, shown.stdout.as_str(), shown.stderr.as_str()), (Some(0), told.as_str(), ""));

    let agent = place.start(Output::Json);
    let second = place.kill();
    wait_for("the kill in the journal", EVENT_TIMEOUT, || {
        place.victims(&journal(&place.journal())).contains(&second).then_some(())
    });
    // Ended in the middle of everything.
    drop(agent);
    assert!(Path::new(&place.socket()).exists(), "a dead agent leaves its socket behind");
    let agent = place.start(Output::Json);
    assert_eq!(place.victims(&place.events(&["--output", "json"]).stdout), [first, second]);
    let third = place.kill();
    agent.wait_for_kill_of(u32::try_from(third).unwrap());
    agent.stop();
    let all = place.events(&["--output", "json", "--since", "1h"]).stdout;
    assert_eq!(place.victims(&all), [first, second, third]);
    assert_eq!(all, journal(&place.journal()), "the journal as it is");
    assert_eq!(place.events(&["--since", "0s"]).stdout, "");
    let file = fs::metadata(place.journal().join("00000001.jsonl")).unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
}

#[test]
fn events_are_followed_without_a_gap_or_a_duplicate() {
    require!(Agent);
    let place = Place::new();
    let agent = place.start(Output::Json);
    let before = place.kill();
    let following = Following::start(&mut place.command(&["--follow", "--since", "10m", "--output", "json"]));
    // Some while it reads the journal, some later.
    let mut killed = vec![before, place.kill(), place.kill()];
    let mut seen = Vec::new();
    let mut until = |last: u64| {
        wait_for("the kill to be shown", EVENT_TIMEOUT, || {
            seen.extend(following.lines.try_iter().filter_map(|line| place.victim(&json(&line))));
            seen.contains(&last).then_some(())
        });
        seen.clone()
    };
    assert_eq!(until(killed[2]), killed);
    killed.push(place.kill());
    assert_eq!(until(killed[3]), killed);

    let in_text = Following::start(&mut place.command(&["-f"]));
    in_text.wait_for_line(|line| line.contains("OOM") || line.contains("oomwatch started"));
    let pid = format!(" pid={} ", place.kill());
    in_text.wait_for_line(|line| line.contains(" WRN OOM kill detected ") && line.contains(&pid));
    agent.stop();
    following.wait_for_line(|line| json(line)["event"] == "agent_stopped");
    let mut ended = following;
    let status = wait_for("the follower to end", PROCESS_TIMEOUT, || ended.child.try_wait().unwrap());
    assert_eq!(status.code(), Some(1), "nobody is there any more");
}

#[test]
fn without_an_agent_or_a_journal_one_sentence_says_what_to_do() {
    require!(Agent);
    let place = Place::new();
    for (arguments, words) in [(&[][..], ["no journal", "--state-dir"]), (&["--follow"], ["no agent", "oomwatch run"])]
    {
        let refused = place.events(arguments);
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""), "{refused:?}");
        assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
        assert!(words.iter().all(|word| refused.stderr.contains(word)), "{}", refused.stderr);
    }
    assert_eq!(place.events(&["--since", "yesterday"]).code, Some(2));
}

#[test]
fn what_is_no_event_of_this_version_is_shown_and_breaks_nothing() {
    require!(Agent);
    let place = Place::new();
    place.start(Output::Json).stop();
    let file = place.journal().join("00000001.jsonl");
    let future = r#"{"schema":9,"event":"moon_phase","timestamp":"2026-11-22T20:00:00Z"}"#;
    let mut journal = File::options().append(true).open(&file).unwrap();
    journal.write_all(format!("\x1b[31m\u{0} garbage\n{future}\n{{\"half").as_bytes()).unwrap();
    let shown = place.events(&[]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert!(shown.stdout.contains("\n\\x1b[31m\\x00 garbage\n"), "{}", shown.stdout);
    assert!(shown.stdout.contains(future), "{}", shown.stdout);
    assert!(shown.stderr.contains("middle of a line"), "{}", shown.stderr);
    let shown = place.events(&["--output", "json"]);
    assert!(shown.stdout.lines().all(|line| json(line).is_object()) && shown.stdout.contains(future));
    assert!(shown.stderr.contains("garbage"), "{}", shown.stderr);
    // The next agent's lines begin on a line of their own.
    place.start(Output::Json).stop();
    let lines = fs::read_to_string(&file).unwrap();
    assert!(!lines.contains("half"), "{lines}");
    let of_events: Vec<Value> = lines.lines().filter(|line| !line.contains("garbage")).map(json).collect();
    assert_eq!(of_events.iter().filter(|event| event["event"] == "agent_stopped").count(), 2, "{lines}");
}

#[test]
fn a_reader_that_has_seen_enough_ends_it_quietly() {
    require!(Agent);
    let place = Place::new();
    place.start(Output::Json).stop();
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let mut child = place.command(&[]).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let status = wait_for("its end", PROCESS_TIMEOUT, || child.try_wait().unwrap());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((status.code(), said.as_str()), (Some(0), ""));
}

#[test]
fn a_full_disk_costs_only_the_journal_and_it_works_again_once_there_is_room() {
    require!(Agent);
    let place = Place::new();
    let disk = Mount::new("tmpfs", c"size=1m,mode=700");
    let state = disk.folder().to_str().unwrap();
    let agent = Agent::start_with(Output::Json, &["--socket", &place.socket(), "--state-dir", state]);
    let heard = lines_of(UnixStream::connect(place.socket()).unwrap());
    let mut killed = vec![place.kill()];
    let folder = disk.folder().join("events");
    wait_for("the first kill in the journal", EVENT_TIMEOUT, || {
        (place.victims(&journal(&folder)) == killed).then_some(())
    });
    let filler = disk.folder().join("filler");
    let mut file = File::create(&filler).unwrap();
    while file.write_all(&[0; 1024]).is_ok() {}
    // What is left of the last page is filled first.
    wait_for("the loss to be told", PROCESS_TIMEOUT, || {
        killed.push(place.kill());
        agent.lines().iter().any(|line| lost_in_journal(&json(line))).then_some(())
    });
    wait_for("every kill on standard output", EVENT_TIMEOUT, || {
        (place.victims(&agent.lines().join("\n")) == killed).then_some(())
    });
    wait_for("no half line to stay", EVENT_TIMEOUT, || raw_journal(&folder).ends_with('\n').then_some(()));
    fs::remove_file(&filler).unwrap();
    drop(file);
    let last = place.kill();
    killed.push(last);
    wait_for("the journal to work again", EVENT_TIMEOUT, || {
        place.victims(&journal(&folder)).contains(&last).then_some(())
    });
    let finished = agent.finish(Signal::TERM);
    assert_eq!(place.victims(&finished.stdout), killed, "standard output had all");
    let at_the_socket: Vec<_> = heard.iter().collect();
    assert_eq!(place.victims(&at_the_socket.join("\n")), killed, "so had the socket");
    check_losses(&raw_journal(&folder), &finished.stdout);
    let said = |what: &str| finished.stderr.matches(what).count();
    assert!(said("the journal cannot be written") > 0, "{}", finished.stderr);
    assert_eq!(said("the journal cannot be written"), said("the journal can be written again"), "{}", finished.stderr);
}

/// Every gap in the journal's numbers is told there, to the number; reports of its own losses are no events it lost.
fn check_losses(journal: &str, all: &str) {
    let all: BTreeMap<u64, Value> = all.lines().map(json).map(|event| (seq(&event), event)).collect();
    let (mut expected, mut told) = (1, 0);
    for line in journal.lines().map(json) {
        if line.get("seq").is_none() {
            assert_eq!((&line["event"], &line["sink"]), (&"loss".into(), &"journal".into()));
            told += line["lost"].as_u64().unwrap();
            continue;
        }
        let missing = all.range(expected..seq(&line)).filter(|(_, event)| !lost_in_journal(event)).count();
        assert_eq!(told, missing as u64, "before {line}");
        (expected, told) = (seq(&line) + 1, 0);
    }
    assert_eq!(expected, all.len() as u64 + 1, "the end is there");
}

fn lost_in_journal(event: &Value) -> bool {
    event["event"] == "loss" && event["sink"] == "journal"
}

fn seq(event: &Value) -> u64 {
    event["seq"].as_u64().unwrap()
}

const ROUNDS: usize = 4;
const CGROUPS: usize = 8;
const HOGS_IN_EACH: usize = 50;

/// A client that sleeps through a storm, one that does not, and a journal that must not grow.
#[test]
fn in_a_storm_a_sleeping_client_is_told_what_it_lost_and_the_journal_keeps_its_bound() {
    require!(Agent);
    let place = Place::new();
    let (socket, state) = (place.socket(), place.state());
    let arguments = ["--socket", &socket, "--state-dir", &state, "--journal-mib", "1"];
    let agent = Agent::start_with(Output::Json, &arguments);
    let sleeping = UnixStream::connect(&socket).unwrap();
    let awake = UnixStream::connect(&socket).unwrap();
    wait_until_all_are_taken_in(&place);
    let awake = lines_of(awake);
    let (mut killed, mut heard) = (HashSet::new(), Vec::new());
    for _ in 0..ROUNDS {
        killed.extend(storm(&place.cgroup));
        wait_for("the one awake to hear it all", PROCESS_TIMEOUT, || {
            heard.extend(awake.try_iter().filter_map(|line| place.victim(&json(&line))));
            (heard.len() >= killed.len()).then_some(())
        });
    }
    // Woken while the agent runs, else it gets nothing but what the kernel kept.
    let woken = lines_of(sleeping);
    let finished = agent.finish(Signal::TERM);
    assert_eq!(place.victims(&finished.stdout).len(), killed.len(), "standard output had all");
    assert_eq!(heard.into_iter().collect::<HashSet<_>>(), killed, "so had the one that was awake");
    let (mut lost, mut next) = (0, None);
    for event in woken.iter().map(|line| json(&line)) {
        if event.get("seq").is_none() {
            assert_eq!((&event["event"], &event["sink"]), (&"loss".into(), &"socket".into()));
            lost += event["lost"].as_u64().unwrap();
            next = next.map(|next| next + event["lost"].as_u64().unwrap());
        } else {
            assert!(next.is_none_or(|next| next == seq(&event)), "a gap that nobody told of before {event}");
            next = Some(seq(&event) + 1);
        }
    }
    assert!(lost > 0, "it slept through {} kills", killed.len());
    assert_eq!(next, Some(finished.stdout.lines().count() as u64 + 1), "it heard the end");

    let files = fs::read_dir(place.journal()).unwrap();
    let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!((1 << 19..=1 << 20).contains(&bytes), "{bytes}");
    let kept = raw_journal(&place.journal());
    assert!(finished.stdout.ends_with(&kept), "the journal has the newest events, whole and in order");
}

/// Clients are taken in one after the other: one that got an answer is the last.
fn wait_until_all_are_taken_in(place: &Place) {
    let mut client = UnixStream::connect(place.socket()).unwrap();
    client.write_all(b"workloads\n").unwrap();
    let mut answer = String::new();
    BufReader::new(client).read_line(&mut answer).unwrap();
    assert!(json(&answer)["workloads"].is_array(), "{answer}");
}

/// Many kills at once; whom.
fn storm(parent: &Cgroup) -> Vec<u64> {
    let cgroups: Vec<Cgroup> = (0..CGROUPS).map(|index| parent.child(format!("c{index}")).limited_to_mib(48)).collect();
    let gate = Gate::new();
    let steps = |cgroup: &Cgroup| [cgroup.join_step(), "wait".into(), "eat=all".into()];
    let mut hogs = Vec::new();
    for cgroup in &cgroups {
        hogs.extend((0..HOGS_IN_EACH).map(|_| Hog::start_behind(&gate, steps(cgroup))));
    }
    wait_for("all hogs to be at their places", PROCESS_TIMEOUT, || {
        cgroups.iter().all(|cgroup| cgroup.processes().len() == HOGS_IN_EACH).then_some(())
    });
    gate.open();
    hogs.iter_mut().for_each(Hog::wait_until_killed);
    hogs.iter().map(|hog| hog.pid().into()).collect()
}

#[test]
fn a_second_agent_leaves_the_firsts_socket_alone() {
    require!(Agent);
    let place = Place::new();
    let first = place.start(Output::Json);
    let second = Agent::start_with(Output::Json, &["--socket", &place.socket()]);
    let finished = second.finish(Signal::TERM);
    assert!(finished.stderr.contains("another agent listens"), "{}", finished.stderr);
    let heard = lines_of(UnixStream::connect(place.socket()).unwrap());
    let victim = place.kill();
    wait_for_line(&heard, |line| place.victim(&json(line)) == Some(victim));
    first.stop();
    assert!(!Path::new(&place.socket()).exists(), "it takes its socket away");
}

#[test]
fn the_consumer_in_python_prints_kills_and_comes_back_to_a_restarted_agent() {
    require!(Agent, Program("python3"));
    let place = Place::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../oomwatch/examples/socket_consumer.py");
    let consumer = Following::start(Command::new("python3").arg(script).arg(place.socket()));
    for _ in 0..2 {
        let agent = place.start(Output::Json);
        let mut victims = Vec::new();
        // Until it has come back a kill may be too early for it.
        wait_for("a kill to be printed", PROCESS_TIMEOUT, || {
            victims.push(format!("(pid {})", place.kill()));
            let printed: Vec<String> = consumer.lines.try_iter().collect();
            printed.iter().any(|line| victims.iter().any(|victim| line.contains(victim))).then_some(())
        });
        agent.stop();
    }
}
