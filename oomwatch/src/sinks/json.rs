//! An event as one line of JSON. Everything that came from outside was made printable before it entered the event.

use crate::event::Event;

pub(super) fn line(event: &Event) -> String {
    // The type has neither maps with foreign keys nor fallible parts, so this cannot fail.
    serde_json::to_string(event).unwrap_or_else(|error| format!("{{\"event\":\"loss\",\"error\":\"{error}\"}}"))
}
