//! A tenant's things at its broker, from the command line, over TLS.

#![expect(clippy::unwrap_used, reason = "a test ends where its world fails")]

#[path = "support/site.rs"]
mod site;
#[path = "support/tls.rs"]
mod tls;

use serde_json::Value;
use site::Site;
use std::fs;

/// A tenant's words to its broker.
struct Asking<'s> {
    site: &'s Site,
    broker: [String; 6],
}

impl Asking<'_> {
    fn words<'a>(&'a self, words: &'a [&'a str]) -> Vec<&'a str> {
        words.iter().copied().chain(self.broker.iter().map(String::as_str)).collect()
    }

    fn json(&self, words: &[&str]) -> Value {
        self.site.json(&[&self.words(words)[..], &["--json"]].concat())
    }

    fn fails(&self, words: &[&str]) -> (i32, String) {
        let output = self.site.run(&self.words(words));
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn operator(site: &Site, tenant: &str, root: &str, out: &str, rights: &[&str]) {
    let fixed = ["tenant", "operator", "--tenant", tenant, "--root", root, "--operator-out", out, "--json"];
    let rights: Vec<&str> = rights.iter().flat_map(|right| ["--right", right]).collect();
    site.json(&[&fixed[..], &rights].concat());
}

const ALL: [&str; 4] = ["read", "policy", "enroll", "resources"];

#[test]
fn a_tenant_does_everything_at_its_broker_that_needs_no_database() {
    let (site, tenant) = Site::with_tenant();
    let init = ["tenant", "init", "--database", "db", "--root-key", "root", "--root-out", "other", "--json"];
    let other = site.json(&init)["tenant"].as_str().unwrap().to_owned();
    operator(&site, &tenant, "tenant", "op", &ALL);
    operator(&site, &tenant, "tenant", "reader", &["read"]);
    operator(&site, &other, "other", "other-op", &ALL);
    let shown = tls::made(&site, "a");
    let (_broker, address) = site.serve("127.0.0.1:0", &shown.server());
    let as_operator = |key: &str| {
        let words =
            ["--broker", &format!("https://{address}"), "--broker-ca", &shown.authority, "--operator", key];
        Asking { site: &site, broker: words.map(str::to_owned) }
    };
    let [own, reader, others] = ["op", "reader", "other-op"].map(as_operator);
    let digest = "07".repeat(48);
    let made = own.json(&["vm", "enroll", "--measurement", &digest, "--config-out", "config"]);
    let vm = made["vm"].as_str().unwrap();
    assert_eq!(made["tenant"], *tenant, "the operator's tenant");
    let status = ["vm", "status", "--config", "config", "--json", "--broker", &own.broker[1], "--broker-ca"];
    let said = site.json(&[&status[..], &[&shown.authority]].concat());
    assert_eq!(
        said["host_data"], made["host_data"],
        "the configuration is vouched for by the tenant's root key"
    );
    assert_eq!(reader.json(&["vm", "list"]).as_array().unwrap().len(), 1);
    assert_eq!(others.json(&["vm", "list"]).as_array().unwrap().len(), 0);
    own.json(&["vm", "allow", "--vm", vm, "--measurement", &"08".repeat(48)]);
    own.json(&["vm", "forbid", "--vm", vm, "--measurement", &digest]);
    let policy = reader.json(&["vm", "show", "--vm", vm])["policy"].take();
    assert_eq!(policy["measurements"], serde_json::json!(["08".repeat(48)]));
    fs::write(site.path("policy"), format!("measurements = [\"{digest}\"]\n")).unwrap();
    own.json(&["vm", "policy", "set", "--vm", vm, "--policy", "policy"]);
    let policy = reader.json(&["vm", "policy", "show", "--vm", vm]);
    assert_eq!(policy["measurements"], serde_json::json!([digest]));
    fs::write(site.path("content"), "what the VM gets").unwrap();
    let put = ["vm", "resource", "put", "--vm", vm, "--path", "default/key/one", "--file", "content"];
    own.json(&put);
    assert_eq!(own.json(&["vm", "resource", "list", "--vm", vm]), serde_json::json!(["default/key/one"]));
    let refused = [
        (
            reader.fails(&["vm", "allow", "--vm", vm, "--measurement", &digest]),
            1,
            "did not let this operator",
        ),
        (others.fails(&["vm", "show", "--vm", vm]), 3, "no such VM"),
        (own.fails(&["vm", "show", "--vm", &other]), 3, "no such VM"),
        (own.fails(&["vm", "show", "--vm", vm, "--tenant", &other]), 1, "alone"),
        (
            own.fails(&["vm", "enroll", "--vm", vm, "--measurement", &digest, "--config-out", "c"]),
            4,
            "already",
        ),
        (own.fails(&put), 4, "--replace"),
    ];
    for ((code, line), wanted, words) in refused {
        assert!(code == wanted && line.contains(words), "{words}: {code} {line}");
    }
    assert!(!site.path("c").exists(), "a failed command takes away what it made");
    own.json(&["vm", "resource", "remove", "--vm", vm, "--path", "default/key/one"]);
    a_guests_secrets(vm, (&own, &reader, &others));
    let exported = site.run(&reader.words(&["audit", "export"]));
    assert!(exported.status.success());
    fs::write(site.path("log"), &exported.stdout).unwrap();
    let verified = site.json(&["audit", "verify", "--log", "log", "--json"]);
    assert_eq!((verified["tenant"].as_str(), verified["entries"].as_u64()), (Some(&*tenant), Some(6)));
}

/// What a VM's guest may be given, at the broker too.
fn a_guests_secrets(vm: &str, (own, reader, others): (&Asking<'_>, &Asking<'_>, &Asking<'_>)) {
    let pcrs = format!("sha256:11={}", "0a".repeat(32));
    let unlock =
        ["vm", "unlock", "put", "--vm", vm, "--name", "data", "--secret", "content", "--expect-pcr", &pcrs];
    own.json(&unlock);
    let listed = reader.json(&["vm", "unlock", "list", "--vm", vm]);
    assert_eq!(listed, serde_json::json!([{ "name": "data", "pcrs": [{ "11": "0a".repeat(32) }] }]));
    let removed = ["vm", "unlock", "remove", "--vm", vm, "--name", "nothing"];
    let refused = [
        (reader.fails(&unlock), 1, "did not let this operator"),
        (others.fails(&unlock), 3, "no such VM"),
        (own.fails(&unlock), 4, "--replace"),
        (own.fails(&removed), 3, "no such secret"),
    ];
    for ((code, line), wanted, words) in refused {
        assert!(code == wanted && line.contains(words), "{words}: {code} {line}");
    }
    own.json(&["vm", "unlock", "remove", "--vm", vm, "--name", "data"]);
    assert_eq!(own.json(&["vm", "unlock", "list", "--vm", vm]), serde_json::json!([]));
}

/// What a key on the command line would show to the network is not sent, and a key of nobody's is refused.
#[test]
fn a_tenants_request_goes_to_its_own_broker_in_private_or_not_at_all() {
    let (site, tenant) = Site::with_tenant();
    site.json(&["tenant", "root", "--root-out", "stranger", "--json"]);
    operator(&site, &tenant, "tenant", "op", &["read"]);
    operator(&site, &tenant, "stranger", "forged", &["read"]);
    let (_broker, address) = site.serve("127.0.0.1:0", &[]);
    let http = format!("http://{address}");
    let list = |broker: &str, key: &str| {
        let output = site.run(&["vm", "list", "--broker", broker, "--operator", key]);
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(list(&http, "op").0, 0, "on this machine, no network sees it");
    let (code, line) = list(&http, "forged");
    assert!(code == 1 && line.contains("knows no such operator"), "{line}");
    let (code, line) = list("http://192.0.2.1:8630", "op");
    assert!(code == 1 && line.contains("https://"), "{line}");
    assert_eq!(site.run(&["vm", "list", "--broker", &http]).status.code(), Some(2), "--operator is wanted");
    assert_eq!(site.run(&["vm", "list"]).status.code(), Some(2), "or --database");
}
