//! Restores, as an operator orders them and as an instance carries them out.
//!
//! **What.** The broker shows a key for one restore; takes the order with its backup, piece by piece; hands the backup's parts to the instance that was
//! granted it.
//! **Trust.** A piece comes with the ticket, which the tenant's operator signed. Whose key it was sealed with is known once the backup opens.
//! **Laws.** Nothing is ordered before the backup is here whole, is the one that the ticket names, and opens to its last byte.

use super::Service;
use super::sessions::Session;
use crate::ids::{TenantId, VmId, VmName};
use crate::rules::{Backed, Order, Original};
use crate::store::{Brought, Come, Restore};
use husk::keys::BackupSecret;
use husk::release::backup::{BackupHeader, backup_digest};
use husk::release::frame;
use husk::release::restore::{OpenedBackup, RestoreKey};
use husk::release::statement::{Outcome, Statement};
use husk::release::ticket::{Ticket, TicketOrder};
use husk::release::wire::{
    BACKUP_PART_BYTES_MAX, BackupBrought, FrameKind, RefusalReason, RestoreKeyAsked, RestorePart,
    RestorePartRequest, RestoreWanted, SIGNATURE_BYTES,
};
use husk::volume::backup::{BACKUP_BYTES_MAX, open_part};
use std::ops::Range;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};
use zeroize::Zeroizing;

impl Service {
    /// Shows the key of the restore that can be ordered now, to anybody.
    pub(super) fn restore_key_asked(&self, body: &[u8], reply: &mut [u8]) -> Result<usize, RefusalReason> {
        let asked: RestoreKeyAsked = frame::exactly(body).map_err(|_| RefusalReason::Malformed)?;
        let vm = VmName { tenant: TenantId(asked.tenant), vm: VmId(asked.vm) };
        let standing = self.stored(&vm, |serving| serving.standing(&vm))?;
        let (token, generation) = (standing.row.token, standing.row.generation);
        let key = self.keys.restore_key(&vm, (token, generation)).map_err(|_| RefusalReason::Unavailable)?;
        let mut shown = RestoreKey {
            tenant: asked.tenant,
            vm: asked.vm,
            token: U64::new(token),
            generation: U32::new(generation),
            key: *key.point(),
            tenant_root: standing.tenant.root,
            certificate: standing.tenant.certificate,
            signature: [0; SIGNATURE_BYTES],
        };
        let signed = self.keys.signing().sign(&shown.digest());
        shown.signature = signed.map_err(|_| RefusalReason::Unavailable)?;
        frame::frame_of(FrameKind::RestoreKeyShown, reply, &shown).map_err(|_| RefusalReason::Unavailable)
    }

    /// Takes a piece of a backup; with the last one, carries the ticket out.
    pub(super) fn backup_brought(&self, body: &[u8], reply: &mut [u8]) -> Result<usize, RefusalReason> {
        let brought: BackupBrought = frame::exactly(body).map_err(|_| RefusalReason::Malformed)?;
        let ticket = &brought.ticket;
        let vm = VmName { tenant: TenantId(ticket.certificate.tenant), vm: VmId(ticket.vm) };
        let tenant = self.tenant_of(&vm)?;
        let outcome = match ticket.order(&vm.tenant.0, &tenant.root) {
            Some(order @ (TicketOrder::Restore | TicketOrder::Clone)) => {
                self.taken_in(&vm, &brought, order == TicketOrder::Clone)?
            }
            _ => Outcome::Untrusted,
        };
        if outcome != Outcome::Brought {
            let (id, order) = (hex::encode(ticket.id), ticket.order);
            tracing::info!(%vm, "ticket {id} (order {order}): {outcome:?}");
        }
        self.state(&vm, (&Statement::nonce_of_ticket(&ticket.id), outcome), reply)
    }

    fn taken_in(
        &self,
        vm: &VmName,
        brought: &BackupBrought,
        is_clone: bool,
    ) -> Result<Outcome, RefusalReason> {
        let BackupBrought { ticket, opened, .. } = brought;
        let bytes = usize::from(brought.bytes.get());
        let Some((piece, rest)) = brought.piece.split_at_checked(bytes) else {
            return Err(RefusalReason::Malformed);
        };
        let from = usize::try_from(brought.number.get()).ok();
        let from = from.and_then(|number| number.checked_mul(BACKUP_PART_BYTES_MAX));
        let from = from.filter(|from| *from <= BACKUP_BYTES_MAX).ok_or(RefusalReason::Malformed)?;
        if rest.iter().any(|byte| *byte != 0) {
            return Err(RefusalReason::Malformed);
        }
        let piece = Brought { from, piece, is_last: bytes < BACKUP_PART_BYTES_MAX };
        let (restore, file) =
            match self.stored(vm, |serving| serving.store().bring(vm, (ticket, opened), piece))? {
                Come::Refused => return Err(RefusalReason::Malformed),
                Come::Taken => return Ok(Outcome::Brought),
                Come::Whole(restore, file) => (restore, file),
            };
        let outcome = match self.ordered(vm, (&restore, &file), is_clone)? {
            Some(order) => self.stored(vm, |serving| serving.order_from_backup(vm, &restore, order))?,
            None => Outcome::Untrusted,
        };
        if outcome != Outcome::Open {
            self.stored(vm, |serving| serving.store().forget_brought(vm))?;
        }
        Ok(outcome)
    }

