//! Containers of users who are not root: what is known of them lies in their own folders, which may be on a disk that never
//! answers, or full of garbage that takes long to read. A thread of its own reads it, and is waited for briefly.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::sync_channel,
    },
    thread,
    time::Duration,
};

use super::{Description, describe, search::Search};
use crate::{clock, host::HostRoot, workload::CgroupIdentity};

/// How long an answer is waited for. Such a look takes below a millisecond.
const PATIENCE: Duration = Duration::from_millis(200);
/// Looks at one user's files may take one part in so many of the time,
const SHARE: u64 = 50;
/// and so much beyond it: hundreds of looks at once.
const CREDIT_NS: u64 = 200_000_000;
/// What a look costs that did not end in time: that user is left alone for ten minutes.
const HANGS_NS: u64 = CREDIT_NS + 12_000_000_000;
/// Threads that may hang.
const MAX_HANGING: usize = 4;

/// Who may be asked when.
#[derive(Debug, Default)]
pub(crate) struct Users {
    /// Time that was taken of late, and up to when it is paid off.
    taken_ns: HashMap<u32, (u64, u64)>,
    /// Threads under way.
    threads: Arc<AtomicUsize>,
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
        let began_ns = clock::boot_ns();
        let (taken_ns, paid_ns) = self.taken_ns.get(&user).copied().unwrap_or_default();
        let taken_ns = taken_ns.saturating_sub(began_ns.saturating_sub(paid_ns) / SHARE);
        if taken_ns > CREDIT_NS || self.threads.load(Ordering::Relaxed) >= MAX_HANGING {
            return None;
        }
        let (answer, answered) = sync_channel(1);
        let threads = Arc::clone(&self.threads);
        threads.fetch_add(1, Ordering::Relaxed);
        let asks = thread::Builder::new().name("user".to_owned()).spawn(move || {
            let answered = question();
            threads.fetch_sub(1, Ordering::Relaxed);
            // The other side may have lost its patience.
            let _unheard: Result<(), _> = answer.try_send(answered);
        });
        if asks.is_err() {
            self.threads.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let answered = answered.recv_timeout(PATIENCE).ok();
        let now_ns = clock::boot_ns();
        let took_ns = if answered.is_some() {
            now_ns.saturating_sub(began_ns)
        } else {
            tracing::warn!(user, "the files of a user's containers do not answer: they are left alone for a while");
            HANGS_NS
        };
        self.taken_ns.insert(user, (taken_ns.saturating_add(took_ns), began_ns));
        answered
    }
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
        let (_holds, gate) = sync_channel::<()>(0);
        assert_eq!(users.ask(2, move || gate.recv().is_ok()), None, "it hangs");
        assert_eq!(users.ask(2, || true), None, "left alone");
        assert_eq!(users.threads.load(Ordering::Relaxed), 1);
        assert_eq!(users.ask(1, || 8), Some(8), "another user is not held up");
        users.taken_ns.insert(1, (CREDIT_NS + 1_000_000_000, clock::boot_ns()));
        assert_eq!(users.ask(1, || 9), None, "who took too much waits");
        users.taken_ns.insert(1, (CREDIT_NS + 1, clock::boot_ns().saturating_sub(2 * SHARE)));
        assert_eq!(users.ask(1, || 9), Some(9), "until that is paid off");
    }

    #[test]
    fn threads_that_hang_are_few() {
        let mut users = Users::default();
        users.threads.store(MAX_HANGING, Ordering::Relaxed);
        assert_eq!(users.ask(1, || ()), None);
    }
}
