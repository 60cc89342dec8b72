//! `cargo xtask run --demo`: the agent on this host, real out-of-memory kills in scratch containers, and what each
//! event means. One file per scene; everything made is removed again, whatever happens.

mod container;
mod event_line;
mod explain;
mod plain;
mod sandbox;

use std::{
    env,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::ensure;
use xshell::Shell;

use self::event_line::EventLine;
use crate::{
    agent::{Agent, Output},
    cgroup::Hierarchy,
    compile,
    interrupt::Interrupt,
    process,
    setup::{self, Part},
};

/// The longest that the whole show may take, from the agent's start.
const TIME: Duration = Duration::from_secs(50);

/// A kill, with who is killed and what becomes of the others.
struct Scene {
    title: &'static str,
    play: fn(&mut Stage<'_>) -> anyhow::Result<()>,
}

/// In the order of play.
const SCENES: &[Scene] = &[
    Scene { title: "a process in a cgroup with a limit of 20 MiB eats memory without end", play: plain::play },
    Scene {
        title: "in a runc container with a limit of 32 MiB, a child of the first process eats memory without end",
        play: container::play,
    },
    Scene { title: "a gVisor sandbox with a limit of 96 MiB fills its memory slowly", play: sandbox::play },
];

/// Plays all scenes with the agent `ready`, or with one built now.
pub(crate) fn demo(sh: &Shell, ready: Option<PathBuf>) -> anyhow::Result<()> {
    let agent = if let Some(agent) = ready {
        agent
    } else {
        setup::setup(sh, Part::Demo)?;
        compile::agent(sh)?
    };
    let interrupt = Interrupt::watch()?;
    if process::is_root()? {
        return play(&agent, &interrupt);
    }
    let agent = compile::absolute(&agent)?;
    process::run(process::as_root(&env::current_exe()?)?.args(["run", "--demo", "--agent"]).arg(agent))
}

fn play(agent: &Path, interrupt: &Interrupt) -> anyhow::Result<()> {
    let hierarchy = Hierarchy::find()?;
    let agent = Agent::start(agent, Output::Text)?;
    let mut stage = Stage { agent, hierarchy, interrupt, deadline: Instant::now() + TIME };
    let started = stage.expect("the agent's start", |event| event.message == "oomwatch started")?;
    in_plain_words(&explain::sentence(&started))?;
    for (index, scene) in SCENES.iter().enumerate() {
        process::print(&format!("\nScene {}: {}", index + 1, scene.title))?;
        (scene.play)(&mut stage)?;
    }
    process::print("\nThe end: the agent is asked to stop")?;
    stage.end()?;
    Hierarchy::find()?.check_nothing_is_left()?;
    process::print("\nThe containers and cgroups made for this are gone again.")
}

/// Where scenes are played: the agent, what it says, and the time left.
#[derive(Debug)]
struct Stage<'a> {
    agent: Agent,
    hierarchy: Hierarchy,
    interrupt: &'a Interrupt,
    deadline: Instant,
}

impl Stage<'_> {
    /// Shows events until the wanted one, which is for the scene to explain; explains the others.
    fn expect(&mut self, what: &str, wanted: impl Fn(&EventLine) -> bool) -> anyhow::Result<EventLine> {
        loop {
            let left = self.time_left();
            let line = self.agent.event(self.interrupt, what, left)?;
            let event = show(&line.text)?;
            if wanted(&event) {
                return Ok(event);
            }
            in_plain_words(&explain::sentence(&event))?;
        }
    }

    fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Stops the agent, which must say so last.
    fn end(self) -> anyhow::Result<()> {
        self.agent.ask_to_end()?;
        let mut last = None;
        while let Some(line) = self.agent.next_event(self.interrupt, "the agent's last events", self.time_left())? {
            let event = show(&line.text)?;
            in_plain_words(&explain::sentence(&event))?;
            last = Some(event.message);
        }
        ensure!(last.as_deref() == Some("oomwatch stopped"), "the agent ended without saying so");
        self.agent.wait(self.interrupt)
    }
}

/// Prints an event as the agent did.
fn show(line: &str) -> anyhow::Result<EventLine> {
    process::print(line)?;
    Ok(EventLine::parse(line))
}

/// Says what the event above means.
fn in_plain_words(sentence: &str) -> anyhow::Result<()> {
    process::print(&format!("    => {sentence}"))
}