    /// What is ordered, if the backup is the one that its ticket names, of this VM or for a clone of another of the tenant's, and opens with the key
    /// that came with it.
    fn ordered(
        &self,
        vm: &VmName,
        (restore, file): (&Restore, &[u8]),
        is_clone: bool,
    ) -> Result<Option<Order>, RefusalReason> {
        let Restore { ticket, opened } = restore;
        let Some((header, parts)) = BackupHeader::read(file) else { return Ok(None) };
        let fits = header.tenant == vm.tenant.0
            && (header.vm == vm.vm.0) != is_clone
            && header.total_bytes() == file.len() as u64
            && backup_digest(file) == ticket.subject
            && is_for(ticket, opened);
        if !fits {
            return Ok(None);
        }
        let at = (opened.token.get(), opened.generation.get());
        let key = self.keys.restore_key(vm, at).map_err(|_| RefusalReason::Unavailable)?;
        let opens = BackupSecret::of_opened(opened, &key).is_some_and(|secret| {
            (1..).zip(parts.chunks(BACKUP_PART_BYTES_MAX)).all(|(number, part)| {
                open_part(&secret, &header, number, &mut Zeroizing::new(part.to_vec())).is_ok()
            })
        });
        if !opens {
            return Ok(None);
        }
        let backed = Backed { generation: header.generation.get(), token: header.token.get() };
        Ok(Some(if is_clone {
            let original = VmId(header.vm);
            Order::Clone(Original { vm: original, backed, guest_svn: self.guest_svn(vm, original)? })
        } else {
            Order::Restore(backed)
        }))
    }

    /// What the VM that is cloned was granted with, if this broker knows it.
    fn guest_svn(&self, vm: &VmName, original: VmId) -> Result<u32, RefusalReason> {
        let original = VmName { tenant: vm.tenant, vm: original };
        match self.stored(&original, |serving| serving.store().row(&original)) {
            Ok(row) => Ok(row.guest_svn),
            Err(RefusalReason::UnknownVm) => Ok(0),
            Err(reason) => Err(reason),
        }
    }

    /// Says what is to be restored.
    pub(super) fn restore(&self, session: &Session) -> Result<Vec<u8>, RefusalReason> {
        let vm = session.vm;
        let (restore, file) = self.stored(&vm, |serving| {
            let store = serving.store();
            Ok((store.restore(&vm)?, store.restore_bytes(&vm, 0..BackupHeader::BYTES)?))
        })?;
        let Restore { ticket, .. } = restore.ok_or(RefusalReason::Unavailable)?;
        let (header, _) = BackupHeader::read(&file).ok_or(RefusalReason::Unavailable)?;
        let tenant_root = self.tenant_of(&vm)?.root;
        Ok(RestoreWanted { header, ticket, tenant_root }.as_bytes().to_vec())
    }

    /// Hands a part over; one of no bytes where the file has none of that number.
    pub(super) fn restore_part(&self, session: &Session, body: &[u8]) -> Result<Vec<u8>, RefusalReason> {
        let asked: RestorePartRequest = frame::exactly(body).map_err(|_| RefusalReason::Malformed)?;
        let index = usize::try_from(asked.number.get()).ok().and_then(|number| number.checked_sub(1));
        let part = match index.and_then(place_of_part) {
            Some(place) => {
                self.stored(&session.vm, |serving| serving.store().restore_bytes(&session.vm, place))?
            }
            None => Vec::new(),
        };
        let mut answer = RestorePart::new_zeroed();
        answer.bytes = U16::new(u16::try_from(part.len()).map_err(|_| RefusalReason::Unavailable)?);
        answer.part.get_mut(..part.len()).ok_or(RefusalReason::Unavailable)?.copy_from_slice(&part);
        Ok(answer.as_bytes().to_vec())
    }
}

/// Where a part lies in a backup's file.
fn place_of_part(index: usize) -> Option<Range<usize>> {
    let from = index.checked_mul(BACKUP_PART_BYTES_MAX)?.checked_add(BackupHeader::BYTES)?;
    Some(from..from.checked_add(BACKUP_PART_BYTES_MAX)?)
}

/// Whether the key was sealed for this very order: its VM, as it stood for the operator, and its backup.
fn is_for(ticket: &Ticket, opened: &OpenedBackup) -> bool {
    (opened.tenant, opened.vm) == (ticket.certificate.tenant, ticket.vm)
        && (opened.token.get(), opened.generation.get()) == (ticket.token.get(), ticket.generation.get())
        && opened.digest == ticket.subject
}
