//! A CoCo KBS, for clients that know no Husk: RCAR 0.4.0, and resources that the tenant uploaded.
//!
//! **What.** What clients say as types ([`Said`], [`Attestation`]), the sessions of RCAR, and how a resource is encrypted ([`jwe`]).
//! **Trust.** A report, once its signature holds down to a root; what the report binds. Not what JSON says of it.
//! **Laws.** A session has one nonce, which is good for one attestation. A resource is given to the VM whose enrolled HOST_DATA the report
//! has, under the very policy that a grant needs, which is asked again with each resource. Sizes, sessions and their ages are bounded.
//! **Not here.** Freshness: a KBS has none. HTTP: `http::kbs`. The decisions: `service`.

mod evidence;
pub mod jwe;
mod sessions;

pub use evidence::Attestation;
pub(crate) use evidence::{PROTOCOL, request_is_spoken};
pub use sessions::{Proof, SESSION_MS, SESSIONS_MAX, SESSIONS_OF_PEER_MAX};
pub(crate) use sessions::{Proven, Sessions};

use serde_json::{Value, json};

/// The longest body of a request in bytes: the JSON of a report and of a few certificates, as lists of numbers.
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// The longest path of a resource in bytes.
pub const PATH_BYTES_MAX: usize = 256;

/// A request of a client.
#[derive(Clone, Debug)]
pub enum Said<'s> {
    /// `POST /kbs/v0/auth`.
    Auth {
        /// The body.
        body: &'s [u8],
    },
    /// `POST /kbs/v0/attest`.
    Attest {
        /// The session's cookie.
        cookie: &'s str,
        /// The body.
        body: &'s [u8],
    },
    /// `GET /kbs/v0/resource/…`.
    Resource {
        /// What proves the session.
        proof: Proof<'s>,
        /// Repository, type and tag.
        path: &'s str,
    },
}

/// An answer to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The session that was begun.
    pub session: Option<String>,
    /// The JSON of the body.
    pub body: Value,
}

impl Answer {
    /// Status 200.
    pub(crate) const fn ok(body: Value) -> Self {
        Self { status: 200, session: None, body }
    }

    /// What Trustee answers, whatever the reason is: the log has it, a stranger has not.
    pub(crate) fn refused() -> Self {
        Self::error(401, "refused")
    }

    /// This broker cannot answer now.
    pub(crate) fn unavailable() -> Self {
        Self::error(503, "unavailable")
    }

    fn error(status: u16, word: &str) -> Self {
        let kind = "https://github.com/confidential-containers/kbs/errors/";
        let body = json!({ "type": format!("{kind}{word}"), "detail": word });
        Self { status, session: None, body }
    }
}

/// Whether `path` is one of a resource: three names of plain characters.
#[must_use]
pub fn is_path(path: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let is_name = |name: &str| !name.is_empty() && !name.starts_with('.') && name.bytes().all(plain);
    path.len() <= PATH_BYTES_MAX && path.split('/').count() == 3 && path.split('/').all(is_name)
}

#[cfg(test)]
mod tests {
    use super::is_path;

    #[test]
    fn a_path_is_three_plain_names() {
        for path in ["a/b/c", "husk/00ff/1.2-3_4", "default/key/Z"] {
            assert!(is_path(path), "{path}");
        }
        let long = format!("a/b/{}", "c".repeat(300));
        for path in ["", "a", "a/b", "a/b/c/d", "/a/b", "a//c", "a/b/", "a/../c", "a/b/%2e", "a/b/c?d", &long]
        {
            assert!(!is_path(path), "{path}");
        }
    }
}
