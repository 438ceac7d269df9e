//! What the tenants' own operators ask for.

use super::quota::quota;
use super::serving::{Made, UNCHANGED};
use super::sql::{Sql, to_sql};
use super::{Enrolment, Serving, Store, StoreError, audit, vm_names};
use crate::admin::WINDOW_MS;
use crate::ids::{TenantId, VmName};
use crate::rules::Row;

/// How far the clock of one instance of a broker may be ahead of another's.
const AHEAD_MS: u64 = 1_000;

/// Whether a signed request is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is, now; never again.
    Admitted,
    /// A key of a higher generation was seen.
    Revoked,
    /// It is of another time.
    Stale,
    /// It was done.
    Replayed,
    /// The tenant asked too often.
    TooMany,
}

/// What tells one signed request from every other of its tenant.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The generation of the key that signed it.
    pub generation: u32,
    /// Random.
    pub nonce: [u8; 16],
    /// When, by the database's clock.
    pub time_ms: u64,
}

impl Serving {
    /// The database's clock in milliseconds, which this does not move.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn now_ms(&mut self) -> Result<u64, StoreError> {
        self.on_the_newest(Self::look)
    }

    /// Admits a request whose signatures held, once.
    ///
    /// # Errors
    /// [`StoreError::UnknownTenant`] and others; the request was not admitted then.
    pub fn admit(&mut self, tenant: TenantId, asked: &Asked) -> Result<Admission, StoreError> {
        self.on_the_newest(|serving| serving.in_time(|sql, now_ms| admission(sql, tenant, asked, now_ms)))
    }
}

fn admission(
    sql: &mut dyn Sql,
    tenant: TenantId,
    asked: &Asked,
    now_ms: u64,
) -> Result<(Admission, Made), StoreError> {
    if let Some(refused) = refusal(sql, tenant, asked, now_ms)? {
        return Ok((refused, UNCHANGED));
    }
    // Counted from now, whatever moment it names: so it is remembered for as long as it could be repeated, and longer.
    let until = to_sql(now_ms + AHEAD_MS + WINDOW_MS)?;
    let statement = "INSERT INTO requests (tenant, nonce, until_ms) VALUES (?1, ?2, ?3)";
    sql.execute(statement, &[tenant.0.into(), asked.nonce.into(), until.into()])?;
    // As with tickets: a key of a higher generation revokes the lower ones.
    let statement =
        "UPDATE tenants SET operator_generation = ?2 WHERE tenant = ?1 AND operator_generation < ?2";
    let raised = sql.execute(statement, &[tenant.0.into(), i64::from(asked.generation).into()])?;
    Ok((Admission::Admitted, Made { changed: raised > 0, erased: false }))
}

/// Why it is not admitted.
fn refusal(
    sql: &mut dyn Sql,
    tenant: TenantId,
    asked: &Asked,
    now_ms: u64,
) -> Result<Option<Admission>, StoreError> {
    let statement = "SELECT operator_generation FROM tenants WHERE tenant = ?1";
    let found = sql.one(statement, &[tenant.0.into()])?;
    let newest = found.ok_or(StoreError::UnknownTenant(tenant))?.number()?;
    if u64::from(asked.generation) < newest {
        return Ok(Some(Admission::Revoked));
    }
    if asked.time_ms > now_ms + AHEAD_MS || now_ms.saturating_sub(asked.time_ms) > WINDOW_MS {
        return Ok(Some(Admission::Stale));
    }
    let now = to_sql(now_ms)?;
    sql.execute("DELETE FROM requests WHERE tenant = ?1 AND until_ms < ?2", &[tenant.0.into(), now.into()])?;
    // Those of the last window: they are remembered for longer.
    let statement = "SELECT count(*) FROM requests WHERE tenant = ?1 AND until_ms >= ?2";
    let done = sql
        .one(statement, &[tenant.0.into(), to_sql(now_ms + AHEAD_MS)?.into()])?
        .ok_or(StoreError::Damaged)?
        .number()?;
    let statement = "SELECT until_ms FROM requests WHERE tenant = ?1 AND nonce = ?2";
    if sql.one(statement, &[tenant.0.into(), asked.nonce.into()])?.is_some() {
        return Ok(Some(Admission::Replayed));
    }
    Ok((done >= u64::from(quota(sql, tenant)?.requests)).then_some(Admission::TooMany))
}

impl Store {
    /// Enrols a VM by its tenant's own request.
    ///
    /// # Errors
    /// [`StoreError::VmsFull`], and as [`enrol`](Self::enrol).
    pub fn enrol_own(&mut self, vm: &VmName, enrolment: &Enrolment) -> Result<(), StoreError> {
        self.enrol_if(vm, enrolment, |sql| {
            let statement = "SELECT count(*) FROM vms WHERE tenant = ?1";
            let found = sql.one(statement, &[vm.tenant.0.into()])?.ok_or(StoreError::Damaged)?.number()?;
            if found < u64::from(quota(sql, vm.tenant)?.vms) { Ok(()) } else { Err(StoreError::VmsFull) }
        })
    }

    /// VMs of a tenant in order, `count` at most, that come after one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn vms_after(
        &mut self,
        tenant: TenantId,
        after: Option<[u8; 16]>,
        count: u32,
    ) -> Result<Vec<(VmName, Row)>, StoreError> {
        self.transact(|sql| {
            // No id is less than nothing.
            let after = after.map_or(Vec::new(), |id| id.to_vec());
            let statement = "SELECT tenant, vm FROM vms WHERE tenant = ?1 AND vm > ?2 ORDER BY vm LIMIT ?3";
            let values = [tenant.0.into(), after.as_slice().into(), i64::from(count).into()];
            let names = vm_names(sql.query(statement, &values)?)?;
            names
                .into_iter()
                .map(|name| Ok((name, super::load(sql, &name)?.ok_or(StoreError::Damaged)?)))
                .collect()
        })
    }

    /// The newest entry of a VM's that says by which rule it was refused, and when.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn last_refusal(&mut self, vm: &VmName) -> Result<Option<(u64, String)>, StoreError> {
        self.transact(|sql| audit::last_refusal(sql, vm))
    }
}
