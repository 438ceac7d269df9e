//! Guests below the layer, on the whole stack: the image under QEMU by `husk run`, a broker, a simulated processor.

#![expect(clippy::expect_used, clippy::panic, reason = "a test stops at the first surprise")]

#[path = "below/cuts.rs"]
mod cuts;
#[path = "below/ends.rs"]
mod ends;
#[path = "below/world.rs"]
mod world;

use world::{World, kernel};

/// What the intruder says of itself when all of it has run.
const END: &str = "INTRUDER end PASS";
/// Random accesses of the first processor; the second makes as many as it can meanwhile.
const HAMMERS: u64 = 60_000;
/// How many there must have been in all.
const HAMMERS_MIN: u64 = 100_000;
/// Pages of the layer; each is read and written by the intruder.
const LAYER_PAGES: u64 = 2048;

#[test]
fn a_guest_that_tries_everything_in_ring_0_neither_reaches_nor_stops_the_layer() {
    let world = World::new();
    let kernel = kernel(world.folder(), "intruder", HAMMERS);
    let mut machine = world.run(&kernel, 2);
    let lines = machine.until_line("husk: the guest is off");
    let said = |name: &str| {
        let line = format!("INTRUDER-VALUE {name} ");
        let number = lines.iter().find_map(|said| said.strip_prefix(&line));
        number.and_then(|number| u64::from_str_radix(number, 16).ok()).expect("a number")
    };
    let failed: Vec<_> = lines.iter().filter(|line| line.contains("FAIL")).collect();
    assert!(failed.is_empty() && lines.iter().any(|line| line == END), "{failed:?} {lines:#?}");
    assert!(said("second-processor") + HAMMERS >= HAMMERS_MIN, "{lines:#?}");
    assert!(said("looks-meanwhile") > 1000, "a guest runs while a long command does");
    let counted = machine.until_line("husk: count: odd");
    assert!(world::code(&counted, "husk: count: hidden memory") >= 3 * LAYER_PAGES, "{counted:#?}");
    // Text and constants of the layer are as they were loaded.
    let (expected, found) = machine.constants_of_the_layer();
    assert!(expected == found, "the layer's memory changed");
    machine.quit();
}

#[test]
fn a_reset_of_the_guest_clears_pcrs_keeps_nv_and_stops_every_processor() {
    let world = World::new();
    let kernel = kernel(world.folder(), "reboot", 0);
    let mut machine = world.run(&kernel, 2);
    let lines = machine.until_line("husk: the guest is off");
    let failed: Vec<_> = lines.iter().filter(|line| line.contains("FAIL")).collect();
    assert!(failed.is_empty() && lines.iter().any(|line| line == "REBOOT end PASS"), "{failed:?} {lines:#?}");
    let counted = machine.until_line("husk: count: odd");
    assert_eq!(world::code(&counted, "husk: count: reset"), 1);
    machine.quit();
}
