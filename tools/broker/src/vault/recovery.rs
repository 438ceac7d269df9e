//! The tenant's recovery key: backups are sealed to it.

use super::file::push_line;
use super::{StoredKey, TenantRoot, VaultError};
use crate::ids::TenantId;
use crate::world::World;
use husk::release::recovery::RecoveryCertificate;
use husk::release::transcript::AgreementKey;
use husk::release::wire::SIGNATURE_BYTES;
use std::path::Path;
use zeroize::Zeroizing;

const RECOVERY_TITLE: &str = "husk recovery 1";

/// The private half. No broker and no VM ever has it.
#[derive(Debug)]
pub struct RecoveryKey(StoredKey);

impl RecoveryKey {
    /// Makes one, and what the tenant says of it.
    ///
    /// # Errors
    /// [`VaultError::Entropy`], [`VaultError::Bug`].
    pub fn generate(
        world: &dyn World,
        root: &TenantRoot,
        tenant: TenantId,
    ) -> Result<(Self, RecoveryCertificate), VaultError> {
        let key = StoredKey::generate(world)?;
        let mut certificate =
            RecoveryCertificate { tenant: tenant.0, key: *key.key.point(), signature: [0; SIGNATURE_BYTES] };
        certificate.signature = root.sign(&certificate.digest())?;
        Ok((Self(key), certificate))
    }

    /// The key, as it opens what was sealed to it.
    ///
    /// # Errors
    /// [`VaultError::Bug`].
    pub fn key(&self) -> Result<AgreementKey, VaultError> {
        let mut scalar = Zeroizing::new([0; 48]);
        self.0.scalar.with(|bytes| *scalar = *bytes);
        AgreementKey::from_scalar(&mut scalar).map_err(|_| VaultError::Bug)
    }

    /// Writes a new recovery key file.
    ///
    /// # Errors
    /// [`VaultError::File`].
    pub fn write(&self, path: &Path) -> Result<(), VaultError> {
        let mut text = Zeroizing::new(String::with_capacity(256));
        push_line(&mut text, "", RECOVERY_TITLE);
        self.0.scalar.with(|key| push_line(&mut text, "key ", &Zeroizing::new(hex::encode(key))));
        Ok(husk_files::create(path, &text)?)
    }

    /// Reads the file that [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// [`VaultError::File`], [`VaultError::Malformed`].
    pub fn read(path: &Path) -> Result<Self, VaultError> {
        let malformed =
            || VaultError::Malformed(path.display().to_string(), "a recovery key", "husk tenant recovery");
        let text = husk_files::read(path)?;
        let rest = text.strip_prefix(RECOVERY_TITLE).and_then(|rest| rest.strip_prefix("\nkey "));
        let digits = rest.and_then(|rest| rest.strip_suffix('\n')).ok_or_else(malformed)?;
        let mut scalar = Zeroizing::new([0; 48]);
        hex::decode_to_slice(digits, scalar.as_mut_slice()).map_err(|_| malformed())?;
        StoredKey::of(&mut scalar).map(Self).ok_or_else(malformed)
    }
}
