//! A restore from the command line: the broker's key, the backup that is opened for it, the order, and what an instance is granted.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where its world fails")]

#[path = "support/launch.rs"]
mod launch;
#[path = "../../../tests/support/nothing.rs"]
mod nothing;
#[path = "support/site.rs"]
mod site;

use husk::keys::BackupSecret;
use husk::release::backup::BackupHeader;
use husk::release::open::{Granted, Verdict};
use husk::release::tenure::Tenure;
use husk::release::wire::{BACKUP_PART_BYTES_MAX, BackupVerdict, WireHead};
use husk::volume::backup::{Part, open_part};
use launch::{FIRMWARE, Launch, SIMULATED, created, enrolled, relay};
use serde_json::Value;
use site::Site;
use std::fs;
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U32, U64};

const STATE: &[u8] = &[0xA5; 9000];

/// A command that fails; its exit code and what it said.
fn failed(site: &Site, words: &[&str]) -> (i32, String) {
    let output = site.run(words);
    assert!(!output.status.success(), "{words:?}");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// The tenant's keys: a recovery key, and an operator for both orders.
fn keys(site: &Site, vm: &Value) {
    let root = ["--root", "tenant", "--tenant", vm["tenant"].as_str().unwrap(), "--json"];
    let recovery = ["tenant", "recovery", "--recovery-out", "recovery", "--certificate-out", "recovery.cert"];
    site.json(&[&recovery[..], &root].concat());
    let operator = ["tenant", "operator", "--order", "backup", "--order", "restore"];
    site.json(&[&operator[..], &["--operator-out", "operator"], &root].concat());
}

/// Signs an order about the VM as it stands.
fn ticket(site: &Site, (vm, token, generation): (&Value, &Value, &Value), order: &str, rest: &[&str]) {
    let (token, generation) = (token.to_string(), generation.to_string());
    let words = ["vm", "ticket", "--operator", "operator", "--vm", vm["vm"].as_str().unwrap()];
    let seen = ["--order", order, "--token", &token, "--generation", &generation, "--json"];
    site.json(&[&words[..], &seen, rest].concat());
}

/// Makes a backup of [`STATE`] as an instance does.
fn back_up(launch: &mut Launch, tenure: &mut Tenure<'static>) {
    let order = launch.on(|platform| tenure.backup_order(platform)).unwrap().unwrap();
    let standing = tenure.standing().clone();
    let mut header = BackupHeader::of(&order);
    (header.tenant, header.vm) = (launch.config.tenant, launch.config.vm);
    (header.token, header.epoch) = (U64::new(standing.token()), U64::new(standing.epoch()));
    (header.head, header.state_bytes) = (WireHead::from(standing.head()), U32::new(9000));
    launch.on(|platform| {
        let secret = BackupSecret::draw(platform.entropy).unwrap();
        secret.seal(&mut header, &order.recovery, platform.entropy).unwrap();
        let mut verdict = tenure.keep_backup_part(platform, 0, header.as_bytes()).unwrap();
        for number in 1..=header.parts() {
            assert_eq!(verdict, BackupVerdict::Kept);
            let part = Part::seal(&secret, &header, number, STATE).unwrap();
            verdict = tenure.keep_backup_part(platform, number, part.bytes()).unwrap();
        }
        assert_eq!(verdict, BackupVerdict::Kept);
    });
}

#[test]
fn a_restore_is_ordered_from_the_command_line_and_the_next_launch_gets_the_backup() {
    let (site, vm) = enrolled();
    let (_broker, address) = site.serve("127.0.0.1:0", &SIMULATED);
    let _relay = relay(&site, &address, &[]);
    let broker = format!("http://{address}");
    let at = ["--broker", &broker, "--config", "config", "--json"];
    keys(&site, &vm);
    let (mut launch, mut tenure) = created(&site);
    let now = site.json(&[&["vm", "status"][..], &at].concat());
    let seen = (&vm, &now["token"], &now["generation"]);
    ticket(&site, seen, "backup", &["--recovery", "recovery.cert", "--out", "ticket"]);
    site.json(&[&["vm", "order", "--ticket", "ticket"][..], &at].concat());
    back_up(&mut launch, &mut tenure);
    site.json(&[&["vm", "backup", "--ticket", "ticket", "--out", "backup"][..], &at].concat());
    launch.on(|platform| tenure.release(platform)).unwrap();

    let key = site.json(&[&["vm", "restore-key", "--out", "restore.key"][..], &at].concat());
    let open =
        ["tenant", "open-backup", "--recovery", "recovery", "--backup", "backup", "--config", "config"];
    let opened =
        site.json(&[&open[..], &["--restore-key", "restore.key", "--out", "opened", "--json"]].concat());
    assert_eq!((&opened["token"], &opened["generation"]), (&key["token"], &key["generation"]));
    let seen = (&vm, &key["token"], &key["generation"]);
    ticket(&site, seen, "restore", &["--opened", "opened", "--out", "restore"]);
    let alone = failed(&site, &[&["vm", "order", "--ticket", "restore"][..], &at].concat());
    assert!(alone.1.contains("husk vm restore"), "{}", alone.1);
    let restore = [&["vm", "restore", "--ticket", "restore", "--backup", "backup"][..], &at].concat();
    let said = site.json(&restore);
    assert_eq!((&said["outcome"], &said["restoring"]), (&"open".into(), &true.into()));
    assert!(said["warning"].as_str().unwrap().contains("no older disk opens"));
    assert_eq!(site.json(&restore)["outcome"], "open", "the answer was lost");

    let mut launch = Launch::new(&site, FIRMWARE);
    let (client, Verdict::Granted(Granted::Restore(grant))) = launch.boot().unwrap() else {
        panic!("not a restore")
    };
    let secret = BackupSecret::released(grant.backup);
    let mut tenure = Tenure::new(client, grant.pending);
    let order = launch.on(|platform| tenure.restore_order(platform)).unwrap();
    let (mut come, mut state, mut part) = (order.begin(), Vec::new(), [0; BACKUP_PART_BYTES_MAX]);
    for number in 1..=order.header.parts() {
        let bytes = launch.on(|platform| tenure.restore_part(platform, number, &mut part)).unwrap();
        come.take(&part[..bytes]);
        state.extend_from_slice(open_part(&secret, &order.header, number, &mut part[..bytes]).unwrap());
    }
    assert!(order.is(come) && state == STATE);
    let past_the_end = launch.on(|platform| tenure.restore_part(platform, 9, &mut part)).unwrap();
    assert_eq!(past_the_end, 0);
    let now = site.json(&[&["vm", "status"][..], &at].concat());
    assert_eq!((&now["generation"], &now["restoring"]), (&0.into(), &true.into()));
    let new = husk::release::Head { sequence: 9, digest: [9; 48] };
    let _anchored = launch.on(|platform| tenure.confirm(platform, &new)).unwrap();
    let now = site.json(&[&["vm", "status"][..], &at].concat());
    assert_eq!(
        (&now["generation"], &now["restoring"], &now["sequence"]),
        (&1.into(), &false.into(), &9.into())
    );
    assert!(launch.on(|platform| tenure.restore_order(platform)).is_err(), "it is over");
    let (code, line) = failed(&site, &restore);
    assert_eq!((code, line.contains("used before")), (1, true), "{line}");
    fs::write(site.path("backup"), [&fs::read(site.path("backup")).unwrap()[..], &[0]].concat()).unwrap();
    let (code, line) = failed(&site, &restore);
    assert_eq!((code, line.contains("cut short")), (1, true), "{line}");
}
