//! A VM's row as columns, and back. What comes back is checked as if a stranger had written it.

use super::sql::{Columns, Sql, Value, to_sql};
use super::{StoreError, restores};
use crate::ids::VmName;
use crate::rules::{Holder, InstanceId, Keeps, Life, Row, SecretName};
use husk::release::Head;
use husk::release::ticket::TicketOrder;

/// The last column is how far the newest start of a broker assumed every lease that was not released.
const SELECT: &str = "SELECT life, generation, token, epoch, sequence, digest, current_token, next_token,
    holder, holder_report, lease_until_ms, released, bumped_from, forced, overlap_until_ms,
    reset_base, guest_svn, restoring, ephemeral, (SELECT assumed_until_ms FROM broker)
    FROM vms WHERE tenant = ?1 AND vm = ?2";

/// The compare-and-swap: nothing changes unless token, generation, epoch and head are what the decision was made on.
const UPDATE: &str = "UPDATE vms SET life = ?3, generation = ?4, token = ?5, epoch = ?6,
    sequence = ?7, digest = ?8, current_token = ?9, next_token = ?10,
    holder = ?11, holder_report = ?12,
    lease_until_ms = CASE WHEN lease_until_ms > ?13 THEN lease_until_ms ELSE ?13 END,
    released = ?14, bumped_from = ?15, forced = ?16, overlap_until_ms = ?17, reset_base = ?18,
    guest_svn = CASE WHEN guest_svn > ?24 THEN guest_svn ELSE ?24 END, restoring = ?25, ephemeral = ?26
    WHERE tenant = ?1 AND vm = ?2 AND token = ?19 AND generation = ?20
    AND epoch = ?21 AND sequence = ?22 AND digest = ?23";

/// Reads the row of `vm`, if there is one.
pub(super) fn load(sql: &mut dyn Sql, vm: &VmName) -> Result<Option<Row>, StoreError> {
    let Some(columns) = sql.one(SELECT, &[vm.tenant.0.into(), vm.vm.0.into()])? else { return Ok(None) };
    let row = read(columns)?;
    if row.is_lawful() { Ok(Some(row)) } else { Err(StoreError::Damaged) }
}

fn read(mut columns: Columns) -> Result<Row, StoreError> {
    let life = life(columns.integer()?)?;
    let generation = u32::try_from(columns.integer()?).map_err(|_| StoreError::Damaged)?;
    let (token, epoch) = (columns.number()?, columns.number()?);
    let head = Head { sequence: columns.number()?, digest: columns.array()? };
    let current = columns.maybe_number()?.map(|token| SecretName { token, epoch });
    let next = columns.maybe_number()?.map(|token| SecretName { token, epoch: epoch + 1 });
    let holder = match (columns.maybe_array()?, columns.maybe_array()?) {
        (Some(instance), Some(report_id)) => Some(Holder { instance: InstanceId(instance), report_id }),
        (None, None) => None,
        _ => return Err(StoreError::Damaged),
    };
    let (lease_until_ms, released) = (columns.number()?, columns.flag()?);
    let (bumped_from, forced) = (columns.maybe_number()?, columns.flag()?);
    let (overlap_until_ms, reset_base) = (columns.number()?, columns.integer()?.cast_unsigned());
    let guest_svn = u32::try_from(columns.integer()?).map_err(|_| StoreError::Damaged)?;
    let restoring =
        columns.maybe_number()?.map(u32::try_from).transpose().map_err(|_| StoreError::Damaged)?;
    let keeps = if columns.flag()? { Keeps::Nothing } else { Keeps::State };
    let assumed_until_ms = columns.number()?;
    let lease_until_ms = if released { lease_until_ms } else { lease_until_ms.max(assumed_until_ms) };
    Ok(Row {
        life,
        generation,
        token,
        epoch,
        head,
        current,
        next,
        holder,
        lease_until_ms,
        released,
        bumped_from,
        forced,
        overlap_until_ms,
        reset_base,
        guest_svn,
        restoring,
        keeps,
    })
}

/// Stores `new` over `old`, if `old` is still what the database holds; closes the tickets that are used up with it, and erases the
/// secrets whose names are gone; whether there were any.
pub(super) fn swap(sql: &mut dyn Sql, vm: &VmName, old: &Row, new: &Row) -> Result<bool, StoreError> {
    let token = |name: Option<SecretName>| name.map(|name| to_sql(name.token)).transpose();
    let values: [Value; 26] = [
        vm.tenant.0.into(),
        vm.vm.0.into(),
        life_number(new.life).into(),
        i64::from(new.generation).into(),
        to_sql(new.token)?.into(),
        to_sql(new.epoch)?.into(),
        to_sql(new.head.sequence)?.into(),
        new.head.digest.into(),
        token(new.current)?.into(),
        token(new.next)?.into(),
        new.holder.map(|holder| holder.instance.0).into(),
        new.holder.map(|holder| holder.report_id).into(),
        to_sql(new.lease_until_ms)?.into(),
        new.released.into(),
        new.bumped_from.map(to_sql).transpose()?.into(),
        new.forced.into(),
        to_sql(new.overlap_until_ms)?.into(),
        // Any 64 bits: it counts round.
        new.reset_base.cast_signed().into(),
        to_sql(old.token)?.into(),
        i64::from(old.generation).into(),
        to_sql(old.epoch)?.into(),
        to_sql(old.head.sequence)?.into(),
        old.head.digest.into(),
        i64::from(new.guest_svn).into(),
        new.restoring.map(i64::from).into(),
        (new.keeps == Keeps::Nothing).into(),
    ];
    if sql.execute(UPDATE, &values)? != 1 {
        return Err(StoreError::Raced);
    }
    let used = [
        (old.forced && !new.forced, TicketOrder::Force),
        (old.restoring.is_some() && new.restoring.is_none(), TicketOrder::Restore),
        (old.restoring.is_some() && new.restoring.is_none(), TicketOrder::Clone),
    ];
    for (_, order) in used.into_iter().filter(|(is_used, _)| *is_used) {
        let statement = "UPDATE tickets SET is_open = ?3 WHERE tenant = ?1 AND vm = ?2 AND given = ?4";
        let given = i64::from(order as u8);
        sql.execute(statement, &[vm.tenant.0.into(), vm.vm.0.into(), false.into(), given.into()])?;
    }
    if old.restoring.is_some() && new.restoring.is_none() {
        restores::forget(sql, vm)?;
    }
    let mut erased = false;
    for name in gone(old, new) {
        sql.execute(
            "DELETE FROM secrets WHERE tenant = ?1 AND vm = ?2 AND token = ?3",
            &[vm.tenant.0.into(), vm.vm.0.into(), to_sql(name.token)?.into()],
        )?;
        erased = true;
    }
    Ok(erased)
}

/// Names that `old` has and `new` has not.
pub(super) fn gone<'r>(old: &'r Row, new: &'r Row) -> impl Iterator<Item = SecretName> + 'r {
    [old.current, old.next]
        .into_iter()
        .flatten()
        .filter(|name| new.current != Some(*name) && new.next != Some(*name))
}

const fn life_number(life: Life) -> i64 {
    match life {
        Life::Virgin => 0,
        Life::Active => 1,
        Life::Halted => 2,
        Life::Retired => 3,
    }
}

pub(super) const fn life(number: i64) -> Result<Life, StoreError> {
    match number {
        0 => Ok(Life::Virgin),
        1 => Ok(Life::Active),
        2 => Ok(Life::Halted),
        3 => Ok(Life::Retired),
        _ => Err(StoreError::Damaged),
    }
}
