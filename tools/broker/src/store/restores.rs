//! Restores: the backups that were brought for them, piece by piece.
//!
//! **Laws.** Pieces come in their order. What is ordered is a whole file, in the transaction that carries the ticket out; it is forgotten, with the
//! key that came with it, in the one that uses the order up or takes it back.

use super::sql::{Columns, Sql, Value};
use super::{Store, StoreError};
use crate::ids::VmName;
use husk::release::restore::OpenedBackup;
use husk::release::ticket::Ticket;
use zerocopy::{FromBytes, IntoBytes};

/// What is to be restored, or is being brought.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "structures of the wire are never printed")]
pub struct Restore {
    /// The operator's order.
    pub ticket: Ticket,
    /// The backup's key, sealed to this broker.
    pub opened: OpenedBackup,
    /// The backup, or what has come of it.
    pub file: Vec<u8>,
}

/// A piece of a backup that an operator brings.
#[derive(Clone, Copy, Debug)]
pub struct Brought<'p> {
    /// How much of the file came before it, in bytes.
    pub from: usize,
    /// The piece.
    pub piece: &'p [u8],
}

impl Store {
    /// What is to be restored to a VM at its next launch.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn restore(&mut self, vm: &VmName) -> Result<Option<Restore>, StoreError> {
        self.transact(|sql| ordered(sql, vm))
    }

    /// Takes a piece of the backup that `ticket` names; what has come of it by now, or nothing if it is not the piece that comes next.
    ///
    /// # Errors
    /// [`StoreError`]; nothing has changed then.
    pub fn bring(
        &mut self,
        vm: &VmName,
        (ticket, opened): (&Ticket, &OpenedBackup),
        Brought { from, piece }: Brought<'_>,
    ) -> Result<Option<Restore>, StoreError> {
        self.change(|sql| {
            let known = found(sql, vm, false)?.filter(|known| known.ticket.as_bytes() == ticket.as_bytes());
            let mut restore = match (known, from) {
                (_, 0) => Restore { ticket: *ticket, opened: *opened, file: Vec::new() },
                (Some(known), from) if known.file.len() == from => known,
                _ => return Ok(None),
            };
            restore.file.extend_from_slice(piece);
            forget_brought(sql, vm)?;
            let [tenant, name] = named(vm);
            let statement = "INSERT INTO restores (tenant, vm, ordered, ticket, opened, file)
                VALUES (?1, ?2, 0, ?3, ?4, ?5)";
            let (ticket, opened) = (restore.ticket.as_bytes().into(), restore.opened.as_bytes().into());
            sql.execute(statement, &[tenant, name, ticket, opened, restore.file.as_slice().into()])?;
            Ok(Some(restore))
        })
    }

    /// Forgets what was brought of a backup for which there is no order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn forget_brought(&mut self, vm: &VmName) -> Result<(), StoreError> {
        self.change(|sql| forget_brought(sql, vm))
    }
}

/// What was brought with `ticket` is ordered from now on, in place of what was.
pub(super) fn order(sql: &mut dyn Sql, vm: &VmName, ticket: &Ticket) -> Result<(), StoreError> {
    let brought = found(sql, vm, false)?.filter(|brought| brought.ticket.as_bytes() == ticket.as_bytes());
    if brought.is_none() {
        return Err(StoreError::Raced);
    }
    if let Some(older) = ordered(sql, vm)? {
        let statement = "UPDATE tickets SET is_open = ?3 WHERE tenant = ?1 AND id = ?2";
        sql.execute(statement, &[vm.tenant.0.into(), older.ticket.id.into(), false.into()])?;
        sql.execute("DELETE FROM restores WHERE tenant = ?1 AND vm = ?2 AND ordered = 1", &named(vm))?;
    }
    let statement = "UPDATE restores SET ordered = 1 WHERE tenant = ?1 AND vm = ?2 AND ordered = 0";
    sql.execute(statement, &named(vm)).map(drop)
}

/// What is to be restored.
pub(super) fn ordered(sql: &mut dyn Sql, vm: &VmName) -> Result<Option<Restore>, StoreError> {
    found(sql, vm, true)
}

/// Forgets all of a VM.
pub(super) fn forget(sql: &mut dyn Sql, vm: &VmName) -> Result<(), StoreError> {
    sql.execute("DELETE FROM restores WHERE tenant = ?1 AND vm = ?2", &named(vm)).map(drop)
}

fn forget_brought(sql: &mut dyn Sql, vm: &VmName) -> Result<(), StoreError> {
    sql.execute("DELETE FROM restores WHERE tenant = ?1 AND vm = ?2 AND ordered = 0", &named(vm)).map(drop)
}

fn found(sql: &mut dyn Sql, vm: &VmName, is_ordered: bool) -> Result<Option<Restore>, StoreError> {
    let statement =
        "SELECT ticket, opened, file FROM restores WHERE tenant = ?1 AND vm = ?2 AND ordered = ?3";
    let [tenant, name] = named(vm);
    sql.one(statement, &[tenant, name, is_ordered.into()])?.map(restore_of).transpose()
}

fn restore_of(mut columns: Columns) -> Result<Restore, StoreError> {
    let ticket = Ticket::read_from_bytes(&columns.bytes()?).map_err(|_| StoreError::Damaged)?;
    let opened = OpenedBackup::read_from_bytes(&columns.bytes()?).map_err(|_| StoreError::Damaged)?;
    Ok(Restore { ticket, opened, file: columns.bytes()? })
}

fn named(vm: &VmName) -> [Value; 2] {
    [vm.tenant.0.into(), vm.vm.0.into()]
}
