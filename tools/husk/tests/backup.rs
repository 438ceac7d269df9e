//! A backup from the command line: the recovery key, the order, the file, and whether it opens.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where its world fails")]

#[path = "support/backup.rs"]
mod backup;
#[path = "support/launch.rs"]
mod launch;
#[path = "../../../tests/support/nothing.rs"]
mod nothing;
#[path = "support/site.rs"]
mod site;
#[path = "support/tenant.rs"]
mod tenant;

use backup::back_up;
use launch::{SIMULATED, created, enrolled, relay};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use tenant::{Vm, failed, keys};

#[test]
fn a_backup_is_ordered_fetched_and_checked_from_the_command_line() {
    let (site, enrolled) = enrolled();
    let (_broker, address) = site.serve("127.0.0.1:0", &SIMULATED);
    let _relay = relay(&site, &address, &[]);
    let broker = format!("http://{address}");
    let vm = Vm { site: &site, broker: &broker, config: "config" };
    let made = keys(&site, enrolled["tenant"].as_str().unwrap(), &["backup"]);
    let (mut launch, mut tenure) = created(&site);
    let without = vm.ticket("backup", &vm.status(), &["--out", "ticket"]);
    let without = failed(&site, &without.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!((without.0, without.1.contains("--recovery")), (2, true), "{}", without.1);
    let mode = fs::metadata(site.path("recovery")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "the recovery key is private");
    vm.sign_backup("ticket");
    let fetch = vm.words(&["vm", "backup", "--ticket", "ticket", "--out", "backup"]);
    let (code, line) = failed(&site, &fetch);
    assert_eq!((code, line.contains("never handed in")), (3, true), "{line}");
    let open = vm.ask(&["vm", "order", "--ticket", "ticket"]);
    assert_eq!(open["outcome"], "open");
    assert!(open["warning"].as_str().unwrap().contains("husk vm backup"));
    let (code, line) = failed(&site, &fetch);
    assert_eq!((code, line.contains("no launch has made")), (1, true), "{line}");

    back_up(&mut launch, &mut tenure);
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
    let (code, line) = failed(&site, &vm.words(&["vm", "order", "--ticket", "ticket"]));
    assert_eq!((code, line.contains("used before")), (1, true), "{line}");
}
