//! What the broker says of a VM to whoever asks, signed.
//!
//! **What.** [`Statement`]: where the VM stands at one moment of the broker's clock, for the asker's nonce; also the answer to a
//! [`Ticket`](super::ticket::Ticket), with what became of it. It is checked without a network.
//! **Trust.** The tenant root key of a launch configuration, and the broker that it certified.
//! **Laws.** [`Statement::is_vouched_for`] holds only for the tenant and VM of the configuration, the nonce, and a certified broker's signature over
//! every byte. Nothing in a statement is secret.
//! **Not here.** Whether a quote fits it: `husk evidence`.

#![allow(missing_debug_implementations, reason = "structures of the wire are never printed")]
#![allow(clippy::allow_attributes, reason = "an expectation is not seen inside the macro")]

use super::transcript::{Digest, is_certified, verifies};
use super::wire::{BrokerCertificate, POINT_BYTES, SIGNATURE_BYTES, WireHead, numbers, wire};
use crate::attest::launch::LaunchConfig;
use core::mem::offset_of;
use sha2::{Digest as _, Sha384};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const STATEMENT_LABEL: &[u8] = b"HUSK v1 statement\0";

numbers! {
    /// What became of a ticket.
    pub enum Outcome: u8 {
        /// There was none: the status was asked for.
        Asked = 0,
        /// It was carried out, and is used up.
        Done = 1,
        /// It was taken, and is used up by the next CONFIRM.
        Open = 2,
        /// No operator of this tenant that may give the order signed it, or one whose generation is over.
        Untrusted = 3,
        /// It was used before.
        Used = 4,
        /// Its time is over.
        Expired = 5,
        /// The VM has another token or generation than it names.
        Overtaken = 6,
        /// Where the VM stands in its life, the order makes no sense.
        Barred = 7,
        /// A piece of what belongs to it was taken, and the rest is awaited.
        Brought = 8,
    }

    /// Where a VM stands in its life.
    pub enum LifeWord: u8 {
        /// Enrolled; its TPM does not exist yet.
        Virgin = 0,
        /// Its TPM exists.
        Active = 1,
        /// Stopped until resumed.
        Halted = 2,
        /// Over for good.
        Retired = 3,
        /// Its TPM is made at each launch and ends with it.
        Ephemeral = 4,
    }
}

wire! {
    /// Body of a status request.
    pub struct StatusRequest {
        /// The tenant.
        pub tenant: [u8; 16],
        /// The VM.
        pub vm: [u8; 16],
        /// The asker's.
        pub nonce: [u8; 32],
    }

    /// The broker's signed word about one VM.
    pub struct Statement {
        /// The tenant.
        pub tenant: [u8; 16],
        /// The VM.
        pub vm: [u8; 16],
        /// The asker's; for a ticket its id and zeros.
        pub nonce: [u8; 32],
        /// SHA-256 of the launch configuration that is enrolled.
        pub host_data: [u8; 32],
        /// [`Outcome`].
        pub outcome: u8,
        /// [`LifeWord`].
        pub life: u8,
        /// 1 if the newest token's instance has confirmed its launch, 0 if it has yet to, or if there is none.
        pub confirmed: u8,
        /// 1 if the last serving instance said that it serves no more.
        pub released: u8,
        /// 1 if the next grant does not wait for the lease.
        pub forced: u8,
        /// 1 if the next launch makes the TPM anew from a backup.
        pub restoring: u8,
        /// Zero.
        pub reserved: [u8; 2],
        /// The generation: raised by each operator restore.
        pub generation: U32,
        /// From `time_ms`: an instance may have the right to answer for so long, unless it renews.
        pub lease_ms: U32,
        /// From `time_ms`: for so long an instance that a forced grant fenced may still answer; 0: one instance at most.
        pub overlap_ms: U32,
        /// The newest token.
        pub token: U64,
        /// The epoch of `head`.
        pub epoch: U64,
        /// The newest state.
        pub head: WireHead,
        /// TPMS_CLOCK_INFO.resetCount of the newest instance is the token less this.
        pub reset_base: U64,
        /// The broker's clock.
        pub time_ms: U64,
        /// The tenant root key.
        pub tenant_root: [u8; POINT_BYTES],
        /// Who the broker is.
        pub certificate: BrokerCertificate,
        /// By the broker's signing key.
        pub signature: [u8; SIGNATURE_BYTES],
    }
}

