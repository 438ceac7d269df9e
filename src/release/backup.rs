//! A copy of a TPM's state, for the holder of the tenant's recovery key.
//!
//! **What.** [`BackupHeader`] begins a backup's file: whose state it is, which one, and its key, sealed to the recovery key. A granted
//! instance asks whether one is wanted ([`Tenure::backup_order`]) and hands it to the broker in parts.
//! **Trust.** The tenant's root key: an operator's order and the recovery key that it names are its word, not the broker's.
//! **Laws.** Without an order that the tenant's root key vouches for nothing is sealed to anybody. The broker keeps what it cannot read.
//! Nothing here concerns the state or the lease: whatever comes of it, the TPM serves.
//! **Not here.** The ciphers of the parts (`keys`, `volume`).

#![allow(missing_debug_implementations, reason = "structures of the wire are never printed")]
#![allow(clippy::allow_attributes, reason = "an expectation is not seen inside the macro")]

use super::recovery::{Context, SealedKey};
use super::tenure::Tenure;
use super::ticket::TicketOrder;
use super::transcript::{AgreementKey, Digest, point_digest};
use super::wire::{
    BACKUP_CHUNK_BYTES, BackupPart, BackupPartKept, BackupRequest, BackupVerdict, BackupWanted, Operation,
    POINT_BYTES, TAG_BYTES, WireHead, wire,
};
use super::{Head, ReleaseFault, frame};
use crate::attest::launch::LaunchConfig;
use crate::seams::{Entropy, Platform};
use crate::secret::Secret;
use core::mem::offset_of;
use sha2::{Digest as _, Sha384};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of a backup.
const MAGIC: [u8; 8] = *b"HUSKBKUP";
/// The format of header and parts.
const FORMAT: u16 = 1;
/// [`BACKUP_CHUNK_BYTES`].
const CHUNK_BYTES: u32 = 4096;
const _: () = assert!(CHUNK_BYTES as usize == BACKUP_CHUNK_BYTES);
const KEY_INFO: &[u8] = b"HUSK v1 backup key\0";
const FILE_LABEL: &[u8] = b"HUSK v1 backup\0";

wire! {
    /// The beginning of a backup; the state's parts follow.
    pub struct BackupHeader {
        /// `HUSKBKUP`.
        pub magic: [u8; 8],
        /// 1.
        pub format: U16,
        /// Zero.
        pub zero_16: [u8; 2],
        /// The generation of the state.
        pub generation: U32,
        /// The tenant.
        pub tenant: [u8; 16],
        /// The VM.
        pub vm: [u8; 16],
        /// The id of the ticket that ordered the backup: its name.
        pub id: [u8; 16],
        /// The token under which it was made.
        pub token: U64,
        /// The epoch of the state.
        pub epoch: U64,
        /// Which state it is: its place in the chain of commits.
        pub head: WireHead,
        /// The engine that the state is of.
        pub fingerprint: [u8; 32],
        /// SHA-384 of the recovery key's point.
        pub recovery: Digest,
        /// Length of the state in bytes.
        pub state_bytes: U32,
        /// Zero.
        pub zero_32: [u8; 4],
        /// The backup's key, sealed to the recovery key under all of the above.
        pub key: SealedKey,
    }
}

impl BackupHeader {
    /// A header of this version, for a backup that `order` wants; the rest is the caller's to fill in.
    #[must_use]
    pub fn of(order: &BackupOrder) -> Self {
        Self::named(order.id, &order.recovery)
    }

    /// A header of this version for a TPM that was made in a trusted place and that no instance has served: it has no token, no epoch and no commit.
    #[must_use]
    pub fn prepared((tenant, vm): ([u8; 16], [u8; 16]), id: [u8; 16], recovery: &[u8; POINT_BYTES]) -> Self {
        Self { tenant, vm, ..Self::named(id, recovery) }
    }

    fn named(id: [u8; 16], recovery: &[u8; POINT_BYTES]) -> Self {
        let mut header = Self::new_zeroed();
        (header.magic, header.format) = (MAGIC, U16::new(FORMAT));
        (header.id, header.recovery) = (id, point_digest(recovery));
        header
    }

    /// Whether it is of a TPM that no instance has served. No launch makes such a backup: each has a token, from 1 on.
    #[must_use]
    pub fn is_prepared(&self) -> bool {
        self.token.get() == 0 && self.epoch.get() == 0 && Head::from(&self.head) == Head::NONE
    }

