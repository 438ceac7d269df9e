//! The tenant's root key.

use super::file::push_line;
use super::{KEY_GENERATION, RootKeys, StoredKey, VaultError};
use crate::ids::TenantId;
use crate::world::World;
use husk::release::transcript::certificate_digest;
use husk::release::wire::{BrokerCertificate, POINT_BYTES, SIGNATURE_BYTES};
use std::path::Path;
use zerocopy::byteorder::little_endian::{U16, U32};
use zeroize::Zeroizing;

const TENANT_TITLE: &str = "husk tenant root 1";

/// The tenant's root key: certifies brokers, and stays with the tenant.
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

    /// The public half.
    #[must_use]
    pub const fn point(&self) -> &[u8; POINT_BYTES] {
        self.0.key.point()
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
        certificate.signature = self.0.key.sign(&digest).map_err(|_| VaultError::Bug)?;
        Ok(certificate)
    }
}
