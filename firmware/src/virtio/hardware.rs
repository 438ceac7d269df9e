//! The devices themselves: configuration space by ports, queues and buffers in the layer's memory.
//!
//! A device is given only buffers that belong to it for good (never a caller's), so that one which answers late, or
//! twice, finds no memory that has another use by then.
//!
//! # Soundness
//! The layer's memory is mapped onto itself, so an address is what a device needs. [`POOL`] hands out each page once, to queues that
//! are never dropped. [`DISK`] and [`STREAM`] are handed out once, by [`claim`]. While a device holds a buffer nobody reads or writes
//! it here; what a device wrote is copied out once. Registers are taken only where no RAM is. Configuration space is accessed before
//! a guest runs, on one processor.

use super::disk::{Lost, REQUEST_BYTES_MAX, Requests, Said, VolumeDisk};
use super::post::{BODY_BYTES_MAX, Broken, HEADER_BYTES, Post, Wire};
use super::{CHANNEL_SLOT, DeviceFault, Slot, VOLUME_SLOT};
use crate::clock::now_ms;
use crate::memory::Physical;
use crate::stop::{Stop, stop};
use core::cell::UnsafeCell;
use core::hint::spin_loop;
use core::ops::Range;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::pci::bus::{Command, ConfigurationAccess, DeviceFunction, PciRoot};
use virtio_drivers::transport::{DeviceStatus, DeviceType, Transport};
use virtio_drivers::{BufferDirection, Hal, PhysAddr};
use x86_64::instructions::port::Port;

const PAGE_BYTES: usize = 4096;
/// Two for each of three queues, and two to spare.
const POOL_PAGES: usize = 8;
/// Descriptors of each queue: one request at a time has three parts at most.
const QUEUE: usize = 4;
/// How much one receive buffer holds.
const RECEIVE_BYTES: usize = 4096;
/// Queue numbers (Virtual I/O Device 1.2, sections 5.2.2 and 5.3.2).
const DISK_REQUESTS: u16 = 0;
const STREAM_IN: u16 = 0;
const STREAM_OUT: u16 = 1;

#[repr(C, align(4096))]
struct Pool(UnsafeCell<[[u8; PAGE_BYTES]; POOL_PAGES]>);
// SAFETY: pages are handed out once each, by a counter.
unsafe impl Sync for Pool {}
static POOL: Pool = Pool(UnsafeCell::new([[0; PAGE_BYTES]; POOL_PAGES]));
static POOL_USED: AtomicUsize = AtomicUsize::new(0);

/// What a device reads and writes of one disk request. A device's pages are nobody else's.
#[repr(C, align(4096))]
struct DiskBuffer {
    header: [u8; 16],
    data: [u8; REQUEST_BYTES_MAX],
    status: [u8; 1],
}

/// What a device reads and writes of the stream.
#[repr(C, align(4096))]
struct StreamBuffer {
    outgoing: [u8; HEADER_BYTES + BODY_BYTES_MAX],
    incoming: [u8; RECEIVE_BYTES],
}

struct Buffer<T>(UnsafeCell<T>, AtomicBool);
// SAFETY: `claim` hands the content out once.
unsafe impl<T> Sync for Buffer<T> {}
static DISK: Buffer<DiskBuffer> = Buffer(
    UnsafeCell::new(DiskBuffer { header: [0; 16], data: [0; REQUEST_BYTES_MAX], status: [0] }),
    AtomicBool::new(false),
);
static STREAM: Buffer<StreamBuffer> = Buffer(
    UnsafeCell::new(StreamBuffer {
        outgoing: [0; HEADER_BYTES + BODY_BYTES_MAX],
        incoming: [0; RECEIVE_BYTES],
    }),
    AtomicBool::new(false),
);

