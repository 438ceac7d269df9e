//! What the guest queues, carried over to the queue that the device reads (Virtual I/O Device 1.2, section 2.7: split virtqueues; 2.7.2: the legacy layout).
//!
//! A slot of the device's table is the guest's slot of the same number, so that what comes back names what was queued. It is written when a request is taken and not again before the
//! device has returned that: a device reads a descriptor in pieces, and between two writes it would see an address of one and a length of the other.

use super::Memory;
use crate::memory::native;
use core::ops::Range;
use zerocopy::{FromBytes, transmute};

/// Slots of the queue, the guest's and the device's.
pub const SLOTS: u16 = 256;
/// Size of a page, by whose number the guest says where its queue is, and of the alignment of its last part (section 4.1.5.1.3.1).
pub(super) const PAGE_BYTES: u64 = 0x1000;

const DESCRIPTOR_BYTES: u64 = 16;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
/// Where the ring of what is available begins: flags, index, one number a slot.
const AVAILABLE_AT: u64 = DESCRIPTOR_BYTES * SLOTS as u64;
const RING_AT: u64 = 4;
const NO_INTERRUPT: u16 = 1;
/// Where the ring of what was used begins: flags, index, slot and length of each.
const USED_AT: u64 = (AVAILABLE_AT + RING_AT + 2 * SLOTS as u64).next_multiple_of(PAGE_BYTES);
const USED_BYTES: u64 = 8;
/// Where the queue ends.
const END_AT: u64 = USED_AT + RING_AT + USED_BYTES * SLOTS as u64;

/// A piece of memory that a device reads or writes (section 2.7.5), as both sides have it in memory: little-endian, as the processors are that this runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes)]
#[repr(C)]
pub struct Descriptor {
    /// Physical address.
    pub address: u64,
    /// How many bytes.
    pub bytes: u32,
    /// 1: another piece follows. 2: the device writes.
    pub flags: u16,
    /// Which slot follows, if one does.
    pub next: u16,
}

impl Descriptor {
    /// The memory that it names; nothing for one that names none, or is of a kind that was not agreed on.
    fn range(&self) -> Option<Range<u64>> {
        let end = self.address.checked_add(self.bytes.into())?;
        let is_plain = self.flags & !(NEXT | WRITE) == 0 && self.bytes > 0;
        is_plain.then_some(self.address..end)
    }
}

/// The device's queue, in the layer's memory.
pub trait Rings {
    /// Writes a slot of its table.
    fn describe(&mut self, slot: u16, descriptor: Descriptor);

    /// Offers the request that begins in slot `head`, as the `nth` one since the start, modulo 2^16.
    fn offer(&mut self, nth: u16, head: u16);

    /// How many requests the device has returned since the start, modulo 2^16.
    fn used(&self) -> u16;

    /// The slot and the length that it returned as the `nth` one.
    fn returned(&self, nth: u16) -> (u32, u32);
}

/// The guest's queue is none, or the device returned what it was not offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsound;

/// A slot that the device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    is_head: bool,
    next: Option<u16>,
}

/// Both queues, while the device runs.
#[derive(Clone, Debug)]
pub struct Queue {
    base: u64,
    taken: u16,
    returned: u16,
    held: [Option<Held>; SLOTS as usize],
}

impl Queue {
    /// The guest's queue in its page `page`, of which nothing was taken yet; nothing if that is not all its memory.
    #[must_use]
    pub fn at(page: u32, memory: &dyn Memory) -> Option<Self> {
        let base = u64::from(page) * PAGE_BYTES;
        let is_guests = memory.is_guests(&(base..base + END_AT));
        is_guests.then_some(Self { base, taken: 0, returned: 0, held: [None; SLOTS as usize] })
    }

    /// How many requests the device was offered since its start, modulo 2^16.
    #[must_use]
    pub const fn offered(&self) -> u16 {
        self.taken
    }

