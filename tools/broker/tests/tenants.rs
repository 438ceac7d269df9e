//! The laws of tenants' own requests: whose they are, what they reach, and that each is done once.

#![expect(clippy::unwrap_used, reason = "a test ends where its world fails")]

#[path = "support/service.rs"]
mod service;
#[path = "support/world.rs"]
mod world;

use husk_broker::admin::signed::signed;
use husk_broker::admin::{Failure, Firmware, Id, REQUEST_BYTES_MAX, Request, Right, VMS_MAX, WINDOW_MS};
use husk_broker::ids::{TenantId, VmId, VmName};
use husk_broker::policy::Policy;
use husk_broker::store::{Enrolment, QUOTA, Store};
use husk_broker::vault::OperatorKey;
use serde_json::{Value, json};
use service::Broker;

const A: TenantId = TenantId([0xA; 16]);
const B: TenantId = TenantId([0xB; 16]);
const VM: Id = Id(VmId([1; 16]));
const OTHER: Id = Id(VmId([2; 16]));

fn everything() -> Vec<Right> {
    Right::ALL.map(|(_, right)| right).to_vec()
}

fn enroll(vm: Id) -> Request {
    let policy = json!({ "measurements": ["07".repeat(48)] });
    Request::Enroll { vm, host_data: [vm.0.0[0]; 32], policy: serde_json::from_value(policy).unwrap() }
}

fn put(vm: Id, replace: bool) -> Request {
    let (path, content) = ("default/key/one".to_owned(), "c2VjcmV0".to_owned());
    Request::PutResource { vm, path, content, replace }
}

fn remove(vm: Id) -> Request {
    Request::RemoveResource { vm, path: "default/key/one".to_owned() }
}

fn policy(vm: Id) -> Request {
    let Request::Enroll { policy, .. } = enroll(vm) else { return Request::Tenant {} };
    Request::Policy { vm, policy }
}

/// Every request there is, about a VM.
fn all(vm: Id) -> Vec<Request> {
    let measurement = Firmware([9; 48]);
    vec![
        Request::Tenant {},
        Request::Vms { after: None },
        Request::Vm { vm },
        policy(vm),
        Request::Allow { vm, measurement },
        Request::Forbid { vm, measurement },
        Request::Audit { after: 0 },
        Request::Resources { vm },
        put(vm, true),
        remove(vm),
        enroll(vm),
    ]
}

/// A signed request, as it is sent.
fn sent(broker: &Broker, operator: &OperatorKey, request: &Request) -> Vec<u8> {
    let greeting = broker.service.admin_greeting().unwrap();
    let time_ms = greeting["time_ms"].as_u64().unwrap();
    let json = serde_json::to_vec(request).unwrap();
    signed(&*broker.world, operator, (broker.keys.broker(), time_ms), &json).unwrap()
}

fn ask(broker: &Broker, operator: &OperatorKey, request: &Request) -> Result<Value, Failure> {
    broker.service.admin(&sent(broker, operator, request))
}

#[test]
fn a_tenants_operator_asks_what_its_certificate_allows() {
    let broker = Broker::with(&[A]);
    let owner = broker.operator(A, &everything());
    ask(&broker, &owner, &enroll(VM)).unwrap();
    for (word, right) in Right::ALL {
        let operator = broker.operator(A, &[right]);
        for request in all(VM) {
            let said = ask(&broker, &operator, &request);
            let allowed = request.right().is_none_or(|needed| needed == right);
            assert_eq!(said != Err(Failure::NotAllowed), allowed, "{word}: {request:?}: {said:?}");
        }
    }
    let none = broker.operator(A, &[]);
    assert_eq!(ask(&broker, &none, &Request::Vms { after: None }), Err(Failure::NotAllowed));
}

