//! The operator's own listener: health, readiness, metrics, and a page to look at.
//!
//! **What.** Plain HTTP, `GET` alone: `/healthz`, `/readyz`, `/metrics`, and `/ui` with its style.
//! **Trust.** Whoever reaches the listener learns how the broker fares; whoever has the page's token sees the VMs of all tenants.
//! Hence an address of its own, which is loopback unless the operator says otherwise in two words (`cli`).
//! **Laws.** Nothing can be changed here. No label and no reason names a tenant or a VM; the page does, and asks for the token first.
//! Work, heads, connections and waiting are bounded.
//! **Not here.** What VMs and tenants ask (`http`).

mod page;
mod token;

pub use token::{PageToken, PageTokenError};

use crate::http::{self, Limits, Speech};
use crate::ids::VmName;
use crate::metrics::Metrics;
use crate::service::Service;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// How long the database may take before it counts as silent.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);
/// How many looks at the database are at work at once.
const AT_WORK_MAX: usize = 4;
/// A prober, a scraper and a few people.
const CONNECTIONS_MAX: usize = 64;

/// What one may load: the page's own style. No script, no frame, no form.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What the listener shows.
#[derive(Debug)]
pub struct Operations {
    service: Arc<Service>,
    metrics: Arc<Metrics>,
    token: Option<PageToken>,
    is_draining: AtomicBool,
    at_work: Arc<Semaphore>,
}

type Shown = State<Arc<Operations>>;

impl Operations {
    /// Shows `service`, which counts in `metrics`. Without a token there is no page.
    #[must_use]
    pub fn new(service: Arc<Service>, metrics: Arc<Metrics>, token: Option<PageToken>) -> Arc<Self> {
        let at_work = Arc::new(Semaphore::new(AT_WORK_MAX));
        Arc::new(Self { service, metrics, token, is_draining: AtomicBool::new(false), at_work })
    }

    /// From now on the broker is not ready: it ends, and takes nothing new.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::Release);
    }

    /// Asks the service, on a thread that may wait; none if it took too long, or died.
    async fn ask<T: Send + 'static>(&self, ask: impl FnOnce(&Service) -> T + Send + 'static) -> Option<T> {
        let service = Arc::clone(&self.service);
        let asked = async {
            let permit = Arc::clone(&self.at_work).acquire_owned().await.ok()?;
            let asked = tokio::task::spawn_blocking(move || {
                let said = ask(&service);
                drop(permit);
                said
            });
            asked.await.ok()
        };
        timeout(ANSWER_WAIT_MAX, asked).await.ok().flatten()
    }
}

/// Serves until `end` is ready.
///
/// # Errors
/// What the listener gives.
pub async fn serve(
    listener: TcpListener,
    operations: Arc<Operations>,
    end: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/ui", get(ui))
        .route("/ui/style.css", get(style))
        .with_state(operations);
    let limits =
        Limits { connections: CONNECTIONS_MAX, end_wait: Duration::from_secs(1), ..Limits::default() };
    http::serve_routes(listener, move |_| routes.clone(), end, (Speech::Plain, limits)).await
}

/// The process lives.
async fn healthz() -> &'static str {
    "ok\n"
}

/// The broker decides.
async fn readyz(State(operations): Shown) -> (StatusCode, String) {
    let not_ready = |why: &str| (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n"));
    if operations.is_draining.load(Ordering::Acquire) {
        return not_ready("this broker is ending");
    }
    match operations.ask(Service::readiness).await {
        Some(Ok(())) => (StatusCode::OK, "ready\n".to_owned()),
        Some(Err(error)) => not_ready(&error.to_string()),
        None => not_ready("the database does not answer in time"),
    }
}

async fn metrics(State(operations): Shown) -> Response {
    let standing = operations.ask(Service::standing_of_all).await.unwrap_or_default();
    match operations.metrics.text(&standing) {
        Ok(text) => ([(header::CONTENT_TYPE, Metrics::format())], text).into_response(),
        Err(error) => {
            tracing::error!("{error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// The answer to who may not see the page.
fn refusal(operations: &Operations, request: &Request) -> Option<Response> {
    let Some(token) = &operations.token else {
        let why = "no page is shown: this broker was started without --operations-token\n";
        return Some((StatusCode::FORBIDDEN, why).into_response());
    };
    let said = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if said.is_some_and(|said| token.is_shown_by(said)) {
        return None;
    }
    let ask = (header::WWW_AUTHENTICATE, "Basic realm=\"husk operations\", charset=\"UTF-8\"");
    Some(
        (StatusCode::UNAUTHORIZED, [ask], "the page's token is asked for, as the password\n").into_response(),
    )
}

const HEADS: [(HeaderName, &str); 4] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
];

async fn ui(State(operations): Shown, request: Request) -> Response {
    if let Some(refused) = refusal(&operations, &request) {
        return refused;
    }
    let Ok(after) = after(request.uri().query()) else { return StatusCode::BAD_REQUEST.into_response() };
    let html = (header::CONTENT_TYPE, "text/html; charset=utf-8");
    match operations.ask(move |service| service.overview(after)).await {
        Some(Ok(overview)) => (HEADS, [html], page::page(&overview)).into_response(),
        Some(Err(error)) => {
            (StatusCode::SERVICE_UNAVAILABLE, HEADS, [html], page::failed(&error.to_string())).into_response()
        }
        None => {
            let why = "the database does not answer in time";
            (StatusCode::SERVICE_UNAVAILABLE, HEADS, [html], page::failed(why)).into_response()
        }
    }
}

async fn style() -> Response {
    (HEADS, [(header::CONTENT_TYPE, "text/css; charset=utf-8")], page::STYLE).into_response()
}

/// The VM behind which a page begins: `after=TENANT/VM`.
fn after(query: Option<&str>) -> Result<Option<VmName>, ()> {
    let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(None) };
    let (tenant, vm) = query.strip_prefix("after=").and_then(|name| name.split_once('/')).ok_or(())?;
    let name = VmName { tenant: tenant.parse().map_err(drop)?, vm: vm.parse().map_err(drop)? };
    Ok(Some(name))
}
