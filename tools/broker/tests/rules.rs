//! The laws of one row (`src/release/protocol.md`, section 5), each under a test of its name.

#[path = "support/vm.rs"]
mod vm;

use husk::release::Head;
use husk::release::wire::DeniedReason;
use husk_broker::rules::{Life, Move, Order, Reply, Request, Row, SecretName, assume_lease, operate};
use vm::{A, B, LEASE_MS, Vm, head, leased};

const ORDER: Reply = Reply::Denied(DeniedReason::Order);

#[test]
fn a_first_grant_creates_and_a_later_one_opens() {
    let mut vm = Vm::enrolled();
    let Reply::Granted(grant) = vm.grant(A) else { panic!("not granted") };
    assert_eq!((grant.current, grant.head, grant.epoch), (None, Head::NONE, 0));
    assert_eq!(grant.next, SecretName { token: 1, epoch: 1 });
    assert_eq!(vm.row.life, Life::Virgin, "a grant alone makes no TPM");
    assert_eq!(vm.ask(A, vm.confirm(head(1, 1))), leased());
    assert_eq!((vm.row.life, vm.row.epoch, vm.row.head), (Life::Active, 1, head(1, 1)));
    assert_eq!(vm.ask(A, vm.release()), Reply::Done);
    let Reply::Granted(grant) = vm.grant(B) else { panic!("not granted") };
    assert_eq!(grant.current, Some(SecretName { token: 1, epoch: 1 }));
    assert_eq!((grant.head, grant.next), (head(1, 1), SecretName { token: 2, epoch: 2 }));
}

#[test]
fn a_commit_moves_the_head_by_compare_and_swap() {
    let mut vm = Vm::serving();
    assert_eq!(vm.ask(A, vm.anchor(head(2, 1))), leased());
    assert_eq!(vm.row.head, head(2, 1));
    let stale = Request::Anchor(Move { previous: head(1, 1), ..vm.movement(head(3, 1)) });
    assert_eq!(vm.refused(A, stale), Reply::Conflict);
    let other_epoch = Request::Anchor(Move { epoch: 2, ..vm.movement(head(3, 1)) });
    assert_eq!(vm.refused(A, other_epoch), Reply::Conflict);
    let other_generation = Request::Anchor(Move { generation: 1, ..vm.movement(head(3, 1)) });
    assert_eq!(vm.refused(A, other_generation), Reply::Conflict);
    let backwards = vm.anchor(head(2, 9));
    assert_eq!(vm.refused(A, backwards), ORDER, "a head only grows");
}

#[test]
fn busy_changes_nothing_and_ends_with_the_lease() {
    let mut vm = Vm::serving();
    assert_eq!(
        vm.refused(B, Request::Grant { report_id: [0; 32], guest_svn: 0 }),
        Reply::Busy { retry_ms: LEASE_MS }
    );
    vm.now_ms += u64::from(LEASE_MS) - 1;
    assert_eq!(
        vm.refused(B, Request::Grant { report_id: [0; 32], guest_svn: 0 }),
        Reply::Busy { retry_ms: 1 }
    );
    vm.now_ms += 1;
    assert!(matches!(vm.grant(B), Reply::Granted(_)));
}

/// Also for the same instance: while it may still be answering under the old token, nobody gets a new one.
#[test]
fn who_serves_waits_for_its_own_lease_too() {
    let mut vm = Vm::serving();
    assert!(matches!(vm.grant(A), Reply::Busy { .. }));
}

#[test]
fn one_clean_shutdown_does_not_end_all_lease_waits() {
    let mut vm = Vm::serving();
    assert_eq!(vm.ask(A, vm.release()), Reply::Done);
    assert!(matches!(vm.grant(B), Reply::Granted(_)), "after a release nobody waits");
    assert_eq!(vm.ask(B, vm.confirm(head(2, 2))), leased());
    assert!(!vm.row.released, "CONFIRM clears it");
    assert!(matches!(vm.grant(A), Reply::Busy { .. }));
}

