//! Guests that use a disk, guests that would have it write elsewhere, and devices that lie.

use super::fake::{AVAILABLE, BUFFER, Fake, Known, LAYER, NEXT, QUEUE, RAM, Ram, USED, WRITE};
use super::{About, Disk, SLOTS};
use core::cell::RefMut;
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use std::vec;

const NEEDS_RESET: u32 = 0x40;

/// A guest and its disk.
struct Bench {
    disk: Disk<Fake>,
    ram: Ram,
    /// How often the layer asks whether it is to go on before it is told not to.
    patience: u32,
}

impl Bench {
    fn new() -> Self {
        let mut configuration = [0; 0x40];
        configuration[..8].copy_from_slice(&2048u64.to_le_bytes());
        // Every feature that there is.
        let about = About { features: u32::MAX, configuration, interrupt: 0x010A };
        Self { disk: Disk::new(Fake::default(), about), ram: Ram::new(), patience: 1000 }
    }

    /// One whose driver has started it.
    fn started() -> Self {
        let mut bench = Self::new();
        bench.start();
        bench
    }

    fn start(&mut self) {
        self.write(0x12, 1, 0);
        self.ram.put(QUEUE, &[0; 0x3000]);
        for status in [1, 3] {
            self.write(0x12, 1, status);
        }
        let features = self.features();
        self.write(4, 4, features);
        self.write(8, 4, u32::try_from(QUEUE >> 12).expect("low"));
        self.write(0x12, 1, 7);
    }

    fn features(&mut self) -> u32 {
        self.read(0, 4)
    }

    fn read(&mut self, port: u16, bytes: u8) -> u32 {
        self.disk.read(port, bytes, &mut self.ram).expect("a register")
    }

    fn write(&mut self, port: u16, bytes: u8, value: u32) {
        let patience = &mut self.patience;
        let mut goes_on = || {
            *patience = patience.saturating_sub(1);
            *patience > 0
        };
        assert!(self.disk.write(port, (bytes, value), &mut self.ram, &mut goes_on));
    }

    /// The device's features, if it runs, and how often it was reset.
    fn runs(&self) -> (Option<u32>, u32) {
        let known = self.known();
        (known.features, known.resets)
    }

    fn known(&self) -> RefMut<'_, Known> {
        self.disk.device().0.borrow_mut()
    }

    /// A request of three pieces, as a driver of blocks makes it, in slots from `first` on.
    fn request(&mut self, first: u16) {
        for (n, flags) in [(0, NEXT), (1, NEXT | WRITE), (2, WRITE)] {
            self.ram.describe(first + n, (BUFFER + u64::from(n) * 0x1000, 512, flags, first + n + 1));
        }
        self.ram.queue(first);
    }

    fn notify(&mut self) {
        self.write(0x10, 2, 0);
    }
}

#[test]
fn a_request_goes_down_and_what_came_of_it_is_told_when_the_guest_asks_why_it_is_interrupted() {
    let mut bench = Bench::started();
    bench.known().delay = 2;
    bench.request(9);
    bench.notify();
    assert_eq!((bench.ram.used(), bench.known().notified), (vec![], 1));
    assert_eq!(bench.known().chain(9), [9, 10, 11]);
    assert_eq!(bench.read(0x13, 1), 0, "not yet");
    bench.read(0x13, 1);
    assert_eq!((bench.ram.used(), bench.ram.word(USED + 8)), (vec![9], 512));
    // The slots are free again, and the device is not told of nothing.
    bench.request(9);
    bench.notify();
    bench.notify();
    assert_eq!((bench.ram.used(), bench.known().notified), (vec![9, 9], 2));
    assert_eq!((bench.read(0x13, 1), bench.read(0x13, 1)), (1, 0));
    assert_eq!(bench.read(0x12, 1), 7);
}

#[test]
fn a_guest_that_polls_finds_its_request_done_and_no_interrupt() {
    let mut bench = Bench::started();
    bench.ram.put(AVAILABLE, &1u16.to_le_bytes());
    bench.known().delay = 500;
    bench.request(0);
    bench.notify();
    assert_eq!((bench.ram.used(), bench.known().interrupts), (vec![0], false));
    // A processor that is wanted elsewhere does not wait for a disk that never answers.
    bench.known().delay = u32::MAX;
    bench.request(3);
    bench.notify();
    assert_eq!((bench.ram.used(), bench.patience), (vec![0], 0));
}

