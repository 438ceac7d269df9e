//! A VM's keys from end to end: the component's client, the relay, the broker and a simulated processor, each its own
//! process but the client.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where its world fails")]

#[path = "support/launch.rs"]
mod launch;
#[path = "../../../tests/support/nothing.rs"]
mod nothing;
#[path = "support/site.rs"]
mod site;
#[path = "support/tls.rs"]
mod tls;
#[path = "support/token.rs"]
mod token;

use husk::release::open::{Granted, Verdict};
use husk::release::{Anchor, ReleaseFault};
use launch::{FIRMWARE, KEYS, Launch, SIMULATED, created, enrolled, head, relay, relay_to};
use std::fs;

#[test]
fn a_vm_lives_through_a_restart_of_its_broker() {
    let site = enrolled().0;
    let (broker, address) = site.serve("127.0.0.1:0", &SIMULATED);
    let relay = relay(&site, &address, &[]);
    let (mut launch, mut tenure) = created(&site);
    drop(broker);
    let lost = launch.on(|platform| tenure.anchor(platform, &head(1), &head(2)).map(drop));
    assert_eq!(lost, Err(ReleaseFault::Undecided), "an unreachable broker is silence, nothing else");
    let (_broker, _) = site.serve(&address, &SIMULATED);
    launch.on(|platform| tenure.anchor(platform, &head(1), &head(2))).map(drop).unwrap();
    launch.on(|platform| tenure.release(platform)).unwrap();
    let (_, verdict) = Launch::new(&site, FIRMWARE).boot().unwrap();
    let Verdict::Granted(Granted::Open(grant)) = verdict else { panic!("not an opening") };
    assert_eq!(grant.head, head(2));
    drop(relay);
}

#[test]
fn a_vm_gets_its_keys_over_tls() {
    let site = enrolled().0;
    let shown = tls::made(&site, "a");
    let (_broker, address) = site.serve("127.0.0.1:0", &[&SIMULATED[..], &shown.server()].concat());
    let relay = relay_to(&site, &format!("https://{address}"), &shown.client());
    let (mut launch, mut tenure) = created(&site);
    launch.on(|platform| tenure.release(platform)).unwrap();
    drop(relay);
}

/// A database is set back to a time before the VM's newest commits while no broker serves it; the token was not.
#[test]
fn a_counter_in_a_token_notices_a_database_that_was_set_back() {
    let site = enrolled().0;
    let place = token::make(&site);
    let counted =
        [&["broker", "count", "--counter-token-out", "commits", "--json"], &KEYS[..], &place].concat();
    assert!(site.json(&counted)["commits"].as_u64().unwrap() >= 2);
    assert_eq!(site.run(&counted).status.code(), Some(4), "a counter is never made anew");
    let serve = [&SIMULATED[..], &["--counter-token", "commits"], &place].concat();
    let (broker, address) = site.serve("127.0.0.1:0", &serve);
    let relay = relay(&site, &address, &[]);
    let (mut launch, mut tenure) = created(&site);
    drop(broker);
    let files = ["db", "db-wal"].map(|name| (site.path(name), fs::read(site.path(name)).ok()));
    let (broker, _) = site.serve(&address, &serve);
    launch.on(|platform| tenure.anchor(platform, &head(1), &head(2))).map(drop).unwrap();
    launch.on(|platform| tenure.release(platform)).unwrap();
    drop(broker);
    for (path, yesterday) in files {
        match yesterday {
            Some(bytes) => fs::write(path, bytes).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
    }
    let (_broker, _) = site.serve(&address, &serve);
    let mut next = Launch::new(&site, FIRMWARE);
    let fault = next.refusal();
    let fault = if fault == ReleaseFault::Unreachable { next.refusal() } else { fault };
    assert_eq!(fault, ReleaseFault::DeniedVm, "halted");
    drop(relay);
}

#[test]
fn simulated_silicon_and_other_firmware_are_refused() {
    let site = enrolled().0;
    let (broker, address) = site.serve("127.0.0.1:0", &[]);
    let _relay = relay(&site, &address, &[]);
    assert_eq!(Launch::new(&site, FIRMWARE).refusal(), ReleaseFault::DeniedSimulated);
    drop(broker);
    let (_broker, _) = site.serve(&address, &SIMULATED);
    // The pipe's connection went with the old broker; a refused hello says so and changes nothing.
    let mut other = Launch::new(&site, b"another firmware");
    let fault = other.refusal();
    let fault = if fault == ReleaseFault::Unreachable { other.refusal() } else { fault };
    assert_eq!(fault, ReleaseFault::DeniedMeasurement);
    assert!(Launch::new(&site, FIRMWARE).boot().is_ok());
}

#[test]
fn a_hostile_relay_gets_silence_or_refusals() {
    let site = enrolled().0;
    let (_broker, address) = site.serve("127.0.0.1:0", &SIMULATED);
    let record = relay(&site, &address, &["--test-tamper", "record:yesterday"]);
    assert!(Launch::new(&site, FIRMWARE).boot().is_ok());
    drop(record);
    let cases = [
        ("swap-broker-key", ReleaseFault::BrokerUntrusted),
        ("replay:yesterday", ReleaseFault::ReplyRefused),
        ("replay-all:yesterday", ReleaseFault::ReplyRefused),
        ("flip-reply:0:40", ReleaseFault::ReplyRefused),
        ("flip-reply:2:100", ReleaseFault::ReplyRefused),
        ("flip-request:1:500", ReleaseFault::DeniedOther),
        ("drop-request:0", ReleaseFault::Unreachable),
        ("drop-reply:2", ReleaseFault::Unreachable),
    ];
    for (mode, fault) in cases {
        let _relay = relay(&site, &address, &["--test-tamper", mode]);
        assert_eq!(Launch::new(&site, FIRMWARE).refusal(), fault, "{mode}");
    }
    let _relay = relay(&site, &address, &[]);
    let (_, verdict) = Launch::new(&site, FIRMWARE).boot().unwrap();
    assert!(matches!(verdict, Verdict::Granted(Granted::Create(_))), "the honest way still works");
}
