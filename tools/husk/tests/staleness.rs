//! Staleness that a tenant allowed, with every process its own and tpm2-tools as the client: fewer anchors, the named data lost at most,
//! and nothing else.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where its world fails")]

#[path = "support/site.rs"]
mod site;
#[path = "support/stack.rs"]
mod stack;

use stack::{Serving, Stack, Start};
use std::fs;

const ALLOWED: [&str; 6] =
    ["--staleness-commits", "3", "--staleness-s", "3600", "--staleness-nv", "01800100-018001ff"];
const NAMED: &str = "0x01800100";
const OTHER: &str = "0x01800200";
/// `SealFault::Stale`, and the exit code of a fault of the seal.
const OLDER: u32 = 0x0404_001A;
const SEAL: i32 = 14;

fn write(tpm: &Serving<'_>, index: &str, text: &str) {
    let path = tpm.path("written");
    fs::write(&path, text).unwrap();
    tpm.tool("nvwrite", [index, "-C", "o", "-i", path.to_str().unwrap()]);
}

fn read(tpm: &Serving<'_>, index: &str) -> String {
    tpm.tool("nvread", [index, "-C", "o"])
}

/// The sequence of the head that the broker remembers.
fn head(stack: &Stack) -> u64 {
    let vms = stack.site.json(&["vm", "list", "--database", "db", "--json"]);
    vms[0]["sequence"].as_u64().unwrap_or_else(|| panic!("{vms}"))
}

fn copy(stack: &Stack) -> Vec<u8> {
    fs::read(stack.path("volume")).unwrap()
}

/// Two indices, each written once.
fn prepared(tpm: &Serving<'_>) {
    for index in [NAMED, OTHER] {
        tpm.tool("nvdefine", [index, "-C", "o", "-s", "4", "-a", "ownerread|ownerwrite"]);
        write(tpm, index, "old.");
    }
}

#[test]
fn named_data_waits_for_its_anchor_and_an_honest_disk_loses_none() {
    let stack = Stack::enrolled_with(&ALLOWED, &[]);
    let tpm = stack.boot();
    prepared(&tpm);
    let anchored = head(&stack);
    for text in ["new1", "new2", "new3"] {
        write(&tpm, NAMED, text);
        assert_eq!(head(&stack), anchored, "it is deferred");
    }
    write(&tpm, NAMED, "new4");
    assert_eq!(head(&stack), anchored + 4, "one more than may wait");
    write(&tpm, NAMED, "new5");
    write(&tpm, OTHER, "new.");
    assert_eq!(head(&stack), anchored + 6, "what is strict takes along what waits");
    write(&tpm, NAMED, "new6");
    tpm.kill();
    let tpm = stack.boot();
    assert_eq!((read(&tpm, NAMED), read(&tpm, OTHER)), ("new6".to_owned(), "new.".to_owned()));
}

#[test]
fn a_host_can_have_named_data_forgotten_and_nothing_strict() {
    let stack = Stack::enrolled_with(&ALLOWED, &[]);
    let tpm = stack.boot();
    prepared(&tpm);
    let (before_strict, _) = (copy(&stack), write(&tpm, OTHER, "new."));
    let before_named = copy(&stack);
    write(&tpm, NAMED, "new1");
    write(&tpm, NAMED, "new2");
    tpm.kill();
    fs::write(stack.path("volume"), before_strict).unwrap();
    stack.refuses(Start::default(), SEAL, OLDER);
    fs::write(stack.path("volume"), before_named).unwrap();
    let tpm = stack.boot();
    assert_eq!((read(&tpm, NAMED), read(&tpm, OTHER)), ("old.".to_owned(), "new.".to_owned()));
}
