//! What a thief of the database has, and what an older copy opens.

use crate::bench::{A, B, Bench, LEASE_MS, Place, VM, confirm, create, grant, head, release};
use crate::server::Server;
use husk_broker::rules::{Reply, Request};
use husk_broker::store::{Store, StoreError};
use husk_broker::vault::RootKeys;
use std::path::Path;
use std::sync::Arc;

/// Whether any file below `folder` holds `needle`.
fn holds(folder: &Path, needle: &[u8]) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        // A server's files come and go.
        if path.is_dir() {
            holds(&path, needle)
        } else {
            std::fs::read(&path).is_ok_and(|bytes| bytes.windows(needle.len()).any(|part| part == needle))
        }
    })
}

/// A VM between two epochs; both secrets, and what is there of them.
fn granted(bench: &Bench) -> [[u8; 32]; 2] {
    let mut serving = bench.serving();
    create(&mut serving, A);
    assert_eq!(release(&mut serving, A), Reply::Done);
    let (_, current, next) = grant(&mut serving, B);
    [current.unwrap(), next.unwrap()]
}

#[test]
fn a_stolen_file_holds_no_secret_and_no_key() {
    let bench = Bench::at(Place::file());
    let secrets = granted(&bench);
    let folder = bench.place.folder();
    bench.keys.write(&folder.join("root")).unwrap();
    let root = std::fs::read_to_string(folder.join("root")).unwrap();
    std::fs::remove_file(folder.join("root")).unwrap();
    assert!(holds(&folder, &VM.vm.0), "the test can find what is there");
    for secret in secrets {
        assert!(!holds(&folder, &secret) && !holds(&folder, hex::encode(secret).as_bytes()));
    }
    for line in root.lines().filter(|line| line.starts_with("wrapping ") || line.starts_with("signing ")) {
        let text = line.split_once(' ').unwrap().1;
        assert!(!holds(&folder, text.as_bytes()) && !holds(&folder, &hex::decode(text).unwrap()));
    }
}

/// Also in the log and in pages that were written over.
pub(crate) fn a_stolen_cluster_holds_no_secret(server: &Server) {
    let bench = Bench::at(Place::on(server, "stolen"));
    let secrets = granted(&bench);
    server.sql("stolen", "CHECKPOINT");
    assert!(holds(&server.data(), &VM.vm.0), "the test can find what is there");
    for secret in secrets {
        assert!(!holds(&server.data(), &secret), "an epoch secret lies open");
    }
}

/// A law on every database (see `laws`).
pub(crate) fn a_rotation_wraps_every_secret_anew(place: Place) {
    let mut bench = Bench::at(place);
    let [current, next] = granted(&bench);
    let old = Arc::clone(&bench.keys);
    let new = Arc::new(old.rotated(&*bench.world).unwrap());
    assert_eq!(bench.open().rotate(&*bench.world, &old, &new).unwrap(), 2);
    let refused = bench.open().rotate(&*bench.world, &old, &new);
    assert!(matches!(refused, Err(StoreError::OtherKeys)), "the old keys are nobody's");
    assert_eq!(new.signing().point(), old.signing().point(), "VMs and tenants know the broker as before");
    bench.keys = new;
    let mut serving = bench.serve(bench.open(), LEASE_MS);
    assert!(matches!(confirm(&mut serving, B, head(2)), Reply::Leased { .. }));
    assert_eq!(release(&mut serving, B), Reply::Done);
    let (_, reopened, _) = grant(&mut serving, A);
    assert_eq!(reopened, Some(next), "what was granted before the rotation opens after it");
    assert_ne!(reopened, Some(current));
}

#[test]
fn what_an_older_copy_wraps_is_under_the_old_key_alone() {
    let bench = Bench::at(Place::file());
    granted(&bench);
    let folder = bench.place.folder();
    let wrapped = sealed(&bench.place);
    assert!(wrapped.iter().all(|bytes| holds(&folder, bytes)), "the test can find what is there");
    let new = bench.keys.rotated(&*bench.world).unwrap();
    bench.open().rotate(&*bench.world, &bench.keys, &new).unwrap();
    assert!(!wrapped.iter().any(|bytes| holds(&folder, bytes)), "nothing of the old wrapping is left");
    assert_eq!(sealed(&bench.place).len(), wrapped.len());
}

fn sealed(place: &Place) -> Vec<Vec<u8>> {
    let connection = rusqlite::Connection::open(place.path()).unwrap();
    let mut select = connection.prepare("SELECT sealed FROM secrets").unwrap();
    select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[test]
fn a_served_file_is_not_rotated() {
    let bench = Bench::at(Place::file());
    let _serving = bench.serving();
    let new = bench.keys.rotated(&*bench.world).unwrap();
    let refused = Store::open(&bench.place.path()).unwrap().rotate(&*bench.world, &bench.keys, &new);
    assert!(matches!(refused, Err(StoreError::Served)));
}

/// Brokers that serve PostgreSQL meanwhile decide nothing under keys that are over.
pub(crate) fn a_rotation_stops_brokers_with_the_old_keys(server: &Server) {
    let bench = Bench::at(Place::on(server, "rotated"));
    let mut serving = bench.serving();
    create(&mut serving, A);
    let new: RootKeys = bench.keys.rotated(&*bench.world).unwrap();
    bench.open().rotate(&*bench.world, &bench.keys, &new).unwrap();
    let refused = serving.decide(&VM, A, &Request::Renew { token: 1, generation: 0 });
    assert!(matches!(refused, Err(StoreError::OtherKeys)));
}
