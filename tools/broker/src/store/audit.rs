//! Entries of tenants' logs: made in the transaction of what they tell, so that neither is there without the other.
//!
//! Renewals and anchors are not entered: they are many, and the other entries say where the state's head stands. A VM's complaint is entered
//! once between two other events, and so is each refusal, a few by one rule at most: whoever knocks cannot fill the disk.

use super::StoreError;
use super::clock::Shared;
use super::sql::{Columns, Sql, to_sql};
use crate::audit::{Entry, Event, Head};
use crate::ids::{TenantId, VmId, VmName};
use crate::policy::Refusal;
use crate::rules::{Keeps, Order, Reply, Request, Row};
use std::time::{SystemTime, UNIX_EPOCH};

/// The most entries that one look gives.
pub const ENTRIES_MAX: u32 = 100;

/// How many refusals by one rule are entered between two other events.
const KIND_MAX: usize = 4;

/// Enters an event at a moment of the database's clock.
pub(super) fn enter(
    sql: &mut dyn Sql,
    vm: &VmName,
    at_ms: u64,
    (event, detail): (Event, String),
) -> Result<(), StoreError> {
    let before = head(sql, vm.tenant)?;
    let number = before.number.checked_add(1).ok_or(StoreError::WornOut)?;
    let entry = Entry { number, at_ms, calendar_s: calendar_s(), vm: vm.vm, event, detail };
    let after = before.after(vm.tenant, &entry);
    let Entry { at_ms, calendar_s, event, detail, .. } = entry;
    let [number, at_ms, calendar_s] = [number, at_ms, calendar_s].map(to_sql);
    sql.execute(
        "INSERT INTO audit (tenant, number, at_ms, calendar_s, vm, event, detail, digest)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        &[
            vm.tenant.0.into(),
            number?.into(),
            at_ms?.into(),
            calendar_s?.into(),
            vm.vm.0.into(),
            event.word().to_owned().into(),
            detail.into(),
            after.digest.into(),
        ],
    )
    .map(drop)
}

/// As [`enter`], at what the database's clock shows.
pub(super) fn enter_now(sql: &mut dyn Sql, vm: &VmName, what: (Event, String)) -> Result<(), StoreError> {
    let now_ms = Shared::read(sql)?.now_ms();
    enter(sql, vm, now_ms, what)
}

/// Enters a complaint, unless the VM has had the same one since anything else happened to it, or [`KIND_MAX`] that begin with `kind`;
/// the number of the entry that stands for it.
pub(super) fn enter_once(
    sql: &mut dyn Sql,
    vm: &VmName,
    (event, detail): (Event, String),
    kind: &str,
) -> Result<u64, StoreError> {
    let [refused, missing] = [Event::Refused, Event::StateMissing].map(|event| event.word().to_owned());
    let since = "SELECT COALESCE(MAX(number), 0) FROM audit WHERE tenant = ?1 AND vm = ?2
        AND event <> ?3 AND event <> ?4";
    let values = [vm.tenant.0.into(), vm.vm.0.into(), refused.into(), missing.into()];
    let since = sql.one(since, &values)?.ok_or(StoreError::Damaged)?.integer()?;
    let statement = "SELECT number, detail FROM audit WHERE tenant = ?1 AND vm = ?2 AND event = ?3
        AND number > ?4 AND SUBSTR(detail, 1, LENGTH(CAST(?5 AS TEXT))) = CAST(?5 AS TEXT) ORDER BY number";
    let word = event.word().to_owned();
    let values = [vm.tenant.0.into(), vm.vm.0.into(), word.into(), since.into(), kind.to_owned().into()];
    let mut found = Vec::new();
    for mut columns in sql.query(statement, &values)? {
        found.push((columns.number()?, columns.text()?));
    }
    let same = found.iter().find(|(_, known)| *known == detail);
    let full = || found.last().filter(|_| !kind.is_empty() && found.len() >= KIND_MAX);
    if let Some((number, _)) = same.or_else(full) {
        return Ok(*number);
    }
    enter_now(sql, vm, (event, detail))?;
    Ok(head(sql, vm.tenant)?.number)
}

/// Enters that somebody was refused, by which rule and why; the number of the entry that stands for it.
pub(super) fn enter_refusal(sql: &mut dyn Sql, vm: &VmName, refusal: &Refusal) -> Result<u64, StoreError> {
    let kind = format!("{}: ", refusal.rule.word());
    enter_once(sql, vm, (Event::Refused, refusal.to_string()), &kind)
}