#[test]
fn nothing_is_served_after_a_release() {
    let mut vm = Vm::serving();
    let again = vm.confirm(head(1, 1));
    assert_eq!(vm.ask(A, vm.release()), Reply::Done);
    let Request::Confirm(to) = again else { panic!() };
    let repeated = Request::Confirm(Move { epoch: 1, ..to });
    for request in [vm.anchor(head(2, 1)), vm.anchor(head(1, 1)), vm.renew(1), vm.bump(1), repeated] {
        assert_eq!(vm.refused(A, request), ORDER, "{request:?}");
    }
    let resumed = vm.refused(A, Request::Resume { token: 1 });
    assert_eq!(resumed, Reply::Leased { lease_ms: 0 }, "no right to answer comes back");
    assert_eq!(vm.refused(A, vm.release()), Reply::Done, "but the release may be repeated");
}

#[test]
fn token_and_life_come_first() {
    let mut vm = Vm::serving();
    let anchored = vm.anchor(head(2, 1));
    assert_eq!(vm.ask(A, anchored), leased());
    vm.now_ms += u64::from(LEASE_MS);
    assert!(matches!(vm.grant(B), Reply::Granted(_)));
    let lease = vm.row.lease_until_ms;
    let Request::Anchor(to) = anchored else { panic!() };
    for request in [
        anchored,
        Request::Anchor(Move { previous: head(2, 1), ..to }),
        Request::Confirm(to),
        vm.renew(1),
        vm.bump(1),
        Request::Resume { token: 1 },
        Request::StateMissing { token: 1 },
        Request::Release { token: 1, generation: 0, head: head(2, 1) },
    ] {
        assert_eq!(vm.refused(A, request), Reply::Fenced, "a fenced instance gets no lease from {request:?}");
    }
    assert_eq!(vm.row.lease_until_ms, lease);
}

#[test]
fn a_token_is_worth_nothing_in_other_hands() {
    let mut vm = Vm::serving();
    for request in
        [vm.anchor(head(2, 1)), vm.renew(1), vm.bump(1), vm.release(), Request::Resume { token: 1 }]
    {
        assert_eq!(vm.refused(B, request), Reply::Fenced);
    }
}

#[test]
fn a_token_from_the_future_is_a_conflict() {
    let mut vm = Vm::serving();
    assert_eq!(vm.refused(A, vm.renew(2)), Reply::Conflict, "only a database set back makes one");
    assert_eq!(vm.refused(A, vm.anchor_by(7, head(2, 1))), Reply::Conflict);
}

#[test]
fn every_grant_has_a_fresh_secret_and_the_others_die() {
    let mut vm = Vm::serving();
    assert_eq!(vm.ask(A, vm.release()), Reply::Done);
    let mut names = Vec::new();
    for caller in [A, B, B, A] {
        let Reply::Granted(grant) = vm.grant(caller) else { panic!("not granted") };
        assert_eq!(grant.current, Some(SecretName { token: 1, epoch: 1 }), "kept until CONFIRM");
        assert!(!names.contains(&grant.next));
        assert_eq!(vm.row.next, Some(grant.next), "one at a time");
        names.push(grant.next);
    }
    let newest = vm.row.token;
    let stale = Request::Confirm(Move { token: newest - 1, epoch: 2, ..vm.movement(head(2, 2)) });
    assert_eq!(vm.refused(B, stale), Reply::Fenced);
    assert_eq!(vm.ask(A, vm.confirm(head(2, 1))), leased());
    assert_eq!(vm.row.current, names.last().copied(), "CONFIRM promotes its own token's secret");
    assert_eq!(vm.row.next, None);
}

#[test]
fn the_old_secret_goes_at_confirm_and_not_earlier() {
    let mut vm = Vm::serving();
    let old = vm.row.current;
    assert_eq!(vm.ask(A, vm.release()), Reply::Done);
    assert!(matches!(vm.grant(B), Reply::Granted(_)));
    assert_eq!(vm.row.current, old);
    let wrong = Request::Confirm(Move { epoch: 2, previous: head(9, 9), ..vm.movement(head(10, 9)) });
    assert_eq!(vm.refused(B, wrong), Reply::Conflict);
    assert_eq!(vm.row.current, old);
    assert_eq!(vm.ask(B, vm.confirm(head(2, 2))), leased());
    assert_ne!(vm.row.current, old);
}

