//! The host's device below the guest's disk, and the queue that the two share.
//!
//! # Soundness
//! The queue lies in a static that nothing makes a reference to: it is written and read by volatile accesses through raw pointers, because the device accesses it at any instant. There is one
//! [`Hardware`], which `open` makes once.

use super::disk::{CONFIGURATION_BYTES, ROUNDS};
use super::queue::{Descriptor, Rings, SLOTS};
use super::{About, Device};
use crate::clock::now_ms;
use crate::stop::{Stop, halt_if_stopping, stop};
use crate::virtio::hardware::{agree, open as open_device};
use crate::virtio::{DeviceFault, GUEST_DISK_SLOT};
use core::cell::UnsafeCell;
use core::hint::spin_loop;
use core::mem::offset_of;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering, fence};
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::{DeviceStatus, DeviceType, Transport};

/// VIRTIO_F_VERSION_1.
const VERSION_1: u64 = 1 << 32;
const QUEUE: u16 = 0;
/// What a device may take to end what it has, and to be reset.
const DRAIN_MS_MAX: u64 = 30_000;
const RESET_MS_MAX: u64 = 60_000;

/// The queue as the device finds it (Virtual I/O Device 1.2, section 2.7).
#[repr(C, align(4096))]
struct Shared {
    table: [Descriptor; SLOTS as usize],
    available: Available,
    used: Used,
}

#[repr(C, align(2))]
struct Available {
    flags: u16,
    index: u16,
    ring: [u16; SLOTS as usize],
}

#[repr(C, align(4))]
struct Used {
    flags: u16,
    index: u16,
    ring: [[u32; 2]; SLOTS as usize],
}

/// Where the three parts lie.
const TABLE_AT: usize = offset_of!(Shared, table);
const AVAILABLE_AT: usize = offset_of!(Shared, available);
const USED_AT: usize = offset_of!(Shared, used);

struct Place(UnsafeCell<Shared>);
// SAFETY: nobody makes a reference to the content.
unsafe impl Sync for Place {}
static PLACE: Place = Place(UnsafeCell::new(EMPTY));
const EMPTY: Shared = Shared {
    table: [Descriptor { address: 0, bytes: 0, flags: 0, next: 0 }; SLOTS as usize],
    available: Available { flags: 0, index: 0, ring: [0; SLOTS as usize] },
    used: Used { flags: 0, index: 0, ring: [[0; 2]; SLOTS as usize] },
};
static IS_OPEN: AtomicBool = AtomicBool::new(false);

/// The pages whose addresses the device is given besides the guest's ([`Page::Devices`](crate::policy::Page::Devices)).
pub fn pages() -> Range<u64> {
    let start = PLACE.0.get() as u64;
    start..start + size_of::<Shared>() as u64
}

/// The host's device.
#[derive(Debug)]
pub struct Hardware {
    transport: PciTransport,
}

/// The device in its slot, and what it says of itself but for its interrupt. It may access memory from now on, and is reset.
///
/// # Errors
/// [`DeviceFault`].
pub fn open() -> Result<(Hardware, About), DeviceFault> {
    if IS_OPEN.swap(true, Ordering::AcqRel) {
        return Err(DeviceFault::NoMemory);
    }
    let mut transport = open_device(GUEST_DISK_SLOT, DeviceType::Block)?;
    if transport.max_queue_size(QUEUE) < SLOTS.into() {
        return Err(DeviceFault::Unfit);
    }
    let [f0, f1, f2, f3, ..] = transport.read_device_features().to_le_bytes();
    let mut about = About {
        features: u32::from_le_bytes([f0, f1, f2, f3]),
        configuration: [0; CONFIGURATION_BYTES],
        interrupt: 0,
    };
    for (at, word) in (0..).step_by(4).zip(about.configuration.as_chunks_mut::<4>().0) {
        // A device with a shorter configuration has no more: zeros.
        let Ok(read) = transport.read_config_space::<u32>(at) else { break };
        *word = read.to_le_bytes();
    }
    let mut hardware = Hardware { transport };
    hardware.reset();
    Ok((hardware, about))
}

impl Rings for Hardware {
    fn describe(&mut self, slot: u16, descriptor: Descriptor) {
        let at = place::<Descriptor>(TABLE_AT + size_of::<Descriptor>() * usize::from(slot % SLOTS));
        // SAFETY: within the static; `Soundness` above.
        unsafe { at.write_volatile(descriptor) };
    }

    fn offer(&mut self, nth: u16, head: u16) {
        let [ring, index] = [offset_of!(Available, ring), offset_of!(Available, index)];
        let at = place::<u16>(AVAILABLE_AT + ring + size_of::<u16>() * usize::from(nth % SLOTS));
        // SAFETY: within the static; `Soundness` above.
        unsafe { at.write_volatile(head) };
        fence(Ordering::SeqCst);
        // SAFETY: as above.
        unsafe { place::<u16>(AVAILABLE_AT + index).write_volatile(nth.wrapping_add(1)) };
    }

    fn used(&self) -> u16 {
        // SAFETY: within the static; `Soundness` above.
        let index = unsafe { place::<u16>(USED_AT + offset_of!(Used, index)).read_volatile() };
        fence(Ordering::SeqCst);
        index
    }

    fn returned(&self, nth: u16) -> (u32, u32) {
        let entry = size_of::<[u32; 2]>() * usize::from(nth % SLOTS);
        // SAFETY: within the static; `Soundness` above.
        let [slot, bytes] =
            unsafe { place::<[u32; 2]>(USED_AT + offset_of!(Used, ring) + entry).read_volatile() };
        (slot, bytes)
    }
}

impl Device for Hardware {
    fn drain(&mut self, offered: u16) {
        let deadline_ms = now_ms().saturating_add(DRAIN_MS_MAX);
        let mut rounds = 0u32;
        while self.used() != offered && now_ms() < deadline_ms {
            rounds = rounds.wrapping_add(1);
            if rounds.is_multiple_of(ROUNDS) && self.is_broken() {
                break;
            }
            halt_if_stopping();
            spin_loop();
        }
    }

    fn is_broken(&self) -> bool {
        self.transport.get_status().contains(DeviceStatus::DEVICE_NEEDS_RESET)
    }

    fn reset(&mut self) {
        self.transport.set_status(DeviceStatus::empty());
        let deadline_ms = now_ms().saturating_add(RESET_MS_MAX);
        while !self.transport.get_status().is_empty() {
            // It may still read its queue, which is about to be written anew.
            if now_ms() > deadline_ms {
                stop(Stop::Device, line!());
            }
            spin_loop();
        }
    }

    fn start(&mut self, features: u32) -> bool {
        // SAFETY: within the static; `Soundness` above. The device is reset, and reads nothing.
        unsafe { PLACE.0.get().write_volatile(EMPTY) };
        let [table, available, used] = [TABLE_AT, AVAILABLE_AT, USED_AT].map(|part| place::<u8>(part) as u64);
        let agreed = agree(&mut self.transport, VERSION_1 | u64::from(features)).is_ok();
        if agreed {
            self.transport.queue_set(QUEUE, SLOTS.into(), table, available, used);
            self.transport.finish_init();
        }
        agreed
    }

    fn notify(&mut self) {
        self.transport.notify(QUEUE);
    }

    fn interrupt(&mut self) -> u8 {
        self.transport.ack_interrupt().bits().to_le_bytes()[0]
    }
}

/// What lies so far behind the queue's beginning.
fn place<T>(offset: usize) -> *mut T {
    PLACE.0.get().wrapping_byte_add(offset).cast()
}
