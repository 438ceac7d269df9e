//! `/kbs/v0/…`: RCAR on HTTP.

use super::{BODY_WAIT_MAX, Shared};
use crate::kbs::{Answer, BODY_BYTES_MAX, Proof, Said};
use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use std::sync::Arc;
use tokio::time::timeout;

const PREFIX: &str = "/kbs/v0/";
const COOKIE: &str = "kbs-session-id";

/// The routes of a KBS.
pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/kbs/v0/{*rest}", any(kbs))
}

/// What a request is, by its head.
enum Kind {
    Auth,
    Attest { cookie: String },
    Resource { proof: Owned, path: String },
}

enum Owned {
    Cookie(String),
    Token(String),
}

async fn kbs(State(shared): State<Shared>, request: Request) -> Response {
    let kind = match kind(request.method(), request.uri().path(), request.headers()) {
        Ok(kind) => kind,
        Err(status) => return status.into_response(),
    };
    let body = match timeout(BODY_WAIT_MAX, to_bytes(request.into_body(), BODY_BYTES_MAX)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        Err(_) => return StatusCode::REQUEST_TIMEOUT.into_response(),
    };
    let Ok(permit) = Arc::clone(&shared.at_work).acquire_owned().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let Shared { service, peer, .. } = shared;
    let answered = tokio::task::spawn_blocking(move || {
        let said = match &kind {
            Kind::Auth => Said::Auth { body: &body },
            Kind::Attest { cookie } => Said::Attest { cookie, body: &body },
            Kind::Resource { proof, path } => Said::Resource { proof: proof.borrowed(), path },
        };
        let answer = service.kbs(peer, &said);
        drop(permit);
        answer
    });
    match answered.await {
        Ok(answer) => response(&answer),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

impl Owned {
    fn borrowed(&self) -> Proof<'_> {
        match self {
            Self::Cookie(cookie) => Proof::Cookie(cookie),
            Self::Token(token) => Proof::Token(token),
        }
    }
}

fn kind(method: &Method, path: &str, headers: &HeaderMap) -> Result<Kind, StatusCode> {
    let rest = path.strip_prefix(PREFIX).ok_or(StatusCode::NOT_FOUND)?;
    match (method, rest) {
        (&Method::POST, "auth") => Ok(Kind::Auth),
        (&Method::POST, "attest") => {
            Ok(Kind::Attest { cookie: cookie(headers).ok_or(StatusCode::UNAUTHORIZED)? })
        }
        (&Method::GET, _) => {
            let path = rest.strip_prefix("resource/").ok_or(StatusCode::NOT_FOUND)?.to_owned();
            let proof = token(headers).map(Owned::Token).or_else(|| cookie(headers).map(Owned::Cookie));
            // Without a session there is nothing to look up: the client attests, and comes again.
            let proof = proof.unwrap_or_else(|| Owned::Cookie(String::new()));
            Ok(Kind::Resource { proof, path })
        }
        _ => Err(StatusCode::NOT_FOUND),
    }
}

fn cookie(headers: &HeaderMap) -> Option<String> {
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = pairs.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| value.to_owned())
}

fn token(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("Bearer ").map(str::to_owned)
}

fn response(answer: &Answer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = (header::CONTENT_TYPE, "application/json".to_owned());
    let body = answer.body.to_string();
    match &answer.session {
        None => (status, [json], body).into_response(),
        Some(id) => (status, [json, (header::SET_COOKIE, format!("{COOKIE}={id}"))], body).into_response(),
    }
}
