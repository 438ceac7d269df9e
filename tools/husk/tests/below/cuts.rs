//! The machine's power is cut in the middle of commits, again and again, against a model of two numbers.

use crate::world::{Machine, World, kernel};
use std::path::Path;

/// Cuts in an ordinary run, and in a long one.
const CUTS: [u64; 2] = [20, 100];
/// Where the cuts fall is decided by this alone.
const SEED: u64 = 0x5EED;
/// The cut comes after at most so many writes more.
const WRITES_MAX: u64 = 16;
/// Slow enough that a commit nearly always waits for its write: half of the cuts find it so. The others come as soon as a write is
/// seen, where its flush or its answer may be under way.
const WRITES_PER_SECOND: u64 = 20;

/// What a guest's TPM holds, moved in turn.
#[derive(Clone, Copy, Debug)]
struct Found {
    counter: u64,
    written: u64,
}

#[test]
fn a_kill_in_mid_commit_loses_nothing_that_was_acknowledged_and_adds_at_most_the_one_that_was_not() {
    let world = World::new();
    let kernel = kernel(world.folder(), "writer", 0);
    let cuts = CUTS[usize::from(std::env::var_os("HUSK_LONG").is_some())];
    let (mut seed, mut acknowledged, mut ahead) = (SEED, 0, 0);
    for cut in 0..cuts {
        let mut machine = world.run(&kernel, 1);
        let found = found(&mut machine);
        ahead += judge(found, acknowledged, cut);
        acknowledged = found.counter + found.written;
        let first = machine.until_line("WRITER-DONE ");
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let writes = 1 + (seed >> 33) % WRITES_MAX;
        let rest = if cut.is_multiple_of(2) {
            before_a_write(machine, writes)
        } else {
            behind_a_write(machine, writes, &world.folder().join("disk"))
        };
        acknowledged =
            first.iter().chain(&rest).filter_map(|line| done_in(line)).max().unwrap_or(acknowledged);
        eprintln!("cut {cut}: {writes} writes, {acknowledged} acknowledged");
    }
    let mut machine = world.run(&kernel, 1);
    ahead += judge(found(&mut machine), acknowledged, cuts);
    eprintln!("{cuts} cuts, {ahead} of which left an unacknowledged change that was durable");
    machine.quit();
}

/// A commit waits for its write when the power goes.
fn before_a_write(machine: Machine, writes: u64) -> Vec<String> {
    machine.monitor().ask(&format!("block_set_io_throttle volume 0 0 0 0 0 {WRITES_PER_SECOND}"));
    let end = machine.monitor().writes() + writes;
    machine.cut_power_once(|monitor| monitor.writes() >= end)
}

/// The power goes as soon as the volume's file is seen to change.
fn behind_a_write(machine: Machine, writes: u64, disk: &Path) -> Vec<String> {
    let changed = || std::fs::metadata(disk).and_then(|disk| disk.modified()).expect("a file");
    let (mut last, mut left) = (changed(), writes);
    machine.cut_power_once(|_| {
        let now = changed();
        left -= u64::from(now != last);
        last = now;
        left == 0
    })
}

/// Whether the one change more is there that nobody was told of.
fn judge(found: Found, acknowledged: u64, cut: u64) -> u64 {
    let sum = found.counter + found.written;
    assert!(
        sum == acknowledged || sum == acknowledged + 1,
        "cut {cut}: {found:?}, acknowledged {acknowledged}"
    );
    assert!(found.counter == found.written || found.counter == found.written + 1, "cut {cut}: {found:?}");
    sum - acknowledged
}

fn found(machine: &mut Machine) -> Found {
    let lines = machine.until_line("WRITER-FOUND written ");
    let failed: Vec<_> = lines.iter().filter(|line| line.contains("FAIL")).collect();
    assert!(failed.is_empty(), "{lines:#?}");
    let number = |name: &str| {
        let line = format!("WRITER-FOUND {name} ");
        lines.iter().find_map(|said| hex(said.strip_prefix(&line)?)).expect("a number")
    };
    Found { counter: number("counter"), written: number("written") }
}

fn done_in(line: &str) -> Option<u64> {
    hex(line.strip_prefix("WRITER-DONE ")?)
}

/// A whole number of the guest's: a line that the cut broke is none.
fn hex(digits: &str) -> Option<u64> {
    if digits.len() != 8 {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}
