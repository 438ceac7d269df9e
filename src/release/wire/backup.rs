//! Structures about backups.

use super::super::recovery::RecoveryCertificate;
use super::super::ticket::Ticket;
use super::{POINT_BYTES, TAG_BYTES};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// How much of a state one part of a backup holds, in bytes.
pub const BACKUP_CHUNK_BYTES: usize = 4096;
/// The longest part of a backup: a chunk and its tag. The header, which is the first part, is shorter.
pub const BACKUP_PART_BYTES_MAX: usize = BACKUP_CHUNK_BYTES + TAG_BYTES;

numbers! {
    /// What became of a part of a backup.
    pub enum BackupVerdict: u8 {
        /// The broker has it; the last one: the backup is kept.
        Kept = 0,
        /// Nobody wants this backup (any more).
        Unwanted = 1,
        /// It is not of this VM's newest state, or not the part that comes next.
        Malformed = 2,
    }

    /// What the broker has of a backup.
    pub enum BackupState: u8 {
        /// Nothing: the next launch makes it.
        Awaited = 1,
        /// All of it.
        Kept = 2,
    }
}

wire! {
    /// Body of [`Operation::Backup`](super::Operation::Backup).
    pub struct BackupRequest {
        /// The fencing token.
        pub token: U64,
        /// The generation.
        pub generation: U32,
    }

    /// Reply body of [`Operation::Backup`](super::Operation::Backup).
    pub struct BackupWanted {
        /// 1 if a backup is wanted; 0 and zeros if not.
        pub wanted: u8,
        /// Zero.
        pub reserved: [u8; 3],
        /// The operator's order.
        pub ticket: Ticket,
        /// The recovery key that it names.
        pub recovery: RecoveryCertificate,
        /// The tenant root key; the VM compares its digest with the launch configuration.
        pub tenant_root: [u8; POINT_BYTES],
    }

    /// Body of [`Operation::BackupPart`](super::Operation::BackupPart).
    pub struct BackupPart {
        /// The fencing token.
        pub token: U64,
        /// The generation.
        pub generation: U32,
        /// 0: the header; 1 and up: the state's chunks.
        pub number: U32,
        /// Length of the part in bytes.
        pub bytes: U16,
        /// The part, in front of zeros.
        pub part: [u8; BACKUP_PART_BYTES_MAX],
    }

    /// Reply body of [`Operation::BackupPart`](super::Operation::BackupPart).
    pub struct BackupPartKept {
        /// [`BackupVerdict`].
        pub verdict: u8,
        /// Zero.
        pub reserved: [u8; 3],
    }

    /// Body of a [`FrameKind::BackupAsked`](super::FrameKind::BackupAsked).
    pub struct BackupAsked {
        /// The tenant.
        pub tenant: [u8; 16],
        /// The VM.
        pub vm: [u8; 16],
        /// The id of the ticket that ordered it.
        pub id: [u8; 16],
        /// Which piece of [`BACKUP_PART_BYTES_MAX`] bytes of the file; counted from 0.
        pub number: U32,
    }

    /// Body of a [`FrameKind::BackupPiece`](super::FrameKind::BackupPiece).
    pub struct BackupPiece {
        /// [`BackupState`].
        pub state: u8,
        /// Zero.
        pub reserved: u8,
        /// Length of the piece in bytes; less than the most: it is the last.
        pub bytes: U16,
        /// The piece, in front of zeros.
        pub piece: [u8; BACKUP_PART_BYTES_MAX],
    }
}
