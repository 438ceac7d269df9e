//! The protocol's structures, compiled by both ends.
//!
//! **What.** Frames, hellos, sealed records, requests and replies as fixed little-endian structures.
//! **Trust.** None: everything here is an allegation until `transcript` and `record` have authenticated it.
//! **Laws.** Every structure has one size and no padding; every value outside its enumeration is refused.
//! **Not here.** What the messages mean: `protocol.md`.

#![allow(missing_debug_implementations, reason = "structures of the wire are never printed")]
#![allow(clippy::allow_attributes, reason = "an expectation is not seen inside the macro")]

use super::{HEAD_DIGEST_BYTES, Head};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The protocol's version.
pub const PROTOCOL: u16 = 1;
/// Suite 1: ECDSA and ECDH on P-384, SHA-384, HKDF-SHA-384, AES-256-GCM.
pub const SUITE: u16 = 1;
/// The longest frame in bytes, the length field included.
pub const FRAME_BYTES_MAX: usize = 8192;
/// Size of a frame's header: length (of all that follows it) and kind.
pub const FRAME_HEADER_BYTES: usize = 5;
/// Size of an uncompressed P-384 point (SEC 1, section 2.3.3).
pub const POINT_BYTES: usize = 97;
/// Size of an ECDSA P-384 signature: r then s, big-endian.
pub const SIGNATURE_BYTES: usize = 96;
/// Size of an AES-GCM tag.
pub const TAG_BYTES: usize = 16;

/// A byte-aligned fixed structure of the wire.
pub trait Wire: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned {}
impl<T: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned> Wire for T {}

