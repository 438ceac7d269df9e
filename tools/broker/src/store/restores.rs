//! Restores: the backups that were brought for them, piece by piece.
//!
//! **Laws.** Pieces come in their order, and each is a row of its own. What is ordered is a whole file, in the transaction that carries the ticket out;
//! it is forgotten, with the key that came with it, in the one that uses the order up or takes it back.

use super::sql::{Columns, Sql, Value, to_sql};
use super::{Store, StoreError};
use crate::ids::VmName;
use husk::release::backup::backup_digest;
use husk::release::restore::OpenedBackup;
use husk::release::ticket::Ticket;
use std::ops::Range;
use zerocopy::{FromBytes, IntoBytes};

/// What is to be restored, or is being brought, without its file.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "structures of the wire are never printed")]
pub struct Restore {
    /// The operator's order.
    pub ticket: Ticket,
    /// The backup's key, sealed to this broker.
    pub opened: OpenedBackup,
}

impl Restore {
    fn is(&self, ticket: &Ticket, opened: &OpenedBackup) -> bool {
        self.ticket.as_bytes() == ticket.as_bytes() && self.opened.as_bytes() == opened.as_bytes()
    }
}

/// A piece of a backup that an operator brings.
#[derive(Clone, Copy, Debug)]
pub struct Brought<'p> {
    /// How much of the file came before it, in bytes.
    pub from: usize,
    /// The piece.
    pub piece: &'p [u8],
    /// Nothing comes behind it.
    pub is_last: bool,
}

/// What came of a piece.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "structures of the wire are never printed")]
pub enum Come {
    /// It is not the one that comes next: nothing has changed.
    Refused,
    /// The rest is awaited.
    Taken,
    /// The whole file, and what came with its first piece.
    Whole(Box<Restore>, Vec<u8>),
}

impl Store {
    /// What is to be restored to a VM at its next launch.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn restore(&mut self, vm: &VmName) -> Result<Option<Restore>, StoreError> {
        self.transact(|sql| ordered(sql, vm))
    }

    /// These bytes of the file that is to be restored, as many of them as there are.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn restore_bytes(&mut self, vm: &VmName, range: Range<usize>) -> Result<Vec<u8>, StoreError> {
        self.transact(|sql| bytes(sql, (vm, true), range))
    }

    /// Takes a piece of the backup that `ticket` names.
    ///
    /// # Errors
    /// [`StoreError`]; nothing has changed then.
    pub fn bring(
        &mut self,
        vm: &VmName,
        (ticket, opened): (&Ticket, &OpenedBackup),
        Brought { from, piece, is_last }: Brought<'_>,
    ) -> Result<Come, StoreError> {
        self.change(|sql| {
            let restore = if from == 0 {
                begin(sql, vm, Restore { ticket: *ticket, opened: *opened })?
            } else {
                match found(sql, vm, false)? {
                    Some(known) if known.is(ticket, opened) && come(sql, vm)? == from => known,
                    _ => return Ok(Come::Refused),
                }
            };
            if !piece.is_empty() {
                let [tenant, name] = named(vm);
                let statement = "INSERT INTO restore_pieces (tenant, vm, ordered, place, piece)
                    VALUES (?1, ?2, 0, ?3, ?4)";
                sql.execute(statement, &[tenant, name, place(from)?, piece.into()])?;
            }
            if !is_last {
                return Ok(Come::Taken);
            }
            Ok(Come::Whole(Box::new(restore), bytes(sql, (vm, false), 0..usize::MAX)?))
        })
    }

    /// Forgets what was brought of a backup for which there is no order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn forget_brought(&mut self, vm: &VmName) -> Result<(), StoreError> {
        self.change(|sql| forget_these(sql, vm, false))
    }
}

/// What was brought is ordered from now on, in place of what was. It must still be what it was when it was judged.
pub(super) fn order(sql: &mut dyn Sql, vm: &VmName, restore: &Restore) -> Result<(), StoreError> {
    let is_this = found(sql, vm, false)?.is_some_and(|brought| brought.is(&restore.ticket, &restore.opened));
    if !is_this || backup_digest(&bytes(sql, (vm, false), 0..usize::MAX)?) != restore.ticket.subject {
        return Err(StoreError::Raced);
    }
    if let Some(older) = ordered(sql, vm)? {
        let statement = "UPDATE tickets SET is_open = ?3 WHERE tenant = ?1 AND id = ?2";
        sql.execute(statement, &[vm.tenant.0.into(), older.ticket.id.into(), false.into()])?;
        forget_these(sql, vm, true)?;
    }
    for statement in [
        "UPDATE restores SET ordered = 1 WHERE tenant = ?1 AND vm = ?2 AND ordered = 0",
        "UPDATE restore_pieces SET ordered = 1 WHERE tenant = ?1 AND vm = ?2 AND ordered = 0",
    ] {
        sql.execute(statement, &named(vm))?;
    }
    Ok(())
}

