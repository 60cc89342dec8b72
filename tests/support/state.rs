//! Where an agent keeps what outlives it: a folder and a BPF file system of its own.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::{Agent, Event, Output, agent::AGENT_LOG, agent_command, mount::Mount};

/// A state folder, and a BPF file system for what is pinned. Both go on drop, and the pinned programs with them.
#[derive(Debug)]
pub struct State {
    folder: TempDir,
    bpf_fs: Mount,
}

impl State {
    /// Nothing kept yet.
    #[expect(clippy::new_without_default, reason = "it mounts")]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("make a folder");
        Self { folder, bpf_fs: Mount::new("bpf", c"mode=0700") }
    }

    /// A file in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folders of pinned programs, one for each agent that left some.
    pub fn generations(&self) -> Vec<PathBuf> {
        let folders = |folder: &Path| -> Vec<PathBuf> {
            let entries = std::fs::read_dir(folder).into_iter().flatten();
            entries.map(|entry| entry.expect("read a folder").path()).collect()
        };
        folders(&self.bpf_fs.folder().join("oomwatch")).iter().flat_map(|folder| folders(folder)).collect()
    }

    /// What is in the journal, of all agents.
    pub fn journal(&self) -> Vec<Event> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.file("events"))
            .expect("read the journal's folder")
            .map(|entry| entry.expect("read a folder").path())
            .collect();
        files.sort();
        let text: String = files.iter().map(|file| std::fs::read_to_string(file).expect("read the journal")).collect();
        text.lines().map(Event::parse).collect()
    }

    /// Somebody else makes the folder for pins before an agent does.
    pub fn pre_empt(&self) {
        let folder = self.bpf_fs.folder().join("oomwatch");
        std::fs::create_dir(&folder).expect("make a folder");
        std::os::unix::fs::chown(&folder, Some(65534), Some(65534)).expect("give it away");
    }

    /// Unpins everything.
    pub fn unpin(&self) {
        std::fs::remove_dir_all(self.bpf_fs.folder().join("oomwatch")).expect("unpin");
    }

    /// An agent that keeps its state here.
    pub fn agent(&self) -> Agent {
        self.agent_with(&[])
    }

    /// The same, with more arguments.
    pub fn agent_with(&self, arguments: &[&str]) -> Agent {
        self.start(std::env::var_os("OOMWATCH_BIN").expect("OOMWATCH_BIN").as_ref(), arguments)
    }

    /// The same, of another program file.
    pub fn agent_of(&self, program: &Path) -> Agent {
        self.start(program, &[])
    }

    fn start(&self, program: &Path, more: &[&str]) -> Agent {
        let arguments = ["run", "--output", "json", "--state-dir"];
        let command = agent_command(&arguments);
        let mut own = std::process::Command::new(program);
        own.args(command.get_args()).arg(self.folder.path()).arg("--bpf-fs").arg(self.bpf_fs.folder()).args(more);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => own.env(name, value),
                None => own.env_remove(name),
            };
        }
        Agent::start_command(Output::Json, own.env("OOMWATCH_LOG", AGENT_LOG))
    }
}
