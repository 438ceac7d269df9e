//! What an operator meets: results, one clear line for each mistake, exit codes, and nothing overwritten.

#![expect(clippy::unwrap_used, reason = "a test ends where its world fails")]

#[path = "support/site.rs"]
mod site;
#[path = "support/token.rs"]
mod token;

use husk_psp::{Identity, Revocations};
use site::Site;
use std::fs;
use std::os::unix::fs::PermissionsExt;

const UNKNOWN: &str = "000102030405060708090a0b0c0d0e0f";

/// Runs a command that fails; yields its exit code and its one line.
fn fails(site: &Site, arguments: &[&str]) -> (i32, String) {
    let output = site.run(arguments);
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_vm_from_enrolment_to_its_end() {
    let (site, tenant) = Site::with_tenant();
    let enrolled = site.enrol(&tenant, &[7; 48]);
    let vm = enrolled["vm"].as_str().unwrap();
    let config = fs::read_to_string(site.path("config")).unwrap();
    assert!(config.contains(vm) && config.contains(&tenant));
    let one = ["--database", "db", "--tenant", &tenant, "--vm", vm, "--json"];
    let shown = site.json(&[&["vm", "show"], &one[..]].concat());
    assert_eq!(shown["life"], "virgin");
    assert_eq!(shown["host_data"], enrolled["host_data"]);
    assert_eq!(shown["policy"]["measurements"][0], "07".repeat(48));
    let other = "0a".repeat(48);
    let amend = |word| site.json(&[&["vm", word, "--measurement", &other], &one[..]].concat());
    assert_eq!(amend("allow")["measurements"].as_array().unwrap().len(), 2);
    assert_eq!(amend("allow")["measurements"].as_array().unwrap().len(), 2, "once");
    assert_eq!(amend("forbid")["measurements"], shown["policy"]["measurements"]);
    let listed = site.json(&["vm", "list", "--database", "db", "--json"]);
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(site.json(&[&["vm", "halt"], &one[..]].concat())["life"], "halted");
    let (code, line) = fails(&site, &[&["vm", "halt"], &one[..]].concat());
    assert_eq!((code, line.contains("Halted")), (1, true), "{line}");
}

#[test]
fn a_policy_is_a_file_that_is_checked_before_it_counts() {
    let (site, tenant) = Site::with_tenant();
    let example = site.run(&["vm", "policy", "example"]).stdout;
    fs::write(site.path("policy"), &example).unwrap();
    assert!(site.json(&["vm", "policy", "check", "policy", "--json"])["min_tcb"]["turin"].is_string());
    let fixed = ["vm", "enroll", "--database", "db", "--tenant", &tenant, "--json"];
    let enrolled = site.json(&[&fixed[..], &["--config-out", "config", "--policy", "policy"]].concat());
    let vm = enrolled["vm"].as_str().unwrap();
    let one = ["--database", "db", "--tenant", &tenant, "--vm", vm, "--json"];
    let shown = site.json(&[&["vm", "policy", "show"], &one[..]].concat());
    assert_eq!(shown["platform"]["required"][0], "ALIAS_CHECK_COMPLETE");
    assert_eq!(shown["guest_svn_granted"], 0);
    let of_options = site.enrol_as(&tenant, &[7; 48], "other", &[]);
    let other = ["--database", "db", "--tenant", &tenant, "--vm", of_options["vm"].as_str().unwrap()];
    let shown_other = site.json(&[&["vm", "policy", "show", "--json"], &other[..]].concat());
    assert_eq!(shown_other["platform"], shown["platform"], "options demand it too");
    let newer = String::from_utf8(example).unwrap().replacen("[min_tcb]", "min_guest_svn = 4\n[min_tcb]", 1);
    fs::write(site.path("newer"), &newer).unwrap();
    site.json(&[&["vm", "policy", "set", "--policy", "newer"], &one[..]].concat());
    fs::write(site.path("wrong"), newer.replace("turin = \"fmc", "turin = \"fcm")).unwrap();
    let (code, line) = fails(&site, &[&["vm", "policy", "set", "--policy", "wrong"], &one[..]].concat());
    assert_eq!((code, line.contains("line 14, column 9") && line.contains("`fcm`")), (1, true), "{line}");
    let kept = site.json(&[&["vm", "policy", "show"], &one[..]].concat());
    assert_eq!(kept["min_guest_svn"], 4, "a wrong file changes nothing");
    let (code, line) = fails(&site, &["vm", "policy", "check", "nowhere"]);
    assert_eq!((code, line.contains("does not exist")), (3, true), "{line}");
}

#[test]
fn certificates_are_verified_kept_listed_and_removed() {
    let (site, _) = Site::with_tenant();
    let chip = Identity::published(3).unwrap();
    fs::write(site.path("vcek"), chip.certificate()).unwrap();
    fs::write(site.path("chain"), chip.chain_pem().unwrap()).unwrap();
    for number in [1, 2] {
        let what = Revocations {
            number,
            dates: (1_700_000_000, 2_000_000_000),
            own: vec![],
            of_intermediate: vec![],
        };
        fs::write(site.path(&format!("crl{number}")), Identity::published_revocations(&what).unwrap())
            .unwrap();
    }
    let certs =
        |words: &[&'static str]| [&["broker", "certs"], words, &["--database", "db", "--json"]].concat();
    let simulated = ["--accept-simulated-silicon", "chain"];
    let (code, line) = fails(&site, &certs(&["import", "vcek"]));
    assert_eq!((code, line.contains("simulated")), (1, true), "{line}");
    let import = [&certs(&["import", "vcek"])[..], &simulated].concat();
    assert_eq!(site.json(&import)[0]["new"], true);
    assert_eq!(site.json(&import)[0]["new"], false);
    let list = |file| [&certs(&["import-crl", file])[..], &simulated].concat();
    assert_eq!(site.json(&list("crl2"))[0]["number"], "02");
    let (code, line) = fails(&site, &list("crl1"));
    assert_eq!((code, line.contains("older")), (1, true), "{line}");
    let listed = site.json(&certs(&["list"]));
    let kinds: Vec<_> = listed.as_array().unwrap().iter().map(|one| one["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["VCEK", "revocation list"]);
    let digest = listed[0]["certificate"].as_str().unwrap();
    let remove = ["broker", "certs", "remove", digest, "--database", "db", "--json"];
    site.json(&remove);
    let (code, line) = fails(&site, &remove);
    assert_eq!((code, line.contains("no certificate")), (3, true), "{line}");
    let of_chip =
        ["--chip", &"a5".repeat(64), "--tcb", "bootloader=10,snp=25,microcode=84", "--product", "genoa"];
    let urls = site.json(&[&["broker", "certs", "fetch-url", "--json"], &of_chip[..]].concat());
    let vcek = format!(
        "https://kdsintf.amd.com/vcek/v1/Genoa/{}?blSPL=10&teeSPL=0&snpSPL=25&ucodeSPL=84",
        "a5".repeat(64)
    );
    assert_eq!(urls["vcek"], vcek);
}

#[test]
fn each_mistake_has_its_code_and_one_line() {
    let (site, tenant) = Site::with_tenant();
    let measurement = "07".repeat(48);
    let enrol = |tenant: &str, out: &str, more: &[&str]| {
        let fixed = ["vm", "enroll", "--database", "db", "--tenant", tenant, "--measurement", &measurement];
        fails(&site, &[&fixed[..], &["--config-out", out], more].concat())
    };
    let enrolled = site.enrol(&tenant, &[7; 48]);
    let vm = enrolled["vm"].as_str().unwrap();
    let cases = [
        (enrol(UNKNOWN, "other", &[]), 3, "no tenant"),
        (enrol(&tenant, "other", &["--vm", vm]), 4, "enrolled already"),
        (enrol(&tenant, "config", &[]), 4, "never overwritten"),
        (enrol("xyz", "other", &[]), 2, "32 hexadecimal digits"),
        (enrol(&tenant, "other", &["--min-tcb", "cpu=1"]), 2, "none of"),
        (fails(&site, &["vm", "show", "--database", "db", "--tenant", &tenant, "--vm", UNKNOWN]), 3, "no VM"),
        (fails(&site, &["vm", "list", "--database", "nowhere"]), 3, "does not exist"),
        (fails(&site, &["vm", "list", "--database", "root"]), 1, "database"),
        (fails(&site, &["broker", "init", "--database", "db", "--root-key", "new"]), 4, "exists already"),
        (fails(&site, &["broker", "init", "--database", "new", "--root-key", "root"]), 4, "exists already"),
        (
            fails(&site, &["broker", "serve", "--plain-http", "--database", "db", "--root-key", "none"]),
            3,
            "does not exist",
        ),
        (
            fails(&site, &["broker", "serve", "--plain-http", "--database", "db", "--root-key", "tenant"]),
            1,
            "broker root key",
        ),
        (fails(&site, &["relay", "--socket", "s", "--broker", "host:1"]), 2, "http://"),
        (fails(&site, &["relay", "--socket", "db", "--broker", "http://h"]), 1, "not a socket"),
    ];
    for ((code, line), wanted, words) in cases {
        assert_eq!(code, wanted, "{line}");
        assert!(line.contains(words), "{line}");
    }
    for left in ["other", "new"] {
        assert!(!site.path(left).exists(), "a failed command leaves {left} behind");
    }
}

#[test]
fn secrets_lie_in_private_files_alone() {
    let (site, tenant) = Site::with_tenant();
    site.enrol(&tenant, &[7; 48]);
    for name in ["root", "tenant", "db"] {
        let mode = fs::metadata(site.path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let secret = fs::read_to_string(site.path("tenant")).unwrap();
    let scalar = secret.lines().nth(1).unwrap().strip_prefix("key ").unwrap();
    let database = fs::read(site.path("db")).unwrap();
    let raw: Vec<u8> = scalar.as_bytes().chunks(2).map(digits).collect();
    assert!(!database.windows(48).any(|window| window == raw), "the tenant's root key never rests here");
    fs::set_permissions(site.path("root"), fs::Permissions::from_mode(0o644)).unwrap();
    let (code, line) =
        fails(&site, &["broker", "serve", "--plain-http", "--database", "db", "--root-key", "root"]);
    assert_eq!((code, line.contains("chmod 600")), (1, true), "{line}");
}

fn digits(pair: &[u8]) -> u8 {
    u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()
}

#[test]
fn one_broker_serves_and_ends_in_order() {
    let (site, _) = Site::with_tenant();
    let (mut broker, address) = site.serve("127.0.0.1:0", &[]);
    assert!(address.starts_with("127.0.0.1:") && !address.ends_with(":0"));
    let again = [
        "broker",
        "serve",
        "--plain-http",
        "--database",
        "db",
        "--root-key",
        "root",
        "--listen",
        "127.0.0.1:0",
    ];
    let (code, line) = fails(&site, &again);
    assert_eq!((code, line.contains("another broker")), (5, true), "{line}");
    let asked = std::process::Command::new("kill").arg(broker.0.id().to_string()).status().unwrap();
    assert!(asked.success());
    assert!(broker.0.wait().unwrap().success(), "SIGTERM is an orderly end");
}

/// A protected root key, its rotation, and a counter, from the command line.
#[test]
fn a_root_key_is_protected_and_rotated_and_commits_are_counted() {
    let site = Site::new();
    fs::write(site.path("words"), "correct horse battery\n").unwrap();
    fs::set_permissions(site.path("words"), fs::Permissions::from_mode(0o600)).unwrap();
    let words = ["--passphrase-file", "words"];
    let database = ["--database", "db"];
    let root = [&database[..], &["--root-key", "root"], &words].concat();
    let made = site.json(&[&["broker", "init", "--json"], &root[..]].concat());
    assert_eq!(made["root_key_protection"], "passphrase");
    let (code, line) =
        fails(&site, &["broker", "serve", "--plain-http", "--database", "db", "--root-key", "root"]);
    assert_eq!((code, line.contains("--passphrase-file")), (1, true), "{line}");
    site.json(&[&["tenant", "init", "--root-out", "tenant", "--json"], &root[..]].concat());
    let rotate = [&["broker", "rotate", "--root-key-out", "new", "--json"], &root[..]].concat();
    assert_eq!(site.json(&rotate)["root_key_protection"], "file mode");
    let (code, line) = fails(&site, &[&["broker", "serve", "--plain-http"], &root[..]].concat());
    assert_eq!((code, line.contains("does not belong")), (1, true), "{line}");
    let new = [&database[..], &["--root-key", "new"]].concat();
    let count = [&["broker", "count", "--counter-out", "counter", "--json"], &new[..]].concat();
    assert!(site.json(&count)["commits"].as_u64().unwrap() >= 2);
    assert_eq!(fails(&site, &count).0, 4, "a counter is never made anew");
    let serve = |counter| {
        [&["broker", "serve", "--plain-http", "--listen", "127.0.0.1:0", "--counter", counter], &new[..]]
            .concat()
    };
    let (code, line) = fails(&site, &serve("none"));
    assert_eq!((code, line.contains("does not exist")), (3, true), "nothing is not zero: {line}");
    let ready = [&serve("counter")[..], &["--ready-file", "ready"]].concat();
    let (_broker, address) = site.start(&ready, "ready");
    assert!(address.starts_with("127.0.0.1:"));
}

#[test]
fn a_token_seals_the_root_key_under_a_key_that_it_keeps() {
    let site = Site::new();
    let place = token::make(&site);
    let with_token = |words: &[&'static str]| [words, &place].concat();
    let make = with_token(&["broker", "token-key", "--key", "root", "--json"]);
    assert_eq!(site.json(&make)["key"], "root");
    assert_eq!(fails(&site, &make).0, 4, "a key is never made anew");
    let init = ["broker", "init", "--database", "db", "--root-key", "sealed", "--json", "--token-key"];
    let (code, line) = fails(&site, &with_token(&[&init[..], &["other"]].concat()));
    assert_eq!((code, line.contains("token-key")), (3, true), "{line}");
    let made = site.json(&with_token(&[&init[..], &["root"]].concat()));
    assert_eq!(made["root_key_protection"], "token");
    let root = ["--database", "db", "--root-key", "sealed"];
    let tenant = [&["tenant", "init", "--root-out", "tenant", "--json"], &root[..]].concat();
    let (code, line) = fails(&site, &tenant);
    assert_eq!((code, line.contains("--pkcs11-module")), (1, true), "{line}");
    site.json(&with_token(&tenant));
    let text = fs::read_to_string(site.path("sealed")).unwrap();
    let count = [&["broker", "count", "--counter-out", "never", "--json"], &root[..], &place].concat();
    let changes = ["broker 0>1", "broker >f", "iv=0>1", "iv=>f", "sealed 0>1", "sealed >f"];
    for (from, to) in changes.iter().filter_map(|change| change.split_once('>')) {
        let word = from.trim_end_matches('0');
        let altered = text.replacen(from, &format!("{word}{to}"), 1);
        fs::write(site.path("sealed"), &altered).unwrap();
        let output = site.run(&count);
        assert!(altered == text || output.status.code() == Some(1), "{from}: {output:?}");
    }
    fs::write(site.path("sealed"), &text).unwrap();
    let out = [&["broker", "rotate", "--root-key-out", "open", "--json"], &root[..], &place].concat();
    assert_eq!(site.json(&out)["root_key_protection"], "file mode");
    let (code, line) = fails(&site, &count);
    assert_eq!((code, line.contains("does not belong")), (1, true), "{line}");
    let open = ["--database", "db", "--root-key", "open"];
    let back = ["broker", "rotate", "--root-key-out", "again", "--token-key-out", "root", "--json"];
    let back = [&back[..], &open, &place].concat();
    assert_eq!(site.json(&back)["root_key_protection"], "token");
}

/// A key that somebody else has too protects nothing.
#[test]
fn a_token_that_would_give_the_key_away_is_refused() {
    let site = Site::new();
    let words = token::make(&site);
    fs::write(site.path("aes"), [7; 32]).unwrap();
    token::softhsm(&site, &["--import", "aes", "--aes", "--token", "husk", "--label", "known", "--id", "01"]);
    let init = ["broker", "init", "--database", "db", "--root-key", "sealed", "--token-key", "known"];
    let (code, line) = fails(&site, &[&init[..], &words].concat());
    assert_eq!((code, line.contains("stays in the token")), (1, true), "{line}");
    let wrong =
        [&init[..], &["--pkcs11-module", "aes", "--pkcs11-token", "husk", "--pkcs11-pin-file", "pin"]]
            .concat();
    let (code, line) = fails(&site, &wrong);
    assert_eq!((code, line.contains("is no use")), (1, true), "{line}");
    let (code, line) = fails(&site, &[&init[..], &words[..5], &["none"]].concat());
    assert_eq!((code, line.contains("does not exist")), (3, true), "{line}");
    let (code, _) = fails(&site, &[&init[..], &words[..4]].concat());
    assert_eq!(code, 2, "all of a token's words or none");
    assert!(!site.path("sealed").exists() && !site.path("db").exists(), "nothing is left");
}
