//! What the broker remembers, in SQLite or PostgreSQL.
//!
//! **What.** [`Store`] holds tenants, VMs, wrapped epoch secrets and launches, and serves the operator. [`Serving`] is
//! the store of a broker that serves: only it decides requests. [`Group`] brings the requests of many VMs into one
//! transaction. [`Location`] says which database.
//! **Trust.** The database is as good as its disk; secrets in it are wrapped (`vault`). A database that was set
//! back to an older copy is noticed with an external [`Counter`], and without one by the processes that still serve it.
//! **Laws.** One broker serves a SQLite file; any number serve a PostgreSQL database. An answer exists only after its durable
//! COMMIT returned. Transactions are serial. The clock is the database's own and never decreases (`clock`). A secret
//! exists exactly as long as its name is in the row.
//! **Not here.** What the transitions are (`rules`). Everything SQL is below this folder.

mod audit;
mod backups;
mod certificates;
mod clock;
mod columns;
mod copies;
mod counter;
mod criteria;
mod endorsements;
mod error;
mod group;
mod location;
mod postgres;
mod quota;
mod resources;
mod restores;
mod schema;
mod serving;
mod sql;
mod sqlite;
mod tenants;
mod unlocks;

pub use audit::ENTRIES_MAX;
pub(crate) use backups::is_of as is_of_newest;
pub use backups::{BACKUPS_MAX, WantedBackup};
pub use certificates::{KeptCertificate, KeptKind, Trusted};
pub use copies::Quarantined;
pub use counter::Counter;
pub use criteria::Criteria;
pub use endorsements::{Authority, Endorsed, NotEndorsed};
pub use error::{DatabaseError, StoreError};
pub use group::{Group, GroupError};
pub use location::Location;
pub use quota::{Allotted, QUOTA, Quota};
pub use resources::RESOURCES_MAX;
pub use restores::{Brought, Come, Restore};
pub use serving::{Ask, Decided, GrantSecrets, Overview, PAGE_VMS_MAX, SeenVm, Serving, Standing};
pub use sql::statements;
pub use tenants::{Admission, Asked};
pub use unlocks::{KeptUnlock, ShownTpm, UNLOCKS_MAX};

use self::postgres::Postgres;
use crate::audit::{Entry, Event, Head};
use crate::ids::{TenantId, VmId, VmName};
use crate::policy::{Policy, Refusal};
use crate::rules::{InstanceId, Order, Row, SecretName, operate};
use crate::vault::{RootKeys, VaultError, Wrapped};
use crate::world::World;
use clock::Shared;
use columns::{load, swap};
use husk::release::wire::{BrokerCertificate, POINT_BYTES};
use sql::{Columns, Database, Sql, to_sql, transact};
use sqlite::Sqlite;
use std::path::Path;
use zerocopy::{FromBytes, IntoBytes};

