//! The tenant's orders from the command line: signed offline, handed in at a broker that serves, and its signed word.

#![expect(clippy::unwrap_used, reason = "a test ends where its world fails")]

#[path = "support/site.rs"]
mod site;

use husk::release::statement::Statement;
use serde_json::Value;
use site::{Process, Site};
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// A broker that serves one VM, and the operator's key in `operator`.
struct Served {
    site: Site,
    url: String,
    vm: String,
    tenant: String,
    _broker: Process,
}

impl Served {
    fn new(orders: &[&str]) -> Self {
        let (site, tenant) = Site::with_tenant();
        let vm = site.enrol(&tenant, &[7; 48])["vm"].as_str().unwrap().to_owned();
        let (broker, address) = site.serve("127.0.0.1:0", &[]);
        let served = Self { site, url: format!("http://{address}"), vm, tenant, _broker: broker };
        served.operator("operator", "1", orders);
        served
    }

    fn operator(&self, out: &str, generation: &str, orders: &[&str]) {
        let fixed = ["tenant", "operator", "--root", "tenant", "--tenant", &self.tenant, "--json"];
        let more = ["--operator-out", out, "--generation", generation];
        let orders: Vec<&str> = orders.iter().flat_map(|order| ["--order", order]).collect();
        self.site.json(&[&fixed[..], &more, &orders].concat());
    }

    fn status(&self, more: &[&str]) -> Value {
        let fixed = ["vm", "status", "--broker", &self.url, "--config", "config", "--json"];
        self.site.json(&[&fixed[..], more].concat())
    }

    /// The arguments of a ticket by `operator`, for the VM as it stands.
    fn sign(&self, operator: &str, order: &str, more: &[&str]) -> Vec<String> {
        let now = self.status(&[]);
        let (token, generation) = (now["token"].to_string(), now["generation"].to_string());
        let fixed = ["vm", "ticket", "--operator", operator, "--vm", &self.vm, "--order", order, "--json"];
        let words = [&fixed[..], &["--token", &token, "--generation", &generation], more].concat();
        words.into_iter().map(str::to_owned).collect()
    }

    fn signed(&self, operator: &str, order: &str, out: &str, more: &[&str]) {
        let words = self.sign(operator, order, &[&["--out", out], more].concat());
        self.site.json(&words.iter().map(String::as_str).collect::<Vec<_>>());
    }

    fn order(&self, ticket: &str) -> Result<Value, (i32, String)> {
        let words =
            ["vm", "order", "--broker", &self.url, "--config", "config", "--ticket", ticket, "--json"];
        let output = self.site.run(&words);
        if output.status.success() {
            return Ok(serde_json::from_slice(&output.stdout).unwrap());
        }
        Err((output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap()))
    }
}

