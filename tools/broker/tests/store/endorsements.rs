//! Whose an endorsement key is, and what was issued for it.

use crate::bench::{Bench, Place, TENANT, VM};
use husk_broker::ids::{TenantId, VmId, VmName};
use husk_broker::store::{Authority, Endorsed, NotEndorsed, StoreError};
use husk_broker::vault::{RootKeys, VaultError, fresh_secret};

const OTHER: VmName = VmName { tenant: TENANT, vm: VmId([3; 16]) };

fn key(kind: u8, name: u8) -> Endorsed {
    Endorsed { kind, name: vec![name; 34], public: vec![name; 90], certificate: None }
}

fn issued(key: &Endorsed) -> Endorsed {
    Endorsed { certificate: Some(vec![key.kind]), ..key.clone() }
}

/// TCG EK certificates name a TPM: a key is one VM's, a VM has one of a kind, and all of a request are noted or none.
pub(crate) fn ek_cert_keys_are_one_vms_of_a_tenant(place: Place) {
    let bench = Bench::at(place);
    let mut store = bench.made();
    bench.enrol(&mut store, &OTHER);
    let issue = |key: &Endorsed| Ok(Some(vec![key.kind]));
    // Issued already: an error here would be seen.
    let never = |_: &Endorsed| -> Result<Option<Vec<u8>>, StoreError> { Err(StoreError::Damaged) };
    let keys = [key(1, 1), key(4, 2)];
    assert_eq!(store.endorse(&VM, &keys, issue).unwrap(), Ok(keys.each_ref().map(issued).to_vec()));
    assert_eq!(store.endorse(&VM, &keys, never).unwrap(), Ok(keys.each_ref().map(issued).to_vec()));
    let taken = [key(2, 7), key(4, 2)];
    assert_eq!(store.endorse(&OTHER, &taken, never).unwrap(), Err(NotEndorsed::OtherVm(VM.vm)));
    assert_eq!(store.endorse(&VM, &[key(2, 7), key(4, 9)], never).unwrap(), Err(NotEndorsed::Changed));
    assert_eq!(store.endorsed(&OTHER).unwrap(), []);
    assert_eq!(store.endorsed(&VM).unwrap(), keys.each_ref().map(issued));
    assert!(matches!(store.bring_certificate(&VM, 1, b"other"), Err(StoreError::CertificateExists(VM))));
    assert!(matches!(store.bring_certificate(&VM, 2, b"other"), Err(StoreError::UnknownKey(VM))));

    let failing = store.endorse(&OTHER, &[key(1, 5), key(2, 6)], |key| match key.kind {
        1 => Ok(Some(vec![1])),
        _ => Err(StoreError::WornOut),
    });
    assert!(matches!(failing, Err(StoreError::WornOut)));
    assert_eq!(store.endorsed(&OTHER).unwrap(), [], "all or none");
    assert_eq!(store.endorse(&OTHER, &[key(1, 5)], |_| Ok(None)).unwrap(), Ok(vec![key(1, 5)]));
    store.bring_certificate(&OTHER, 1, b"from elsewhere").unwrap();
    let brought = store.endorse(&OTHER, &[key(1, 5)], never).unwrap().unwrap();
    assert_eq!(brought[0].certificate.as_deref(), Some(&b"from elsewhere"[..]));
    assert_eq!(store.forget_endorsed(&VM).unwrap(), 2);
    assert!(store.endorse(&OTHER, &[key(4, 2)], issue).unwrap().is_ok(), "whom nobody has is free");
    an_authority_is_one_tenants(&bench);
}

/// Its key opens for its tenant only, and is wrapped anew with everything else.
fn an_authority_is_one_tenants(bench: &Bench) {
    let mut store = bench.open();
    assert_eq!(store.authority(TENANT).unwrap(), None);
    let secret = fresh_secret(&*bench.world).unwrap();
    let wrapped = bench.keys.wrap_authority(&*bench.world, TENANT, &secret).unwrap();
    let elsewhere = bench.keys.unwrap_authority(TenantId([9; 16]), &wrapped);
    assert!(matches!(elsewhere, Err(VaultError::Altered)));
    let authority = Authority { certificate: vec![0x30], keys: 4, wrapped: Some(wrapped.clone()) };
    store.authorize(TENANT, &authority).unwrap();
    assert!(matches!(store.authorize(TENANT, &authority), Err(StoreError::AuthorityExists(TENANT))));
    let nobody = TenantId([9; 16]);
    assert!(matches!(store.authorize(nobody, &authority), Err(StoreError::UnknownTenant(_))));
    assert_eq!(store.authority(TENANT).unwrap().as_ref(), Some(&authority));

    let new: RootKeys = bench.keys.rotated(&*bench.world).unwrap();
    store.rotate(&*bench.world, &bench.keys, &new).unwrap();
    let rewrapped = store.authority(TENANT).unwrap().unwrap().wrapped.unwrap();
    assert_ne!(rewrapped, wrapped);
    let opened = new.unwrap_authority(TENANT, &rewrapped).unwrap();
    assert!(opened.with(|a| secret.with(|b| a == b)));
    assert!(matches!(bench.keys.unwrap_authority(TENANT, &rewrapped), Err(VaultError::Altered)));
}
