//! `husk vm unlock` and `husk-unlock`: a VM behind its broker, whose guest earns a secret through the relay that the VM has.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where its world fails")]

#[path = "support/guest.rs"]
mod guest;
#[path = "support/site.rs"]
mod site;
#[path = "support/stack.rs"]
mod stack;

use guest::{SECRET, ask, authority, keep, refused, value, vm_of};
use husk_psp::expected_measurement;
use serde_json::Value;
use stack::{Stack, Start, Started, blank};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

fn certified() -> Stack {
    let stack = Stack::new();
    authority(&stack);
    stack
}

#[test]
fn a_guest_earns_what_its_tenant_keeps_for_it() {
    let stack = certified();
    let tpm = stack.boot();
    tpm.run_line(&format!("pcrextend 11:sha256={}", "22".repeat(32)));
    let kernel = value(&tpm, 11);
    fs::write(stack.path("pcrs"), format!("{} # no option of its own\n", value(&tpm, 12))).unwrap();
    let manifest = serde_json::json!({ "pcr_11": [{ "phase": "enter-initrd", "sha256": kernel.split('=').nth(1).unwrap() }] });
    fs::write(stack.path("manifest.json"), manifest.to_string()).unwrap();
    let kept = keep(&stack, "config", "data", &["--manifest", "manifest.json", "--expected", "pcrs"]);
    assert!(kept.status.success(), "{}", String::from_utf8_lossy(&kept.stderr));
    assert_eq!(keep(&stack, "config", "data", &["--expect-pcr", &kernel]).status.code(), Some(4));
    let open = keep(&stack, "config", "open", &[]);
    assert!(String::from_utf8_lossy(&open.stderr).contains("at least one PCR"));
    let listed = ["vm", "unlock", "list", "--database", "db", "--tenant", &stack.tenant, "--json", "--vm"];
    let listed: Value = stack.site.json(&[&listed[..], &[&vm_of(&stack, "config")]].concat());
    assert_eq!(listed[0]["name"], "data");
    assert_eq!(listed[0]["pcrs"][0].as_object().unwrap().len(), 2);

    let earned = ask(&stack, "--name data");
    assert_eq!(
        String::from_utf8_lossy(&earned.stdout),
        SECRET,
        "{}",
        String::from_utf8_lossy(&earned.stderr)
    );
    assert!(earned.stderr.is_empty());
    let written = ask(&stack, "--name data --out keys/data.key");
    assert!(written.status.success() && written.stdout.is_empty());
    assert_eq!(fs::read_to_string(stack.path("keys/data.key")).unwrap(), SECRET);
    assert_eq!(fs::metadata(stack.path("keys/data.key")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(stack.path("keys")).unwrap().permissions().mode() & 0o777, 0o700);
    refused(&ask(&stack, "--name data --out keys/data.key"), "File exists");
    refused(&ask(&stack, "--name other"), "no secret of that name");
    refused(&ask(&stack, "--name data --broker unix:nothing"), "unix:nothing");
    refused(&ask(&stack, "--name data --tpm unix:nothing"), "unix:nothing");
    // The keys do not stay in a TPM without a resource manager.
    assert!(!tpm.run_line("getcap handles-transient").contains("0x80"));

    tpm.run_line(&format!("pcrextend 11:sha256={}", "33".repeat(32)));
    refused(&ask(&stack, "--name data"), "other values than the tenant allows");
    tpm.shut_down();

    // The next launch, and a reset by the guest.
    let tpm = stack.boot();
    tpm.run_line(&format!("pcrextend 11:sha256={}", "22".repeat(32)));
    assert_eq!(String::from_utf8_lossy(&ask(&stack, "--name data").stdout), SECRET);
    tpm.shut_down();
    let log = ["audit", "export", "--database", "db", "--tenant", &stack.tenant];
    let log = String::from_utf8(stack.site.run(&log).stdout).unwrap();
    assert!(log.contains("unlock-pcrs") && log.contains("\"unlocked\"") && !log.contains(SECRET), "{log}");
}

#[test]
fn another_vm_and_a_host_that_answers_itself_give_and_get_nothing() {
    let stack = certified();
    let own = stack.boot();
    stack.site.enrol_as(&stack.tenant, &expected_measurement(b"firmware of a test"), "config2", &[]);
    blank(&stack.path("volume2"));
    let start = Start { seat: "tpm2", volume: "volume2", config: "config2", ..Start::default() };
    let Started::Serves(other) = stack.start(start) else { panic!("it does not start") };
    other.run_line("startup -c");
    let kernel = value(&own, 11);
    assert!(keep(&stack, "config", "data", &["--expect-pcr", &kernel]).status.success());
    assert_eq!(String::from_utf8_lossy(&ask(&stack, "--name data").stdout), SECRET);
    refused(&ask(&stack, "--name data --tpm unix:tpm2"), "not the one that the VM has shown");
    refused(&ask(&stack, "--name data --config config2"), "not the one that the VM has shown");
    refused(&ask(&stack, "--name data --config config2 --tpm unix:tpm2"), "no secret of that name");
    // One configuration in the initrd of many VMs: which VM it is, anybody may say.
    let vm = vm_of(&stack, "config");
    assert_eq!(
        String::from_utf8_lossy(&ask(&stack, &format!("--name data --config config2 --vm {vm}")).stdout),
        SECRET
    );
    refused(&ask(&stack, &format!("--name data --vm {}", "00".repeat(16))), "does not serve this VM");

    // A broker that the tenant did not certify: a host's own, with a passphrase of its choice.
    let strange = fs::read_to_string(stack.path("config")).unwrap();
    let (head, root) = strange.split_once("husk.root\" = \"").unwrap();
    let strange = format!("{head}husk.root\" = \"{}{}", "0".repeat(96), &root[96..]);
    fs::write(stack.path("strange"), strange).unwrap();
    refused(&ask(&stack, "--name data --config strange"), "did not certify this broker");
    fs::write(stack.path("broken"), "algorithm").unwrap();
    refused(&ask(&stack, "--name data --config broken"), "broken");
    own.shut_down();
    other.shut_down();
}
