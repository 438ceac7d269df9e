//! What is SQLite's: the files, the lock, what others wrote into them.

use crate::bench::{A, B, Bench, LEASE_MS, Place, VM, anchor, ask, confirm, create, grant, head, release};
use crate::world::TestWorld;
use husk::release::restore::OpenedBackup;
use husk::release::ticket::Ticket;
use husk_broker::rules::{Reply, Request};
use husk_broker::store::{Serving, Store, StoreError};
use rusqlite::Connection;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

/// Neither in the database nor beside it: not even wrapped.
#[test]
fn an_erased_secret_is_gone_from_the_files() {
    let bench = Bench::at(Place::file());
    let mut serving = bench.serving();
    create(&mut serving, A);
    let wrapped: Vec<u8> = Connection::open(bench.place.path())
        .unwrap()
        .query_row("SELECT sealed FROM secrets", [], |row| row.get(0))
        .unwrap();
    assert!(holds(&bench.place, &wrapped), "the test can find what is there");
    assert_eq!(release(&mut serving, A), Reply::Done);
    grant(&mut serving, B);
    assert!(holds(&bench.place, &wrapped), "kept until CONFIRM");
    assert!(matches!(confirm(&mut serving, B, head(2)), Reply::Leased { .. }));
    assert!(!holds(&bench.place, &wrapped), "erased at CONFIRM");
}

fn holds(place: &Place, needle: &[u8]) -> bool {
    std::fs::read_dir(place.folder()).unwrap().any(|entry| {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        bytes.windows(needle.len()).any(|window| window == needle)
    })
}

#[test]
fn an_answered_commit_survives_the_process() {
    let bench = Bench::at(Place::file());
    let mut serving = bench.serving();
    create(&mut serving, A);
    for sequence in 2..20 {
        anchor(&mut serving, A);
        // A copy taken now is what a crash leaves: nothing was closed or written back in order.
        let copy = Place::file();
        for entry in std::fs::read_dir(bench.place.folder()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.folder().join(entry.file_name())).unwrap();
        }
        let mut reopened = Store::open(&copy.path()).unwrap();
        assert_eq!(reopened.row(&VM).unwrap().head, head(sequence));
    }
}

#[test]
fn a_restart_waits_a_lease_and_no_longer() {
    let bench = Bench::at(Place::file());
    let mut serving = bench.serving();
    create(&mut serving, A);
    drop(serving);
    let mut serving = bench.serve(bench.open(), 1000);
    bench.world.pass(u64::from(LEASE_MS));
    assert!(matches!(grant(&mut serving, B).0, Reply::Granted(_)));
}

#[test]
fn one_broker_serves_a_file() {
    let bench = Bench::at(Place::file());
    let serving = bench.serving();
    let world: Arc<TestWorld> = Arc::clone(&bench.world);
    let second = Serving::begin(bench.open(), Arc::clone(&bench.keys), world, LEASE_MS);
    assert!(matches!(second, Err(StoreError::Served)));
    drop(serving);
    bench.serve(bench.open(), LEASE_MS);
    let mut lock = bench.place.path().into_os_string();
    lock.push(".serving");
    let mode = std::fs::metadata(lock).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "whoever can open the lock can hold it");
}

#[test]
fn foreign_files_are_refused() {
    let bench = Bench::at(Place::file());
    drop(bench.made());
    let connection = Connection::open(bench.place.path()).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(Store::open(&bench.place.path()), Err(StoreError::Newer)));
    connection.pragma_update(None, "application_id", 1).unwrap();
    assert!(matches!(Store::open(&bench.place.path()), Err(StoreError::NotOurs)));
    let text = bench.place.folder().join("text");
    std::fs::write(&text, "no database at all, but long enough to be read").unwrap();
    assert!(matches!(Store::open(&text), Err(StoreError::Database(_))));
}

#[test]
fn a_damaged_row_is_refused_and_not_repaired() {
    let bench = Bench::at(Place::file());
    let mut serving = bench.serving();
    create(&mut serving, A);
    assert_eq!(release(&mut serving, A), Reply::Done);
    let connection = Connection::open(bench.place.path()).unwrap();
    for change in ["life = 9", "epoch = 0", "sequence = 0", "current_token = NULL", "life = 0", "token = -1"]
    {
        connection.execute_batch(&format!("BEGIN; UPDATE vms SET {change}; COMMIT")).unwrap();
        let refused = serving.decide(&VM, B, &Request::Grant { report_id: [0; 32], guest_svn: 0 });
        assert!(matches!(refused, Err(StoreError::Damaged)), "{change}");
        connection
            .execute_batch("UPDATE vms SET life = 1, epoch = 1, sequence = 1, token = 1, current_token = 1")
            .unwrap();
    }
    connection.execute_batch("UPDATE secrets SET salt = zeroblob(32)").unwrap();
    let refused = serving.decide(&VM, B, &Request::Grant { report_id: [0; 32], guest_svn: 0 });
    assert!(matches!(refused, Err(StoreError::Vault(_))));
    let row = serving.store().row(&VM).unwrap();
    assert_eq!((row.token, row.next), (1, None), "a failed decision is no decision");
}

