//! Less than root: one line says what is missing, and the agent goes on with what works: by the counters and the log where
//! it may load no program, or not at all where only programs were asked for.

use std::{
    fs::{self, Permissions},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::Command,
};

use rustix::process::Signal;
use support::{
    Agent, Capability, Cgroup, Events as _, ExpectedKill, Finished, Hog, Output, Window, agent_command, require, run,
    without_capabilities,
};

const NOBODY: u32 = 65534;
const NO_BPF: &[Capability] = &[Capability::Bpf, Capability::SysAdmin];
const NO_TRACING: &[Capability] = &[Capability::Perfmon, Capability::SysAdmin];
const NO_FILES: &[Capability] = &[Capability::DacReadSearch, Capability::DacOverride];
const NO_PTRACE: &[Capability] = &[Capability::SysPtrace];

/// Nothing works, and one line of the log says why.
fn ends_for_want_of(capability: &str, finished: &Finished) {
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert_eq!(finished.stdout, "", "an event of an agent that never watched");
    let lines: Vec<&str> = finished.stderr.lines().filter(|line| line.contains(capability)).collect();
    assert_eq!(lines.len(), 1, "one line names {capability}: {}", finished.stderr);
    assert!(
        !finished.stderr.contains("panicked") && !finished.stderr.contains("RUST_BACKTRACE"),
        "{}",
        finished.stderr
    );
    let last = finished.stderr.lines().last().unwrap_or_default();
    assert!(last.contains("nothing works on this host"), "the last line says what follows: {}", finished.stderr);
}

#[test]
fn without_the_right_to_load_programs_the_agent_ends_where_only_they_are_asked_for_and_names_it() {
    require!(Agent);
    let mut command = agent_command(&["run", "--output", "json", "--tier", "bpf"]);
    without_capabilities(&mut command, NO_BPF);
    ends_for_want_of("CAP_BPF", &run(&mut command));
}

#[test]
fn without_the_right_to_trace_the_agent_ends_where_only_programs_are_asked_for_and_names_it() {
    require!(Agent);
    let mut command = agent_command(&["run", "--output", "json", "--tier", "bpf"]);
    without_capabilities(&mut command, NO_TRACING);
    ends_for_want_of("CAP_PERFMON", &run(&mut command));
}

/// Kills are told by what is left, and why no program tells of them.
fn falls_back_without(capabilities: &'static [Capability], name: &str) {
    let cgroup = Cgroup::scratch().limited_to_mib(16);
    let mut command = agent_command(&["run", "--output", "json"]);
    without_capabilities(&mut command, capabilities);
    let agent = Agent::start_command(Output::Json, &mut command);
    let mut hog = Hog::ready_in(&cgroup, ["eat=all"]);
    hog.go();
    hog.wait_until_killed();
    let there =
        |event: &support::Event| event.kind() == "oom_kill" && event.number("/task_memcg/id") == Some(cgroup.id());
    agent.wait_for("the kill", there);
    let finished = agent.finish(Signal::TERM);
    let started = finished.stdout.lines().next().unwrap_or_default();
    assert!(started.contains("\"tier\":\"cgroup+kmsg\""), "{started}");
    assert!(started.contains("no eBPF program sees kills"), "{started}");
    let lines: Vec<&str> = finished.stderr.lines().filter(|line| line.contains(name)).collect();
    assert_eq!(lines.len(), 1, "one line names {name}: {}", finished.stderr);
}

#[test]
fn without_the_right_to_load_programs_kills_are_told_by_counters_and_the_log() {
    require!(Agent);
    falls_back_without(NO_BPF, "CAP_BPF");
}

#[test]
fn without_the_right_to_trace_kills_are_told_by_counters_and_the_log() {
    require!(Agent);
    falls_back_without(NO_TRACING, "CAP_PERFMON");
}

