//! A restore from the command line: the broker's key, the backup that is opened for it, the order, and what an instance is granted.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where its world fails")]

#[path = "support/backup.rs"]
mod backup;
#[path = "support/launch.rs"]
mod launch;
#[path = "../../../tests/support/nothing.rs"]
mod nothing;
#[path = "support/site.rs"]
mod site;
#[path = "support/stack.rs"]
mod stack;
#[path = "support/tenant.rs"]
mod tenant;

use backup::{STATE, back_up};
use husk::keys::BackupSecret;
use husk::release::open::{Granted, Verdict};
use husk::release::tenure::Tenure;
use husk::release::wire::BACKUP_PART_BYTES_MAX;
use husk::volume::backup::open_part;
use husk_psp::expected_measurement;
use launch::{FIRMWARE, Launch, SIMULATED, created, enrolled, relay};
use stack::{Serving, Stack, Start, blank};
use std::fs;
use tenant::{Vm, failed, keys};

#[test]
fn a_restore_is_ordered_from_the_command_line_and_the_next_launch_gets_the_backup() {
    let (site, enrolled) = enrolled();
    let (_broker, address) = site.serve("127.0.0.1:0", &SIMULATED);
    let _relay = relay(&site, &address, &[]);
    let broker = format!("http://{address}");
    let vm = Vm { site: &site, broker: &broker, config: "config" };
    keys(&site, enrolled["tenant"].as_str().unwrap(), &["backup", "restore"]);
    let (mut launch, mut tenure) = created(&site);
    vm.order_backup("ticket");
    back_up(&mut launch, &mut tenure);
    vm.fetch("ticket");
    launch.on(|platform| tenure.release(platform)).unwrap();

    let (_, restore) = vm.order_from_backup("restore");
    let alone = failed(&site, &vm.words(&["vm", "order", "--ticket", "restore"]));
    assert!(alone.1.contains("husk vm restore"), "{}", alone.1);
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
    let now = vm.status();
    assert_eq!((&now["generation"], &now["restoring"]), (&0.into(), &true.into()));
    let new = husk::release::Head { sequence: 9, digest: [9; 48] };
    let _anchored = launch.on(|platform| tenure.confirm(platform, &new)).unwrap();
    let now = vm.status();
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

const DATA: &str = "0x1500001";
const COUNTER: &str = "0x1500002";
const PIN: &str = "0x1500003";
/// The certificate of the P-256 endorsement key (TCG EK Credential Profile).
const CERTIFICATE: &str = "0x1C0000A";

/// Puts an object, a persistent key and indices of three kinds into a TPM.
fn furnish(tpm: &Serving<'_>) {
    fs::write(tpm.path("written"), "old.").unwrap();
    fs::write(tpm.path("pin"), [0, 0, 0, 1, 0, 0, 0, 5]).unwrap();
    for line in [
        "createprimary -C o -G ecc -c primary -a fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|decrypt|noda",
        "evictcontrol -C o -c primary 0x81000001",
        "create -C 0x81000001 -i written -a fixedtpm|fixedparent|userwithauth|noda -u sealed.pub -r sealed.priv",
        "nvdefine 0x1500001 -C o -s 4 -a ownerread|ownerwrite",
        "nvwrite 0x1500001 -C o -i written",
        "nvdefine 0x1500002 -C o -s 8 -a ownerread|ownerwrite|nt=counter",
        "nvincrement 0x1500002 -C o",
        "nvdefine 0x1500003 -C o -s 8 -p pin -a nt=pinfail|authread|ownerread|ownerwrite|no_da",
        "nvwrite 0x1500003 -C o -i pin",
    ] {
        tpm.run_line(line);
    }
}

/// The bytes of an index.
fn read(tpm: &Serving<'_>, index: &str) -> Vec<u8> {
    tpm.run_line(&format!("nvread {index} -C o -o read"));
    fs::read(tpm.path("read")).unwrap()
}

/// What lasts in a TPM, but the uses of a PIN: its indices, what is in them, its keys, what is sealed to it.
fn lasting(tpm: &Serving<'_>) -> Vec<Vec<u8>> {
    tpm.run_line("load -C 0x81000001 -u sealed.pub -r sealed.priv -c sealed");
    let said = ["nvreadpublic", "getcap handles-persistent", "readpublic -c 0x81000001", "unseal -c sealed"];
    let said = said.map(|line| tpm.run_line(line).into_bytes());
    [said.to_vec(), vec![endorsement_key(tpm), read(tpm, DATA), read(tpm, COUNTER)]].concat()
}

fn endorsement_key(tpm: &Serving<'_>) -> Vec<u8> {
    tpm.run_line("createek -G ecc -c ek -u ek.pub");
    fs::read(tpm.path("ek.pub")).unwrap()
}

/// The real engine in processes of its own: its TPM goes through a backup into a restore, and into another VM as another TPM.
#[test]
fn a_tpm_is_backed_up_restored_and_cloned_by_commands_alone() {
    let stack = Stack::new();
    let broker = stack.broker_url();
    let vm = Vm { site: &stack.site, broker: &broker, config: "config" };
    keys(&stack.site, &stack.tenant, &["backup", "restore", "clone"]);
    let authority = ["tenant", "authority", "init", "--tenant", &stack.tenant, "--keys", "p256", "--json"];
    let files = ["--database", "db", "--root-key", "root", "--out", "authority.pem"];
    stack.site.json(&[&authority[..], &files].concat());
    let tpm = stack.boot();
    furnish(&tpm);
    assert_eq!(vm.order_backup("ticket")["outcome"], "open");
    tpm.shut_down();
    let tpm = stack.boot();
    assert!(tpm.log().contains("the broker keeps a backup"), "{}", tpm.log());
    vm.fetch("ticket");
    let backed_up = lasting(&tpm);
    tpm.run_line("nvincrement 0x1500002 -C o");
    tpm.run_line("nvundefine 0x1500001 -C o");
    tpm.kill();

    let (_, restore) = vm.order_from_backup("restore");
    assert_eq!(stack.site.json(&restore)["outcome"], "open");
    blank(&stack.path("volume"));
    let tpm = stack.boot();
    assert_eq!(lasting(&tpm), backed_up, "it is the TPM that was backed up");
    assert_eq!(read(&tpm, PIN), [0, 0, 0, 5, 0, 0, 0, 5], "with every guess taken as made");

    let measured = expected_measurement(b"firmware of a test");
    stack.site.enrol_as(&stack.tenant, &measured, "clone.config", &[]);
    let other = Vm { config: "clone.config", ..vm };
    let open =
        ["tenant", "open-backup", "--recovery", "recovery", "--backup", "backup", "--config", "config"];
    let files = ["--restore-key", "restore.key", "--out", "none", "--clone"];
    let (_, line) = failed(&stack.site, &[&open[..], &files].concat());
    assert!(line.contains("this very VM"), "{line}");
    let (_, clone) = other.order_from_backup("clone");
    assert_eq!(stack.site.json(&clone)["outcome"], "open");
    blank(&stack.path("clone.volume"));
    let start = Start { seat: "other", volume: "clone.volume", config: "clone.config", ..Start::default() };
    let cloned = stack.boot_as(start);
    let there = ["getcap handles-nv-index", "getcap handles-persistent"].map(|line| cloned.run_line(line));
    assert_eq!(there.map(|list| list.trim().to_owned()), [format!("- {CERTIFICATE}"), String::new()]);
    assert_ne!(endorsement_key(&cloned), endorsement_key(&tpm));
    assert_ne!(read(&cloned, CERTIFICATE), read(&tpm, CERTIFICATE), "each has a certificate of its own");
    cloned.run_line("createprimary -C o -G ecc -c cloned.primary");
    cloned.refused("load -C cloned.primary -u sealed.pub -r sealed.priv -c none");
    cloned.run_line("nvdefine 0x1500001 -C o -s 4 -a ownerread|ownerwrite");
    assert_eq!(lasting(&tpm), backed_up, "the original goes on beside it");
    let (_, line) = failed(&stack.site, &clone);
    assert!(line.contains("used before"), "{line}");
    cloned.shut_down();
    stack.boot_as(start).run_line("nvreadpublic 0x1500001");
}