/// How many launches of a VM are remembered. Older ones ended long ago: each took the VM's token from the one before.
pub const LAUNCHES_MAX: u32 = 64;

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
pub struct Store {
    database: Box<dyn Database>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    /// Makes a new database file for `keys`.
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::Database`].
    pub fn create(path: &Path, keys: &RootKeys) -> Result<Self, StoreError> {
        Self::create_at(&Location::File(path.to_owned()), keys)
    }

    /// Makes a new database for `keys`: a file, or the tables in a PostgreSQL database that is there.
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::Unreachable`] and others.
    pub fn create_at(location: &Location, keys: &RootKeys) -> Result<Self, StoreError> {
        match location {
            Location::File(path) => Self::found(Sqlite::create(path)?, keys),
            Location::Postgres(url) => Self::found(Postgres::create(url)?, keys),
        }
    }

    /// A database that is gone with the process, for worlds that a test owns.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn in_memory(keys: &RootKeys) -> Result<Self, StoreError> {
        Self::found(Sqlite::in_memory()?, keys)
    }

    fn found(database: impl Database + 'static, keys: &RootKeys) -> Result<Self, StoreError> {
        let mut store = Self { database: Box::new(database) };
        let check = keys.database_check()?;
        store.transact(|sql| {
            let statement =
                "INSERT INTO broker (\"only\", root_check, now_ms, lease_ms_max) VALUES (1, ?1, 0, 0)";
            sql.execute(statement, &[check.into()])
        })?;
        Ok(store)
    }

    /// Opens an existing database file.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::NotOurs`], [`StoreError::Newer`], [`StoreError::Database`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_at(&Location::File(path.to_owned()))
    }

    /// Opens an existing database.
    ///
    /// # Errors
    /// As [`Store::open`]; also [`StoreError::Weaker`], [`StoreError::Unreachable`].
    pub fn open_at(location: &Location) -> Result<Self, StoreError> {
        let database: Box<dyn Database> = match location {
            Location::File(path) => Box::new(Sqlite::open(path)?),
            Location::Postgres(url) => Box::new(Postgres::open(url)?),
        };
        Ok(Self { database })
    }

    fn transact<T>(
        &mut self,
        work: impl FnOnce(&mut dyn Sql) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        transact(&mut *self.database, work)
    }

    /// Checks that `keys` are this database's.
    ///
    /// # Errors
    /// [`StoreError::OtherKeys`].
    pub fn belongs_to(&mut self, keys: &RootKeys) -> Result<(), StoreError> {
        self.transact(|sql| belongs_to(sql, keys))
    }

    /// As [`Store::transact`], and counts as a commit: an older copy of the database lacks it.
    fn change<T>(
        &mut self,
        work: impl FnOnce(&mut dyn Sql) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.transact(|sql| {
            let made = work(sql)?;
            sql.execute("UPDATE broker SET commits = commits + 1", &[])?;
            Ok(made)
        })
    }

    /// How many transactions changed something, ever.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn commits(&mut self) -> Result<u64, StoreError> {
        self.transact(|sql| Shared::read(sql).map(|shared| shared.commits))
    }

    /// Wraps every secret anew, under `new` in place of `old`; how many there were. Brokers that serve with the old keys
    /// decide nothing from then on.
    ///
    /// # Errors
    /// [`StoreError::OtherKeys`], [`StoreError::Served`] and others. [`StoreError::Unreachable`] leaves it open which
    /// keys are the database's: [`Store::belongs_to`] tells.
    pub fn rotate(&mut self, world: &dyn World, old: &RootKeys, new: &RootKeys) -> Result<usize, StoreError> {
        self.database.serve()?;
        let check = new.database_check()?;
        let secrets = self.change(|sql| {
            belongs_to(sql, old)?;
            let secrets = sql.query("SELECT tenant, vm, token, epoch, salt, sealed FROM secrets", &[])?;
            let apart = resources::rewrap(sql, world, old, new)? + unlocks::rewrap(sql, world, old, new)?;
            let count = secrets.len() + apart;
            for columns in secrets {
                rewrap(sql, columns, |vm, name, wrapped| {
                    new.wrap(world, vm, name, &old.unwrap(vm, name, wrapped)?)
                })?;
            }
            let authorities = rewrap_authorities(sql, |tenant, wrapped| {
                new.wrap_authority(world, tenant, &old.unwrap_authority(tenant, wrapped)?)
            })?;
            sql.execute("UPDATE broker SET root_check = ?1", &[check.into()])?;
            Ok(count + authorities)
        })?;
        self.database.scrub();
        Ok(secrets)
    }

    /// Carries out an order of the broker's own; a tenant's come as tickets ([`Serving::order`]).
    ///
    /// # Errors
    /// [`StoreError::Barred`], [`StoreError::UnknownVm`] and others.
    pub fn operate(&mut self, vm: &VmName, order: Order) -> Result<Row, StoreError> {
        let new = self.change(|sql| {
            let row = load(sql, vm)?.ok_or(StoreError::UnknownVm(*vm))?;
            let new = operate(&row, order).map_err(StoreError::Barred)?;
            swap(sql, vm, &row, &new)?;
            audit::enter_now(sql, vm, audit::ordered(order, &new))?;
            Ok(new)
        })?;
        self.database.scrub();
        Ok(new)
    }

    /// Registers a tenant.
    ///
    /// # Errors
    /// [`StoreError::TenantExists`] and others.
    pub fn register(&mut self, id: TenantId, tenant: &Tenant) -> Result<(), StoreError> {
        let added = self.change(|sql| {
            let statement = "INSERT INTO tenants (tenant, root, certificate) VALUES (?1, ?2, ?3)
                ON CONFLICT DO NOTHING";
            let certificate = tenant.certificate.as_bytes();
            sql.execute(statement, &[id.0.into(), tenant.root.into(), certificate.into()])
        })?;
        if added == 1 { Ok(()) } else { Err(StoreError::TenantExists(id)) }
    }

    /// The tenant of that id.
    ///
    /// # Errors
    /// [`StoreError::UnknownTenant`] and others.
    pub fn tenant(&mut self, id: TenantId) -> Result<Tenant, StoreError> {
        self.transact(|sql| tenant(sql, id))
    }

    /// Enrols a VM.
    ///
    /// # Errors
    /// [`StoreError::UnknownTenant`], [`StoreError::VmExists`] and others.
    pub fn enrol(&mut self, vm: &VmName, enrolment: &Enrolment) -> Result<(), StoreError> {
        self.enrol_if(vm, enrolment, |_| Ok(()))
    }

    /// As [`enrol`](Self::enrol), if `may` says so in the same transaction.
    fn enrol_if(
        &mut self,
        vm: &VmName,
        enrolment: &Enrolment,
        may: impl FnOnce(&mut dyn Sql) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let policy = serde_json::to_string(&enrolment.policy).map_err(|_| StoreError::Damaged)?;
        let row = Row::enrolled();
        let added = self.change(|sql| {
            tenant(sql, vm.tenant)?;
            may(sql)?;
            let statement = "INSERT INTO vms (tenant, vm, host_data, policy, life, generation, token, epoch,
                sequence, digest, lease_until_ms, released) VALUES (?1, ?2, ?3, ?4, 0, 0, 0, 0, 0, ?5, 0, ?6)
                ON CONFLICT DO NOTHING";
            let host_data = enrolment.host_data;
            let (digest, released) = (row.head.digest.into(), row.released.into());
            let added = sql.execute(
                statement,
                &[vm.tenant.0.into(), vm.vm.0.into(), host_data.into(), policy.into(), digest, released],
            )?;
            if added == 1 {
                let detail = format!("host_data {}", hex::encode(host_data));
                audit::enter_now(sql, vm, (Event::Enrolled, detail))?;
            }
            Ok(added)
        })?;
        if added == 1 { Ok(()) } else { Err(StoreError::VmExists(*vm)) }
    }

    /// How a VM was enrolled.
    ///
    /// # Errors
    /// [`StoreError::UnknownVm`] and others.
    pub fn enrolment(&mut self, vm: &VmName) -> Result<Enrolment, StoreError> {
        self.transact(|sql| enrolment(sql, vm))
    }

    /// How a VM was enrolled, and its tenant.
    ///
    /// # Errors
    /// [`StoreError::UnknownVm`] and others.
    pub fn enrolled(&mut self, vm: &VmName) -> Result<(Enrolment, Tenant), StoreError> {
        self.transact(|sql| Ok((enrolment(sql, vm)?, tenant(sql, vm.tenant)?)))
    }

    /// Changes what the tenant demands; yields the new policy. Who was granted keys before keeps them.
    ///
    /// # Errors
    /// [`StoreError::UnknownVm`] and others.
    pub fn amend(&mut self, vm: &VmName, change: impl FnOnce(&mut Policy)) -> Result<Policy, StoreError> {
        self.change(|sql| {
            let mut policy = enrolment(sql, vm)?.policy;
            change(&mut policy);
            let text = serde_json::to_string(&policy).map_err(|_| StoreError::Damaged)?;
            sql.execute(
                "UPDATE vms SET policy = ?3 WHERE tenant = ?1 AND vm = ?2",
                &[vm.tenant.0.into(), vm.vm.0.into(), text.clone().into()],
            )?;
            audit::enter_now(sql, vm, (Event::Amended, text))?;
            Ok(policy)
        })
    }

    /// The row of a VM.
    ///
    /// # Errors
    /// [`StoreError::UnknownVm`] and others.
    pub fn row(&mut self, vm: &VmName) -> Result<Row, StoreError> {
        self.transact(|sql| load(sql, vm)?.ok_or(StoreError::UnknownVm(*vm)))
    }

    /// Every VM, of one tenant or of all, in order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn vms(&mut self, tenant: Option<TenantId>) -> Result<Vec<VmName>, StoreError> {
        self.transact(|sql| match tenant {
            Some(id) => {
                let statement = "SELECT tenant, vm FROM vms WHERE tenant = ?1 ORDER BY vm";
                vm_names(sql.query(statement, &[id.0.into()])?)
            }
            None => all_vms(sql),
        })
    }

    /// Enters in the tenant's log that an instance of `vm` was refused, by which rule and why; the entry's number.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn refused(&mut self, vm: &VmName, refusal: &Refusal) -> Result<u64, StoreError> {
        self.transact(|sql| audit::enter_refusal(sql, vm, refusal))
    }

    /// Enters in the tenant's log that an instance does not find the newest state, and why.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn missing(&mut self, vm: &VmName, why: String) -> Result<(), StoreError> {
        self.transact(|sql| audit::enter_once(sql, vm, (Event::StateMissing, why), "").map(drop))
    }

    /// A tenant's log behind entry `after`, [`ENTRIES_MAX`] entries at most.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn audit(&mut self, tenant: TenantId, after: u64) -> Result<Vec<(Entry, Head)>, StoreError> {
        self.transact(|sql| audit::entries(sql, tenant, after))
    }

    /// Remembers that the launch `report_id` speaks with the key `instance`; false if it spoke with another before.
    /// The newest [`LAUNCHES_MAX`] launches of a VM are remembered.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn bind_launch(
        &mut self,
        vm: &VmName,
        report_id: &[u8; 32],
        instance: InstanceId,
    ) -> Result<bool, StoreError> {
        self.change(|sql| bind_launch(sql, vm, report_id, instance))
    }
}

