//! A TPM from a backup, by the tenant's order.
//!
//! **What.** [`RestoreKey`] is the broker's key for one restore, which it shows signed; [`OpenedBackup`] carries a backup's key from the holder of
//! the recovery key to it. An instance that is granted to restore asks for the order ([`Tenure::restore_order`]) and for the backup's parts.
//! **Trust.** The tenant's root key: the order names the backup by its digest. The broker may withhold it, and can give no other.
//! **Laws.** Without an order that the tenant's root key vouches for nothing becomes a TPM's state. The generation is beyond the backup's and the
//! one that the operator saw. The recovery key itself goes nowhere.
//! **Not here.** The ciphers of the parts (`keys`, `volume`); what is lost with a restore (`engine`); when it is over (`protocol.md`, section 13).

#![allow(missing_debug_implementations, reason = "structures of the wire are never printed")]
#![allow(clippy::allow_attributes, reason = "an expectation is not seen inside the macro")]

use super::backup::{BackupDigest, BackupHeader};
use super::recovery::{Context, SealedKey};
use super::tenure::Tenure;
use super::ticket::TicketOrder;
use super::transcript::{AgreementKey, Digest, is_certified, point_digest, verifies};
use super::wire::{
    BACKUP_PART_BYTES_MAX, BrokerCertificate, Operation, POINT_BYTES, RestorePart, RestorePartRequest,
    RestoreRequest, RestoreWanted, SIGNATURE_BYTES, wire,
};
use super::{ReleaseFault, frame};
use crate::attest::launch::LaunchConfig;
use crate::seams::{Entropy, Platform};
use crate::secret::Secret;
use core::mem::offset_of;
use sha2::{Digest as _, Sha384};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const KEY_LABEL: &[u8] = b"HUSK v1 restore key\0";
const OPENED_INFO: &[u8] = b"HUSK v1 opened backup\0";

wire! {
    /// The broker's key for one restore of one VM, as it shows it.
    pub struct RestoreKey {
        /// The tenant.
        pub tenant: [u8; 16],
        /// The VM that is to be restored.
        pub vm: [u8; 16],
        /// The token that the VM has: the key is void once it has another.
        pub token: U64,
        /// The generation that the VM has.
        pub generation: U32,
        /// The key's public half.
        pub key: [u8; POINT_BYTES],
        /// The tenant root key.
        pub tenant_root: [u8; POINT_BYTES],
        /// Who the broker is.
        pub certificate: BrokerCertificate,
        /// By the broker's signing key.
        pub signature: [u8; SIGNATURE_BYTES],
    }

    /// The key of a backup, sealed to the broker for one restore.
    pub struct OpenedBackup {
        /// The tenant.
        pub tenant: [u8; 16],
        /// The VM that is to be restored.
        pub vm: [u8; 16],
        /// Of the [`RestoreKey`] that it is sealed to.
        pub token: U64,
        /// Of the [`RestoreKey`] that it is sealed to.
        pub generation: U32,
        /// Which backup: [`backup_digest`](super::backup::backup_digest) of its file.
        pub digest: Digest,
        /// The backup's key, sealed under all of the above.
        pub key: SealedKey,
    }
}

impl RestoreKey {
    /// What the broker's key signs: all of it but the signature.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let signed = &self.as_bytes()[..offset_of!(Self, signature)];
        Sha384::new().chain_update(KEY_LABEL).chain_update(signed).finalize().into()
    }

    /// Whether a broker that the tenant of `config` certified shows it, for the VM of `config`.
    #[must_use]
    pub fn is_vouched_for(&self, config: &LaunchConfig) -> bool {
        (self.tenant, self.vm) == (config.tenant, config.vm)
            && is_certified(&self.certificate, &self.tenant_root, config)
            && verifies(&self.certificate.key, &self.digest(), &self.signature)
    }
}

impl OpenedBackup {
    /// Seals the key of the backup of that digest to the broker that showed `to`, which must be vouched for.
    ///
    /// # Errors
    /// As [`SealedKey::seal`].
    pub fn seal(
        to: &RestoreKey,
        digest: &Digest,
        key: &Secret<32>,
        entropy: &mut dyn Entropy,
    ) -> Result<Self, ReleaseFault> {
        let RestoreKey { tenant, vm, token, generation, .. } = *to;
        let none = SealedKey { encapsulated: [0; POINT_BYTES], sealed: [0; 32], tag: [0; 16] };
        let mut opened = Self { tenant, vm, token, generation, digest: *digest, key: none };
        opened.key = SealedKey::seal(&to.key, opened.context(), key, entropy)?;
        Ok(opened)
    }

    /// The backup's key, for the broker.
    #[must_use]
    pub fn open(&self, broker: &AgreementKey) -> Option<Secret<32>> {
        self.key.open(broker, self.context())
    }

