//! What REPORT_DATA binds: one function, compiled by both ends.
//!
//! **What.** [`report_data`] ties a report to one session with the broker and to one launch configuration.
//! **Trust.** The caller's own transcript and configuration; nothing that the host chose.
//! **Laws.** The inputs have fixed sizes, so that no two of them make the same string. What is Husk's own ends in a fixed label, what is
//! a KBS's in zeros; what a guest has a part in ([`services_data`]) never does: a digest that would is not given out. So whatever a guest
//! (or a host that boots one) asks for, no report of a session is made for it, and the other way round.
//! **Not here.** The transcript (`release::transcript`); the configuration's digest ([`super::launch`]).

use crate::seams::REPORT_DATA_BYTES;
use sha2::{Digest as _, Sha384, Sha512};

/// In front of what is hashed.
const LABEL: &[u8] = b"HUSK v1 report\0";
/// The last 16 bytes of every REPORT_DATA that a session binds.
pub const REPORT_DATA_LABEL: [u8; 16] = *b"HUSK v1 RELEASE\0";
/// The last 16 bytes of REPORT_DATA that binds nothing.
pub const IDENTIFY_LABEL: [u8; 16] = *b"HUSK v1 IDENTIFY";
/// The last 16 bytes of REPORT_DATA for a CoCo KBS ([`runtime`](super::runtime)): it pads a SHA-384 with zeros.
pub const KBS_TAIL: [u8; 16] = [0; 16];

/// REPORT_DATA for the session `transcript` under the launch configuration with `config_digest`:
/// SHA-384(label ‖ transcript ‖ config_digest), then [`REPORT_DATA_LABEL`].
#[must_use]
pub fn report_data(transcript: &[u8; 48], config_digest: &[u8; 48]) -> [u8; REPORT_DATA_BYTES] {
    let digest = Sha384::new().chain_update(LABEL).chain_update(transcript).chain_update(config_digest);
    let mut data = [0; REPORT_DATA_BYTES];
    let (head, tail) = data.split_at_mut(48);
    head.copy_from_slice(&digest.finalize());
    tail.copy_from_slice(&REPORT_DATA_LABEL);
    data
}

/// REPORT_DATA of the report from which a launch only learns its own HOST_DATA: it binds nothing, and its label says so.
#[must_use]
pub const fn identify_data() -> [u8; REPORT_DATA_BYTES] {
    let mut data = [0; REPORT_DATA_BYTES];
    let (_, tail) = data.split_at_mut(48);
    tail.copy_from_slice(&IDENTIFY_LABEL);
    data
}

/// Size of the nonce in the SVSM attestation protocol in bytes. No other is accepted: where it ends and the manifest begins would
/// be open.
pub const NONCE_BYTES: usize = 64;

/// The digest ends as what Husk binds does. Nobody will ever see this by chance (2^-127).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved;

/// REPORT_DATA of the SVSM attestation protocol (AMD 58019, section 7): SHA-512(nonce ‖ manifest). The guest chooses the nonce.
///
/// # Errors
/// [`Reserved`]: another nonce is needed.
pub fn services_data(
    nonce: &[u8; NONCE_BYTES],
    manifest: &[u8],
) -> Result<[u8; REPORT_DATA_BYTES], Reserved> {
    let digest = Sha512::new().chain_update(nonce).chain_update(manifest).finalize();
    unreserved(digest.into())
}

fn unreserved(data: [u8; REPORT_DATA_BYTES]) -> Result<[u8; REPORT_DATA_BYTES], Reserved> {
    let reserved = [REPORT_DATA_LABEL, IDENTIFY_LABEL, KBS_TAIL].iter().any(|label| data.ends_with(label));
    if reserved { Err(Reserved) } else { Ok(data) }
}

#[cfg(test)]
mod tests {
    use super::super::runtime::KbsRuntime;
    use super::{
        NONCE_BYTES, REPORT_DATA_LABEL, Reserved, identify_data, report_data, services_data, unreserved,
    };

    #[test]
    fn what_a_guest_has_a_part_in_is_never_what_husk_binds() {
        assert_eq!(unreserved(report_data(&[0x11; 48], &[0x22; 48])), Err(Reserved));
        assert_eq!(unreserved(identify_data()), Err(Reserved));
        let kbs = KbsRuntime { nonce: [1; 32], x: [2; 32], y: [3; 32] };
        assert_eq!(unreserved(kbs.report_data()), Err(Reserved));
        let data = services_data(&[7; NONCE_BYTES], b"manifest").expect("no label");
        assert_eq!(unreserved(data), Ok(data));
    }

    #[test]
    fn services_data_covers_every_bit_of_nonce_and_manifest() {
        let (nonce, manifest) = ([0x33; NONCE_BYTES], [0x44; 32]);
        let data = services_data(&nonce, &manifest);
        for bit in 0..NONCE_BYTES * 8 {
            let mut other = nonce;
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(services_data(&other, &manifest), data);
        }
        for bit in 0..32 * 8 {
            let mut other = manifest;
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(services_data(&nonce, &other), data);
        }
        assert_ne!(services_data(&nonce, &manifest[..31]), data);
    }

    #[test]
    fn every_input_bit_matters_and_the_label_stays() {
        let (transcript, config) = ([0x11; 48], [0x22; 48]);
        let data = report_data(&transcript, &config);
        assert_eq!(data[48..], REPORT_DATA_LABEL);
        assert_ne!(data, report_data(&config, &transcript));
        for bit in 0..48 * 8 {
            let mut other = transcript;
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(data, report_data(&other, &config));
            let mut other = config;
            other[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(data, report_data(&transcript, &other));
        }
    }
}