fn all_vms(sql: &mut dyn Sql) -> Result<Vec<VmName>, StoreError> {
    vm_names(sql.query("SELECT tenant, vm FROM vms ORDER BY tenant, vm", &[])?)
}

fn vm_names(rows: Vec<Columns>) -> Result<Vec<VmName>, StoreError> {
    rows.into_iter()
        .map(|mut row| Ok(VmName { tenant: TenantId(row.array()?), vm: VmId(row.array()?) }))
        .collect()
}

/// Replaces one wrapped secret.
fn rewrap(
    sql: &mut dyn Sql,
    mut columns: Columns,
    wrap: impl FnOnce(&VmName, SecretName, &Wrapped) -> Result<Wrapped, VaultError>,
) -> Result<(), StoreError> {
    let vm = VmName { tenant: TenantId(columns.array()?), vm: VmId(columns.array()?) };
    let name = SecretName { token: columns.number()?, epoch: columns.number()? };
    let Wrapped { salt, sealed } =
        wrap(&vm, name, &Wrapped { salt: columns.array()?, sealed: columns.array()? })?;
    let token = to_sql(name.token)?.into();
    sql.execute(
        "UPDATE secrets SET salt = ?4, sealed = ?5 WHERE tenant = ?1 AND vm = ?2 AND token = ?3",
        &[vm.tenant.0.into(), vm.vm.0.into(), token, salt.into(), sealed.into()],
    )
    .map(drop)
}