#[test]
fn a_tenant_fills_its_own_room_and_nobody_elses() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let broker = Broker::at(Some(&path), &[A, B]);
    let [a, b] = [A, B].map(|tenant| broker.operator(tenant, &everything()));
    let mut store = Store::open(&path).unwrap();
    let policy: Policy = serde_json::from_value(json!({ "measurements": ["07".repeat(48)] })).unwrap();
    for number in 1..QUOTA.vms {
        let vm = VmId((1 << 64 | u128::from(number)).to_be_bytes());
        store
            .enrol(&VmName { tenant: A, vm }, &Enrolment { host_data: [7; 32], policy: policy.clone() })
            .unwrap();
    }
    ask(&broker, &a, &enroll(VM)).unwrap();
    assert_eq!(ask(&broker, &a, &enroll(OTHER)), Err(Failure::Full));
    ask(&broker, &b, &enroll(OTHER)).unwrap();
    assert_eq!(store.allot(A, |said| said.vms = Some(QUOTA.vms + 1)).unwrap().vms, QUOTA.vms + 1);
    ask(&broker, &a, &enroll(OTHER)).unwrap();
    store.allot(B, |said| said.vms = Some(0)).unwrap();
    assert_eq!(ask(&broker, &b, &enroll(VM)), Err(Failure::Full), "what it has beyond stays");
    ask(&broker, &b, &Request::Vm { vm: OTHER }).unwrap();
    store.allot(B, |said| said.requests = Some(0)).unwrap();
    assert_eq!(ask(&broker, &b, &Request::Tenant {}), Err(Failure::TooMany));
    ask(&broker, &a, &Request::Tenant {}).unwrap();
}

#[test]
fn a_tenant_reaches_its_own_things_alone() {
    let broker = Broker::with(&[A, B]);
    let [a, b] = [A, B].map(|tenant| broker.operator(tenant, &everything()));
    for operator in [&a, &b] {
        ask(&broker, operator, &enroll(VM)).unwrap();
        ask(&broker, operator, &put(VM, false)).unwrap();
    }
    ask(&broker, &b, &enroll(OTHER)).unwrap();
    let before = all_of(&broker, &b);
    for request in [Request::Allow { vm: VM, measurement: Firmware([9; 48]) }, remove(VM), put(VM, false)] {
        ask(&broker, &a, &request).unwrap();
    }
    assert_eq!(ask(&broker, &a, &put(VM, false)), Err(Failure::ResourceExists));
    assert_eq!(ask(&broker, &a, &enroll(VM)), Err(Failure::VmExists));
    assert_eq!(all_of(&broker, &b), before, "nothing of the other's has changed");
    let listed = ask(&broker, &a, &Request::Vms { after: None }).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert!(!all_of(&broker, &a).to_string().contains(&B.to_string()));
    assert_eq!(ask(&broker, &a, &Request::Vm { vm: OTHER }), Err(Failure::UnknownVm));
}

/// Everything that a tenant can see.
fn all_of(broker: &Broker, operator: &OperatorKey) -> Value {
    let requests = [
        Request::Tenant {},
        Request::Vms { after: None },
        Request::Vm { vm: VM },
        Request::Audit { after: 0 },
    ];
    let mut seen: Value = requests.iter().map(|request| ask(broker, operator, request).unwrap()).collect();
    // What time it is changes.
    seen[2]["time_ms"] = Value::Null;
    seen
}

#[test]
fn a_tenants_request_is_done_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let broker = Broker::at(Some(&path), &[A]);
    let operator = broker.operator(A, &everything());
    let first = sent(&broker, &operator, &enroll(VM));
    broker.service.admin(&first).unwrap();
    assert_eq!(broker.service.admin(&first), Err(Failure::Replayed));
    let late = sent(&broker, &operator, &Request::Vms { after: None });
    broker.world.pass(WINDOW_MS);
    assert_eq!(broker.service.admin(&first), Err(Failure::Replayed), "to the end of the window");
    let broker = broker.restarted(Store::open(&path).unwrap());
    assert_eq!(broker.service.admin(&first), Err(Failure::Replayed), "and after a restart");
    broker.service.admin(&late).unwrap();
    broker.world.pass(1);
    assert_eq!(broker.service.admin(&first), Err(Failure::Stale), "from then on it is of another time");
    assert_eq!(broker.service.admin(&late), Err(Failure::Stale));
    let now = broker.service.admin_greeting().unwrap()["time_ms"].as_u64().unwrap();
    let early =
        signed(&*broker.world, &operator, (broker.keys.broker(), now + 1001), b"{\"tenant\":{}}").unwrap();
    assert_eq!(broker.service.admin(&early), Err(Failure::Stale), "a moment that has not come");
    broker.world.pass(1);
    broker.service.admin(&early).unwrap();
}

