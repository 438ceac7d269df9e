//! What a report for a CoCo KBS binds: the KBS's nonce and this launch's TEE key.
//!
//! **What.** [`KbsRuntime`]: the `runtime-data` of RCAR 0.4.0, and the REPORT_DATA that a KBS computes from it.
//! **Trust.** The nonce is the KBS's, or the host's in its place: 32 bytes are taken, never text.
//! **Laws.** Every field has one size and one spelling, so that nothing the host sends can be read as a key: the digest that is
//! reported is of this template with this launch's own key in it. The template is the canonical JSON (RFC 8785) of Trustee's
//! `primary_runtime_data`.
//! **Not here.** The exchange with the KBS: `release::kbs`.

use super::binding::KBS_TAIL;
use crate::seams::REPORT_DATA_BYTES;
use base64ct::{Base64, Base64UrlUnpadded, Encoding as _};
use sha2::{Digest as _, Sha384};

/// The algorithm of the TEE key (RFC 7518, section 4.6).
pub const KEY_ALGORITHM: &str = "ECDH-ES+A256KW";
/// The curve of the TEE key (RFC 7518, section 6.2.1.1).
pub const KEY_CURVE: &str = "P-256";

/// Size of a nonce in bytes.
pub const NONCE_BYTES: usize = 32;
/// Size of a coordinate of P-256 in bytes.
pub const COORDINATE_BYTES: usize = 32;

/// Sizes of their texts: padded base64, and base64url without padding.
const NONCE_TEXT_BYTES: usize = 44;
const COORDINATE_TEXT_BYTES: usize = 43;

/// The longest runtime data in bytes.
pub const RUNTIME_BYTES_MAX: usize = 256;

/// What a launch says of itself to a KBS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KbsRuntime {
    /// The KBS's nonce.
    pub nonce: [u8; NONCE_BYTES],
    /// The TEE key's x.
    pub x: [u8; COORDINATE_BYTES],
    /// The TEE key's y.
    pub y: [u8; COORDINATE_BYTES],
}

impl KbsRuntime {
    /// REPORT_DATA as Trustee computes it: SHA-384 of the canonical JSON, then 16 zero bytes. No additional evidence.
    #[must_use]
    pub fn report_data(&self) -> [u8; REPORT_DATA_BYTES] {
        let mut hash = Sha384::new_with_prefix(b"{\"additional-evidence\":\"\",");
        self.parts(|part| hash.update(part));
        let mut data = [0; REPORT_DATA_BYTES];
        let (head, tail) = data.split_at_mut(48);
        head.copy_from_slice(&hash.finalize());
        tail.copy_from_slice(&KBS_TAIL);
        data
    }

    /// Writes the `runtime-data` object to the front of `into`; yields its length. Nothing if it does not fit.
    #[must_use]
    pub fn write_to(&self, into: &mut [u8]) -> Option<usize> {
        let mut written = Some(0);
        let mut put = |part: &[u8]| {
            written = written.and_then(|at: usize| {
                into.get_mut(at..)?.get_mut(..part.len())?.copy_from_slice(part);
                Some(at + part.len())
            });
        };
        put(b"{");
        self.parts(put);
        written
    }

    /// The two members in canonical order, and the brace that closes them.
    fn parts(&self, mut put: impl FnMut(&[u8])) {
        let (mut nonce, mut x, mut y) =
            ([0; NONCE_TEXT_BYTES], [0; COORDINATE_TEXT_BYTES], [0; COORDINATE_TEXT_BYTES]);
        // The texts fill their buffers: the sizes are the encodings' own.
        put(b"\"nonce\":\"");
        put(Base64::encode(&self.nonce, &mut nonce).unwrap_or_default().as_bytes());
        put(b"\",\"tee-pubkey\":{\"alg\":\"");
        put(KEY_ALGORITHM.as_bytes());
        put(b"\",\"crv\":\"");
        put(KEY_CURVE.as_bytes());
        put(b"\",\"kty\":\"EC\",\"x\":\"");
        put(Base64UrlUnpadded::encode(&self.x, &mut x).unwrap_or_default().as_bytes());
        put(b"\",\"y\":\"");
        put(Base64UrlUnpadded::encode(&self.y, &mut y).unwrap_or_default().as_bytes());
        put(b"\"}}");
    }
}

#[cfg(test)]
mod tests {
    use super::{KbsRuntime, RUNTIME_BYTES_MAX};

    const RUNTIME: KbsRuntime = KbsRuntime { nonce: [0xA5; 32], x: [1; 32], y: [2; 32] };

    /// Computed with the JSON canonicalizer that Trustee uses.
    const DIGEST: [u8; 48] = [
        0x79, 0x5a, 0x2f, 0x96, 0x28, 0xbe, 0xc8, 0x00, 0x26, 0x8f, 0xe2, 0xe4, 0xec, 0xd2, 0x67, 0xcc, 0x88,
        0x3b, 0x61, 0xca, 0x09, 0x3e, 0x5f, 0x85, 0x2f, 0xcb, 0xa1, 0x78, 0x6e, 0xbe, 0x64, 0x67, 0x58, 0x07,
        0x6c, 0x3e, 0x9d, 0xee, 0x5b, 0x78, 0x40, 0x73, 0x80, 0x50, 0xb1, 0x97, 0xc5, 0xc0,
    ];

    #[test]
    fn report_data_is_what_trustee_computes() {
        let data = RUNTIME.report_data();
        assert_eq!(data[..48], DIGEST);
        assert_eq!(data[48..], [0; 16]);
    }

    #[test]
    fn every_bit_of_nonce_and_key_is_reported() {
        for bit in 0..256 {
            let flip = |mut bytes: [u8; 32]| {
                bytes[bit / 8] ^= 1 << (bit % 8);
                bytes
            };
            for other in [
                KbsRuntime { nonce: flip(RUNTIME.nonce), ..RUNTIME },
                KbsRuntime { x: flip(RUNTIME.x), ..RUNTIME },
                KbsRuntime { y: flip(RUNTIME.y), ..RUNTIME },
            ] {
                assert_ne!(other.report_data()[..48], DIGEST);
            }
        }
    }

    #[test]
    fn runtime_data_is_written_whole_or_not() {
        let mut text = [0; RUNTIME_BYTES_MAX];
        let length = RUNTIME.write_to(&mut text).unwrap();
        let expected = "{\"nonce\":\"paWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaU=\",\"tee-pubkey\":{\"alg\":\"ECDH-ES+A256KW\",\
                        \"crv\":\"P-256\",\"kty\":\"EC\",\"x\":\"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE\",\
                        \"y\":\"AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI\"}}";
        assert_eq!(core::str::from_utf8(&text[..length]), Ok(expected));
        for room in 0..length {
            assert_eq!(RUNTIME.write_to(&mut text[..room]), None);
        }
    }
}