#[test]
fn who_is_not_root_is_told_what_is_missing() {
    require!(Agent);
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("oomwatch");
    fs::copy(std::env::var_os("OOMWATCH_BIN").unwrap(), &program).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let as_nobody =
        |arguments: &[&str]| run(Command::new(&program).args(arguments).env_clear().uid(NOBODY).gid(NOBODY));
    ends_for_want_of("CAP_BPF", &as_nobody(&["run", "--tier", "bpf"]));
    let check = as_nobody(&["check", "--tier", "bpf"]);
    assert_eq!(check.code, Some(1), "{check:?}");
    assert!(check.stdout.contains("nothing works on this host") && check.stdout.contains("CAP_BPF"), "{check:?}");
    let check = as_nobody(&["check"]);
    assert_eq!(check.code, Some(3), "everybody may read counters: {check:?}");
    assert!(check.stdout.contains("tier cgroup") && check.stdout.contains("CAP_BPF"), "{check:?}");
}

/// Everybody may read the counters, and few may be woken by them.
#[test]
fn who_is_not_root_is_told_of_kills_by_counters() {
    require!(Agent);
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("oomwatch");
    fs::copy(std::env::var_os("OOMWATCH_BIN").unwrap(), &program).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let cgroup = Cgroup::scratch().limited_to_mib(16);
    let nothing_shared = ["--socket", "none", "--state-dir", "none", "--listen-address", "none"];
    let mut command = Command::new(&program);
    command.args(["run", "--output", "json"]).args(nothing_shared).env_clear().uid(NOBODY).gid(NOBODY);
    let agent = Agent::start_command(Output::Json, &mut command);
    let mut hog = Hog::ready_in(&cgroup, ["eat=all"]);
    hog.go();
    hog.wait_until_killed();
    let there =
        |event: &support::Event| event.kind() == "oom_kill" && event.number("/task_memcg/id") == Some(cgroup.id());
    let kill = agent.wait_for("the kill", there);
    assert_eq!(kill.text("/confidence"), Some("counted"), "{kill}");
    let events = agent.stop();
    assert_eq!(events[0].text("/tier"), Some("cgroup"));
    assert_eq!(events.kills_below(cgroup.path()).len(), 1);
}

/// The agent goes on, with one line that names what is missing, and still reports a kill.
fn goes_on_without(capabilities: &'static [Capability], name: &str) {
    let cgroup = Cgroup::scratch().limited_to_mib(16);
    let mut command = agent_command(&["run", "--output", "json"]);
    without_capabilities(&mut command, capabilities);
    let agent = Agent::start_command(Output::Json, &mut command);
    let mut hog = Hog::ready_in(&cgroup, ["eat=all"]);
    let window = Window::open();
    hog.go();
    hog.wait_until_killed();
    let window = window.close();
    let report = agent.wait_for_kill_of(hog.pid());
    ExpectedKill::of(hog.pid(), &cgroup, window).check(&report);
    let finished = agent.finish(Signal::TERM);
    let lines: Vec<&str> = finished.stderr.lines().filter(|line| line.contains(name)).collect();
    assert_eq!(lines.len(), 1, "one line names {name}: {}", finished.stderr);
}

#[test]
fn without_the_right_to_look_into_processes_the_agent_goes_on() {
    require!(Agent);
    goes_on_without(NO_PTRACE, "CAP_SYS_PTRACE");
}

#[test]
fn without_the_right_to_read_others_files_the_agent_goes_on() {
    require!(Agent);
    goes_on_without(NO_FILES, "CAP_DAC_READ_SEARCH");
}

#[test]
fn the_least_privileges_are_enough_for_exact_reports() {
    require!(Agent);
    let cgroup = Cgroup::scratch().limited_to_mib(16);
    let mut command = agent_command(&["run", "--output", "json"]);
    without_capabilities(&mut command, &[Capability::SysAdmin]);
    let agent = Agent::start_command(Output::Json, &mut command);
    let mut hog = Hog::ready_in(&cgroup, ["eat=all"]);
    hog.go();
    hog.wait_until_killed();
    let events = agent.stop();
    assert!(events.only_kill_below(cgroup.path()).is_kill_of(hog.pid()));
}
