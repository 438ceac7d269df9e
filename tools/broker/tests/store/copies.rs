//! Copies of a database, and one that is put back: what happened since is lost, and nothing of it works any more.

use crate::bench::{A, B, Bench, LEASE_MS, Place, TENANT, VM, anchor, create, grant, head, release};
use crate::server::Server;
use husk::release::statement::Outcome;
use husk::release::ticket::{Ticket, TicketOrder};
use husk::release::wire::DeniedReason;
use husk_broker::rules::{Backed, Life, Order, Reply, Request};
use husk_broker::store::{Admission, Asked, Counter, Location, Serving, Store, StoreError};
use std::os::unix::fs::PermissionsExt;
use zerocopy::FromZeros;

const BARRED: Reply = Reply::Denied(DeniedReason::Lifecycle);

/// What a host, a relay or a tenant kept from the time that is lost.
struct Kept {
    renewal: Request,
    anchored: Request,
    ticket: Ticket,
    request: Asked,
}

/// Beyond the copy: another launch, one commit more, a ticket and a signed request, both used.
fn lived_on(serving: &mut Serving, instance: husk_broker::rules::InstanceId) -> Kept {
    let anchored = anchor(serving, instance);
    let row = serving.store().row(&VM).unwrap();
    let renewal = Request::Renew { token: row.token, generation: row.generation };
    let mut ticket = Ticket::new_zeroed();
    (ticket.vm, ticket.order, ticket.id) = (VM.vm.0, TicketOrder::Force as u8, [5; 16]);
    (ticket.token, ticket.generation) = (row.token.into(), row.generation.into());
    ticket.until_ms = u64::MAX.into();
    assert_eq!(serving.order(&VM, &ticket, Order::Force).unwrap(), Outcome::Open);
    let request = Asked { generation: 1, nonce: [6; 16], time_ms: serving.now_ms().unwrap() };
    assert_eq!(serving.admit(TENANT, &request).unwrap(), Admission::Admitted);
    Kept { renewal, anchored, ticket, request }
}

/// The restored database serves nothing old until its tenant says so, and then waits for whoever may have been granted since.
fn serves_nothing_of_before(mut serving: Serving, kept: &Kept) -> Serving {
    let row = serving.store().row(&VM).unwrap();
    assert_eq!((row.life, row.head), (Life::Halted, head(1)), "what the copy knew, and halted");
    for instance in [A, B] {
        assert_eq!(grant(&mut serving, instance).0, BARRED);
        for request in [kept.renewal, kept.anchored] {
            assert_eq!(serving.decide(&VM, instance, &request).unwrap().reply, Reply::Fenced);
        }
    }
    assert_eq!(serving.order(&VM, &kept.ticket, Order::Force).unwrap(), Outcome::Overtaken);
    assert_eq!(serving.admit(TENANT, &kept.request).unwrap(), Admission::Stale);
    serving.store().operate(&VM, Order::Resume).unwrap();
    for request in [kept.renewal, kept.anchored] {
        assert_eq!(
            serving.decide(&VM, A, &request).unwrap().reply,
            Reply::Fenced,
            "its grant is of another time"
        );
    }
    let busy = grant(&mut serving, B).0;
    assert_eq!(busy, Reply::Busy { retry_ms: LEASE_MS }, "whoever was granted since may still answer");
    let log = serving.store().audit(TENANT, 0).unwrap();
    assert!(log.iter().any(|(entry, _)| entry.detail.contains("restored from a copy, made at commit")));
    serving
}

/// What is granted at last is nothing that two instances could share.
fn grants_apart_from_before(bench: &Bench, mut serving: Serving) {
    bench.world.pass(u64::from(LEASE_MS));
    let (reply, current, _) = grant(&mut serving, B);
    assert!(current.is_some());
    // No launch since the copy had such a token. A disk that is newer than the head says so, and the VM is halted again.
    let is_apart =
        matches!(reply, Reply::Granted(granted) if granted.token > 1 << 20 && granted.head == head(1));
    assert!(is_apart, "{reply:?}");
}

