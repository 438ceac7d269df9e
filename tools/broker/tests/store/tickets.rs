//! Tickets, on every database.

use crate::bench::{A, B, Bench, LEASE_MS, Place, TENANT, VM, confirm, create, grant, head, release};
use crate::world::TestWorld;
use husk::release::statement::Outcome;
use husk::release::ticket::{Ticket, TicketOrder};
use husk_broker::rules::{Life, Order, Reply};
use husk_broker::store::{Serving, StoreError};
use husk_broker::vault::{OperatorKey, TenantRoot};
use zerocopy::FromZeros;
use zerocopy::byteorder::little_endian::{U32, U64};

/// An operator of a generation; whether the tenant's root certified it is looked at before the store.
fn operator(generation: u32) -> OperatorKey {
    let world = TestWorld::new(u64::from(generation) + 77);
    let root = TenantRoot::generate(&world).unwrap();
    OperatorKey::generate(&world, &root, TENANT, (TicketOrder::ALL, 0, generation)).unwrap()
}

/// A ticket that fits the VM as it stands.
fn fitting(serving: &mut Serving, operator: &OperatorKey) -> Ticket {
    let row = serving.store().row(&VM).unwrap();
    let mut ticket = Ticket::new_zeroed();
    (ticket.vm, ticket.token) = (VM.vm.0, U64::new(row.token));
    (ticket.generation, ticket.until_ms) = (U32::new(row.generation), U64::new(u64::MAX));
    signed(ticket, operator)
}

fn signed(mut ticket: Ticket, operator: &OperatorKey) -> Ticket {
    operator.sign(&husk_broker::world::Machine::start(), &mut ticket).unwrap();
    ticket
}

fn order(serving: &mut Serving, ticket: &Ticket, order: Order) -> Outcome {
    serving.order(&VM, ticket, order).unwrap()
}

pub(crate) fn a_ticket_works_once(place: Place) {
    let bench = Bench::at(place);
    let mut serving = bench.serving();
    create(&mut serving, A);
    let operator = operator(1);
    let halt = fitting(&mut serving, &operator);
    assert_eq!(order(&mut serving, &halt, Order::Halt), Outcome::Done);
    assert_eq!(order(&mut serving, &halt, Order::Halt), Outcome::Used);
    // RESUME raises no token: only its id keeps a ticket from working again.
    let resume = fitting(&mut serving, &operator);
    assert_eq!(order(&mut serving, &resume, Order::Resume), Outcome::Done);
    serving.store().operate(&VM, Order::Halt).unwrap();
    let again = fitting(&mut serving, &operator);
    assert_eq!(order(&mut serving, &again, Order::Resume), Outcome::Done);
    drop(serving);
    let mut serving = bench.serve(bench.open(), LEASE_MS);
    assert_eq!(order(&mut serving, &again, Order::Resume), Outcome::Used, "also after a restart");
    assert_eq!(serving.store().row(&VM).unwrap().life, Life::Active);
}

pub(crate) fn a_ticket_that_does_not_fit_changes_nothing(place: Place) {
    let bench = Bench::at(place);
    let mut serving = bench.serving();
    create(&mut serving, A);
    let (old, operator) = (operator(1), operator(2));
    let until_ms = serving.standing(&VM).unwrap().now_ms;
    let ended =
        signed(Ticket { until_ms: U64::new(until_ms), ..fitting(&mut serving, &operator) }, &operator);
    bench.world.pass(1000);
    // PostgreSQL's clock is its own.
    while serving.standing(&VM).unwrap().now_ms <= until_ms {}
    let other_token = signed(Ticket { token: U64::new(9), ..fitting(&mut serving, &operator) }, &operator);
    let other_life =
        signed(Ticket { generation: U32::new(1), ..fitting(&mut serving, &operator) }, &operator);
    let fits = fitting(&mut serving, &operator);
    let before = serving.store().row(&VM).unwrap();
    let commits = serving.store().commits().unwrap();
    for (ticket, given, outcome) in [
        (&ended, Order::Halt, Outcome::Expired),
        (&other_token, Order::Halt, Outcome::Overtaken),
        (&other_life, Order::Halt, Outcome::Overtaken),
        (&fits, Order::Resume, Outcome::Barred),
    ] {
        assert_eq!(order(&mut serving, ticket, given), outcome);
        assert_eq!(serving.store().row(&VM).unwrap(), before);
        assert_eq!(serving.store().commits().unwrap(), commits);
    }
    let revoked = fitting(&mut serving, &old);
    assert_eq!(order(&mut serving, &fits, Order::Force), Outcome::Open, "what was not used can be");
    assert_eq!(order(&mut serving, &revoked, Order::Halt), Outcome::Untrusted, "a newer key was seen");
}

pub(crate) fn a_forced_ticket_is_open_until_confirm(place: Place) {
    let bench = Bench::at(place);
    let mut serving = bench.serving();
    create(&mut serving, A);
    let force = fitting(&mut serving, &operator(1));
    assert_eq!(order(&mut serving, &force, Order::Force), Outcome::Open);
    for _ in 0..2 {
        assert!(matches!(grant(&mut serving, B).0, Reply::Granted(_)), "its host failed before it confirmed");
        assert_eq!(order(&mut serving, &force, Order::Force), Outcome::Open, "the answer was lost");
    }
    let same_id = Ticket { until_ms: U64::new(u64::MAX - 1), ..force };
    assert_eq!(order(&mut serving, &same_id, Order::Force), Outcome::Used, "another ticket under its name");
    let standing = serving.standing(&VM).unwrap();
    assert_eq!(standing.row.overlap_until_ms, standing.now_ms + u64::from(LEASE_MS));
    assert!(matches!(confirm(&mut serving, B, head(2)), Reply::Leased { .. }));
    assert_eq!(order(&mut serving, &force, Order::Force), Outcome::Used);
    assert!(matches!(grant(&mut serving, A).0, Reply::Busy { .. }), "once");
    assert_eq!(release(&mut serving, B), Reply::Done);
}

pub(crate) fn tickets_are_of_vms_that_are_there(place: Place) {
    let mut serving = Bench::at(place).serving();
    let ticket = fitting(&mut serving, &operator(1));
    let nobody = husk_broker::ids::VmName { vm: husk_broker::ids::VmId([9; 16]), ..VM };
    assert!(matches!(serving.order(&nobody, &ticket, Order::Halt), Err(StoreError::UnknownVm(_))));
    assert!(matches!(serving.standing(&nobody), Err(StoreError::UnknownVm(_))));
}
