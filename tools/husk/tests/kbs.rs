//! A TPM whose key also takes the static key of a CoCo KBS, as an operator meets it: every part its own process, and the KBS on real HTTP.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where its world fails")]

#[path = "support/kbs.rs"]
mod kbs;
#[path = "support/site.rs"]
mod site;
#[path = "support/stack.rs"]
mod stack;

use husk::fault::Fault;
use husk::release::ReleaseFault;
use husk::volume::VolumeFault;
use husk_psp::{Identity, expected_measurement};
use kbs::Kbs;
use serde_json::Value;
use stack::{Stack, Start};
use std::fs;

const REQUIRED: [&str; 2] = ["--kbs", "required"];

/// A KBS without resources, and a stack whose VM requires one.
fn standing() -> (Stack, Kbs) {
    let kbs = Kbs::serve(Identity::published(0).unwrap().chain_pem().unwrap().into_bytes());
    let stack = Stack::enrolled_with(&REQUIRED, &["--kbs", &kbs.url]);
    (stack, kbs)
}

/// The tenant makes an envelope; what the command said.
fn envelope(stack: &Stack, root: &str, config: &str, out: &str) -> Value {
    let made =
        stack.site.json(&["tenant", "envelope", "--root", root, "--config", config, "--out", out, "--json"]);
    assert!(!made.to_string().contains(&hex::encode(&fs::read(stack.path(out)).unwrap()[64..96])), "{made}");
    made
}

/// Uploads a file under this VM's path.
fn upload(stack: &Stack, kbs: &Kbs, path: &str, file: &str) {
    kbs.state().resources.insert(path.to_owned(), fs::read(stack.path(file)).unwrap());
}

#[track_caller]
fn refuses(stack: &Stack, family: i32, fault: impl Into<Fault>) {
    stack.refuses(Start::default(), family, fault.into().code());
}

#[test]
fn a_tpm_under_a_kbs_key_lives_and_stops_where_the_key_is_not_its_own() {
    let (mut stack, kbs) = standing();
    refuses(&stack, 13, ReleaseFault::KbsRefused);
    let made = envelope(&stack, "tenant", "config", "envelope");
    let path = made["resource"].as_str().unwrap().to_owned();
    upload(&stack, &kbs, &path, "envelope");
    let serving = stack.boot();
    serving.run_line("nvdefine 0x1500001 -C o -s 4 -a ownerread|ownerwrite");
    fs::write(stack.path("kept"), b"kept").unwrap();
    let kept = stack.path("kept").display().to_string();
    serving.tool("nvwrite", ["0x1500001", "-C", "o", "-i", &kept]);
    serving.shut_down();
    let shown = stack.site.json(&["volume", "inspect", "--json", "volume"]).to_string();
    assert!(shown.contains("sealed, also by a KBS"), "{shown}");
    let serving = stack.boot();
    assert_eq!(serving.run_line("nvread 0x1500001 -C o -s 4"), "kept");
    serving.shut_down();
    assert!(kbs.state().attested >= 3, "the KBS checked a report for each launch");

    envelope(&stack, "tenant", "config", "another-key");
    upload(&stack, &kbs, &path, "another-key");
    refuses(&stack, 14, VolumeFault::Damaged);

    let measurement = expected_measurement(b"firmware of a test");
    stack.site.enrol_as(&stack.tenant, &measurement, "another-config", &REQUIRED);
    envelope(&stack, "tenant", "another-config", "another-vm");
    upload(&stack, &kbs, &path, "another-vm");
    refuses(&stack, 13, ReleaseFault::EnvelopeOfAnother);

    // What a host can make by itself: the same words, signed by a key of its own.
    let root = stack.site.json(&["tenant", "root", "--root-out", "host-root", "--json"]);
    let digest = root["root"].as_str().unwrap();
    let (tenant, vm) = (made["tenant"].as_str().unwrap(), made["vm"].as_str().unwrap());
    let config =
        ["image", "config", "--tenant", tenant, "--vm", vm, "--root", digest, "--out", "host-config"];
    stack.site.json(&[&config[..], &REQUIRED, &["--json"]].concat());
    envelope(&stack, "host-root", "host-config", "host-made");
    upload(&stack, &kbs, &path, "host-made");
    refuses(&stack, 12, ReleaseFault::EnvelopeUntrusted);

    kbs.state().silent = true;
    refuses(&stack, 13, ReleaseFault::KbsUnreachable);
    stack.restart_relay(&[]);
    refuses(&stack, 12, ReleaseFault::KbsAbsent);

    kbs.state().silent = false;
    upload(&stack, &kbs, &path, "envelope");
    stack.restart_relay(&["--kbs", &kbs.url]);
    let serving = stack.boot();
    assert_eq!(serving.run_line("nvread 0x1500001 -C o -s 4"), "kept");
}

