//! The store of a broker that serves: it decides requests, many in one transaction, and carries out tickets ([`orders`]).

mod orders;
mod overview;

pub use orders::Standing;
pub use overview::{Overview, PAGE_VMS_MAX, SeenVm};

use super::clock::{Seen, Shared};
use super::columns::{gone, load, swap};
use super::counter::Counter;
use super::sql::{Sql, Value, to_sql, transact};
use super::{Store, StoreError, all_vms, audit, restores};
use crate::ids::VmName;
use crate::rules::{InstanceId, Moment, Order, Reply, Request, Row, SecretName, operate, step};
use crate::vault::{RootKeys, VaultError, Wrapped, fresh_secret};
use crate::world::World;
use husk::secret::Secret;
use std::sync::Arc;

/// The secrets that leave with a grant.
#[derive(Debug)]
pub struct GrantSecrets {
    /// Opens the state at head, or the backup that is to be restored; none while there is no TPM.
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

/// A request of a proven instance.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// Whose row it is about.
    pub vm: VmName,
    /// Who asks.
    pub caller: InstanceId,
    /// What it asks.
    pub request: Request,
}

/// The store of one broker that serves a database: the only one on SQLite, one of many on PostgreSQL.
pub struct Serving {
    store: Store,
    keys: Arc<RootKeys>,
    world: Arc<dyn World>,
    lease_ms: u32,
    seen: Seen,
    /// Commits of the database that this process knows of.
    commits: u64,
    root_check: [u8; 16],
    counter: Option<Counter>,
    /// How often the database was found set back.
    set_backs: u64,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Serving({} ms)", self.lease_ms)
    }
}

impl Serving {
    /// Begins to serve, and assumes that everybody who has not released was given the longest lease ever just now.
    ///
    /// # Errors
    /// [`StoreError::Served`], [`StoreError::OtherKeys`] and others.
    pub fn begin(
        mut store: Store,
        keys: Arc<RootKeys>,
        world: Arc<dyn World>,
        lease_ms: u32,
    ) -> Result<Self, StoreError> {
        store.database.serve()?;
        let root_check = keys.database_check()?;
        let (database_ms, commits) = transact(&mut *store.database, |sql| {
            let mut shared = Shared::read(sql)?;
            if shared.root_check != root_check {
                return Err(StoreError::OtherKeys);
            }
            let now_ms = shared.look(sql)?;
            shared.write(sql)?;
            sql.execute(
                "UPDATE broker SET lease_ms_max = CASE WHEN lease_ms_max > ?1 THEN lease_ms_max ELSE ?1 END",
                &[i64::from(lease_ms).into()],
            )?;
            sql.execute("UPDATE broker SET assumed_until_ms = now_ms + lease_ms_max", &[])?;
            Ok((now_ms, shared.commits))
        })?;
        let seen = Seen { database_ms, world_ms: world.now_ms() };
        Ok(Self { store, keys, world, lease_ms, seen, commits, root_check, counter: None, set_backs: 0 })
    }

    /// Holds the database to an external counter: if that one knows of more commits, the database was set back, and
    /// every VM is halted.
    ///
    /// # Errors
    /// [`StoreError::Counter`] and others.
    pub fn with_counter(mut self, counter: Counter) -> Result<Self, StoreError> {
        if counter.broker() != self.keys.broker() {
            return Err(StoreError::Counter("it is another broker's".to_owned()));
        }
        if counter.commits() > self.commits {
            self.commits = counter.commits();
            self.halt_all()?;
        }
        self.counter = Some(counter);
        Ok(self)
    }

    /// Changes the database by what is no decision, and has the external counter know of it before it is acknowledged: a database that
    /// is set back behind it is noticed as one behind a decision is.
    ///
    /// # Errors
    /// [`StoreError`]: of `work`, or [`StoreError::Counter`], where it is done and not acknowledged.
    pub fn change<T>(
        &mut self,
        work: impl FnOnce(&mut Store) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let changed = work(&mut self.store)?;
        if self.counter.is_some() {
            self.on_the_newest(|serving| serving.in_time(|_, _| Ok(((), UNCHANGED))))?;
        }
        Ok(changed)
    }

    /// The database, for what is not a decision and is not acknowledged either.
    pub const fn store(&mut self) -> &mut Store {
        &mut self.store
    }

    /// Decides one request and makes the decision durable.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was decided then.
    pub fn decide(
        &mut self,
        vm: &VmName,
        caller: InstanceId,
        request: &Request,
    ) -> Result<Decided, StoreError> {
        let ask = Ask { vm: *vm, caller, request: *request };
        self.decide_all(&[ask])?.pop().ok_or(StoreError::Raced)?
    }