#[test]
fn an_order_fences_and_shortens_no_lease() {
    for order in [Order::Halt, Order::Retire] {
        let mut vm = Vm::serving();
        let lease = vm.row.lease_until_ms;
        vm.row = operate(&vm.row, order).unwrap();
        assert!(vm.row.is_lawful());
        assert_eq!((vm.row.token, vm.row.lease_until_ms), (2, lease));
        assert_eq!(vm.refused(A, vm.anchor_by(1, head(2, 1))), Reply::Fenced);
        assert_eq!(vm.refused(A, vm.renew(2)), Reply::Fenced);
        let asked = vm.refused(B, Request::Grant { report_id: [0; 32], guest_svn: 0 });
        assert_eq!(asked, Reply::Denied(DeniedReason::Lifecycle));
    }
    let mut vm = Vm::serving();
    vm.row = operate(&vm.row, Order::Halt).and_then(|row| operate(&row, Order::Resume)).unwrap();
    assert!(vm.row.is_lawful());
    assert!(matches!(vm.grant(B), Reply::Busy { .. }), "a resumed VM still waits for the fenced instance");
    vm.now_ms += u64::from(LEASE_MS);
    let Reply::Granted(grant) = vm.grant(B) else { panic!("not granted") };
    assert_eq!((grant.token, grant.head), (3, head(1, 1)), "and keeps its state");
}

#[test]
fn a_forced_grant_does_not_wait_and_says_how_long_two_may_answer() {
    let mut vm = Vm::serving();
    let lease = vm.row.lease_until_ms;
    assert!(matches!(vm.grant(B), Reply::Busy { .. }));
    vm.row = operate(&vm.row, Order::Force).unwrap();
    assert_eq!(vm.ask(A, vm.renew(1)), leased(), "nobody is fenced before there is another");
    for _ in 0..2 {
        assert!(matches!(vm.grant(B), Reply::Granted(_)), "until CONFIRM, however often its host fails");
        assert_eq!(vm.row.overlap_until_ms, lease);
        assert_eq!(vm.refused(A, vm.anchor_by(1, head(2, 1))), Reply::Fenced);
    }
    assert_eq!(vm.ask(B, vm.confirm(head(2, 2))), leased());
    assert!(matches!(vm.grant(A), Reply::Busy { .. }), "once");
}

#[test]
fn orders_make_sense_or_are_barred() {
    let virgin = Row::enrolled();
    let halted = operate(&virgin, Order::Halt).unwrap();
    assert_eq!(operate(&halted, Order::Resume).unwrap().life, Life::Virgin);
    assert_eq!(operate(&virgin, Order::Resume), Err(Life::Virgin));
    assert_eq!(operate(&halted, Order::Halt), Err(Life::Halted));
    let retired = operate(&Vm::serving().row, Order::Retire).unwrap();
    assert_eq!((retired.current, retired.next), (None, None), "its secrets are erased");
    assert_eq!(operate(&halted, Order::Force), Err(Life::Halted), "first it is resumed");
    for order in [Order::Halt, Order::Resume, Order::Retire, Order::Force] {
        assert_eq!(operate(&retired, order), Err(Life::Retired), "for good");
    }
}

#[test]
fn a_start_assumes_every_lease_anew() {
    let vm = Vm::serving();
    let assumed = assume_lease(&vm.row, vm.now_ms + 5, 60_000);
    assert_eq!(assumed.lease_until_ms, vm.now_ms + 5 + 60_000);
    let mut released = Vm::serving();
    assert_eq!(released.ask(A, released.release()), Reply::Done);
    assert_eq!(assume_lease(&released.row, 5000, 60_000), released.row, "who has released serves no more");
    assert_eq!(assume_lease(&Row::enrolled(), 5000, 60_000), Row::enrolled());
}

