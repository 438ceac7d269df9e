//! A broker's database, copied and put back, and what a tenant may have of it: from the command line.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where its world fails")]

#[path = "support/launch.rs"]
mod launch;
#[path = "../../../tests/support/nothing.rs"]
mod nothing;
#[path = "support/site.rs"]
mod site;

use husk::release::{Anchor, ReleaseFault};
use launch::{FIRMWARE, KEYS, Launch, SIMULATED, created, enrolled, head, relay};
use site::Site;
use std::fs;
use std::process::Command;

fn fails(site: &Site, arguments: &[&str]) -> (i32, String) {
    let output = site.run(arguments);
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Beyond the copy the VM has anchored: neither its instance nor a new launch is served from the old head, until its tenant says so.
#[test]
fn a_database_is_put_back_and_every_vm_waits_for_its_tenant() {
    let (site, vm) = enrolled();
    let (broker, address) = site.serve("127.0.0.1:0", &SIMULATED);
    let _relay = relay(&site, &address, &[]);
    let (mut launch, mut tenure) = created(&site);
    let copied = site.json(&["broker", "backup", "--database", "db", "--to", "copy", "--json"]);
    assert_eq!(fails(&site, &["broker", "backup", "--database", "db", "--to", "copy"]).0, 4);
    launch.on(|platform| tenure.anchor(platform, &head(1), &head(2))).map(drop).unwrap();

    let restore = ["broker", "restore", "--root-key", "root", "--from", "copy", "--database"];
    let (code, line) = fails(&site, &[&restore[..], &["new"]].concat());
    assert!(code == 2 && line.contains("--halt-all"), "{line}");
    let (code, line) = fails(&site, &[&restore[..], &["db", "--halt-all"]].concat());
    assert!(code == 4 && line.contains("never overwritten"), "{line}");
    let served = ["broker", "restore", "--halt-all", "--database", "db", "--root-key", "root"];
    assert_eq!(fails(&site, &served).0, 5, "a database that is served");
    drop(broker);
    let restored = site.json(&[&restore[..], &["new", "--halt-all", "--json"]].concat());
    assert_eq!((&restored["halted"], &restored["copied_at_commit"]), (&1.into(), &copied["commits"]));
    let names: Vec<String> = fs::read_dir(site.folder.path())
        .unwrap()
        .map(|one| one.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(!names.iter().any(|name| name.contains("restoring")), "{names:?}");

    let mut files = KEYS.to_vec();
    files[1] = "new";
    let serve = [
        &["broker", "serve", "--plain-http", "--listen", &address, "--ready-file", "ready"],
        &files[..],
        &SIMULATED,
    ];
    let (_broker, _) = site.start(&serve.concat(), "ready");
    let stale = launch.on(|platform| tenure.anchor(platform, &head(2), &head(3)).map(drop));
    assert!(stale.is_err(), "who ran when the copy was put back serves no more: {stale:?}");
    assert_eq!(Launch::new(&site, FIRMWARE).refusal(), ReleaseFault::DeniedVm);
    let (tenant, vm) = (vm["tenant"].as_str().unwrap(), vm["vm"].as_str().unwrap());
    let shown = site.json(&["vm", "show", "--database", "new", "--tenant", tenant, "--vm", vm, "--json"]);
    assert_eq!((&shown["life"], &shown["sequence"]), (&"halted".into(), &1.into()), "{shown}");
}

#[test]
fn a_tenants_quota_is_said_and_shown() {
    let (site, tenant) = Site::with_tenant();
    let quota = |more: &[&str]| {
        site.json(&[&["tenant", "quota", "--database", "db", "--tenant", &tenant, "--json"], more].concat())
    };
    let usual = quota(&[]);
    assert_eq!(usual["is_default"], true);
    let said = quota(&["--vms", "7", "--requests-per-minute", "9"]);
    assert_eq!((&said["vms"], &said["requests_per_minute"]), (&7.into(), &9.into()));
    assert_eq!(said["sessions"], usual["sessions"]);
    let said = quota(&["--sessions", "5"]);
    assert_eq!((&said["vms"], &said["sessions"], &said["is_default"]), (&7.into(), &5.into(), &false.into()));
    assert_eq!(quota(&[]), said);
    assert_eq!(quota(&["--reset"]), usual);
    let unknown =
        ["tenant", "quota", "--database", "db", "--tenant", "00112233445566778899aabbccddeeff", "--vms", "1"];
    assert_eq!(fails(&site, &unknown).0, 3);
}

/// What a restore onto a disk of so many KiB came to: its exit code, what it said, what lies there, and how the VM stands there.
fn restored_onto(site: &Site, kib: u64, (tenant, vm): (&str, &str)) -> (i32, String) {
    let script = "mount -t tmpfs -o size=\"$1\"k none small && shift && \
        \"$0\" broker restore --halt-all --root-key root --from copy --database small/new; echo \"code $?\"; ls -A small; \
        if [ -e small/new ]; then \"$0\" vm show --database small/new --tenant \"$1\" --vm \"$2\" --json; fi";
    let run = Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", script, env!("CARGO_BIN_EXE_husk")])
        .args([&kib.to_string(), tenant, vm])
        .current_dir(site.folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
    let code = said.lines().find_map(|line| line.strip_prefix("code ")).and_then(|code| code.parse().ok());
    (code.unwrap_or_else(|| panic!("{said}")), said)
}

/// From a disk that has not even room for the copy, in small steps, to one that has room for all: nothing gets the database's name whose
/// VMs are not halted in it, and what was begun is taken away.
#[test]
fn a_full_disk_restores_nothing_by_half() {
    let (site, vm) = enrolled();
    let (tenant, vm) = (vm["tenant"].as_str().unwrap(), vm["vm"].as_str().unwrap());
    site.json(&["broker", "backup", "--database", "db", "--to", "copy", "--json"]);
    let copy_kib = fs::metadata(site.path("copy")).unwrap().len() / 1024;
    fs::create_dir(site.path("small")).unwrap();
    let mut refused = 0;
    for kib in (copy_kib - 8..).step_by(8) {
        assert!(kib < copy_kib * 4, "it never fits");
        let (code, said) = restored_onto(&site, kib, (tenant, vm));
        if code == 0 {
            assert!(said.contains("\"life\":\"halted\""), "{kib}: {said}");
            break;
        }
        refused += 1;
        assert!(code == 1 && !said.contains("\nnew"), "{kib}: {said}");
        assert!(!said.contains("\nnew.restoring"), "{kib}: nothing that was begun is left: {said}");
        assert!(said.contains("full") || said.contains("has room"), "{kib}: {said}");
    }
    assert!(refused >= 2, "a copy that had no room, and a quarantine that had none");
}
