//! What holds on every database.

use crate::audit::{
    an_audit_entry_is_there_with_what_it_tells_or_neither_is, an_audit_log_is_its_tenants_alone,
    an_audit_log_is_not_filled_by_knocking, an_audit_log_is_read_in_pages, an_audit_log_tells_a_vms_life,
};
use crate::back::a_database_that_goes_back_while_it_is_served_halts_every_vm;
use crate::backups::{a_backup_order_is_open_until_the_backup_is_kept, the_newest_backups_of_a_vm_are_kept};
use crate::bench::{
    A, B, Bench, LEASE_MS, Place, TENANT, VM, anchor, ask, confirm, create, grant, head, release,
};
use crate::endorsements::ek_cert_keys_are_one_vms_of_a_tenant;
use crate::keys::a_rotation_wraps_every_secret_anew;
use crate::tickets::{
    a_forced_ticket_is_open_until_confirm, a_ticket_that_does_not_fit_changes_nothing, a_ticket_works_once,
    tickets_are_of_vms_that_are_there,
};
use crate::unlocks::a_guests_secret_lies_wrapped_and_is_wrapped_anew;
use crate::world::TestWorld;
use husk_broker::ids::{TenantId, VmId, VmName};
use husk_broker::rules::{InstanceId, Life, Move, Order, Reply, Request};
use husk_broker::store::{Ask, LAUNCHES_MAX, Serving, Store, StoreError};
use std::sync::Arc;

/// A law, on an empty database.
pub(crate) type Law = fn(Place);

/// Each law is a test on SQLite; one test on PostgreSQL runs them all on one server.
macro_rules! laws {
    ($($law:ident),* $(,)?) => {
        pub(crate) const LAWS: &[(&str, Law)] = &[$((stringify!($law), $law)),*];

        mod sqlite {
            $(#[test]
            fn $law() {
                super::$law(super::Place::file());
            })*
        }
    };
}

laws! {
    a_secret_lives_exactly_as_long_as_its_name,
    an_answered_commit_is_there_for_whoever_opens_the_database,
    a_restart_assumes_the_largest_lease_ever_granted,
    who_has_released_is_assumed_to_serve_no_more,
    the_clock_is_the_databases_and_never_goes_back,
    the_operator_works_beside_a_serving_broker,
    other_keys_are_refused,
    a_database_is_made_once,
    a_launch_speaks_with_one_key,
    the_newest_launches_are_remembered,
    names_are_given_once,
    many_vms_share_a_transaction_and_none_fails_its_neighbours,
    requests_of_one_vm_are_decided_in_their_order,
    a_rotation_wraps_every_secret_anew,
    ek_cert_keys_are_one_vms_of_a_tenant,
    a_guests_secret_lies_wrapped_and_is_wrapped_anew,
    a_database_that_goes_back_while_it_is_served_halts_every_vm,
    a_ticket_works_once,
    a_ticket_that_does_not_fit_changes_nothing,
    a_forced_ticket_is_open_until_confirm,
    tickets_are_of_vms_that_are_there,
    a_backup_order_is_open_until_the_backup_is_kept,
    the_newest_backups_of_a_vm_are_kept,
    an_audit_log_tells_a_vms_life,
    an_audit_log_is_not_filled_by_knocking,
    the_highest_guest_svn_is_kept_in_the_transaction_that_grants,
    an_audit_log_is_its_tenants_alone,
    an_audit_entry_is_there_with_what_it_tells_or_neither_is,
    an_audit_log_is_read_in_pages,
}

fn a_secret_lives_exactly_as_long_as_its_name(place: Place) {
    let mut serving = Bench::at(place).serving();
    let (_, none, first) = grant(&mut serving, A);
    assert!(none.is_none());
    assert!(matches!(confirm(&mut serving, A, head(1)), Reply::Leased { .. }));
    assert_eq!(release(&mut serving, A), Reply::Done);
    let (_, current, second) = grant(&mut serving, A);
    assert_eq!(current, first, "what sealed epoch 1 opens it");
    let (_, current, third) = grant(&mut serving, B);
    assert_eq!(current, first, "kept until CONFIRM");
    assert!(second != third && third != first, "fresh for every token");
    assert!(matches!(confirm(&mut serving, B, head(2)), Reply::Leased { .. }));
    assert_eq!(release(&mut serving, B), Reply::Done);
    let (_, current, _) = grant(&mut serving, A);
    assert_eq!(current, third, "CONFIRM promoted its own");
}

