//! The tenant's root key.

use super::file::push_line;
use super::{KEY_GENERATION, RootKeys, StoredKey, VaultError};
use crate::ids::TenantId;
use crate::world::World;
use husk::attest::launch::LaunchConfig;
use husk::release::hw_sealed::Permit;
use husk::release::kbs::envelope::Envelope;
use husk::release::transcript::{Digest, certificate_digest};
use husk::release::wire::{BrokerCertificate, POINT_BYTES, SIGNATURE_BYTES};
use husk::secret::Secret;
use std::path::Path;
use zerocopy::byteorder::little_endian::{U16, U32};
use zeroize::Zeroizing;

const TENANT_TITLE: &str = "husk tenant root 1";

/// The tenant's root key: certifies brokers and operators, and stays with the tenant.
#[derive(Debug)]
pub struct TenantRoot(StoredKey);

impl TenantRoot {
    /// Makes a new one.
    ///
    /// # Errors
    /// [`VaultError::Entropy`].
    pub fn generate(world: &dyn World) -> Result<Self, VaultError> {
        StoredKey::generate(world).map(Self)
    }

    /// Writes a new tenant root key file.
    ///
    /// # Errors
    /// [`VaultError::File`].
    pub fn write(&self, path: &Path) -> Result<(), VaultError> {
        let mut text = Zeroizing::new(String::with_capacity(256));
        push_line(&mut text, "", TENANT_TITLE);
        self.0.scalar.with(|key| push_line(&mut text, "key ", &Zeroizing::new(hex::encode(key))));
        Ok(husk_files::create(path, &text)?)
    }

    /// Reads the file that [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// [`VaultError::File`], [`VaultError::Malformed`].
    pub fn read(path: &Path) -> Result<Self, VaultError> {
        let malformed =
            || VaultError::Malformed(path.display().to_string(), "a tenant root key", "husk tenant init");
        let text = husk_files::read(path)?;
        let rest = text.strip_prefix(TENANT_TITLE).and_then(|rest| rest.strip_prefix("\nkey "));
        let digits = rest.and_then(|rest| rest.strip_suffix('\n')).ok_or_else(malformed)?;
        let mut scalar = Zeroizing::new([0; 48]);
        hex::decode_to_slice(digits, scalar.as_mut_slice()).map_err(|_| malformed())?;
        StoredKey::of(&mut scalar).map(Self).ok_or_else(malformed)
    }

    /// The permit to make a TPM under `config`, which is the disconnected mode's.
    ///
    /// # Errors
    /// [`VaultError::Bug`].
    pub fn permit(&self, config: &LaunchConfig) -> Result<Permit, VaultError> {
        let mut permit = Permit::of(config);
        permit.root = *self.point();
        permit.signature = self.sign(&permit.digest())?;
        Ok(permit)
    }

    /// The envelope in which a KBS stores `key` for the VM that `config` names.
    ///
    /// # Errors
    /// [`VaultError::Bug`].
    pub fn envelope(
        &self,
        config: &LaunchConfig,
        key_id: [u8; 16],
        key: &Secret<32>,
    ) -> Result<Envelope, VaultError> {
        Envelope::signed(config, key_id, key, &self.0.key).map_err(|_| VaultError::Bug)
    }

    /// The public half.
    #[must_use]
    pub const fn point(&self) -> &[u8; POINT_BYTES] {
        self.0.key.point()
    }

    /// Signs a labelled digest.
    ///
    /// # Errors
    /// [`VaultError::Bug`].
    pub(super) fn sign(&self, digest: &Digest) -> Result<[u8; SIGNATURE_BYTES], VaultError> {
        self.0.key.sign(digest).map_err(|_| VaultError::Bug)
    }

    /// Certifies `broker` as a broker of `tenant`.
    ///
    /// # Errors
    /// [`VaultError::Bug`].
    pub fn certify(&self, tenant: TenantId, broker: &RootKeys) -> Result<BrokerCertificate, VaultError> {
        let mut certificate = BrokerCertificate {
            tenant: tenant.0,
            broker: broker.broker,
            key: *broker.signing().point(),
            key_generation: U32::new(KEY_GENERATION),
            usage: U16::new(0),
            signature: [0; SIGNATURE_BYTES],
        };
        let digest = certificate_digest(&certificate);
        certificate.signature = self.sign(&digest)?;
        Ok(certificate)
    }
}
