//! `husk evidence ask --guest`, `verify --guest` and `husk vm status --evidence`: a guest that its tenant built, its TPM behind a broker, and guests that
//! were started with something else. The TPM is real, and is told what a boot would tell it; a real boot is among the peers of `cargo xtask test`.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where its world fails")]

#[path = "support/site.rs"]
mod site;
#[path = "support/stack.rs"]
mod stack;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use stack::{Serving, Stack};
use std::fs;
use std::path::PathBuf;
use std::process::Output;

const HOST_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f root@vm\n";
const FIRMWARE: &[u8] = b"a firmware";
const KERNEL_IMAGE: [u8; 32] = [0x4A; 32];
/// What a boot up to its last phase extends PCR 11 by; the manifest names where that leads.
const PHASES: [[u8; 32]; 2] = [[0x11; 32], [0x12; 32]];
const VOLUME: [u8; 32] = [0x15; 32];
/// EFI_GLOBAL_VARIABLE and EFI_IMAGE_SECURITY_DATABASE_GUID (UEFI 2.10, sections 3.3 and 32.6.1), EFI_CERT_X509_GUID (section 32.4.1), as they lie in memory.
const GLOBAL: &str = "61dfe48bca93d211aa0d00e098032b8c";
const DATABASE: &str = "cbb219d73a3d9645a3bcdad00e67656f";
const X509: &str = "a159c0a5e494a74a87b5ab155c2bf072";

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    Sha256::digest(parts.concat()).into()
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// A database with one certificate, which somebody owns.
fn database(certificate: &[u8]) -> Vec<u8> {
    let entry = [&[0xA0; 16], certificate].concat();
    let [list, size] =
        [28 + entry.len(), entry.len()].map(|length| u32::try_from(length).unwrap().to_le_bytes());
    [&hex::decode(X509).unwrap()[..], &list, &[0; 4], &size, &entry].concat()
}

/// Secure Boot's keys of a tenant with this certificate.
fn keys(certificate: &[u8]) -> [(&'static str, &'static str, Vec<u8>); 3] {
    [
        ("PK", GLOBAL, database(certificate)),
        ("KEK", GLOBAL, database(certificate)),
        ("db", DATABASE, database(certificate)),
    ]
}

/// A file of variables as OVMF keeps them (EDK2, MdeModulePkg/Include/Guid/VariableFormat.h): a deleted one, then these.
fn variables(certificate: &[u8]) -> Vec<u8> {
    let variable = |state: u8, name: &str, vendor: &str, data: &[u8]| {
        let name = [utf16(name), vec![0, 0]].concat();
        let [names, bytes] =
            [name.len(), data.len()].map(|length| u32::try_from(length).unwrap().to_le_bytes());
        let head =
            [&[0xAA, 0x55, state, 0][..], &[0; 32], &names, &bytes, &hex::decode(vendor).unwrap()].concat();
        let mut whole = [&head[..], &name, data].concat();
        whole.resize(whole.len().next_multiple_of(4), 0xFF);
        whole
    };
    let mut store = variable(0x3C, "db", DATABASE, &database(b"revoked"));
    for (name, vendor, data) in keys(certificate) {
        store.extend(variable(0x3F, name, vendor, &data));
    }
    store.resize(0x1000, 0xFF);
    let authenticated = hex::decode("782cf3aa7b949a43a1802e144ec37792").unwrap();
    let size = u32::try_from(28 + store.len()).unwrap().to_le_bytes();
    let store = [&authenticated[..], &size, &[0x5A, 0xFE], &[0; 6], &store].concat();
    let system = hex::decode("8d2bf1ff96768b4ca9852747075b4f50").unwrap();
    let length = u64::try_from(72 + store.len()).unwrap().to_le_bytes();
    [&[0; 16], &system[..], &length, b"_FVH", &[0; 4], &72_u16.to_le_bytes(), &[0; 22], &store].concat()
}

