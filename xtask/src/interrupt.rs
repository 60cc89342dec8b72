//! Ctrl-C and its kin: noticed between two steps, so that whatever was made on the host is removed again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};

/// How often a condition is looked at, and how late an interrupt is noticed at most.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Whether this process was asked to end.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From here on the signals that ask a process to end only raise a flag.
    pub(crate) fn watch() -> anyhow::Result<Self> {
        let raised = Arc::new(AtomicBool::new(false));
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            flag::register(signal, Arc::clone(&raised)).context("watch for signals")?;
        }
        Ok(Self(raised))
    }

    /// An error once this process was asked to end.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.0.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }

    /// Waits until `ready` gives something.
    pub(crate) fn wait_for<T>(
        &self,
        what: &str,
        timeout: Duration,
        mut ready: impl FnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + timeout;
        loop {
            self.check()?;
            if let Some(value) = ready()? {
                return Ok(value);
            }
            if Instant::now() >= deadline {
                bail!("waited {} s in vain for {what}", timeout.as_secs());
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Does nothing for a while.
    pub(crate) fn sleep(&self, time: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.check()?;
            thread::sleep(LOOK_EVERY.min(end.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }
}
