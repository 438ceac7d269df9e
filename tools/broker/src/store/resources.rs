//! Resources of VMs, wrapped.

use super::sql::Sql;
use super::{Store, StoreError, enrolment};
use crate::ids::{TenantId, VmId, VmName};
use crate::vault::RootKeys;
use crate::world::World;

/// How many resources a VM may have.
pub const RESOURCES_MAX: usize = 64;

impl Store {
    /// The VM that was enrolled with this HOST_DATA. It is one at most: the digest is of a configuration with the VM's name in it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn enrolled_with(&mut self, host_data: &[u8; 32]) -> Result<Option<VmName>, StoreError> {
        self.transact(|sql| {
            let found = sql.one("SELECT tenant, vm FROM vms WHERE host_data = ?1", &[(*host_data).into()])?;
            found
                .map(|mut found| Ok(VmName { tenant: TenantId(found.array()?), vm: VmId(found.array()?) }))
                .transpose()
        })
    }

    /// Keeps a resource of `vm`; one that is there only with `replace`.
    ///
    /// # Errors
    /// [`StoreError::UnknownVm`], [`StoreError::ResourceExists`], [`StoreError::ResourcesFull`] and others.
    pub fn keep_resource(
        &mut self,
        vm: &VmName,
        path: &str,
        sealed: &[u8],
        replace: bool,
    ) -> Result<(), StoreError> {
        self.change(|sql| {
            enrolment(sql, vm)?;
            let there = paths(sql, vm)?;
            let is_there = there.iter().any(|known| known == path);
            if is_there && !replace {
                return Err(StoreError::ResourceExists(path.to_owned()));
            }
            if !is_there && there.len() >= RESOURCES_MAX {
                return Err(StoreError::ResourcesFull);
            }
            remove(sql, vm, path)?;
            let statement = "INSERT INTO resources (tenant, vm, path, sealed) VALUES (?1, ?2, ?3, ?4)";
            let path = path.to_owned().into();
            sql.execute(statement, &[vm.tenant.0.into(), vm.vm.0.into(), path, sealed.into()]).map(drop)
        })?;
        self.database.scrub();
        Ok(())
    }

    /// Removes a resource.
    ///
    /// # Errors
    /// [`StoreError::UnknownResource`] and others.
    pub fn remove_resource(&mut self, vm: &VmName, path: &str) -> Result<(), StoreError> {
        let removed = self.change(|sql| remove(sql, vm, path))?;
        self.database.scrub();
        if removed == 1 { Ok(()) } else { Err(StoreError::UnknownResource(path.to_owned())) }
    }

    /// A resource of `vm`, as it was wrapped.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn resource(&mut self, vm: &VmName, path: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.transact(|sql| {
            let statement = "SELECT sealed FROM resources WHERE tenant = ?1 AND vm = ?2 AND path = ?3";
            let path = path.to_owned().into();
            let found = sql.one(statement, &[vm.tenant.0.into(), vm.vm.0.into(), path])?;
            found.map(|mut found| found.bytes()).transpose()
        })
    }

    /// The paths of a VM's resources, in order.
    ///
    /// # Errors
    /// [`StoreError::UnknownVm`] and others.
    pub fn resources(&mut self, vm: &VmName) -> Result<Vec<String>, StoreError> {
        self.transact(|sql| {
            enrolment(sql, vm)?;
            paths(sql, vm)
        })
    }
}

fn paths(sql: &mut dyn Sql, vm: &VmName) -> Result<Vec<String>, StoreError> {
    let statement = "SELECT path FROM resources WHERE tenant = ?1 AND vm = ?2 ORDER BY path";
    let found = sql.query(statement, &[vm.tenant.0.into(), vm.vm.0.into()])?;
    found.into_iter().map(|mut columns| columns.text()).collect()
}

fn remove(sql: &mut dyn Sql, vm: &VmName, path: &str) -> Result<u64, StoreError> {
    let statement = "DELETE FROM resources WHERE tenant = ?1 AND vm = ?2 AND path = ?3";
    sql.execute(statement, &[vm.tenant.0.into(), vm.vm.0.into(), path.to_owned().into()])
}

/// Wraps every resource anew, under `new` in place of `old`; how many there were.
pub(super) fn rewrap(
    sql: &mut dyn Sql,
    world: &dyn World,
    old: &RootKeys,
    new: &RootKeys,
) -> Result<usize, StoreError> {
    let found = sql.query("SELECT tenant, vm, path, sealed FROM resources", &[])?;
    let count = found.len();
    for mut columns in found {
        let vm = VmName { tenant: TenantId(columns.array()?), vm: VmId(columns.array()?) };
        let (path, sealed) = (columns.text()?, columns.bytes()?);
        let sealed = new.wrap_resource(world, &vm, &path, &old.unwrap_resource(&vm, &path, &sealed)?)?;
        sql.execute(
            "UPDATE resources SET sealed = ?4 WHERE tenant = ?1 AND vm = ?2 AND path = ?3",
            &[vm.tenant.0.into(), vm.vm.0.into(), path.into(), sealed.as_slice().into()],
        )?;
    }
    Ok(count)
}
