//! The service on HTTP: `POST /husk/v1/frame` and `GET /healthz`.
//!
//! **What.** One frame per request, one per answer, as `application/octet-stream`.
//! **Trust.** None: everything that matters is sealed within the frames, so plain HTTP gives nothing away but who talks
//! when.
//! **Laws.** Bodies, waiting and work are bounded: a frame's size, [`BODY_WAIT_MAX`], [`AT_WORK_MAX`]. Every frame that
//! is a frame gets status 200, refusals too; other statuses mean that no frame was looked at.
//! **Not here.** TLS: put a proxy in front where metadata matters.

use crate::service::Service;
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use husk::release::wire::FRAME_BYTES_MAX;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// How long a frame may take to arrive.
pub const BODY_WAIT_MAX: Duration = Duration::from_secs(10);
/// How many frames are at work at once; the others wait in line.
pub const AT_WORK_MAX: usize = 32;
/// How long the requests that are at work may take once the end was ordered.
const END_WAIT_MAX: Duration = Duration::from_secs(5);
const OCTETS: &str = "application/octet-stream";

#[derive(Clone)]
struct Shared {
    service: Arc<Service>,
    at_work: Arc<Semaphore>,
}

/// Serves until `end` is ready, then finishes what is at work.
///
/// # Errors
/// What the listener gives.
pub async fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    end: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let shared = Shared { service, at_work: Arc::new(Semaphore::new(AT_WORK_MAX)) };
    let router =
        Router::new().route("/husk/v1/frame", post(frame)).route("/healthz", get(health)).with_state(shared);
    let ended = Arc::new(tokio::sync::Notify::new());
    let ending = Arc::clone(&ended);
    let server = axum::serve(listener, router).with_graceful_shutdown(async move {
        end.await;
        ending.notify_one();
    });
    // A client that keeps its connection open does not keep the broker from ending.
    let patience = async {
        ended.notified().await;
        tokio::time::sleep(END_WAIT_MAX).await;
    };
    tokio::select! {
        served = server => served,
        () = patience => Ok(()),
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
    let Ok(permit) = shared.at_work.acquire_owned().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let service = shared.service;
    let handled = tokio::task::spawn_blocking(move || {
        let reply = service.handle(&body);
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
