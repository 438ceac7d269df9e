//! Guests below the layer, on the whole stack: the image under QEMU by `husk run`, a broker, a simulated processor.

#![expect(clippy::expect_used, clippy::panic, reason = "a test stops at the first surprise")]

#[path = "below/caller.rs"]
#[expect(dead_code, reason = "the tests of calls use the rest")]
mod caller;
#[path = "below/cuts.rs"]
mod cuts;
#[path = "below/ends.rs"]
mod ends;
#[path = "below/intruder.rs"]
mod intruder;
#[path = "below/keys.rs"]
mod keys;
#[path = "below/layer.rs"]
mod layer;
#[path = "below/needles.rs"]
mod needles;
#[path = "below/secrets.rs"]
mod secrets;
#[path = "below/spy.rs"]
mod spy;
#[path = "below/world.rs"]
mod world;

use world::{World, kernel};

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

/// Linux stops its other processors so when it panics: they never return from the handler.
#[test]
fn nmis_come_one_at_a_time_and_a_reset_takes_a_processor_out_of_the_handler_that_it_halted_in() {
    let world = World::new();
    let kernel = kernel(world.folder(), "crash", 0);
    let mut machine = world.run(&kernel, 2);
    let lines = machine.until_line("husk: the guest is off");
    let failed: Vec<_> = lines.iter().filter(|line| line.contains("FAIL")).collect();
    assert!(failed.is_empty() && lines.iter().any(|line| line == "CRASH end PASS"), "{failed:?} {lines:#?}");
    machine.quit();
}
