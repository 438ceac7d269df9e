//! Debian's tpm2-tools, which others wrote, at the sealed stack: is this a TPM, does it remember, and does it refuse?
//!
//! Each test has a stack of its own: simulated processor, broker with leases of three seconds, relay, `husk vtpmd`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where its world fails"
)]

#[path = "../../../tests/support/tpm.rs"]
mod commands;
#[path = "peers/endorsement.rs"]
mod endorsement;
#[path = "peers/lasting.rs"]
mod lasting;
#[path = "peers/libvirt.rs"]
mod libvirt;
#[path = "support/qemu.rs"]
mod qemu;
#[path = "peers/refusals.rs"]
mod refusals;
#[path = "support/site.rs"]
mod site;
#[path = "support/stack.rs"]
mod stack;
#[path = "peers/standing.rs"]
mod standing;
#[path = "peers/statement.rs"]
mod statement;
#[path = "peers/tools.rs"]
mod tools;

use stack::{Serving, Stack};
use std::fs;

/// The value after `name:` in a tool's listing.
fn field(listing: &str, name: &str) -> String {
    let value =
        listing.lines().find_map(|line| line.trim().strip_prefix(name)?.trim_start().strip_prefix(':'));
    value.unwrap_or_else(|| panic!("no {name} in {listing}")).trim().to_owned()
}

/// The content of an NV index, read by its owner.
#[track_caller]
fn nv(tpm: &Serving<'_>, index: &str) -> Vec<u8> {
    tpm.run_line(&format!("nvread {index} -C o -o nv.read"));
    fs::read(tpm.path("nv.read")).unwrap()
}

#[track_caller]
fn counter(tpm: &Serving<'_>, index: &str) -> u64 {
    u64::from_be_bytes(nv(tpm, index).try_into().unwrap())
}

/// TPMS_CLOCK_INFO.
#[derive(Clone, Copy, Debug)]
struct Clock {
    clock_ms: u64,
    reset_count: u32,
    safe: bool,
}

#[track_caller]
fn clock(tpm: &Serving<'_>) -> Clock {
    let listing = tpm.run_line("readclock");
    Clock {
        clock_ms: field(&listing, "clock").parse().unwrap(),
        reset_count: field(&listing, "reset_count").parse().unwrap(),
        safe: field(&listing, "safe") == "yes",
    }
}

#[test]
fn what_a_guest_left_in_it_is_there_after_an_orderly_end_and_after_a_kill() {
    let stack = Stack::new();
    lasting::over_an_orderly_end(&stack);
    lasting::a_pin_index_counts_over_kills(&stack);
    lasting::over_kills_while_counting(&Stack::new());
}

#[test]
fn a_hostile_host_gets_refusals_and_the_honest_state_boots() {
    let mut stack = Stack::new();
    refusals::prepare(&stack);
    refusals::of_disks(&stack);
    refusals::of_launches(&stack);
    refusals::of_second_instances(&stack);
    refusals::of_brokers(&mut stack);
}

#[test]
fn its_state_stays_where_it_is_and_sleeps_for_its_own_launch() {
    let stack = Stack::new();
    standing::no_state_leaves_or_enters(&stack);
    standing::a_suspension_is_of_one_launch(&stack);
}
