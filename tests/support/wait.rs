//! Waiting for something to become true.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Longest wait for an event; a virtual machine without hardware support is slow.
pub const EVENT_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest wait for a process to start, to end or to say something.
pub const PROCESS_TIMEOUT: Duration = Duration::from_mins(1);

/// Time between two looks, at first, and after a while: who looks all the time takes the processor of a virtual machine from
/// what is waited for.
const STEPS: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(50)];
/// A step is at most this part of the time waited so far.
const PART: u32 = 16;

/// Looks until `probe` finds something; fails with `what` after `timeout`.
pub fn wait_for<T>(what: &str, timeout: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    within(timeout, &mut probe).unwrap_or_else(|| panic!("waited {} s in vain for {what}", timeout.as_secs()))
}

/// Looks until `probe` finds something; `None` where it does not within `timeout`.
pub(crate) fn within<T>(timeout: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let begin = Instant::now();
    loop {
        let found = probe();
        if found.is_some() || begin.elapsed() >= timeout {
            return found;
        }
        let [shortest, longest] = STEPS;
        thread::sleep((begin.elapsed() / PART).clamp(shortest, longest));
    }
}
