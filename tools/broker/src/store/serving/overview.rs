//! All tenants' VMs at a moment, for the broker's own operator.

use super::{Serving, newest};
use crate::admin::life_word;
use crate::audit::Entry;
use crate::ids::{TenantId, VmName};
use crate::rules::Row;
use crate::store::columns::{life, load};
use crate::store::sql::{Sql, transact};
use crate::store::{Store, StoreError, audit, vm_names};

/// How many VMs one page shows.
pub const PAGE_VMS_MAX: u32 = 100;
/// How many events of each of the page's tenants are looked at.
const EVENTS_OF_TENANT: u32 = 20;
/// How many events one page shows.
const EVENTS_MAX: usize = 50;

/// One VM of a page.
#[derive(Clone, Debug)]
pub struct SeenVm {
    /// Its name.
    pub name: VmName,
    /// Its row; none where it is damaged.
    pub row: Option<Row>,
    /// When it was refused last, and by which rule.
    pub last_refusal: Option<(u64, String)>,
}

/// One page.
#[derive(Clone, Debug)]
pub struct Overview {
    /// The database's clock in milliseconds.
    pub now_ms: u64,
    /// In order.
    pub vms: Vec<SeenVm>,
    /// There are more VMs, behind this one.
    pub next: Option<VmName>,
    /// The newest events of these VMs' tenants, newest first.
    pub events: Vec<(TenantId, Entry)>,
}

impl Serving {
    /// How often this process found the database set back.
    #[must_use]
    pub const fn set_backs(&self) -> u64 {
        self.set_backs
    }

    /// [`PAGE_VMS_MAX`] VMs that come after one, all of one moment. Changes nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn overview(&mut self, after: Option<VmName>) -> Result<Overview, StoreError> {
        self.on_the_newest(|serving| {
            let Self { store, world, seen, commits, root_check, .. } = serving;
            transact(&mut *store.database, |sql| {
                let mut shared = newest(sql, root_check, *commits)?;
                let now_ms = shared.ratchet(sql, *seen, || world.now_ms())?.database_ms;
                page(sql, after, now_ms)
            })
        })
    }
}

fn page(sql: &mut dyn Sql, after: Option<VmName>, now_ms: u64) -> Result<Overview, StoreError> {
    // No id is less than nothing.
    let (tenant, vm) =
        after.map_or((Vec::new(), Vec::new()), |name| (name.tenant.0.to_vec(), name.vm.0.to_vec()));
    let statement = "SELECT tenant, vm FROM vms WHERE tenant > ?1 OR (tenant = ?1 AND vm > ?2)
        ORDER BY tenant, vm LIMIT ?3";
    let most = i64::from(PAGE_VMS_MAX);
    let names = sql.query(statement, &[tenant.as_slice().into(), vm.as_slice().into(), most.into()])?;
    let names = vm_names(names)?;
    let next = names.last().copied().filter(|_| names.len() == PAGE_VMS_MAX as usize);
    let (mut vms, mut events, mut tenants) = (Vec::new(), Vec::new(), Vec::new());
    for name in names {
        let row = match load(sql, &name) {
            Err(StoreError::Damaged) => None,
            row => row?,
        };
        vms.push(SeenVm { name, row, last_refusal: audit::last_refusal(sql, &name)? });
        if tenants.last() != Some(&name.tenant) {
            tenants.push(name.tenant);
        }
    }
    for tenant in tenants {
        let newest = audit::newest(sql, tenant, EVENTS_OF_TENANT)?;
        events.extend(newest.into_iter().map(|(entry, _)| (tenant, entry)));
    }
    events.sort_by_key(|(_, entry)| std::cmp::Reverse((entry.at_ms, entry.number)));
    events.truncate(EVENTS_MAX);
    Ok(Overview { now_ms, vms, next, events })
}

impl Store {
    /// How many VMs of all tenants stand where, by the word of their life.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn lives(&mut self) -> Result<Vec<(&'static str, u64)>, StoreError> {
        self.transact(|sql| {
            let counted = sql.query("SELECT life, count(*) FROM vms GROUP BY life", &[])?;
            counted
                .into_iter()
                .map(|mut columns| Ok((life_word(life(columns.integer()?)?), columns.number()?)))
                .collect()
        })
    }
}
