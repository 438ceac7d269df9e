//! A database that was set back to an older state is noticed, and serves nobody's yesterday.

use crate::bench::{A, B, Bench, LEASE_MS, Place, VM, anchor, create, grant, head};
use husk::release::wire::DeniedReason;
use husk_broker::rules::{Life, Order, Reply, Request};
use husk_broker::store::{Counter, Serving, StoreError};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const BARRED: Reply = Reply::Denied(DeniedReason::Lifecycle);

fn copied(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A served file whose commits an external counter counts; its folder, and the counter's file.
struct Counted {
    bench: Bench,
    counter: PathBuf,
    _elsewhere: TempDir,
}

impl Counted {
    fn new() -> Self {
        let bench = Bench::at(Place::file());
        let elsewhere = tempfile::tempdir().unwrap();
        let counter = elsewhere.path().join("counter");
        let mut store = bench.made();
        Counter::create(&counter, bench.keys.broker(), store.commits().unwrap()).unwrap();
        Self { bench, counter, _elsewhere: elsewhere }
    }

    fn serve(&self) -> Serving {
        let serving = self.bench.serve(self.bench.open(), LEASE_MS);
        serving.with_counter(Counter::open(&self.counter).unwrap()).unwrap()
    }

    /// Served with a TPM of instance A, and a copy of the folder as it is then.
    fn created_and_copied(&self) -> (Serving, TempDir) {
        let copy = tempfile::tempdir().unwrap();
        let mut serving = self.serve();
        create(&mut serving, A);
        copied(&self.bench.place.folder(), copy.path());
        (serving, copy)
    }

    /// The copy takes the place of what is there.
    fn put_back(&self, copy: &TempDir) {
        let folder = self.bench.place.folder();
        for entry in std::fs::read_dir(&folder).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        copied(copy.path(), &folder);
    }
}

#[test]
fn a_database_that_was_set_back_halts_every_vm() {
    let counted = Counted::new();
    let (mut serving, copy) = counted.created_and_copied();
    anchor(&mut serving, A);
    drop(serving);
    drop(counted.serve());
    let mut serving = counted.serve();
    assert_eq!(serving.store().row(&VM).unwrap().life, Life::Active, "an honest restart halts nobody");
    drop(serving);
    counted.put_back(&copy);
    let mut serving = counted.serve();
    let row = serving.store().row(&VM).unwrap();
    assert_eq!((row.life, row.head), (Life::Halted, head(1)));
    counted.bench.world.pass(u64::from(LEASE_MS));
    assert_eq!(grant(&mut serving, B).0, BARRED);
    drop(serving);
    let mut serving = counted.serve();
    serving.store().operate(&VM, Order::Resume).unwrap();
    counted.bench.world.pass(u64::from(LEASE_MS));
    assert!(
        matches!(grant(&mut serving, B).0, Reply::Granted(_)),
        "the owner's word counts, and once is enough"
    );
}

/// What a tenant forbade is not allowed again by an older copy: the counter knew of it before the tenant did.
#[test]
fn a_database_that_was_set_back_behind_a_change_of_policy_halts_every_vm() {
    let counted = Counted::new();
    let (mut serving, copy) = counted.created_and_copied();
    serving.change(|store| store.amend(&VM, |policy| policy.measurements.clear())).unwrap();
    drop(serving);
    assert_eq!(counted.serve().store().row(&VM).unwrap().life, Life::Active);
    counted.put_back(&copy);
    assert_eq!(counted.serve().store().row(&VM).unwrap().life, Life::Halted);
}

/// The commit before the crash was not acknowledged: the counter may lack it, the database may not.
#[test]
fn a_death_between_commit_and_counter_halts_nobody() {
    let counted = Counted::new();
    let mut serving = counted.serve();
    create(&mut serving, A);
    let before = std::fs::read(&counted.counter).unwrap();
    anchor(&mut serving, A);
    drop(serving);
    std::fs::write(&counted.counter, before).unwrap();
    assert_eq!(counted.serve().store().row(&VM).unwrap().life, Life::Active);
}

#[test]
fn a_counter_of_another_broker_is_refused() {
    let counted = Counted::new();
    let path = counted.counter.with_extension("other");
    Counter::create(&path, [9; 16], 0).unwrap();
    let serving = counted.bench.serve(counted.bench.open(), LEASE_MS);
    let refused = serving.with_counter(Counter::open(&path).unwrap());
    assert!(matches!(refused, Err(StoreError::Counter(_))));
}

/// A law on every database (see `laws`): who serves it needs no counter to notice.
pub(crate) fn a_database_that_goes_back_while_it_is_served_halts_every_vm(place: Place) {
    let bench = Bench::at(place);
    let mut serving = bench.serving();
    create(&mut serving, A);
    anchor(&mut serving, A);
    set_back(&bench);
    let renewal = Request::Renew { token: 1, generation: 0 };
    assert_eq!(serving.decide(&VM, A, &renewal).unwrap().reply, Reply::Fenced);
    assert_eq!(bench.open().row(&VM).unwrap().life, Life::Halted);
}

/// As far as a commit's number goes.
fn set_back(bench: &Bench) {
    use husk_broker::store::Location;
    const BACK: &str = "UPDATE broker SET commits = commits - 1";
    match &bench.place.location {
        Location::File(path) => rusqlite::Connection::open(path).unwrap().execute_batch(BACK).unwrap(),
        Location::Postgres(url) => {
            let mut client = postgres::Client::connect(url, postgres::NoTls).unwrap();
            client.batch_execute(&format!("SET search_path = husk; {BACK}")).unwrap();
        }
    }
}
