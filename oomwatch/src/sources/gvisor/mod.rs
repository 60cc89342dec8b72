//! The source that watches gVisor sandboxes: finds them by themselves, measures them, warns before their limit.

pub(crate) mod argv;
pub(crate) mod discover;
pub(crate) mod limit;
mod lenient;
pub(crate) mod process;
pub(crate) mod sandbox;
pub(crate) mod state;
