//! The service on HTTP: `POST /husk/v1/frame`, `GET /healthz`, signed requests of tenants at `/husk/v1/tenant`, and a CoCo KBS at `/kbs/v0`.
//!
//! **What.** One frame per request, one per answer, as `application/octet-stream`; RCAR's JSON (`kbs`).
//! **Trust.** None: everything that matters is sealed within the frames. TLS ([`Speech`]) hides who talks when.
//! **Laws.** Heads, bodies, connections, waiting and work are bounded: [`Limits`], a frame's size, [`BODY_WAIT_MAX`],
//! [`AT_WORK_MAX`]. Every frame that is a frame gets status 200, refusals too; other statuses mean that no frame was
//! looked at.
//! **Not here.** Certificates (`tls`).

mod admin;
mod kbs;

use crate::service::Service;
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use husk::release::wire::FRAME_BYTES_MAX;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// How long a frame may take to arrive.
pub const BODY_WAIT_MAX: Duration = Duration::from_secs(10);
/// How many frames are at work at once; the others wait in line.
pub const AT_WORK_MAX: usize = 32;
/// How many seconds the requests that are at work may take once the end was ordered, unless it is said.
pub const END_WAIT_S: u16 = 20;
/// After the listener failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The longest head of a request, together with what hyper reads ahead.
const HEAD_BYTES_MAX: usize = 16 << 10;
const OCTETS: &str = "application/octet-stream";

/// How much a client may take of a server, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a TLS handshake may take, and a request's head, counted from the end of the request before. Longer than a relay keeps
    /// an idle connection for use (15 s).
    pub head_wait: Duration,
    /// Open connections; more wait in the listener's queue.
    pub connections: usize,
    /// How long the requests that are at work may take once the end was ordered.
    pub end_wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_wait: Duration::from_secs(20),
            connections: 4096,
            end_wait: Duration::from_secs(u64::from(END_WAIT_S)),
        }
    }
}

/// What is spoken below HTTP.
#[derive(Clone)]
pub enum Speech {
    /// Nothing: the network sees who talks when, and everything of an RCAR or operator's request.
    Plain,
    /// TLS.
    Tls(TlsAcceptor),
}

impl std::fmt::Debug for Speech {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain => "Plain",
            Self::Tls(_) => "Tls",
        })
    }
}

#[derive(Clone)]
struct Shared {
    service: Arc<Service>,
    at_work: Arc<Semaphore>,
    /// Who is at the other end.
    peer: IpAddr,
}

/// Serves on plain HTTP until `end` is ready, then finishes what is at work.
///
/// # Errors
/// What the listener gives.
pub async fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    end: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    serve_within(listener, service, end, (Speech::Plain, Limits::default())).await
}

/// As [`serve`], in another speech and with other limits.
///
/// # Errors
/// What the listener gives.
pub async fn serve_within(
    listener: TcpListener,
    service: Arc<Service>,
    end: impl Future<Output = ()> + Send + 'static,
    manner: (Speech, Limits),
) -> std::io::Result<()> {
    let at_work = Arc::new(Semaphore::new(AT_WORK_MAX));
    let routes =
        move |peer| router(Shared { service: Arc::clone(&service), at_work: Arc::clone(&at_work), peer });
    serve_routes(listener, routes, end, manner).await
}

/// Serves what `routes` gives to each peer.
pub(crate) async fn serve_routes(
    listener: TcpListener,
    routes: impl Fn(IpAddr) -> Router,
    end: impl Future<Output = ()> + Send + 'static,
    (speech, limits): (Speech, Limits),
) -> std::io::Result<()> {
    let room = Arc::new(Semaphore::new(limits.connections));
    let (ending, ended) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut end = std::pin::pin!(end);
    loop {
        let place = tokio::select! {
            () = &mut end => break,
            place = Arc::clone(&room).acquire_owned() => place.map_err(std::io::Error::other)?,
        };
        let (stream, peer) = tokio::select! {
            () = &mut end => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                // The client gave up, or this process has no file left: others end meanwhile.
                Err(_) => {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let router = routes(peer.ip());
        let (speech, head_wait, ended) = (speech.clone(), limits.head_wait, ended.clone());
        connections.spawn(async move {
            greet(stream, speech, router, (head_wait, ended)).await;
            drop(place);
        });
    }
    drop(listener);
    // Nobody listens to the sender's failure: then no connection is left.
    ending.send_replace(true);
    let finished = async { while connections.join_next().await.is_some() {} };
    // A client that keeps its connection open does not keep the broker from ending.
    if timeout(limits.end_wait, finished).await.is_err() {
        tracing::warn!("{} connections were cut off, which did not end in time", connections.len());
    }
    Ok(())
}

fn router(shared: Shared) -> Router {
    let routes = Router::new().route("/husk/v1/frame", post(frame)).route("/healthz", get(health));
    routes.merge(admin::routes()).merge(kbs::routes()).with_state(shared)
}

/// Agrees on keys where TLS is spoken, then serves. Whom the certificate does not please is not answered.
async fn greet(
    stream: TcpStream,
    speech: Speech,
    router: Router,
    (head_wait, mut ended): (Duration, watch::Receiver<bool>),
) {
    let Speech::Tls(acceptor) = speech else { return connection(stream, router, head_wait, ended).await };
    let agreed = tokio::select! {
        agreed = timeout(head_wait, acceptor.accept(stream)) => agreed,
        _ = ended.wait_for(|ended| *ended) => return,
    };
    if let Ok(Ok(stream)) = agreed {
        connection(stream, router, head_wait, ended).await;
    }
}

/// Serves one connection; however it ends is its client's affair.
async fn connection(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    router: Router,
    head_wait: Duration,
    mut ended: watch::Receiver<bool>,
) {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(head_wait).max_buf_size(HEAD_BYTES_MAX);
    let service = TowerToHyperService::new(router);
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = serving.as_mut() => return,
        _ = ended.wait_for(|ended| *ended) => serving.as_mut().graceful_shutdown(),
    }
    // What was at work is finished.
    match serving.await {
        Ok(()) | Err(_) => {}
    }
}

async fn health(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    if shared.service.is_well() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "restart this broker and read its log\n")
    }
}

async fn frame(State(shared): State<Shared>, request: Request) -> Response {
    let is_octets = request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == OCTETS);
    if !is_octets {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    let body = match body_of(request.into_body()).await {
        Ok(body) => body,
        Err(status) => return status.into_response(),
    };
    let Ok(permit) = Arc::clone(&shared.at_work).acquire_owned().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let Shared { service, peer, .. } = shared;
    let handled = tokio::task::spawn_blocking(move || {
        let reply = service.handle_from(peer, &body);
        drop(permit);
        reply
    });
    match handled.await {
        Ok(reply) => ([(header::CONTENT_TYPE, OCTETS)], reply).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn body_of(body: Body) -> Result<Bytes, StatusCode> {
    match timeout(BODY_WAIT_MAX, to_bytes(body, FRAME_BYTES_MAX)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
    }
}
