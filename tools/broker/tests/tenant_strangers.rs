//! What a tenant cannot tell: whether an id that is not its own is another's or nobody's. By the answer, and by the work that it costs:
//! statements of the database are counted, no clock is asked. One test, since the counter is the process's.

#![expect(clippy::unwrap_used, reason = "a test ends where its world fails")]

#[path = "support/service.rs"]
mod service;
#[path = "support/world.rs"]
mod world;

use husk_broker::admin::signed::signed;
use husk_broker::admin::{Failure, Firmware, Id, Request, Right};
use husk_broker::ids::{TenantId, VmId};
use husk_broker::store::statements;
use husk_broker::vault::OperatorKey;
use serde_json::{Value, json};
use service::Broker;

const A: TenantId = TenantId([0xA; 16]);
const B: TenantId = TenantId([0xB; 16]);
const NOBODY: TenantId = TenantId([0xC; 16]);
const FOREIGN: Id = Id(VmId([2; 16]));
const UNKNOWN: Id = Id(VmId([3; 16]));

fn enroll(vm: Id) -> Request {
    let policy = json!({ "measurements": ["07".repeat(48)] });
    Request::Enroll { vm, host_data: [5; 32], policy: serde_json::from_value(policy).unwrap() }
}

/// The answer, and how many statements it cost.
fn ask(broker: &Broker, operator: &OperatorKey, request: &Request) -> (Result<Value, Failure>, u64) {
    let greeting = broker.service.admin_greeting().unwrap();
    let json = serde_json::to_vec(request).unwrap();
    let when = (broker.keys.broker(), greeting["time_ms"].as_u64().unwrap());
    let sent = signed(&*broker.world, operator, when, &json).unwrap();
    let before = statements();
    let said = broker.service.admin(&sent);
    (said, statements() - before)
}

#[test]
fn a_tenant_cannot_tell_anothers_ids_from_nobodys() {
    let broker = Broker::with(&[A, B]);
    let rights = Right::ALL.map(|(_, right)| right);
    let [a, b] = [A, B].map(|tenant| broker.operator(tenant, &rights));
    ask(&broker, &b, &enroll(FOREIGN)).0.unwrap();
    let path = || "default/key/one".to_owned();
    let content = || "c2VjcmV0".to_owned();
    ask(&broker, &b, &Request::PutResource { vm: FOREIGN, path: path(), content: content(), replace: false })
        .0
        .unwrap();
    let requests: [fn(Id) -> Request; 7] = [
        |vm| Request::Vm { vm },
        |vm| match enroll(vm) {
            Request::Enroll { policy, .. } => Request::Policy { vm, policy },
            other => other,
        },
        |vm| Request::Allow { vm, measurement: Firmware([9; 48]) },
        |vm| Request::Forbid { vm, measurement: Firmware([9; 48]) },
        |vm| Request::Resources { vm },
        |vm| Request::PutResource {
            vm,
            path: "default/key/one".to_owned(),
            content: "c2VjcmV0".to_owned(),
            replace: true,
        },
        |vm| Request::RemoveResource { vm, path: "default/key/one".to_owned() },
    ];
    for request in requests {
        let [foreign, unknown] = [FOREIGN, UNKNOWN].map(|vm| ask(&broker, &a, &request(vm)));
        assert_eq!(foreign, unknown, "{:?}", request(FOREIGN));
        assert!(matches!(foreign.0, Err(Failure::UnknownVm | Failure::UnknownResource)), "{foreign:?}");
    }
    let listed = ask(&broker, &a, &Request::Vms { after: None });
    assert_eq!(listed.0, Ok(json!([])));
    // A tenant that is registered, asked for with a key that its root did not certify, and one that is not.
    let stranger = Broker::with(&[B, NOBODY]);
    let [foreign, nobodys] = [B, NOBODY].map(|tenant| stranger.operator(tenant, &rights));
    let [foreign, unknown] = [foreign, nobodys].map(|operator| ask(&broker, &operator, &Request::Tenant {}));
    assert_eq!(foreign, unknown);
    assert_eq!(foreign.0, Err(Failure::Unknown));
    // An id that another tenant has is free.
    assert_eq!(ask(&broker, &a, &enroll(FOREIGN)), {
        let own = ask(&broker, &a, &enroll(UNKNOWN));
        (own.0, own.1)
    });
}
