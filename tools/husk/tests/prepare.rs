//! A TPM that its tenant makes before there is a VM: a key is wrapped to it elsewhere, and the VM's first launch, and nobody else, opens it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where its world fails")]

#[path = "support/site.rs"]
mod site;
#[path = "support/stack.rs"]
mod stack;
#[path = "support/tenant.rs"]
mod tenant;

use husk_psp::expected_measurement;
use site::Site;
use stack::{Serving, Stack, Start, blank};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use tenant::{Vm, failed, keys};

const KEY: &str = "the key of a volume";

fn prepare(site: &Site, more: &[&str]) -> (i32, String) {
    let fixed = ["vm", "prepare", "--recovery", "recovery", "--json"];
    let output = site.run(&[&fixed[..], more].concat());
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

/// The owner, on a machine with a TPM of its own, seals a key and duplicates it for the storage root key that was told.
fn wrap(owner: &Serving<'_>) {
    fs::write(owner.path("key"), KEY).unwrap();
    for line in [
        "createprimary -C o -G ecc -c owner.primary",
        "startauthsession -S trial",
        "policycommandcode -S trial -L duplication TPM2_CC_Duplicate",
        "flushcontext trial",
        "create -C owner.primary -i key -u key.pub -r key.priv -L duplication -a userwithauth|noda",
        "load -C owner.primary -u key.pub -r key.priv -c key.object",
        "loadexternal -C n -u public/srk.pub -c parent",
        "startauthsession --policy-session -S session",
        "policycommandcode -S session TPM2_CC_Duplicate",
        "duplicate -C parent -c key.object -G null -p session:session -r wrapped.priv -s wrapped.seed",
        "flushcontext session",
    ] {
        owner.run_line(line);
    }
}

const IMPORT: &str = "import -C 0x81000001 -u key.pub -i wrapped.priv -s wrapped.seed -r imported.priv";

#[test]
fn a_key_wrapped_to_a_prepared_tpm_opens_in_its_vm_and_nowhere_else() {
    let stack = Stack::new();
    let (site, broker) = (&stack.site, stack.broker_url());
    let vm = Vm { site, broker: &broker, config: "config" };
    keys(site, &stack.tenant, &["restore"]);
    let to = ["--config", "config", "--out", "backup", "--public-out", "public"];
    let (code, said) = prepare(site, &to);
    assert_eq!(code, 0, "{said}");
    assert_eq!(fs::metadata(site.path("backup")).unwrap().permissions().mode() & 0o777, 0o600);
    for again in [["backup", "other"], ["other", "public"]] {
        let (code, said) =
            prepare(site, &["--config", "config", "--out", again[0], "--public-out", again[1]]);
        assert_eq!((code, said.contains("never overwritten")), (4, true), "{said}");
        assert!(!site.path("other").exists(), "nothing is left of it");
    }

    let measured = expected_measurement(b"firmware of a test");
    site.enrol_as(&stack.tenant, &measured, "owner.config", &[]);
    blank(&stack.path("owner.volume"));
    let start = Start { seat: "other", volume: "owner.volume", config: "owner.config", ..Start::default() };
    let owner = stack.boot_as(start);
    wrap(&owner);

    let (_, restore) = vm.order_from_backup("restore");
    assert_eq!(site.json(&restore)["outcome"], "open");
    let tpm = stack.boot();
    assert!(tpm.log().contains("a TPM that was prepared is taken over"), "{}", tpm.log());
    for line in [IMPORT, "load -C 0x81000001 -u key.pub -r imported.priv -c key.loaded"] {
        tpm.run_line(line);
    }
    assert_eq!(tpm.run_line("unseal -c key.loaded"), KEY);
    tpm.run_line("createek -G ecc -c ek -u ek.pub");
    tpm.run_line("readpublic -c 0x81000001 -o srk.seen");
    for (seen, told) in [("ek.pub", "public/ek-p256.pub"), ("srk.seen", "public/srk.pub")] {
        assert_eq!(fs::read(stack.path(seen)).unwrap(), fs::read(stack.path(told)).unwrap());
    }
    let guesses = tpm.run_line("getcap properties-variable");
    assert!(guesses.contains("TPM2_PT_LOCKOUT_COUNTER: 0x0"), "nothing was tried: {guesses}");
    let (_, line) = failed(site, &restore);
    assert!(line.contains("used before"), "{line}");

    owner.run_line("evictcontrol -C o -c owner.primary 0x81000001");
    owner.refused(IMPORT);
    tpm.shut_down();
    let tpm = stack.boot();
    tpm.run_line("load -C 0x81000001 -u key.pub -r imported.priv -c key.loaded");
    assert_eq!(tpm.run_line("unseal -c key.loaded"), KEY, "it is there for good");
}

/// With the tenant's authority at hand the keys are certified before there is a launch, and noted as the VM's.
#[test]
fn a_prepared_tpm_has_its_certificates_from_the_first_launch_on() {
    let stack = Stack::new();
    let (site, broker) = (&stack.site, stack.broker_url());
    let vm = Vm { site, broker: &broker, config: "config" };
    keys(site, &stack.tenant, &["restore"]);
    let to = ["--config", "config", "--out", "backup", "--public-out", "public"];
    let with = ["--database", "db", "--root-key", "root"];
    let (code, said) = prepare(site, &[&to[..], &with].concat());
    assert!(code == 1 && said.contains("husk tenant authority init"), "{said}");
    let words = ["tenant", "authority", "init", "--database", "db", "--root-key", "root", "--out", "ca.pem"];
    let output = site.run(&[&words[..], &["--tenant", &stack.tenant, "--keys", "p256,p384"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (code, said) = prepare(site, &[&to[..], &with].concat());
    assert_eq!(code, 0, "{said}");
    assert!(!site.path("public/ek-rsa2048.crt").exists(), "the authority does not certify that one");
    let (_, restore) = vm.order_from_backup("restore");
    assert_eq!(site.json(&restore)["outcome"], "open");
    let tpm = stack.boot();
    assert!(tpm.log().contains("certificates are there"), "nothing is asked for: {}", tpm.log());
    for (index, name) in [("0x1c0000a", "ek-p256"), ("0x1c00016", "ek-p384")] {
        tpm.run_line(&format!("nvread {index} -C o -o seen"));
        assert_eq!(
            fs::read(stack.path("seen")).unwrap(),
            fs::read(site.path(&format!("public/{name}.crt"))).unwrap()
        );
        fs::remove_file(stack.path("seen")).unwrap();
    }
    let listed = ["tenant", "authority", "keys", "--database", "db", "--tenant", &stack.tenant, "--json"];
    assert_eq!(site.json(&listed).as_array().unwrap().len(), 2);
    tpm.shut_down();
    // A VM has one TPM: another one is not certified beside it, and nothing is left of the attempt.
    let again = ["--config", "config", "--out", "backup2", "--public-out", "public2"];
    let (code, said) = prepare(site, &[&again[..], &with].concat());
    assert!(code == 1 && said.contains("tenant authority forget"), "{said}");
    assert!(!site.path("backup2").exists() && !site.path("public2").exists());
}

#[test]
fn nothing_is_prepared_for_a_vm_that_no_broker_hands_it_to() {
    let (site, tenant) = Site::with_tenant();
    keys(&site, &tenant, &["restore"]);
    site.enrol(&tenant, &[7; 48]);
    let config = fs::read_to_string(site.path("config")).unwrap();
    assert!(config.contains("\"strict\""), "{config}");
    let to = |config: &'static str| prepare(&site, &["--config", config, "--out", "b", "--public-out", "p"]);
    fs::write(site.path("damaged"), config.replace("husk.root", "husk.roof")).unwrap();
    assert_eq!(to("damaged").0, 1);
    assert_eq!(to("none").0, 3);
    assert!(!site.path("b").exists() && !site.path("p").exists());
}