#[test]
fn the_broker_itself_can_be_the_kbs() {
    let mut stack = Stack::enrolled_with(&REQUIRED, &[]);
    let url = stack.broker_url();
    stack.restart_relay(&["--kbs", &url]);
    refuses(&stack, 13, ReleaseFault::KbsRefused);
    let made = envelope(&stack, "tenant", "config", "envelope");
    let word = |name: &str| made[name].as_str().unwrap().to_owned();
    let (tenant, vm, path) = (word("tenant"), word("vm"), word("resource"));
    stack.stop_broker();
    let of_vm = ["--database", "db", "--tenant", &tenant, "--vm", &vm, "--path", &path, "--json"];
    let put = [&["vm", "resource", "put", "--root-key", "root", "--file", "envelope"], &of_vm[..]].concat();
    stack.site.json(&put);
    let again = stack.site.run(&put);
    assert_eq!(again.status.code(), Some(4), "{}", String::from_utf8_lossy(&again.stderr));
    let listed = ["vm", "resource", "list", "--database", "db", "--tenant", &tenant, "--vm", &vm, "--json"];
    assert_eq!(stack.site.json(&listed), serde_json::json!([path]));
    stack.restart_broker(true);
    stack.boot().shut_down();
    stack.boot().shut_down();
    stack.stop_broker();
    stack.site.json(&[&["vm", "resource", "remove"], &of_vm[..]].concat());
    stack.restart_broker(true);
    refuses(&stack, 13, ReleaseFault::KbsRefused);
}

#[test]
fn an_envelope_is_made_for_a_configuration_that_wants_one_and_keeps_its_secret() {
    let (stack, _kbs) = standing();
    let refused = |words: &[&str], reason: &str| {
        let output = stack.site.run(&[&["tenant", "envelope", "--config", "config"], words].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(reason), "{words:?}: {said}");
    };
    stack.site.json(&["tenant", "root", "--root-out", "other", "--json"]);
    refused(&["--root", "other", "--out", "e"], "another root key");
    fs::write(stack.path("key"), "4b".repeat(32)).unwrap();
    let key = ["--root", "tenant", "--out", "e", "--key-file", "key"];
    refused(&key, "chmod 600");
    set_mode(&stack, "key", 0o600);
    let made = [&["tenant", "envelope", "--config", "config", "--json"], &key[..]].concat();
    stack.site.json(&made);
    let envelope = fs::read(stack.path("e")).unwrap();
    assert_eq!(envelope[64..96], [0x4B; 32]);
    assert_eq!(mode(&stack, "e"), 0o600);
    refused(&key, "never overwritten");
    fs::write(stack.path("key"), "4b".repeat(31)).unwrap();
    refused(&["--root", "tenant", "--out", "f", "--key-file", "key"], "64 hexadecimal digits");
    let measurement = expected_measurement(b"firmware of a test");
    stack.site.enrol_as(&stack.tenant, &measurement, "plain", &[]);
    let output =
        stack.site.run(&["tenant", "envelope", "--config", "plain", "--root", "tenant", "--out", "g"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("requires no KBS"));
}

fn mode(stack: &Stack, name: &str) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(stack.path(name)).unwrap().permissions().mode() & 0o777
}

fn set_mode(stack: &Stack, name: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(stack.path(name), fs::Permissions::from_mode(mode)).unwrap();
}
