//! An operator's key: signs orders that the tenant's root key lets it give.

use super::file::push_line;
use super::{StoredKey, TenantRoot, VaultError};
use crate::ids::TenantId;
use crate::world::World;
use husk::release::ticket::{OperatorCertificate, Ticket, TicketOrder};
use husk::release::transcript::Digest;
use husk::release::wire::SIGNATURE_BYTES;
use std::path::Path;
use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, IntoBytes};
use zeroize::Zeroizing;

const OPERATOR_TITLE: &str = "husk operator 1";

/// A key that signs tickets, and what the tenant says of it.
pub struct OperatorKey {
    key: StoredKey,
    certificate: OperatorCertificate,
}

impl std::fmt::Debug for OperatorKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OperatorKey")
    }
}

impl OperatorKey {
    /// Makes a key that may give `orders` about the VMs of `tenant`, and ask what the bits of `rights` allow. A broker that saw a ticket of a higher `generation` refuses
    /// its tickets.
    ///
    /// # Errors
    /// [`VaultError::Entropy`], [`VaultError::Bug`].
    pub fn generate(
        world: &dyn World,
        root: &TenantRoot,
        tenant: TenantId,
        (orders, rights, generation): (&[TicketOrder], u32, u32),
    ) -> Result<Self, VaultError> {
        let key = StoredKey::generate(world)?;
        let mut certificate = OperatorCertificate {
            tenant: tenant.0,
            operator: [0; 16],
            key: *key.key.point(),
            generation: U32::new(generation),
            orders: U32::new(orders.iter().fold(rights, |bits, order| bits | order.bit())),
            signature: [0; SIGNATURE_BYTES],
        };
        world.fill(&mut certificate.operator).map_err(|_| VaultError::Entropy)?;
        certificate.signature = root.sign(&certificate.digest())?;
        Ok(Self { key, certificate })
    }

    /// What the tenant says of it.
    #[must_use]
    pub const fn certificate(&self) -> &OperatorCertificate {
        &self.certificate
    }

    /// Completes a ticket: puts the certificate in, draws its id, and signs it.
    ///
    /// # Errors
    /// [`VaultError::Entropy`], [`VaultError::Bug`].
    pub fn sign(&self, world: &dyn World, ticket: &mut Ticket) -> Result<(), VaultError> {
        ticket.certificate = self.certificate;
        world.fill(&mut ticket.id).map_err(|_| VaultError::Entropy)?;
        ticket.sign(&self.key.key).map_err(|_| VaultError::Bug)
    }

    /// Signs a labelled digest.
    ///
    /// # Errors
    /// [`VaultError::Bug`].
    pub(crate) fn sign_digest(&self, digest: &Digest) -> Result<[u8; SIGNATURE_BYTES], VaultError> {
        self.key.key.sign(digest).map_err(|_| VaultError::Bug)
    }

    /// Writes a new operator key file.
    ///
    /// # Errors
    /// [`VaultError::File`].
    pub fn write(&self, path: &Path) -> Result<(), VaultError> {
        let mut text = Zeroizing::new(String::with_capacity(1024));
        push_line(&mut text, "", OPERATOR_TITLE);
        self.key.scalar.with(|key| push_line(&mut text, "key ", &Zeroizing::new(hex::encode(key))));
        push_line(&mut text, "certificate ", &hex::encode(self.certificate.as_bytes()));
        Ok(husk_files::create(path, &text)?)
    }

    /// Reads the file that [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// [`VaultError::File`], [`VaultError::Malformed`].
    pub fn read(path: &Path) -> Result<Self, VaultError> {
        let text = husk_files::read(path)?;
        let malformed =
            || VaultError::Malformed(path.display().to_string(), "an operator key", "husk tenant operator");
        parse(&text).ok_or_else(malformed)
    }
}

/// The key must be the certificate's.
fn parse(text: &str) -> Option<OperatorKey> {
    let rest = text.strip_prefix(OPERATOR_TITLE)?.strip_prefix("\nkey ")?.strip_suffix('\n')?;
    let (key, certificate) = rest.split_once("\ncertificate ")?;
    let mut scalar = Zeroizing::new([0; 48]);
    hex::decode_to_slice(key, scalar.as_mut_slice()).ok()?;
    let key = StoredKey::of(&mut scalar)?;
    let certificate = OperatorCertificate::read_from_bytes(&hex::decode(certificate).ok()?).ok()?;
    (certificate.key == *key.key.point()).then_some(OperatorKey { key, certificate })
}
