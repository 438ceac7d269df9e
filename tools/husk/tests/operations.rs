//! A broker under its operator's eyes, from the command line: what it says, in the log and on the operator's own listener, and what it
//! never says.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where its world fails")]

#[path = "support/launch.rs"]
mod launch;
#[path = "../../../tests/support/nothing.rs"]
mod nothing;
#[path = "support/site.rs"]
mod site;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use husk::release::open::{Granted, Verdict};
use husk::release::tenure::Tenure;
use husk::release::{Anchor, ReleaseFault};
use launch::{FIRMWARE, KEYS, Launch, SIMULATED, enrolled, head, relay};
use serde_json::Value;
use site::Site;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

const TOKEN: &str = "a-token-of-a-test-0123456789abcdef";
const RESOURCE: &[u8] = b"what the tenant's KBS client is given, and nobody else";

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let heads = format!("host: x\r\nauthorization: Bearer {TOKEN}\r\nconnection: close");
    write!(stream, "GET {path} HTTP/1.1\r\n{heads}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn private(site: &Site, name: &str, content: &[u8]) {
    fs::write(site.path(name), content).unwrap();
    fs::set_permissions(site.path(name), fs::Permissions::from_mode(0o600)).unwrap();
}

/// The ways in which bytes show in a text: all of them, or so many at their front that nobody writes them by chance.
fn spellings(secret: &[u8]) -> Vec<String> {
    let front = &secret[..secret.len().min(24)];
    let listed: Vec<String> = front[..8].iter().map(u8::to_string).collect();
    vec![
        hex::encode(&front[..12]),
        hex::encode_upper(&front[..12]),
        BASE64_STANDARD.encode(front),
        BASE64_URL_SAFE_NO_PAD.encode(front),
        listed.join(", "),
        listed.join(","),
        String::from_utf8_lossy(&front[..12]).into_owned(),
    ]
}

/// The lines of a key file that are keys.
fn keys_in(site: &Site, name: &str, words: &[&str]) -> Vec<Vec<u8>> {
    let text = fs::read_to_string(site.path(name)).unwrap();
    let value =
        |word: &&str| text.lines().find_map(|line| line.strip_prefix(*word)).unwrap().trim().to_owned();
    words.iter().map(|word| hex::decode(value(word)).unwrap()).collect()
}

