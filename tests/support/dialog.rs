//! A started program that is told when to go on and says how far it is.

use std::{
    io::{BufRead as _, BufReader, Read, Write as _},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use crate::{PROCESS_TIMEOUT, wait::within, wait_for};

/// The program; ended on drop.
#[derive(Debug)]
pub struct Dialog {
    child: Child,
    input: Option<ChildStdin>,
    lines: Option<Receiver<String>>,
}

impl Dialog {
    /// Starts it with its input and output to itself.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut dialog = Self::start_mute(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        dialog.input = dialog.child.stdin.take();
        dialog.lines = dialog.child.stdout.take().map(lines_of);
        dialog
    }

    /// Starts it with the input and output it was given.
    pub(crate) fn start_mute(command: &mut Command) -> Self {
        let child = command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        Self { child, input: None, lines: None }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn go(&mut self) {
        self.input.as_mut().expect("an input of its own").write_all(b"\n").expect("wake the hog");
    }

    /// The next line it says.
    pub fn line(&self) -> String {
        self.line_within(PROCESS_TIMEOUT).expect("a line of the hog")
    }

    /// The next line, if it says one in this time.
    pub fn line_within(&self, time: Duration) -> Option<String> {
        self.lines.as_ref().expect("an output of its own").recv_timeout(time).ok()
    }

    /// `None` where it ended.
    pub(crate) fn line_or_end(&self) -> Option<String> {
        let lines = self.lines.as_ref().expect("an output of its own");
        match lines.recv_timeout(PROCESS_TIMEOUT) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("the hog neither says anything nor ends"),
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        wait_for("the end of a process", PROCESS_TIMEOUT, || self.status_within(Duration::ZERO))
    }

    /// How it ended, if it does in this time.
    pub(crate) fn status_within(&mut self, time: Duration) -> Option<ExitStatus> {
        within(time, || self.child.try_wait().expect("wait"))
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("look after a process").is_none()
    }
}

impl Drop for Dialog {
    fn drop(&mut self) {
        // An error says that it ended before.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Lines of a program, read by a thread so that waiting for one can end.
fn lines_of(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    drop(thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            let Ok(line) = line else { break };
            if sender.send(line).is_err() {
                break;
            }
        }
    }));
    lines
}
