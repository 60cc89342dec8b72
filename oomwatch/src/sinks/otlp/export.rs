//! One request to a collector and its answer; tried again, as OTLP says, where that may help.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse},
    metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse},
};
use prost::Message;
use ureq::{Agent, http::Response};

use super::endpoint::Endpoint;
use crate::clock;

/// How long a collector may take for one request.
const TIME_OUT: Duration = Duration::from_secs(5);
/// How long after the first try a request is given up.
const GIVE_UP_AFTER_NS: u64 = 20_000_000_000;
/// Wait before the second try; doubled for each further one.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Between two looks whether the agent ends.
const LOOK: Duration = Duration::from_millis(20);
/// An answer is a few bytes.
const LONGEST_ANSWER: u64 = 64 << 10;

/// A request with its kind and its answer.
pub(super) trait Export: Message {
    /// The end of the path.
    const KIND: &'static str;
    /// What comes back.
    type Answer: Message + Default;
    /// How many the collector did not want, and why.
    fn rejected(answer: Self::Answer) -> Option<(i64, String)>;
}

impl Export for ExportLogsServiceRequest {
    const KIND: &'static str = "logs";
    type Answer = ExportLogsServiceResponse;

    fn rejected(answer: Self::Answer) -> Option<(i64, String)> {
        answer.partial_success.map(|partial| (partial.rejected_log_records, partial.error_message))
    }
}

impl Export for ExportMetricsServiceRequest {
    const KIND: &'static str = "metrics";
    type Answer = ExportMetricsServiceResponse;

    fn rejected(answer: Self::Answer) -> Option<(i64, String)> {
        answer.partial_success.map(|partial| (partial.rejected_data_points, partial.error_message))
    }
}

/// Why a try failed.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(super) struct Failure {
    reason: String,
    /// Another try may succeed.
    may_pass: bool,
    /// The collector asks for that long a wait.
    wait: Option<Duration>,
}

/// Sends to one collector.
#[derive(Debug, Clone)]
pub(super) struct Exporter {
    agent: Agent,
    endpoint: Endpoint,
    closing: Arc<AtomicBool>,
}

impl Exporter {
    /// To this one; `closing` ends waits.
    pub(super) fn new(endpoint: &Endpoint, closing: Arc<AtomicBool>) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(TIME_OUT))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("oomwatch/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: config.into(), endpoint: endpoint.clone(), closing }
    }

    /// Tries until it succeeds, cannot succeed, or some time has passed; how many the collector did not want.
    ///
    /// # Errors
    /// The last try's.
    pub(super) fn export<R: Export>(&self, request: &R) -> Result<u64, Failure> {
        let give_up_ns = clock::boot_ns().saturating_add(GIVE_UP_AFTER_NS);
        let mut wait = FIRST_WAIT;
        loop {
            let failure = match self.export_once(request) {
                Err(failure) if failure.may_pass => failure,
                outcome => return outcome,
            };
            let this_wait = failure.wait.unwrap_or_else(|| jittered(wait));
            let until_ns = clock::boot_ns().saturating_add(clock::ns(this_wait));
            if until_ns > give_up_ns || !self.sleep(until_ns) {
                return Err(failure);
            }
            tracing::debug!("another try to reach the OTLP collector after: {failure}");
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// One try.
    ///
    /// # Errors
    /// It failed.
    pub(super) fn export_once<R: Export>(&self, request: &R) -> Result<u64, Failure> {
        let post = self.agent.post(self.endpoint.url(R::KIND)).content_type("application/x-protobuf");
        let mut response = post.send(request.encode_to_vec().as_slice()).map_err(|error| Failure {
            reason: error.to_string(),
            may_pass: true,
            wait: None,
        })?;
        let status = response.status();
        if !status.is_success() {
            return Err(Failure {
                reason: format!("it answered {status}"),
                may_pass: matches!(status.as_u16(), 429 | 502..=504),
                wait: retry_after(&response),
            });
        }
        let body = response.body_mut().with_config().limit(LONGEST_ANSWER).read_to_vec().unwrap_or_default();
        // It took the request; an answer that is none changes nothing about that.
        let rejected = R::Answer::decode(body.as_slice()).ok().and_then(R::rejected);
        Ok(rejected.map_or(0, |(count, why)| {
            if count > 0 {
                tracing::warn!(kind = R::KIND, count, "the OTLP collector rejected some: {}", why.escape_default());
            }
            u64::try_from(count).unwrap_or_default()
        }))
    }

    /// Sleeps until then; false where the agent ends meanwhile.
    fn sleep(&self, until_ns: u64) -> bool {
        while clock::boot_ns() < until_ns {
            if self.closing.load(Ordering::Relaxed) {
                return false;
            }
            std::thread::sleep(LOOK);
        }
        true
    }
}

/// Three quarters to five quarters of a wait, so that not all hosts come back at once.
fn jittered(wait: Duration) -> Duration {
    let chance = u32::try_from(clock::boot_ns() / 1000 % 51).unwrap_or_default();
    wait * (75 + chance) / 100
}

/// What the collector asks for, in seconds; the other form, a date, is left aside.
fn retry_after<B>(response: &Response<B>) -> Option<Duration> {
    let seconds = response.headers().get("retry-after")?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}
