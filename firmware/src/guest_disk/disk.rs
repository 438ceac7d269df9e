//! The registers of the disk (Virtual I/O Device 1.2, section 4.1.4.10: legacy interface), and what follows from each access.

use super::function::{Function, PORTS};
use super::queue::{Queue, Rings, SLOTS};
use super::{Memory, Unsound};
use crate::memory::native;
use core::hint::spin_loop;
use core::sync::atomic::{Ordering, fence};

/// Registers, by their port.
const DEVICE_FEATURES: u16 = 0x00;
const DRIVER_FEATURES: u16 = 0x04;
const QUEUE_PAGE: u16 = 0x08;
const QUEUE_SIZE: u16 = 0x0C;
const QUEUE_SELECT: u16 = 0x0E;
const QUEUE_NOTIFY: u16 = 0x10;
const STATUS: u16 = 0x12;
const INTERRUPT: u16 = 0x13;
/// Where the device's own configuration begins.
const CONFIGURATION: u16 = 0x14;
/// Size of that of a block device in bytes, the last words of it unused (section 5.2.4).
pub(super) const CONFIGURATION_BYTES: usize = 0x40;

/// Where the most segments of a request stand in it.
const SEGMENTS_AT: usize = 12;

/// Device status (section 2.1).
const DRIVER_OK: u8 = 1 << 2;
const NEEDS_RESET: u8 = 1 << 6;

/// How often a guest's used ring is looked at between two looks at the device itself, which take it time.
pub(super) const ROUNDS: u32 = 4096;

/// What a guest may be offered of a device's features (section 5.2.3): sizes of segments, read-only, size of blocks, flush, topology, discard, zeroes. None changes how a queue
/// looks, and none has more than one queue.
pub(super) const FEATURES: u32 = 1 << 1 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 13 | 1 << 14;

/// The host's device, which nobody but the layer drives.
pub trait Device: Rings {
    /// Waits until it has returned as many requests since its start, modulo 2^16, or does not answer.
    fn drain(&mut self, offered: u16);

    /// Takes everything from it: when this returns it accesses no memory.
    fn reset(&mut self);

    /// Whether it says that it goes on behind a reset alone.
    fn is_broken(&self) -> bool;

    /// Starts it behind a reset, with these features and an empty queue; false if it does not want to.
    fn start(&mut self, features: u32) -> bool;

    /// Tells it that something is offered.
    fn notify(&mut self);

    /// Why it interrupts, which it does no more then.
    fn interrupt(&mut self) -> u8;
}

/// What the device said of itself when the machine started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// Its features.
    pub features: u32,
    /// Its configuration.
    pub configuration: [u8; CONFIGURATION_BYTES],
    /// Its interrupt line and pin, as PCI says them at 0x3C.
    pub interrupt: u32,
}

/// The guest's disk.
#[derive(Debug)]
pub struct Disk<D> {
    /// What PCI shows of it.
    pub function: Function,
    device: D,
    about: About,
    features: u32,
    selected: u16,
    page: u32,
    status: u8,
    queue: Option<Queue>,
}

impl<D: Device> Disk<D> {
    /// The disk as it is after a reset.
    #[must_use]
    pub fn new(device: D, mut about: About) -> Self {
        let function = Function::new(about.interrupt);
        // A host's queue may be longer than the guest's, in which a request and its two ends must have room.
        if let Some(most) = about.configuration[SEGMENTS_AT..].first_chunk_mut() {
            *most = u32::from_le_bytes(*most).min(u32::from(SLOTS) - 2).to_le_bytes();
        }
        Self { function, device, about, features: 0, selected: 0, page: 0, status: 0, queue: None }
    }

    /// The device below.
    #[must_use]
    pub const fn device(&self) -> &D {
        &self.device
    }

    /// The guest writes those bits of a register of PCI's that `mask` has. Returns whether all of them counted.
    pub fn configure(&mut self, offset: u8, value: u32, mask: u32) -> bool {
        let was_master = self.function.is_master();
        let counted = self.function.write(offset, value, mask);
        // Who takes that away relies on it: a kernel that starts another one.
        if was_master && !self.function.is_master() && self.queue.is_some() {
            self.fail();
        }
        counted
    }

    /// The machine is reset.
    pub fn reset(&mut self) {
        self.function = Function::new(self.about.interrupt);
        self.forget();
    }

