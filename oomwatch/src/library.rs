//! The agent inside another program: [`Agent`] is a stream of events.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    thread::JoinHandle,
};

use anyhow::Context as _;
use futures_core::Stream;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::{
    agent,
    config::Config,
    event::Event,
    sinks::{Delivery, Sink},
    stop::{self, Stopper},
};

/// Events waiting for a slow consumer; beyond it they are lost, counted, and told by an event `loss`.
const QUEUE: usize = 8192;

/// A running agent, on a thread of its own: it needs no runtime of its caller's, and no caller delays it.
///
/// The stream begins with `agent_started`. It ends after `agent_stopped`, or when nothing works any more, which
/// [`Agent::finish`] explains. Dropping it stops the agent too, without waiting.
#[derive(Debug)]
pub struct Agent {
    events: Receiver<Arc<Delivery>>,
    stopper: Stopper,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Agent {
    /// Starts to watch this host. The sinks of the configuration run too; standard output is the caller's.
    ///
    /// # Errors
    /// The thread cannot be started. What the agent cannot do on this host is said by [`Agent::finish`].
    pub fn start(config: Config) -> anyhow::Result<Self> {
        let (sender, events) = channel(QUEUE);
        let (stopper, stop) = stop::channel();
        let thread = std::thread::Builder::new()
            .name("oomwatch".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(agent::run(config, vec![Box::new(Channel(Some(sender)))], stop))
            })
            .context("start the agent's thread")?;
        Ok(Self { events, stopper, thread: Some(thread) })
    }

    /// The next event; `None` once the agent has ended.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await.map(event)
    }

    /// The next event, waited for by this thread; not from within a runtime.
    pub fn next_blocking(&mut self) -> Option<Event> {
        self.events.blocking_recv().map(event)
    }

    /// What asks the agent to stop, from anywhere; the events that it still has follow.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Stops and waits for the end.
    ///
    /// # Errors
    /// The agent did not work, or ended because its source of kills broke.
    pub fn finish(mut self) -> anyhow::Result<()> {
        self.stopper.stop();
        match self.thread.take() {
            Some(thread) => thread.join().map_err(|_panic| anyhow::anyhow!("the agent panicked"))?,
            None => Ok(()),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stopper.stop();
    }
}

impl Stream for Agent {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.events.poll_recv(context).map(|delivery| delivery.map(event))
    }
}

/// Without a copy where no other sink holds it any more.
fn event(delivery: Arc<Delivery>) -> Event {
    Arc::try_unwrap(delivery).map_or_else(|shared| shared.event.clone(), |delivery| delivery.event)
}

/// The near end of the stream.
#[derive(Debug)]
struct Channel(Option<Sender<Arc<Delivery>>>);

impl Sink for Channel {
    fn name(&self) -> &'static str {
        "stream"
    }

    fn take(&mut self, event: &Arc<Delivery>) -> bool {
        self.0.as_ref().is_some_and(|sender| sender.try_send(Arc::clone(event)).is_ok())
    }

    fn close(&mut self) {
        self.0 = None;
    }

    /// What is queued stays with its receiver.
    fn finish(&mut self, _until_ns: u64) -> bool {
        true
    }
}