/// What the operator's listener says after that life, which has in it what happened.
fn seen(operations: &str, tenant: &str, name: &str) -> [String; 4] {
    let shown = ["/healthz", "/readyz", "/metrics", "/ui"].map(|path| get(operations, path));
    for answer in &shown {
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    for line in [
        "husk_broker_requests_total{operation=\"anchor\",outcome=\"leased\"} 1",
        "husk_broker_requests_total{operation=\"confirm\",outcome=\"leased\"} 1",
        "husk_broker_requests_total{operation=\"grant\",outcome=\"granted\"} 1",
        "husk_broker_refusals_total{rule=\"measurement\"} 1",
        "husk_broker_decisions_per_transaction_count 4",
        "husk_broker_sessions{stage=\"established\"} 1",
        "husk_broker_vms{life=\"active\"} 1",
    ] {
        assert!(shown[2].contains(line), "{line}: {}", shown[2]);
    }
    for text in [tenant, name, "active", "released", "measurement: wanted"] {
        assert!(shown[3].contains(text), "{text}: {}", shown[3]);
    }
    shown
}

/// The log of that life: objects, each with its level.
fn said_in(log: &str, of_vm: &str) {
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said = |level: &str, words: &str| {
        lines.iter().any(|line| {
            line["level"] == level
                && line["message"].as_str().unwrap().contains(words)
                && (line["vm"] == of_vm || line["vm"].is_null())
        })
    };
    for (level, words) in [
        ("WARN", "SIMULATED"),
        ("INFO", "granted token 1 to create epoch 0"),
        ("INFO", "Confirm"),
        ("WARN", "refused, "),
        ("INFO", "ending"),
    ] {
        assert!(said(level, words), "{level} {words}: {log}");
    }
}

/// Everything that a broker does for a VM, with every secret in it known to the test.
#[test]
fn a_broker_says_what_it_does_and_no_secret() {
    let (site, vm) = enrolled();
    private(&site, "page-token", format!("{TOKEN}\n").as_bytes());
    private(&site, "content", RESOURCE);
    let (tenant, name) = (vm["tenant"].as_str().unwrap(), vm["vm"].as_str().unwrap());
    let put = [
        "vm",
        "resource",
        "put",
        "--tenant",
        tenant,
        "--vm",
        name,
        "--path",
        "default/key/one",
        "--file",
        "content",
        "--json",
    ];
    site.json(&[&put[..], &KEYS].concat());
    let more = ["--operations", "127.0.0.1:0", "--operations-token", "page-token", "--log-format", "json"];
    let log = fs::File::create(site.path("log")).unwrap();
    let (mut broker, addresses) = site.serve_saying("127.0.0.1:0", &[&SIMULATED[..], &more].concat(), log);
    let (address, operations) = addresses.split_once('\n').unwrap();
    let relay = relay(&site, address, &[]);
    let mut launch = Launch::new(&site, FIRMWARE);
    let (client, Verdict::Granted(Granted::Create(grant))) = launch.boot().unwrap() else {
        panic!("not a creation")
    };
    let epoch = grant.next.secret().with(|bytes| bytes.to_vec());
    let mut tenure = Tenure::new(client, grant.pending);
    launch.on(|platform| tenure.confirm(platform, &head(1))).map(drop).unwrap();
    launch.on(|platform| tenure.anchor(platform, &head(1), &head(2))).map(drop).unwrap();
    launch.on(|platform| tenure.release(platform)).unwrap();
    assert_eq!(Launch::new(&site, b"another firmware").refusal(), ReleaseFault::DeniedMeasurement);

    let shown = seen(operations, tenant, name);

    let asked = Command::new("kill").arg(broker.0.id().to_string()).status().unwrap();
    assert!(asked.success() && broker.0.wait().unwrap().success(), "an orderly end, with a relay connected");
    drop(relay);
    let log = fs::read_to_string(site.path("log")).unwrap();
    said_in(&log, &format!("{tenant}/{name}"));
    let mut secrets = keys_in(&site, "root", &["wrapping ", "signing "]);
    secrets.extend(keys_in(&site, "tenant", &["key "]));
    secrets.extend([epoch, RESOURCE.to_vec(), TOKEN.as_bytes().to_vec()]);
    let everything = format!("{log}{}", shown.concat());
    for (number, secret) in secrets.iter().enumerate() {
        for spelling in spellings(secret) {
            assert!(!everything.contains(&spelling), "secret {number} is said as {spelling}");
        }
    }
}

/// Nothing opens the listener to other machines but two words.
#[test]
fn operations_stay_on_loopback_unless_it_is_said() {
    let (site, _) = Site::with_tenant();
    private(&site, "weak", b"short\n");
    fs::write(site.path("open"), format!("{TOKEN}\n")).unwrap();
    fs::set_permissions(site.path("open"), fs::Permissions::from_mode(0o644)).unwrap();
    let cases: [(&[&str], i32, &str); 5] = [
        (&["--operations", "0.0.0.0:0"], 1, "--operations-beyond-loopback"),
        (&["--operations", "127.0.0.1:0", "--operations-token", "weak"], 1, "at least 32"),
        (&["--operations", "127.0.0.1:0", "--operations-token", "open"], 1, "chmod 600"),
        (&["--operations", "127.0.0.1:0", "--operations-token", "nowhere"], 3, "does not exist"),
        (&["--operations-token", "weak"], 2, "--operations"),
    ];
    for (more, wanted, words) in cases {
        let serve = ["broker", "serve", "--database", "db", "--root-key", "root", "--listen", "127.0.0.1:0"];
        let output = site.run(&[&serve[..], &["--plain-http"], more].concat());
        let line = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(wanted) && line.contains(words), "{more:?}: {line}");
    }
    let more = ["--operations", "0.0.0.0:0", "--operations-beyond-loopback"];
    let (_broker, addresses) = site.serve("127.0.0.1:0", &more);
    let (_, operations) = addresses.split_once('\n').unwrap();
    assert!(get(&operations.replace("0.0.0.0", "127.0.0.1"), "/readyz").ends_with("ready\n"));
}
