//! A PCR of the SHA-256 bank, as events make it.

use sha2::{Digest as _, Sha256};

/// A PCR's value; it begins as zeros (TPM 2.0 Part 1, section 11.4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pcr(pub(super) [u8; 32]);

impl Pcr {
    /// By these digests, one after the other.
    pub(super) fn of(digests: &[[u8; 32]]) -> Self {
        let mut pcr = Self::default();
        for value in digests {
            pcr.extend(value);
        }
        pcr
    }

    pub(super) fn extend(&mut self, value: &[u8; 32]) {
        self.0 = digest(&[&self.0, value]);
    }
}

/// SHA-256 of these, one after the other.
pub(super) fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// EV_SEPARATOR of a firmware in which all is well (TCG PC Client Platform Firmware Profile 1.06, section 10.4.1, table "Events").
pub(super) fn separator() -> [u8; 32] {
    digest(&[&[0; 4]])
}
