//! The command's words, and real programs run by it.

#![expect(clippy::disallowed_methods, reason = "what the programs wrote")]

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{Hook, QUEUE, Sink as _, command::HookCommand};
use crate::{
    clock,
    event::{AgentStopped, Body, Confidence, Event, Loss, LossStage, SCHEMA, Severity, Source},
    sinks::Delivery,
};

fn delivery(body: Body) -> Arc<Delivery> {
    Arc::new(Delivery::new(Event {
        schema: SCHEMA,
        seq: 1,
        timestamp: SystemTime::UNIX_EPOCH,
        boot_id: "0123".into(),
        body,
        severity: Severity::Info,
        source: Source::Agent,
        confidence: Confidence::Exact,
        incident_id: None,
        workload: None,
    }))
}

/// An event whose JSON is at least this long.
fn event(length: usize) -> Arc<Delivery> {
    let degraded = vec!["x".repeat(length)];
    let stopped =
        AgentStopped { version: "1".into(), tier: "t".into(), kernel: "k".into(), cgroup_version: None, degraded };
    delivery(Body::AgentStopped(stopped))
}

fn in_seconds(seconds: u64) -> u64 {
    clock::boot_ns() + seconds * 1_000_000_000
}

/// A command that runs a script. Not the script itself, which tests beside this one may still hold open for writing
/// in a process that they are about to start.
fn script_in(folder: &Path, script: &str) -> String {
    let file = folder.join("hook");
    fs::write(&file, script).unwrap();
    format!("/bin/sh {}", file.display())
}

/// Runs a script for one event to its end; how many events it failed for.
fn failures_of(folder: &Path, script: &str, event: &Arc<Delivery>) -> u64 {
    let mut hook = Hook::start(&script_in(folder, script)).unwrap();
    assert!(hook.take(event));
    hook.close();
    assert!(hook.finish(in_seconds(60)), "it did not end");
    assert!(!hook.is_busy());
    hook.take_failed()
}

#[test]
fn words_are_those_of_a_shell_and_no_shell_is_run() {
    let parsed = HookCommand::parse(r#"/bin/notify --to "on call" 'it''s' $HOME * | a\ b"#).unwrap();
    assert_eq!(parsed.program, "/bin/notify");
    assert_eq!(parsed.arguments, ["--to", "on call", "its", "$HOME", "*", "|", "a b"]);
    assert!(HookCommand::parse("a 'b").unwrap_err().contains("quote"));
    for empty in ["", "  ", "''"] {
        assert!(HookCommand::parse(empty).unwrap_err().contains("must be a command"), "{empty:?}");
    }
    assert!(HookCommand::parse("a\0b").unwrap_err().contains("NUL"));
}

#[test]
fn a_program_that_cannot_be_run_is_found_out_at_once() {
    let look = |text: &str| HookCommand::parse(text).unwrap().look_for_program();
    assert_eq!(look("/bin/sh -c true"), Ok(()));
    assert_eq!(look("sh"), Ok(()));
    assert!(look("/no/such/program").unwrap_err().contains("there is no program /no/such/program"));
    assert!(look("no-such-program-4711").unwrap_err().contains("in PATH"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("script");
    fs::write(&file, "").unwrap();
    assert!(look(file.to_str().unwrap()).unwrap_err().contains("chmod +x"));
}

#[test]
fn the_program_gets_the_line_and_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let event = event(0);
    let script = format!("cat >{0}/got; echo $OOMWATCH_EVENT >{0}/name", folder.path().display());
    assert_eq!(failures_of(folder.path(), &script, &event), 0);
    assert_eq!(fs::read_to_string(folder.path().join("got")).unwrap(), format!("{}\n", event.json()));
    assert_eq!(fs::read_to_string(folder.path().join("name")).unwrap(), "agent_stopped\n");
}

#[test]
fn one_that_does_not_read_what_no_pipe_holds_is_no_failure_and_one_that_says_much_does_not_block() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(failures_of(folder.path(), "exit 0", &event(1 << 20)), 0);
    assert_eq!(failures_of(folder.path(), "head -c 1000000 /dev/zero >&2", &event(1 << 20)), 0);
}

#[test]
fn failures_are_counted_but_for_the_news_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(failures_of(folder.path(), "echo no >&2; exit 3", &event(0)), 1);
    assert_eq!(failures_of(folder.path(), "kill -9 $$", &event(0)), 1);
    let own = Loss { stage: LossStage::Sink, lost: 1, records: None, sink: Some("hook".into()) };
    assert_eq!(failures_of(folder.path(), "exit 3", &delivery(Body::Loss(own.clone()))), 0);
    let other = Loss { sink: Some("stdout".into()), ..own };
    assert_eq!(failures_of(folder.path(), "exit 3", &delivery(Body::Loss(other))), 1);
}

#[test]
fn one_that_cannot_be_started_fails() {
    let mut hook = Hook::start("/no/such/program").unwrap();
    assert!(hook.take(&event(0)));
    hook.close();
    assert!(hook.finish(in_seconds(60)));
    assert_eq!(hook.take_failed(), 1);
}

#[test]
fn hung_programs_fill_the_queue_and_are_killed_with_their_children_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    let script = format!("sleep 600 &\necho $$ $! >>{}\nwait\n", pids.display());
    let mut hook = Hook::start(&script_in(folder.path(), &script)).unwrap();
    let event = event(0);
    // Four at most leave the queue.
    let taken = (0..QUEUE + 100).filter(|_| hook.take(&event)).count();
    assert!((QUEUE..=QUEUE + 4).contains(&taken), "{taken}");
    let running = || fs::read_to_string(&pids).unwrap_or_default();
    while running().lines().count() < 4 {
        std::thread::sleep(Duration::from_millis(5));
    }
    hook.close();
    assert!(!hook.finish(clock::boot_ns()));
    for pid in running().split_whitespace() {
        let stat = format!("/proc/{pid}/stat");
        // The grandchild waits for whoever adopts it to take note of its end.
        let is_over = || fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        for _ in 0..1000 {
            if is_over() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(is_over(), "{pid} still runs");
    }
}
