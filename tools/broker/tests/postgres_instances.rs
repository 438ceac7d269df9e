//! Three brokers on one PostgreSQL, killed at random under load, with clocks that jump.
//!
//! The brokers are processes of their own: this program, started again. The VMs are the component's own client code.
//! `HUSK_SEED` chooses another schedule; under `HUSK_LONG=1` it goes on for longer. How much
//! is done is counted, not timed.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where its world fails")]

#[path = "instances/broker.rs"]
mod broker;
#[path = "instances/laws.rs"]
mod laws;
#[path = "../../../tests/support/nothing.rs"]
mod nothing;
#[path = "support/server.rs"]
mod server;
#[path = "instances/vm.rs"]
mod vm;

use broker::{Cluster, Dice};
use laws::Ledger;
use server::Server;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SEED: u64 = 6;
/// VMs, each launched by two at once.
const VMS: u8 = 3;
/// How long the load may take on a machine that does much else.
const LOAD_WAIT_MAX: Duration = Duration::from_secs(900);

#[test]
fn three_postgres_brokers_killed_under_load_lose_nothing_and_grant_to_one() {
    let seed = std::env::var("HUSK_SEED").map_or(SEED, |seed| seed.parse().unwrap());
    let (commits, kills) = if std::env::var_os("HUSK_LONG").is_some() { (2000, 200) } else { (50, 8) };
    eprintln!("replay: HUSK_SEED={seed} cargo test -p husk-broker --test postgres_instances");
    let server = Server::start();
    let cluster = Arc::new(Cluster::start(&server.database("many"), VMS, seed));
    let over = Arc::new(AtomicBool::new(false));
    let ledgers: Vec<Arc<Ledger>> = (0..VMS).map(|_| Arc::default()).collect();
    let mut actors = Vec::new();
    for (vm, ledger) in (0..VMS).zip(&ledgers) {
        for which in 0..2 {
            let (cluster, ledger, over) = (Arc::clone(&cluster), Arc::clone(ledger), Arc::clone(&over));
            let dice = Dice::new(seed, u64::from(vm) * 2 + which + 10);
            actors.push(std::thread::spawn(move || vm::live(&cluster, (vm, which), &ledger, dice, &over)));
        }
    }
    let mut dice = Dice::new(seed, 1);
    let started = Instant::now();
    let mut killed = 0;
    let is_enough = || ledgers.iter().all(|ledger| ledger.commits() >= commits);
    while (killed < kills || !is_enough()) && !actors.iter().any(std::thread::JoinHandle::is_finished) {
        std::thread::sleep(Duration::from_millis(dice.below(600) + 300));
        cluster.kill_one(&mut dice);
        killed += 1;
        assert!(started.elapsed() < LOAD_WAIT_MAX, "hardly anything is decided");
    }
    over.store(true, Ordering::SeqCst);
    actors.into_iter().for_each(|actor| actor.join().unwrap());
    // An honest disk boots, whatever happened before.
    for (vm, ledger) in (0..VMS).zip(&ledgers) {
        vm::boots(&cluster, vm, ledger, Dice::new(seed, 99));
        eprintln!("VM {vm}: {}", ledger.summary());
    }
    eprintln!("{killed} brokers were killed");
}

/// Not a law: what a broker's process runs. Without its environment it has nothing to do.
#[test]
fn instance() {
    broker::serve_if_told();
}
