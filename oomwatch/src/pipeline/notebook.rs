//! Writes the account and `state.json` beside the pipeline, for a disk may hang: only the latest of each. A record is
//! given back to the kernel after the account that covers it is written.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use anyhow::Context as _;

use super::keep::GiveBack;
use crate::state::{Account, Contents, StateDir};

/// The near end.
#[derive(Debug)]
pub(super) struct Notebook(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    pages: Mutex<Pages>,
    changed: Condvar,
}

/// What is to be written.
#[derive(Debug, Default)]
struct Pages {
    account: Option<Account>,
    contents: Option<Contents>,
    is_writing: bool,
    is_closed: bool,
}

impl Pages {
    fn is_idle(&self) -> bool {
        self.account.is_none() && self.contents.is_none() && !self.is_writing
    }
}

impl Shared {
    /// The thread that writes cannot panic while it holds them.
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be written next; `None` where nothing more will come.
    fn next(&self) -> Option<(Option<Account>, Option<Contents>)> {
        let mut pages = self.pages();
        pages.is_writing = false;
        self.changed.notify_all();
        let waiting = |pages: &mut Pages| pages.is_idle() && !pages.is_closed;
        let mut pages = self.changed.wait_while(pages, waiting).unwrap_or_else(PoisonError::into_inner);
        pages.is_writing = !pages.is_idle();
        pages.is_writing.then(|| (pages.account.take(), pages.contents.take()))
    }

    fn change(&self, change: impl FnOnce(&mut Pages)) {
        change(&mut self.pages());
        self.changed.notify_all();
    }
}

impl Notebook {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn start(state: Arc<StateDir>, give_back: GiveBack) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_writer = Arc::clone(&shared);
        let _detached = thread::Builder::new()
            .name("state".to_owned())
            .spawn(move || write_all(&of_writer, &state, give_back))
            .context("start the thread that keeps the state")?;
        Ok(Self(shared))
    }

    /// Up to where kills are told.
    pub(super) fn note(&self, account: Account) {
        self.0.change(|pages| pages.account = Some(account));
    }

    /// The counters of cgroups.
    pub(super) fn save(&self, contents: Contents) {
        self.0.change(|pages| pages.contents = Some(contents));
    }

    /// Whether everything is written.
    pub(super) fn is_idle(&self) -> bool {
        self.0.pages().is_idle()
    }

    /// Waits until everything is written; false where that takes too long.
    pub(super) fn finish(&self, patience: Duration) -> bool {
        self.0.change(|pages| pages.is_closed = true);
        let busy = |pages: &mut Pages| !pages.is_idle();
        let waited = self.0.changed.wait_timeout_while(self.0.pages(), patience, busy);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_idle()
    }
}

impl Drop for Notebook {
    fn drop(&mut self) {
        self.0.change(|pages| pages.is_closed = true);
    }
}

fn write_all(shared: &Shared, state: &StateDir, mut give_back: GiveBack) {
    let mut failed = false;
    while let Some((account, contents)) = shared.next() {
        if let Some(account) = account {
            if let Err(error) = state.write_account(&account)
                && !std::mem::replace(&mut failed, true)
            {
                tracing::warn!("cannot note up to where kills are told: {error}");
            }
            give_back(account.position);
        }
        if let Some(Err(error)) = contents.map(|contents| contents.save()) {
            tracing::warn!("the counters of cgroups are not kept: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_disk_that_hangs_delays_nobody_and_the_last_account_is_written_in_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let (state, _left) = StateDir::open(folder.path(), "boot").unwrap();
        let (release, gate) = channel::<()>();
        let (said, given_back) = channel();
        let hang = Box::new(move |position| {
            said.send(position).unwrap();
            let _released: Result<(), _> = gate.recv();
        });
        let notebook = Notebook::start(Arc::new(state), hang).unwrap();
        notebook.note(Account { position: 1, ..Account::default() });
        assert_eq!(given_back.recv(), Ok(1), "it hangs from here on");
        (2..=100).for_each(|position| notebook.note(Account { position, ..Account::default() }));
        assert!(!notebook.is_idle());
        assert!(!notebook.finish(Duration::from_millis(1)), "the end of the agent waits for no disk");
        drop(release);
        assert!(notebook.finish(Duration::from_mins(1)));
        assert_eq!(given_back.iter().collect::<Vec<_>>(), [100]);
    }
}
