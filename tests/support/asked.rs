//! An agent with a socket and a place for its state, asked by `oomwatch ps` and its kin.

use std::{
    ops::Deref,
    path::{Path, PathBuf},
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{Agent, Cgroup, Finished, Output, PROCESS_TIMEOUT, agent_command, run, wait_for};

/// Where an agent's socket and state are; outlives it.
#[derive(Debug)]
pub struct Place(tempfile::TempDir);

impl Place {
    /// A new one.
    #[expect(clippy::new_without_default, reason = "it makes a folder")]
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("make a folder"))
    }

    /// The socket.
    pub fn socket(&self) -> PathBuf {
        self.0.path().join("oomwatch.sock")
    }

    /// The state.
    pub fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    /// `oomwatch COMMAND --socket …` with more arguments, for a terminal of 80 columns.
    pub fn ask(&self, command: &str, arguments: &[&str]) -> Finished {
        run(agent_command(&[command, "--socket"]).arg(self.socket()).args(arguments).env("COLUMNS", "80"))
    }

    /// An agent that is at home here, watching.
    pub fn agent(&self, arguments: &[&str]) -> AskedAgent<'_> {
        let (socket, state) = (self.socket(), self.state());
        let mut all = vec!["--socket", text(&socket), "--state-dir", text(&state)];
        all.extend(arguments);
        AskedAgent { agent: Agent::start_with(Output::Json, &all), place: self }
    }
}

/// An agent that can be asked.
#[derive(Debug)]
pub struct AskedAgent<'a> {
    agent: Agent,
    place: &'a Place,
}

impl Deref for AskedAgent<'_> {
    type Target = Agent;

    fn deref(&self) -> &Agent {
        &self.agent
    }
}

impl AskedAgent<'_> {
    /// As [`Agent::stop`].
    pub fn stop(self) -> Vec<crate::Event> {
        self.agent.stop()
    }

    /// Ends it in order; what it wrote.
    pub fn finish(self) -> Finished {
        self.agent.finish(Signal::TERM)
    }

    /// What `oomwatch ps --output json` says, ended workloads too.
    pub fn workloads(&self) -> Vec<Value> {
        let finished = self.place.ask("ps", &["--all", "--output", "json"]);
        assert_eq!(finished.code, Some(0), "{finished:?}");
        serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {}", finished.stdout))
    }

    /// Waits until a workload is as wanted.
    pub fn wait_for_workload(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, PROCESS_TIMEOUT, || self.workloads().into_iter().find(|row| wanted(row)))
    }

    /// Waits until a cgroup is measured.
    pub fn wait_until_measured(&self, cgroup: &Cgroup) -> Value {
        let path = text(cgroup.path());
        self.wait_for_workload(&format!("{path} to be measured"), |row| {
            row["workload"]["cgroup_path"] == path && row["usage_bytes"].is_u64() && row["limit_bytes"].is_u64()
        })
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of a test is text")
}