#[test]
fn no_device_is_given_an_address_that_is_not_the_guests() {
    type Attack = fn(&mut Bench);
    let attacks: [(&str, Attack); 14] = [
        ("the layer", |bench| bench.ram.describe(1, (LAYER.start, 512, WRITE, 0))),
        ("its last byte", |bench| bench.ram.describe(1, (LAYER.end - 1, 512, WRITE, 0))),
        ("from below into it", |bench| bench.ram.describe(1, (LAYER.start - 511, 512, 0, 0))),
        ("around it", |bench| bench.ram.describe(1, (0, 0x4_0000, WRITE, 0))),
        ("interrupt messages", |bench| bench.ram.describe(1, (0xFEE0_0000, 4, WRITE, 0))),
        ("behind memory", |bench| bench.ram.describe(1, (RAM, 1, 0, 0))),
        ("around the end", |bench| bench.ram.describe(1, (u64::MAX - 1, 512, WRITE, 0))),
        ("nothing", |bench| bench.ram.describe(1, (BUFFER, 0, WRITE, 0))),
        ("a table elsewhere", |bench| bench.ram.describe(1, (BUFFER, 512, 4, 0))),
        ("a ring of slots", |bench| bench.ram.describe(1, (BUFFER, 512, NEXT, 0))),
        ("no slot", |bench| bench.ram.describe(1, (BUFFER, 512, NEXT, SLOTS))),
        ("no head", |bench| bench.ram.put(AVAILABLE + 4, &SLOTS.to_le_bytes())),
        ("more than there is", |bench| bench.ram.put(AVAILABLE + 2, &(SLOTS + 1).to_le_bytes())),
        ("one that the device has", |bench| {
            bench.known().delay = u32::MAX;
            bench.ram.describe(1, (BUFFER, 512, WRITE, 0));
            bench.notify();
            bench.ram.describe(7, (BUFFER, 512, NEXT, 1));
            bench.ram.queue(7);
        }),
    ];
    for (name, attack) in attacks {
        let mut bench = Bench::started();
        bench.ram.describe(0, (BUFFER, 16, NEXT, 1));
        bench.ram.queue(0);
        attack(&mut bench);
        let resets = bench.known().resets;
        bench.notify();
        assert_eq!(bench.read(0x12, 1), 7 | NEEDS_RESET, "{name}");
        assert_eq!(bench.runs(), (None, resets + 1), "{name}: it runs no more");
        // Nothing goes until the guest begins anew, and then all of it goes.
        for status in [3, 7] {
            bench.write(0x12, 1, status);
        }
        assert_eq!(bench.known().features, None, "{name}");
        bench.notify();
        assert_eq!(bench.read(0x12, 1), 7 | NEEDS_RESET, "{name}");
        bench.known().delay = 0;
        bench.start();
        bench.request(5);
        bench.notify();
        assert_eq!((bench.ram.used(), bench.read(0x12, 1)), (vec![5], 7), "{name}");
    }
}

#[test]
fn a_queue_that_is_not_all_the_guests_memory_is_none() {
    for at in [LAYER.start, LAYER.end - 0x1000, LAYER.start - 0x2000, RAM - 0x2000, RAM, 0xFFFF_F000] {
        let mut bench = Bench::new();
        bench.write(8, 4, u32::try_from(at >> 12).expect("low"));
        bench.write(0x12, 1, 7);
        assert_eq!((bench.read(0x12, 1), bench.known().features), (7 | NEEDS_RESET, None), "{at:x}");
    }
}

#[test]
fn a_device_that_returns_what_it_was_not_offered_is_stopped() {
    for lie in [(8, 512), (u32::MAX, 0), (SLOTS.into(), 0), (1, 0)] {
        let mut bench = Bench::started();
        bench.known().delay = u32::MAX;
        bench.request(0);
        bench.notify();
        bench.known().returned.push(lie);
        bench.read(0x13, 1);
        assert_eq!((bench.read(0x12, 1), bench.known().features), (7 | NEEDS_RESET, None), "{lie:?}");
        assert_eq!(bench.ram.used(), []);
    }
    let mut bench = Bench::started();
    bench.request(0);
    bench.notify();
    bench.known().returned.push((0, 512));
    bench.read(0x13, 1);
    assert_eq!((bench.ram.used(), bench.read(0x12, 1)), (vec![0], 7 | NEEDS_RESET), "one request twice");
}