/// What a broker of the first version left is served on.
#[test]
fn a_database_of_the_first_version_is_brought_up_to_date() {
    let bench = Bench::at(Place::file());
    drop(bench.serving());
    let connection = Connection::open(bench.place.path()).unwrap();
    connection
        .execute_batch(
            "ALTER TABLE broker DROP COLUMN server_ms; ALTER TABLE broker DROP COLUMN assumed_until_ms;
             ALTER TABLE broker DROP COLUMN commits; ALTER TABLE launches DROP COLUMN bound;
             ALTER TABLE vms DROP COLUMN forced; ALTER TABLE vms DROP COLUMN overlap_until_ms;
             ALTER TABLE vms DROP COLUMN reset_base; ALTER TABLE vms DROP COLUMN guest_svn;
             ALTER TABLE vms DROP COLUMN restoring; ALTER TABLE vms DROP COLUMN ephemeral; DROP TABLE restores; DROP TABLE restore_pieces;
             ALTER TABLE tenants DROP COLUMN operator_generation; DROP TABLE tickets;
             ALTER TABLE tenants DROP COLUMN vms_max; ALTER TABLE tenants DROP COLUMN sessions_max;
             ALTER TABLE tenants DROP COLUMN requests_max;
             DROP TABLE endorsements; DROP TABLE authorities;
             DROP TABLE audit; DROP TABLE backups; DROP TABLE requests;
             DROP TABLE resources; DROP INDEX vms_by_host_data;
             DROP TABLE unlocks; DROP TABLE certificates; DROP TABLE revocations; ALTER TABLE broker DROP COLUMN trust;
             PRAGMA user_version = 1;",
        )
        .unwrap();
    let mut serving = bench.serve(bench.open(), LEASE_MS);
    create(&mut serving, A);
    assert!(serving.store().bind_launch(&VM, &[5; 32], A).unwrap());
}

/// A backup that was brought whole, when a file was one column.
#[test]
fn a_backup_that_was_brought_to_version_13_is_there_afterwards() {
    let bench = Bench::at(Place::file());
    drop(bench.serving());
    let connection = Connection::open(bench.place.path()).unwrap();
    let (ticket, opened) = (vec![0; Ticket::BYTES], vec![0; OpenedBackup::BYTES]);
    connection
        .execute_batch(
            "ALTER TABLE vms DROP COLUMN ephemeral; DROP TABLE unlocks; DROP TABLE restore_pieces; ALTER TABLE restores ADD COLUMN file BLOB NOT NULL DEFAULT x'';
             PRAGMA user_version = 13;",
        )
        .unwrap();
    let statement = "INSERT INTO restores (tenant, vm, ordered, ticket, opened, file)
        VALUES (?1, ?2, 1, ?3, ?4, x'0102030405')";
    connection.execute(statement, (VM.tenant.0, VM.vm.0, ticket, opened)).unwrap();
    let mut store = bench.open();
    assert!(store.restore(&VM).unwrap().is_some());
    assert_eq!(store.restore_bytes(&VM, 1..4).unwrap(), [2, 3, 4]);
}

/// A transaction that SQLite refuses for one row's sake: the others are decided without it.
#[test]
fn a_row_that_the_database_refuses_fails_alone() {
    let bench = Bench::at(Place::file());
    let mut store = bench.made();
    let other = husk_broker::ids::VmName { vm: husk_broker::ids::VmId([5; 16]), ..VM };
    bench.enrol(&mut store, &other);
    let mut serving = bench.serve(store, LEASE_MS);
    let connection = Connection::open(bench.place.path()).unwrap();
    connection
        .execute_batch(
            "CREATE TRIGGER bar BEFORE UPDATE ON vms WHEN NEW.vm = x'05050505050505050505050505050505'
             BEGIN SELECT RAISE(ABORT, 'barred'); END",
        )
        .unwrap();
    let grant = |vm| husk_broker::store::Ask {
        vm,
        caller: A,
        request: Request::Grant { report_id: [1; 32], guest_svn: 0 },
    };
    let decided = serving.decide_all(&[grant(other), grant(VM)]).unwrap();
    assert!(matches!(&decided[0], Err(StoreError::Database(_))));
    assert!(matches!(decided[1].as_ref().unwrap().reply, Reply::Granted(_)));
    let row = serving.store().row(&other).unwrap();
    assert_eq!((row.token, row.next), (0, None), "nothing is left of it");
    assert_eq!(
        ask(&mut serving, A, Request::Renew { token: 1, generation: 0 }).reply,
        Reply::Denied(husk::release::wire::DeniedReason::Order)
    );
}
