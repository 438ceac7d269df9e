//! What a tenant's operator asks of the broker: any JSON under a good signature, and good JSON under any signature.

use crate::bench::{Bench, OTHER_VM, TENANT, VM};
use husk_broker::admin::signed::signed;
use husk_broker::admin::{Failure, Firmware, Id, Request, Right};
use husk_broker::ids::VmId;
use husk_broker::policy::Policy;
use husk_broker::vault::OperatorKey;
use serde_json::{Value, json};

/// Each byte string is requests, a line each, of one operator who may ask anything.
pub(crate) fn requests(data: &[u8]) {
    let bench = Bench::new();
    let bits = Right::ALL.iter().fold(0, |bits, (_, right)| bits | right.bit());
    let operator = OperatorKey::generate(&*bench.world, bench.root(), TENANT, (&[], bits, 1)).unwrap();
    let states = || [VM, OTHER_VM].map(|vm| state(&bench, &vm));
    let before = states();
    for line in data.split(|byte| *byte == b'\n').take(4) {
        one_spelling(line);
        let (sent, said) = asked(&bench, &operator, line);
        let read = serde_json::from_slice::<Request>(line);
        assert!(read.is_ok() || said == Err(Failure::Malformed), "{said:?}");
        assert_eq!(bench.service.admin(&sent), Err(Failure::Replayed), "each is done once");
        altered(&bench, &sent, line.len());
    }
    assert!(bench.service.is_well());
    assert_eq!(states(), before, "no request moves a VM's state");
}

/// Signs the request at the broker's clock, and sends it.
fn asked(bench: &Bench, operator: &OperatorKey, json: &[u8]) -> (Vec<u8>, Result<Value, Failure>) {
    let greeting = bench.service.admin_greeting().unwrap();
    let mut broker = [0; 16];
    broker.copy_from_slice(&bytes_of(greeting["broker"].as_str().unwrap()));
    let time_ms = greeting["time_ms"].as_u64().unwrap();
    let sent = signed(&*bench.world, operator, (broker, time_ms), json).unwrap();
    let said = bench.service.admin(&sent);
    (sent, said)
}

fn bytes_of(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// One byte of what was signed is another: nobody's request, whatever it says.
fn altered(bench: &Bench, sent: &[u8], json_bytes: usize) {
    let mut other = sent.to_vec();
    let at = (sent.len() * 7 + json_bytes) % sent.len();
    other[at] ^= 1;
    assert_eq!(bench.service.admin(&other), Err(Failure::Unknown), "byte {at}");
}

/// Where a VM stands, as far as a tenant's requests must not move it.
fn state(bench: &Bench, vm: &husk_broker::ids::VmName) -> (u8, u32, u64, u64, u64) {
    let said = bench.asked(vm, [5; 32]);
    (said.life, said.generation.get(), said.token.get(), said.epoch.get(), said.head.sequence.get())
}

/// What is read, is written and read again as the same.
fn one_spelling(line: &[u8]) {
    let Ok(request) = serde_json::from_slice::<Request>(line) else { return };
    let written = serde_json::to_string(&request).unwrap();
    let again: Request = serde_json::from_str(&written).unwrap();
    assert_eq!(serde_json::to_string(&again).unwrap(), written);
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let (vm, new) = (Id(VM.vm), Id(VmId([9; 16])));
    let policy: Policy = serde_json::from_value(json!({ "measurements": ["07".repeat(48)] })).unwrap();
    let path = "default/key/one".to_owned();
    let put = |content: &str, replace| Request::PutResource {
        vm,
        path: path.clone(),
        content: content.to_owned(),
        replace,
    };
    let measurement = Firmware([9; 48]);
    let single = [
        Request::Tenant {},
        Request::Vms { after: None },
        Request::Vms { after: Some(vm) },
        Request::Vm { vm },
        Request::Vm { vm: new },
        Request::Audit { after: 0 },
        Request::Resources { vm },
        Request::Enroll { vm: new, host_data: [3; 32], policy: policy.clone() },
        Request::Policy { vm, policy },
        Request::Allow { vm, measurement },
        Request::Forbid { vm, measurement },
        put("c2VjcmV0", false),
        Request::RemoveResource { vm, path: path.clone() },
    ];
    let lines: Vec<String> = single.iter().map(|request| serde_json::to_string(request).unwrap()).collect();
    let mut seeds: Vec<Vec<u8>> = lines.iter().map(|line| line.clone().into_bytes()).collect();
    let after_one_another = [&put("c2VjcmV0", false), &put("", true), &Request::Resources { vm }];
    let joined: Vec<String> =
        after_one_another.iter().map(|request| serde_json::to_string(request).unwrap()).collect();
    seeds.push(joined.join("\n").into_bytes());
    seeds.push(format!("{}\n{}", lines[7], lines[4]).into_bytes());
    for odd in [
        r#"{"vms":{"after":null},"vms":{"after":null}}"#,
        r#"{"audit":{"after":18446744073709551615}}"#,
        r#"{"put_resource":{"vm":"02020202020202020202020202020202","path":"../../..","content":"!","replace":true}}"#,
        r#"{"halt":{"vm":"02020202020202020202020202020202"}}"#,
        "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    ] {
        seeds.push(odd.as_bytes().to_vec());
    }
    seeds
}
