//! The volume's file: whether a machine has one, and that no other has it.

use anyhow::{Context, bail};
use husk::attest::launch::Mode;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

/// The least that a volume has, in bytes.
const VOLUME_BYTES_MIN: u64 = 16 * 1024;

/// Checks that there is a volume exactly where the launch configuration names a TPM that is kept.
///
/// # Errors
/// One line: what to give, or to leave out.
pub(crate) fn belongs(volume: Option<&Path>, mode: Mode) -> anyhow::Result<()> {
    match (volume, mode) {
        (Some(_), Mode::Strict | Mode::HwSealed) | (None, Mode::Ephemeral) => Ok(()),
        (None, Mode::Strict | Mode::HwSealed) => bail!("a machine needs --volume"),
        (Some(_), Mode::Ephemeral) => {
            bail!("the configuration names ephemeral, whose TPM keeps nothing; leave --volume out")
        }
    }
}

/// Holds the volume for this process, as a help against mistakes: what keeps a VM from running twice is its broker.
pub(crate) fn lock(path: &Path) -> anyhow::Result<File> {
    let shown = path.display();
    let file = OpenOptions::new().read(true).write(true).open(path).with_context(|| {
        format!(
            "cannot open the volume {shown}; check the path, or make a blank one with `husk volume create`"
        )
    })?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            bail!("the volume {shown} is in use by another machine; stop that one first")
        }
        Err(TryLockError::Error(why)) => return Err(why).context(format!("cannot lock the volume {shown}")),
    }
    let bytes = file.metadata().with_context(|| shown.to_string())?.len();
    if bytes < VOLUME_BYTES_MIN || !bytes.is_multiple_of(4096) {
        bail!("the volume {shown} has {bytes} bytes; make one with `husk volume create`");
    }
    Ok(file)
}