fn an_answered_commit_is_there_for_whoever_opens_the_database(place: Place) {
    let bench = Bench::at(place);
    let mut serving = bench.serving();
    create(&mut serving, A);
    for sequence in 2..6 {
        anchor(&mut serving, A);
        assert_eq!(bench.open().row(&VM).unwrap().head, head(sequence));
    }
}

fn a_restart_assumes_the_largest_lease_ever_granted(place: Place) {
    let bench = Bench::at(place);
    let mut serving = bench.serving();
    create(&mut serving, A);
    drop(serving);
    // However long the broker was away: it cannot know whom it answered last.
    bench.world.pass(1_000_000);
    let mut serving = bench.serve(bench.open(), 1000);
    assert_eq!(grant(&mut serving, B).0, Reply::Busy { retry_ms: LEASE_MS });
    bench.world.pass(u64::from(LEASE_MS) - 1);
    assert!(matches!(grant(&mut serving, B).0, Reply::Busy { .. }));
}

fn who_has_released_is_assumed_to_serve_no_more(place: Place) {
    let bench = Bench::at(place);
    let mut serving = bench.serving();
    create(&mut serving, A);
    assert_eq!(release(&mut serving, A), Reply::Done);
    drop(serving);
    let mut serving = bench.serve(bench.open(), LEASE_MS);
    assert!(matches!(grant(&mut serving, B).0, Reply::Granted(_)));
}

fn the_clock_is_the_databases_and_never_goes_back(place: Place) {
    let bench = Bench::at(place);
    let mut serving = bench.serving();
    bench.world.pass(5_000_000);
    create(&mut serving, A);
    let until = serving.store().row(&VM).unwrap().lease_until_ms;
    drop(serving);
    // The next machine's clock starts elsewhere altogether.
    let young = bench.elsewhere();
    let mut serving = young.serve(young.open(), LEASE_MS);
    assert!(serving.store().row(&VM).unwrap().lease_until_ms >= until);
    let busy = Reply::Busy { retry_ms: LEASE_MS };
    assert_eq!(grant(&mut serving, B).0, busy, "and waits no longer than a lease");
}

fn the_operator_works_beside_a_serving_broker(place: Place) {
    let bench = Bench::at(place);
    let mut serving = bench.serving();
    create(&mut serving, A);
    let mut admin = bench.open();
    assert_eq!(admin.operate(&VM, Order::Halt).unwrap().life, Life::Halted);
    assert_eq!(ask(&mut serving, A, Request::Renew { token: 1, generation: 0 }).reply, Reply::Fenced);
    assert!(matches!(admin.operate(&VM, Order::Halt), Err(StoreError::Barred(Life::Halted))));
    admin.operate(&VM, Order::Retire).unwrap();
    let row = admin.row(&VM).unwrap();
    assert_eq!((row.current, row.next), (None, None), "a retired VM's secrets are erased");
}

fn other_keys_are_refused(place: Place) {
    let bench = Bench::at(place);
    drop(bench.made());
    let world: Arc<TestWorld> = Arc::clone(&bench.world);
    let others = husk_broker::vault::RootKeys::generate(&TestWorld::new(9)).unwrap();
    let refused = Serving::begin(bench.open(), Arc::new(others), world, LEASE_MS);
    assert!(matches!(refused, Err(StoreError::OtherKeys)));
}

fn a_database_is_made_once(place: Place) {
    let bench = Bench::at(place);
    assert!(matches!(Store::open_at(&bench.place.location), Err(StoreError::Missing)));
    drop(bench.made());
    assert!(matches!(Store::create_at(&bench.place.location, &bench.keys), Err(StoreError::Exists)));
    drop(bench.open());
}

fn a_launch_speaks_with_one_key(place: Place) {
    let mut serving = Bench::at(place).serving();
    let store = serving.store();
    assert!(store.bind_launch(&VM, &[5; 32], A).unwrap());
    assert!(store.bind_launch(&VM, &[5; 32], A).unwrap());
    assert!(!store.bind_launch(&VM, &[5; 32], B).unwrap());
    assert!(store.bind_launch(&VM, &[6; 32], B).unwrap());
}

fn names_are_given_once(place: Place) {
    let mut serving = Bench::at(place).serving();
    let store = serving.store();
    let (tenant, enrolment) = (store.tenant(TENANT).unwrap(), store.enrolment(&VM).unwrap());
    assert!(matches!(store.register(TENANT, &tenant), Err(StoreError::TenantExists(TENANT))));
    assert!(matches!(store.enrol(&VM, &enrolment), Err(StoreError::VmExists(_))));
    let stranger = VmName { tenant: TenantId([8; 16]), ..VM };
    assert!(matches!(store.enrol(&stranger, &enrolment), Err(StoreError::UnknownTenant(_))));
    assert!(matches!(store.row(&stranger), Err(StoreError::UnknownVm(_))));
    assert_eq!(store.vms(None).unwrap(), [VM]);
    assert_eq!(store.vms(Some(stranger.tenant)).unwrap(), []);
}

