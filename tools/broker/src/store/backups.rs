//! Backups: which are wanted, and the files that instances made. The broker cannot read them.
//!
//! **Laws.** A backup is kept whole, in the transaction that enters it in the tenant's log and closes its ticket, and only if it is of the
//! state that is the VM's newest in that transaction. A VM has one order at a time.

use super::columns::load;
use super::sql::{Columns, Sql, Value};
use super::{Store, StoreError, audit};
use crate::audit::Event;
use crate::ids::VmName;
use crate::rules::Row;
use husk::release::backup::{BackupHeader, backup_digest};
use husk::release::recovery::RecoveryCertificate;
use husk::release::ticket::Ticket;
use husk::release::wire::WireHead;
use zerocopy::{FromBytes, IntoBytes};

/// How many files of a VM are kept; one more takes the place of the oldest.
pub const BACKUPS_MAX: u32 = 8;

/// An order to make a backup that no instance has carried out yet.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "structures of the wire are never printed")]
pub struct WantedBackup {
    /// The operator's order.
    pub ticket: Ticket,
    /// The recovery key that it names.
    pub recovery: RecoveryCertificate,
}

impl Store {
    /// The backup of a VM that is wanted, if one is.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn wanted_backup(&mut self, vm: &VmName) -> Result<Option<WantedBackup>, StoreError> {
        self.transact(|sql| wanted(sql, vm))
    }

    /// Keeps `file`, which begins with `header`; whether it was still wanted, and is of the VM's newest state.
    ///
    /// # Errors
    /// [`StoreError::UnknownVm`] and others; nothing has changed then.
    pub fn keep_backup(
        &mut self,
        vm: &VmName,
        header: &BackupHeader,
        file: &[u8],
    ) -> Result<bool, StoreError> {
        self.change(|sql| {
            let row = load(sql, vm)?.ok_or(StoreError::UnknownVm(*vm))?;
            let is_wanted = wanted(sql, vm)?.is_some_and(|wanted| wanted.ticket.id == header.id);
            if !is_wanted || !is_of(header, vm, &row) {
                return Ok(false);
            }
            let made = newest_made(sql, vm)?.checked_add(1).ok_or(StoreError::WornOut)?;
            let [tenant, id] = named(vm, &header.id);
            let statement = "UPDATE backups SET made = ?3, file = ?4 WHERE tenant = ?1 AND id = ?2";
            sql.execute(statement, &[tenant, id, made.into(), file.into()])?;
            let [tenant, id] = named(vm, &header.id);
            let statement = "UPDATE tickets SET is_open = ?3 WHERE tenant = ?1 AND id = ?2";
            sql.execute(statement, &[tenant, id, false.into()])?;
            let statement = "DELETE FROM backups WHERE tenant = ?1 AND vm = ?2 AND made > 0 AND made <= ?3";
            let oldest = made - i64::from(BACKUPS_MAX);
            sql.execute(statement, &[vm.tenant.0.into(), vm.vm.0.into(), oldest.into()])?;
            let (id, digest) = (hex::encode(header.id), hex::encode(backup_digest(file)));
            let (sequence, state) = (row.head.sequence, hex::encode(row.head.digest));
            let detail = format!("backup {id}, digest {digest}, of sequence {sequence}, digest {state}");
            audit::enter_now(sql, vm, (Event::BackedUp, detail))?;
            Ok(true)
        })
    }

    /// The backup of a VM of that id: nothing of no such order, no bytes of one that is not carried out yet.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn backup(&mut self, vm: &VmName, id: &[u8; 16]) -> Result<Option<Vec<u8>>, StoreError> {
        self.transact(|sql| {
            let [tenant, id] = named(vm, id);
            let statement = "SELECT file FROM backups WHERE tenant = ?1 AND id = ?2 AND vm = ?3";
            let found = sql.one(statement, &[tenant, id, vm.vm.0.into()])?;
            found.map(|mut columns| columns.bytes()).transpose()
        })
    }
}

/// Notes an order, in the transaction that carries its ticket out. It takes the place of one that no instance has carried out.
pub(super) fn order(
    sql: &mut dyn Sql,
    vm: &VmName,
    (ticket, recovery): (&Ticket, &RecoveryCertificate),
) -> Result<(), StoreError> {
    if let Some(older) = wanted(sql, vm)? {
        let [tenant, id] = named(vm, &older.ticket.id);
        let statement = "UPDATE tickets SET is_open = ?3 WHERE tenant = ?1 AND id = ?2";
        sql.execute(statement, &[tenant, id, false.into()])?;
        sql.execute("DELETE FROM backups WHERE tenant = ?1 AND id = ?2", &named(vm, &older.ticket.id))?;
    }
    let statement = "INSERT INTO backups (tenant, id, vm, ticket, recovery, made, file)
        VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6)";
    let [tenant, id] = named(vm, &ticket.id);
    let (ticket, recovery) = (ticket.as_bytes().into(), recovery.as_bytes().into());
    sql.execute(statement, &[tenant, id, vm.vm.0.into(), ticket, recovery, [].as_slice().into()]).map(drop)
}

/// Whether a header tells of the state that is the VM's newest, by the instance that is its newest.
pub(crate) fn is_of(header: &BackupHeader, vm: &VmName, row: &Row) -> bool {
    let WireHead { sequence, digest } = header.head;
    (header.tenant, header.vm) == (vm.tenant.0, vm.vm.0)
        && (header.generation.get(), header.token.get()) == (row.generation, row.token)
        && header.epoch.get() == row.epoch
        && (sequence.get(), digest) == (row.head.sequence, row.head.digest)
}

fn wanted(sql: &mut dyn Sql, vm: &VmName) -> Result<Option<WantedBackup>, StoreError> {
    let statement = "SELECT ticket, recovery FROM backups WHERE tenant = ?1 AND vm = ?2 AND made = 0";
    sql.one(statement, &[vm.tenant.0.into(), vm.vm.0.into()])?.map(order_of).transpose()
}

fn order_of(mut columns: Columns) -> Result<WantedBackup, StoreError> {
    let ticket = Ticket::read_from_bytes(&columns.bytes()?).map_err(|_| StoreError::Damaged)?;
    let recovery =
        RecoveryCertificate::read_from_bytes(&columns.bytes()?).map_err(|_| StoreError::Damaged)?;
    Ok(WantedBackup { ticket, recovery })
}

/// The number of the VM's newest file; 0 if there is none.
fn newest_made(sql: &mut dyn Sql, vm: &VmName) -> Result<i64, StoreError> {
    let statement = "SELECT COALESCE(MAX(made), 0) FROM backups WHERE tenant = ?1 AND vm = ?2";
    let found = sql.one(statement, &[vm.tenant.0.into(), vm.vm.0.into()])?;
    found.ok_or(StoreError::Damaged)?.integer()
}

fn named(vm: &VmName, id: &[u8; 16]) -> [Value; 2] {
    [vm.tenant.0.into(), (*id).into()]
}
