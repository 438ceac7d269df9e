//! The KBS's answers as JSON, and how little of JSON that is.

use super::super::ReleaseFault;
use super::super::wire::Wire;
use super::frames::KbsAnswer;
use crate::attest::runtime::NONCE_BYTES;
use base64ct::Base64;
use serde::Deserialize;

/// Objects and lists in one document, whatever is in strings: what nobody asked for may be skipped, but not without a bound.
const OPENINGS_MAX: usize = 16;

/// HTTP statuses (RFC 9110, section 15).
const OK: u16 = 200;
const SERVER_ERRORS: u16 = 500;

/// A document of one object of strings, borrowed from `text`. Strings with escapes are not resolved: nothing that RCAR says has any.
pub(super) fn parse<'t, T: Deserialize<'t>>(text: &'t [u8]) -> Option<T> {
    let openings = text.iter().filter(|byte| matches!(byte, b'{' | b'[')).count();
    if openings > OPENINGS_MAX {
        return None;
    }
    serde_json_core::from_slice(text).ok().map(|(value, _)| value)
}

/// RCAR's challenge; what else is in it is not for SEV-SNP.
#[derive(Deserialize)]
struct Challenge<'t> {
    nonce: &'t str,
}

/// The nonce of a challenge.
pub(super) fn nonce(text: &[u8]) -> Result<[u8; NONCE_BYTES], ReleaseFault> {
    let challenge: Challenge<'_> = parse(text).ok_or(ReleaseFault::KbsAnswerRefused)?;
    exactly::<NONCE_BYTES, Base64>(challenge.nonce).ok_or(ReleaseFault::KbsAnswerRefused)
}

/// The `N` bytes that `text` spells, and no other number of them.
pub(super) fn exactly<const N: usize, E: base64ct::Encoding>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let decoded = E::decode(text, &mut bytes).ok()?.len();
    (decoded == N).then_some(bytes)
}

/// An answer that the KBS was content with.
pub(super) struct Answer<'f> {
    /// The cookie that it set; empty if none.
    pub(super) cookie: &'f [u8],
    pub(super) body: &'f [u8],
}

impl<'f> Answer<'f> {
    /// Takes the body of an answer's frame apart.
    pub(super) fn read(frame: &'f [u8]) -> Result<Self, ReleaseFault> {
        let (header, rest) = prefix::<KbsAnswer>(frame).ok_or(ReleaseFault::KbsAnswerRefused)?;
        let cookie_bytes = usize::from(header.cookie_bytes.get());
        let parts = rest.split_at_checked(cookie_bytes);
        let (cookie, body) = parts.ok_or(ReleaseFault::KbsAnswerRefused)?;
        match header.status.get() {
            OK => Ok(Self { cookie, body }),
            SERVER_ERRORS.. => Err(ReleaseFault::KbsUnreachable),
            _ => Err(ReleaseFault::KbsRefused),
        }
    }
}

fn prefix<T: Wire>(bytes: &[u8]) -> Option<(T, &[u8])> {
    T::read_from_prefix(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::{ReleaseFault, nonce};
    use std::format;
    use std::string::String;

    extern crate std;

    const NONCE: &str = "paWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaU=";

    #[test]
    fn a_challenge_with_more_in_it_is_read() {
        for text in [
            format!("{{\"nonce\":\"{NONCE}\",\"extra-params\":\"\"}}"),
            format!("{{\"extra-params\":{{\"a\":[1,{{}}]}}, \"nonce\": \"{NONCE}\"}}\n"),
        ] {
            assert_eq!(nonce(text.as_bytes()), Ok([0xA5; 32]), "{text}");
        }
    }

    #[test]
    fn another_challenge_is_refused() {
        let deep =
            format!("{{\"extra-params\":{}{},\"nonce\":\"{NONCE}\"}}", "[".repeat(4000), "]".repeat(4000));
        for text in [
            String::new(),
            String::from("[]"),
            String::from("{}"),
            format!("{{\"nonce\":\"{NONCE}\""),
            format!("{{\"nonce\":\"{NONCE}\"}}x"),
            format!("{{\"nonce\":\"{NONCE}\",\"nonce\":\"{NONCE}\"}}"),
            format!("{{\"nonce\":\"{}\"}}", &NONCE[..40]),
            format!("{{\"nonce\":\"{NONCE}{NONCE}\"}}"),
            format!("{{\"nonce\":\"{}\"}}", NONCE.trim_end_matches('=')),
            format!("{{\"nonce\":\"{}\"}}", NONCE.replace('p', "\\u0070")),
            String::from("{\"nonce\":7}"),
            deep,
        ] {
            assert_eq!(nonce(text.as_bytes()), Err(ReleaseFault::KbsAnswerRefused), "{text}");
        }
    }
}