    /// Decides requests in their order, each on what the earlier ones left, and makes all decisions durable in one
    /// transaction. One that fails does not fail its neighbours: if the transaction fails for something else than the
    /// database as a whole, each is tried again alone.
    ///
    /// # Errors
    /// [`StoreError`] of all of them.
    pub fn decide_all(&mut self, asks: &[Ask]) -> Result<Vec<Result<Decided, StoreError>>, StoreError> {
        match self.decide_on_the_newest(asks) {
            Err(StoreError::Database(_)) if asks.len() > 1 => Ok(asks
                .iter()
                .map(|ask| {
                    let decided = self.decide_on_the_newest(std::slice::from_ref(ask))?;
                    decided.into_iter().next().ok_or(StoreError::Raced)?
                })
                .collect()),
            decided => decided,
        }
    }

    /// As [`Serving::decide_all`], in one transaction or not at all.
    fn decide_on_the_newest(&mut self, asks: &[Ask]) -> Result<Vec<Result<Decided, StoreError>>, StoreError> {
        self.on_the_newest(|serving| serving.decide_at_once(asks))
    }

    /// Does `work`; a database that was set back while this process served it is noticed first.
    pub(super) fn on_the_newest<T>(
        &mut self,
        work: impl Fn(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let made = match work(self) {
            Err(StoreError::SetBack) => {
                self.halt_all()?;
                work(self)
            }
            made => made,
        };
        if let Some(counter) = &mut self.counter {
            counter.raise(self.commits)?;
        }
        made
    }

    fn decide_at_once(&mut self, asks: &[Ask]) -> Result<Vec<Result<Decided, StoreError>>, StoreError> {
        let (keys, world, lease_ms) = (Arc::clone(&self.keys), Arc::clone(&self.world), self.lease_ms);
        self.in_time(|sql, now_ms| {
            let at = Moment { now_ms, lease_ms };
            let mut one = One { sql, keys: &keys, world: &*world, at, changed: false, erased: false };
            let mut decided = Vec::with_capacity(asks.len());
            for ask in asks {
                decided.push(one.decide(ask)?);
            }
            Ok((decided, one.made()))
        })
    }

    /// What the database's clock shows now; it is not moved.
    pub(super) fn look(&mut self) -> Result<u64, StoreError> {
        let Self { store, world, seen, commits, root_check, .. } = self;
        transact(&mut *store.database, |sql| {
            let mut shared = newest(sql, root_check, *commits)?;
            Ok(shared.ratchet(sql, *seen, || world.now_ms())?.database_ms)
        })
    }

    /// One transaction at one moment of the database's clock, which moves on with it. Scrubs what it erased.
    pub(super) fn in_time<T>(
        &mut self,
        work: impl FnOnce(&mut dyn Sql, u64) -> Result<(T, Made), StoreError>,
    ) -> Result<T, StoreError> {
        let Self { store, world, seen, commits, root_check, .. } = self;
        let (result, erased, (now_seen, now_commits)) = transact(&mut *store.database, |sql| {
            let mut shared = newest(sql, root_check, *commits)?;
            let seen = shared.ratchet(sql, *seen, || world.now_ms())?;
            let (result, Made { changed, erased }) = work(sql, seen.database_ms)?;
            shared.commits += u64::from(changed);
            shared.write(sql)?;
            Ok((result, erased, (seen, shared.commits)))
        })?;
        (*seen, *commits) = (now_seen, now_commits);
        if erased {
            store.database.scrub();
        }
        Ok(result)
    }

    /// Halts every VM, since the database is older than what was acknowledged from it.
    fn halt_all(&mut self) -> Result<(), StoreError> {
        let known = self.commits;
        let (halted, commits) = transact(&mut *self.store.database, |sql| {
            let mut shared = Shared::read(sql)?;
            let mut halted = 0;
            for vm in all_vms(sql)? {
                let row = load(sql, &vm)?.ok_or(StoreError::Damaged)?;
                if let Ok(new) = operate(&row, Order::Halt) {
                    swap(sql, &vm, &row, &new)?;
                    let (event, detail) = audit::ordered(Order::Halt, &new);
                    let what = (event, format!("{detail}, since the database was set back"));
                    audit::enter(sql, &vm, shared.now_ms(), what)?;
                    halted += 1;
                }
            }
            shared.commits = known.max(shared.commits) + 1;
            shared.write(sql)?;
            Ok((halted, shared.commits))
        })?;
        self.commits = commits;
        self.set_backs += 1;
        tracing::error!(
            "ALARM: the database was set back to an older state; all {halted} VMs that could run are \
             halted. Restore the newest copy. If there is none, the owner of each VM decides whether its TPM may be \
             older than what it has shown, by a ticket to resume or to retire it (`husk vm ticket`)"
        );
        Ok(())
    }
}

/// What the transactions share, if the database is under these keys and not older than what is known of it.
fn newest(sql: &mut dyn Sql, root_check: &[u8; 16], commits: u64) -> Result<Shared, StoreError> {
    let shared = Shared::read(sql)?;
    if shared.root_check != *root_check {
        return Err(StoreError::OtherKeys);
    }
    if shared.commits < commits { Err(StoreError::SetBack) } else { Ok(shared) }
}

/// What a transaction did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Made {
    /// A row was changed.
    pub(super) changed: bool,
    /// Secrets were erased.
    pub(super) erased: bool,
}

