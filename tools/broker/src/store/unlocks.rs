//! Secrets of guests, wrapped, with what a guest must have been started as.
//!
//! **Laws.** A secret leaves in a transaction that sees the VM as it stands, the secret and its policy as they are kept, and that enters it in the tenant's
//! log; a refusal is entered as one.

use super::columns::load;
use super::sql::{Columns, Sql};
use super::{Store, StoreError, audit, endorsements, enrolment};
use crate::audit::Event;
use crate::ids::{TenantId, VmId, VmName};
use crate::policy::{Refusal, Rule};
use crate::rules::Row;
use crate::unlock::{PcrPolicy, PcrValues};
use crate::vault::RootKeys;
use crate::world::World;
use husk::release::wire::UnlockVerdict;

/// How many secrets a VM's guest may have.
pub const UNLOCKS_MAX: usize = 16;

/// A secret as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptUnlock {
    /// What it is called.
    pub name: String,
    /// What the guest must have been started as.
    pub policy: PcrPolicy,
    /// The secret, wrapped for both.
    pub sealed: Vec<u8>,
}

/// What a guest has proven of its TPM.
#[derive(Debug)]
pub struct ShownTpm<'s> {
    /// The Name of its endorsement key.
    pub endorsement: &'s [u8],
    /// TPMS_CLOCK_INFO.resetCount.
    pub resets: u32,
    /// Values of its PCRs.
    pub values: &'s PcrValues,
}

impl Store {
    /// Keeps a secret of a guest; one that is there only with `replace`.
    ///
    /// # Errors
    /// [`StoreError::UnknownVm`], [`StoreError::UnlockExists`], [`StoreError::UnlocksFull`] and others.
    pub fn keep_unlock(&mut self, vm: &VmName, kept: &KeptUnlock, replace: bool) -> Result<(), StoreError> {
        let KeptUnlock { name, policy, sealed } = kept;
        self.change(|sql| {
            enrolment(sql, vm)?;
            let there = unlocks(sql, vm)?;
            let is_there = there.iter().any(|known| known.name == *name);
            if is_there && !replace {
                return Err(StoreError::UnlockExists(name.clone()));
            }
            if !is_there && there.len() >= UNLOCKS_MAX {
                return Err(StoreError::UnlocksFull);
            }
            remove(sql, vm, name)?;
            let statement =
                "INSERT INTO unlocks (tenant, vm, name, policy, sealed) VALUES (?1, ?2, ?3, ?4, ?5)";
            let texts = [name.clone(), policy.to_string()];
            let [named, demanded] = texts.map(Into::into);
            let values = [vm.tenant.0.into(), vm.vm.0.into(), named, demanded, sealed.as_slice().into()];
            sql.execute(statement, &values)?;
            audit::enter_now(sql, vm, (Event::UnlockSet, name.clone()))
        })?;
        self.database.scrub();
        Ok(())
    }

    /// Removes a secret.
    ///
    /// # Errors
    /// [`StoreError::UnknownUnlock`] and others.
    pub fn remove_unlock(&mut self, vm: &VmName, name: &str) -> Result<(), StoreError> {
        self.change(|sql| {
            if remove(sql, vm, name)? != 1 {
                return Err(StoreError::UnknownUnlock(name.to_owned()));
            }
            audit::enter_now(sql, vm, (Event::UnlockRemoved, name.to_owned()))
        })?;
        self.database.scrub();
        Ok(())
    }

    /// The secrets of a VM's guest, in the order of their names.
    ///
    /// # Errors
    /// [`StoreError::UnknownVm`] and others.
    pub fn unlocks(&mut self, vm: &VmName) -> Result<Vec<KeptUnlock>, StoreError> {
        self.transact(|sql| {
            enrolment(sql, vm)?;
            unlocks(sql, vm)
        })
    }

    /// Takes a secret out for a guest that has proven `shown`, or refuses it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn take_unlock(
        &mut self,
        vm: &VmName,
        name: &str,
        shown: &ShownTpm<'_>,
    ) -> Result<Result<KeptUnlock, UnlockVerdict>, StoreError> {
        self.change(|sql| {
            let kept = unlocks(sql, vm)?.into_iter().find(|kept| kept.name == name);
            let row = load(sql, vm)?.ok_or(StoreError::UnknownVm(*vm))?;
            let keys = endorsements::endorsed(sql, vm)?;
            let is_known = keys.iter().any(|key| key.name == shown.endorsement);
            match judged(name, (kept, is_known, &row), shown) {
                Ok(kept) => {
                    let detail = format!("{name}, token {}", row.token);
                    audit::enter_now(sql, vm, (Event::Unlocked, detail))?;
                    Ok(Ok(kept))
                }
                Err((verdict, refusal)) => {
                    audit::enter_refusal(sql, vm, &refusal)?;
                    Ok(Err(verdict))
                }
            }
        })
    }
}

