//! The manifest of a guest that was built, read back.

use super::ExpectError;
use serde::Deserialize;
use std::path::Path;

/// Longer than any: a line a package.
const FILE_BYTES_MAX: usize = 4 << 20;

/// What of a manifest PCRs follow from. The rest of it is for people.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Built {
    pub(super) root_hash: String,
    /// What a firmware measures of the kernel image when it starts it.
    #[serde(with = "digits")]
    pub(super) kernel_image_authenticode_sha256: [u8; 32],
    #[serde(with = "digits")]
    pub(super) secure_boot_certificate_sha256: [u8; 32],
    pub(super) pcr_11: Vec<AtPhase>,
}

/// PCR 11 at a phase of the boot, which is named with those before it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct AtPhase {
    pub(super) phase: String,
    #[serde(with = "digits")]
    pub(super) sha256: [u8; 32],
}

impl Built {
    /// Reads the file.
    ///
    /// # Errors
    /// That it cannot be read, or is no manifest of this version of `husk guest build`.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes = husk_files::read_public(path, FILE_BYTES_MAX)?;
        let read = serde_json::from_slice(&bytes);
        Ok(read.map_err(|error| ExpectError::Manifest { path: path.to_owned(), why: error.to_string() })?)
    }

    /// PCR 11 when the boot has come to that phase.
    pub(super) fn pcr_11(&self, phase: &str) -> Option<[u8; 32]> {
        let at = |named: &&AtPhase| named.phase.rsplit(':').next() == Some(phase);
        self.pcr_11.iter().find(at).map(|found| found.sha256)
    }
}

/// Digests as hexadecimal digits.
mod digits {
    use serde::de::{Deserialize as _, Deserializer, Error as _};

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(from)?;
        let mut digest = [0; 32];
        hex::decode_to_slice(&text, &mut digest)
            .map_err(|_| D::Error::custom(format!("`{text}` is no SHA-256 in 64 hexadecimal digits")))?;
        Ok(digest)
    }
}
