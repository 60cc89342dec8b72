//! The agent's Unix socket: every client gets the JSON lines from the moment it connects, and may ask questions, one a
//! line, which are answered in between. Runs on a thread of its own, so neither the agent nor a client waits for others.
//!
//! A client that reads too slowly loses its oldest lines and is told how many where they are missing.

mod client;
mod listener;

use std::{
    io,
    path::Path,
    sync::{Arc, mpsc as blocking},
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    sync::{broadcast, mpsc},
    task::JoinSet,
};

use self::{client::Client, listener::Listener};
use super::{DRAIN_NS, Delivery, Sink};
use crate::{
    clock,
    host::system,
    pipeline::Request,
    stop::{self, Stop, Stopper},
};

const NAME: &str = "socket";
/// Events kept for a slow client. They are shared: each costs some two kilobytes, whoever waits.
const KEPT: usize = 1024;
/// Clients at once: no more than a host's operators and collectors, far fewer than file descriptors.
const CLIENTS: usize = 256;
/// How long an end is waited for between two looks at the clock.
const LOOK: Duration = Duration::from_millis(20);
/// Rest after a connection that could not be taken: the process has no file descriptors left.
const REST: Duration = Duration::from_secs(1);

/// The socket.
#[derive(Debug)]
pub(crate) struct Socket {
    events: Option<broadcast::Sender<Arc<Delivery>>>,
    stopper: Stopper,
    done: blocking::Receiver<()>,
}

impl Socket {
    /// Listens at `path`, in place of an agent that is gone.
    ///
    /// # Errors
    /// Another agent listens there, or the socket cannot be made.
    pub(crate) fn start(path: &Path, asker: &mpsc::Sender<Request>) -> anyhow::Result<Self> {
        let listener = Listener::bind(path)?;
        let boot_id: Arc<str> = system::boot_id().context("read the boot id")?.into();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (events, _) = broadcast::channel(KEPT);
        let (stopper, stop) = stop::channel();
        let (finished, done) = blocking::sync_channel(1);
        let server = Server { events: events.clone(), asker: asker.clone(), boot_id, clients: JoinSet::new() };
        let _detached = std::thread::Builder::new()
            .name(NAME.to_owned())
            .spawn(move || {
                if let Err(error) = runtime.block_on(server.run(listener, &stop)) {
                    tracing::error!(%error, "nobody can be heard at the socket");
                }
                // The other side may have stopped waiting.
                let _unheard: Result<(), _> = finished.try_send(());
            })
            .context("start the thread of the socket")?;
        Ok(Self { events: Some(events), stopper, done })
    }
}

impl Sink for Socket {
    fn name(&self) -> &'static str {
        NAME
    }

    /// Always has room: what a client loses is told to that client.
    fn take(&mut self, event: &Arc<Delivery>) -> bool {
        if let Some(events) = &self.events {
            // An error says that there is no client.
            let _unheard: Result<usize, _> = events.send(Arc::clone(event));
        }
        true
    }

    fn close(&mut self) {
        self.events = None;
        self.stopper.stop();
    }

    fn finish(&mut self, until_ns: u64) -> bool {
        loop {
            match self.done.try_recv() {
                Ok(()) | Err(blocking::TryRecvError::Disconnected) => return true,
                Err(blocking::TryRecvError::Empty) if clock::boot_ns() >= until_ns => return false,
                Err(blocking::TryRecvError::Empty) => std::thread::sleep(LOOK),
            }
        }
    }
}

/// Takes in clients.
struct Server {
    events: broadcast::Sender<Arc<Delivery>>,
    asker: mpsc::Sender<Request>,
    boot_id: Arc<str>,
    clients: JoinSet<()>,
}

impl Server {
    /// Until `stop`; then clients get what there still is for them, if they read.
    async fn run(mut self, file: Listener, stop: &Stop) -> io::Result<()> {
        let listener = file.listener()?;
        loop {
            tokio::select! {
                () = stop.stopped() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => self.admit(stream),
                    Err(error) => {
                        tracing::warn!(%error, "a client of the socket cannot be taken in");
                        tokio::time::sleep(REST).await;
                    }
                },
            }
        }
        drop((listener, file));
        let Self { events, mut clients, .. } = self;
        drop(events);
        let all = async { while clients.join_next().await.is_some() {} };
        // A client that does not read is left behind.
        drop(tokio::time::timeout(Duration::from_nanos(DRAIN_NS), all).await);
        Ok(())
    }

    fn admit(&mut self, stream: tokio::net::UnixStream) {
        while self.clients.try_join_next().is_some() {}
        if self.clients.len() >= CLIENTS {
            tracing::warn!(clients = CLIENTS, "a client of the socket was turned away: there are too many");
            client::turn_away(stream, CLIENTS);
            return;
        }
        let events = self.events.subscribe();
        let client = Client::new(stream, events, self.asker.clone(), Arc::clone(&self.boot_id));
        self.clients.spawn(client.serve());
    }
}

#[cfg(test)]
mod tests;
