//! What the broker remembers, in SQLite.
//!
//! **What.** [`Store`] holds tenants, VMs, wrapped epoch secrets and launches, and serves the operator. [`Serving`] is
//! the store of the one broker that serves: only it decides requests.
//! **Trust.** The database file is as good as its disk; secrets in it are wrapped (`vault`). A database that was set
//! back to an older copy is *not* noticed here: `FRESHNESS` §3.7 says so.
//! **Laws.** One broker serves a database. An answer exists only after COMMIT returned with `synchronous=FULL`. The clock is the database's own and
//! never decreases; no calendar is asked. A secret exists exactly as long as its name is in the row.
//! **Not here.** What the transitions are (`rules`). Another database: everything SQL is below this folder.

mod columns;
mod schema;
mod serving;

pub use serving::{Decided, GrantSecrets, Serving};

use crate::ids::{TenantId, VmId, VmName};
use crate::policy::Policy;
use crate::rules::{InstanceId, Life, Order, Row, SecretName, operate};
use crate::vault::{RootKeys, VaultError};
use columns::{load, swap, to_sql};
use husk::release::wire::{BrokerCertificate, POINT_BYTES};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use zerocopy::{FromBytes, IntoBytes};

/// Why the database gave nothing. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite failed.
    #[error("the database failed: {0}")]
    Database(#[from] rusqlite::Error),
    /// The file is another program's.
    #[error("this is not a husk broker database; point to the file that `husk broker init` made")]
    NotOurs,
    /// The file is there already.
    #[error("the database exists already and is never overwritten; choose another name, or move it away")]
    Exists,
    /// The file could not be made.
    #[error("the database could not be made: {0}")]
    Uncreatable(String),
    /// The file is not there.
    #[error("the database does not exist; make one with `husk broker init`")]
    Missing,
    /// The file was written by a newer broker.
    #[error("the database was written by a newer husk; use that one")]
    Newer,
    /// The root key file belongs to another database.
    #[error("this root key file does not belong to this database; use the one that was made with it")]
    OtherKeys,
    /// A row breaks the laws of `rules`.
    #[error(
        "a row of the database is damaged; restore the database, and halt its VMs first if the copy is old"
    )]
    Damaged,
    /// Another broker serves it.
    #[error("another broker serves this database; stop it first")]
    Served,
    /// The lock file could not be made or locked.
    #[error("the lock file beside the database failed: {0}")]
    Lock(String),
    /// Another process changed the row in between.
    #[error("a row changed during its own transaction; only one broker may serve a database")]
    Raced,
    /// A counter reached its end.
    #[error("a counter reached its end")]
    WornOut,
    /// The vault refused.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// No such tenant.
    #[error("no tenant {0} is known here; make one with `husk tenant init`")]
    UnknownTenant(TenantId),
    /// No such VM.
    #[error("no VM {0} is enrolled here; see `husk vm list`")]
    UnknownVm(VmName),
    /// The tenant is there.
    #[error("tenant {0} is registered already")]
    TenantExists(TenantId),
    /// The VM is there.
    #[error("VM {0} is enrolled already; `husk vm show` tells how")]
    VmExists(VmName),
    /// The order makes no sense now.
    #[error("the VM is {0:?}, which bars this order")]
    Barred(Life),
}

/// A tenant, as registered.
#[derive(Clone)]
pub struct Tenant {
    /// The tenant root key's point.
    pub root: [u8; POINT_BYTES],
    /// What that key signed for this broker.
    pub certificate: BrokerCertificate,
}

impl std::fmt::Debug for Tenant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tenant")
    }
}

/// What a tenant said of a VM when it enrolled it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolment {
    /// SHA-256 of the launch configuration.
    pub host_data: [u8; 32],
    /// What the tenant demands.
    pub policy: Policy,
}

/// The database.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: Option<PathBuf>,
}

