//! Events out. `text` and `json` shape one line; each other module is one sink. The hub below hands every event to all
//! of them and never waits: a sink that cannot keep up loses events of its own, which are counted and told.

pub mod hook;
pub(crate) mod journal;
mod json;
mod loss;
pub(crate) mod metrics;
pub mod otlp;
pub(crate) mod socket;
pub mod stdout;
mod text;
mod worker;

use std::sync::{Arc, OnceLock, atomic::AtomicU64};

use crate::{clock, config::OutputFormat, event::Event};

/// How long sinks may take at the end for what they still hold, together.
pub const DRAIN_NS: u64 = 2_000_000_000;
/// How often at most the losses of a sink that stays full are told.
const TELL_AGAIN_NS: u64 = 10_000_000_000;
/// How soon a sink that is busy is asked again what it could not deliver.
const LOOK_AGAIN_NS: u64 = 1_000_000_000;

/// One event on its way out, shared by all sinks.
#[derive(Debug)]
pub struct Delivery {
    /// The event.
    pub event: Event,
    json: OnceLock<String>,
}

impl Delivery {
    /// Of one event.
    pub fn new(event: Event) -> Self {
        Self { event, json: OnceLock::new() }
    }

    /// The event as one line of JSON, without its end; shaped once.
    pub fn json(&self) -> &str {
        self.json.get_or_init(|| json::line(&self.event))
    }

    /// The event as one line, without its end.
    pub fn line(&self, format: OutputFormat) -> String {
        match format {
            OutputFormat::Text => text::line(&self.event),
            OutputFormat::Json => self.json().to_owned(),
        }
    }
}

/// Where events go.
pub trait Sink: std::fmt::Debug + Send {
    /// What it is called in the report of a loss.
    fn name(&self) -> &'static str;
    /// Takes an event without waiting; false where it had no room and lost it.
    fn take(&mut self, event: &Arc<Delivery>) -> bool;
    /// Events that it took and could not deliver, since the last call.
    fn take_failed(&mut self) -> u64 {
        0
    }
    /// It holds events of which it does not know yet whether it can deliver them, and may lose them at any time.
    fn is_busy(&self) -> bool {
        false
    }
    /// The last event, by `seq`, that will not be lost any more whatever becomes of the agent (or was lost and
    /// counted); `None` where nobody needs to wait for it.
    fn settled(&self) -> Option<u64> {
        None
    }
    /// The number behind [`Self::settled`] as it grows, for an output that comes after this one.
    fn progress(&self) -> Option<Arc<AtomicU64>> {
        None
    }
    /// Nothing more will come.
    fn close(&mut self);
    /// Waits for the delivery of what it holds, until this time of `CLOCK_BOOTTIME`; false where that was not enough.
    fn finish(&mut self, until_ns: u64) -> bool;
}

/// A sink and what it lost.
#[derive(Debug)]
struct Slot {
    sink: Box<dyn Sink>,
    lost: u64,
    /// It took the last event offered.
    has_room: bool,
    told_ns: u64,
    /// Shortest time to the next report: it grows while the losses go on.
    gap_ns: u64,
}

impl Slot {
    /// From one report of losses to the next.
    fn patience_ns(&self) -> u64 {
        if self.has_room { self.gap_ns } else { TELL_AGAIN_NS }
    }

    fn tell(&mut self, now_ns: u64) {
        let goes_on = now_ns.saturating_sub(self.told_ns) < 2 * TELL_AGAIN_NS;
        let gap_ns = if goes_on { 2 * self.gap_ns } else { 0 };
        self.gap_ns = gap_ns.clamp(LOOK_AGAIN_NS, TELL_AGAIN_NS);
        self.told_ns = now_ns;
    }
}

/// All sinks.
#[derive(Debug, Default)]
pub struct Sinks {
    slots: Vec<Slot>,
    /// When busy sinks are looked at again.
    look_ns: Option<u64>,
}

impl Sinks {
    /// Those.
    pub fn new(sinks: Vec<Box<dyn Sink>>) -> Self {
        let slot = |sink| Slot { sink, lost: 0, has_room: true, told_ns: 0, gap_ns: 0 };
        Self { slots: sinks.into_iter().map(slot).collect(), look_ns: None }
    }

    /// Hands an event to every sink.
    pub fn deliver(&mut self, event: Event) {
        let delivery = Arc::new(Delivery::new(event));
        for slot in &mut self.slots {
            slot.has_room = slot.sink.take(&delivery);
            // The news of its own losses is no loss: it would never end.
            slot.lost += u64::from(!slot.has_room && !loss::is_of(slot.sink.name(), &delivery.event));
        }
        if self.look_ns.is_none() && self.is_any_busy() {
            self.look_ns = Some(clock::boot_ns().saturating_add(LOOK_AGAIN_NS));
        }
    }

    /// What is to be told of losses now: sinks that have room again, and those that stay full, now and then.
    pub fn take_losses(&mut self, now_ns: u64) -> Vec<(&'static str, u64)> {
        let mut losses = Vec::new();
        if self.look_ns.is_some_and(|at| at <= now_ns) {
            // Asked before the losses are: one that is not busy any more has told all of them.
            self.look_ns = self.is_any_busy().then(|| now_ns.saturating_add(LOOK_AGAIN_NS));
        }
        for slot in &mut self.slots {
            let failed = slot.sink.take_failed();
            slot.lost += failed;
            let patience = if failed > 0 { TELL_AGAIN_NS } else { slot.patience_ns() };
            if slot.lost > 0 && slot.told_ns.saturating_add(patience) <= now_ns {
                slot.tell(now_ns);
                losses.push((slot.sink.name(), std::mem::take(&mut slot.lost)));
            }
        }
        losses
    }

    /// When [`Self::take_losses`] has something next that it has not now.
    pub fn next_deadline(&self) -> Option<u64> {
        let losing = self.slots.iter().filter(|slot| slot.lost > 0);
        let telling = losing.map(|slot| slot.told_ns.saturating_add(slot.patience_ns())).min();
        telling.into_iter().chain(self.look_ns).min()
    }

    fn is_any_busy(&self) -> bool {
        self.slots.iter().any(|slot| slot.sink.is_busy())
    }

    /// The last event, by `seq`, that every sink whose word counts has settled; `None` where there is no such sink.
    pub fn settled(&self) -> Option<u64> {
        let slots = self.slots.iter().filter(|slot| slot.has_room);
        slots.filter_map(|slot| slot.sink.settled()).min()
    }

    /// The last event, by `seq`, that some sink has settled; `None` where there is no sink that says so.
    pub fn written(&self) -> Option<u64> {
        self.slots.iter().filter_map(|slot| slot.sink.settled()).max()
    }

    /// Lets all sinks deliver what they hold; says which could not in time. True where all could.
    pub fn finish(mut self) -> bool {
        for slot in &mut self.slots {
            slot.sink.close();
        }
        let until_ns = clock::boot_ns().saturating_add(DRAIN_NS);
        let mut all = true;
        for slot in &mut self.slots {
            if !slot.sink.finish(until_ns) {
                tracing::warn!(sink = slot.sink.name(), "events were still waiting for it at the end");
                all = false;
            }
        }
        all
    }
}

#[cfg(test)]
mod hub_tests;

#[cfg(test)]
mod tests;
