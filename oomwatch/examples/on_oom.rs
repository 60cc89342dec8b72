//! The original system's interface over the agent's stream: `Watch(onOOM)` and `Stop()`.
//!
//! `cargo run --example on_oom` as root, then let something run out of memory. Ends at end of file on standard input.

use std::{
    io::{self, Read as _},
    thread::{self, JoinHandle},
};

use oomwatch::{
    Agent,
    config::Config,
    event::{Body, Event, OomKill},
    stop::Stopper,
};

/// A watch under way.
struct Watch {
    stopper: Stopper,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Watch {
    /// Calls `on_oom` for each kill of the kernel's.
    fn start(config: Config, mut on_oom: impl FnMut(&Event, &OomKill) + Send + 'static) -> anyhow::Result<Self> {
        let mut agent = Agent::start(config)?;
        let stopper = agent.stopper();
        let thread = thread::spawn(move || {
            while let Some(event) = agent.next_blocking() {
                if let Body::OomKill(kill) = &event.body {
                    on_oom(&event, kill);
                }
            }
            agent.finish()
        });
        Ok(Self { stopper, thread })
    }

    /// Stops; every kill up to now has been told when this returns.
    fn stop(self) -> anyhow::Result<()> {
        self.stopper.stop();
        self.thread.join().map_err(|_panic| anyhow::anyhow!("the callback panicked"))?
    }
}

#[expect(clippy::print_stdout, reason = "an example shows what it sees")]
fn main() -> anyhow::Result<()> {
    let config = Config { listen_address: None, socket: None, state_dir: None, ..Config::default() };
    let watch = Watch::start(config, |event, kill| {
        let pid = kill.victim.as_ref().map(|victim| victim.pid.unwrap_or(victim.tid).to_string());
        let pid = pid.as_deref().unwrap_or("unknown");
        let container = event.workload.as_ref().and_then(|workload| workload.container_id.as_deref());
        println!("OOM: pid={pid} container={}", container.unwrap_or("none"));
    })?;
    let _end_of_file = io::stdin().read_to_end(&mut Vec::new())?;
    watch.stop()
}
