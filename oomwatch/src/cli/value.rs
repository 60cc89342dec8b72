//! What a value of an option may be. Each refusal says what is allowed, in words that fit a flag, a variable and a file.

use std::{net::SocketAddr, ops::RangeInclusive, time::Duration};

use clap::builder::{PathBufValueParser, TypedValueParser as _, ValueParser};

use super::OrNone;
use crate::{
    filter::Globs,
    sinks::{hook, otlp},
};

/// A path need not be UTF-8.
pub(super) fn path_or_none() -> ValueParser {
    ValueParser::new(
        PathBufValueParser::new().map(|path| OrNone(if path.as_os_str() == "none" { None } else { Some(path) })),
    )
}

pub(super) fn address_or_none(text: &str) -> Result<OrNone<SocketAddr>, &'static str> {
    text.parse().map_err(|_not_an_address| "must be an IP address with a port, such as 127.0.0.1:9566, or none")
}

pub(super) fn percent(text: &str) -> Result<u8, &'static str> {
    let number = text.parse().ok().filter(|number| (1..=100).contains(number));
    number.ok_or("must be a whole number from 1 to 100")
}

pub(super) fn journal_mib(text: &str) -> Result<u32, &'static str> {
    let number = text.parse().ok().filter(|number| (1..=1 << 20).contains(number));
    number.ok_or("must be a whole number of MiB from 1 to 1048576")
}

pub(super) fn boolean(text: &str) -> Result<bool, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("must be true or false"),
    }
}

/// Shortest and longest time between two measurements: below, the agent is a load; above, no warning is in time.
const POLL_INTERVALS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_mins(1);

pub(super) fn poll_interval(text: &str) -> Result<Duration, &'static str> {
    let interval = humantime::parse_duration(text).ok().filter(|interval| POLL_INTERVALS.contains(interval));
    interval.ok_or("must be a time from 10ms to 1m, such as 500ms")
}

pub(super) fn globs(text: &str) -> Result<Globs, String> {
    text.parse().map_err(|error| format!("must be a glob pattern: {error}"))
}

pub(super) fn command(text: &str) -> Result<String, String> {
    hook::checked(text)
}

pub(super) fn url(text: &str) -> Result<String, String> {
    otlp::checked(text)
}
