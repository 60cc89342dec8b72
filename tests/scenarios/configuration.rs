//! Flags, environment, file and defaults: which wins, what is refused and how, and what SIGHUP changes in a running agent.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic, its helpers too")]

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::symlink, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    mount::{MountPropagationFlags, mount_bind, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};
use support::{
    Agent, Cgroup, EVENT_TIMEOUT, Events as _, Finished, Hog, Output, agent_command, require, run, wait_for,
};
use tempfile::TempDir;

/// A configuration file, removed on drop.
struct File {
    _folder: TempDir,
    path: PathBuf,
}

impl File {
    fn of(text: impl AsRef<[u8]>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        fs::write(&path, text).unwrap();
        Self { _folder: folder, path }
    }

    fn write(&self, text: &str) {
        fs::write(&self.path, text).unwrap();
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

/// `run --print-config`: values with where they are from, by key.
fn effective(command: &mut Command) -> HashMap<String, (String, String)> {
    let finished = run(command.arg("--print-config"));
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""), "{finished:?}");
    let (mut origin, mut values) = (String::new(), HashMap::new());
    for line in finished.stdout.lines() {
        if let Some(from) = line.strip_prefix("# from ") {
            from.clone_into(&mut origin);
        } else if let Some((key, value)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            values.insert(key.to_owned(), (value.to_owned(), std::mem::take(&mut origin)));
        }
    }
    values
}

fn is(value: &str, origin: &str) -> (String, String) {
    (value.to_owned(), origin.to_owned())
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    require!(Agent);
    let file =
        File::of("threshold-percent = 80\npoll-interval = '2s'\nwarn-all = true\nexclude = ['a']\ngvisor-rpc = true\n");
    let mut command =
        agent_command(&["run", "--config", file.path(), "--threshold-percent", "82", "--gvisor-rpc=false"]);
    command.env("OOMWATCH_THRESHOLD_PERCENT", "81").env("OOMWATCH_POLL_INTERVAL", "3s").env("OOMWATCH_EXCLUDE", "b,c");
    let values = effective(&mut command);
    let line = |line: u8| format!("{}:{line}", file.path());
    assert_eq!(values["threshold-percent"], is("82", "a flag"));
    assert_eq!(values["gvisor-rpc"], is("false", "a flag"));
    assert_eq!(values["poll-interval"], is("\"3s\"", "OOMWATCH_POLL_INTERVAL"));
    assert_eq!(values["exclude"], is("[\"b,c\"]", "OOMWATCH_EXCLUDE"));
    assert_eq!(values["warn-all"], is("true", &line(3)));
    assert_eq!(values["output"], is("\"text\"", "the default"));
    // Nobody chose it, and it may not be above the threshold.
    assert_eq!(values["rearm-percent"], is("82", "the default"));
    let printed = run(agent_command(&["run", "--config", file.path()]).arg("--print-config")).stdout;
    let printed = File::of(printed);
    let again = effective(&mut agent_command(&["run", "--config", printed.path()]));
    assert_eq!(again["threshold-percent"].0, "80", "what is printed is a configuration file");
    assert_eq!(again["warn-all"].0, "true");
}

#[test]
fn the_file_may_be_named_by_the_environment_and_the_annotated_one_is_accepted() {
    require!(Agent);
    let file = File::of(include_str!("../../oomwatch.toml"));
    let values = effective(agent_command(&["run"]).env("OOMWATCH_CONFIG", file.path()));
    assert_eq!(values["threshold-percent"], is("95", "the default"));
    file.write("output = 'json'");
    let values = effective(agent_command(&["run"]).env("OOMWATCH_CONFIG", file.path()));
    assert_eq!(values["output"], is("\"json\"", &format!("{}:1", file.path())));
}

