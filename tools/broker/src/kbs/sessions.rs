//! The sessions of RCAR, bounded in number and age.

use super::jwe::TeeKey;
use crate::ids::VmName;
use crate::policy::Genuine;
use husk::attest::runtime::NONCE_BYTES;
use husk::seams::REPORT_BYTES;
use sha2::{Digest as _, Sha256};
use std::net::IpAddr;

/// How long a session lasts, in milliseconds: five minutes, as at Trustee.
pub const SESSION_MS: u64 = 300_000;
/// How many there are; one more ends the oldest.
pub const SESSIONS_MAX: usize = 1024;
/// Of one peer's address; one more ends its own oldest.
pub const SESSIONS_OF_PEER_MAX: usize = 256;

/// How a request proves its session. Both are secrets of the client.
#[derive(Clone, Copy, Debug)]
pub enum Proof<'s> {
    /// The cookie's value.
    Cookie(&'s str),
    /// The token that the attestation was answered with.
    Token(&'s str),
}

/// What an attestation proved.
#[derive(Clone)]
pub(crate) struct Proven {
    pub(crate) vm: VmName,
    pub(crate) key: TeeKey,
    pub(crate) report: [u8; REPORT_BYTES],
    pub(crate) genuine: Genuine,
}

/// Secrets are looked up by their digests, so that how long a look takes tells nothing of them.
type Name = [u8; 32];

struct Session {
    cookie: Name,
    token: Option<Name>,
    peer: IpAddr,
    until_ms: u64,
    /// Until it was used.
    nonce: Option<[u8; NONCE_BYTES]>,
    proven: Option<Proven>,
}

/// All that are open, oldest first.
#[derive(Default)]
pub(crate) struct Sessions(Vec<Session>);

fn name(secret: &str) -> Name {
    Sha256::digest(secret).into()
}

impl Sessions {
    /// Begins a session.
    pub(crate) fn begin(&mut self, now_ms: u64, peer: IpAddr, cookie: &str, nonce: [u8; NONCE_BYTES]) {
        self.0.retain(|session| now_ms < session.until_ms);
        let of_peer = self.0.iter().filter(|session| session.peer == peer).count();
        let oldest = self.0.iter().position(|session| session.peer == peer || of_peer < SESSIONS_OF_PEER_MAX);
        if of_peer >= SESSIONS_OF_PEER_MAX || self.0.len() >= SESSIONS_MAX {
            oldest.map(|oldest| self.0.remove(oldest));
        }
        let (cookie, until_ms) = (name(cookie), now_ms.saturating_add(SESSION_MS));
        self.0.push(Session { cookie, token: None, peer, until_ms, nonce: Some(nonce), proven: None });
    }

    /// Takes the nonce of a session: it is good for one attempt.
    pub(crate) fn take_nonce(&mut self, now_ms: u64, cookie: &str) -> Option<[u8; NONCE_BYTES]> {
        self.find(now_ms, Proof::Cookie(cookie))?.nonce.take()
    }

    /// Keeps what a session proved, under its cookie and a token.
    pub(crate) fn prove(&mut self, now_ms: u64, cookie: &str, token: &str, proven: Proven) -> bool {
        let Some(session) = self.find(now_ms, Proof::Cookie(cookie)) else { return false };
        (session.token, session.proven) = (Some(name(token)), Some(proven));
        true
    }

    /// What a session proved.
    pub(crate) fn proven(&mut self, now_ms: u64, proof: Proof<'_>) -> Option<Proven> {
        self.find(now_ms, proof)?.proven.clone()
    }

    fn find(&mut self, now_ms: u64, proof: Proof<'_>) -> Option<&mut Session> {
        let (is_token, wanted) = match proof {
            Proof::Cookie(cookie) => (false, name(cookie)),
            Proof::Token(token) => (true, name(token)),
        };
        let is_it = |session: &Session| {
            if is_token { session.token == Some(wanted) } else { session.cookie == wanted }
        };
        self.0.iter_mut().find(|session| now_ms < session.until_ms && is_it(session))
    }
}

#[cfg(test)]
mod tests {
    use super::{SESSION_MS, SESSIONS_MAX, SESSIONS_OF_PEER_MAX, Sessions};
    use std::net::IpAddr;

    fn peer(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    #[test]
    fn a_nonce_is_good_for_one_attempt_of_its_session_in_time() {
        let mut sessions = Sessions::default();
        sessions.begin(5, peer(1), "one", [1; 32]);
        sessions.begin(5, peer(1), "two", [2; 32]);
        assert_eq!(sessions.take_nonce(6, "three"), None);
        assert_eq!(sessions.take_nonce(6, "one"), Some([1; 32]));
        assert_eq!(sessions.take_nonce(6, "one"), None);
        assert_eq!(sessions.take_nonce(5 + SESSION_MS, "two"), None, "it is over");
    }

    #[test]
    fn a_peer_that_floods_pushes_out_its_own() {
        let mut sessions = Sessions::default();
        sessions.begin(0, peer(1), "first", [1; 32]);
        for count in 0..=SESSIONS_OF_PEER_MAX {
            sessions.begin(0, peer(2), &format!("flood {count}"), [2; 32]);
        }
        assert_eq!(sessions.0.len(), 1 + SESSIONS_OF_PEER_MAX);
        assert_eq!(sessions.take_nonce(1, "flood 0"), None);
        assert_eq!(sessions.take_nonce(1, "first"), Some([1; 32]));
        for other in 3..9 {
            for count in 0..SESSIONS_OF_PEER_MAX {
                sessions.begin(0, peer(other), &format!("flood {other} {count}"), [2; 32]);
            }
        }
        assert_eq!(sessions.0.len(), SESSIONS_MAX);
    }
}