/// Replaces the wrapped keys of authorities; how many there are.
fn rewrap_authorities(
    sql: &mut dyn Sql,
    mut wrap: impl FnMut(TenantId, &Wrapped) -> Result<Wrapped, VaultError>,
) -> Result<usize, StoreError> {
    let query = "SELECT tenant, salt, sealed FROM authorities WHERE salt IS NOT NULL";
    let found = sql.query(query, &[])?;
    let count = found.len();
    for mut columns in found {
        let tenant = TenantId(columns.array()?);
        let Wrapped { salt, sealed } =
            wrap(tenant, &Wrapped { salt: columns.array()?, sealed: columns.array()? })?;
        let statement = "UPDATE authorities SET salt = ?2, sealed = ?3 WHERE tenant = ?1";
        sql.execute(statement, &[tenant.0.into(), salt.into(), sealed.into()])?;
    }
    Ok(count)
}

fn belongs_to(sql: &mut dyn Sql, keys: &RootKeys) -> Result<(), StoreError> {
    let stored = sql.one("SELECT root_check FROM broker", &[])?.ok_or(StoreError::Damaged)?.array::<16>()?;
    if stored == keys.database_check()? { Ok(()) } else { Err(StoreError::OtherKeys) }
}

fn tenant(sql: &mut dyn Sql, id: TenantId) -> Result<Tenant, StoreError> {
    let found = sql.one("SELECT root, certificate FROM tenants WHERE tenant = ?1", &[id.0.into()])?;
    let mut found = found.ok_or(StoreError::UnknownTenant(id))?;
    let (root, certificate) = (found.array()?, found.bytes()?);
    let certificate = BrokerCertificate::read_from_bytes(&certificate).map_err(|_| StoreError::Damaged)?;
    Ok(Tenant { root, certificate })
}