/// Lets a command see another `/etc`, and nobody else.
fn with_etc(command: &mut Command, etc: &Path) {
    let etc = std::ffi::CString::new(etc.as_os_str().as_bytes()).unwrap();
    let remount = move || {
        // SAFETY: a child that has not begun its program yet has one thread and shares nothing of it.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
        mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        mount_bind(etc.as_c_str(), c"/etc")?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes only system calls and allocates nothing.
    unsafe { command.pre_exec(remount) };
}

#[test]
fn the_usual_file_is_read_where_there_is_one() {
    require!(Agent);
    let etc = tempfile::tempdir().unwrap();
    // The virtual machine has none.
    fs::create_dir_all("/etc").unwrap();
    let command = || {
        let mut command = agent_command(&["run"]);
        with_etc(command.env_remove("OOMWATCH_CONFIG"), etc.path());
        command
    };
    assert_eq!(effective(&mut command())["threshold-percent"], is("95", "the default"));
    fs::create_dir(etc.path().join("oomwatch")).unwrap();
    // A configuration that is mounted into a container is a link.
    fs::write(etc.path().join("oomwatch/data"), "threshold-percent = 77").unwrap();
    symlink("data", etc.path().join("oomwatch/config.toml")).unwrap();
    assert_eq!(effective(&mut command())["threshold-percent"], is("77", "/etc/oomwatch/config.toml:1"));
    assert_eq!(effective(command().args(["--config", "none"]))["threshold-percent"], is("95", "the default"));
    fs::write(etc.path().join("oomwatch/data"), "threshold-percent = 777").unwrap();
    refused(
        &mut command(),
        "/etc/oomwatch/config.toml:1: threshold-percent = 777: must be a whole number from 1 to 100",
    );
    fs::remove_file(etc.path().join("oomwatch/data")).unwrap();
    refused(&mut command(), "/etc/oomwatch/config.toml: cannot be read: no such file or directory");
}

/// Exit code 2, nothing on standard output, and this line alone.
fn refused(command: &mut Command, line: &str) {
    let Finished { code, stdout, stderr, .. } = run(command);
    assert_eq!((code, stdout.as_str()), (Some(2), ""), "{command:?}: {stderr}");
    assert_eq!(stderr, format!("error: {line}\n"), "{command:?}");
}

#[test]
fn a_wrong_value_is_refused_alike_in_every_layer() {
    require!(Agent);
    for (key, text, toml, allowed) in [
        ("output", "xml", "\"xml\"", "must be one of text, json"),
        ("log-format", "yaml", "\"yaml\"", "must be one of text, json"),
        ("estimator", "guess", "\"guess\"", "must be one of auto, cgroup, memfd, rss-sum"),
        ("threshold-percent", "0", "0", "must be a whole number from 1 to 100"),
        ("threshold-percent", "256", "256", "must be a whole number from 1 to 100"),
        ("rearm-percent", "101", "101", "must be a whole number from 1 to 100"),
        ("poll-interval", "9ms", "\"9ms\"", "must be a time from 10ms to 1m, such as 500ms"),
        (
            "listen-address",
            "localhost:80",
            "\"localhost:80\"",
            "must be an IP address with a port, such as 127.0.0.1:9566, or none",
        ),
        ("otlp-endpoint", "collector:4317", "\"collector:4317\"", "must be a URL such as http://127.0.0.1:4318"),
        ("hook", " ", "\" \"", "must be a command"),
        ("include", "a,", "[\"a,\"]", "must be a glob pattern: it is empty"),
        (
            "exclude",
            "a{",
            "[\"a{\"]",
            "must be a glob pattern: unclosed alternate group; missing '}' (maybe escape '{' with '[{]'?)",
        ),
    ] {
        refused(&mut agent_command(&["run", &format!("--{key}={text}")]), &format!("--{key} {text}: {allowed}"));
        let variable = format!("OOMWATCH_{}", key.replace('-', "_").to_uppercase());
        refused(agent_command(&["run"]).env(&variable, text), &format!("{variable}={text}: {allowed}"));
        let file = File::of(format!("# a comment\n{key} = {toml}\n"));
        let said = format!("{}:2: {key} = {toml}: {allowed}", file.path());
        refused(&mut agent_command(&["run", "--config", file.path()]), &said);
    }
    for key in ["warn-all", "gvisor-rpc", "workload-events"] {
        refused(&mut agent_command(&["run", &format!("--{key}=2")]), &format!("--{key} 2: must be true or false"));
        let variable = format!("OOMWATCH_{}", key.replace('-', "_").to_uppercase());
        refused(agent_command(&["run"]).env(&variable, "2"), &format!("{variable}=2: must be true or false"));
        let file = File::of(format!("{key} = 2"));
        let said = format!("{}:1: {key} = 2: must be true or false, not an integer", file.path());
        refused(&mut agent_command(&["run", "--config", file.path()]), &said);
    }
}

#[test]
fn a_rearm_line_above_the_threshold_is_refused_and_both_are_named() {
    require!(Agent);
    let file = File::of("rearm-percent = 90");
    let said = format!(
        "rearm-percent 90 (from {}:1): must be at most threshold-percent, which is 85 (from OOMWATCH_THRESHOLD_PERCENT)",
        file.path()
    );
    refused(agent_command(&["run", "--config", file.path()]).env("OOMWATCH_THRESHOLD_PERCENT", "85"), &said);
}

#[test]
fn what_is_not_text_or_has_control_characters_is_said_in_one_line() {
    require!(Agent);
    let bytes = OsStr::from_bytes(b"a\xff");
    refused(agent_command(&["run"]).env("OOMWATCH_HOOK", bytes), "OOMWATCH_HOOK=a\u{fffd}: must be text in UTF-8");
    refused(agent_command(&["run", "--hook"]).arg(bytes), "`a\u{fffd}`: must be text in UTF-8");
    refused(
        agent_command(&["run", "--output", "a\nb\u{1b}[31m"]).env("X", "y"),
        "--output a\\nb\\u{1b}[31m: must be one of text, json",
    );
    refused(
        agent_command(&["run"]).env("OOMWATCH_LOG", "=,="),
        "OOMWATCH_LOG==,=: must be a level (error, warn, info, debug, trace), or such as info,oomwatch::sources=debug",
    );
    // A path need not be text.
    let values = effective(agent_command(&["run"]).env("OOMWATCH_SOCKET", OsStr::from_bytes(b"/run/\xff")));
    assert_eq!(values["socket"], is("\"/run/\u{fffd}\"", "OOMWATCH_SOCKET"));
}

#[test]
fn unknown_names_are_refused_and_the_right_one_is_guessed() {
    require!(Agent);
    refused(
        &mut agent_command(&["run", "--thresholds-percent", "9"]),
        "unknown argument `--thresholds-percent`: did you mean `--threshold-percent`?",
    );
    refused(&mut agent_command(&["run", "surplus"]), "unknown argument `surplus`");
    let none = run(&mut agent_command(&["--log-format", "json"]));
    assert!(none.stderr.starts_with("error: no command: must be one of run, check, "), "{none:?}");
    let unknown = run(&mut agent_command(&["rum"]));
    assert!(unknown.stderr.starts_with("error: unknown command `rum`: must be one of run, "), "{unknown:?}");
    assert!(unknown.stderr.ends_with("did you mean `run`?\n"), "{unknown:?}");
    let file = File::of("output = 'text'\nthreshold_percent = 95");
    let said = format!("{}:2: unknown key `threshold_percent`: did you mean `threshold-percent`?", file.path());
    refused(&mut agent_command(&["run", "--config", file.path()]), &said);
    let finished = run(agent_command(&["run", "--print-config"]).env("OOMWATCH_THRESHOLDS_PERCENT", "9"));
    assert_eq!(finished.code, Some(0), "a variable may be somebody else's");
    assert!(finished.stderr.contains("did you mean OOMWATCH_THRESHOLD_PERCENT?"), "{}", finished.stderr);
    // Set by Kubernetes for a service of our name.
    let finished = run(agent_command(&["run", "--print-config"]).env("OOMWATCH_PORT_9566_TCP_ADDR", "10.0.0.1"));
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""), "{finished:?}");
}