    /// Whether the device has a request.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        self.taken != self.returned
    }

    /// Whether the guest wants no interrupt: it looks by itself.
    #[must_use]
    pub fn is_polled(&self, memory: &dyn Memory) -> bool {
        self.word(memory, AVAILABLE_AT).is_ok_and(|flags| flags & NO_INTERRUPT != 0)
    }

    /// Takes what the guest has queued since the last time, and offers it. Returns whether there was anything.
    ///
    /// # Errors
    /// [`Unsound`]; what was taken before is offered.
    pub fn take(&mut self, memory: &dyn Memory, rings: &mut dyn Rings) -> Result<bool, Unsound> {
        let queued = self.word(memory, AVAILABLE_AT + 2)?;
        let count = queued.wrapping_sub(self.taken);
        // One that is more than there are slots ends at a slot that the device has.
        for _ in 0..count {
            let place = u64::from(self.taken % SLOTS);
            let head = self.word(memory, AVAILABLE_AT + RING_AT + 2 * place)?;
            self.take_request(memory, rings, head)?;
            rings.offer(self.taken, head);
            self.taken = self.taken.wrapping_add(1);
        }
        Ok(count > 0)
    }

    /// Tells the guest what the device has returned.
    ///
    /// # Errors
    /// [`Unsound`]; what came before is told.
    pub fn give_back(&mut self, memory: &mut dyn Memory, rings: &dyn Rings) -> Result<(), Unsound> {
        let used = rings.used();
        while self.returned != used {
            let (slot, bytes) = rings.returned(self.returned);
            self.release(slot)?;
            let place = u64::from(self.returned % SLOTS);
            let [s0, s1, s2, s3] = slot.to_le_bytes();
            let [b0, b1, b2, b3] = bytes.to_le_bytes();
            let entry = [s0, s1, s2, s3, b0, b1, b2, b3];
            let at = self.base + USED_AT + RING_AT + USED_BYTES * place;
            self.returned = self.returned.wrapping_add(1);
            // The entry first: the guest reads it when the index says so.
            let told = memory.write(at, &entry)
                && memory.write(self.base + USED_AT + 2, &self.returned.to_le_bytes());
            told.then_some(()).ok_or(Unsound)?;
        }
        Ok(())
    }

    /// Copies the pieces of one request, each once.
    fn take_request(&mut self, memory: &dyn Memory, rings: &mut dyn Rings, head: u16) -> Result<(), Unsound> {
        let mut next = Some(head);
        while let Some(slot) = next {
            let held = self.held.get_mut(usize::from(slot)).filter(|held| held.is_none()).ok_or(Unsound)?;
            let mut raw = [0; native(DESCRIPTOR_BYTES)];
            let is_read = memory.read(self.base + DESCRIPTOR_BYTES * u64::from(slot), &mut raw);
            let descriptor: Descriptor = transmute!(raw);
            let range = descriptor.range().filter(|range| is_read && memory.is_guests(range));
            range.ok_or(Unsound)?;
            next = (descriptor.flags & NEXT != 0).then_some(descriptor.next);
            *held = Some(Held { is_head: slot == head, next });
            rings.describe(slot, descriptor);
        }
        Ok(())
    }

    /// Frees the slots of a request that came back.
    fn release(&mut self, head: u32) -> Result<(), Unsound> {
        let mut next = u16::try_from(head).ok();
        let is_head = |held: &Held| held.is_head;
        let at = next.and_then(|head| self.held.get(usize::from(head)).copied().flatten());
        at.filter(is_head).ok_or(Unsound)?;
        while let Some(slot) = next {
            next = self.held.get_mut(usize::from(slot)).and_then(Option::take).and_then(|held| held.next);
        }
        Ok(())
    }

    fn word(&self, memory: &dyn Memory, at: u64) -> Result<u16, Unsound> {
        let mut raw = [0; 2];
        if memory.read(self.base + at, &mut raw) { Ok(u16::from_le_bytes(raw)) } else { Err(Unsound) }
    }
}
