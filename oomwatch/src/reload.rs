//! SIGHUP: the configuration is read again. A wrong one is said and the old one stays; what cannot change while the agent
//! runs is said by name and waits for the next start.

use std::ffi::OsString;

use tokio::signal::unix::Signal;

use crate::{
    config::LIVE_KEYS,
    live::Changer,
    settings::{self, Effective},
};

/// What reads again.
#[derive(Debug)]
pub struct Reload {
    /// The command line.
    pub arguments: Vec<OsString>,
    /// What the agent was started with.
    pub effective: Effective,
    /// Where a new configuration goes.
    pub changer: Changer,
}

impl Reload {
    /// Reads again at every signal.
    pub async fn at_every(mut self, mut hangup: Signal) {
        while hangup.recv().await.is_some() {
            self.again();
        }
    }

    fn again(&mut self) {
        let (config, effective) = match settings::read_again(&self.arguments) {
            Ok(read) => read,
            Err(wrong) => {
                tracing::error!("the new configuration is wrong, the old one stays: {wrong}");
                return;
            }
        };
        let (live, fixed): (Vec<&str>, Vec<&str>) =
            effective.differing(&self.effective).partition(|key| LIVE_KEYS.contains(key));
        for key in &fixed {
            tracing::warn!(key, "takes effect at the next start");
        }
        let before = self.changer.now();
        if !live.is_empty() {
            self.changer.change(before.with_live_of(config));
        }
        let changed = live.join(", ");
        tracing::info!(changed, "configuration read again");
        self.effective = effective;
    }
}
