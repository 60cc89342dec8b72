//! A running agent: its events line by line, its end. Ended on drop.

use std::{
    fs::File,
    io::{Read as _, Seek as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    interrupt::Interrupt,
    lines::{Line, Lines},
    process::say,
};

/// Longer than the agent drains its outputs.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Shape of the agent's events.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// `oomwatch run`.
#[derive(Debug)]
pub(crate) struct Agent {
    child: Child,
    events: Lines,
    /// What it writes to standard error.
    log: File,
}

impl Agent {
    /// Starts it; it watches once its first event is there.
    pub(crate) fn start(binary: &Path, output: Output) -> anyhow::Result<Self> {
        Self::start_with(binary, output, &[])
    }

    /// The same with more arguments.
    pub(crate) fn start_with(binary: &Path, output: Output, arguments: &[&str]) -> anyhow::Result<Self> {
        let output = match output {
            Output::Text => "text",
            Output::Json => "json",
        };
        let log = tempfile::tempfile().context("make a file for the agent's log")?;
        let mut child = Command::new(binary)
            .args(["run", "--output", output])
            // No place that it would share with an agent that runs on this host already.
            .args(["--listen-address", "none", "--socket", "none", "--state-dir", "none"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.try_clone().context("share the file of the agent's log")?)
            .spawn()
            .with_context(|| format!("run {}", binary.display()))?;
        let events = Lines::of(child.stdout.take().context("the agent's output")?);
        Ok(Self { child, events, log })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The events that are there already.
    pub(crate) fn events_so_far(&self) -> Vec<Line> {
        self.events.read_so_far()
    }

    /// Its next event; `None` after the last one.
    pub(crate) fn next_event(
        &self,
        interrupt: &Interrupt,
        what: &str,
        timeout: Duration,
    ) -> anyhow::Result<Option<Line>> {
        self.events.next(interrupt, what, timeout)
    }

    /// Its next event, which must come.
    pub(crate) fn event(&mut self, interrupt: &Interrupt, what: &str, timeout: Duration) -> anyhow::Result<Line> {
        match self.next_event(interrupt, what, timeout)? {
            Some(line) => Ok(line),
            None => bail!("the agent ended before {what}; its log:\n{}", self.read_log()?),
        }
    }

    /// Asks it to end.
    pub(crate) fn ask_to_end(&self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("the agent's process id")?;
        kill_process(pid, Signal::TERM).context("ask the agent to end")
    }

    /// Waits until it ended, as it should.
    pub(crate) fn wait(mut self, interrupt: &Interrupt) -> anyhow::Result<()> {
        let child = &mut self.child;
        let status = interrupt.wait_for("the agent to end", END_TIMEOUT, || Ok(child.try_wait()?))?;
        ensure!(status.success(), "the agent ended with {status}; its log:\n{}", self.read_log()?);
        Ok(())
    }

    fn read_log(&mut self) -> anyhow::Result<String> {
        let mut log = String::new();
        self.log.rewind().context("rewind the agent's log")?;
        self.log.read_to_string(&mut log).context("read the agent's log")?;
        Ok(log)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait()
            && let Err(error) = self.child.kill().and_then(|()| self.child.wait())
        {
            say(&format!("cannot end the agent: {error}"));
        }
    }
}
