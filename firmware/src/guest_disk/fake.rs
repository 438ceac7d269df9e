//! A guest's memory, and a device that holds the layer to its laws: for tests here and for the fuzz target, which both name what it needs beside it.

use super::{Descriptor, Device, Memory, Rings, SLOTS};
use core::cell::RefCell;
use core::ops::Range;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

/// The guest's memory, with the layer in its midst.
pub(crate) const RAM: u64 = 0x4_0000;
pub(crate) const LAYER: Range<u64> = 0x2_0000..0x2_8000;
/// Where the tests' drivers put their queue, and a buffer.
pub(crate) const QUEUE: u64 = 0x1_0000;
pub(crate) const BUFFER: u64 = 0x1_8000;
/// A queue's parts (Virtual I/O Device 1.2, section 2.7.2), for 256 slots.
pub(crate) const AVAILABLE: u64 = QUEUE + 0x1000;
pub(crate) const USED: u64 = QUEUE + 0x2000;

pub(crate) const WRITE: u16 = 2;
pub(crate) const NEXT: u16 = 1;

pub(crate) struct Ram(pub(crate) Vec<u8>);

impl Ram {
    /// Zeros.
    pub(crate) fn new() -> Self {
        Self(vec![0; native(RAM)])
    }

    pub(crate) fn put(&mut self, at: u64, bytes: &[u8]) {
        let at = native(at);
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn word(&self, at: u64) -> u16 {
        let at = native(at);
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    pub(crate) fn describe(&mut self, slot: u16, (address, bytes, flags, next): (u64, u32, u16, u16)) {
        let at = QUEUE + 16 * u64::from(slot);
        self.put(at, &address.to_le_bytes());
        self.put(at + 8, &bytes.to_le_bytes());
        self.put(at + 12, &flags.to_le_bytes());
        self.put(at + 14, &next.to_le_bytes());
    }

    /// Queues the request that begins in slot `head`.
    pub(crate) fn queue(&mut self, head: u16) {
        let nth = self.word(AVAILABLE + 2);
        self.put(AVAILABLE + 4 + 2 * u64::from(nth % SLOTS), &head.to_le_bytes());
        self.put(AVAILABLE + 2, &nth.wrapping_add(1).to_le_bytes());
    }

    /// The used slots, in order.
    pub(crate) fn used(&self) -> Vec<u16> {
        (0..self.word(USED + 2)).map(|nth| self.word(USED + 4 + 8 * u64::from(nth % SLOTS))).collect()
    }
}

impl Memory for Ram {
    fn is_guests(&self, range: &Range<u64>) -> bool {
        range.end <= RAM && (range.end <= LAYER.start || range.start >= LAYER.end)
    }

    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let range = address..address + into.len() as u64;
        let is_guests = self.is_guests(&range);
        if is_guests {
            into.copy_from_slice(&self.0[native(address)..][..into.len()]);
        }
        is_guests
    }

    fn write(&mut self, address: u64, from: &[u8]) -> bool {
        let is_guests = self.is_guests(&(address..address + from.len() as u64));
        if is_guests {
            self.put(address, from);
        }
        is_guests
    }
}

/// What the device knows.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) table: BTreeMap<u16, Descriptor>,
    /// Heads that it was offered and has not returned, and how often it was asked before it returns them.
    pub(crate) offered: Vec<u16>,
    pub(crate) delay: u32,
    pub(crate) returned: Vec<(u32, u32)>,
    /// What it was started with, if it runs.
    pub(crate) features: Option<u32>,
    pub(crate) resets: u32,
    pub(crate) notified: u32,
    pub(crate) interrupts: bool,
    /// It says that it goes on behind a reset alone.
    pub(crate) broken: bool,
    /// How many requests it was to return before its last reset.
    pub(crate) drained: Option<u16>,
}

impl Known {
    /// What of its table it may read.
    pub(crate) fn in_flight(&self) -> Vec<u16> {
        self.offered.iter().flat_map(|head| self.chain(*head)).collect()
    }

    pub(crate) fn chain(&self, head: u16) -> Vec<u16> {
        let mut slots = vec![head];
        while let Some(last) =
            slots.last().and_then(|slot| self.table.get(slot)).filter(|last| last.flags & NEXT != 0)
        {
            assert!(slots.len() < usize::from(SLOTS), "a chain without an end");
            slots.push(last.next);
        }
        slots
    }
}

/// A device that holds the layer to its laws.
#[derive(Debug, Default)]
pub(crate) struct Fake(pub(crate) RefCell<Known>);

impl Rings for Fake {
    fn describe(&mut self, slot: u16, descriptor: Descriptor) {
        let known = self.0.get_mut();
        assert!(!known.in_flight().contains(&slot), "what the device may read does not change");
        let range = descriptor.address..descriptor.address + u64::from(descriptor.bytes);
        assert!(!range.is_empty() && Ram(Vec::new()).is_guests(&range), "{descriptor:x?}");
        assert_eq!(descriptor.flags & !(NEXT | WRITE), 0);
        known.table.insert(slot, descriptor);
    }

    fn offer(&mut self, _: u16, head: u16) {
        let known = self.0.get_mut();
        assert!(known.features.is_some());
        assert!(!known.in_flight().iter().any(|slot| known.chain(head).contains(slot)));
        known.offered.push(head);
    }

    fn used(&self) -> u16 {
        let mut known = self.0.borrow_mut();
        if known.delay > 0 {
            known.delay -= 1;
        } else {
            let done: Vec<_> = known.offered.drain(..).map(|head| (u32::from(head), 512)).collect();
            known.interrupts |= !done.is_empty();
            known.returned.extend(done);
        }
        u16::try_from(known.returned.len()).expect("a short test")
    }

    fn returned(&self, nth: u16) -> (u32, u32) {
        self.0.borrow().returned[usize::from(nth)]
    }
}

impl Device for Fake {
    fn drain(&mut self, offered: u16) {
        let known = self.0.get_mut();
        known.drained = Some(offered);
    }

    fn is_broken(&self) -> bool {
        self.0.borrow().broken
    }

    fn reset(&mut self) {
        let known = self.0.get_mut();
        *known = Known {
            resets: known.resets + 1,
            delay: known.delay,
            notified: known.notified,
            drained: known.drained,
            ..Known::default()
        };
    }

    fn start(&mut self, features: u32) -> bool {
        let known = self.0.get_mut();
        assert!(known.features.is_none(), "it is started behind a reset");
        known.features = Some(features);
        true
    }

    fn notify(&mut self) {
        self.0.get_mut().notified += 1;
    }

    fn interrupt(&mut self) -> u8 {
        core::mem::take(&mut self.0.get_mut().interrupts).into()
    }
}

fn native(address: u64) -> usize {
    usize::try_from(address).expect("small")
}
