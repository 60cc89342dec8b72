//! Containers of users who are not root: what is known of them lies in their own folders, which may be on a disk that never
//! answers, or full of garbage that takes long to read. A thread of its own reads it, and is waited for briefly.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, TryRecvError, sync_channel},
    },
    thread,
    time::Duration,
};

use super::{Description, describe, search::Search};
use crate::{
    clock,
    host::{HostRoot, spared},
    workload::CgroupIdentity,
};

/// An answer is waited for so often and so long: in turns, so that a host that stood still has lost but one. Such a look takes
/// below a millisecond, but its thread may wait for a processor: in a virtual machine 200 ms were seen.
const TURNS: u32 = 10;
const TURN: Duration = Duration::from_millis(100);
/// Looks at one user's files may take one part in so many of the time,
const SHARE: u64 = 50;
/// and so much beyond it: hundreds of looks at once.
const CREDIT_NS: u64 = 200_000_000;
/// To wait for a processor costs that much less than to read: others may have taken it, but the user, too.
const DELAY_SHARE: u64 = 8;
/// Largest file read, bytes.
const MAX_FILE: usize = 256;
/// What one look costs at the most: that user is left alone for ten minutes after it.
const MOST_NS: u64 = CREDIT_NS + 12_000_000_000;
/// Threads that may hang.
const MAX_HANGING: usize = 4;

/// Who may be asked when.
#[derive(Debug, Default)]
pub(crate) struct Users {
    accounts: HashMap<u32, Account>,
    /// Threads under way.
    threads: Arc<AtomicUsize>,
}

/// What looking at one user's files took.
#[derive(Debug, Default)]
struct Account {
    /// Time that was taken of late,
    taken_ns: u64,
    /// and up to when it is paid off.
    paid_ns: u64,
    /// A look that did not end in time: at its end it says how long it took, beside how long it was waited for.
    hanging: Option<Receiver<u64>>,
}

impl Account {
    /// Whether this user is asked now: not while a look hangs, nor before one that took long is paid off.
    fn is_open(&mut self, now_ns: u64) -> bool {
        self.taken_ns = self.taken_ns.saturating_sub(now_ns.saturating_sub(self.paid_ns) / SHARE);
        self.paid_ns = now_ns;
        match self.hanging.as_ref().map(Receiver::try_recv) {
            Some(Err(TryRecvError::Empty)) => return false,
            Some(Ok(took_ns)) => self.taken_ns = self.taken_ns.saturating_add(took_ns.min(MOST_NS)),
            Some(Err(TryRecvError::Disconnected)) | None => {}
        }
        self.hanging = None;
        self.taken_ns <= CREDIT_NS
    }
}

impl Users {
    /// As [`describe`], and where the cgroup is a user's only what its path says if the files take too long.
    pub(crate) fn describe(
        &mut self,
        root: &HostRoot,
        identity: &CgroupIdentity,
        path: &[u8],
        process: Option<u32>,
    ) -> Description {
        let Some(user) = identity.user else { return describe(root, identity, path, process) };
        let (root, whose, of_path) = (root.clone(), identity.clone(), path.to_vec());
        let asked = self.ask(user, move || describe(&root, &whose, &of_path, process));
        asked.unwrap_or_else(|| Search::new(&HostRoot::default(), identity, path).finish())
    }

    fn ask<T: Send + 'static>(&mut self, user: u32, question: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let now_ns = clock::boot_ns();
        let account = self.accounts.entry(user).or_insert_with(|| Account { paid_ns: now_ns, ..Account::default() });
        if !account.is_open(now_ns) || self.threads.load(Ordering::Relaxed) >= MAX_HANGING {
            return None;
        }
        let (answer, answered) = sync_channel(1);
        let (end, ended) = sync_channel(1);
        let threads = Arc::clone(&self.threads);
        threads.fetch_add(1, Ordering::Relaxed);
        let asks = thread::Builder::new().name("user".to_owned()).spawn(move || {
            spared::take_time();
            let before = (clock::boot_ns(), run_delay_ns());
            let answered = question();
            let all_ns = clock::boot_ns().saturating_sub(before.0);
            let delay_ns = run_delay_ns().zip(before.1).map_or(0, |(after, before)| after.saturating_sub(before));
            let took_ns = all_ns.saturating_sub(delay_ns).max(all_ns / DELAY_SHARE);
            threads.fetch_sub(1, Ordering::Relaxed);
            // The other side may have lost its patience.
            let _unheard: Result<(), _> = answer.try_send((answered, took_ns));
            let _unheard: Result<(), _> = end.try_send(took_ns);
        });
        if asks.is_err() {
            self.threads.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        for turn in 1..=TURNS {
            if let Ok((answered, took_ns)) = answered.recv_timeout(TURN) {
                account.taken_ns = account.taken_ns.saturating_add(took_ns.min(clock::ns(TURN * turn)));
                return Some(answered);
            }
        }
        tracing::warn!(user, "the files of a user's containers do not answer in time: they are left alone for a while");
        account.taken_ns = account.taken_ns.saturating_add(clock::ns(TURN * TURNS));
        account.hanging = Some(ended);
        None
    }
}

/// How long this thread was ready to run, and waited for a processor: no fault of the files. `None` where the kernel does not
/// say.
fn run_delay_ns() -> Option<u64> {
    let text = HostRoot::default().read_bounded(Path::new("/proc/thread-self/schedstat"), MAX_FILE).ok()?;
    let text = str::from_utf8(&text).ok()?;
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers_is_asked_again_and_who_does_not_is_left_alone() {
        let mut users = Users::default();
        for number in 0..50 {
            assert_eq!(users.ask(1, move || number), Some(number));
        }
        let (holds, gate) = sync_channel::<()>(0);
        assert_eq!(users.ask(2, move || gate.recv().is_ok()), None, "it hangs");
        assert_eq!(users.ask(2, || true), None, "left alone");
        assert_eq!(users.threads.load(Ordering::Relaxed), 1);
        assert_eq!(users.ask(1, || 8), Some(8), "another user is not held up");
        drop(holds);
        let is_open = |users: &mut Users| users.accounts.get_mut(&2).unwrap().is_open(clock::boot_ns());
        while users.accounts[&2].hanging.is_some() {
            assert!(!is_open(&mut users), "it took longer than it may");
        }
        let mut account = |taken_ns| {
            let account = users.accounts.get_mut(&1).unwrap();
            (account.taken_ns, account.paid_ns) = (taken_ns, 0);
            account.is_open(SHARE)
        };
        assert!(!account(CREDIT_NS + 1_000_000_000), "who took too much waits");
        assert!(account(CREDIT_NS + 1), "until that is paid off");
    }

    #[test]
    fn the_kernel_says_how_long_a_thread_waited_for_a_processor() {
        assert!(run_delay_ns().is_some());
    }

    #[test]
    fn threads_that_hang_are_few() {
        let mut users = Users::default();
        users.threads.store(MAX_HANGING, Ordering::Relaxed);
        assert_eq!(users.ask(1, || ()), None);
    }
}