    /// Takes a header in front of a backup's parts; nothing if it is none of this version.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        Self::read_from_prefix(bytes).ok().filter(|(header, _)| header.is_ours())
    }

    /// Whether it is one of this version.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        let is_ours = self.magic == MAGIC && self.format.get() == FORMAT;
        is_ours && self.zero_16 == [0; 2] && self.zero_32 == [0; 4]
    }

    /// Puts the backup's key in, for the holder of `recovery`.
    ///
    /// # Errors
    /// As [`SealedKey::seal`].
    pub fn seal(
        &mut self,
        recovery: &[u8; POINT_BYTES],
        key: &Secret<32>,
        entropy: &mut dyn Entropy,
    ) -> Result<(), ReleaseFault> {
        self.key = SealedKey::seal(recovery, self.context(), key, entropy)?;
        Ok(())
    }

    /// The backup's key, for the holder of the recovery key.
    #[must_use]
    pub fn open(&self, recovery: &AgreementKey) -> Option<Secret<32>> {
        self.key.open(recovery, self.context())
    }

    fn context(&self) -> Context<'_> {
        Context { info: KEY_INFO, aad: &self.as_bytes()[..offset_of!(Self, key)] }
    }

    /// How many parts follow.
    #[must_use]
    pub fn parts(&self) -> u32 {
        self.state_bytes.get().div_ceil(CHUNK_BYTES)
    }

    /// Length of a whole backup with this header, in bytes.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        let parts = u64::from(self.parts());
        Self::BYTES as u64 + u64::from(self.state_bytes.get()) + parts * TAG_BYTES as u64
    }
}

/// The name of a whole backup, for whoever orders that it be restored.
#[must_use]
pub fn backup_digest(file: &[u8]) -> Digest {
    Sha384::new().chain_update(FILE_LABEL).chain_update(file).finalize().into()
}

/// As [`backup_digest`], of a file whose parts come one after the other.
#[derive(Debug)]
pub struct BackupDigest(Sha384);

impl BackupDigest {
    /// Of the header.
    #[must_use]
    pub fn begin(header: &BackupHeader) -> Self {
        Self(Sha384::new().chain_update(FILE_LABEL).chain_update(header.as_bytes()))
    }

    /// Takes the next part.
    pub fn take(&mut self, part: &[u8]) {
        self.0.update(part);
    }

    /// The name of the whole.
    #[must_use]
    pub fn finish(self) -> Digest {
        self.0.finalize().into()
    }
}

/// An order to make a backup, which the tenant's root key vouches for.
#[derive(Clone, Copy, Debug)]
pub struct BackupOrder {
    /// The ticket's id.
    pub id: [u8; 16],
    /// The recovery key.
    pub recovery: [u8; POINT_BYTES],
}

impl BackupOrder {
    /// What `wanted` orders, if it is the word of the tenant whose VM `config` names, for a state of `generation`.
    fn checked(wanted: &BackupWanted, config: &LaunchConfig, generation: u32) -> Option<Self> {
        let BackupWanted { ticket, recovery, tenant_root, .. } = wanted;
        let holds = wanted.wanted == 1
            && wanted.reserved == [0; 3]
            && point_digest(tenant_root) == config.root
            && ticket.order(&config.tenant, tenant_root) == Some(TicketOrder::Backup)
            && ticket.vm == config.vm
            && ticket.generation.get() == generation
            && recovery.is_by(&config.tenant, tenant_root)
            && ticket.subject == point_digest(&recovery.key);
        holds.then_some(Self { id: ticket.id, recovery: recovery.key })
    }
}

