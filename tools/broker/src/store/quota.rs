//! What a tenant may have of a broker that others share.

use super::sql::Sql;
use super::{Store, StoreError};
use crate::ids::TenantId;

/// What one tenant may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// VMs that it may have and still enrol one itself; the broker's operator may enrol more.
    pub vms: u32,
    /// Sessions of its proven instances; one more closes its oldest, whose instance comes back with RESUME.
    pub sessions: u32,
    /// Requests of its operators in [`WINDOW_MS`](crate::admin::WINDOW_MS).
    pub requests: u32,
}

/// What a tenant has of whom nothing else was said.
pub const QUOTA: Quota = Quota { vms: 1000, sessions: 16_384, requests: 600 };

/// What the operator says of a tenant; none: as [`QUOTA`] has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allotted {
    /// See [`Quota::vms`].
    pub vms: Option<u32>,
    /// See [`Quota::sessions`].
    pub sessions: Option<u32>,
    /// See [`Quota::requests`].
    pub requests: Option<u32>,
}

impl Store {
    /// What a tenant may have.
    ///
    /// # Errors
    /// [`StoreError::UnknownTenant`] and others.
    pub fn quota(&mut self, tenant: TenantId) -> Result<Quota, StoreError> {
        self.transact(|sql| quota(sql, tenant))
    }

    /// Says what a tenant may have, as far as `change` has it otherwise; yields what it has then. What it has beyond stays, and it gets no
    /// more.
    ///
    /// # Errors
    /// [`StoreError::UnknownTenant`] and others.
    pub fn allot(
        &mut self,
        tenant: TenantId,
        change: impl FnOnce(&mut Allotted),
    ) -> Result<Quota, StoreError> {
        self.change(|sql| {
            let mut now = said(sql, tenant)?;
            change(&mut now);
            let [vms, sessions, requests] =
                [now.vms, now.sessions, now.requests].map(|count| count.map(i64::from).into());
            let statement =
                "UPDATE tenants SET vms_max = ?2, sessions_max = ?3, requests_max = ?4 WHERE tenant = ?1";
            sql.execute(statement, &[tenant.0.into(), vms, sessions, requests])?;
            quota(sql, tenant)
        })
    }
}

/// What a tenant may have.
pub(super) fn quota(sql: &mut dyn Sql, tenant: TenantId) -> Result<Quota, StoreError> {
    let Allotted { vms, sessions, requests } = said(sql, tenant)?;
    Ok(Quota {
        vms: vms.unwrap_or(QUOTA.vms),
        sessions: sessions.unwrap_or(QUOTA.sessions),
        requests: requests.unwrap_or(QUOTA.requests),
    })
}

fn said(sql: &mut dyn Sql, tenant: TenantId) -> Result<Allotted, StoreError> {
    let statement = "SELECT vms_max, sessions_max, requests_max FROM tenants WHERE tenant = ?1";
    let mut found = sql.one(statement, &[tenant.0.into()])?.ok_or(StoreError::UnknownTenant(tenant))?;
    let mut next = || {
        let count = found.maybe_integer()?;
        count.map(|count| u32::try_from(count).map_err(|_| StoreError::Damaged)).transpose()
    };
    Ok(Allotted { vms: next()?, sessions: next()?, requests: next()? })
}