#[expect(clippy::mut_from_ref, reason = "a flag lets one caller in")]
fn claim<T>(buffer: &'static Buffer<T>) -> Result<&'static mut T, DeviceFault> {
    if buffer.1.swap(true, Ordering::AcqRel) {
        return Err(DeviceFault::NoMemory);
    }
    // SAFETY: the flag lets one caller in, ever.
    Ok(unsafe { &mut *buffer.0.get() })
}

/// The pages whose addresses devices are given ([`Page::Devices`](crate::policy::Page::Devices)): the queues', the disk's, the stream's.
pub(crate) fn device_pages() -> [Range<u64>; 3] {
    let pages = |start: u64, bytes: usize| start..start + bytes as u64;
    [
        pages(POOL.0.get() as u64, size_of::<Pool>()),
        pages(DISK.0.get() as u64, size_of::<DiskBuffer>()),
        pages(STREAM.0.get() as u64, size_of::<StreamBuffer>()),
    ]
}

/// The layer's memory as `virtio-drivers` sees it.
struct Layer;

// SAFETY: pages come from the pool, zeroed and once each; addresses are physical ones.
unsafe impl Hal for Layer {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let first = POOL_USED.fetch_add(pages, Ordering::AcqRel);
        if first.saturating_add(pages) > POOL_PAGES {
            // Address 0 says that there is none.
            return (0, NonNull::dangling());
        }
        let start = POOL.0.get().cast::<[u8; PAGE_BYTES]>().wrapping_add(first).cast::<u8>();
        (start.expose_provenance() as u64, NonNull::new(start).unwrap_or(NonNull::dangling()))
    }

    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        // A page that a device may still know is not used again.
        0
    }

    unsafe fn mmio_phys_to_virt(paddr: PhysAddr, _: usize) -> NonNull<u8> {
        let pointer = ptr::with_exposed_provenance_mut(crate::memory::native(paddr));
        NonNull::new(pointer).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        let start = buffer.cast::<u8>().as_ptr().expose_provenance() as u64;
        let end = start + buffer.len() as u64;
        if !device_pages().iter().any(|pages| pages.start <= start && end <= pages.end) {
            stop(Stop::Bug, line!());
        }
        start
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// Configuration space of bus 0, by the ports 0xCF8 and 0xCFC.
struct Configuration;

impl Configuration {
    fn select(function: DeviceFunction, register: u8) -> Port<u32> {
        let address = 1 << 31
            | u32::from(function.bus) << 16
            | u32::from(function.device) << 11
            | u32::from(function.function) << 8
            | u32::from(register & !3);
        // SAFETY: selects a register; nobody else uses the ports before a guest runs.
        unsafe { Port::<u32>::new(0xCF8).write(address) };
        Port::new(0xCFC)
    }
}

impl ConfigurationAccess for Configuration {
    fn read_word(&self, function: DeviceFunction, register: u8) -> u32 {
        // SAFETY: reading configuration space has no effect on memory.
        unsafe { Self::select(function, register).read() }
    }

    fn write_word(&mut self, function: DeviceFunction, register: u8, data: u32) {
        // SAFETY: only this module's devices are written, whose DMA is set up here.
        unsafe { Self::select(function, register).write(data) };
    }

    unsafe fn unsafe_clone(&self) -> Self {
        Self
    }
}

bitflags::bitflags! {
    /// Any features: which are accepted is decided elsewhere.
    #[derive(Clone, Copy, Debug)]
    struct Features: u64 {
        const _ = !0;
    }
}

/// The device in a slot, if it is of that kind, with its registers where they can be reached, allowed to access memory and
/// forbidden to interrupt.
pub(crate) fn open(slot: Slot, kind: DeviceType) -> Result<PciTransport, DeviceFault> {
    let function = DeviceFunction { bus: 0, device: slot.0, function: 0 };
    let mut root = PciRoot::new(Configuration);
    let map = Physical::machine().ok_or(DeviceFault::Misplaced)?;
    for bar in root.bars(function).map_err(|_| DeviceFault::Absent)?.into_iter().flatten() {
        let Some((start, bytes)) = bar.memory_address_size() else { continue };
        let end = start.checked_add(bytes).ok_or(DeviceFault::Misplaced)?;
        if !map.map().may_be_registers(&(start..end)) {
            return Err(DeviceFault::Misplaced);
        }
    }
    root.set_command(function, Command::MEMORY_SPACE | Command::BUS_MASTER | Command::INTERRUPT_DISABLE);
    let transport = PciTransport::new::<Layer, _>(&mut root, function).map_err(|_| DeviceFault::Absent)?;
    if transport.device_type() == kind { Ok(transport) } else { Err(DeviceFault::Absent) }
}

pub(crate) fn agree(transport: &mut PciTransport, features: u64) -> Result<(), DeviceFault> {
    let agreed = transport.begin_init(Features::from_bits_retain(features));
    let settled = transport.get_status().contains(DeviceStatus::FEATURES_OK);
    if agreed.bits() == features && settled { Ok(()) } else { Err(DeviceFault::Unfit) }
}

fn queue(transport: &mut PciTransport, number: u16) -> Result<VirtQueue<Layer, QUEUE>, DeviceFault> {
    let mut queue = VirtQueue::new(transport, number, false, false).map_err(|_| DeviceFault::Unfit)?;
    queue.set_dev_notify(false);
    Ok(queue)
}

/// Whether something came back from the device in time.
fn wait(queue: &VirtQueue<Layer, QUEUE>, deadline_ms: u64) -> bool {
    while !queue.can_pop() {
        if now_ms() >= deadline_ms {
            return queue.can_pop();
        }
        spin_loop();
    }
    true
}

/// The disk's queue.
pub struct DiskQueue {
    transport: PciTransport,
    queue: VirtQueue<Layer, QUEUE>,
    buffer: &'static mut DiskBuffer,
    /// The device holds the buffer for good.
    lost: bool,
}

impl core::fmt::Debug for DiskQueue {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "DiskQueue(lost: {})", self.lost)
    }
}