#[test]
fn a_driver_finds_the_registers_of_the_legacy_interface_and_no_feature_that_changes_a_queue() {
    let mut bench = Bench::new();
    assert_eq!(bench.features(), 0x6666, "segments, read-only, blocks, flush, topology, discard, zeroes");
    assert_eq!((bench.read(0x0C, 2), bench.read(0x14, 4), bench.read(0x15, 2)), (256, 2048, 8));
    bench.write(4, 4, u32::MAX);
    assert_eq!(bench.read(4, 4), 0x6666);
    bench.write(0x0E, 2, 1);
    assert_eq!((bench.read(0x0C, 2), bench.read(8, 4)), (0, 0), "there is one queue");
    bench.write(8, 4, 0x10);
    bench.write(0x0E, 2, 0);
    assert_eq!(bench.read(8, 4), 0);
    for (port, bytes) in [(0, 2), (1, 4), (8, 1), (0x0C, 4), (0x10, 1), (0x12, 2), (0x13, 2), (0x11, 1)] {
        assert_eq!(bench.disk.read(port, bytes, &mut bench.ram), None, "{port:#x}");
    }
    for port in [0, 0x0C, 0x13, 0x14, 0x7F] {
        assert!(!bench.disk.write(port, (1, 0), &mut bench.ram, &mut || true), "{port:#x}");
    }
    assert_eq!(bench.disk.read(0x7F, 4, &mut bench.ram), Some(0));
}

#[test]
fn a_reset_takes_everything_from_the_device() {
    let mut bench = Bench::started();
    bench.known().delay = u32::MAX;
    bench.request(0);
    bench.notify();
    bench.disk.function.write(0x10, 0x6000, u32::MAX);
    bench.disk.reset();
    assert_eq!(bench.runs().0, None);
    assert_eq!(bench.known().in_flight(), []);
    assert_eq!([0x12, 0x13].map(|port| bench.read(port, 1)), [0, 0]);
    assert_eq!((bench.read(4, 4), bench.read(8, 4), bench.disk.function.read(0x10)), (0, 0, 0xE001));
    // A queue that moves while the device runs ends it as well.
    bench.start();
    bench.write(8, 4, 0x11);
    assert_eq!(bench.known().features, None);
}

#[test]
fn a_driver_that_goes_back_in_its_status_has_a_device_that_stands_still() {
    let mut bench = Bench::started();
    bench.known().delay = u32::MAX;
    bench.request(0);
    bench.notify();
    bench.write(0x12, 1, 3);
    assert_eq!(bench.runs().0, None);
    assert_eq!(bench.known().in_flight(), []);
    bench.write(0x12, 1, 7);
    assert!(bench.runs().0.is_some());
}

#[test]
fn a_device_that_is_broken_ends_the_wait_for_it_and_the_guest_is_told() {
    for polls in [0u16, 1] {
        let mut bench = Bench::started();
        bench.patience = 100_000;
        bench.ram.put(AVAILABLE, &polls.to_le_bytes());
        bench.known().delay = u32::MAX;
        bench.known().broken = true;
        bench.request(0);
        bench.notify();
        assert_eq!((bench.patience > 0, bench.ram.used()), (true, vec![]), "it is waited for no longer");
        bench.read(0x13, 1);
        assert_eq!((bench.read(0x12, 1), bench.runs().0), (7 | NEEDS_RESET, None));
        bench.start();
        assert!(bench.runs().0.is_some());
    }
}

#[test]
fn a_device_ends_what_it_has_before_it_is_reset() {
    let ends: [fn(&mut Bench); 4] = [
        |bench| bench.disk.reset(),
        |bench| bench.write(0x12, 1, 0),
        |bench| bench.write(8, 4, 0),
        |bench| bench.write(0x12, 1, 3),
    ];
    for end in ends {
        let mut bench = Bench::started();
        bench.known().delay = u32::MAX;
        for first in [0, 3] {
            bench.request(first);
            bench.notify();
        }
        assert_eq!(bench.known().drained, None);
        end(&mut bench);
        assert_eq!(bench.known().drained, Some(2));
        assert_eq!(bench.runs().0, None);
    }
}