    fn context(&self) -> Context<'_> {
        Context { info: OPENED_INFO, aad: &self.as_bytes()[..offset_of!(Self, key)] }
    }
}

/// An order to restore, which the tenant's root key vouches for.
pub struct RestoreOrder {
    /// How the backup begins.
    pub header: BackupHeader,
    /// Which backup it is.
    digest: Digest,
    /// It is another VM's: what becomes of it is another TPM.
    pub is_clone: bool,
}

impl RestoreOrder {
    /// What `wanted` orders, if it is the word of the tenant whose VM `config` names, for a restore to `generation`.
    fn checked(wanted: &RestoreWanted, config: &LaunchConfig, generation: u32) -> Option<Self> {
        let RestoreWanted { header, ticket, tenant_root } = wanted;
        let older = ticket.generation.get().max(header.generation.get());
        let is_clone = match ticket.order(&config.tenant, tenant_root)? {
            TicketOrder::Restore => false,
            TicketOrder::Clone => true,
            _ => return None,
        };
        let holds = point_digest(tenant_root) == config.root
            && ticket.vm == config.vm
            && header.is_ours()
            && header.tenant == config.tenant
            && (header.vm == config.vm) != is_clone
            && generation > older;
        holds.then_some(Self { header: *header, digest: ticket.subject, is_clone })
    }

    /// The digest of what has come of the file, for [`is`](Self::is).
    #[must_use]
    pub fn begin(&self) -> BackupDigest {
        BackupDigest::begin(&self.header)
    }

    /// Whether what has come is the backup that was ordered, to its last byte.
    #[must_use]
    pub fn is(&self, come: BackupDigest) -> bool {
        come.finish() == self.digest
    }
}

