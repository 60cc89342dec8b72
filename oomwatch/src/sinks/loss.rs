//! What an output says about itself in its own place where lines are missing: an event `loss` without a number, for it
//! concerns this output only.

use std::sync::Arc;

use super::Delivery;
use crate::{
    clock,
    event::{Body, Confidence, Event, Loss, LossStage, SCHEMA, Severity, Source},
};

/// `lost` events are missing here.
pub(super) fn here(sink: &'static str, lost: u64, boot_id: &Arc<str>) -> Delivery {
    Delivery::new(Event {
        schema: SCHEMA,
        seq: 0,
        timestamp: clock::wall_time(clock::boot_ns()),
        boot_id: Arc::clone(boot_id),
        body: Body::Loss(Loss { stage: LossStage::Sink, lost, records: None, sink: Some(sink.into()) }),
        severity: Severity::Critical,
        source: Source::Agent,
        confidence: Confidence::Exact,
        incident_id: None,
        workload: None,
    })
}

/// Whether this is the report of what that sink lost.
pub(super) fn is_of(sink: &str, event: &Event) -> bool {
    matches!(&event.body, Body::Loss(loss) if loss.sink.as_deref() == Some(sink))
}
