//! A quote of Debian's tpm2-tools beside the broker's signed word: whose it is, and whether it is the newest instance's.

use super::{Serving, Stack};
use serde_json::Value;
use std::fs;

pub(super) const NONCE: &str = "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a";

/// A quote in `NAME` and its signature, by a new key in `NAME.pub` under an endorsement key.
fn quote(tpm: &Serving<'_>, name: &str) {
    tpm.run_line("createek -Q -G ecc -c ek -u ek.pub");
    tpm.run_line(&format!("createak -Q -C ek -G ecc -g sha256 -s ecdsa -c ak -u {name}.pub"));
    tpm.run_line(&format!("quote -Q -c ak -l sha256:0 -q 0badc0de -m {name} -s {name}.sig"));
}

/// Asks the broker for its word, into the file `name`.
pub(super) fn status(stack: &Stack, name: &str) -> Value {
    let address = fs::read_to_string(stack.path("ready")).unwrap();
    let url = format!("http://{}", address.trim());
    let asked = ["--nonce", NONCE, "--signed", name, "--json"];
    let config = ["vm", "status", "--broker", &url, "--config", "config"];
    stack.site.json(&[&config[..], &asked].concat())
}

fn verify(stack: &Stack, quote: &str, statement: &str) -> Result<Value, String> {
    let (signature, key) = (format!("{quote}.sig"), format!("{quote}.pub"));
    let words = ["evidence", "verify", "--json", "--quote", quote, "--signature", &signature, "--ak", &key];
    let more = ["--statement", statement, "--config", "config", "--statement-nonce", NONCE];
    let output = stack.site.run(&[&words[..], &more].concat());
    if output.status.success() {
        return Ok(serde_json::from_slice(&output.stdout).unwrap());
    }
    Err(String::from_utf8(output.stderr).unwrap())
}

/// Amendment 14: also behind TPM2_Clear, from which on the TPM counts its resets anew.
#[test]
fn a_quote_counts_if_its_reset_count_is_the_newest_tokens() {
    let stack = Stack::new();
    let tpm = stack.boot();
    quote(&tpm, "made");
    let said = status(&stack, "first");
    assert_eq!(said["reset_count"], 1);
    assert!(said["firmware_variables"].to_string().contains("the host chooses"), "{said}");
    let seen = verify(&stack, "made", "first").unwrap();
    assert!(seen["proven"].to_string().contains("resetCount of the newest instance"), "{seen}");
    assert!(seen["proven"].to_string().contains("no older instance"), "{seen}");
    assert!(seen["not_proven"].to_string().contains("variables a UEFI guest began with"), "{seen}");
    tpm.run_line("clear -Q -c p");
    quote(&tpm, "cleared");
    assert_eq!(status(&stack, "second")["reset_count"], 0, "TPM2_Clear counts from here");
    verify(&stack, "cleared", "second").unwrap();
    tpm.shut_down();
    let tpm = stack.boot();
    let said = status(&stack, "third");
    assert_eq!((&said["reset_count"], &said["token"]), (&1.into(), &2.into()));
    let refused = verify(&stack, "cleared", "third").unwrap_err();
    assert!(refused.contains("an older instance's"), "{refused}");
    quote(&tpm, "newest");
    verify(&stack, "newest", "third").unwrap();
    let mut altered = fs::read(stack.path("third")).unwrap();
    altered[200] ^= 1;
    fs::write(stack.path("third"), altered).unwrap();
    let refused = verify(&stack, "newest", "third").unwrap_err();
    assert!(refused.contains("no broker that the tenant"), "{refused}");
}
