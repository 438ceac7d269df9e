//! The guest `intruder.S`: what it finds, and that nothing of the layer changes but what changes of itself.

use crate::layer::{LAYER, Memory, Symbols};
use crate::world::{self, Machine, Start, World, image, kernel};
use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::process::{ChildStdin, Stdio};

/// What is on its disk, all over.
const DISK_HOLDS: u8 = 0x5A;
const DISK_BYTES: usize = 1 << 20;
/// What it says when it waits, and when all of it has run.
const WAITS: &str = "INTRUDER waits";
const END: &str = "INTRUDER end PASS";
/// Random accesses of the first processor; the second makes as many as it can meanwhile.
const HAMMERS: u64 = 60_000;
/// How many there must have been in all.
const HAMMERS_MIN: u64 = 100_000;
/// Pages of the layer; each is read and written by the intruder.
const LAYER_PAGES: u64 = 2048;

/// Page tables, the layer's own and the guest's: entries change by their marks alone.
const TABLES: [&str; 2] = ["husk_firmware::memory::physical::TABLES", "husk_firmware::svm::machine::POOL"];
/// What each guest's processor runs by: a lock's page, a VMCB, registers.
const AREAS: &str = "husk_firmware::svm::hardware::AREAS";
const AREA_BYTES: u64 = 0x3000;
const VMCB_AT: u64 = 0x1000;
/// What fences it in: intercepts, both permission maps, nested paging and its root (AMD64 APM volume 2, table B-1).
const FENCES: [Range<u64>; 4] = [0..0x14, 0x40..0x50, 0x90..0x98, 0xB0..0xB8];

/// What of the layer changes while a guest runs, and why. Whatever else is not as it was, somebody reached.
const CHANGES: [(&str, &str); 6] = [
    ("husk_firmware::boot::stacks::STACKS", "the layer works here when a guest's processor exits"),
    ("husk_firmware::boot::stacks::SERVICE", "the processor that serves looks for work"),
    ("husk_firmware::svm::counters::COUNTS", "exits are counted"),
    (AREAS, "the guest's own registers; its fences are compared by themselves"),
    (
        "husk_firmware::svm::machine::MACHINE",
        "where PCI's and the I/O APIC's windows point to, and what the disk's driver asked for",
    ),
    ("husk_firmware::guest_disk::hardware::PLACE", "the queue of the device below the guest's disk"),
];
/// What changes besides when a second processor starts and the TPM is used, apart from the region of secrets, where the engine works.
const CHANGES_BY_COMMANDS: [(&str, &str); 12] = [
    ("husk_firmware::crb_device::BUFFER", "commands and responses: the page that the guest shares"),
    ("husk_firmware::crb_device::DEVICE", "the TPM's registers"),
    ("husk_firmware::crb_device::WAITS", "whether a command waits"),
    ("husk_firmware::boot::rest::WOKEN", "whether the processor that serves is called"),
    ("husk_stubs::runtime::heap::HEAP", "where the engine's heap has free pieces, and how much was used"),
    ("husk_stubs::runtime::process::ERRNO", "the C library's last error"),
    ("husk_firmware::svm::hardware::HOST_SAVE", "where the second processor keeps the layer's state"),
    ("husk_firmware::svm::processors::SHARED", "what the second processor is asked for, and whether it runs"),
    ("husk_firmware::boot::exceptions::NMIS", "calls from processor to processor are counted"),
    ("husk_firmware::virtio::hardware::POOL", "queues of the layer's devices"),
    ("husk_firmware::virtio::hardware::STREAM", "frames to and from the broker"),
    ("husk_firmware::virtio::hardware::DISK", "sealed records on their way to the disk"),
];