impl Store {
    /// Makes a new database file for `keys`.
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::Database`].
    pub fn create(path: &Path, keys: &RootKeys) -> Result<Self, StoreError> {
        // SQLite gives the files beside it the same mode.
        let made = File::options().write(true).create_new(true).mode(0o600).open(path);
        made.map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => StoreError::Exists,
            _ => StoreError::Uncreatable(error.to_string()),
        })?;
        Self::found(Connection::open(path)?, Some(path), keys)
    }

    /// A database that is gone with the process, for worlds that a test owns.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn in_memory(keys: &RootKeys) -> Result<Self, StoreError> {
        Self::found(Connection::open_in_memory()?, None, keys)
    }

    fn found(mut connection: Connection, path: Option<&Path>, keys: &RootKeys) -> Result<Self, StoreError> {
        schema::prepare(&connection)?;
        schema::migrate(&mut connection)?;
        let check = keys.database_check()?;
        connection.execute("INSERT INTO broker VALUES (1, ?1, 0, 0)", params![check])?;
        Ok(Self { connection, path: path.map(Path::to_owned) })
    }

    /// Opens an existing database file.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::NotOurs`], [`StoreError::Newer`], [`StoreError::Database`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if !path.exists() {
            return Err(StoreError::Missing);
        }
        let mut connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        schema::recognise(&connection)?;
        schema::prepare(&connection)?;
        schema::migrate(&mut connection)?;
        Ok(Self { connection, path: Some(path.to_owned()) })
    }

    /// Checks that `keys` are this database's.
    ///
    /// # Errors
    /// [`StoreError::OtherKeys`].
    pub fn belongs_to(&self, keys: &RootKeys) -> Result<(), StoreError> {
        let stored: [u8; 16] =
            self.connection.query_row("SELECT root_check FROM broker", [], |row| row.get(0))?;
        if stored == keys.database_check()? { Ok(()) } else { Err(StoreError::OtherKeys) }
    }

    /// Carries out the operator's order.
    ///
    /// # Errors
    /// [`StoreError::Barred`], [`StoreError::UnknownVm`] and others.
    pub fn operate(&mut self, vm: &VmName, order: Order) -> Result<Row, StoreError> {
        let transaction = begin(&mut self.connection)?;
        let row = load(&transaction, vm)?.ok_or(StoreError::UnknownVm(*vm))?;
        let new = operate(&row, order).map_err(StoreError::Barred)?;
        swap(&transaction, vm, &row, &new)?;
        erase(&transaction, vm, gone(&row, &new))?;
        transaction.commit()?;
        self.scrub_log();
        Ok(new)
    }

    /// Overwritten pages leave their old content in the write-ahead log until it is written back. Another reader may
    /// hold that up; the next erasure, or the orderly end, gets it.
    fn scrub_log(&self) {
        let scrubbed: Result<i64, _> =
            self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
        if !matches!(scrubbed, Ok(0)) {
            eprintln!("husk-broker: the write-ahead log is in use; erased secrets leave it later");
        }
    }

    /// Registers a tenant.
    ///
    /// # Errors
    /// [`StoreError::TenantExists`] and others.
    pub fn register(&mut self, id: TenantId, tenant: &Tenant) -> Result<(), StoreError> {
        let transaction = begin(&mut self.connection)?;
        let added = transaction.execute(
            "INSERT OR IGNORE INTO tenants VALUES (?1, ?2, ?3)",
            params![id.0, tenant.root, tenant.certificate.as_bytes()],
        )?;
        transaction.commit()?;
        if added == 1 { Ok(()) } else { Err(StoreError::TenantExists(id)) }
    }

    /// The tenant of that id.
    ///
    /// # Errors
    /// [`StoreError::UnknownTenant`] and others.
    pub fn tenant(&self, id: TenantId) -> Result<Tenant, StoreError> {
        let mut select =
            self.connection.prepare_cached("SELECT root, certificate FROM tenants WHERE tenant = ?1")?;
        let found =
            select.query_row(params![id.0], |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?))).optional()?;
        let (root, certificate) = found.ok_or(StoreError::UnknownTenant(id))?;
        let certificate =
            BrokerCertificate::read_from_bytes(&certificate).map_err(|_| StoreError::Damaged)?;
        Ok(Tenant { root, certificate })
    }

    /// Enrols a VM.
    ///
    /// # Errors
    /// [`StoreError::UnknownTenant`], [`StoreError::VmExists`] and others.
    pub fn enrol(&mut self, vm: &VmName, enrolment: &Enrolment) -> Result<(), StoreError> {
        self.tenant(vm.tenant)?;
        let policy = serde_json::to_string(&enrolment.policy).map_err(|_| StoreError::Damaged)?;
        let transaction = begin(&mut self.connection)?;
        let row = Row::enrolled();
        let added = transaction.execute(
            "INSERT OR IGNORE INTO vms (tenant, vm, host_data, policy, life, generation, token, epoch, sequence,
             digest, lease_until_ms, released) VALUES (?1, ?2, ?3, ?4, 0, 0, 0, 0, 0, ?5, 0, ?6)",
            params![vm.tenant.0, vm.vm.0, enrolment.host_data, policy, row.head.digest, row.released],
        )?;
        transaction.commit()?;
        if added == 1 { Ok(()) } else { Err(StoreError::VmExists(*vm)) }
    }

    /// How a VM was enrolled.
    ///
    /// # Errors
    /// [`StoreError::UnknownVm`] and others.
    pub fn enrolment(&self, vm: &VmName) -> Result<Enrolment, StoreError> {
        enrolment(&self.connection, vm)
    }

    /// Changes what the tenant demands; yields the new policy. Who was granted keys before keeps them.
    ///
    /// # Errors
    /// [`StoreError::UnknownVm`] and others.
    pub fn amend(&mut self, vm: &VmName, change: impl FnOnce(&mut Policy)) -> Result<Policy, StoreError> {
        let transaction = begin(&mut self.connection)?;
        let mut policy = enrolment(&transaction, vm)?.policy;
        change(&mut policy);
        let text = serde_json::to_string(&policy).map_err(|_| StoreError::Damaged)?;
        transaction.execute(
            "UPDATE vms SET policy = ?3 WHERE tenant = ?1 AND vm = ?2",
            params![vm.tenant.0, vm.vm.0, text],
        )?;
        transaction.commit()?;
        Ok(policy)
    }

    /// The row of a VM.
    ///
    /// # Errors
    /// [`StoreError::UnknownVm`] and others.
    pub fn row(&mut self, vm: &VmName) -> Result<Row, StoreError> {
        let transaction = self.connection.transaction()?;
        load(&transaction, vm)?.ok_or(StoreError::UnknownVm(*vm))
    }

    /// Every VM, of one tenant or of all, in order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn vms(&self, tenant: Option<TenantId>) -> Result<Vec<VmName>, StoreError> {
        let mut select = self
            .connection
            .prepare("SELECT tenant, vm FROM vms WHERE ?1 IS NULL OR tenant = ?1 ORDER BY tenant, vm")?;
        let rows = select.query_map(params![tenant.map(|id| id.0)], |row| {
            Ok(VmName { tenant: TenantId(row.get(0)?), vm: VmId(row.get(1)?) })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Remembers that the launch `report_id` speaks with the key `instance`; false if it spoke with another before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn bind_launch(
        &mut self,
        vm: &VmName,
        report_id: &[u8; 32],
        instance: InstanceId,
    ) -> Result<bool, StoreError> {
        let transaction = begin(&mut self.connection)?;
        transaction.execute(
            "INSERT OR IGNORE INTO launches VALUES (?1, ?2, ?3, ?4)",
            params![report_id, vm.tenant.0, vm.vm.0, instance.0],
        )?;
        let bound: [u8; 48] = transaction.query_row(
            "SELECT instance FROM launches WHERE tenant = ?1 AND vm = ?2 AND report_id = ?3",
            params![vm.tenant.0, vm.vm.0, report_id],
            |row| row.get(0),
        )?;
        transaction.commit()?;
        Ok(bound == instance.0)
    }
}

fn enrolment(connection: &Connection, vm: &VmName) -> Result<Enrolment, StoreError> {
    let mut select =
        connection.prepare_cached("SELECT host_data, policy FROM vms WHERE tenant = ?1 AND vm = ?2")?;
    let found = select
        .query_row(params![vm.tenant.0, vm.vm.0], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))
        .optional()?;
    let (host_data, policy) = found.ok_or(StoreError::UnknownVm(*vm))?;
    let policy = serde_json::from_str(&policy).map_err(|_| StoreError::Damaged)?;
    Ok(Enrolment { host_data, policy })
}

fn begin(connection: &mut Connection) -> Result<Transaction<'_>, StoreError> {
    Ok(connection.transaction_with_behavior(TransactionBehavior::Immediate)?)
}

/// Names that `old` has and `new` has not.
fn gone<'r>(old: &'r Row, new: &'r Row) -> impl Iterator<Item = SecretName> + 'r {
    [old.current, old.next]
        .into_iter()
        .flatten()
        .filter(|name| new.current != Some(*name) && new.next != Some(*name))
}

fn erase(
    transaction: &Transaction<'_>,
    vm: &VmName,
    names: impl Iterator<Item = SecretName>,
) -> Result<(), StoreError> {
    for name in names {
        transaction
            .prepare_cached("DELETE FROM secrets WHERE tenant = ?1 AND vm = ?2 AND token = ?3")?
            .execute(params![vm.tenant.0, vm.vm.0, to_sql(name.token)?])?;
    }
    Ok(())
}
