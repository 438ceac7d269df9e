//! Authorities and the endorsement keys that they certify.
//!
//! **Laws.** One VM of a tenant has a key, and a VM has one key of each kind. What was issued for a key once is what is told of it ever after. A TPM that ends
//! with its launch has new keys at each: the newest launch's take the place of all before.

use super::columns::load;
use super::sql::{Columns, Sql, Value};
use super::{Store, StoreError, tenant};
use crate::ids::{TenantId, VmId, VmName};
use crate::rules::Keeps;
use crate::vault::Wrapped;
use husk_evidence::EndorsementPublic;

/// A tenant's authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    /// The endorsement keys that it certifies, as a sum.
    pub keys: u8,
    /// Its wrapped key; none where another authority issues and its certificates are brought here.
    pub wrapped: Option<Wrapped>,
}

/// An endorsement key of a VM that has shown to hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endorsed {
    /// As [`EndorsementKey::bit`](husk::engine::EndorsementKey::bit).
    pub kind: u8,
    /// Its TPM Name.
    pub name: Vec<u8>,
    /// Its TPMT_PUBLIC.
    pub public: Vec<u8>,
    /// Its certificate, DER, once there is one.
    pub certificate: Option<Vec<u8>>,
}

impl Endorsed {
    /// A key that has no certificate yet.
    #[must_use]
    pub fn of(key: &EndorsementPublic) -> Self {
        Self { kind: key.key().bit(), name: key.name(), public: key.public().to_vec(), certificate: None }
    }
}

/// Why a key is not certified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotEndorsed {
    /// Another VM of the tenant has it.
    OtherVm(VmId),
    /// The VM has another key of that kind.
    Changed,
}

impl Store {
    /// Gives a tenant its authority.
    ///
    /// # Errors
    /// [`StoreError::AuthorityExists`], [`StoreError::UnknownTenant`] and others.
    pub fn authorize(&mut self, id: TenantId, authority: &Authority) -> Result<(), StoreError> {
        let added = self.change(|sql| {
            tenant(sql, id)?;
            let statement = "INSERT INTO authorities (tenant, certificate, keys, salt, sealed)
                VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING";
            let Authority { certificate, keys, wrapped } = authority;
            let salt = wrapped.as_ref().map(|wrapped| wrapped.salt);
            let sealed = wrapped.as_ref().map(|wrapped| wrapped.sealed);
            let values = [
                id.0.into(),
                certificate.as_slice().into(),
                i64::from(*keys).into(),
                salt.into(),
                sealed.into(),
            ];
            sql.execute(statement, &values)
        })?;
        if added == 1 { Ok(()) } else { Err(StoreError::AuthorityExists(id)) }
    }

    /// A tenant's authority, if it has one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn authority(&mut self, id: TenantId) -> Result<Option<Authority>, StoreError> {
        self.transact(|sql| {
            let statement = "SELECT certificate, keys, salt, sealed FROM authorities WHERE tenant = ?1";
            sql.one(statement, &[id.0.into()])?.map(authority).transpose()
        })
    }

    /// Notes that `vm` holds `keys`, and has `issue` certify those that have no certificate yet; what is known of each then. Either all are noted, or none.
    ///
    /// # Errors
    /// [`StoreError`], and what `issue` gives.
    pub fn endorse(
        &mut self,
        vm: &VmName,
        keys: &[Endorsed],
        mut issue: impl FnMut(&Endorsed) -> Result<Option<Vec<u8>>, StoreError>,
    ) -> Result<Result<Vec<Endorsed>, NotEndorsed>, StoreError> {
        self.change(|sql| {
            let row = load(sql, vm)?.ok_or(StoreError::UnknownVm(*vm))?;
            let mut known = Vec::new();
            for key in keys {
                match holder(sql, vm.tenant, &key.name)? {
                    Some(holder) if holder != vm.vm => return Ok(Err(NotEndorsed::OtherVm(holder))),
                    _ => {}
                }
                let mut stored = endorsed(sql, vm)?.into_iter().find(|stored| stored.kind == key.kind);
                let older = stored.take_if(|stored| stored.name != key.name);
                if older.is_some() && row.keeps == Keeps::State {
                    return Ok(Err(NotEndorsed::Changed));
                }
                known.push((stored.is_some(), stored.unwrap_or_else(|| key.clone())));
            }
            if row.keeps == Keeps::Nothing {
                forget_all_but(sql, vm, keys)?;
            }
            let mut all = Vec::new();
            for (is_stored, mut key) in known {
                if key.certificate.is_none() {
                    key.certificate = issue(&key)?;
                }
                if is_stored {
                    update(sql, vm, &key)?
                } else {
                    insert(sql, vm, &key)?
                }
                all.push(key);
            }
            Ok(Ok(all))
        })
    }

    /// The endorsement keys of a VM.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn endorsed(&mut self, vm: &VmName) -> Result<Vec<Endorsed>, StoreError> {
        self.transact(|sql| endorsed(sql, vm))
    }

    /// Brings the certificate that another authority issued for a key.
    ///
    /// # Errors
    /// [`StoreError::UnknownKey`] if the VM has no such key; [`StoreError::CertificateExists`] if it has another certificate.
    pub fn bring_certificate(&mut self, vm: &VmName, kind: u8, certificate: &[u8]) -> Result<(), StoreError> {
        self.change(|sql| {
            let stored = endorsed(sql, vm)?.into_iter().find(|stored| stored.kind == kind);
            let stored = stored.ok_or(StoreError::UnknownKey(*vm))?;
            match &stored.certificate {
                Some(there) if there != certificate => Err(StoreError::CertificateExists(*vm)),
                _ => update(sql, vm, &Endorsed { certificate: Some(certificate.to_vec()), ..stored }),
            }
        })
    }

    /// Forgets the endorsement keys of a VM, so that others can be certified; how many there were.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn forget_endorsed(&mut self, vm: &VmName) -> Result<u64, StoreError> {
        self.change(|sql| {
            sql.execute(
                "DELETE FROM endorsements WHERE tenant = ?1 AND vm = ?2",
                &[vm.tenant.0.into(), vm.vm.0.into()],
            )
        })
    }
}

