//! When the kernel's count of kills is read, for whichever source does it: a comparison with what was told wants two
//! readings more than a second apart.

use tokio::time::{Duration, Instant, sleep_until};

use crate::{host::vmstat, observation::KillTotal};

/// Time between two readings: after kills, and at rest.
const READ_SOON: Duration = Duration::from_millis(1200);
const READ_EVERY: Duration = Duration::from_secs(5);

/// When to read next.
#[derive(Debug)]
pub(crate) struct Totals {
    next: Instant,
    /// Readings to come soon.
    soon: u8,
}

impl Default for Totals {
    /// A kill that was missed before is told soon after the start.
    fn default() -> Self {
        Self { next: Instant::now() + READ_SOON, soon: 2 }
    }
}

impl Totals {
    /// Ends when it is time to read.
    pub(crate) async fn due(&self) {
        sleep_until(self.next).await;
    }

    /// Kills were seen.
    pub(crate) fn soon(&mut self) {
        self.soon = 2;
        self.next = self.next.min(Instant::now() + READ_SOON);
    }

    /// Reads; `None` where the kernel does not count.
    pub(crate) fn read(&mut self) -> Option<KillTotal> {
        self.soon = self.soon.saturating_sub(1);
        self.next = Instant::now() + if self.soon > 0 { READ_SOON } else { READ_EVERY };
        vmstat::oom_kills().inspect_err(|error| tracing::debug!(%error, "the kernel's count of kills is not read")).ok()
    }
}
