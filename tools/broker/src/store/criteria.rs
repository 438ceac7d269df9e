//! What reports of a VM are judged by: all of it as one transaction saw it.

use super::columns::load;
use super::quota::{Quota, quota};
use super::{Enrolment, Store, StoreError, certificates, enrolment};
use crate::ids::VmName;
use crate::rules::Row;

/// What reports of a VM are judged by, and what its tenant may have, at one moment.
#[derive(Clone, Debug)]
pub struct Criteria {
    /// How it was enrolled.
    pub enrolment: Enrolment,
    /// Its row.
    pub row: Row,
    /// Which [`Trusted`](super::Trusted) the database has.
    pub trust_version: u64,
    /// What its tenant may have.
    pub quota: Quota,
}

impl Store {
    /// What reports of a VM are judged by now.
    ///
    /// # Errors
    /// [`StoreError::UnknownVm`] and others.
    pub fn criteria(&mut self, vm: &VmName) -> Result<Criteria, StoreError> {
        self.transact(|sql| {
            Ok(Criteria {
                enrolment: enrolment(sql, vm)?,
                row: load(sql, vm)?.ok_or(StoreError::UnknownVm(*vm))?,
                trust_version: certificates::version(sql)?,
                quota: quota(sql, vm.tenant)?,
            })
        })
    }
}