fn authority(mut columns: Columns) -> Result<Authority, StoreError> {
    let (certificate, keys) = (columns.bytes()?, columns.integer()?);
    let wrapped = match (columns.maybe_array()?, columns.maybe_array()?) {
        (Some(salt), Some(sealed)) => Some(Wrapped { salt, sealed }),
        (None, None) => None,
        _ => return Err(StoreError::Damaged),
    };
    let keys = u8::try_from(keys).map_err(|_| StoreError::Damaged)?;
    Ok(Authority { certificate, keys, wrapped })
}

/// Which VM of the tenant has the key of that Name.
fn holder(sql: &mut dyn Sql, tenant: TenantId, name: &[u8]) -> Result<Option<VmId>, StoreError> {
    let statement = "SELECT vm FROM endorsements WHERE tenant = ?1 AND name = ?2";
    let found = sql.one(statement, &[tenant.0.into(), name.into()])?;
    found.map(|mut columns| columns.array().map(VmId)).transpose()
}

pub(super) fn endorsed(sql: &mut dyn Sql, vm: &VmName) -> Result<Vec<Endorsed>, StoreError> {
    let statement = "SELECT kind, name, public, certificate FROM endorsements
        WHERE tenant = ?1 AND vm = ?2 ORDER BY kind";
    let found = sql.query(statement, &[vm.tenant.0.into(), vm.vm.0.into()])?;
    found
        .into_iter()
        .map(|mut columns| {
            let kind = u8::try_from(columns.integer()?).map_err(|_| StoreError::Damaged)?;
            let (name, public) = (columns.bytes()?, columns.bytes()?);
            // A certificate that is not there yet is of no length.
            let certificate = Some(columns.bytes()?).filter(|certificate| !certificate.is_empty());
            Ok(Endorsed { kind, name, public, certificate })
        })
        .collect()
}

fn values(vm: &VmName, key: &Endorsed) -> [Value; 6] {
    [
        vm.tenant.0.into(),
        vm.vm.0.into(),
        i64::from(key.kind).into(),
        key.name.as_slice().into(),
        key.public.as_slice().into(),
        key.certificate.as_deref().unwrap_or_default().into(),
    ]
}

fn insert(sql: &mut dyn Sql, vm: &VmName, key: &Endorsed) -> Result<(), StoreError> {
    let statement = "INSERT INTO endorsements (tenant, vm, kind, name, public, certificate)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    sql.execute(statement, &values(vm, key)).map(drop)
}

/// The others were of a TPM that is gone.
fn forget_all_but(sql: &mut dyn Sql, vm: &VmName, keys: &[Endorsed]) -> Result<(), StoreError> {
    for older in endorsed(sql, vm)? {
        if !keys.iter().any(|key| key.name == older.name) {
            let statement = "DELETE FROM endorsements WHERE tenant = ?1 AND vm = ?2 AND name = ?3";
            sql.execute(statement, &[vm.tenant.0.into(), vm.vm.0.into(), older.name.as_slice().into()])?;
        }
    }
    Ok(())
}

fn update(sql: &mut dyn Sql, vm: &VmName, key: &Endorsed) -> Result<(), StoreError> {
    let [tenant, vm, kind, .., certificate] = values(vm, key);
    let statement = "UPDATE endorsements SET certificate = ?4 WHERE tenant = ?1 AND vm = ?2 AND kind = ?3";
    sql.execute(statement, &[tenant, vm, kind, certificate]).map(drop)
}