/// What a decision is in the log, if it is one to tell of.
pub(super) fn told(row: &Row, new: &Row, request: &Request, reply: &Reply) -> Option<(Event, String)> {
    let head = || format!("sequence {}, digest {}", new.head.sequence, hex::encode(new.head.digest));
    match (request, reply) {
        (_, Reply::Granted(grant)) => {
            let (token, generation, purpose) = (grant.token, grant.generation, grant.purpose());
            Some((Event::Granted, format!("token {token}, generation {generation}, {purpose}")))
        }
        (Request::Confirm(_), _) if new.epoch != row.epoch => {
            let restored = match new.generation {
                same if same == row.generation => String::new(),
                generation => format!(", restored to generation {generation}"),
            };
            Some((
                Event::Confirmed,
                format!("token {}, epoch {}, {}{restored}", new.token, new.epoch, head()),
            ))
        }
        (Request::Confirm(_), _) if new.keeps == Keeps::Nothing && row.next.is_some() => {
            Some((Event::Confirmed, format!("token {}, of a TPM that keeps nothing", new.token)))
        }
        (Request::Bump { .. }, _) if new.token != row.token => {
            Some((Event::Reset, format!("token {}, {}", new.token, head())))
        }
        (Request::Release { .. }, _) if new.released && !row.released => {
            Some((Event::Released, format!("token {}, {}", new.token, head())))
        }
        _ => None,
    }
}

/// An order that was carried out.
pub(super) fn ordered(order: Order, new: &Row) -> (Event, String) {
    let what = match (order, new.restoring) {
        (Order::Restore(backed), Some(generation)) => {
            format!("restore, of generation {} to {generation}", backed.generation)
        }
        (Order::Clone(original), Some(generation)) => {
            let (vm, of) = (original.vm, original.backed.generation);
            format!("clone of VM {vm}'s, of generation {of} to {generation}")
        }
        _ => format!("{order:?}").to_lowercase(),
    };
    (Event::Ordered, format!("{what}, token {}", new.token))
}

/// The head of a tenant's log.
pub(super) fn head(sql: &mut dyn Sql, tenant: TenantId) -> Result<Head, StoreError> {
    let statement = "SELECT number, digest FROM audit WHERE tenant = ?1 ORDER BY number DESC LIMIT 1";
    let Some(mut found) = sql.one(statement, &[tenant.0.into()])? else { return Ok(Head::NONE) };
    Ok(Head { number: found.number()?, digest: found.array()? })
}

/// A tenant's entries behind number `after`, [`ENTRIES_MAX`] at most.
pub(super) fn entries(
    sql: &mut dyn Sql,
    tenant: TenantId,
    after: u64,
) -> Result<Vec<(Entry, Head)>, StoreError> {
    let statement = "SELECT number, at_ms, calendar_s, vm, event, detail, digest FROM audit
        WHERE tenant = ?1 AND number > ?2 ORDER BY number LIMIT ?3";
    let found =
        sql.query(statement, &[tenant.0.into(), to_sql(after)?.into(), i64::from(ENTRIES_MAX).into()])?;
    found.into_iter().map(entry).collect()
}

/// A tenant's newest entries, newest first.
pub(super) fn newest(
    sql: &mut dyn Sql,
    tenant: TenantId,
    count: u32,
) -> Result<Vec<(Entry, Head)>, StoreError> {
    let statement = "SELECT number, at_ms, calendar_s, vm, event, detail, digest FROM audit
        WHERE tenant = ?1 ORDER BY number DESC LIMIT ?2";
    sql.query(statement, &[tenant.0.into(), i64::from(count).into()])?.into_iter().map(entry).collect()
}

/// The newest refusal of a VM: when, and by which rule.
pub(super) fn last_refusal(sql: &mut dyn Sql, vm: &VmName) -> Result<Option<(u64, String)>, StoreError> {
    let statement = "SELECT at_ms, detail FROM audit WHERE tenant = ?1 AND vm = ?2 AND event = ?3
        ORDER BY number DESC LIMIT 1";
    let word = Event::Refused.word().to_owned();
    let found = sql.one(statement, &[vm.tenant.0.into(), vm.vm.0.into(), word.into()])?;
    found.map(|mut found| Ok((found.number()?, found.text()?))).transpose()
}

fn entry(mut columns: Columns) -> Result<(Entry, Head), StoreError> {
    let [number, at_ms, calendar_s] = [columns.number()?, columns.number()?, columns.number()?];
    let vm = VmId(columns.array()?);
    let event = Event::from_word(&columns.text()?).ok_or(StoreError::Damaged)?;
    let detail = columns.text()?;
    let digest = columns.array()?;
    Ok((Entry { number, at_ms, calendar_s, vm, event, detail }, Head { number, digest }))
}

/// The calendar of this process's machine, for people; 0 before 1970.
fn calendar_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
