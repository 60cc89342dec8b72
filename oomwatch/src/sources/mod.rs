//! Sources watch one thing each. A source knows no other source and no sink.

pub(crate) mod cgroup;
pub(crate) mod counters;
pub(crate) mod gvisor;
pub(crate) mod kernel;
pub(crate) mod kmsg;
mod readable;
pub(crate) mod stall;
pub(crate) mod totals;
pub(crate) mod watch;
