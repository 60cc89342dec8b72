//! Names that try to break a line, colour a terminal or end a string.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
};

use rustix::process::Signal;
use support::{Agent, Cgroup, Events as _, ExpectedKill, Hog, Output, Window, require};

/// Newline, escape, quotes, backslash, a byte that is no UTF-8, a control character of eight bits; 15 bytes are the most.
const COMM: &[u8] = b"\n\x1b[31m\"'\\\xff\xc2\x9b =";

fn hostile_comm() -> OsString {
    let mut step = OsString::from("comm=");
    step.push(OsStr::from_bytes(COMM));
    step
}

/// Kills a process of a hostile name in this cgroup.
fn kill_in(cgroup: &Cgroup) -> (u32, Window) {
    let mut hog = Hog::ready_in(cgroup, [hostile_comm(), "eat=all".into()]);
    let window = Window::open();
    hog.go();
    hog.wait_until_killed();
    (hog.pid(), window.close())
}

#[test]
fn json_carries_every_byte_of_a_hostile_comm_visibly() {
    require!(Agent);
    let cgroup = Cgroup::scratch().limited_to_mib(16);
    let agent = Agent::start();
    let (pid, window) = kill_in(&cgroup);
    agent.wait_for_kill_of(pid);
    let raw = agent.lines();
    let events = agent.stop();
    let expected = ExpectedKill { comm: COMM, trigger: Some((pid, COMM)), ..ExpectedKill::of(pid, &cgroup, window) };
    expected.check(events.only_kill_below(cgroup.path()));
    assert!(raw.iter().all(|line| !line.contains(char::is_control)), "{raw:?}");
}

#[test]
fn text_stays_one_line_without_control_characters_whatever_the_comm() {
    require!(Agent);
    let cgroup = Cgroup::scratch().limited_to_mib(16);
    let agent = Agent::start_with(Output::Text, &[]);
    let (pid, _) = kill_in(&cgroup);
    let finished = agent.finish(Signal::TERM);
    let mark = cgroup.path().to_str().unwrap();
    let lines: Vec<&str> = finished.stdout.lines().filter(|line| line.contains(mark)).collect();
    assert_eq!(lines.len(), 1, "one kill is one line: {lines:?}");
    assert!(lines[0].contains("WRN OOM kill detected"), "{}", lines[0]);
    assert!(lines[0].contains(&format!(" pid={pid} ")), "{}", lines[0]);
    for line in finished.stdout.lines() {
        assert!(!line.contains(char::is_control) && !line.contains('\u{fffd}'), "{line:?}");
        let year = line.get(..4).and_then(|year| year.parse::<u32>().ok());
        assert!(year.is_some_and(|year| year >= 2024), "every line begins with its time: {line:?}");
    }
    assert!(!finished.stderr.contains('\x1b'), "the log is not coloured by a name, nor for a pipe");
}

#[test]
fn a_cgroup_with_a_hostile_name_is_named_whole() {
    require!(Agent);
    let parent = Cgroup::scratch();
    let cgroup = parent.child(OsStr::from_bytes(b"a \x1b[2J\"\\x41\xff'$(id)")).limited_to_mib(16);
    let agent = Agent::start();
    let (pid, window) = kill_in(&cgroup);
    let events = agent.stop();
    let expected = ExpectedKill { comm: COMM, trigger: Some((pid, COMM)), ..ExpectedKill::of(pid, &cgroup, window) };
    expected.check(events.only_kill_below(parent.path()));
}

#[test]
fn a_cgroup_whose_path_has_three_thousand_bytes_is_named_whole() {
    require!(Agent);
    let top = PathBuf::from("/").join(support::unique_name());
    let long_name = |index| format!("{index:03}{}", "n".repeat(252));
    let deepest = Cgroup::make((0..12).map(long_name).fold(top.clone(), |path, name| path.join(name)));
    let deepest = deepest.limited_to_mib(16);
    let agent = Agent::start();
    let mut hog = Hog::ready_in(&deepest, ["eat=all"]);
    let window = Window::open();
    hog.go();
    hog.wait_until_killed();
    let window = window.close();
    let events = agent.stop();
    let expected = ExpectedKill::of(hog.pid(), &deepest, window);
    expected.check(events.only_kill_below(&top));
}
