//! Requests over HTTP to programs on this machine.

use std::time::Duration;

/// Longest wait for an answer; a host under test is slow.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The kind of the body.
    pub content_type: String,
    /// The body.
    pub body: String,
}

/// `GET`; `None` where there was no answer.
pub fn get(url: &str, accept: &str) -> Option<Reply> {
    ask("GET", url, accept)
}

/// A request without a body; `None` where there was no answer.
pub fn ask(method: &str, url: &str, accept: &str) -> Option<Reply> {
    let client = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false).build();
    let request = ureq::http::Request::builder().method(method).uri(url).header("Accept", accept).body(());
    let mut response = client.new_agent().run(request.expect("a request")).ok()?;
    let content_type = response.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    Some(Reply {
        status: response.status().as_u16(),
        content_type: content_type.to_owned(),
        body: response.body_mut().read_to_string().ok()?,
    })
}
