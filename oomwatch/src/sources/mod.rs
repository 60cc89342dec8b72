//! Sources watch one thing each. A source knows no other source and no sink.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::correlate::Looker;

pub(crate) mod cgroup;
pub(crate) mod counters;
pub(crate) mod gvisor;
pub(crate) mod kernel;
pub(crate) mod kmsg;
mod readable;
pub(crate) mod stall;
pub(crate) mod totals;
pub(crate) mod watch;

/// Orders to look now and to say up to when all is passed on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Look {
    /// To the source of the kernel's log.
    pub(crate) log: Arc<Notify>,
    /// To the source of counters.
    pub(crate) counters: Arc<Notify>,
}

impl Look {
    /// Gives one. Where the source does not run nobody answers.
    pub(crate) fn order(&self, looker: Looker) {
        match looker {
            Looker::Log => self.log.notify_one(),
            Looker::Counters => self.counters.notify_one(),
        }
    }
}
