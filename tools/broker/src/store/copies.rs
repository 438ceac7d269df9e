//! Copies of a database, and what becomes of one that is put back in place of a newer one.
//!
//! **What.** [`Store::copy_to`] writes a copy, of one moment, also while a broker serves. [`Store::quarantine`] makes a database that was put
//! back fit to be served again.
//! **Laws.** What happened since the copy was made is lost, and nothing that a host could show says how much that is. So every VM is halted
//! until its tenant lets it go on. Nothing that was signed, granted or leased since is believed again: tokens jump further
//! than launches can have raised them, so that no two instances ever have one token, and every ticket from before is overtaken; the clock jumps
//! further than it can have gone, so that every signed request from before is of another time; and every lease is taken for the longest
//! ever, begun now.
//! **Not here.** Noticing a database that somebody set back in secret (`counter`, `serving`).

use super::clock::Shared;
use super::columns::{load, swap};
use super::counter::Counter;
use super::sql::Sql;
use super::{Store, StoreError, all_vms, audit, belongs_to};
use crate::ids::VmName;
use crate::rules::{Life, Order, Row, operate};
use crate::vault::RootKeys;
use std::path::Path;

/// More launches and resets than a VM can have had since a copy was made: at one a second they take twelve days without a pause. In resetCount's
/// 32 bits it is room for 4096 restores.
const TOKENS_LOST: u64 = 1 << 20;
/// More milliseconds than a broker served since a copy was made: 34 years.
const CLOCK_LOST_MS: u64 = 1 << 40;

/// What putting a database back did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// VMs that may not run until their tenants say so.
    pub halted: usize,
    /// VMs that the copy knows as retired.
    pub retired: usize,
    /// How many commits the copy knew of.
    pub copied_at: u64,
    /// How many the database knows of now.
    pub commits: u64,
}

impl Store {
    /// Writes a copy of the whole database to a new private file; how many commits it knows of.
    ///
    /// # Errors
    /// [`StoreError::CopyElsewhere`] for PostgreSQL, which has tools of its own; [`StoreError::Exists`] and others. A file that was begun is removed.
    pub fn copy_to(&mut self, path: &Path) -> Result<u64, StoreError> {
        self.database.copy_to(path)
    }

    /// Halts every VM of a database that was put back, and sets everything that may have happened since apart. A `counter` is raised
    /// with it, so that it takes the database for what it is.
    ///
    /// # Errors
    /// [`StoreError::Served`], [`StoreError::OtherKeys`], [`StoreError::Damaged`] and others; nothing has changed then.
    pub fn quarantine(
        &mut self,
        keys: &RootKeys,
        counter: Option<&mut Counter>,
    ) -> Result<Quarantined, StoreError> {
        self.database.serve()?;
        if counter.as_ref().is_some_and(|counter| counter.broker() != keys.broker()) {
            return Err(StoreError::Counter("it is another broker's".to_owned()));
        }
        let counted = counter.as_ref().map_or(0, |counter| counter.commits());
        let done = self.transact(|sql| {
            belongs_to(sql, keys)?;
            let mut shared = Shared::read(sql)?;
            shared.jump(CLOCK_LOST_MS);
            let copied_at = shared.commits;
            shared.commits = copied_at.max(counted) + 1;
            let mut done = Quarantined { halted: 0, retired: 0, copied_at, commits: shared.commits };
            let lease_until_ms = shared.now_ms().saturating_add(lease_ms_max(sql)?);
            for vm in all_vms(sql)? {
                let row = load(sql, &vm)?.ok_or(StoreError::Damaged)?;
                match set_apart(&row, lease_until_ms)? {
                    Some(new) => {
                        swap(sql, &vm, &row, &new)?;
                        tell(sql, &vm, (&new, shared.now_ms(), copied_at))?;
                        done.halted += 1;
                    }
                    None => done.retired += 1,
                }
            }
            shared.write(sql)?;
            Ok(done)
        })?;
        self.database.scrub();
        if let Some(counter) = counter {
            counter.raise(done.commits)?;
        }
        Ok(done)
    }
}

/// The row as it must stand after a restore; none for a VM that is over.
fn set_apart(row: &Row, lease_until_ms: u64) -> Result<Option<Row>, StoreError> {
    let halted = match operate(row, Order::Halt) {
        Ok(halted) => halted,
        Err(Life::Retired) => return Ok(None),
        // It was halted before.
        Err(_) => row.clone(),
    };
    let token = halted.token.checked_add(TOKENS_LOST).ok_or(StoreError::WornOut)?;
    Ok(Some(Row { token, released: false, lease_until_ms, overlap_until_ms: 0, ..halted }))
}

fn tell(
    sql: &mut dyn Sql,
    vm: &VmName,
    (new, now_ms, copied_at): (&Row, u64, u64),
) -> Result<(), StoreError> {
    let (event, detail) = audit::ordered(Order::Halt, new);
    let why = format!("{detail}, since the database was restored from a copy, made at commit {copied_at}");
    audit::enter(sql, vm, now_ms, (event, why))
}

fn lease_ms_max(sql: &mut dyn Sql) -> Result<u64, StoreError> {
    sql.one("SELECT lease_ms_max FROM broker", &[])?.ok_or(StoreError::Damaged)?.number()
}
