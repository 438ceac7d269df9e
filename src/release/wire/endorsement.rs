//! Structures about certificates of endorsement keys.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// How many endorsement keys there are: RSA-2048, P-256, P-384, in this order in every structure.
pub const ENDORSEMENT_KEYS: usize = 3;
/// The longest public area (TPMT_PUBLIC) of one.
pub const PUBLIC_BYTES_MAX: usize = 320;
/// The longest TPM2B_ID_OBJECT that is made for one, without its size: an HMAC and a secret, each with a size of its own.
pub const CREDENTIAL_BYTES_MAX: usize = 96;
/// The longest TPM2B_ENCRYPTED_SECRET, without its size: an RSA-2048 ciphertext.
pub const ENCRYPTED_SECRET_BYTES_MAX: usize = 256;
/// What a credential carries.
pub const CREDENTIAL_SECRET_BYTES: usize = 32;
/// The longest certificate of an endorsement key.
pub const CERTIFICATE_BYTES_MAX: usize = 2048;

numbers! {
    /// What became of endorsement keys that were to be certified.
    pub enum EndorsementVerdict: u8 {
        /// As asked.
        Ok = 0,
        /// The keys are not of the profile's templates, or not those that are certified.
        Malformed = 1,
        /// The credentials were not opened: the TPM does not hold these keys.
        WrongAnswer = 2,
        /// Another VM of the tenant has one of these keys.
        OtherVm = 3,
        /// This VM has other keys, as far as the broker knows.
        Changed = 4,
    }
}

wire! {
    /// Body of [`Operation::Endorsement`](super::Operation::Endorsement).
    pub struct EndorsementRequest {
        /// The fencing token.
        pub token: U64,
        /// The generation.
        pub generation: U32,
    }

    /// Reply body of [`Operation::Endorsement`](super::Operation::Endorsement).
    pub struct Certified {
        /// A sum: 1 RSA-2048, 2 P-256, 4 P-384. 0 where the tenant has no authority.
        pub keys: u8,
        /// Zero.
        pub reserved: [u8; 3],
    }

    /// A public area in front of zeros; of no length where there is none.
    pub struct WirePublic {
        /// Length in bytes.
        pub bytes: U16,
        /// TPMT_PUBLIC.
        pub public: [u8; PUBLIC_BYTES_MAX],
    }

    /// Body of [`Operation::Endorse`](super::Operation::Endorse).
    pub struct Endorse {
        /// The fencing token.
        pub token: U64,
        /// The generation.
        pub generation: U32,
        /// TPM_PT_MANUFACTURER.
        pub manufacturer: [u8; 4],
        /// TPM_PT_FIRMWARE_VERSION_1.
        pub firmware: U32,
        /// The keys to be certified.
        pub keys: [WirePublic; ENDORSEMENT_KEYS],
    }

    /// A credential in front of zeros; of no length where there is none.
    pub struct WireCredential {
        /// Length of `blob` in bytes.
        pub blob_bytes: U16,
        /// Length of `secret` in bytes.
        pub secret_bytes: U16,
        /// Content of TPM2B_ID_OBJECT.
        pub blob: [u8; CREDENTIAL_BYTES_MAX],
        /// Content of TPM2B_ENCRYPTED_SECRET.
        pub secret: [u8; ENCRYPTED_SECRET_BYTES_MAX],
    }

    /// Reply body of [`Operation::Endorse`](super::Operation::Endorse).
    pub struct Challenge {
        /// [`EndorsementVerdict`].
        pub verdict: u8,
        /// Zero.
        pub reserved: [u8; 3],
        /// For each key that was named.
        pub credentials: [WireCredential; ENDORSEMENT_KEYS],
    }

    /// Body of [`Operation::Activate`](super::Operation::Activate).
    pub struct Activate {
        /// The fencing token.
        pub token: U64,
        /// The generation.
        pub generation: U32,
        /// What the credentials carried; zero where there was none.
        pub secrets: [[u8; CREDENTIAL_SECRET_BYTES]; ENDORSEMENT_KEYS],
    }

    /// A certificate in front of zeros; of no length where there is none yet.
    pub struct WireCertificate {
        /// Length in bytes.
        pub bytes: U16,
        /// DER.
        pub certificate: [u8; CERTIFICATE_BYTES_MAX],
    }

    /// Reply body of [`Operation::Activate`](super::Operation::Activate).
    pub struct Certificates {
        /// [`EndorsementVerdict`].
        pub verdict: u8,
        /// Zero.
        pub reserved: [u8; 3],
        /// For each key that was named.
        pub certificates: [WireCertificate; ENDORSEMENT_KEYS],
    }
}
