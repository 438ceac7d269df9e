//! The key of one backup.

use super::ObjectKey;
use super::derive::hkdf;
use crate::release::ReleaseFault;
use crate::release::backup::BackupHeader;
use crate::release::open::BackupKey;
use crate::release::restore::{OpenedBackup, RestoreKey};
use crate::release::transcript::{AgreementKey, Digest};
use crate::release::wire::POINT_BYTES;
use crate::seams::{Entropy, EntropyError};
use crate::secret::Secret;
use sha2::{Digest as _, Sha384};
use zerocopy::IntoBytes;

/// The secret of one backup: drawn for it, and sealed to the tenant's recovery key. No key of a volume goes into it: a backup opens without the
/// broker, without a KBS and on any chip, for whoever has the recovery key.
#[derive(Debug)]
pub struct BackupSecret(Secret<32>);

impl BackupSecret {
    /// A fresh one.
    ///
    /// # Errors
    /// [`EntropyError`]; there is no secret then.
    pub fn draw(entropy: &mut dyn Entropy) -> Result<Self, EntropyError> {
        Secret::try_fill(|bytes| entropy.fill(bytes)).map(Self)
    }

    /// Puts it into `header`, for the holder of `recovery`.
    ///
    /// # Errors
    /// As [`BackupHeader::seal`].
    pub fn seal(
        &self,
        header: &mut BackupHeader,
        recovery: &[u8; POINT_BYTES],
        entropy: &mut dyn Entropy,
    ) -> Result<(), ReleaseFault> {
        header.seal(recovery, &self.0, entropy)
    }

    /// Takes it out of `header`; nothing if `recovery` is another key than it was sealed to, or the header was altered.
    #[must_use]
    pub fn open(header: &BackupHeader, recovery: &AgreementKey) -> Option<Self> {
        header.open(recovery).map(Self)
    }

    /// Of a backup that is to be restored.
    #[must_use]
    pub fn released(key: BackupKey) -> Self {
        Self(key.into_secret())
    }

    /// Takes it out of `opened`, for the broker whose restore key `key` is.
    #[must_use]
    pub fn of_opened(opened: &OpenedBackup, key: &AgreementKey) -> Option<Self> {
        opened.open(key).map(Self)
    }

    /// Seals it to the broker that showed `to`, for one restore from the backup of that digest.
    ///
    /// # Errors
    /// As [`OpenedBackup::seal`].
    pub fn hand_over(
        &self,
        to: &RestoreKey,
        digest: &Digest,
        entropy: &mut dyn Entropy,
    ) -> Result<OpenedBackup, ReleaseFault> {
        OpenedBackup::seal(to, digest, &self.0, entropy)
    }

    /// The key of the part of that number, in the backup that begins with `header`.
    #[must_use]
    pub fn part(&self, header: &BackupHeader, number: u32) -> ObjectKey {
        let salt = Sha384::new().chain_update(b"HUSK v1 backup salt").chain_update(header.as_bytes());
        ObjectKey(hkdf(&salt.finalize(), &self.0, &[b"HUSK v1 backup", &number.to_le_bytes()]))
    }
}
