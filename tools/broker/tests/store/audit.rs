//! Tenants' logs, on every database.

use crate::bench::{
    A, B, Bench, LEASE_MS, Place, TENANT, VM, anchor, ask, confirm, create, grant, head, release,
};
use husk_broker::audit::{Event, Head, Log, exported};
use husk_broker::ids::{TenantId, VmId, VmName};
use husk_broker::policy::{Refusal, Rule};
use husk_broker::rules::{Order, Reply, Request};
use husk_broker::store::{ENTRIES_MAX, Store, StoreError};

fn told(store: &mut Store) -> Vec<(Event, String)> {
    let entries = store.audit(TENANT, 0).unwrap();
    entries.into_iter().map(|(entry, _)| (entry.event, entry.detail)).collect()
}

fn events(store: &mut Store) -> Vec<Event> {
    told(store).into_iter().map(|(event, _)| event).collect()
}

/// The tenant's log as a file would have it.
fn log(store: &mut Store) -> String {
    let entries = store.audit(TENANT, 0).unwrap();
    entries.iter().map(|(entry, head)| exported(TENANT, entry, head).unwrap() + "\n").collect()
}

pub(crate) fn an_audit_log_tells_a_vms_life(place: Place) {
    let bench = Bench::at(place);
    let mut serving = bench.serving();
    create(&mut serving, A);
    for _ in 0..3 {
        anchor(&mut serving, A);
    }
    assert_eq!(release(&mut serving, A), Reply::Done);
    grant(&mut serving, B);
    assert!(matches!(confirm(&mut serving, B, head(5)), Reply::Leased { .. }));
    let bump = Request::Bump { token: 2, generation: 0 };
    for _ in 0..2 {
        assert!(matches!(ask(&mut serving, B, bump).reply, Reply::Bumped { token: 3, .. }));
    }
    serving.store().operate(&VM, Order::Halt).unwrap();
    let store = serving.store();
    assert_eq!(
        events(store),
        [
            Event::Enrolled,
            Event::Granted,
            Event::Confirmed,
            Event::Released,
            Event::Granted,
            Event::Confirmed,
            Event::Reset,
            Event::Ordered,
        ]
    );
    let told = told(store);
    assert_eq!(told[1].1, "token 1, generation 0, to create epoch 0");
    assert!(told[3].1.starts_with("token 1, sequence 4, digest "), "{}", told[3].1);
    assert_eq!(told[7].1, "halt, token 4");
    let whole = Log::read(&mut log(store).as_bytes(), None, &[]).unwrap();
    assert_eq!((whole.tenant, whole.entries), (TENANT, 8));
    // A broker that starts anew goes on with it.
    drop(serving);
    let mut serving = bench.serve(bench.open(), LEASE_MS);
    serving.store().operate(&VM, Order::Resume).unwrap();
    let longer = Log::read(&mut log(serving.store()).as_bytes(), None, &[whole.head]).unwrap();
    assert_eq!(longer.entries, 9);
}

pub(crate) fn an_audit_log_is_not_filled_by_knocking(place: Place) {
    let bench = Bench::at(place);
    let mut serving = bench.serving();
    let store = serving.store();
    for _ in 0..5 {
        store.refused(&VM, &refusal(Rule::Measurement, 0)).unwrap();
        store.refused(&VM, &refusal(Rule::Evidence, 0)).unwrap();
        store.missing(&VM, "token 1, fault 0x04040010".to_owned()).unwrap();
    }
    let thrice = [Event::Enrolled, Event::Refused, Event::Refused, Event::StateMissing];
    assert_eq!(events(store), thrice);
    store.amend(&VM, |_| ()).unwrap();
    store.refused(&VM, &refusal(Rule::Measurement, 0)).unwrap();
    assert_eq!(events(store)[4..], [Event::Amended, Event::Refused], "it happened again since");
    // What a report says is the host's choice, so each rule has a few entries and no more.
    let numbers: Vec<u64> =
        (0..9).map(|seen| store.refused(&VM, &refusal(Rule::Measurement, seen)).unwrap()).collect();
    assert_eq!(numbers, [6, 7, 8, 9, 9, 9, 9, 9, 9]);
    assert_eq!(store.refused(&VM, &refusal(Rule::Chip, 0)).unwrap(), 10, "another rule has its own");
}

fn refusal(rule: Rule, seen: u32) -> Refusal {
    Refusal::new(rule, "something else", seen)
}

pub(crate) fn an_audit_log_is_its_tenants_alone(place: Place) {
    let bench = Bench::at(place);
    let mut serving = bench.serving();
    let store = serving.store();
    let tenant = store.tenant(TENANT).unwrap();
    let other = VmName { tenant: TenantId([0xEE; 16]), vm: VmId([1; 16]) };
    store.register(other.tenant, &tenant).unwrap();
    let before = store.audit(TENANT, 0).unwrap();
    let enrolment = store.enrolment(&VM).unwrap();
    store.enrol(&other, &enrolment).unwrap();
    assert_eq!(store.audit(TENANT, 0).unwrap(), before);
    let others = store.audit(other.tenant, 0).unwrap();
    assert_eq!((others.len(), others[0].0.number), (1, 1), "numbers do not tell how much others do");
    assert!(store.audit(TenantId([0x55; 16]), 0).unwrap().is_empty());
}

pub(crate) fn an_audit_entry_is_there_with_what_it_tells_or_neither_is(place: Place) {
    let bench = Bench::at(place);
    let mut serving = bench.serving();
    let store = serving.store();
    let before = store.audit(TENANT, 0).unwrap();
    assert!(matches!(store.operate(&VM, Order::Resume), Err(StoreError::Barred(_))));
    let enrolment = store.enrolment(&VM).unwrap();
    assert!(matches!(store.enrol(&VM, &enrolment), Err(StoreError::VmExists(_))));
    assert_eq!(store.audit(TENANT, 0).unwrap(), before, "nothing was decided");
    assert!(matches!(ask(&mut serving, B, Request::Renew { token: 1, generation: 0 }).reply, Reply::Fenced));
    assert_eq!(serving.store().audit(TENANT, 0).unwrap(), before);
}

pub(crate) fn an_audit_log_is_read_in_pages(place: Place) {
    let bench = Bench::at(place);
    let mut serving = bench.serving();
    let store = serving.store();
    for _ in 0..ENTRIES_MAX {
        store.amend(&VM, |_| ()).unwrap();
    }
    let first = store.audit(TENANT, 0).unwrap();
    assert_eq!(first.len(), ENTRIES_MAX as usize);
    let (_, last): &(_, Head) = first.last().unwrap();
    let rest = store.audit(TENANT, last.number).unwrap();
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0].1, last.after(TENANT, &rest[0].0));
}
