//! A configuration that may change while the agent runs: who holds [`Live`] reads what holds now and waits for the next.

use std::sync::Arc;

use tokio::sync::watch;

use crate::config::Config;

/// The configuration that holds now.
#[derive(Debug, Clone)]
pub struct Live(watch::Receiver<Arc<Config>>);

/// Gives a new configuration to every [`Live`].
#[derive(Debug)]
pub struct Changer(watch::Sender<Arc<Config>>);

/// A pair of both.
pub fn channel(config: Config) -> (Changer, Live) {
    let (sender, receiver) = watch::channel(Arc::new(config));
    (Changer(sender), Live(receiver))
}

impl From<Config> for Live {
    /// One that never changes.
    fn from(config: Config) -> Self {
        channel(config).1
    }
}

impl Live {
    /// What holds now.
    pub fn now(&self) -> Arc<Config> {
        Arc::clone(&self.0.borrow())
    }

    /// The next configuration; never where nobody can change it any more.
    pub async fn changed(&mut self) -> Arc<Config> {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        Arc::clone(&self.0.borrow_and_update())
    }
}

impl Changer {
    /// Gives a new one. What cannot change while the agent runs must be as before ([`Config::with_live_of`]).
    pub fn change(&self, config: Config) {
        self.0.send_replace(Arc::new(config));
    }

    /// What holds now.
    pub fn now(&self) -> Arc<Config> {
        Arc::clone(&self.0.borrow())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everybody_sees_the_newest_and_one_without_a_changer_stays() {
        let config = |threshold_percent| Config { threshold_percent, ..Config::default() };
        let (changer, mut live) = channel(config(95));
        let late = live.clone();
        changer.change(config(80));
        changer.change(config(70));
        assert_eq!(live.changed().await.threshold_percent, 70);
        assert_eq!((late.now().threshold_percent, changer.now().threshold_percent), (70, 70));
        drop(changer);
        let wait = tokio::time::timeout(std::time::Duration::from_millis(5), live.changed());
        assert!(wait.await.is_err(), "a change by nobody");
        assert_eq!(live.now().threshold_percent, 70);
    }
}
