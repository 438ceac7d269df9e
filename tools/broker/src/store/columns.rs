//! A VM's row as columns, and back. What comes back is checked as if a stranger had written it.

use super::StoreError;
use crate::ids::VmName;
use crate::rules::{Holder, InstanceId, Life, Row, SecretName};
use husk::release::Head;
use rusqlite::types::FromSql;
use rusqlite::{OptionalExtension, Transaction, named_params};

const SELECT: &str = "SELECT life, generation, token, epoch, sequence, digest, current_token, next_token,
    holder, holder_report, lease_until_ms, released, bumped_from
    FROM vms WHERE tenant = :tenant AND vm = :vm";

/// The compare-and-swap: nothing changes unless token, generation, epoch and head are what the decision was made on.
const UPDATE: &str = "UPDATE vms SET life = :life, generation = :generation, token = :token, epoch = :epoch,
    sequence = :sequence, digest = :digest, current_token = :current, next_token = :next,
    holder = :holder, holder_report = :holder_report, lease_until_ms = max(lease_until_ms, :lease_until_ms),
    released = :released, bumped_from = :bumped_from
    WHERE tenant = :tenant AND vm = :vm AND token = :token_0 AND generation = :generation_0
    AND epoch = :epoch_0 AND sequence = :sequence_0 AND digest = :digest_0";

/// Reads the row of `vm`, if there is one.
pub(super) fn load(transaction: &Transaction<'_>, vm: &VmName) -> Result<Option<Row>, StoreError> {
    let mut select = transaction.prepare_cached(SELECT)?;
    let names = named_params! { ":tenant": vm.tenant.0, ":vm": vm.vm.0 };
    let found = select.query_row(names, |columns| Ok(read(columns))).optional()?;
    let Some(row) = found.transpose()? else { return Ok(None) };
    if row.is_lawful() { Ok(Some(row)) } else { Err(StoreError::Damaged) }
}

fn read(columns: &rusqlite::Row<'_>) -> Result<Row, StoreError> {
    let epoch = number(columns, "epoch")?;
    let current: Option<i64> = columns.get("current_token")?;
    let next: Option<i64> = columns.get("next_token")?;
    let instance: Option<[u8; 48]> = columns.get("holder")?;
    let report_id: Option<[u8; 32]> = columns.get("holder_report")?;
    let bumped_from: Option<i64> = columns.get("bumped_from")?;
    Ok(Row {
        life: life(columns.get("life")?)?,
        generation: u32::try_from(value::<i64>(columns, "generation")?).map_err(|_| StoreError::Damaged)?,
        token: number(columns, "token")?,
        epoch,
        head: Head { sequence: number(columns, "sequence")?, digest: columns.get("digest")? },
        current: current
            .map(|token| Ok::<_, StoreError>(SecretName { token: from_sql(token)?, epoch }))
            .transpose()?,
        next: next
            .map(|token| Ok::<_, StoreError>(SecretName { token: from_sql(token)?, epoch: epoch + 1 }))
            .transpose()?,
        holder: match (instance, report_id) {
            (Some(instance), Some(report_id)) => Some(Holder { instance: InstanceId(instance), report_id }),
            (None, None) => None,
            _ => return Err(StoreError::Damaged),
        },
        lease_until_ms: number(columns, "lease_until_ms")?,
        released: columns.get("released")?,
        bumped_from: bumped_from.map(from_sql).transpose()?,
    })
}

/// Stores `new` over `old`, if `old` is still what the database holds.
pub(super) fn swap(
    transaction: &Transaction<'_>,
    vm: &VmName,
    old: &Row,
    new: &Row,
) -> Result<(), StoreError> {
    let token = |name: Option<SecretName>| name.map(|name| to_sql(name.token)).transpose();
    let changed = transaction.prepare_cached(UPDATE)?.execute(named_params! {
        ":tenant": vm.tenant.0,
        ":vm": vm.vm.0,
        ":life": life_number(new.life),
        ":generation": new.generation,
        ":token": to_sql(new.token)?,
        ":epoch": to_sql(new.epoch)?,
        ":sequence": to_sql(new.head.sequence)?,
        ":digest": new.head.digest,
        ":current": token(new.current)?,
        ":next": token(new.next)?,
        ":holder": new.holder.map(|holder| holder.instance.0),
        ":holder_report": new.holder.map(|holder| holder.report_id),
        ":lease_until_ms": to_sql(new.lease_until_ms)?,
        ":released": new.released,
        ":bumped_from": new.bumped_from.map(to_sql).transpose()?,
        ":token_0": to_sql(old.token)?,
        ":generation_0": old.generation,
        ":epoch_0": to_sql(old.epoch)?,
        ":sequence_0": to_sql(old.head.sequence)?,
        ":digest_0": old.head.digest,
    })?;
    if changed == 1 { Ok(()) } else { Err(StoreError::Raced) }
}

fn value<T: FromSql>(columns: &rusqlite::Row<'_>, name: &str) -> Result<T, StoreError> {
    Ok(columns.get(name)?)
}

fn number(columns: &rusqlite::Row<'_>, name: &str) -> Result<u64, StoreError> {
    from_sql(value(columns, name)?)
}

/// SQLite's integers are signed; ours never reach their end.
pub(super) fn from_sql(stored: i64) -> Result<u64, StoreError> {
    u64::try_from(stored).map_err(|_| StoreError::Damaged)
}

/// The other way.
pub(super) fn to_sql(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(|_| StoreError::WornOut)
}

const fn life_number(life: Life) -> i64 {
    match life {
        Life::Virgin => 0,
        Life::Active => 1,
        Life::Halted => 2,
        Life::Retired => 3,
    }
}

const fn life(number: i64) -> Result<Life, StoreError> {
    match number {
        0 => Ok(Life::Virgin),
        1 => Ok(Life::Active),
        2 => Ok(Life::Halted),
        3 => Ok(Life::Retired),
        _ => Err(StoreError::Damaged),
    }
}