/// What OVMF extends PCR 7 by, with that certificate in `db` and nothing in `dbx`.
fn secure_boot(certificate: &[u8]) -> Vec<[u8; 32]> {
    let event = |name: &str, vendor: &str, data: &[u8]| {
        let [units, bytes] =
            [name.len(), data.len()].map(|length| u64::try_from(length).unwrap().to_le_bytes());
        sha256(&[&hex::decode(vendor).unwrap(), &units, &bytes, &utf16(name), data])
    };
    let mut events = vec![event("SecureBoot", GLOBAL, &[1])];
    events.extend(keys(certificate).map(|(name, vendor, data)| event(name, vendor, &data)));
    events.extend([event("dbx", DATABASE, &[]), sha256(&[&[0; 4]])]);
    events.push(event("db", DATABASE, &database(certificate)[28..]));
    events
}

/// What a guest's boot tells its TPM.
#[derive(Clone)]
struct Boot(Vec<(u8, [u8; 32])>);

impl Boot {
    fn as_built() -> Self {
        let separator = sha256(&[&[0; 4]]);
        let calling = sha256(&[b"Calling EFI Application from Boot Option"]);
        let mut events = vec![(8, sha256(&[FIRMWARE]))];
        events.extend(secure_boot(b"the tenant's").into_iter().map(|event| (7, event)));
        events.push((4, calling));
        events.extend([2, 3, 4, 6].map(|pcr| (pcr, separator)));
        events.push((4, KERNEL_IMAGE));
        events.extend(PHASES.map(|event| (11, event)));
        events.push((15, VOLUME));
        Self(events)
    }

    /// With other events of one PCR.
    fn but(mut self, pcr: u8, events: &[[u8; 32]]) -> Self {
        self.0.retain(|(number, _)| *number != pcr);
        self.0.extend(events.iter().map(|event| (pcr, *event)));
        self
    }

    fn on(&self, tpm: &Serving<'_>) {
        let words = self.0.iter().map(|(pcr, event)| format!("{pcr}:sha256={}", hex::encode(event)));
        tpm.tool("pcrextend", words);
    }
}

fn manifest() -> Value {
    let mut pcr = [0; 32];
    let at = PHASES.map(|event| {
        pcr = sha256(&[&pcr, &event]);
        hex::encode(pcr)
    });
    json!({
        "root_hash": "5a".repeat(32),
        "kernel_image_authenticode_sha256": hex::encode(KERNEL_IMAGE),
        "secure_boot_certificate_sha256": hex::encode(sha256(&[b"the tenant's"])),
        "pcr_11": [{"phase": "enter-initrd", "sha256": at[0]}, {"phase": "enter-initrd:ready", "sha256": at[1]}],
        "packages": [],
    })
}