#[test]
fn a_kernel_that_takes_bus_mastering_away_has_a_disk_that_accesses_no_memory() {
    let mut bench = Bench::started();
    assert!(bench.disk.configure(4, 0, 4) && bench.runs().0.is_some(), "it was never asked for");
    assert!(bench.disk.configure(4, 4, 4) && bench.runs().0.is_some());
    assert!(bench.disk.configure(4, 0, 4));
    assert_eq!((bench.runs().0, bench.read(0x12, 1)), (None, 7 | NEEDS_RESET));
}

#[test]
fn a_request_has_no_more_segments_than_the_queue_has_room_for() {
    let mut configuration = [0; 0x40];
    for (said, told) in [(1022u32, 254), (254, 254), (126, 126)] {
        configuration[12..16].copy_from_slice(&said.to_le_bytes());
        let about = About { features: u32::MAX, configuration, interrupt: 0 };
        let read = Disk::new(Fake::default(), about).read(0x14 + 12, 4, &mut Ram::new());
        assert_eq!(read, Some(told));
    }
}

/// What a guest may do.
#[derive(Clone, Debug)]
enum Step {
    Describe(u16, u64, u32, u16, u16),
    Queue(u16),
    Poke(u64, u16),
    Write(u16, u8, u32),
    Read(u16, u8),
    Delay(u32),
    Start,
}

fn step() -> impl Strategy<Value = Step> {
    let slot = || prop_oneof![9 => 0..8u16, 1 => any::<u16>()];
    let address = prop_oneof![6 => Just(BUFFER), 1 => LAYER.start - 600..LAYER.end, 1 => RAM - 600..RAM, 1 => any::<u64>()];
    let bytes = prop_oneof![6 => 1..600u32, 1 => Just(0), 1 => any::<u32>()];
    let flags = prop_oneof![9 => 0..4u16, 1 => any::<u16>()];
    prop_oneof![
        6 => (slot(), address, bytes, flags, slot()).prop_map(|(slot, address, bytes, flags, next)| Step::Describe(slot % SLOTS, address, bytes, flags, next)),
        4 => slot().prop_map(Step::Queue),
        1 => (QUEUE..QUEUE + 0x2FFE, any::<u16>()).prop_map(|(at, word)| Step::Poke(at, word)),
        6 => Just(Step::Write(0x10, 2, 0)),
        1 => (0..0x80u16, prop_oneof![Just(1u8), Just(2), Just(4)], any::<u32>()).prop_map(|(port, bytes, value)| Step::Write(port, bytes, value)),
        3 => Just(Step::Read(0x13, 1)),
        1 => prop_oneof![Just(3u32), Just(7)].prop_map(|status| Step::Write(0x12, 1, status)),
        1 => (0..0x80u16, prop_oneof![Just(1u8), Just(2), Just(4)]).prop_map(|(port, bytes)| Step::Read(port, bytes)),
        1 => (0..4u32).prop_map(Step::Delay),
        1 => Just(Step::Start),
    ]
}

proptest! {
    /// The fake device asserts: no foreign address, nothing that changes while it may be read.
    #[test]
    fn whatever_a_guest_does_its_device_reaches_the_guest_alone(steps in proptest::collection::vec(step(), 1..200)) {
        let mut bench = Bench::started();
        for step in steps {
            match step {
                Step::Describe(slot, address, bytes, flags, next) => bench.ram.describe(slot, (address, bytes, flags, next)),
                Step::Queue(head) => bench.ram.queue(head),
                Step::Poke(at, word) => bench.ram.put(at, &word.to_le_bytes()),
                Step::Write(port, bytes, value) => {
                    bench.disk.write(port, (bytes, value), &mut bench.ram, &mut || false);
                }
                Step::Read(port, bytes) => {
                    bench.disk.read(port, bytes, &mut bench.ram);
                }
                Step::Delay(delay) => bench.known().delay = delay,
                Step::Start => bench.start(),
            }
        }
    }
}
