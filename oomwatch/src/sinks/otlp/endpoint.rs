//! The address of a collector, as OpenTelemetry has it: an `http` URL, below which `/v1/logs` and `/v1/metrics` are.

use std::str::FromStr;

use ureq::http::Uri;

/// A collector's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(String);

/// The text as it is, if it is such an address.
///
/// # Errors
/// What it must be.
pub fn checked(text: &str) -> Result<String, String> {
    text.parse().map(|_: Endpoint| text.to_owned())
}

impl Endpoint {
    /// Where something of this kind is sent.
    pub(super) fn url(&self, kind: &str) -> String {
        format!("{}/v1/{kind}", self.0)
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const MUST: &str = "must be a URL such as http://127.0.0.1:4318";
        let uri: Uri = text.parse().map_err(|error| format!("{MUST}: {error}"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(format!(
                    "{MUST}: oomwatch speaks plain http only; let a collector on this host speak https"
                ));
            }
            _ => return Err(MUST.to_owned()),
        }
        if uri.host().is_none_or(str::is_empty) {
            return Err(MUST.to_owned());
        }
        // Beside the parser's own view, which leaves out a port that is none.
        let port = uri.authority().and_then(|authority| authority.as_str().rsplit_once(':')).map(|(_, port)| port);
        if port.is_some_and(|port| !port.ends_with(']') && !port.parse().is_ok_and(|port: u16| port > 0)) {
            return Err(format!("{MUST}: its port must be from 1 to 65535"));
        }
        if uri.query().is_some() {
            return Err(format!("{MUST}: behind a query there is no place for a path"));
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }
}
