//! The order to stop, as a value that is passed along.

use tokio::sync::watch;

/// Waits for the order to stop.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

/// Gives the order to stop; so does dropping the last of its clones.
#[derive(Debug, Clone)]
pub struct Stopper(watch::Sender<bool>);

/// A pair of both.
pub fn channel() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stop(receiver))
}

impl Stop {
    /// Ends when the order is given.
    pub async fn stopped(&self) {
        let mut receiver = self.0.clone();
        // An error means that the other side is gone, which is an order to stop as well.
        drop(receiver.wait_for(|stopped| *stopped).await);
    }
}

impl Stopper {
    /// Gives the order.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}