/// A stack whose tenant has an authority, and has built a guest.
fn built() -> Stack {
    let stack = Stack::new();
    let words =
        ["tenant", "authority", "init", "--database", "db", "--root-key", "root", "--tenant", &stack.tenant];
    let output = stack.site.run(&[&words[..], &["--out", "authority.pem"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::write(stack.path("manifest.json"), manifest().to_string()).unwrap();
    fs::write(stack.path("firmware.fd"), FIRMWARE).unwrap();
    fs::write(stack.path("vars.fd"), variables(b"the tenant's")).unwrap();
    fs::write(stack.path("host.pub"), HOST_KEY).unwrap();
    stack
}

/// Asks the guest by its manifest, with more words.
fn ask(stack: &Stack, more: &str) -> Output {
    let program =
        PathBuf::from(env!("CARGO_BIN_EXE_husk")).with_file_name("husk-attest").display().to_string();
    let broker = stack.broker_url();
    let fixed = ["evidence", "ask", "--ek-root", "authority.pem", "--config", "config", "--broker", &broker];
    let guest = ["--guest", "manifest.json", "--firmware-vars", "vars.fd", "--firmware", "firmware.fd"];
    let more: Vec<&str> = more.split_whitespace().collect();
    let command = ["--", &program, "--tpm", "unix:tpm", "--bind", "host.pub"];
    stack.site.run(&[&fixed[..], &guest, &more, &command].concat())
}

#[track_caller]
fn believed(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Refused, with these words; what was shown all the same.
#[track_caller]
fn refused(output: &Output, why: &[&str]) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for why in why {
        assert!(said.contains(why), "wanted `{why}`: {said}");
    }
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What the broker says, with the tenant's file beside.
fn status(stack: &Stack, file: &str, more: &[&str]) -> Output {
    let broker = stack.broker_url();
    let words = ["vm", "status", "--config", "config", "--broker", &broker, "--evidence", file];
    stack.site.run(&[&words[..], more].concat())
}

#[test]
fn the_first_boot_is_pinned_and_later_ones_are_compared_with_it() {
    let stack = built();
    let tpm = stack.boot();
    Boot::as_built().but(15, &[]).on(&tpm);
    refused(&ask(&stack, "--first first.json"), &["opened no volume"]);
    assert!(!stack.path("first.json").exists());
    tpm.tool("pcrextend", [format!("15:sha256={}", hex::encode(VOLUME))]);

    let first: Value = serde_json::from_str(&believed(&ask(&stack, "--json --first first.json"))).unwrap();
    let proven = first["proven"].to_string();
    for word in [
        "started the manifest's kernel image and nothing else",
        "first boot of that TPM",
        "PCR 2, 3, 4, 6, 7, 8, 11, 12, 13, 14 had",
    ] {
        assert!(proven.contains(word), "{word}: {proven}");
    }
    let of = |pcr: u8| first["pcrs"].as_array().unwrap().iter().find(|row| row["pcr"] == pcr).unwrap();
    assert_eq!(of(7)["expected"], json!([of(7)["seen"]]));
    assert_eq!((&of(1)["expected"], &of(0)["of"]), (&json!([]), &json!("image and firmware")));
    fs::write(stack.path("seen.json"), first.to_string()).unwrap();
    let pinned: Value = serde_json::from_slice(&fs::read(stack.path("first.json")).unwrap()).unwrap();
    assert_eq!((&pinned["starts"], &pinned["pcr_15"]), (&json!(1), &of(15)["seen"]));

    // Side by side, for people.
    let table = believed(&ask(&stack, "--first first.json"));
    assert!(table.contains("sha256:15") && !table.contains("DIFFERS"), "{table}");
    let seen: Value = serde_json::from_str(&believed(&status(&stack, "seen.json", &["--json"]))).unwrap();
    assert_eq!(
        (&seen["evidence"]["of_this_start"], &seen["evidence"]["pcrs"]),
        (&json!(true), &first["pcrs"])
    );
    assert!(believed(&status(&stack, "seen.json", &[])).contains("of this start of the TPM:\nPCR "));

    tpm.shut_down();
    let tpm = stack.boot();
    Boot::as_built().on(&tpm);
    let later = believed(&ask(&stack, "--first first.json"));
    assert!(later.contains("has the key of the first boot's"), "{later}");
    assert!(
        believed(&status(&stack, "seen.json", &[]))
            .contains("of an EARLIER start of the TPM (resetCount 1, and the newest is 2)")
    );

    // Without the file of the first boot nothing shows what the volume should be.
    refused(&ask(&stack, "--first other.json"), &["not the first boot", "start 2 times"]);
    believed(&ask(&stack, "--first other.json --first-starts-max 2"));
    for (from, to, why) in [
        (pinned["endorsement_key"].as_str().unwrap(), "000b00", "not the TPM of the first boot"),
        (pinned["vm"].as_str().unwrap(), "0000", "it is of VM 0000"),
        ("\"starts\"", "\"other\"", "was not written by"),
    ] {
        let text = fs::read_to_string(stack.path("first.json")).unwrap().replace(from, to);
        fs::write(stack.path("altered.json"), text).unwrap();
        refused(&ask(&stack, "--first altered.json"), &[why]);
    }
    tpm.shut_down();
}

/// The one PCR that is another is named, with both values and a meaning; the table shows it, and so does the status.
#[track_caller]
fn differs(stack: &Stack, pcr: u8, why: &str) {
    let name = format!("\n  PCR {pcr} of sha256, ");
    let shown = refused(&ask(stack, "--json --first first.json"), &[&name, why, "expected ", "seen "]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert!(shown["refused"].as_str().unwrap().contains(&name) && shown["proven"].is_null());
    let rows = shown["pcrs"].as_array().unwrap().iter();
    let differ = rows.filter(|row| row["expected"] != json!([]) && row["expected"] != json!([row["seen"]]));
    assert_eq!(differ.map(|row| row["pcr"].as_u64().unwrap()).collect::<Vec<_>>(), [u64::from(pcr)]);
    fs::write(stack.path("seen.json"), shown.to_string()).unwrap();
    let status = believed(&status(stack, "seen.json", &[]));
    assert!(status.contains("it was REFUSED") && status.matches("DIFFERS").count() == 1, "{status}");
}

#[test]
fn what_was_started_otherwise_is_named_with_its_pcr_and_what_that_means() {
    let stack = built();
    let tpm = stack.boot();
    Boot::as_built().on(&tpm);
    believed(&ask(&stack, "--first first.json"));
    tpm.shut_down();
    let other = [[0xBA; 32]];
    let strange_keys = secure_boot(b"the host's");
    let cases: [(u8, &[[u8; 32]], &str); 7] = [
        (15, &[VOLUME, VOLUME], "another volume was opened than at the first boot"),
        (4, &other, "the firmware started another program"),
        (7, &strange_keys, "Secure Boot is off, has other keys"),
        (8, &other, "another firmware started the guest"),
        (11, &PHASES[..1], "or the boot has not come to that phase"),
        (12, &other, "a command line, credential or addon was given beside it"),
        (2, &other, "a device brought code of its own"),
    ];
    for (pcr, events, why) in cases {
        let tpm = stack.boot();
        Boot::as_built().but(pcr, events).on(&tpm);
        differs(&stack, pcr, why);
        if pcr == 11 {
            believed(&ask(&stack, "--phase enter-initrd --first first.json"));
        }
        tpm.shut_down();
    }
    // Refused words of the command, and files that are none.
    let tpm = stack.boot();
    Boot::as_built().on(&tpm);
    refused(&ask(&stack, "--phase sysinit"), &["no value of PCR 11 for the phase `sysinit`"]);
    fs::write(stack.path("manifest.json"), "{}").unwrap();
    refused(&ask(&stack, ""), &["manifest.json: it is no manifest"]);
    for (vars, why) in [
        (variables(b"the host's"), "its signer's certificate is not in `db`"),
        (b"nothing".to_vec(), "it is no volume of variables"),
    ] {
        fs::write(stack.path("manifest.json"), manifest().to_string()).unwrap();
        fs::write(stack.path("vars.fd"), vars).unwrap();
        refused(&ask(&stack, ""), &["vars.fd", why]);
    }
    let alone = ["evidence", "ask", "--ek-root", "authority.pem", "--first", "first.json", "--", "true"];
    assert_eq!(stack.site.run(&alone).status.code(), Some(2), "a first boot takes a broker and the firmware");
    tpm.shut_down();
}

#[test]
fn a_quote_in_files_is_judged_by_the_manifest_too() {
    let stack = built();
    let tpm = stack.boot();
    Boot::as_built().on(&tpm);
    tpm.run_line("createek -G ecc -c ek.ctx");
    tpm.run_line("createak -C ek.ctx -G ecc -g sha256 -s ecdsa -c ak.ctx -u ak.pub");
    let quoted = |list: &str| {
        let line = format!(
            "quote -c ak.ctx -l sha256:{list} -q 0a -g sha256 -m quote -s signature -o pcrs -F values"
        );
        tpm.run_line(&line);
    };
    let verify = |more: &str| {
        let line = "evidence verify --quote quote --signature signature --ak ak.pub --quote-nonce 0a --guest manifest.json --firmware firmware.fd";
        let words: Vec<&str> = line.split(' ').chain(more.split_whitespace()).collect();
        stack.site.run(&words)
    };
    quoted("2,3,4,6,7,8,11,12,13,14");
    refused(&verify(""), &["name them (--quote, --pcrs)"]);
    let said = believed(&verify("--pcrs pcrs --firmware-vars vars.fd"));
    assert!(
        said.contains("your firmware started the manifest's kernel image") && said.contains("sha256:7"),
        "{said}"
    );
    assert!(believed(&verify("--pcrs pcrs")).contains("NOT proven: which keys Secure Boot has"));
    quoted("2,3,4,6,7,8,12,13,14");
    refused(&verify("--pcrs pcrs"), &["PCR 11 of sha256", "seen     not quoted"]);
    tpm.shut_down();
}
