//! `/husk/v1/tenant`: signed requests of tenants' operators, and what one is made from.

use super::{BODY_WAIT_MAX, Shared};
use crate::admin::{Failure, REQUEST_BYTES_MAX};
use crate::service::Service;
use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::time::timeout;

/// The route.
pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/husk/v1/tenant", get(greeting).post(request))
}

async fn greeting(State(shared): State<Shared>) -> Response {
    at_work(shared, |service| service.admin_greeting()).await
}

async fn request(State(shared): State<Shared>, request: Request) -> Response {
    let body = match timeout(BODY_WAIT_MAX, to_bytes(request.into_body(), REQUEST_BYTES_MAX)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        Err(_) => return StatusCode::REQUEST_TIMEOUT.into_response(),
    };
    at_work(shared, move |service| service.admin(&body)).await
}

async fn at_work(
    shared: Shared,
    work: impl FnOnce(&Service) -> Result<Value, Failure> + Send + 'static,
) -> Response {
    let Ok(permit) = Arc::clone(&shared.at_work).acquire_owned().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let done = tokio::task::spawn_blocking(move || {
        let said = work(&shared.service);
        drop(permit);
        said
    });
    match done.await {
        Ok(Ok(value)) => answer(StatusCode::OK, &value),
        Ok(Err(failure)) => {
            let status = StatusCode::from_u16(failure.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            answer(status, &json!({ "error": failure.word() }))
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn answer(status: StatusCode, value: &Value) -> Response {
    let heads = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (status, heads, value.to_string()).into_response()
}