/// What the VM, the secret and its policy say, in this order.
fn judged(
    name: &str,
    (kept, is_known, row): (Option<KeptUnlock>, bool, &Row),
    shown: &ShownTpm<'_>,
) -> Result<KeptUnlock, (UnlockVerdict, Refusal)> {
    if !is_known {
        let seen = format!("the name {}", hex::encode(shown.endorsement));
        let refusal = Refusal::new(Rule::UnlockTpm, "an endorsement key of this VM's TPM", seen);
        return Err((UnlockVerdict::OtherTpm, refusal));
    }
    // TPM resets are counted in 32 bits (TPM 2.0 part 2, "TPMS_CLOCK_INFO").
    let resets = row.token.wrapping_sub(row.reset_base) & u64::from(u32::MAX);
    if !row.serves() || u64::from(shown.resets) != resets {
        let wanted = format!("the newest instance of a VM that may run, whose resetCount is {resets}");
        let seen = format!("{:?}, resetCount {}", row.life, shown.resets);
        return Err((UnlockVerdict::OldInstance, Refusal::new(Rule::UnlockInstance, wanted, seen)));
    }
    let Some(kept) = kept else {
        let refusal = Refusal::new(Rule::UnlockName, "the name of a secret of this VM", name);
        return Err((UnlockVerdict::NothingThere, refusal));
    };
    if kept.policy.admits(shown.values) {
        return Ok(kept);
    }
    let missed = kept.policy.misses(shown.values);
    let seen = missed.iter().filter_map(|pcr| Some((pcr, shown.values.get(pcr)?)));
    let seen: Vec<_> = seen.map(|(pcr, value)| format!("PCR {pcr} {}", hex::encode(value))).collect();
    let wanted = format!("values that the tenant allows for {name}");
    Err((UnlockVerdict::OtherPcrs, Refusal::new(Rule::UnlockPcrs, wanted, seen.join(", "))))
}

fn unlocks(sql: &mut dyn Sql, vm: &VmName) -> Result<Vec<KeptUnlock>, StoreError> {
    let statement = "SELECT name, policy, sealed FROM unlocks WHERE tenant = ?1 AND vm = ?2 ORDER BY name";
    sql.query(statement, &[vm.tenant.0.into(), vm.vm.0.into()])?.into_iter().map(kept).collect()
}

fn kept(mut columns: Columns) -> Result<KeptUnlock, StoreError> {
    let (name, policy, sealed) = (columns.text()?, columns.text()?, columns.bytes()?);
    let policy = policy.parse().map_err(|_| StoreError::Damaged)?;
    Ok(KeptUnlock { name, policy, sealed })
}

fn remove(sql: &mut dyn Sql, vm: &VmName, name: &str) -> Result<u64, StoreError> {
    let statement = "DELETE FROM unlocks WHERE tenant = ?1 AND vm = ?2 AND name = ?3";
    sql.execute(statement, &[vm.tenant.0.into(), vm.vm.0.into(), name.to_owned().into()])
}

/// Wraps every secret anew, under `new` in place of `old`; how many there were.
pub(super) fn rewrap(
    sql: &mut dyn Sql,
    world: &dyn World,
    old: &RootKeys,
    new: &RootKeys,
) -> Result<usize, StoreError> {
    let found = sql.query("SELECT tenant, vm, name, policy, sealed FROM unlocks", &[])?;
    let count = found.len();
    for mut columns in found {
        let vm = VmName { tenant: TenantId(columns.array()?), vm: VmId(columns.array()?) };
        let KeptUnlock { name, policy, sealed } = kept(columns)?;
        let bound = (name.as_str(), &policy);
        let sealed = new.wrap_unlock(world, &vm, bound, &old.unwrap_unlock(&vm, bound, &sealed)?)?;
        sql.execute(
            "UPDATE unlocks SET sealed = ?4 WHERE tenant = ?1 AND vm = ?2 AND name = ?3",
            &[vm.tenant.0.into(), vm.vm.0.into(), name.into(), sealed.as_slice().into()],
        )?;
    }
    Ok(count)
}