/// What is to be restored.
pub(super) fn ordered(sql: &mut dyn Sql, vm: &VmName) -> Result<Option<Restore>, StoreError> {
    found(sql, vm, true)
}

/// Forgets all of a VM.
pub(super) fn forget(sql: &mut dyn Sql, vm: &VmName) -> Result<(), StoreError> {
    [true, false].into_iter().try_for_each(|is_ordered| forget_these(sql, vm, is_ordered))
}

/// Forgets what came before and was not ordered: another file begins.
fn begin(sql: &mut dyn Sql, vm: &VmName, restore: Restore) -> Result<Restore, StoreError> {
    forget_these(sql, vm, false)?;
    let [tenant, name] = named(vm);
    let statement = "INSERT INTO restores (tenant, vm, ordered, ticket, opened) VALUES (?1, ?2, 0, ?3, ?4)";
    let (ticket, opened) = (restore.ticket.as_bytes().into(), restore.opened.as_bytes().into());
    sql.execute(statement, &[tenant, name, ticket, opened])?;
    Ok(restore)
}

fn forget_these(sql: &mut dyn Sql, vm: &VmName, is_ordered: bool) -> Result<(), StoreError> {
    for statement in [
        "DELETE FROM restores WHERE tenant = ?1 AND vm = ?2 AND ordered = ?3",
        "DELETE FROM restore_pieces WHERE tenant = ?1 AND vm = ?2 AND ordered = ?3",
    ] {
        let [tenant, name] = named(vm);
        sql.execute(statement, &[tenant, name, is_ordered.into()])?;
    }
    Ok(())
}

fn found(sql: &mut dyn Sql, vm: &VmName, is_ordered: bool) -> Result<Option<Restore>, StoreError> {
    let statement = "SELECT ticket, opened FROM restores WHERE tenant = ?1 AND vm = ?2 AND ordered = ?3";
    let [tenant, name] = named(vm);
    sql.one(statement, &[tenant, name, is_ordered.into()])?.map(restore_of).transpose()
}

/// How much has come of the file that is being brought, in bytes.
fn come(sql: &mut dyn Sql, vm: &VmName) -> Result<usize, StoreError> {
    let statement = "SELECT place + length(piece) FROM restore_pieces
        WHERE tenant = ?1 AND vm = ?2 AND ordered = 0 ORDER BY place DESC LIMIT 1";
    let come = sql.one(statement, &named(vm))?.map_or(Ok(0), |mut columns| columns.number())?;
    usize::try_from(come).map_err(|_| StoreError::Damaged)
}

/// These bytes of a file, as many of them as there are.
fn bytes(
    sql: &mut dyn Sql,
    (vm, is_ordered): (&VmName, bool),
    range: Range<usize>,
) -> Result<Vec<u8>, StoreError> {
    let statement = "SELECT place, piece FROM restore_pieces
        WHERE tenant = ?1 AND vm = ?2 AND ordered = ?3 AND place < ?4 AND place + length(piece) > ?5 ORDER BY place";
    let [tenant, name] = named(vm);
    let (from, to) = (place(range.start)?, place(range.end)?);
    let mut found = Vec::new();
    for mut columns in sql.query(statement, &[tenant, name, is_ordered.into(), to, from])? {
        let at = usize::try_from(columns.number()?).map_err(|_| StoreError::Damaged)?;
        let piece = columns.bytes()?;
        let behind = |place: usize| place.saturating_sub(at).min(piece.len());
        found.extend_from_slice(piece.get(behind(range.start)..behind(range.end)).unwrap_or_default());
    }
    Ok(found)
}

/// A place in a file; there is none beyond what a database can count.
fn place(at: usize) -> Result<Value, StoreError> {
    to_sql(u64::try_from(at).unwrap_or(u64::MAX).min(i64::MAX.unsigned_abs())).map(Into::into)
}

fn restore_of(mut columns: Columns) -> Result<Restore, StoreError> {
    let ticket = Ticket::read_from_bytes(&columns.bytes()?).map_err(|_| StoreError::Damaged)?;
    let opened = OpenedBackup::read_from_bytes(&columns.bytes()?).map_err(|_| StoreError::Damaged)?;
    Ok(Restore { ticket, opened })
}

fn named(vm: &VmName) -> [Value; 2] {
    [vm.tenant.0.into(), vm.vm.0.into()]
}
