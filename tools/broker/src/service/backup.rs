//! Backups, as an instance hands them over and as their owner fetches them.
//!
//! **What.** [`Incoming`] puts a backup together from its parts; whoever knows a backup's id gets its file, piece by piece.
//! **Trust.** The session has attested, so that a measured firmware made the parts. The file is read by nobody but the holder of the recovery key:
//! its id, which is random, keeps it from being counted and fetched by strangers, and nothing more is needed.
//! **Laws.** A part is the next one or none. What is kept is whole.

use super::Service;
use super::sessions::Session;
use crate::ids::{TenantId, VmId, VmName};
use crate::rules::Row;
use crate::store::{WantedBackup, is_of_newest};
use husk::release::backup::BackupHeader;
use husk::release::frame;
use husk::release::wire::{
    BACKUP_CHUNK_BYTES, BACKUP_PART_BYTES_MAX, BackupAsked, BackupPart, BackupPartKept, BackupPiece,
    BackupState, BackupVerdict, BackupWanted, FrameKind, RefusalReason, TAG_BYTES,
};
use husk::volume::backup::BACKUP_BYTES_MAX;
use zerocopy::byteorder::little_endian::U16;
use zerocopy::{FromZeros, IntoBytes};

/// A backup whose parts have not all come.
pub(super) struct Incoming {
    header: BackupHeader,
    file: Vec<u8>,
    /// The part that comes next.
    next: u32,
}

impl Incoming {
    /// Begins with the first part, which must be the header of the backup that is wanted, of the VM's newest state.
    fn begin(part: &[u8], wanted: &WantedBackup, vm: &VmName, row: &Row) -> Option<Self> {
        let (header, rest) = BackupHeader::read(part)?;
        let fits = rest.is_empty()
            && header.id == wanted.ticket.id
            && header.recovery == wanted.ticket.subject
            && is_of_newest(&header, vm, row)
            && header.state_bytes.get() > 0
            && header.total_bytes() <= BACKUP_BYTES_MAX as u64;
        fits.then(|| Self { header, file: part.to_vec(), next: 1 })
    }

    /// Takes the part of that number, if it is the next and has its length; whether all are there.
    fn take(&mut self, number: u32, part: &[u8]) -> Option<bool> {
        let left = u64::from(self.header.state_bytes.get())
            .checked_sub(u64::from(self.next - 1) * BACKUP_CHUNK_BYTES as u64)?;
        let wanted = left.min(BACKUP_CHUNK_BYTES as u64) + TAG_BYTES as u64;
        if number != self.next || self.next > self.header.parts() || part.len() as u64 != wanted {
            return None;
        }
        self.file.extend_from_slice(part);
        self.next += 1;
        Some(self.next > self.header.parts())
    }
}

impl Service {
    /// Says which backup is wanted.
    pub(super) fn backup(&self, session: &mut Session) -> Result<Vec<u8>, RefusalReason> {
        session.backup = None;
        let vm = session.vm;
        let Some(order) = self.stored(&vm, |serving| serving.store().wanted_backup(&vm))? else {
            return Ok(vec![0; BackupWanted::BYTES]);
        };
        let WantedBackup { ticket, recovery } = order;
        let tenant_root = self.tenant_of(&vm)?.root;
        Ok(BackupWanted { wanted: 1, reserved: [0; 3], ticket, recovery, tenant_root }.as_bytes().to_vec())
    }

    /// Takes a part.
    pub(super) fn backup_part(&self, session: &mut Session, body: &[u8]) -> Result<Vec<u8>, RefusalReason> {
        let part: BackupPart = frame::exactly(body).map_err(|_| RefusalReason::Malformed)?;
        let verdict = self.taken(session, &part)?;
        if verdict != BackupVerdict::Kept {
            session.backup = None;
            tracing::warn!(vm = %session.vm, "its backup is not kept: {verdict:?}");
        }
        Ok(BackupPartKept { verdict: verdict as u8, reserved: [0; 3] }.as_bytes().to_vec())
    }

    fn taken(&self, session: &mut Session, part: &BackupPart) -> Result<BackupVerdict, RefusalReason> {
        let (vm, number) = (session.vm, part.number.get());
        let bytes = part.part.split_at_checked(usize::from(part.bytes.get()));
        let Some(bytes) =
            bytes.filter(|(_, rest)| rest.iter().all(|byte| *byte == 0)).map(|(bytes, _)| bytes)
        else {
            return Ok(BackupVerdict::Malformed);
        };
        if number == 0 {
            let Some(wanted) = self.stored(&vm, |serving| serving.store().wanted_backup(&vm))? else {
                return Ok(BackupVerdict::Unwanted);
            };
            let row = self.stored(&vm, |serving| serving.store().row(&vm))?;
            session.backup = Incoming::begin(bytes, &wanted, &vm, &row);
            let begun = session.backup.is_some();
            return Ok(if begun { BackupVerdict::Kept } else { BackupVerdict::Malformed });
        }
        let Some(incoming) = &mut session.backup else { return Ok(BackupVerdict::Malformed) };
        match incoming.take(number, bytes) {
            None => return Ok(BackupVerdict::Malformed),
            Some(false) => return Ok(BackupVerdict::Kept),
            Some(true) => {}
        }
        let Some(Incoming { header, file, .. }) = session.backup.take() else {
            return Ok(BackupVerdict::Malformed);
        };
        if !self.stored(&vm, |serving| serving.change(|store| store.keep_backup(&vm, &header, &file)))? {
            return Ok(BackupVerdict::Unwanted);
        }
        tracing::info!(%vm, "backup {} is kept", hex::encode(header.id));
        Ok(BackupVerdict::Kept)
    }

    /// A piece of a backup, for whoever knows its id.
    pub(super) fn backup_asked(&self, body: &[u8], reply: &mut [u8]) -> Result<usize, RefusalReason> {
        let asked: BackupAsked = frame::exactly(body).map_err(|_| RefusalReason::Malformed)?;
        let vm = VmName { tenant: TenantId(asked.tenant), vm: VmId(asked.vm) };
        let file = self.stored(&vm, |serving| serving.store().backup(&vm, &asked.id))?;
        let file = file.ok_or(RefusalReason::UnknownVm)?;
        let mut piece = BackupPiece::new_zeroed();
        let state = if file.is_empty() { BackupState::Awaited } else { BackupState::Kept };
        piece.state = state as u8;
        let number = usize::try_from(asked.number.get()).map_err(|_| RefusalReason::Malformed)?;
        let bytes = file.chunks(BACKUP_PART_BYTES_MAX).nth(number).unwrap_or_default();
        piece.bytes = U16::new(u16::try_from(bytes.len()).map_err(|_| RefusalReason::Unavailable)?);
        piece.piece.get_mut(..bytes.len()).ok_or(RefusalReason::Unavailable)?.copy_from_slice(bytes);
        frame::frame_of(FrameKind::BackupPiece, reply, &piece).map_err(|_| RefusalReason::Unavailable)
    }
}
