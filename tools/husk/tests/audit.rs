//! A tenant's log from the command line: exported, checked, and what shows that somebody changed it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where its world fails")]

#[path = "support/site.rs"]
mod site;

use site::Site;
use std::fs;

fn export(site: &Site, tenant: &str, file: &str, more: &[&str]) -> String {
    let fixed = ["audit", "export", "--database", "db", "--tenant", tenant];
    let output = site.run(&[&fixed[..], more].concat());
    assert!(output.status.success(), "{output:?}");
    let log = String::from_utf8(output.stdout).unwrap();
    fs::write(site.path(file), &log).unwrap();
    log
}

fn verify<'s>(site: &Site, file: &'s str, more: &[&'s str]) -> Result<serde_json::Value, String> {
    let output = site.run(&[&["audit", "verify", "--json", "--log", file], more].concat());
    match output.status.code() {
        Some(0) => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        Some(1) => Err(String::from_utf8(output.stderr).unwrap()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_audit_log_is_exported_and_verified_against_a_head_that_was_kept() {
    let (site, tenant) = Site::with_tenant();
    let vm = site.enrol(&tenant, &[7; 48])["vm"].as_str().unwrap().to_owned();
    export(&site, &tenant, "first", &[]);
    let first = verify(&site, "first", &[]).unwrap();
    assert_eq!((&first["tenant"], &first["entries"]), (&tenant.clone().into(), &1.into()));
    let kept = first["head"].as_str().unwrap();
    let one = ["--database", "db", "--tenant", &tenant, "--vm", &vm, "--json"];
    site.json(&[&["vm", "halt"][..], &one].concat());
    let log = export(&site, &tenant, "whole", &[]);
    assert!(log.contains("\"event\":\"ordered\"") && log.contains("halt, token 1"), "{log}");
    assert_eq!(verify(&site, "whole", &["--kept", kept]).unwrap()["kept_heads_found"], 1);
    export(&site, &tenant, "rest", &["--after", "1"]);
    let whole = verify(&site, "whole", &[]).unwrap();
    assert_eq!(verify(&site, "rest", &["--after", kept]).unwrap()["head"], whole["head"]);
    let now = whole["head"].as_str().unwrap();
    for (from, to, more, words) in [
        ("halt", "none", &[][..], "entry 2 was changed"),
        ("\n", "\n\n", &[], "line 2 is not an entry"),
        ("\"number\":1", "\"number\":3", &[], "begins with entry 3"),
    ] {
        fs::write(site.path("changed"), log.replacen(from, to, 1)).unwrap();
        let line = verify(&site, "changed", more).unwrap_err();
        assert!(line.contains(words), "{line}");
    }
    let line = verify(&site, "first", &["--kept", now]).unwrap_err();
    assert!(line.contains("cut, or written anew"), "{line}");
    let nobody = "0".repeat(32);
    let output = site.run(&["audit", "export", "--database", "db", "--tenant", &nobody]);
    assert_eq!(output.status.code(), Some(3));
}