#[test]
fn a_tenants_key_of_a_higher_generation_revokes_the_lower_ones() {
    let broker = Broker::with(&[A, B]);
    let [old, new] = [1, 2].map(|generation| broker.operator_of(A, &everything(), generation));
    let other = broker.operator(B, &everything());
    ask(&broker, &old, &Request::Tenant {}).unwrap();
    ask(&broker, &new, &Request::Tenant {}).unwrap();
    assert_eq!(ask(&broker, &old, &Request::Tenant {}), Err(Failure::Revoked));
    ask(&broker, &new, &Request::Tenant {}).unwrap();
    ask(&broker, &other, &Request::Tenant {}).unwrap();
}

#[test]
fn nobodys_request_is_as_good_as_none() {
    let broker = Broker::with(&[A]);
    let operator = broker.operator(A, &everything());
    let good = sent(&broker, &operator, &Request::Tenant {});
    for at in (0..good.len()).step_by(5) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert_eq!(broker.service.admin(&bad), Err(Failure::Unknown), "byte {at}");
    }
    for cut in 0..good.len() - br#"{"tenant":{}}"#.len() {
        assert_eq!(broker.service.admin(&good[..cut]), Err(Failure::Malformed), "cut at {cut}");
    }
    let elsewhere = signed(&*broker.world, &operator, ([9; 16], 1), b"{\"tenant\":{}}").unwrap();
    assert_eq!(broker.service.admin(&elsewhere), Err(Failure::Unknown), "another broker was asked");
    let long = vec![b' '; REQUEST_BYTES_MAX];
    let long = signed(&*broker.world, &operator, (broker.keys.broker(), 1), &long).unwrap();
    assert_eq!(broker.service.admin(&long), Err(Failure::Malformed));
    broker.service.admin(&good).unwrap();
}

#[test]
fn a_tenant_over_its_rate_does_not_slow_another() {
    let broker = Broker::with(&[A, B]);
    let [a, b] = [A, B].map(|tenant| broker.operator(tenant, &everything()));
    for _ in 0..u64::from(QUOTA.requests) {
        ask(&broker, &a, &Request::Tenant {}).unwrap();
    }
    assert_eq!(ask(&broker, &a, &Request::Tenant {}), Err(Failure::TooMany));
    ask(&broker, &b, &Request::Tenant {}).unwrap();
    broker.world.pass(WINDOW_MS + 1);
    ask(&broker, &a, &Request::Tenant {}).unwrap();
}

#[test]
fn a_tenants_vms_are_listed_page_by_page() {
    let broker = Broker::with(&[A, B]);
    let [a, b] = [A, B].map(|tenant| broker.operator(tenant, &everything()));
    let count = VMS_MAX + 5;
    for number in 0..count {
        let mut vm = [7; 16];
        vm[..4].copy_from_slice(&number.to_be_bytes());
        for operator in [&a, &b] {
            ask(&broker, operator, &enroll(Id(VmId(vm)))).unwrap();
        }
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = ask(&broker, &a, &Request::Vms { after }).unwrap();
        let page = page.as_array().unwrap();
        assert!(page.len() <= VMS_MAX as usize);
        let Some(last) = page.last() else { break };
        after = Some(Id(last["vm"].as_str().unwrap().parse().unwrap()));
        seen.extend(page.iter().map(|row| row["vm"].as_str().unwrap().to_owned()));
    }
    assert_eq!(seen.len(), count as usize);
    assert!(seen.is_sorted() && seen.windows(2).all(|pair| pair[0] != pair[1]));
}