impl DiskQueue {
    /// Runs what lies in the buffer: `out` bytes of data to the device, or `into` bytes from it.
    fn run(&mut self, out: usize, into: usize, patience_ms: u64) -> Option<usize> {
        let DiskBuffer { header, data, status } = &mut *self.buffer;
        let (from, to) = if out > 0 { (&data[..out], &mut [][..]) } else { (&[][..], &mut data[..into]) };
        let inputs: [&[u8]; 2] = [header, from];
        let inputs = if out > 0 { &inputs[..] } else { &inputs[..1] };
        let mut outputs: [&mut [u8]; 2] = [to, status];
        let outputs = if into > 0 { &mut outputs[..] } else { &mut outputs[1..] };
        // SAFETY: the buffer is the device's until it is popped; if it never is, nothing here touches it again.
        let token = unsafe { self.queue.add(inputs, outputs) }.ok()?;
        self.transport.notify(DISK_REQUESTS);
        if !wait(&self.queue, now_ms().saturating_add(patience_ms)) {
            return None;
        }
        // SAFETY: the same slices as above.
        let written = unsafe { self.queue.pop_used(token, inputs, outputs) }.ok()?;
        usize::try_from(written).ok()
    }
}

impl Requests for DiskQueue {
    fn request(&mut self, out: [&[u8]; 2], into: [&mut [u8]; 2], patience_ms: u64) -> Result<usize, Lost> {
        let ([header, from], [data, status]) = (out, into);
        let fits = from.len().max(data.len()) <= REQUEST_BYTES_MAX && (from.is_empty() || data.is_empty());
        if self.lost || !fits || header.len() != self.buffer.header.len() {
            return Err(Lost);
        }
        self.buffer.header.copy_from_slice(header);
        self.buffer.data[..from.len()].copy_from_slice(from);
        self.buffer.status.copy_from_slice(status);
        let Some(written) = self.run(from.len(), data.len(), patience_ms) else {
            self.lost = true;
            return Err(Lost);
        };
        data.copy_from_slice(&self.buffer.data[..data.len()]);
        status.copy_from_slice(&self.buffer.status);
        Ok(written)
    }
}

/// The stream's queues.
pub struct Stream {
    transport: PciTransport,
    incoming: VirtQueue<Layer, QUEUE>,
    outgoing: VirtQueue<Layer, QUEUE>,
    buffer: &'static mut StreamBuffer,
    /// The receive buffer, while the device has it.
    posted: Option<u16>,
    /// What came and was not read yet.
    unread: core::ops::Range<usize>,
}

impl core::fmt::Debug for Stream {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Stream(unread: {:?})", self.unread)
    }
}