#[test]
fn a_vm_is_halted_resumed_forced_and_retired_by_tickets() {
    let served = Served::new(&["halt", "resume", "force", "retire"]);
    let mode = fs::metadata(served.site.path("operator")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "the operator's key is private");
    served.signed("operator", "halt", "t1", &[]);
    let halted = served.order("t1").unwrap();
    assert_eq!((&halted["life"], &halted["outcome"]), (&"halted".into(), &"done".into()));
    let (code, line) = served.order("t1").unwrap_err();
    assert_eq!((code, line.contains("used before")), (1, true), "{line}");
    served.signed("operator", "resume", "t2", &["--until-ms", "3600000"]);
    assert_eq!(served.order("t2").unwrap()["life"], "virgin");
    served.signed("operator", "force", "t3", &[]);
    let forced = served.order("t3").unwrap();
    assert_eq!((&forced["outcome"], &forced["forced"]), (&"open".into(), &true.into()));
    assert!(forced["warning"].as_str().unwrap().contains("two instances may answer"));
    let words = served.sign("operator", "retire", &["--out", "t4"]);
    let output = served.site.run(&words.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(String::from_utf8(output.stderr).unwrap().contains("--for-good"), "not without saying so");
    served.signed("operator", "retire", "t4", &["--for-good"]);
    assert_eq!(served.order("t4").unwrap()["life"], "retired");
}

#[test]
fn a_ticket_that_orders_nothing_says_why() {
    let served = Served::new(&["halt"]);
    served.operator("newer", "2", &["halt", "resume"]);
    served.signed("operator", "halt", "early", &["--until-ms", "0"]);
    served.signed("newer", "halt", "void", &[]);
    let (code, line) = served.order("early").unwrap_err();
    assert_eq!((code, line.contains("time is over")), (1, true), "{line}");
    served.signed("newer", "halt", "first", &[]);
    assert_eq!(served.order("first").unwrap()["life"], "halted");
    served.signed("operator", "halt", "revoked", &[]);
    served.signed("newer", "halt", "barred", &[]);
    for (ticket, words) in [
        ("revoked", "generation is over"),
        ("void", "another token"),
        ("barred", "makes no sense"),
        ("config", "no ticket"),
    ] {
        let (code, line) = served.order(ticket).unwrap_err();
        assert_eq!((code, line.contains(words)), (1, true), "{ticket}: {line}");
    }
    let words = served.sign("operator", "resume", &["--out", "none"]);
    let output = served.site.run(&words.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(String::from_utf8(output.stderr).unwrap().contains("did not allow"));
    assert!(!served.site.path("none").exists());
}

#[test]
fn a_status_is_the_brokers_word_and_nobody_elses() {
    let served = Served::new(&["halt"]);
    let nonce = "5a".repeat(32);
    let said = served.status(&["--nonce", &nonce, "--signed", "statement"]);
    assert_eq!((&said["nonce"], &said["life"]), (&nonce.into(), &"virgin".into()));
    assert_eq!(fs::read(served.site.path("statement")).unwrap().len(), Statement::BYTES);
    let config = fs::read_to_string(served.site.path("config")).unwrap();
    let other = "0".repeat(32);
    fs::write(served.site.path("other"), config.replace(&served.vm, &other)).unwrap();
    let root = config.lines().find(|line| line.contains("husk.root")).unwrap();
    let digit = root.chars().rev().nth(1).unwrap();
    let root_of_another = format!("{}{}\"", &root[..root.len() - 2], if digit == '0' { '1' } else { '0' });
    fs::write(served.site.path("stranger"), config.replace(root, &root_of_another)).unwrap();
    for (file, wanted, words) in [("other", 3, "no VM"), ("stranger", 1, "certified"), ("none", 3, "none")] {
        let output =
            served.site.run(&["vm", "status", "--broker", &served.url, "--config", file, "--signed", "new"]);
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), line.contains(words)), (Some(wanted), true), "{file}: {line}");
        assert!(!served.site.path("new").exists());
    }
    let output = served.site.run(&["vm", "status", "--broker", "http://127.0.0.1:1", "--config", "config"]);
    assert!(String::from_utf8(output.stderr).unwrap().contains("did not answer"));
}

/// A VM whose tenant named the variables of its firmware, beside a configuration file of the same VM that names none.
#[test]
fn a_status_says_where_a_firmwares_variables_lie_as_far_as_the_configuration_is_the_enrolled_one() {
    let (site, tenant) = Site::with_tenant();
    fs::write(site.path("variables"), [7; 4096]).unwrap();
    site.enrol_as(&tenant, &[7; 48], "config", &["--firmware-vars", "variables"]);
    let config = fs::read_to_string(site.path("config")).unwrap();
    let named = config.lines().find(|line| line.contains("husk.firmware_variables")).unwrap();
    fs::write(site.path("without"), config.replace(&format!("{named}\n"), "")).unwrap();
    let (_broker, address) = site.serve("127.0.0.1:0", &[]);
    let url = format!("http://{address}");
    let nonce = "5a".repeat(32);
    let status = |config: &str, signed: &str| {
        let words = ["vm", "status", "--broker", &url, "--config", config, "--nonce", &nonce, "--json"];
        site.json(&[&words[..], &["--signed", signed]].concat())["firmware_variables"].to_string()
    };
    let digest = status("config", "word");
    assert!(named.contains(digest.trim_matches('"')), "{named} {digest}");
    assert!(status("without", "other").contains("another launch configuration"));
    let verify = ["evidence", "verify", "--json", "--statement", "word", "--statement-nonce", &nonce];
    let seen = site.json(&[&verify[..], &["--config", "config"]].concat());
    assert!(seen["proven"].to_string().contains(digest.trim_matches('"')), "{seen}");
    let refused = site.run(&[&verify[..], &["--config", "without"]].concat());
    assert!(String::from_utf8(refused.stderr).unwrap().contains("another launch configuration"));
}
