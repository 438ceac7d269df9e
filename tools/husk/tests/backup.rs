//! A backup from the command line: the recovery key, the order, the file, and whether it opens.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where its world fails")]

#[path = "support/launch.rs"]
mod launch;
#[path = "../../../tests/support/nothing.rs"]
mod nothing;
#[path = "support/site.rs"]
mod site;

use husk::keys::BackupSecret;
use husk::release::backup::BackupHeader;
use husk::release::wire::{BackupVerdict, WireHead};
use husk::volume::backup::Part;
use launch::{SIMULATED, created, enrolled, relay};
use serde_json::Value;
use site::Site;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U32, U64};

const STATE: &[u8] = &[0xA5; 9000];

/// A command that fails; its exit code and what it said.
fn failed(site: &Site, words: &[&str]) -> (i32, String) {
    let output = site.run(words);
    assert!(!output.status.success(), "{words:?}");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// The operator's part: a recovery key, a key for orders, and a ticket for the VM as it stands.
fn ordered(site: &Site, broker: &str, vm: &Value) -> Value {
    let (tenant, vm) = (vm["tenant"].as_str().unwrap(), vm["vm"].as_str().unwrap());
    let root = ["--root", "tenant", "--tenant", tenant, "--json"];
    let recovery = ["tenant", "recovery", "--recovery-out", "recovery", "--certificate-out", "recovery.cert"];
    let made = site.json(&[&recovery[..], &root].concat());
    let operator = ["tenant", "operator", "--order", "backup", "--operator-out", "operator"];
    site.json(&[&operator[..], &root].concat());
    let now = site.json(&["vm", "status", "--broker", broker, "--config", "config", "--json"]);
    let (token, generation) = (now["token"].to_string(), now["generation"].to_string());
    let ticket =
        ["vm", "ticket", "--operator", "operator", "--vm", vm, "--order", "backup", "--out", "ticket"];
    let seen = ["--token", &token, "--generation", &generation, "--json"];
    let without = failed(site, &[&ticket[..], &seen].concat());
    assert_eq!((without.0, without.1.contains("--recovery")), (2, true), "{}", without.1);
    site.json(&[&ticket[..], &seen, &["--recovery", "recovery.cert"]].concat());
    made
}

#[test]
fn a_backup_is_ordered_fetched_and_checked_from_the_command_line() {
    let (site, vm) = enrolled();
    let (_broker, address) = site.serve("127.0.0.1:0", &SIMULATED);
    let _relay = relay(&site, &address, &[]);
    let broker = format!("http://{address}");
    let (mut launch, mut tenure) = created(&site);
    let made = ordered(&site, &broker, &vm);
    let mode = fs::metadata(site.path("recovery")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "the recovery key is private");
    let at = ["--broker", &broker, "--config", "config", "--ticket", "ticket", "--json"];
    let fetch = [&["vm", "backup", "--out", "backup"][..], &at].concat();
    let (code, line) = failed(&site, &fetch);
    assert_eq!((code, line.contains("never handed in")), (3, true), "{line}");
    let open = site.json(&[&["vm", "order"][..], &at].concat());
    assert_eq!(open["outcome"], "open");
    assert!(open["warning"].as_str().unwrap().contains("husk vm backup"));
    let (code, line) = failed(&site, &fetch);
    assert_eq!((code, line.contains("no launch has made")), (1, true), "{line}");

    let order = launch.on(|platform| tenure.backup_order(platform)).unwrap().unwrap();
    let standing = tenure.standing().clone();
    let mut header = BackupHeader::of(&order);
    (header.tenant, header.vm) = (launch.config.tenant, launch.config.vm);
    (header.token, header.epoch) = (U64::new(standing.token()), U64::new(standing.epoch()));
    (header.head, header.state_bytes) = (WireHead::from(standing.head()), U32::new(9000));
    launch.on(|platform| {
        let secret = BackupSecret::draw(platform.entropy).unwrap();
        secret.seal(&mut header, &order.recovery, platform.entropy).unwrap();
        let kept = tenure.keep_backup_part(platform, 0, header.as_bytes()).unwrap();
        assert_eq!(kept, BackupVerdict::Kept);
        for number in 1..=header.parts() {
            let part = Part::seal(&secret, &header, number, STATE).unwrap();
            let kept = tenure.keep_backup_part(platform, number, part.bytes()).unwrap();
            assert_eq!(kept, BackupVerdict::Kept);
        }
    });
    let fetched = site.json(&fetch);
    let file = fs::read(site.path("backup")).unwrap();
    assert_eq!((fetched["sequence"].as_u64(), fetched["bytes"].as_u64()), (Some(1), Some(file.len() as u64)));
    assert_eq!(failed(&site, &fetch).0, 4, "no file is written over");
    let check = ["tenant", "check-backup", "--recovery", "recovery", "--backup", "backup", "--json"];
    let checked = site.json(&check);
    assert_eq!((&checked["opens"], &checked["digest"]), (&true.into(), &fetched["digest"]));
    assert_eq!(made["tenant"], checked["tenant"]);

    let mut altered = file.clone();
    *altered.last_mut().unwrap() ^= 1;
    for (bytes, words) in [(&altered[..], "altered"), (&file[1..], "no backup"), (&file[..900], "cut short")]
    {
        fs::write(site.path("backup"), bytes).unwrap();
        let (code, line) = failed(&site, &check);
        assert_eq!((code, line.contains(words)), (1, true), "{line}");
    }
    let (code, line) =
        failed(&site, &["vm", "order", "--broker", &broker, "--config", "config", "--ticket", "ticket"]);
    assert_eq!((code, line.contains("used before")), (1, true), "{line}");
}