fn enrolment(sql: &mut dyn Sql, vm: &VmName) -> Result<Enrolment, StoreError> {
    let statement = "SELECT host_data, policy FROM vms WHERE tenant = ?1 AND vm = ?2";
    let found = sql.one(statement, &[vm.tenant.0.into(), vm.vm.0.into()])?;
    let mut found = found.ok_or(StoreError::UnknownVm(*vm))?;
    let (host_data, policy) = (found.array()?, found.text()?);
    let policy = serde_json::from_str(&policy).map_err(|_| StoreError::Damaged)?;
    Ok(Enrolment { host_data, policy })
}

fn bind_launch(
    sql: &mut dyn Sql,
    vm: &VmName,
    report_id: &[u8; 32],
    instance: InstanceId,
) -> Result<bool, StoreError> {
    const BOUND: &str = "SELECT instance FROM launches WHERE tenant = ?1 AND vm = ?2 AND report_id = ?3";
    let name: [sql::Value; 2] = [vm.tenant.0.into(), vm.vm.0.into()];
    let [tenant, id] = name.clone();
    if let Some(mut bound) = sql.one(BOUND, &[tenant.clone(), id.clone(), (*report_id).into()])? {
        return Ok(bound.array::<48>()? == instance.0);
    }
    let newest = "SELECT COALESCE(MAX(bound), 0) FROM launches WHERE tenant = ?1 AND vm = ?2";
    let newest = sql.one(newest, &name)?.ok_or(StoreError::Damaged)?.integer()?;
    let bound = newest.checked_add(1).ok_or(StoreError::WornOut)?;
    sql.execute(
        "INSERT INTO launches (tenant, vm, report_id, instance, bound) VALUES (?1, ?2, ?3, ?4, ?5)",
        &[tenant.clone(), id.clone(), (*report_id).into(), instance.0.into(), bound.into()],
    )?;
    sql.execute(
        "DELETE FROM launches WHERE tenant = ?1 AND vm = ?2 AND bound <= ?3",
        &[tenant, id, (bound - i64::from(LAUNCHES_MAX)).into()],
    )?;
    Ok(true)
}