impl Tenure<'_> {
    /// Asks what is to be restored, before anything is confirmed.
    ///
    /// # Errors
    /// [`ReleaseFault::OrderUntrusted`] if what the broker shows is not the tenant's order; what an exchange gives.
    pub fn restore_order(&mut self, platform: &mut Platform<'_>) -> Result<RestoreOrder, ReleaseFault> {
        let (token, generation) = self.named();
        let body = RestoreRequest { token, generation };
        let reply = self.aside(platform, Operation::Restore, body.as_bytes())?;
        let wanted: RestoreWanted = frame::exactly(reply)?;
        let order = RestoreOrder::checked(&wanted, self.config(), generation.get());
        order.ok_or(ReleaseFault::OrderUntrusted)
    }

    /// Asks for the part of that number, counted from 1, and leaves it in `part`; its length in bytes.
    ///
    /// # Errors
    /// What an exchange gives.
    pub fn restore_part(
        &mut self,
        platform: &mut Platform<'_>,
        number: u32,
        part: &mut [u8; BACKUP_PART_BYTES_MAX],
    ) -> Result<usize, ReleaseFault> {
        let (token, generation) = self.named();
        let body = RestorePartRequest { token, generation, number: U32::new(number) };
        let reply = self.aside(platform, Operation::RestorePart, body.as_bytes())?;
        let come = RestorePart::ref_from_bytes(reply).map_err(|_| ReleaseFault::ReplyRefused)?;
        *part = come.part;
        let bytes = usize::from(come.bytes.get());
        if bytes <= BACKUP_PART_BYTES_MAX { Ok(bytes) } else { Err(ReleaseFault::ReplyRefused) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::backup::tests::{TENANT, VM, config};
    use super::super::backup::{BackupHeader, BackupOrder};
    use super::super::ticket::{OperatorCertificate, Ticket, TicketOrder};
    use super::super::transcript::tests::Seeded;
    use super::super::transcript::{AgreementKey, SigningKey, certificate_digest};
    use super::super::wire::RestoreWanted;
    use super::{OpenedBackup, RestoreKey, RestoreOrder};
    use crate::attest::launch::LaunchConfig;
    use crate::secret::Secret;
    use core::mem::offset_of;
    use zerocopy::byteorder::little_endian::U32;
    use zerocopy::{FromZeros, IntoBytes};

    /// What an honest broker shows, of an order of that kind seen at generation 1, for a backup of generation 2.
    fn shown([root, operator]: &[SigningKey; 2], order: TicketOrder) -> RestoreWanted {
        let mut certificate = OperatorCertificate::new_zeroed();
        (certificate.tenant, certificate.key) = (TENANT, *operator.point());
        certificate.orders =
            U32::new(TicketOrder::Restore.bit() | TicketOrder::Backup.bit() | TicketOrder::Clone.bit());
        certificate.signature = root.sign(&certificate.digest()).unwrap();
        let mut ticket = Ticket::new_zeroed();
        (ticket.certificate, ticket.vm, ticket.order) = (certificate, VM, order as u8);
        (ticket.generation, ticket.subject) = (U32::new(1), [9; 48]);
        ticket.sign(operator).unwrap();
        let mut header = BackupHeader::of(&BackupOrder { id: [7; 16], recovery: *root.point() });
        (header.tenant, header.vm, header.generation) = (TENANT, VM, U32::new(2));
        RestoreWanted { header, ticket, tenant_root: *root.point() }
    }

    /// A broker cannot give a VM a state of its own making: it must be the backup that the ticket names.
    #[test]
    fn nothing_is_restored_without_the_tenants_word() {
        let mut entropy = Seeded(0x4E5);
        let keys = [(); 2].map(|()| SigningKey::generate(&mut entropy).unwrap());
        let config = config(&keys[0]);
        let mut wanted = shown(&keys, TicketOrder::Restore);
        let ordered = |wanted: &RestoreWanted, generation| RestoreOrder::checked(wanted, &config, generation);
        assert_eq!(ordered(&wanted, 3).map(|order| order.digest), Some([9; 48]));
        assert!(ordered(&wanted, 2).is_none(), "not beyond the backup's generation");
        wanted.header.generation = U32::new(0);
        assert!(ordered(&wanted, 1).is_none(), "not beyond the one that the operator saw");
        assert!(ordered(&wanted, 2).is_some());
        for at in offset_of!(RestoreWanted, ticket)..RestoreWanted::BYTES {
            wanted.as_mut_bytes()[at] ^= 1;
            assert!(ordered(&wanted, 2).is_none(), "byte {at}");
            wanted.as_mut_bytes()[at] ^= 1;
        }
        // Of the header all else is under the backup's digest.
        for of_another in [offset_of!(BackupHeader, tenant), offset_of!(BackupHeader, vm), 0, 8] {
            wanted.as_mut_bytes()[of_another] ^= 1;
            assert!(ordered(&wanted, 2).is_none(), "byte {of_another}");
            wanted.as_mut_bytes()[of_another] ^= 1;
        }
        assert!(ordered(&shown(&keys, TicketOrder::Backup), 3).is_none(), "another order");
        let mut clone = shown(&keys, TicketOrder::Clone);
        assert!(ordered(&clone, 3).is_none(), "a clone of itself");
        clone.header.vm = [6; 16];
        assert!(ordered(&clone, 3).is_some_and(|order| order.is_clone));
        wanted.header.vm = [6; 16];
        assert!(ordered(&wanted, 2).is_none(), "a restore of another's");
        wanted.header.vm = VM;
        let of_another_vm = LaunchConfig { vm: [6; 16], ..config };
        assert!(RestoreOrder::checked(&wanted, &of_another_vm, 2).is_none());
    }

    #[test]
    fn a_backups_key_is_sealed_to_a_broker_that_the_tenant_certified_and_for_one_restore() {
        let mut entropy = Seeded(0x0BE);
        let [root, broker, other] = [(); 3].map(|()| SigningKey::generate(&mut entropy).unwrap());
        let [restore, another] = [(); 2].map(|()| AgreementKey::generate(&mut entropy).unwrap());
        let config = config(&root);
        let mut shown = RestoreKey::new_zeroed();
        (shown.tenant, shown.vm, shown.key) = (TENANT, VM, *restore.point());
        shown.tenant_root = *root.point();
        let certificate = &mut shown.certificate;
        (certificate.tenant, certificate.key) = (TENANT, *broker.point());
        certificate.signature = root.sign(&certificate_digest(certificate)).unwrap();
        shown.signature = broker.sign(&shown.digest()).unwrap();
        assert!(shown.is_vouched_for(&config));
        assert!(!shown.is_vouched_for(&LaunchConfig { vm: [6; 16], ..config }));
        for at in 0..RestoreKey::BYTES {
            shown.as_mut_bytes()[at] ^= 1;
            assert!(!shown.is_vouched_for(&config), "byte {at}");
            shown.as_mut_bytes()[at] ^= 1;
        }
        let forged = RestoreKey { signature: other.sign(&shown.digest()).unwrap(), ..shown };
        assert!(!forged.is_vouched_for(&config));

        let key = Secret::take(&mut [0x5A; 32]);
        let mut opened = OpenedBackup::seal(&shown, &[9; 48], &key, &mut entropy).unwrap();
        assert_eq!(opened.open(&restore).map(|key| key.with(|bytes| *bytes)), Some([0x5A; 32]));
        assert!(opened.open(&another).is_none());
        for at in 0..OpenedBackup::BYTES {
            opened.as_mut_bytes()[at] ^= 1;
            assert!(opened.open(&restore).is_none(), "byte {at}");
            opened.as_mut_bytes()[at] ^= 1;
        }
    }
}
