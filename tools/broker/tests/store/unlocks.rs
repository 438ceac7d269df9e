//! Secrets of guests, as they are kept.

use crate::bench::{Bench, LEASE_MS, Place, TENANT, VM};
use crate::world::TestWorld;
use husk::release::wire::UnlockVerdict;
use husk_broker::audit::Event;
use husk_broker::store::{KeptUnlock, ShownTpm, StoreError};
use husk_broker::unlock::{PcrPolicy, PcrValues};

const SECRET: &[u8] = b"a passphrase of the tenant's";

fn policy(value: u8) -> (PcrValues, PcrPolicy) {
    let values = PcrValues::from([(11, [value; 32])]);
    (values.clone(), PcrPolicy::new(vec![values]).unwrap())
}

/// Under the keys that are the broker's, for the policy that it is kept with, and for no other.
pub(crate) fn a_guests_secret_lies_wrapped_and_is_wrapped_anew(place: Place) {
    let bench = Bench::at(place);
    let mut store = bench.made();
    let (values, own) = policy(1);
    // Of a world of its own: salts lie in the open, and in the bench's they would be what another law's world has drawn as secrets of a VM.
    let world = TestWorld::new(2);
    let sealed = bench.keys.wrap_unlock(&world, &VM, ("root", &own), SECRET).unwrap();
    let kept = KeptUnlock { name: "root".to_owned(), policy: own.clone(), sealed };
    store.keep_unlock(&VM, &kept, false).unwrap();
    assert_eq!(store.unlocks(&VM).unwrap().as_slice(), std::slice::from_ref(&kept));
    assert!(!kept.sealed.windows(SECRET.len()).any(|part| part == SECRET));

    let new = bench.keys.rotated(&world).unwrap();
    assert_eq!(bench.open().rotate(&world, &bench.keys, &new).unwrap(), 1);
    let [anew] = bench.open().unlocks(&VM).unwrap().try_into().unwrap();
    assert_ne!(anew.sealed, kept.sealed);
    assert_eq!(**new.unwrap_unlock(&VM, ("root", &own), &anew.sealed).unwrap(), *SECRET);
    assert!(bench.keys.unwrap_unlock(&VM, ("root", &own), &anew.sealed).is_err());
    assert!(new.unwrap_unlock(&VM, ("root", &policy(2).1), &anew.sealed).is_err());

    // Nobody's TPM: the refusal is in the log, and no more of them than a few.
    for name in 0..9_u8 {
        let endorsement = [name; 34];
        let shown = ShownTpm { endorsement: &endorsement, resets: 0, values: &values };
        let taken = bench.open().take_unlock(&VM, "root", &shown).unwrap();
        assert_eq!(taken, Err(UnlockVerdict::OtherTpm));
    }
    let log = bench.open().audit(TENANT, 0).unwrap();
    let refused = log.iter().filter(|(entry, _)| entry.event == Event::Refused).count();
    assert!((1..=4).contains(&refused), "{refused}");
    let mut serving = bench_with(&bench, new);
    assert_eq!(serving.store().unlocks(&VM).unwrap(), [anew]);
    serving.change(|store| store.remove_unlock(&VM, "root")).unwrap();
    let again = serving.change(|store| store.remove_unlock(&VM, "root"));
    assert!(matches!(again, Err(StoreError::UnknownUnlock(_))));
}

fn bench_with(bench: &Bench, keys: husk_broker::vault::RootKeys) -> husk_broker::store::Serving {
    let world = std::sync::Arc::clone(&bench.world);
    husk_broker::store::Serving::begin(bench.open(), std::sync::Arc::new(keys), world, LEASE_MS).unwrap()
}