impl Statement {
    /// What the broker's key signs: all of it but the signature.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let signed = &self.as_bytes()[..offset_of!(Self, signature)];
        Sha384::new().chain_update(STATEMENT_LABEL).chain_update(signed).finalize().into()
    }

    /// Whether a broker that the tenant of `config` certified says this, of the VM of `config`, for this nonce.
    #[must_use]
    pub fn is_vouched_for(&self, config: &LaunchConfig, nonce: &[u8; 32]) -> bool {
        (self.tenant, self.vm) == (config.tenant, config.vm)
            && self.nonce == *nonce
            && is_certified(&self.certificate, &self.tenant_root, config)
            && verifies(&self.certificate.key, &self.digest(), &self.signature)
    }

    /// TPMS_CLOCK_INFO.resetCount of the newest token's instance.
    #[must_use]
    pub fn reset_count(&self) -> u32 {
        let [a, b, c, d, ..] = self.token.get().wrapping_sub(self.reset_base.get()).to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// The nonce of the answer to a ticket.
    #[must_use]
    pub fn nonce_of_ticket(id: &[u8; 16]) -> [u8; 32] {
        let mut nonce = [0; 32];
        nonce[..16].copy_from_slice(id);
        nonce
    }
}

#[cfg(test)]
mod tests {
    use super::super::transcript::tests::Seeded;
    use super::super::transcript::{SigningKey, certificate_digest, point_digest};
    use super::Statement;
    use crate::attest::launch::{Kbs, LaunchConfig, Mode, Serve};
    use zerocopy::byteorder::little_endian::U32;
    use zerocopy::{FromZeros, IntoBytes};

    #[test]
    fn every_byte_of_a_statement_is_signed() {
        let mut entropy = Seeded(0x57A);
        let [root, broker, other] = [(); 3].map(|()| SigningKey::generate(&mut entropy).unwrap());
        let config = LaunchConfig {
            tenant: [1; 16],
            vm: [2; 16],
            root: point_digest(root.point()),
            mode: Mode::Strict,
            serve: Serve::Lease,
            kbs: Kbs::None,
            min_key_generation: 1,
            processor: None,
            staleness: None,
            variables: None,
        };
        let mut statement = Statement::new_zeroed();
        (statement.tenant, statement.vm, statement.nonce) = (config.tenant, config.vm, [9; 32]);
        statement.tenant_root = *root.point();
        let certificate = &mut statement.certificate;
        (certificate.tenant, certificate.key) = (config.tenant, *broker.point());
        certificate.key_generation = U32::new(1);
        certificate.signature = root.sign(&certificate_digest(certificate)).unwrap();
        statement.signature = broker.sign(&statement.digest()).unwrap();
        assert!(statement.is_vouched_for(&config, &[9; 32]));
        assert!(!statement.is_vouched_for(&config, &[8; 32]), "an answer to another question");
        assert!(!statement.is_vouched_for(&LaunchConfig { vm: [3; 16], ..config }, &[9; 32]));
        for at in 0..Statement::BYTES {
            statement.as_mut_bytes()[at] ^= 1;
            assert!(!statement.is_vouched_for(&config, &[9; 32]), "byte {at}");
            statement.as_mut_bytes()[at] ^= 1;
        }
        statement.signature = other.sign(&statement.digest()).unwrap();
        assert!(!statement.is_vouched_for(&config, &[9; 32]), "a broker that nobody certified");
    }
}
