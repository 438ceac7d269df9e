//! A TPM that keeps nothing, by the command line: enrolled, certified at each launch, and a guest that earns a secret with it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where its world fails")]

#[path = "support/guest.rs"]
mod guest;
#[path = "support/site.rs"]
mod site;
#[path = "support/stack.rs"]
mod stack;

use guest::{SECRET, ask, authority, keep, refused, value, vm_of};
use serde_json::Value;
use stack::{Serving, Stack, Start, Started};
use std::fs;

/// A launch without a volume.
const EPHEMERAL: Start<'static> = Start {
    seat: "tpm",
    volume: "",
    firmware: "firmware",
    config: "config",
    wait_seconds: "30",
    suspend_file: None,
};

fn stack() -> Stack {
    let stack = Stack::enrolled_with(&["--ephemeral"], &[]);
    authority(&stack);
    fs::remove_file(stack.path("volume")).unwrap();
    stack
}

/// The endorsement key's certificate (TCG EK Credential Profile, index of L-1).
fn certificate(tpm: &Serving<'_>) -> Vec<u8> {
    let file = tpm.path("ek.der");
    tpm.run_line("nvread 0x1c00002 -C o -o ek.der");
    let der = fs::read(&file).unwrap();
    fs::remove_file(file).unwrap();
    der
}

fn earned(stack: &Stack) -> String {
    let said = ask(stack, "--name data");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).unwrap()
}

fn status(stack: &Stack) -> Value {
    let broker = stack.broker_url();
    stack.site.json(&["vm", "status", "--broker", &broker, "--config", "config", "--json"])
}

#[test]
fn each_launch_is_another_tpm_and_earns_what_the_tenant_keeps() {
    let stack = stack();
    let tpm = stack.boot_as(EPHEMERAL);
    assert!(tpm.log().contains("EPHEMERAL"), "{}", tpm.log());
    tpm.run_line(&format!("pcrextend 11:sha256={}", "22".repeat(32)));
    let kernel = value(&tpm, 11);
    assert!(keep(&stack, "config", "data", &["--expect-pcr", &kernel]).status.success());
    assert_eq!(earned(&stack), SECRET);
    let first = certificate(&tpm);
    tpm.run_line("nvdefine 0x1500001 -C o -s 4");
    tpm.run_line("createprimary -C o -c primary.ctx");

    // After TPM2_Clear and a reset the broker still knows what resetCount is counted from.
    tpm.run_line("clear");
    assert!(tpm.ioctl("-i").0);
    tpm.run_line("startup -c");
    tpm.run_line(&format!("pcrextend 11:sha256={}", "22".repeat(32)));
    assert_eq!(earned(&stack), SECRET);
    let said = status(&stack);
    assert_eq!(
        (said["life"].as_str(), said["epoch"].as_u64(), said["confirmed"].as_bool()),
        (Some("ephemeral"), Some(0), Some(true))
    );
    tpm.shut_down();
    assert!(!stack.path("volume").exists());

    // The next launch has other keys and remembers nothing.
    let tpm = stack.boot_as(EPHEMERAL);
    assert!(!tpm.run_line("getcap handles-nv-index").contains("0x1500001"));
    assert_ne!(certificate(&tpm), first);
    refused(&ask(&stack, "--name data"), "other values than the tenant allows");
    tpm.run_line(&format!("pcrextend 11:sha256={}", "22".repeat(32)));
    assert_eq!(earned(&stack), SECRET);
    tpm.shut_down();
    let listed = ["vm", "list", "--database", "db", "--json"];
    assert_eq!(stack.site.json(&listed)[0]["life"], "ephemeral");
}

#[test]
fn an_older_launch_earns_nothing_beside_a_newer_one() {
    let stack = stack();
    let older = stack.boot_as(EPHEMERAL);
    let kernel = value(&older, 11);
    assert!(keep(&stack, "config", "data", &["--expect-pcr", &kernel]).status.success());
    assert_eq!(earned(&stack), SECRET);
    let newer = stack.boot_as(Start { seat: "tpm2", ..EPHEMERAL });
    refused(&ask(&stack, "--name data"), "the TPM refuses with response code 0x101");
    assert_eq!(String::from_utf8_lossy(&ask(&stack, "--name data --tpm unix:tpm2").stdout), SECRET);
    older.refused("nvreadpublic 0x1c00002");
    older.kill();
    newer.shut_down();
}

#[test]
fn a_volume_and_a_tpm_that_keeps_nothing_do_not_go_together() {
    let stack = stack();
    stack::blank(&stack.path("volume"));
    let refusal = |start: Start<'_>| match stack.start(start) {
        Started::Refused(_, said) => said,
        Started::Serves(_) => panic!("it serves"),
    };
    assert!(refusal(Start { volume: "volume", ..EPHEMERAL }).contains("leave --volume"));
    let measured = husk_psp::expected_measurement(b"firmware of a test");
    stack.site.enrol_as(&stack.tenant, &measured, "kept", &[]);
    assert!(refusal(Start { config: "kept", ..EPHEMERAL }).contains("give --volume"));
    // It is for ever: the one word in the configuration is another HOST_DATA.
    let other = fs::read_to_string(stack.path("config")).unwrap().replace("ephemeral", "strict");
    fs::write(stack.path("other"), other).unwrap();
    let said = refusal(Start { volume: "volume", config: "other", ..EPHEMERAL });
    assert!(said.contains("0x0306000a"), "{said}");
    let vm = vm_of(&stack, "config");
    let enrolled =
        ["vm", "enroll", "--database", "db", "--tenant", &stack.tenant, "--vm", &vm, "--config-out", "again"];
    let again = stack.site.run(&[&enrolled[..], &["--measurement", &"00".repeat(48)]].concat());
    assert!(!again.status.success(), "a VM is enrolled once");
}
