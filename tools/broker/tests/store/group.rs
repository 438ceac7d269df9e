//! Many threads and one store: each gets its own answer, and a death is everybody's.

use crate::bench::{A, Bench, LEASE_MS, Place, TENANT, head};
use crate::world::TestWorld;
use husk::release::Head;
use husk::seams::EntropyError;
use husk_broker::ids::{VmId, VmName};
use husk_broker::rules::{Move, Reply, Request};
use husk_broker::store::{Ask, Group, GroupError, Serving};
use husk_broker::world::World;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn ask(vm: VmName, request: Request) -> Ask {
    Ask { vm, caller: A, request }
}

#[test]
fn each_thread_gets_its_own_answer() {
    let bench = Bench::at(Place::file());
    let mut store = bench.made();
    let vms: Vec<VmName> = (10..26).map(|vm| VmName { tenant: TENANT, vm: VmId([vm; 16]) }).collect();
    vms.iter().for_each(|vm| bench.enrol(&mut store, vm));
    let group = Group::new(bench.serve(store, LEASE_MS));
    std::thread::scope(|scope| {
        for (number, vm) in (1..).zip(&vms) {
            let group = &group;
            scope.spawn(move || {
                // A VM of number n is granted n times, so that every answer tells whose it is.
                for token in 1..=number {
                    let reply = group
                        .decide(ask(*vm, Request::Grant { report_id: [9; 32], guest_svn: 0 }))
                        .unwrap()
                        .reply;
                    assert!(matches!(reply, Reply::Granted(grant) if grant.token == token));
                }
                let to = |epoch, previous, new| Move {
                    token: number,
                    generation: 0,
                    epoch,
                    previous,
                    new,
                    reset_base: 0,
                };
                let leased = Reply::Leased { lease_ms: LEASE_MS };
                let confirm = Request::Confirm(to(1, Head::NONE, head(1)));
                assert_eq!(group.decide(ask(*vm, confirm)).unwrap().reply, leased);
                for sequence in 1..20 {
                    let anchor = Request::Anchor(to(1, head(sequence), head(sequence + 1)));
                    assert_eq!(group.decide(ask(*vm, anchor)).unwrap().reply, leased);
                }
            });
        }
    });
    let mut reopened = bench.open();
    assert!(vms.iter().all(|vm| reopened.row(vm).unwrap().head == head(20)));
}

/// A machine whose entropy source brings the process down.
struct Deadly(TestWorld, AtomicBool);

impl World for Deadly {
    fn now_ms(&self) -> u64 {
        self.0.now_ms()
    }

    fn fill(&self, into: &mut [u8]) -> Result<(), EntropyError> {
        assert!(!self.1.load(Ordering::SeqCst), "this panic is the test's");
        self.0.fill(into)
    }
}

#[test]
fn a_decision_that_dies_fails_everybody_and_hangs_nobody() {
    let bench = Bench::at(Place::file());
    let store = bench.made();
    let world = Arc::new(Deadly(TestWorld::new(3), AtomicBool::new(false)));
    let serving = Serving::begin(store, Arc::clone(&bench.keys), Arc::clone(&world) as _, LEASE_MS).unwrap();
    let group = Group::new(serving);
    assert!(group.is_well());
    world.1.store(true, Ordering::SeqCst);
    let grant = ask(crate::bench::VM, Request::Grant { report_id: [9; 32], guest_svn: 0 });
    std::thread::scope(|scope| {
        let askers: Vec<_> = (0..8).map(|_| scope.spawn(|| group.decide(grant))).collect();
        let outcomes: Vec<_> = askers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_err()).count(), 1, "one panics");
        let others = outcomes.into_iter().flatten();
        assert!(others.map(|outcome| outcome.unwrap_err()).all(|error| matches!(error, GroupError::Dead)));
    });
    assert!(!group.is_well());
    assert_eq!(bench.open().row(&crate::bench::VM).unwrap().token, 0, "and nothing was decided");
}