macro_rules! wire {
    ($($(#[$doc:meta])* pub struct $name:ident { $($(#[$fdoc:meta])* pub $field:ident: $ty:ty,)* })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
        #[repr(C)]
        pub struct $name { $($(#[$fdoc])* pub $field: $ty,)* }
        impl $name {
            /// Size in bytes.
            pub const BYTES: usize = size_of::<Self>();
        }
    )+};
}

macro_rules! numbers {
    ($($(#[$doc:meta])* pub enum $name:ident: $int:ty { $($(#[$vdoc:meta])* $variant:ident = $value:literal,)+ })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr($int)]
        pub enum $name { $($(#[$vdoc])* $variant = $value,)+ }
        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// The value of that number, if there is one.
            #[must_use]
            pub const fn from_number(number: $int) -> Option<Self> {
                match number { $($value => Some(Self::$variant),)+ _ => None }
            }
        }
    )+};
}

pub(super) use {numbers, wire};

mod backup;
mod endorsement;
mod restore;
mod unlock;

pub use backup::{
    BACKUP_CHUNK_BYTES, BACKUP_PART_BYTES_MAX, BackupAsked, BackupPart, BackupPartKept, BackupPiece,
    BackupRequest, BackupState, BackupVerdict, BackupWanted,
};
pub use endorsement::{
    Activate, CERTIFICATE_BYTES_MAX, CREDENTIAL_BYTES_MAX, CREDENTIAL_SECRET_BYTES, Certificates, Certified,
    Challenge, ENCRYPTED_SECRET_BYTES_MAX, ENDORSEMENT_KEYS, Endorse, EndorsementRequest, EndorsementVerdict,
    PUBLIC_BYTES_MAX, WireCertificate, WireCredential, WirePublic,
};
pub use restore::{
    BackupBrought, RestoreKeyAsked, RestorePart, RestorePartRequest, RestoreRequest, RestoreWanted,
};
pub use unlock::{
    PCR_VALUES_BYTES_MAX, PCRS, QUOTE_BYTES_MAX, UNLOCK_NAME_BYTES_MAX, UNLOCK_SECRET_BYTES_MAX,
    UnlockAnswer, UnlockAsk, UnlockChallenge, UnlockSecret, UnlockShow, UnlockVerdict,
};

numbers! {
    /// What a frame carries.
    pub enum FrameKind: u8 {
        /// VM to broker: [`Hello`].
        Hello = 0x01,
        /// Broker to VM: [`ServerHello`].
        ServerHello = 0x81,
        /// VM to broker: [`RecordHeader`], ciphertext, tag.
        Request = 0x02,
        /// Broker to VM: [`RecordHeader`], ciphertext, tag.
        Reply = 0x82,
        /// Operator to broker: [`Ticket`](super::ticket::Ticket), and behind one to back up the
        /// [`RecoveryCertificate`](super::recovery::RecoveryCertificate) that it names. Needs no session: it is signed.
        Ticket = 0x03,
        /// Anyone to broker: [`StatusRequest`](super::statement::StatusRequest).
        StatusRequest = 0x04,
        /// Broker to both: [`Statement`](super::statement::Statement).
        Statement = 0x83,
        /// Whoever knows a backup's id to broker: [`BackupAsked`].
        BackupAsked = 0x05,
        /// Broker to them: [`BackupPiece`].
        BackupPiece = 0x85,
        /// Anyone to broker: [`RestoreKeyAsked`].
        RestoreKeyAsked = 0x06,
        /// Broker to them: [`RestoreKey`](super::restore::RestoreKey).
        RestoreKeyShown = 0x86,
        /// Operator to broker: [`BackupBrought`]. Needs no session: it is signed.
        BackupBrought = 0x07,
        /// VM to relay: RCAR's request, which the relay posts to the KBS.
        KbsAuth = 0x10,
        /// VM to relay: [`KbsAttest`](super::kbs::frames::KbsAttest) and its variable parts.
        KbsAttest = 0x11,
        /// VM to relay: [`KbsResource`](super::kbs::frames::KbsResource) and its variable parts.
        KbsResource = 0x12,
        /// Relay to VM: [`KbsAnswer`](super::kbs::frames::KbsAnswer) and its variable parts.
        KbsAnswer = 0x90,
        /// Broker (or anyone between) to VM: [`Refusal`]; not authenticated, so it changes nothing but what to try next.
        Refusal = 0xFF,
    }

    /// Why a frame was refused before any session could answer for it.
    pub enum RefusalReason: u16 {
        /// The frame or its structures are malformed.
        Malformed = 1,
        /// Protocol or suite are not spoken here.
        Version = 2,
        /// The session is not known (any more): say hello again.
        UnknownSession = 3,
        /// No such tenant or VM, as far as a stranger may know.
        UnknownVm = 4,
        /// The broker cannot serve now.
        Unavailable = 5,
        /// The relay was told of no KBS.
        NoKbs = 6,
    }

    /// The first byte of a record's plaintext: what is asked, and in a reply what was asked.
    pub enum Operation: u8 {
        /// [`Attest`] and its variable parts.
        Attest = 0x10,
        /// [`Resume`]: an instance that holds a grant comes back in a new session.
        Resume = 0x11,
        /// No body.
        Grant = 0x12,
        /// [`Confirm`].
        Confirm = 0x13,
        /// [`AnchorRequest`].
        Anchor = 0x14,
        /// [`Renew`].
        Renew = 0x15,
        /// [`Bump`].
        Bump = 0x16,
        /// [`ReleaseRequest`].
        Release = 0x17,
        /// [`StateMissing`].
        StateMissing = 0x18,
        /// [`EndorsementRequest`]: which endorsement keys the tenant's authority certifies.
        Endorsement = 0x19,
        /// [`Endorse`].
        Endorse = 0x1A,
        /// [`Activate`].
        Activate = 0x1B,
        /// [`BackupRequest`]: whether the tenant wants a backup, and sealed to whom.
        Backup = 0x1C,
        /// [`BackupPart`].
        BackupPart = 0x1D,
        /// [`RestoreRequest`]: what is to be restored, before CONFIRM.
        Restore = 0x1E,
        /// [`RestorePartRequest`].
        RestorePart = 0x1F,
        /// [`UnlockAsk`]: a guest asks for a secret, and names the keys of its TPM.
        UnlockAsk = 0x20,
        /// [`UnlockShow`].
        UnlockShow = 0x21,
    }

    /// How a request ended.
    pub enum Status: u8 {
        /// Done; the operation's reply body follows.
        Ok = 0,
        /// Another instance may still be answering; [`Busy`] follows. Nothing changed.
        Busy = 1,
        /// The broker will not; [`Denied`] follows. Nothing changed.
        Denied = 2,
        /// A newer instance was granted. No body. This instance must stop.
        Fenced = 3,
        /// The head is neither the previous nor the new one. No body. This instance must stop.
        Conflict = 4,
    }

    /// Why the broker will not.
    pub enum DeniedReason: u16 {
        /// The report's bytes, signature or certificate chain do not hold.
        Evidence = 1,
        /// The report is signed under a simulated root, which this broker was not told to accept.
        SimulatedSilicon = 2,
        /// The measurement is not one that the tenant allows.
        Measurement = 3,
        /// HOST_DATA is not the enrolled launch configuration's digest.
        LaunchConfig = 4,
        /// Guest policy, VMPL or platform flags are not allowed.
        GuestPolicy = 5,
        /// The platform's TCB is below the tenant's minimum.
        Tcb = 6,
        /// REPORT_DATA does not bind this session.
        Binding = 7,
        /// The VM is halted or retired.
        Lifecycle = 8,
        /// The request does not fit the session's state.
        Order = 9,
        /// The chip is not one that the tenant allows.
        Chip = 10,
        /// A report of this launch was already used under another instance key.
        InstanceReused = 11,
    }

    /// What a grant allows.
    pub enum GrantIntent: u8 {
        /// Make a new TPM: the VM has none.
        Create = 1,
        /// Open the TPM whose head is named.
        Open = 2,
        /// Make the TPM anew from a backup, in place of the one whose head is named.
        Restore = 3,
        /// Make a TPM that ends with the launch: nothing is kept, so there is no key.
        Ephemeral = 4,
    }
}

wire! {
    /// A frame's header.
    pub struct FrameHeader {
        /// Bytes after this field.
        pub length: U32,
        /// [`FrameKind`].
        pub kind: u8,
    }

    /// VM to broker, first.
    pub struct Hello {
        /// [`PROTOCOL`].
        pub protocol: U16,
        /// [`SUITE`].
        pub suite: U16,
        /// Zero.
        pub flags: U32,
        /// The tenant that the launch configuration names.
        pub tenant: [u8; 16],
        /// The VM that the launch configuration names.
        pub vm: [u8; 16],
        /// The VM's nonce.
        pub nonce: [u8; 32],
        /// The VM's ephemeral key for this session.
        pub ephemeral: [u8; POINT_BYTES],
        /// The instance key: made once a launch, the name of this running VM.
        pub instance: [u8; POINT_BYTES],
    }

    /// What the tenant root key says of a broker's signing key.
    pub struct BrokerCertificate {
        /// The tenant.
        pub tenant: [u8; 16],
        /// The broker.
        pub broker: [u8; 16],
        /// The broker's signing key.
        pub key: [u8; POINT_BYTES],
        /// Grows with each new signing key.
        pub key_generation: U32,
        /// Zero.
        pub usage: U16,
        /// By the tenant root key.
        pub signature: [u8; SIGNATURE_BYTES],
    }

    /// Broker to VM, the answer to [`Hello`].
    pub struct ServerHello {
        /// Names the session in every record.
        pub session: [u8; 16],
        /// The broker's nonce.
        pub nonce: [u8; 32],
        /// The broker's ephemeral key for this session.
        pub ephemeral: [u8; POINT_BYTES],
        /// The tenant root key, as a SEC 1 point; the VM compares its digest with the launch configuration.
        pub tenant_root: [u8; POINT_BYTES],
        /// Who the broker is.
        pub certificate: BrokerCertificate,
        /// By the broker's signing key, over the digest of the hello and everything above.
        pub signature: [u8; SIGNATURE_BYTES],
    }

    /// In front of a record's ciphertext; all of it is additional data.
    pub struct RecordHeader {
        /// The session.
        pub session: [u8; 16],
        /// Counts up from 0 in each direction; a reply repeats its request's.
        pub sequence: U64,
    }

    /// Body of a [`FrameKind::Refusal`].
    pub struct Refusal {
        /// [`RefusalReason`].
        pub reason: U16,
    }

    /// Body of [`Operation::Attest`]; `config_bytes` of launch configuration and `certificate_bytes` of DER follow.
    pub struct Attest {
        /// The report, as the processor signed it.
        pub report: [u8; crate::seams::REPORT_BYTES],
        /// Length of the launch configuration in bytes.
        pub config_bytes: U16,
        /// Length of the certificate of the report's key in bytes; 0 if the host supplied none.
        pub certificate_bytes: U16,
    }

    /// Body of [`Operation::Resume`]: the token of the grant that this instance key holds.
    pub struct Resume {
        /// The fencing token.
        pub token: U64,
    }

    /// A head on the wire.
    pub struct WireHead {
        /// [`Head::sequence`].
        pub sequence: U64,
        /// [`Head::digest`].
        pub digest: [u8; HEAD_DIGEST_BYTES],
    }

    /// Reply body of [`Operation::Grant`].
    pub struct GrantReply {
        /// [`GrantIntent`].
        pub intent: u8,
        /// Zero.
        pub reserved: [u8; 3],
        /// The generation: raised by each operator restore.
        pub generation: U32,
        /// The fencing token.
        pub token: U64,
        /// The epoch that `epoch_secret` opens; 0 if there is no TPM yet.
        pub epoch: U64,
        /// Where the newest state is.
        pub head: WireHead,
        /// Opens the state at `head`; zero if there is no TPM yet; to restore, the backup's key.
        pub epoch_secret: [u8; 32],
        /// Seals the state of `epoch + 1`.
        pub next_secret: [u8; 32],
        /// By the broker's signing key, over the transcript, the report's digest and everything above.
        pub signature: [u8; SIGNATURE_BYTES],
    }

    /// Reply body of [`Status::Busy`].
    pub struct Busy {
        /// Ask again after so many milliseconds.
        pub retry_ms: U32,
    }

    /// Reply body of [`Status::Denied`].
    pub struct Denied {
        /// [`DeniedReason`].
        pub reason: U16,
    }

    /// Body of [`Operation::Confirm`].
    pub struct Confirm {
        /// The fencing token.
        pub token: U64,
        /// The epoch that is now sealed: the granted one plus 1.
        pub epoch: U64,
        /// The generation.
        pub generation: U32,
        /// The head that was granted.
        pub previous: WireHead,
        /// The head under the new epoch.
        pub new: WireHead,
        /// The token at the last TPM2_Clear: resetCount is the token less this.
        pub reset_base: U64,
    }

    /// Body of [`Operation::Anchor`].
    pub struct AnchorRequest {
        /// The fencing token.
        pub token: U64,
        /// The epoch in use.
        pub epoch: U64,
        /// The generation.
        pub generation: U32,
        /// The head before the commit.
        pub previous: WireHead,
        /// The head after it.
        pub new: WireHead,
        /// As in [`Confirm`].
        pub reset_base: U64,
    }

    /// Reply body of [`Operation::Confirm`], [`Operation::Anchor`], [`Operation::Renew`] and [`Operation::Resume`].
    pub struct Lease {
        /// The right to answer lasts so many milliseconds from when the request was *sent*.
        pub lease_ms: U32,
    }

    /// Body of [`Operation::Renew`].
    pub struct Renew {
        /// The fencing token.
        pub token: U64,
        /// The generation.
        pub generation: U32,
    }

    /// Body of [`Operation::Bump`]: a TPM reset without a launch wants a fresh token.
    pub struct Bump {
        /// The fencing token; asking again with the same one gives the same answer.
        pub token: U64,
        /// The generation.
        pub generation: U32,
    }

    /// Reply body of [`Operation::Bump`].
    pub struct Bumped {
        /// The fencing token from now on.
        pub token: U64,
        /// As in [`Lease`].
        pub lease_ms: U32,
    }

    /// Body of [`Operation::Release`].
    pub struct ReleaseRequest {
        /// The fencing token.
        pub token: U64,
        /// The generation.
        pub generation: U32,
        /// The head that is left.
        pub head: WireHead,
    }

    /// Body of [`Operation::StateMissing`]: an alarm; nothing changes.
    pub struct StateMissing {
        /// The fencing token.
        pub token: U64,
        /// The code of the fault that opening the volume gave.
        pub fault: U32,
    }
}

impl From<&Head> for WireHead {
    fn from(head: &Head) -> Self {
        Self { sequence: U64::new(head.sequence), digest: head.digest }
    }
}

impl From<&WireHead> for Head {
    fn from(head: &WireHead) -> Self {
        Self { sequence: head.sequence.get(), digest: head.digest }
    }
}
