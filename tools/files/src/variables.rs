//! The flag by which a tenant chooses the variables that a guest's UEFI firmware begins with.

use crate::{PrivateFileError, read_public};
use husk::attest::launch::LaunchConfig;
use husk::volume::blocks::{BLOCK_BYTES, BLOCKS_MAX};
use sha2::{Digest as _, Sha384};
use std::path::PathBuf;

/// What a launch configuration says of them.
#[derive(clap::Args, Clone, Debug)]
pub struct VariablesArgs {
    /// Have the guest's UEFI firmware begin with the variables of this file, such as a copy of OVMF_VARS_4M.fd with keys for Secure Boot, and with none that the host
    /// chooses; from then on they are kept with the TPM's memory. `husk run --firmware-vars` brings the file.
    #[arg(long, value_name = "FILE")]
    firmware_vars: Option<PathBuf>,
}

impl VariablesArgs {
    /// The digest of the file, where one is given.
    ///
    /// # Errors
    /// [`PrivateFileError`] if it cannot be read, or is longer than what is kept.
    pub fn digest(&self) -> Result<Option<[u8; 48]>, PrivateFileError> {
        let Some(path) = &self.firmware_vars else { return Ok(None) };
        let bytes = read_public(path, BLOCK_BYTES * BLOCKS_MAX)?;
        Ok(Some(Sha384::digest(&bytes).into()))
    }
}

/// What a UEFI guest begins with under `config`: the SHA-384 of the variables that the tenant named, in hexadecimal digits, or that the host chooses.
#[must_use]
pub fn variables_word(config: &LaunchConfig) -> String {
    config.variables.map_or_else(
        || {
            "the host chooses what a UEFI guest begins with, and whether it is kept; PCR 7 shows it"
                .to_owned()
        },
        hex::encode,
    )
}
