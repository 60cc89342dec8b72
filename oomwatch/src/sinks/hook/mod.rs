//! `--hook`: a program is run for each event, with the event's JSON and a newline on its standard input, and the event's
//! name in `OOMWATCH_EVENT`. No shell is between. A few run at once, so they may overtake each other: `seq` tells.

mod child;
mod command;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc as done,
    },
    time::Duration,
};

use anyhow::Context as _;
use tokio::{sync::mpsc, task::JoinSet};

pub use self::command::checked;
use self::{child::run, command::HookCommand};
use super::{Delivery, Sink, loss};
use crate::{
    clock,
    stop::{self, Stop, Stopper},
};

const NAME: &str = "hook";
/// Events waiting for their turn: a heavy storm of kills, with a hook that takes some milliseconds.
const QUEUE: usize = 1024;
/// Programs running at once: enough that one hung does not stop the others, too few to be a load.
const AT_ONCE: usize = 4;
/// How often failures are logged at most.
const COMPLAIN_AGAIN_NS: u64 = 1_000_000_000;
/// How long the end of killed programs is waited for when the agent ends.
const LAST_WAIT: Duration = Duration::from_millis(500);
/// Between two looks at the clock at the end.
const LOOK: Duration = Duration::from_millis(20);

/// The hook.
#[derive(Debug)]
pub struct Hook {
    queue: Option<mpsc::Sender<Arc<Delivery>>>,
    counts: Arc<Counts>,
    give_up: Stopper,
    done: done::Receiver<()>,
}

/// What both sides know.
#[derive(Debug, Default)]
struct Counts {
    /// Taken and not done with.
    open: AtomicU64,
    /// Not delivered, and not told yet.
    failed: AtomicU64,
}

impl Hook {
    /// Starts the thread that runs the program; says at once where it cannot be run.
    ///
    /// # Errors
    /// The text is no command, or the thread cannot be started.
    pub fn start(text: &str) -> anyhow::Result<Self> {
        let command = HookCommand::parse(text).map_err(anyhow::Error::msg)?;
        if let Err(reason) = command.look_for_program() {
            tracing::warn!(hook = command.program, "the hook will fail: {reason}");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (queue, waiting) = mpsc::channel(QUEUE);
        let (give_up, order) = stop::channel();
        let (finished, done) = done::sync_channel(1);
        let counts = Arc::new(Counts::default());
        let server = Server { command: Arc::new(command), counts: Arc::clone(&counts), order, complaints: None };
        let _detached = std::thread::Builder::new()
            .name(NAME.to_owned())
            .spawn(move || {
                runtime.block_on(server.serve(waiting));
                // The other side may have stopped waiting.
                let _unheard: Result<(), _> = finished.try_send(());
            })
            .context("start the thread of the hook")?;
        Ok(Self { queue: Some(queue), counts, give_up, done })
    }

    fn is_done(&self) -> bool {
        !matches!(self.done.try_recv(), Err(done::TryRecvError::Empty))
    }
}

impl Sink for Hook {
    fn name(&self) -> &'static str {
        NAME
    }

    fn take(&mut self, event: &Arc<Delivery>) -> bool {
        self.counts.open.fetch_add(1, Ordering::Relaxed);
        let taken = self.queue.as_ref().is_some_and(|queue| queue.try_send(Arc::clone(event)).is_ok());
        if !taken {
            self.counts.open.fetch_sub(1, Ordering::Relaxed);
        }
        taken
    }

    fn take_failed(&mut self) -> u64 {
        self.counts.failed.swap(0, Ordering::Relaxed)
    }

    fn is_busy(&self) -> bool {
        self.counts.open.load(Ordering::Acquire) > 0
    }

    fn close(&mut self) {
        self.queue = None;
    }

    fn finish(&mut self, until_ns: u64) -> bool {
        while !self.is_done() {
            if clock::boot_ns() >= until_ns {
                self.give_up.stop();
                // Only so that nothing is left behind.
                let _late: Result<(), _> = self.done.recv_timeout(LAST_WAIT);
                return false;
            }
            std::thread::sleep(LOOK);
        }
        true
    }
}

/// The far end of the queue.
struct Server {
    command: Arc<HookCommand>,
    counts: Arc<Counts>,
    order: Stop,
    complaints: Option<Complaints>,
}

/// Failures since the last one that was logged.
struct Complaints {
    told_ns: u64,
    kept_back: u64,
}

/// What became of one event.
type Outcome = (Arc<Delivery>, Result<(), String>);

impl Server {
    /// Runs the program for each event until there is none left, or until the order to give up.
    async fn serve(mut self, mut waiting: mpsc::Receiver<Arc<Delivery>>) {
        let mut running: JoinSet<Outcome> = JoinSet::new();
        let order = self.order.clone();
        loop {
            tokio::select! {
                Some(ended) = running.join_next(), if !running.is_empty() => self.note(ended),
                delivery = waiting.recv(), if running.len() < AT_ONCE => match delivery {
                    Some(delivery) => self.begin(&mut running, delivery),
                    None => break,
                },
                () = order.stopped() => break,
            }
        }
        while let Some(ended) = running.join_next().await {
            self.note(ended);
        }
        waiting.close();
        if !waiting.is_empty() {
            tracing::warn!(events = waiting.len(), "the agent ends before the hook was run for all events");
        }
    }

    fn begin(&self, running: &mut JoinSet<Outcome>, delivery: Arc<Delivery>) {
        let (command, order) = (Arc::clone(&self.command), self.order.clone());
        running.spawn(async move {
            let outcome = run(&command, &delivery, order).await;
            (delivery, outcome)
        });
    }

    fn note(&mut self, ended: Result<Outcome, tokio::task::JoinError>) {
        let failure = match ended {
            Ok((_, Ok(()))) => None,
            Ok((delivery, Err(reason))) => Some((!loss::is_of(NAME, &delivery.event), reason)),
            Err(panic) => Some((true, panic.to_string())),
        };
        if let Some((counts, reason)) = failure {
            self.counts.failed.fetch_add(u64::from(counts), Ordering::Relaxed);
            self.complain(&reason);
        }
        // Last, so that one that is seen idle has counted all of its failures.
        self.counts.open.fetch_sub(1, Ordering::Release);
    }

    fn complain(&mut self, reason: &str) {
        let now_ns = clock::boot_ns();
        let due = |last: &Complaints| last.told_ns.saturating_add(COMPLAIN_AGAIN_NS) <= now_ns;
        match &mut self.complaints {
            Some(last) if !due(last) => last.kept_back += 1,
            last => {
                let not_logged = last.as_ref().map_or(0, |last| last.kept_back);
                tracing::warn!(hook = self.command.program, not_logged, "the hook failed: {reason}");
                *last = Some(Complaints { told_ns: now_ns, kept_back: 0 });
            }
        }
    }
}

#[cfg(test)]
mod tests;
