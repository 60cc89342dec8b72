//! One run of the hook: started in a process group of its own, fed, waited for, ended where it takes too long.

use std::{io, process::ExitStatus, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, ChildStderr, ChildStdin, Command},
    time::{sleep, timeout},
};

use super::command::HookCommand;
use crate::{host::spared, sinks::Delivery, stop::Stop, workload::escape::escape};

/// How long the program may take. A hook that sends something over a network gives up itself by then.
pub(super) const TIME_OUT: Duration = Duration::from_secs(10);
/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(1);
/// How long what an ended program said is waited for: a child of it may hold its standard error open for ever.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// What of standard error is kept, bytes.
const KEPT_WORDS: usize = 256;

/// The event's name.
#[derive(Deserialize)]
struct Name<'a> {
    event: &'a str,
}

/// Runs the program for one event.
///
/// # Errors
/// Why it failed, as a sentence.
pub(super) async fn run(command: &HookCommand, delivery: &Delivery, give_up: Stop) -> Result<(), String> {
    let mut child = start(command, delivery).map_err(|error| format!("it cannot be started: {error}"))?;
    let Some(group) = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) else {
        return Err("it has no process id".to_owned());
    };
    let mut said = Vec::new();
    let pipes = (child.stdin.take(), child.stderr.take());
    let reason = tokio::select! {
        ended = attend(&mut child, pipes, delivery.json(), &mut said) => return judge(ended, &said),
        () = sleep(TIME_OUT) => {
            // It is not waited for meanwhile, so its id stays its own.
            signal(group, Signal::TERM);
            sleep(GRACE).await;
            format!("it did not end within {} s and was killed", TIME_OUT.as_secs())
        }
        () = give_up.stopped() => "the agent ended before it and killed it".to_owned(),
    };
    signal(group, Signal::KILL);
    let _status: io::Result<ExitStatus> = child.wait().await;
    Err(with_words(&reason, &said))
}

fn start(command: &HookCommand, delivery: &Delivery) -> io::Result<Child> {
    let mut process = Command::new(&command.program);
    process.args(&command.arguments).process_group(0).kill_on_drop(true);
    if let Ok(name) = serde_json::from_str::<Name<'_>>(delivery.json()) {
        process.env("OOMWATCH_EVENT", name.event);
    }
    let be_one_among_others = || {
        spared::end();
        Ok(())
    };
    // SAFETY: between `fork` and `exec` it makes system calls and nothing else.
    unsafe { process.pre_exec(be_one_among_others) };
    process.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
}

/// Feeds it and listens to it until it ends. It need not read, and it may say more than anybody wants to know.
async fn attend(
    child: &mut Child,
    (input, errors): (Option<ChildStdin>, Option<ChildStderr>),
    json: &str,
    said: &mut Vec<u8>,
) -> io::Result<ExitStatus> {
    let mut listening = Box::pin(listen(errors, said));
    let mut fed = Box::pin(feed(input, json));
    let (mut heard_all, mut has_read) = (false, false);
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            () = &mut listening, if !heard_all => heard_all = true,
            () = &mut fed, if !has_read => has_read = true,
        }
    };
    if !heard_all {
        drop(timeout(LAST_WORDS, listening).await);
    }
    status
}

async fn feed(input: Option<ChildStdin>, json: &str) {
    let Some(mut input) = input else { return };
    // It may end or close its input without reading; whether that is a failure is its own word.
    let _unread: io::Result<()> = async {
        input.write_all(json.as_bytes()).await?;
        input.write_all(b"\n").await?;
        input.shutdown().await
    }
    .await;
}

/// Keeps the beginning, reads the rest away so that it does not block.
async fn listen(errors: Option<ChildStderr>, said: &mut Vec<u8>) {
    let Some(mut errors) = errors else { return };
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = errors.read(&mut buffer).await {
        let kept = count.min(KEPT_WORDS.saturating_sub(said.len()));
        said.extend_from_slice(&buffer[..kept]);
    }
}

fn signal(group: Pid, signal: Signal) {
    let _nobody_left: Result<(), _> = kill_process_group(group, signal);
}

fn judge(ended: io::Result<ExitStatus>, said: &[u8]) -> Result<(), String> {
    match ended {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(with_words(&format!("it ended with {status}"), said)),
        Err(error) => Err(format!("its end cannot be waited for: {error}")),
    }
}

/// The reason, and the first line of what it said.
fn with_words(reason: &str, said: &[u8]) -> String {
    let line = said.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if line.is_empty() { reason.to_owned() } else { format!("{reason}: {}", escape(line)) }
}
