//! A launch configuration as a file.

use crate::{PrivateFileError, read_public, write_new};
use husk::attest::launch::{CONFIG_BYTES_MAX, LaunchConfig};
use std::path::{Path, PathBuf};

/// Why a launch configuration was not written or read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// The file itself.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// Not a configuration in its one spelling, or one that would not fit.
    #[error(
        "{0} is no launch configuration: each has one spelling, which `husk vm enroll` or `husk image config` writes"
    )]
    Malformed(PathBuf),
}

/// Writes `config` to a new file in its one spelling; yields its SHA-256, the HOST_DATA to launch with.
///
/// # Errors
/// [`ConfigFileError`]; nothing that exists is overwritten.
pub fn write_config(path: &Path, config: &LaunchConfig) -> Result<[u8; 32], ConfigFileError> {
    let mut text = [0; CONFIG_BYTES_MAX];
    let len = config.write_to(&mut text).map_err(|_| ConfigFileError::Malformed(path.to_owned()))?;
    write_new(path, &text[..len], 0o644)?;
    Ok(config.host_data())
}

/// Reads a launch configuration.
///
/// # Errors
/// [`ConfigFileError`].
pub fn read_config(path: &Path) -> Result<LaunchConfig, ConfigFileError> {
    let text = read_public(path, CONFIG_BYTES_MAX)?;
    LaunchConfig::parse(&text).map_err(|_| ConfigFileError::Malformed(path.to_owned()))
}
