//! The store of the one broker that serves: it decides requests, each in one transaction.

use super::columns::{from_sql, load, swap, to_sql};
use super::{Store, StoreError, begin, erase, gone};
use crate::ids::VmName;
use crate::rules::{InstanceId, Moment, Reply, Request, Row, SecretName, step};
use crate::vault::{RootKeys, Wrapped, fresh_secret};
use crate::world::World;
use husk::secret::Secret;
use rusqlite::{OptionalExtension, Transaction, named_params, params};
use std::fs::{File, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

/// The secrets that leave with a grant.
#[derive(Debug)]
pub struct GrantSecrets {
    /// Opens the state at head; none while there is no TPM.
    pub current: Option<Secret<32>>,
    /// Seals the next epoch.
    pub next: Secret<32>,
}

/// A durable decision.
#[derive(Debug)]
pub struct Decided {
    /// The answer.
    pub reply: Reply,
    /// With [`Reply::Granted`] only.
    pub secrets: Option<GrantSecrets>,
}

/// The store of the one broker that serves a database.
pub struct Serving {
    store: Store,
    keys: Arc<RootKeys>,
    world: Arc<dyn World>,
    lease_ms: u32,
    /// The database's clock at start, and the world's at that moment.
    started_ms: (u64, u64),
    /// Held while this lives.
    _lock: Option<File>,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Serving({} ms)", self.lease_ms)
    }
}

impl Serving {
    /// Takes the database for this process and assumes that everybody who has not released was given the longest
    /// lease ever just now.
    ///
    /// # Errors
    /// [`StoreError::Served`], [`StoreError::OtherKeys`] and others.
    pub fn begin(
        mut store: Store,
        keys: Arc<RootKeys>,
        world: Arc<dyn World>,
        lease_ms: u32,
    ) -> Result<Self, StoreError> {
        store.belongs_to(&keys)?;
        let lock = store.path.as_deref().map(lock).transpose()?;
        let transaction = begin(&mut store.connection)?;
        let stored_ms: i64 = transaction.query_row(
            "UPDATE broker SET lease_ms_max = max(lease_ms_max, ?1) RETURNING now_ms",
            params![lease_ms],
            |row| row.get(0),
        )?;
        transaction.execute(
            "UPDATE vms SET lease_until_ms =
             max(lease_until_ms, (SELECT now_ms + lease_ms_max FROM broker)) WHERE NOT released",
            [],
        )?;
        transaction.commit()?;
        let started_ms = (from_sql(stored_ms)?, world.now_ms());
        Ok(Self { store, keys, world, lease_ms, started_ms, _lock: lock })
    }

    /// The database, for what is not a decision.
    pub const fn store(&mut self) -> &mut Store {
        &mut self.store
    }

    /// Decides `request` of `caller` for `vm` and makes the decision durable: load, [`step`], compare-and-swap,
    /// secrets, commit, in one IMMEDIATE transaction.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was decided then.
    pub fn decide(
        &mut self,
        vm: &VmName,
        caller: InstanceId,
        request: &Request,
    ) -> Result<Decided, StoreError> {
        let world_ms = self.now_ms();
        let transaction = begin(&mut self.store.connection)?;
        let row = load(&transaction, vm)?.ok_or(StoreError::UnknownVm(*vm))?;
        let now_ms = ratchet(&transaction, world_ms)?;
        let at = Moment { now_ms, lease_ms: self.lease_ms };
        let (change, reply) = step(&row, at, caller, request);
        if let Some(new) = &change {
            swap_with_secrets(&transaction, (&self.keys, &*self.world), vm, (&row, new))?;
        }
        let secrets = match &reply {
            Reply::Granted(grant) => Some(GrantSecrets {
                current: grant.current.map(|name| unwrap(&transaction, &self.keys, vm, name)).transpose()?,
                next: unwrap(&transaction, &self.keys, vm, grant.next)?,
            }),
            _ => None,
        };
        transaction.commit()?;
        if change.is_some_and(|new| gone(&row, &new).next().is_some()) {
            self.store.scrub_log();
        }
        Ok(Decided { reply, secrets })
    }

    /// The database's clock: where it stood at start, and what passed since.
    fn now_ms(&self) -> u64 {
        let (database_ms, world_ms) = self.started_ms;
        database_ms.saturating_add(self.world.now_ms().saturating_sub(world_ms))
    }
}

/// One broker per database: the lock goes with the process, however it ends. The file is its owner's alone, since whoever
/// can open it can hold its lock and keep the broker out.
fn lock(database: &Path) -> Result<File, StoreError> {
    let mut path = database.as_os_str().to_owned();
    path.push(".serving");
    let failed = |source: std::io::Error| StoreError::Lock(source.to_string());
    let file =
        File::options().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Served),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Moves the database's clock on; it never goes back.
fn ratchet(transaction: &Transaction<'_>, world_ms: u64) -> Result<u64, StoreError> {
    let mut update =
        transaction.prepare_cached("UPDATE broker SET now_ms = max(now_ms, ?1) RETURNING now_ms")?;
    from_sql(update.query_row(params![to_sql(world_ms)?], |row| row.get(0))?)
}

/// Swaps the row and makes the secrets follow their names: a new name gets a fresh secret, a lost one is erased.
fn swap_with_secrets(
    transaction: &Transaction<'_>,
    (keys, world): (&RootKeys, &dyn World),
    vm: &VmName,
    (old, new): (&Row, &Row),
) -> Result<(), StoreError> {
    if !new.is_lawful() {
        return Err(StoreError::Damaged);
    }
    swap(transaction, vm, old, new)?;
    erase(transaction, vm, gone(old, new))?;
    for name in gone(new, old) {
        let secret = fresh_secret(world)?;
        let wrapped = keys.wrap(world, vm, name, &secret)?;
        transaction.prepare_cached("INSERT INTO secrets VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(
            params![
                vm.tenant.0,
                vm.vm.0,
                to_sql(name.token)?,
                to_sql(name.epoch)?,
                wrapped.salt,
                wrapped.sealed
            ],
        )?;
    }
    Ok(())
}

fn unwrap(
    transaction: &Transaction<'_>,
    keys: &RootKeys,
    vm: &VmName,
    name: SecretName,
) -> Result<Secret<32>, StoreError> {
    let wrapped = transaction
        .prepare_cached(
            "SELECT salt, sealed FROM secrets
             WHERE tenant = :tenant AND vm = :vm AND token = :token AND epoch = :epoch",
        )?
        .query_row(
            named_params! {
                ":tenant": vm.tenant.0, ":vm": vm.vm.0,
                ":token": to_sql(name.token)?, ":epoch": to_sql(name.epoch)?,
            },
            |row| Ok(Wrapped { salt: row.get(0)?, sealed: row.get(1)? }),
        )
        .optional()?
        .ok_or(StoreError::Damaged)?;
    Ok(keys.unwrap(vm, name, &wrapped)?)
}
