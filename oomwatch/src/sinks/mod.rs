//! Events out: `text` and `json` shape one line, `stdout` writes it without ever holding up the agent.

mod json;
pub mod stdout;
mod text;

use crate::{config::OutputFormat, event::Event};

/// One event as one line, without its end.
pub(crate) fn line(format: OutputFormat, event: &Event) -> String {
    match format {
        OutputFormat::Text => text::line(event),
        OutputFormat::Json => json::line(event),
    }
}

#[cfg(test)]
mod tests;
