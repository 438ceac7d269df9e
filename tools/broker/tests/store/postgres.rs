//! What is PostgreSQL's: the same laws, many brokers, and a server that must be good enough.

use crate::bench::{A, B, Bench, LEASE_MS, Place, VM, anchor, ask, create, grant, head, of};
use crate::laws::LAWS;
use crate::server::Server;
use husk_broker::rules::{Reply, Request};
use husk_broker::store::{Location, Store, StoreError};
use std::time::{Duration, Instant};

#[test]
fn postgres_keeps_every_law_of_the_store() {
    let mut server = Server::start();
    eprintln!("on PostgreSQL: crashes of the server");
    an_answered_commit_survives_the_servers_crash(&mut server);
    for (number, (name, law)) in LAWS.iter().enumerate() {
        eprintln!("on PostgreSQL: {name}");
        law(Place::on(&server, &format!("law{number}")));
    }
    eprintln!("on PostgreSQL: many brokers");
    two_brokers_decide_on_one_truth(&server);
    one_machines_clock_ends_no_lease(&server);
    crate::keys::a_stolen_cluster_holds_no_secret(&server);
    crate::keys::a_rotation_stops_brokers_with_the_old_keys(&server);
    eprintln!("on PostgreSQL: damage and weaker servers");
    a_damaged_row_is_refused_on_postgres(&server);
    a_server_that_promises_less_is_refused(&server);
}

fn two_brokers_decide_on_one_truth(server: &Server) {
    let bench = Bench::at(Place::on(server, "two"));
    let mut one = bench.serving();
    create(&mut one, A);
    let mut two = bench.serve(bench.open(), LEASE_MS);
    let last = anchor(&mut two, A);
    let leased = Reply::Leased { lease_ms: LEASE_MS };
    assert_eq!(ask(&mut one, A, last).reply, leased, "the answer was lost with the other broker");
    assert_eq!(ask(&mut one, A, Request::Resume { token: 1 }).reply, leased);
    assert!(matches!(grant(&mut one, B).0, Reply::Busy { .. }));
    assert_eq!(one.store().row(&VM).unwrap(), two.store().row(&VM).unwrap());
}

/// Neither a process whose clock is ahead nor one whose clock is behind moves the database's: it goes as the slowest
/// goes, so what really passes here counts, and nothing else.
fn one_machines_clock_ends_no_lease(server: &Server) {
    let bench = Bench::at(Place::on(server, "clocks"));
    let mut one = bench.serve(bench.made(), 300);
    create(&mut one, A);
    bench.world.pass(1_000_000_000);
    let mut wild = bench.serve(bench.open(), 300);
    let granted_at = Instant::now();
    create_again(&mut one);
    bench.world.pass(1_000_000_000);
    while matches!(grant(&mut wild, B).0, Reply::Busy { .. }) {
        bench.world.pass(1_000_000_000);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(granted_at.elapsed() >= Duration::from_millis(300), "{:?}", granted_at.elapsed());
}

fn create_again(serving: &mut husk_broker::store::Serving) {
    assert!(matches!(
        ask(serving, A, Request::Renew { token: 1, generation: 0 }).reply,
        Reply::Leased { .. }
    ));
}

fn a_damaged_row_is_refused_on_postgres(server: &Server) {
    let bench = Bench::at(Place::on(server, "damage"));
    let mut serving = bench.serving();
    create(&mut serving, A);
    for change in ["life = 9", "epoch = 0", "sequence = 0", "current_token = NULL", "life = 0", "token = -1"]
    {
        server.sql("damage", &format!("UPDATE husk.vms SET {change}"));
        let refused = serving.decide(&VM, A, &Request::Renew { token: 1, generation: 0 });
        assert!(matches!(refused, Err(StoreError::Damaged)), "{change}");
        let mend = "UPDATE husk.vms SET life = 1, epoch = 1, sequence = 1, token = 1, current_token = 1";
        server.sql("damage", mend);
    }
    server.sql("damage", "UPDATE husk.version SET version = 99");
    assert!(matches!(Store::open_at(&bench.place.location), Err(StoreError::Newer)));
}

fn a_server_that_promises_less_is_refused(server: &Server) {
    let bench = Bench::at(Place::on(server, "weak"));
    drop(bench.made());
    for setting in
        ["synchronous_commit = off", "synchronous_commit = local", "default_transaction_read_only = on"]
    {
        server.sql("postgres", &format!("ALTER DATABASE weak SET {setting}"));
        let refused = Store::open_at(&bench.place.location);
        assert!(matches!(refused, Err(StoreError::Weaker(_))), "{setting}: {refused:?}");
        server.sql("postgres", "ALTER DATABASE weak RESET ALL");
    }
    for setting in ["fsync", "full_page_writes"] {
        server.sql("postgres", &format!("ALTER SYSTEM SET {setting} = off"));
        server.sql("postgres", "SELECT pg_reload_conf()");
        let started = Instant::now();
        while !matches!(Store::open_at(&bench.place.location), Err(StoreError::Weaker(_))) {
            assert!(started.elapsed() < Duration::from_secs(30), "{setting} = off is accepted");
        }
        server.sql("postgres", &format!("ALTER SYSTEM RESET {setting}"));
        server.sql("postgres", "SELECT pg_reload_conf()");
    }
    for url in [
        "postgres://husk:secret@/weak?host=/tmp",
        "postgres://husk@example.org/weak",
        "postgres://husk@/weak",
    ] {
        let refused = Store::open_at(&Location::Postgres(url.to_owned()));
        assert!(matches!(refused, Err(StoreError::Url(_))), "{url}");
    }
}

/// The connection is lost, nothing is decided, and it goes on by itself with everything that was acknowledged.
fn an_answered_commit_survives_the_servers_crash(server: &mut Server) {
    let bench = Bench::at(Place::on(server, "crash"));
    let mut serving = bench.serving();
    create(&mut serving, A);
    for sequence in 2..5 {
        let last = anchor(&mut serving, A);
        server.stop();
        let lost = serving.decide_all(&[of(A, last), of(A, last)]);
        assert!(matches!(lost, Err(StoreError::Unreachable(_))), "{lost:?}");
        assert!(matches!(serving.decide(&VM, A, &last), Err(StoreError::Unreachable(_))));
        server.resume();
        assert_eq!(ask(&mut serving, A, last).reply, Reply::Leased { lease_ms: LEASE_MS });
        assert_eq!(bench.open().row(&VM).unwrap().head, head(sequence));
    }
}