impl Tenure<'_> {
    /// Asks whether the tenant wants a backup.
    ///
    /// # Errors
    /// [`ReleaseFault::OrderUntrusted`] if what the broker shows is not the tenant's order; what an exchange gives.
    pub fn backup_order(&mut self, platform: &mut Platform<'_>) -> Result<Option<BackupOrder>, ReleaseFault> {
        let (token, generation) = self.named();
        let body = BackupRequest { token, generation };
        let reply = self.aside(platform, Operation::Backup, body.as_bytes())?;
        let wanted: BackupWanted = frame::exactly(reply)?;
        if wanted.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let order = BackupOrder::checked(&wanted, self.config(), generation.get());
        order.map(Some).ok_or(ReleaseFault::OrderUntrusted)
    }

    /// Hands a part of a backup to the broker.
    ///
    /// # Errors
    /// What an exchange gives.
    pub fn keep_backup_part(
        &mut self,
        platform: &mut Platform<'_>,
        number: u32,
        bytes: &[u8],
    ) -> Result<BackupVerdict, ReleaseFault> {
        let mut body = BackupPart::new_zeroed();
        (body.token, body.generation) = self.named();
        body.number = U32::new(number);
        body.bytes = U16::new(u16::try_from(bytes.len()).map_err(|_| ReleaseFault::Misuse)?);
        body.part.get_mut(..bytes.len()).ok_or(ReleaseFault::Misuse)?.copy_from_slice(bytes);
        let reply = self.aside(platform, Operation::BackupPart, body.as_bytes())?;
        let kept: BackupPartKept = frame::exactly(reply)?;
        // A verdict that this build does not know is a refusal all the same.
        Ok(BackupVerdict::from_number(kept.verdict).unwrap_or(BackupVerdict::Malformed))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::recovery::RecoveryCertificate;
    use super::super::ticket::{OperatorCertificate, Ticket, TicketOrder};
    use super::super::transcript::tests::Seeded;
    use super::super::transcript::{SigningKey, point_digest};
    use super::super::wire::BackupWanted;
    use super::BackupOrder;
    use crate::attest::launch::{Kbs, LaunchConfig, Mode, Serve};
    use zerocopy::byteorder::little_endian::U32;
    use zerocopy::{FromZeros, IntoBytes};

    pub(in super::super) const TENANT: [u8; 16] = [3; 16];
    pub(in super::super) const VM: [u8; 16] = [5; 16];

    /// Of a VM of that tenant.
    pub(in super::super) fn config(root: &SigningKey) -> LaunchConfig {
        LaunchConfig {
            tenant: TENANT,
            vm: VM,
            root: point_digest(root.point()),
            mode: Mode::Strict,
            serve: Serve::Lease,
            kbs: Kbs::None,
            min_key_generation: 0,
            processor: None,
            staleness: None,
            variables: None,
        }
    }

    /// What an honest broker shows, of an order of that kind.
    fn shown([root, operator, recovery]: &[SigningKey; 3], order: TicketOrder) -> BackupWanted {
        let mut certificate = OperatorCertificate::new_zeroed();
        (certificate.tenant, certificate.key) = (TENANT, *operator.point());
        certificate.orders = U32::new(TicketOrder::Backup.bit() | TicketOrder::Halt.bit());
        certificate.signature = root.sign(&certificate.digest()).unwrap();
        let mut key = RecoveryCertificate::new_zeroed();
        (key.tenant, key.key) = (TENANT, *recovery.point());
        key.signature = root.sign(&key.digest()).unwrap();
        let mut ticket = Ticket::new_zeroed();
        (ticket.certificate, ticket.vm, ticket.order) = (certificate, VM, order as u8);
        ticket.generation = U32::new(1);
        ticket.subject = if order.has_subject() { point_digest(&key.key) } else { [0; 48] };
        ticket.sign(operator).unwrap();
        BackupWanted { wanted: 1, reserved: [0; 3], ticket, recovery: key, tenant_root: *root.point() }
    }

    /// A broker cannot have a state sealed to a key of its own.
    #[test]
    fn a_backup_is_sealed_to_nobody_without_the_tenants_word() {
        let mut entropy = Seeded(0xBAC);
        let keys = [(); 3].map(|()| SigningKey::generate(&mut entropy).unwrap());
        let config = config(&keys[0]);
        let mut wanted = shown(&keys, TicketOrder::Backup);
        let ordered = |wanted: &BackupWanted, generation| BackupOrder::checked(wanted, &config, generation);
        assert_eq!(ordered(&wanted, 1).map(|order| order.recovery), Some(*keys[2].point()));
        for at in 0..BackupWanted::BYTES {
            wanted.as_mut_bytes()[at] ^= 1;
            assert!(ordered(&wanted, 1).is_none(), "byte {at}");
            wanted.as_mut_bytes()[at] ^= 1;
        }
        assert!(ordered(&wanted, 2).is_none(), "of another generation");
        assert!(ordered(&shown(&keys, TicketOrder::Halt), 1).is_none(), "another order");
        let of_another_vm = LaunchConfig { vm: [6; 16], ..config };
        assert!(BackupOrder::checked(&wanted, &of_another_vm, 1).is_none());
        // A recovery key that the tenant certified, and another than the operator chose.
        let [root, operator, _] = keys;
        let other = SigningKey::generate(&mut entropy).unwrap();
        wanted.recovery = shown(&[root, operator, other], TicketOrder::Backup).recovery;
        assert!(ordered(&wanted, 1).is_none());
    }
}