fn the_newest_launches_are_remembered(place: Place) {
    let mut serving = Bench::at(place).serving();
    let store = serving.store();
    let launch = |number: u32| [number.to_le_bytes(); 8].concat().try_into().unwrap();
    for number in 0..=LAUNCHES_MAX {
        assert!(store.bind_launch(&VM, &launch(number), A).unwrap());
    }
    for number in 1..=LAUNCHES_MAX {
        assert!(!store.bind_launch(&VM, &launch(number), B).unwrap(), "launch {number} is remembered");
    }
    assert!(store.bind_launch(&VM, &launch(0), B).unwrap(), "and one more is not");
}

/// Renews with token 1.
fn renewal(vm: VmName, caller: InstanceId) -> Ask {
    Ask { vm, caller, request: Request::Renew { token: 1, generation: 0 } }
}

fn many_vms_share_a_transaction_and_none_fails_its_neighbours(place: Place) {
    let bench = Bench::at(place);
    let mut store = bench.made();
    let vms: Vec<VmName> = (10..30).map(|vm| VmName { tenant: TENANT, vm: VmId([vm; 16]) }).collect();
    vms.iter().for_each(|vm| bench.enrol(&mut store, vm));
    let mut serving = bench.serve(store, LEASE_MS);
    let grants: Vec<Ask> = vms
        .iter()
        .map(|vm| Ask { vm: *vm, caller: A, request: Request::Grant { report_id: [9; 32], guest_svn: 0 } })
        .collect();
    let granted = serving.decide_all(&grants).unwrap();
    assert!(granted.iter().all(|one| matches!(one.as_ref().unwrap().reply, Reply::Granted(_))));
    let confirms: Vec<Ask> = vms
        .iter()
        .map(|vm| {
            let to = Move {
                token: 1,
                generation: 0,
                epoch: 1,
                previous: husk::release::Head::NONE,
                new: head(1),
                reset_base: 0,
            };
            Ask { vm: *vm, caller: A, request: Request::Confirm(to) }
        })
        .collect();
    let stranger = VmName { tenant: TenantId([8; 16]), ..VM };
    let mixed: Vec<Ask> = [renewal(stranger, A), renewal(vms[0], B)].into_iter().chain(confirms).collect();
    let mut decided = serving.decide_all(&mixed).unwrap().into_iter();
    assert!(matches!(decided.next().unwrap(), Err(StoreError::UnknownVm(_))));
    assert_eq!(decided.next().unwrap().unwrap().reply, Reply::Fenced);
    for (one, vm) in decided.by_ref().zip(&vms) {
        assert_eq!(one.unwrap().reply, Reply::Leased { lease_ms: LEASE_MS });
        assert_eq!(bench.open().row(vm).unwrap().head, head(1), "durable for everybody");
    }
}

fn requests_of_one_vm_are_decided_in_their_order(place: Place) {
    let mut serving = Bench::at(place).serving();
    create(&mut serving, A);
    let to = |from: u64| {
        let to = Move {
            token: 1,
            generation: 0,
            epoch: 1,
            previous: head(from),
            new: head(from + 1),
            reset_base: 0,
        };
        Ask { vm: VM, caller: A, request: Request::Anchor(to) }
    };
    let decided = serving.decide_all(&[to(1), to(2), to(2), to(1)]).unwrap();
    let replies: Vec<Reply> = decided.into_iter().map(|one| one.unwrap().reply).collect();
    let leased = Reply::Leased { lease_ms: LEASE_MS };
    assert_eq!(replies, [leased, leased, leased, Reply::Conflict]);
}

fn the_highest_guest_svn_is_kept_in_the_transaction_that_grants(place: Place) {
    let bench = Bench::at(place);
    let mut serving = bench.serving();
    let denied = Reply::Denied(husk::release::wire::DeniedReason::GuestPolicy);
    for (guest_svn, kept) in [(3, 3), (2, 3), (3, 3), (7, 7), (0, 7)] {
        let reply = ask(&mut serving, A, Request::Grant { report_id: [9; 32], guest_svn }).reply;
        assert_eq!(matches!(reply, Reply::Granted(_)), guest_svn == kept, "{guest_svn}");
        assert!(guest_svn == kept || reply == denied, "{guest_svn}: {reply:?}");
        assert_eq!(bench.open().row(&VM).unwrap().guest_svn, kept);
    }
}
