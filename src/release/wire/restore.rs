//! Structures about restores.

use super::super::backup::BackupHeader;
use super::super::restore::OpenedBackup;
use super::super::ticket::Ticket;
use super::{BACKUP_PART_BYTES_MAX, POINT_BYTES};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

wire! {
    /// Body of a [`FrameKind::RestoreKeyAsked`](super::FrameKind::RestoreKeyAsked).
    pub struct RestoreKeyAsked {
        /// The tenant.
        pub tenant: [u8; 16],
        /// The VM that is to be restored.
        pub vm: [u8; 16],
    }

    /// Body of a [`FrameKind::BackupBrought`](super::FrameKind::BackupBrought).
    pub struct BackupBrought {
        /// The operator's order, whose subject is the backup.
        pub ticket: Ticket,
        /// The backup's key, sealed to the broker for this restore.
        pub opened: OpenedBackup,
        /// Which piece of [`BACKUP_PART_BYTES_MAX`] bytes of the file; counted from 0, brought in their order.
        pub number: U32,
        /// Length of the piece in bytes; less than the most: it is the last.
        pub bytes: U16,
        /// The piece, in front of zeros.
        pub piece: [u8; BACKUP_PART_BYTES_MAX],
    }

    /// Body of [`Operation::Restore`](super::Operation::Restore).
    pub struct RestoreRequest {
        /// The fencing token.
        pub token: U64,
        /// The generation that was granted.
        pub generation: U32,
    }

    /// Reply body of [`Operation::Restore`](super::Operation::Restore).
    pub struct RestoreWanted {
        /// How the backup begins.
        pub header: BackupHeader,
        /// The operator's order.
        pub ticket: Ticket,
        /// The tenant root key; the VM compares its digest with the launch configuration.
        pub tenant_root: [u8; POINT_BYTES],
    }

    /// Body of [`Operation::RestorePart`](super::Operation::RestorePart).
    pub struct RestorePartRequest {
        /// The fencing token.
        pub token: U64,
        /// The generation that was granted.
        pub generation: U32,
        /// Which chunk of the state; counted from 1.
        pub number: U32,
    }

    /// Reply body of [`Operation::RestorePart`](super::Operation::RestorePart).
    pub struct RestorePart {
        /// Length of the part in bytes; 0: there is none of that number.
        pub bytes: U16,
        /// The part, in front of zeros.
        pub part: [u8; BACKUP_PART_BYTES_MAX],
    }
}