#[test]
fn a_file_that_is_no_configuration_is_refused_at_once() {
    require!(Agent);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    mknodat(CWD, path("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    fs::create_dir(path("folder")).unwrap();
    symlink(path("loop"), path("loop")).unwrap();
    fs::write(path("huge"), vec![b'#'; (1 << 20) + 1]).unwrap();
    fs::write(path("binary"), b"# fine\n\x7fELF\xff\xfe\0").unwrap();
    fs::write(path("zeros"), [0; 4096]).unwrap();
    fs::write(path("open"), "output = 'te").unwrap();
    for (name, said) in [
        ("fifo", ": cannot be read: it is not a regular file"),
        ("folder", ": cannot be read: it is not a regular file"),
        ("loop", ": cannot be read: "),
        ("absent", ": cannot be read: no such file or directory"),
        ("huge", ": cannot be read: it is larger than 1048576 bytes"),
        ("binary", ":2: is not text in UTF-8"),
        ("zeros", ":1: is not TOML: "),
        ("open", ":1: is not TOML: "),
    ] {
        let file = path(name);
        for command in ["run", "check"] {
            let finished = run(agent_command(&[command]).arg("--config").arg(&file));
            assert_eq!((finished.code, finished.stdout.as_str()), (Some(2), ""), "{name}: {finished:?}");
            let expected = format!("error: {}{said}", file.display());
            assert!(finished.stderr.starts_with(&expected), "{name}: {}", finished.stderr);
            assert_eq!(finished.stderr.lines().count(), 1, "{name}: {}", finished.stderr);
        }
        let page = run(agent_command(&["man"]).arg("--config").arg(&file));
        assert_eq!(page.code, Some(0), "the manual is there where the configuration is wrong: {page:?}");
    }
}

#[test]
fn other_commands_find_the_host_by_the_file_and_keep_their_own_output() {
    require!(Agent);
    let folder = tempfile::tempdir().unwrap();
    let file = File::of(format!("host-root = '{}'\noutput = 'json'\n", folder.path().display()));
    let finished = run(&mut agent_command(&["check", "--config", file.path()]));
    assert!(finished.stdout.starts_with("oomwatch "), "not for people: {finished:?}");
    assert!(
        finished.stdout.contains(", no memory cgroups\n"),
        "the host was not looked for in the empty folder: {finished:?}"
    );
}

/// Kills a process in this cgroup; its id.
fn kill_in(cgroup: &Cgroup) -> u32 {
    let mut hog = Hog::ready_in(cgroup, ["eat=all"]);
    hog.go();
    hog.wait_until_killed();
    hog.pid()
}

/// Writes a configuration, has the agent read it, and waits until it says so.
fn reread(agent: &Agent, file: &File, text: &str, said: &str) -> String {
    let count = || agent.log().iter().filter(|line| line.contains(said)).count();
    let before = count();
    file.write(text);
    agent.hang_up();
    wait_for(&format!("the agent to say {said:?}"), EVENT_TIMEOUT, || (count() > before).then_some(()));
    agent.log().into_iter().rfind(|line| line.contains(said)).unwrap_or_default()
}

const READ: &str = "configuration read again";

#[test]
fn what_is_excluded_while_the_agent_runs_is_told_no_more_and_all_else_is() {
    require!(Agent);
    let (first, second) = (Cgroup::scratch().limited_to_mib(16), Cgroup::scratch().limited_to_mib(16));
    let file = File::of("");
    let agent = Agent::start_with(Output::Json, &["--config", file.path()]);
    let told = kill_in(&first);
    agent.wait_for_kill_of(told);
    let exclude = format!("exclude = [{:?}]\n", first.path());
    let said = reread(&agent, &file, &exclude, READ);
    assert!(said.contains("exclude"), "{said}");
    let untold = kill_in(&first);
    let other = kill_in(&second);
    agent.wait_for_kill_of(other);
    let wrong = reread(&agent, &file, "exclude = []\nthreshold-percent = 0", "the old one stays");
    assert!(wrong.contains(&format!("{}:2: threshold-percent = 0: must be", file.path())), "{wrong}");
    let untold_too = kill_in(&first);
    // Else the agent could read its configuration before it reads of the kill.
    let are_left_out = || agent.log().iter().filter(|line| line.contains("is not told")).count() >= 2;
    wait_for("the second kill to be left out", EVENT_TIMEOUT, || are_left_out().then_some(()));
    reread(&agent, &file, "", READ);
    let told_again = kill_in(&first);
    agent.wait_for_kill_of(told_again);
    let events = agent.stop();
    let victims = |cgroup: &Cgroup| {
        let kills = events.kills_below(cgroup.path());
        kills.iter().filter_map(|kill| kill.number("/victim/pid")).collect::<Vec<_>>()
    };
    assert_eq!(victims(&first), [told, told_again].map(u64::from), "{untold} or {untold_too} is told");
    assert_eq!(victims(&second), [u64::from(other)]);
}

#[test]
fn only_what_is_included_is_told_and_the_agents_own_events_are() {
    require!(Agent);
    let (wanted, other) = (Cgroup::scratch().limited_to_mib(16), Cgroup::scratch().limited_to_mib(16));
    let inside = wanted.path().to_str().unwrap_or_else(|| panic!("{} is not text", wanted.path().display()));
    let agent = Agent::start_with(Output::Json, &["--include", inside]);
    kill_in(&other);
    let victim = kill_in(&wanted);
    let events = agent.stop();
    let kills = events.of_kind("oom_kill");
    assert_eq!(kills.len(), 1, "{kills:#?}");
    assert_eq!(kills[0].number("/victim/pid"), Some(victim.into()));
    assert_eq!(["agent_started", "agent_stopped"].map(|kind| events.of_kind(kind).len()), [1, 1]);
}

#[test]
fn what_cannot_change_while_the_agent_runs_is_named_and_the_agent_goes_on() {
    require!(Agent);
    let cgroup = Cgroup::scratch().limited_to_mib(16);
    let file = File::of("");
    let agent = Agent::start_with(Output::Json, &["--config", file.path()]);
    reread(&agent, &file, "state-dir = 'none'\nhook = '/bin/true'\npoll-interval = '1s'\n", READ);
    let log = agent.log();
    let waiting: Vec<&String> = log.iter().filter(|line| line.contains("takes effect at the next start")).collect();
    // The environment of this test has the last word on the state.
    assert_eq!(waiting.len(), 1, "{log:?}");
    assert!(waiting[0].contains("hook"), "{waiting:?}");
    let changed: Vec<&String> = log.iter().filter(|line| line.contains(READ)).collect();
    assert!(changed[0].contains("poll-interval") && !changed[0].contains("hook"), "{changed:?}");
    // Nothing is new: nothing waits or changes.
    reread(&agent, &file, "hook = '/bin/true'\npoll-interval = '1s'\n", READ);
    assert_eq!(agent.log().iter().filter(|line| line.contains("next start")).count(), 1);
    fs::remove_file(&file.path).unwrap();
    agent.hang_up();
    wait_for("the refusal", EVENT_TIMEOUT, || {
        let is_refusal = |line: &String| line.contains("the old one stays") && line.contains("cannot be read");
        agent.log().iter().any(is_refusal).then_some(())
    });
    let victim = kill_in(&cgroup);
    agent.wait_for_kill_of(victim);
    drop(agent.stop());
}

#[test]
fn warnings_of_all_workloads_can_be_switched_on_while_the_agent_runs() {
    require!(Agent);
    let cgroup = Cgroup::scratch().limited_to_mib(64);
    let file = File::of("");
    let agent = Agent::start_with(Output::Json, &["--config", file.path()]);
    let mut hog = Hog::ready_in(&cgroup, ["eat=40", "say=full", "wait"]);
    hog.go();
    hog.wait_until_it_says("full");
    let of_it = |kind: &str| {
        let events = agent.events();
        let mut of_kind = events.of_kind(kind).into_iter().cloned();
        of_kind.find(|event| event.number("/workload/cgroup_id") == Some(cgroup.id()))
    };
    reread(&agent, &file, "warn-all = true", READ);
    reread(&agent, &file, "warn-all = true\nthreshold-percent = 50", READ);
    let warning = wait_for("a warning", EVENT_TIMEOUT, || of_it("near_limit"));
    assert_eq!(warning.number("/threshold_percent"), Some(50), "{warning}");
    assert!(warning.seconds("/usage_percent").is_some_and(|percent| (50.0..95.0).contains(&percent)), "{warning}");
    drop(agent.stop());
}
