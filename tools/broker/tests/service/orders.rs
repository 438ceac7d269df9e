//! Tickets and statements, with the component's own client as the VM.

use crate::bench::{Bench, LEASE_MS, OTHER_VM, TENANT, VM, head};
use crate::{created, granted, opened, refusal};
use husk::release::ReleaseFault;
use husk::release::statement::{LifeWord, Outcome, Statement};
use husk::release::ticket::{Ticket, TicketOrder};
use husk_broker::vault::{OperatorKey, TenantRoot};
use zerocopy::IntoBytes;

const ALL: &[TicketOrder] = TicketOrder::ALL;

fn outcome(statement: &Statement) -> Outcome {
    Outcome::from_number(statement.outcome).unwrap()
}

#[test]
fn a_statement_says_where_a_vm_stands() {
    let bench = Bench::new();
    let virgin = bench.asked(&VM, [7; 32]);
    assert_eq!((virgin.life, virgin.token.get(), virgin.confirmed), (LifeWord::Virgin as u8, 0, 0));
    assert_eq!(virgin.host_data, bench.config(&VM).host_data());
    let (mut running, _) = created(bench.launch(&VM, 1), &head(1, 1));
    running.commit(&head(1, 1), &head(2, 1)).unwrap();
    let serving = bench.asked(&VM, [8; 32]);
    assert_eq!((serving.life, serving.confirmed, serving.released), (LifeWord::Active as u8, 1, 0));
    assert_eq!((serving.token.get(), serving.epoch.get()), (1, 1));
    assert_eq!((serving.head.sequence.get(), serving.head.digest), (2, [1; 48]));
    assert_eq!((serving.lease_ms.get(), serving.overlap_ms.get()), (LEASE_MS, 0));
    bench.world.pass(1000);
    let later = bench.asked(&VM, [9; 32]);
    assert_eq!(later.time_ms.get(), serving.time_ms.get() + 1000);
    assert_eq!(later.lease_ms.get(), LEASE_MS - 1000);
    running.release().unwrap();
    let left = bench.asked(&VM, [10; 32]);
    assert_eq!((left.released, left.lease_ms.get()), (1, 0));
}

/// The host is lost, the VM is wanted elsewhere at once.
#[test]
fn a_forced_boot_does_not_wait_and_the_broker_says_that_two_may_answer() {
    let bench = Bench::new();
    let operator = bench.operator(ALL);
    let (mut lost, _) = created(bench.launch(&VM, 1), &head(1, 1));
    bench.world.pass(10_000);
    let said = bench.order(&VM, &operator, TicketOrder::Force);
    assert_eq!((outcome(&said), said.forced, said.overlap_ms.get()), (Outcome::Open, 1, 0));
    lost.permit().unwrap();
    let second = opened(bench.launch(&VM, 2), &head(2, 2));
    assert_eq!(second.head, head(1, 1), "nothing that was acknowledged is lost");
    let said = bench.asked(&VM, [1; 32]);
    assert_eq!((said.forced, said.overlap_ms.get()), (0, LEASE_MS - 10_000));
    assert_eq!(lost.commit(&head(1, 1), &head(2, 1)), Err(ReleaseFault::Fenced));
    drop(second);
    assert_eq!(refusal_of_waiting(&bench), LEASE_MS, "the next one waits again");
    bench.world.pass(u64::from(LEASE_MS) - 10_000);
    assert_eq!(bench.asked(&VM, [2; 32]).overlap_ms.get(), 0, "one instance at most");
}

fn refusal_of_waiting(bench: &Bench) -> u32 {
    match bench.launch(&VM, 3).boot() {
        Ok((_, husk::release::open::Verdict::Busy { retry_ms, .. })) => retry_ms,
        _ => panic!("not busy"),
    }
}

#[test]
fn tickets_stop_a_vm_let_it_go_on_and_end_it() {
    let bench = Bench::new();
    let operator = bench.operator(ALL);
    let (mut running, _) = created(bench.launch(&VM, 1), &head(1, 1));
    assert_eq!(outcome(&bench.order(&VM, &operator, TicketOrder::Halt)), Outcome::Done);
    assert_eq!(running.commit(&head(1, 1), &head(2, 1)), Err(ReleaseFault::Fenced));
    assert_eq!(refusal(&mut bench.launch(&VM, 2)), ReleaseFault::DeniedVm);
    assert_eq!(outcome(&bench.order(&VM, &operator, TicketOrder::Resume)), Outcome::Done);
    bench.world.pass(u64::from(LEASE_MS));
    drop(granted(&mut bench.launch(&VM, 3)));
    let said = bench.order(&VM, &operator, TicketOrder::Retire);
    assert_eq!((outcome(&said), said.life), (Outcome::Done, LifeWord::Retired as u8));
    assert_eq!(outcome(&bench.order(&VM, &operator, TicketOrder::Resume)), Outcome::Barred, "for good");
}

#[test]
fn only_the_word_of_an_operator_that_may_give_the_order_counts() {
    let bench = Bench::new();
    let halting = bench.operator(&[TicketOrder::Halt]);
    let before = bench.asked(&VM, [3; 32]);
    assert_eq!(outcome(&bench.order(&VM, &halting, TicketOrder::Retire)), Outcome::Untrusted);
    let other_root = TenantRoot::generate(&*bench.world).unwrap();
    let stranger = OperatorKey::generate(&*bench.world, &other_root, TENANT, (ALL, 0, 1)).unwrap();
    assert_eq!(outcome(&bench.order(&VM, &stranger, TicketOrder::Halt)), Outcome::Untrusted);
    let mut ticket = bench.ticket(&VM, TicketOrder::Halt);
    halting.sign(&*bench.world, &mut ticket).unwrap();
    for at in std::mem::offset_of!(Ticket, id)..Ticket::BYTES {
        let mut changed = ticket;
        changed.as_mut_bytes()[at] ^= 1;
        assert_eq!(outcome(&bench.hand_in(&VM, &changed)), Outcome::Untrusted, "byte {at}");
    }
    assert_eq!(bench.asked(&VM, [3; 32]).as_bytes(), before.as_bytes(), "nothing has changed");
    let posing = Ticket { vm: OTHER_VM.vm.0, ..ticket };
    assert_eq!(outcome(&bench.hand_in(&OTHER_VM, &posing)), Outcome::Untrusted, "another VM's");
    assert_eq!(outcome(&bench.hand_in(&VM, &ticket)), Outcome::Done);
    assert_eq!(outcome(&bench.hand_in(&VM, &ticket)), Outcome::Used);
}