#[test]
fn a_lease_is_never_shortened() {
    let mut vm = Vm::serving();
    let until = vm.row.lease_until_ms;
    vm.now_ms -= 5;
    assert_eq!(vm.ask(A, vm.renew(1)), leased());
    assert_eq!(vm.row.lease_until_ms, until);
}

#[test]
fn a_bump_is_idempotent() {
    let mut vm = Vm::serving();
    let bumped = Reply::Bumped { token: 2, lease_ms: LEASE_MS };
    assert_eq!(vm.ask(A, vm.bump(1)), bumped);
    assert_eq!(vm.ask(A, vm.bump(1)), bumped, "asking again with the same token");
    assert_eq!(vm.row.token, 2);
    assert_eq!(vm.ask(A, Request::Resume { token: 1 }), leased(), "the answer was lost with the session");
    assert_eq!(vm.refused(A, vm.renew(1)), Reply::Fenced, "for anything else the old token is over");
    assert_eq!(vm.refused(B, vm.bump(1)), Reply::Fenced);
    assert_eq!(vm.ask(A, vm.anchor(head(2, 1))), leased());
    assert_eq!(vm.ask(A, vm.bump(2)), Reply::Bumped { token: 3, lease_ms: LEASE_MS });
    assert_eq!(vm.refused(A, vm.bump(1)), Reply::Fenced, "only the last one is remembered");
    vm.now_ms += u64::from(LEASE_MS);
    assert!(matches!(vm.grant(B), Reply::Granted(_)));
    assert_eq!(vm.refused(A, vm.bump(2)), Reply::Fenced, "and not beyond a grant");
}

#[test]
fn a_repeated_commit_gets_the_same_answer() {
    let mut vm = Vm::enrolled();
    assert!(matches!(vm.grant(A), Reply::Granted(_)));
    let confirm = vm.confirm(head(1, 1));
    for _ in 0..3 {
        assert_eq!(vm.ask(A, confirm), leased());
    }
    let anchor = vm.anchor(head(2, 1));
    for _ in 0..3 {
        assert_eq!(vm.ask(A, anchor), leased());
    }
    assert_eq!(vm.refused(A, confirm), Reply::Conflict, "but not once the head went on");
}

#[test]
fn nothing_is_served_before_confirm() {
    let mut vm = Vm::serving();
    vm.now_ms += u64::from(LEASE_MS);
    assert!(matches!(vm.grant(B), Reply::Granted(_)));
    for request in [vm.anchor(head(2, 2)), vm.renew(2), vm.bump(2), vm.release()] {
        assert_eq!(vm.refused(B, request), ORDER, "{request:?}");
    }
    assert_eq!(vm.refused(B, Request::Resume { token: 2 }), Reply::Leased { lease_ms: 0 });
    let own_epoch = Request::Confirm(vm.movement(head(2, 2)));
    assert_eq!(vm.refused(B, own_epoch), Reply::Conflict, "the new epoch, not the old one");
}

#[test]
fn missing_state_changes_nothing() {
    let mut vm = Vm::serving();
    vm.now_ms += u64::from(LEASE_MS);
    assert!(matches!(vm.grant(B), Reply::Granted(_)));
    assert_eq!(vm.refused(B, Request::StateMissing { token: 2 }), Reply::Done);
    assert_eq!(vm.refused(A, Request::StateMissing { token: 1 }), Reply::Fenced);
    vm.now_ms += 1_000_000;
    let Reply::Granted(grant) = vm.grant(B) else { panic!("not granted") };
    assert!(grant.current.is_some(), "never again a creation");
}

#[test]
fn counters_at_their_end_refuse() {
    let mut vm = Vm::serving();
    vm.row.token = u64::MAX;
    assert_eq!(vm.refused(A, vm.bump(u64::MAX)), Reply::Denied(DeniedReason::Lifecycle));
    vm.now_ms = u64::MAX;
    let asked = vm.refused(B, Request::Grant { report_id: [0; 32], guest_svn: 0 });
    assert_eq!(asked, Reply::Denied(DeniedReason::Lifecycle));
    assert_eq!(vm.ask(A, vm.renew(u64::MAX)), leased());
    assert_eq!(vm.row.lease_until_ms, u64::MAX);
}
