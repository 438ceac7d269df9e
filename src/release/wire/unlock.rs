//! Structures about secrets that a guest earns by its TPM.

use super::{CREDENTIAL_SECRET_BYTES, TAG_BYTES, WireCredential, WirePublic};
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The longest name of a secret.
pub const UNLOCK_NAME_BYTES_MAX: usize = 64;
/// The longest secret.
pub const UNLOCK_SECRET_BYTES_MAX: usize = 1024;
/// Longer than a TPMS_ATTEST of PCRs of one bank, and than a TPMT_SIGNATURE by a key on P-256 or P-384, or by RSA-2048.
pub const QUOTE_BYTES_MAX: usize = 320;
/// A PC client's PCRs (TCG PC Client Platform TPM Profile, section "PCR Requirements").
pub const PCRS: usize = 24;
/// The values of all of them, by SHA-256.
pub const PCR_VALUES_BYTES_MAX: usize = PCRS * 32;

const _: () = assert!(CREDENTIAL_SECRET_BYTES == 32, "what a credential carries is as long as a key");

numbers! {
    /// What became of a guest that asks for a secret.
    pub enum UnlockVerdict: u8 {
        /// As asked.
        Ok = 0,
        /// A name, a key or a quote is none.
        Malformed = 1,
        /// The endorsement key is none that this VM has shown.
        OtherTpm = 2,
        /// The VM has no secret of that name.
        NothingThere = 3,
        /// The credential was not opened, or the quote is not of this conversation and of the PCRs that were asked for.
        Unproven = 4,
        /// The TPM is not the newest instance's, or the VM may not run.
        OldInstance = 5,
        /// The PCRs have none of the values that the tenant allows.
        OtherPcrs = 6,
    }
}

wire! {
    /// Body of [`Operation::UnlockAsk`](super::Operation::UnlockAsk).
    pub struct UnlockAsk {
        /// What is asked for, in front of zeros.
        pub name: [u8; UNLOCK_NAME_BYTES_MAX],
        /// The endorsement key.
        pub endorsement: WirePublic,
        /// The attestation key.
        pub attestation: WirePublic,
    }

    /// Reply body of [`Operation::UnlockAsk`](super::Operation::UnlockAsk); zeros after another verdict than Ok.
    pub struct UnlockChallenge {
        /// [`UnlockVerdict`].
        pub verdict: u8,
        /// Zero.
        pub reserved: [u8; 3],
        /// The PCRs to be quoted, of the bank SHA-256; bit 0 is PCR 0.
        pub pcrs: U32,
        /// For the endorsement key and the attestation key's Name.
        pub credential: WireCredential,
    }

    /// Body of [`Operation::UnlockShow`](super::Operation::UnlockShow).
    pub struct UnlockShow {
        /// Length of `quote` in bytes.
        pub quote_bytes: U16,
        /// Length of `signature` in bytes.
        pub signature_bytes: U16,
        /// TPMS_ATTEST, in front of zeros.
        pub quote: [u8; QUOTE_BYTES_MAX],
        /// TPMT_SIGNATURE, in front of zeros.
        pub signature: [u8; QUOTE_BYTES_MAX],
        /// The values of the PCRs that were asked for, in ascending order, in front of zeros.
        pub values: [u8; PCR_VALUES_BYTES_MAX],
    }

    /// A secret, before it is sealed.
    pub struct UnlockSecret {
        /// Its length in bytes.
        pub bytes: U16,
        /// The secret, in front of zeros.
        pub secret: [u8; UNLOCK_SECRET_BYTES_MAX],
    }

    /// Reply body of [`Operation::UnlockShow`](super::Operation::UnlockShow); zeros after another verdict than Ok.
    pub struct UnlockAnswer {
        /// [`UnlockVerdict`].
        pub verdict: u8,
        /// Zero.
        pub reserved: [u8; 3],
        /// [`UnlockSecret`], sealed under what the credential carried.
        pub sealed: [u8; UnlockSecret::BYTES],
        /// Its tag.
        pub tag: [u8; TAG_BYTES],
    }
}