#[test]
fn a_guest_that_tries_everything_in_ring_0_neither_reaches_nor_stops_the_layer() {
    let world = World::new();
    let kernel = kernel(world.folder(), "intruder", HAMMERS);
    let disk = world.folder().join("guests-disk");
    std::fs::write(&disk, [DISK_HOLDS; DISK_BYTES]).expect("written");
    let words = ["--disk", disk.to_str().expect("text")];
    let start = Start { disk: "disk", kernel: &kernel, cpus: 2, words: &words, serial: Stdio::piped() };
    let (mut machine, serial) = world.start(start);
    let mut serial = serial.expect("piped");
    let symbols = Symbols::of(&image());
    let tables = TABLES.map(|name| symbols.whole(name));
    let look = |machine: &Machine| machine.hidden_memory().with_marks_in(&tables);
    machine.until_line(WAITS);
    machine.wait_until_idle();
    let before = look(&machine);
    let mut lines = go_on(&mut machine, &mut serial, WAITS);
    let without_commands = look(&machine);
    lines.extend(go_on(&mut machine, &mut serial, WAITS));
    let after = look(&machine);
    judge(&lines);

    let changed = without_commands.changed_since(&before, &symbols);
    assert_eq!(unexpected(&changed, &CHANGES), BTreeMap::new());
    let mut changed = after.changed_since(&before, &symbols);
    changed
        .retain(|_, [first, last]| !(symbols.secrets().contains(first) && symbols.secrets().contains(last)));
    assert_eq!(unexpected(&changed, &[&CHANGES[..], &CHANGES_BY_COMMANDS].concat()), BTreeMap::new());
    for memory in [&without_commands, &after] {
        assert_eq!(fences(memory, &symbols, 0), fences(&before, &symbols, 0));
    }
    assert_eq!(
        fences(&after, &symbols, 1),
        fences(&before, &symbols, 0),
        "the second processor has no others"
    );
    // Text and constants are as they were loaded.
    let (expected, found) = machine.constants_of_the_layer();
    assert!(expected == found, "the layer's memory changed");

    let counted = go_on(&mut machine, &mut serial, "husk: count: odd");
    assert!(world::code(&counted, "husk: count: hidden memory") >= 3 * LAYER_PAGES, "{counted:#?}");
    a_change_is_seen(&machine, &symbols, look);
    machine.quit();
}

/// Lets the guest go on, and hears what it says until a line begins so.
fn go_on(machine: &mut Machine, serial: &mut ChildStdin, until: &str) -> Vec<String> {
    serial.write_all(b"\n").expect("the guest hears");
    machine.until_line(until)
}

fn judge(lines: &[String]) {
    let said = |name: &str| {
        let line = format!("INTRUDER-VALUE {name} ");
        let number = lines.iter().find_map(|said| said.strip_prefix(&line));
        number.and_then(|number| u64::from_str_radix(number, 16).ok()).expect("a number")
    };
    let failed: Vec<_> = lines.iter().filter(|line| line.contains("FAIL")).collect();
    assert!(failed.is_empty() && lines.iter().any(|line| line == END), "{failed:?} {lines:#?}");
    assert!(said("second-processor") + HAMMERS >= HAMMERS_MIN, "{lines:#?}");
    assert!(said("looks-meanwhile") > 1000, "a guest runs while a long command does");
}

/// What fences a guest's processor in.
fn fences(memory: &Memory, symbols: &Symbols, cpu: u64) -> Vec<u8> {
    let vmcb = symbols.place(AREAS) + cpu * AREA_BYTES + VMCB_AT;
    let fences = FENCES.map(|fence| memory.at(&(vmcb + fence.start..vmcb + fence.end)).to_vec());
    fences.concat()
}

/// What changed and is not listed.
fn unexpected<'c>(
    changed: &BTreeMap<&'c str, [u64; 2]>,
    listed: &[(&str, &str)],
) -> BTreeMap<&'c str, [u64; 2]> {
    let is_listed = |name: &str| listed.iter().any(|(listed, _)| *listed == name);
    changed.iter().filter(|(name, _)| !is_listed(name)).map(|(name, places)| (*name, *places)).collect()
}

/// Of a machine that is off and stands still: one byte of each kind of memory, changed by a debugger, and the comparison names it.
fn a_change_is_seen(machine: &Machine, symbols: &Symbols, look: impl Fn(&Machine) -> Memory) {
    machine.wait_until_off();
    let last = look(machine);
    for at in [
        LAYER.start + 0x1000,
        symbols.place("husk_firmware::svm::machine::POOL") + 8,
        symbols.place("husk_firmware::memory::physical::TABLES") + 16,
        symbols.place("gp"),
        LAYER.end - 1,
        LAYER.end + 0x1000,
    ] {
        machine.overwrite(at, !last.at(&(at..at + 1))[0]);
        let changed = look(machine).changed_since(&last, symbols);
        assert!(
            changed.get(symbols.at(at)).is_some_and(|places| places.contains(&at)),
            "{at:#x}: {changed:x?}"
        );
    }
}
