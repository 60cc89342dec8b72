//! The server behind `--listen-address`: `GET /metrics` and `GET /healthz`, one request a connection. Bounded in
//! connections and in time, for it shares a thread with the rest of the agent.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ACCEPT, ALLOW, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{Exporter, series::Reader};

/// Connections at once; more wait in the kernel.
const MAX_CONNECTIONS: usize = 32;
/// For a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// For all of a connection: longer than a scraper waits.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest head of a request, bytes.
const MAX_HEAD: usize = 16 << 10;
/// After a connection that could not be accepted: for want of descriptors, say.
const RETRY: Duration = Duration::from_millis(200);

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";
const SCRAPE_TIMEOUT: &str = "x-prometheus-scrape-timeout-seconds";
const PLAIN: &str = "text/plain; charset=utf-8";

/// Serves until it is dropped, and all connections with it.
pub(super) async fn serve(listener: TcpListener, exporter: Arc<Exporter>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _peer)) => {
                    let _handle = connections.spawn(timeout(CONNECTION_TIMEOUT, answer(stream, Arc::clone(&exporter))));
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection was not accepted");
                    sleep(RETRY).await;
                }
            },
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn answer(stream: TcpStream, exporter: Arc<Exporter>) {
    let service = service_fn(|request| respond(request, &exporter));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a request was not answered");
    }
}

async fn respond(request: Request<Incoming>, exporter: &Arc<Exporter>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::GET {
        let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET\n".to_owned());
        refused.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET"));
        return Ok(refused);
    }
    Ok(match request.uri().path() {
        "/metrics" => metrics(exporter, wants_openmetrics(&request), reader(&request)).await,
        "/healthz" => healthz(exporter).await,
        _ => response(StatusCode::NOT_FOUND, PLAIN, "here are /metrics and /healthz\n".to_owned()),
    })
}

/// As Prometheus' own libraries decide it.
fn wants_openmetrics<B>(request: &Request<B>) -> bool {
    let accepted = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|kind| kind.trim().starts_with("application/openmetrics-text"))
}

/// Prometheus says how long it waits, and so does what is made after it.
fn reader<B>(request: &Request<B>) -> Reader {
    if request.headers().contains_key(SCRAPE_TIMEOUT) { Reader::Scraper } else { Reader::Other }
}

async fn metrics(exporter: &Arc<Exporter>, openmetrics: bool, reader: Reader) -> Response<Full<Bytes>> {
    match exporter.page(openmetrics, reader).await {
        Ok(page) => response(StatusCode::OK, if openmetrics { OPENMETRICS } else { CLASSIC }, page),
        Err(error) => {
            tracing::warn!("the metrics cannot be written: {error:#}");
            response(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, "the metrics cannot be written\n".to_owned())
        }
    }
}

async fn healthz(exporter: &Exporter) -> Response<Full<Bytes>> {
    let (healthy, report) = exporter.health().await;
    response(if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, PLAIN, report)
}

fn response(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepting(kinds: &[&str]) -> Request<()> {
        let builder = kinds.iter().fold(Request::builder(), |builder, kind| builder.header(ACCEPT, *kind));
        builder.body(()).unwrap()
    }

    #[test]
    fn openmetrics_is_for_who_asks_for_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert!(wants_openmetrics(&accepting(&[prometheus])));
        assert!(wants_openmetrics(&accepting(&["text/plain", "text/html, application/openmetrics-text"])));
        assert!(!wants_openmetrics(&accepting(&["*/*"])));
        assert!(!wants_openmetrics(&accepting(&[])));
    }
}
