//! Sources watch one thing each. A source knows no other source and no sink.

pub(crate) mod gvisor;
pub(crate) mod kernel;