    /// What the guest reads at one of its ports; nothing where there is no register of that size.
    pub fn read(&mut self, port: u16, bytes: u8, memory: &mut dyn Memory) -> Option<u32> {
        let is_selected = self.selected == 0;
        Some(match (port, bytes) {
            (DEVICE_FEATURES, 4) => self.about.features & FEATURES,
            (DRIVER_FEATURES, 4) => self.features,
            (QUEUE_PAGE, 4) if is_selected => self.page,
            (QUEUE_SIZE, 2) if is_selected => SLOTS.into(),
            (QUEUE_PAGE, 4) | (QUEUE_SIZE, 2) => 0,
            (QUEUE_SELECT, 2) => self.selected.into(),
            (STATUS, 1) => self.status.into(),
            (INTERRUPT, 1) => {
                let why = self.device.interrupt();
                self.collect(memory);
                self.look();
                why.into()
            }
            (CONFIGURATION..PORTS, 1 | 2 | 4) => {
                let from = native((port - CONFIGURATION).into());
                let mut raw = [0; 4];
                for (at, byte) in raw[..usize::from(bytes)].iter_mut().enumerate() {
                    *byte = self.about.configuration.get(from + at).copied().unwrap_or(0);
                }
                u32::from_le_bytes(raw)
            }
            _ => return None,
        })
    }

    /// What the guest writes there. Returns whether there is such a register. A guest that polls is kept until its requests are done, or `goes_on` says that it is wanted elsewhere.
    pub fn write(
        &mut self,
        port: u16,
        (bytes, value): (u8, u32),
        memory: &mut dyn Memory,
        goes_on: &mut dyn FnMut() -> bool,
    ) -> bool {
        let [low, high, ..] = value.to_le_bytes();
        let word = u16::from_le_bytes([low, high]);
        match (port, bytes) {
            (DRIVER_FEATURES, 4) => self.features = value & self.about.features & FEATURES,
            (QUEUE_SELECT, 2) => self.selected = word,
            (QUEUE_PAGE, 4) if self.selected == 0 => {
                self.stop();
                self.page = value;
            }
            (QUEUE_NOTIFY, 2) if word == 0 => self.notified(memory, goes_on),
            (QUEUE_PAGE, 4) | (QUEUE_NOTIFY, 2) => {}
            (STATUS, 1) if low == 0 => self.forget(),
            (STATUS, 1) => self.set_status(low, memory),
            _ => return false,
        }
        true
    }

    fn set_status(&mut self, status: u8, memory: &dyn Memory) {
        let changes = (status ^ self.status) & DRIVER_OK != 0;
        self.status = status & !NEEDS_RESET | self.status & NEEDS_RESET;
        if !changes {
            return;
        }
        // Whichever way it changes: the queue is written anew for a device that stands still.
        self.stop();
        if status & DRIVER_OK != 0 && self.page != 0 && self.status & NEEDS_RESET == 0 {
            self.queue = Queue::at(self.page, memory).filter(|_| self.device.start(self.features));
            if self.queue.is_none() {
                self.fail();
            }
        }
    }

    fn notified(&mut self, memory: &mut dyn Memory, goes_on: &mut dyn FnMut() -> bool) {
        let Some(queue) = &mut self.queue else { return };
        match queue.take(memory, &mut self.device) {
            Ok(true) => self.device.notify(),
            Ok(false) => {}
            Err(Unsound) => return self.fail(),
        }
        self.collect(memory);
        let mut rounds = 0u32;
        while self.is_awaited(memory) && goes_on() {
            spin_loop();
            self.collect(memory);
            rounds = rounds.wrapping_add(1);
            if rounds.is_multiple_of(ROUNDS) {
                self.look();
            }
        }
        // A guest that wants interrupts again looks once more behind that wish, and finds what was told before it: only who wants none still is spared one.
        fence(Ordering::SeqCst);
        if self.queue.as_ref().is_some_and(|queue| !queue.is_waiting() && queue.is_polled(memory)) {
            self.device.interrupt();
        }
    }

    /// Whether the guest does nothing but look for what the device has.
    fn is_awaited(&self, memory: &dyn Memory) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.is_waiting() && queue.is_polled(memory))
    }

    fn collect(&mut self, memory: &mut dyn Memory) {
        let given = self.queue.as_mut().map(|queue| queue.give_back(memory, &self.device));
        if given == Some(Err(Unsound)) {
            self.fail();
        }
    }

    /// Ends a device that is broken.
    fn look(&mut self) {
        if self.queue.is_some() && self.device.is_broken() {
            self.fail();
        }
    }

    /// Ends what cannot go on; the guest sees that, and may begin anew.
    fn fail(&mut self) {
        self.stop();
        self.status |= NEEDS_RESET;
    }

    fn forget(&mut self) {
        self.stop();
        (self.features, self.selected, self.page, self.status) = (0, 0, 0, 0);
    }

    /// What the device has been offered it ends first: QEMU would wait for that with everything else standing still.
    fn stop(&mut self) {
        if let Some(queue) = self.queue.take() {
            self.device.drain(queue.offered());
        }
        self.device.reset();
    }
}