#[test]
fn a_database_that_is_put_back_serves_no_vm_from_the_old_head() {
    let bench = Bench::at(Place::file());
    let counter = tempfile::tempdir().unwrap();
    let counter = counter.path().join("counter");
    let mut store = bench.made();
    Counter::create(&counter, bench.keys.broker(), store.commits().unwrap()).unwrap();
    let serving = bench.serve(store, LEASE_MS);
    let mut serving = serving.with_counter(Counter::open(&counter).unwrap()).unwrap();
    create(&mut serving, A);
    let copy = bench.place.folder().join("copy");
    let commits = bench.open().copy_to(&copy).unwrap();
    assert_eq!(commits, serving.store().commits().unwrap(), "while it is served");
    assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(bench.open().copy_to(&copy), Err(StoreError::Exists)), "never over a file");
    let kept = lived_on(&mut serving, A);
    drop(serving);

    let mut restored = Store::open(&copy).unwrap();
    let mut opened = Counter::open(&counter).unwrap();
    let done = restored.quarantine(&bench.keys, Some(&mut opened)).unwrap();
    assert_eq!((done.halted, done.retired, done.copied_at), (1, 0, commits));
    assert_eq!(opened.commits(), done.commits);
    drop((restored, opened));
    let serve = || {
        let serving = bench.serve(Store::open(&copy).unwrap(), LEASE_MS);
        serving.with_counter(Counter::open(&counter).unwrap()).unwrap()
    };
    grants_apart_from_before(&bench, serves_nothing_of_before(serve(), &kept));
    let mut again = serve();
    assert_eq!(again.store().row(&VM).unwrap().life, Life::Active, "the counter takes it for what it is");
    assert_eq!(again.set_backs(), 0);
}

/// What was brought for it may have been used up since: the tenant decides anew.
#[test]
fn a_restore_of_a_tpm_that_was_open_in_the_copy_is_taken_back() {
    let bench = Bench::at(Place::file());
    let mut serving = bench.serving();
    create(&mut serving, A);
    let backed = Backed { generation: 0, token: 1 };
    let ordered = serving.store().operate(&VM, Order::Restore(backed)).unwrap();
    assert_eq!((ordered.life, ordered.restoring), (Life::Active, Some(1)));
    let copy = bench.place.folder().join("copy");
    bench.open().copy_to(&copy).unwrap();
    drop(serving);
    let mut restored = Store::open(&copy).unwrap();
    restored.quarantine(&bench.keys, None).unwrap();
    let row = restored.row(&VM).unwrap();
    assert_eq!((row.life, row.restoring, row.generation), (Life::Halted, None, 0));
    assert!(row.token > ordered.token);
    let resumed = restored.operate(&VM, Order::Resume).unwrap();
    assert_eq!((resumed.life, resumed.restoring), (Life::Active, None), "the next launch restores nothing");
}

/// A VM that was stopped in order when the copy was made may have been started since.
#[test]
fn a_restore_waits_for_whoever_was_granted_since_the_copy() {
    let bench = Bench::at(Place::file());
    let mut serving = bench.serving();
    create(&mut serving, A);
    release(&mut serving, A);
    let copy = bench.place.folder().join("copy");
    bench.open().copy_to(&copy).unwrap();
    drop(serving);
    let mut restored = Store::open(&copy).unwrap();
    restored.quarantine(&bench.keys, None).unwrap();
    restored.operate(&VM, Order::Resume).unwrap();
    drop(restored);
    let mut serving = bench.serve(Store::open(&copy).unwrap(), LEASE_MS);
    assert!(matches!(grant(&mut serving, B).0, Reply::Busy { .. }));
}

#[test]
fn a_restore_leaves_what_is_over_and_wants_the_keys_and_no_server() {
    let bench = Bench::at(Place::file());
    let mut store = bench.made();
    store.operate(&VM, Order::Retire).unwrap();
    let other = Bench::at(Place::file()).elsewhere();
    let other =
        Bench { keys: husk_broker::vault::RootKeys::generate(&*other.world).unwrap().into(), ..other };
    assert!(matches!(store.quarantine(&other.keys, None), Err(StoreError::OtherKeys)));
    drop(store);
    let serving = bench.serve(bench.open(), LEASE_MS);
    assert!(matches!(bench.open().quarantine(&bench.keys, None), Err(StoreError::Served)));
    drop(serving);
    let done = bench.open().quarantine(&bench.keys, None).unwrap();
    assert_eq!((done.halted, done.retired), (0, 1));
    assert_eq!(bench.open().row(&VM).unwrap().life, Life::Retired);
}

/// PostgreSQL copies and puts back by tools of its own; what follows is the same.
#[test]
fn a_postgres_database_that_is_put_back_serves_no_vm_from_the_old_head() {
    let server = Server::start();
    let bench = Bench::at(Place::on(&server, "husk"));
    let mut serving = bench.serving();
    create(&mut serving, A);
    let refused = bench.open().copy_to(std::path::Path::new("copy"));
    assert!(refused.is_err_and(|error| error.to_string().contains("pg_dump")));
    let restored = Place::on(&server, "restored");
    server.copied("husk", "restored");
    let kept = lived_on(&mut serving, A);
    drop(serving);
    let mut store = Store::open_at(&restored.location).unwrap();
    store.quarantine(&bench.keys, None).unwrap();
    assert!(matches!(restored.location, Location::Postgres(_)));
    drop(serves_nothing_of_before(bench.serve(store, LEASE_MS), &kept));
}
