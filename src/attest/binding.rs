//! What REPORT_DATA binds: one function, compiled by both ends.
//!
//! **What.** [`report_data`] ties a report to one session with the broker and to one launch configuration.
//! **Trust.** The caller's own transcript and configuration; nothing that the host chose.
//! **Laws.** The inputs have fixed sizes, so that no two of them make the same string. The value ends in a fixed label:
//! it is never the output of a hash over bytes that a guest chose. (The SVSM attestation protocol lets any guest
//! have a VMPL-0 report over SHA-512 of its nonce and the manifest; see AMD 58019, section 7.)
//! **Not here.** The transcript (`release::transcript`); the configuration's digest ([`super::launch`]).

use crate::seams::REPORT_DATA_BYTES;
use sha2::{Digest as _, Sha384};

/// In front of what is hashed.
const LABEL: &[u8] = b"HUSK v1 report\0";
/// The last 16 bytes of every REPORT_DATA that a session binds.
pub const REPORT_DATA_LABEL: [u8; 16] = *b"HUSK v1 RELEASE\0";
/// The last 16 bytes of REPORT_DATA that binds nothing.
pub const IDENTIFY_LABEL: [u8; 16] = *b"HUSK v1 IDENTIFY";

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

#[cfg(test)]
mod tests {
    use super::{REPORT_DATA_LABEL, report_data};

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