impl Stream {
    /// Waits until bytes came; false at the deadline.
    fn fill(&mut self, deadline_ms: u64) -> Result<bool, Broken> {
        let token = match self.posted {
            Some(token) => token,
            None => {
                // SAFETY: the buffer is the device's until it is popped.
                let added = unsafe { self.incoming.add(&[], &mut [&mut self.buffer.incoming]) };
                let token = added.map_err(|_| Broken)?;
                self.posted = Some(token);
                self.transport.notify(STREAM_IN);
                token
            }
        };
        if !wait(&self.incoming, deadline_ms) {
            return Ok(false);
        }
        // SAFETY: the same slice as was added.
        let popped = unsafe { self.incoming.pop_used(token, &[], &mut [&mut self.buffer.incoming]) };
        let came = popped.ok().and_then(|bytes| usize::try_from(bytes).ok()).ok_or(Broken)?;
        self.posted = None;
        self.unread = 0..came;
        if (1..=RECEIVE_BYTES).contains(&came) { Ok(true) } else { Err(Broken) }
    }
}

impl Wire for Stream {
    fn now_ms(&self) -> u64 {
        now_ms()
    }

    fn send(&mut self, bytes: &[u8], deadline_ms: u64) -> Result<(), Broken> {
        let outgoing = self.buffer.outgoing.get_mut(..bytes.len()).ok_or(Broken)?;
        outgoing.copy_from_slice(bytes);
        let outgoing: &[u8] = outgoing;
        // SAFETY: the buffer is the device's until it is popped; if it never is, the stream is over.
        let token = unsafe { self.outgoing.add(&[outgoing], &mut []) }.map_err(|_| Broken)?;
        self.transport.notify(STREAM_OUT);
        if !wait(&self.outgoing, deadline_ms) {
            return Err(Broken);
        }
        // SAFETY: the same slice as was added.
        unsafe { self.outgoing.pop_used(token, &[outgoing], &mut []) }.map(drop).map_err(|_| Broken)
    }

    fn receive(&mut self, into: &mut [u8], deadline_ms: u64) -> Result<usize, Broken> {
        if self.unread.is_empty() && !self.fill(deadline_ms)? {
            return Ok(0);
        }
        let taken = self.unread.len().min(into.len());
        into[..taken].copy_from_slice(&self.buffer.incoming[self.unread.start..self.unread.start + taken]);
        self.unread.start += taken;
        Ok(taken)
    }
}

/// The volume's disk; none where its slot is empty.
///
/// # Errors
/// [`DeviceFault`].
pub fn volume() -> Result<Option<VolumeDisk<DiskQueue>>, DeviceFault> {
    let mut transport = match open(VOLUME_SLOT, DeviceType::Block) {
        Ok(transport) => transport,
        Err(DeviceFault::Absent) => return Ok(None),
        Err(fault) => return Err(fault),
    };
    let buffer = claim(&DISK)?;
    let said = said(&mut transport)?;
    agree(&mut transport, said.accepted()?)?;
    let queue = queue(&mut transport, DISK_REQUESTS)?;
    transport.finish_init();
    Ok(Some(VolumeDisk::new(DiskQueue { transport, queue, buffer, lost: false }, said.geometry()?)))
}

fn said(transport: &mut PciTransport) -> Result<Said, DeviceFault> {
    let features = transport.read_device_features();
    let word = |offset| transport.read_config_space::<u32>(offset).map_err(|_| DeviceFault::Unfit);
    let exponent = transport.read_config_space::<u8>(24).map_err(|_| DeviceFault::Unfit)?;
    let sectors = u64::from(word(0)?) | u64::from(word(4)?) << 32;
    Ok(Said { features, sectors, block_bytes: word(20)?, physical_exponent: exponent })
}

/// The channel.
///
/// # Errors
/// [`DeviceFault`].
pub fn channel() -> Result<Post<Stream>, DeviceFault> {
    /// VIRTIO_F_VERSION_1 and nothing else: one port, no size.
    const VERSION_1: u64 = 1 << 32;
    let mut transport = open(CHANNEL_SLOT, DeviceType::Console)?;
    let buffer = claim(&STREAM)?;
    agree(&mut transport, VERSION_1)?;
    let incoming = queue(&mut transport, STREAM_IN)?;
    let outgoing = queue(&mut transport, STREAM_OUT)?;
    transport.finish_init();
    Ok(Post::new(Stream { transport, incoming, outgoing, buffer, posted: None, unread: 0..0 }))
}