/// Nothing that counts.
pub(super) const UNCHANGED: Made = Made { changed: false, erased: false };

/// One transaction at work.
struct One<'t> {
    sql: &'t mut dyn Sql,
    keys: &'t RootKeys,
    world: &'t dyn World,
    at: Moment,
    /// A row was changed.
    changed: bool,
    /// Secrets were erased.
    erased: bool,
}

impl One<'_> {
    const fn made(&self) -> Made {
        Made { changed: self.changed, erased: self.erased }
    }

    /// The outer error fails the transaction, the inner one this request only: it has changed nothing.
    fn decide(&mut self, ask: &Ask) -> Result<Result<Decided, StoreError>, StoreError> {
        let prepared = match self.prepare(ask) {
            Ok(prepared) => prepared,
            Err(error) if error.is_of_one_row() => return Ok(Err(error)),
            Err(error) => return Err(error),
        };
        let Prepared { row, change, decided, wrapped } = prepared;
        if let Some(new) = change {
            self.erased |= swap(self.sql, &ask.vm, &row, &new)?;
            self.changed = true;
            if let Some(what) = audit::told(&row, &new, &ask.request, &decided.reply) {
                audit::enter(self.sql, &ask.vm, self.at.now_ms, what)?;
            }
        }
        for (name, wrapped) in wrapped {
            insert(self.sql, &ask.vm, name, wrapped)?;
        }
        Ok(Ok(decided))
    }

    /// Everything that can fail for one row's sake, before anything is written.
    fn prepare(&mut self, ask: &Ask) -> Result<Prepared, StoreError> {
        let Ask { vm, caller, request } = ask;
        let row = load(self.sql, vm)?.ok_or(StoreError::UnknownVm(*vm))?;
        let (change, reply) = step(&row, self.at, *caller, request);
        if change.as_ref().is_some_and(|new| !new.is_lawful()) {
            return Err(StoreError::Damaged);
        }
        let (mut fresh, mut wrapped) = (Vec::new(), Vec::new());
        for name in change.iter().flat_map(|new| gone(new, &row)) {
            let secret = fresh_secret(self.world)?;
            wrapped.push((name, self.keys.wrap(self.world, vm, name, &secret)?));
            fresh.push((name, secret));
        }
        let secrets = match &reply {
            Reply::Granted(grant) => {
                let next = fresh.into_iter().find(|(name, _)| *name == grant.next);
                let current = if grant.restores {
                    Some(self.backup_key(vm)?)
                } else {
                    grant.current.map(|name| self.unwrap(vm, name)).transpose()?
                };
                Some(GrantSecrets { current, next: next.ok_or(StoreError::Damaged)?.1 })
            }
            _ => None,
        };
        Ok(Prepared { row, change, decided: Decided { reply, secrets }, wrapped })
    }

    /// The key of the backup that is to be restored.
    fn backup_key(&mut self, vm: &VmName) -> Result<Secret<32>, StoreError> {
        let opened = restores::ordered(self.sql, vm)?.ok_or(StoreError::Damaged)?.opened;
        let key = self.keys.restore_key(vm, (opened.token.get(), opened.generation.get()))?;
        Ok(opened.open(&key).ok_or(VaultError::Altered)?)
    }

    fn unwrap(&mut self, vm: &VmName, name: SecretName) -> Result<Secret<32>, StoreError> {
        let statement =
            "SELECT salt, sealed FROM secrets WHERE tenant = ?1 AND vm = ?2 AND token = ?3 AND epoch = ?4";
        let mut found = self.sql.one(statement, &place(vm, name)?)?.ok_or(StoreError::Damaged)?;
        let wrapped = Wrapped { salt: found.array()?, sealed: found.array()? };
        Ok(self.keys.unwrap(vm, name, &wrapped)?)
    }
}

struct Prepared {
    row: Row,
    change: Option<Row>,
    decided: Decided,
    /// Secrets whose names are new.
    wrapped: Vec<(SecretName, Wrapped)>,
}

fn place(vm: &VmName, name: SecretName) -> Result<[Value; 4], StoreError> {
    Ok([vm.tenant.0.into(), vm.vm.0.into(), to_sql(name.token)?.into(), to_sql(name.epoch)?.into()])
}

fn insert(
    sql: &mut dyn Sql,
    vm: &VmName,
    name: SecretName,
    Wrapped { salt, sealed }: Wrapped,
) -> Result<(), StoreError> {
    let [tenant, vm, token, epoch] = place(vm, name)?;
    let statement =
        "INSERT INTO secrets (tenant, vm, token, epoch, salt, sealed) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    sql.execute(statement, &[tenant, vm, token, epoch, salt.into(), sealed.into()]).map(drop)
}
