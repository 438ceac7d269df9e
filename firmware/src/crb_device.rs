//! The TPM's registers on this machine: guests' accesses on one side, the processor that serves on the other.
//!
//! A guest's access takes the lock for as long as the state machine takes a step, never for as long as a command runs: the
//! processor that serves takes a command's bytes under the lock, executes without it, and comes back with the response.
//!
//! # Soundness
//! `BUFFER` is the page that guests read and write without exits, at any instant: no Rust reference to its bytes is made, and all
//! accesses are volatile and of bytes. `Device` holds a reference to a type that has no state of its own; the lock gives it to one
//! processor at a time.

use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};
use husk::engine::{COMMAND_BYTES_MAX, Locality};
use husk::frontend::crb::{Access, Buffer, Effect, Identity, Layout, Localities, Trapped, Width, Work};
use husk::frontend::{FrontendFault, Tpm};
use husk::seams::GuestPage;
use spin::{Mutex, MutexGuard, Once};

/// Where the registers are: the address that the PTP gives a TPM, which OVMF and drivers expect.
pub const BASE: u64 = 0xFED4_0000;
/// PCI's number of the Linux Foundation's virtual hardware: there is no vendor of its own.
const IDENTITY: Identity = Identity { vendor: 0x1AF4, device: 0x0001, revision: 1 };

#[repr(C, align(4096))]
struct Page(UnsafeCell<[u8; COMMAND_BYTES_MAX]>);
// SAFETY: all accesses are volatile, see the essay.
unsafe impl Sync for Page {}

static BUFFER: Page = Page(UnsafeCell::new([0; COMMAND_BYTES_MAX]));
#[unsafe(link_section = ".bss.husk_secrets.crb")]
static WORK: Mutex<Work> = Mutex::new(Work::EMPTY);
static WINDOW: Mutex<BufferPage> = Mutex::new(BufferPage);
static DEVICE: Mutex<Option<Device>> = Mutex::new(None);
/// There is a command: looked at without the lock.
static WAITS: AtomicBool = AtomicBool::new(false);
static CANCELLER: Once<fn()> = Once::new();

struct Device {
    crb: Trapped<'static>,
    pending: Option<Locality>,
}
// SAFETY: what makes it not Send is the buffer's trait object, whose type has no state.
unsafe impl Send for Device {}

/// Size of the registers' page and the buffer's in bytes.
pub const WINDOW_BYTES: u64 = 0x2000;

/// The layout of the registers at `base`: locality 0, the buffer on the page behind them.
///
/// # Errors
/// [`FrontendFault::LayoutRefused`] for an address that is none of a page below 4 GiB.
pub fn layout(base: u64) -> Result<Layout, FrontendFault> {
    Layout::new(base, Localities::Zero, Buffer::OwnPage, IDENTITY)
}

/// The physical address of the page that guests find behind the registers.
#[must_use]
pub fn buffer_address() -> u64 {
    BUFFER.0.get() as u64
}

/// Puts the interface into its state after power-on, and empties the buffer. The first time it makes it.
///
/// # Errors
/// As [`layout`].
pub fn reset(tpm: &mut dyn Tpm) -> Result<(), FrontendFault> {
    let mut device = DEVICE.lock();
    if device.is_none()
        && let (Some(work), Some(window)) = (WORK.try_lock(), WINDOW.try_lock())
    {
        let window: &'static mut BufferPage = MutexGuard::leak(window);
        let crb = Trapped::new(layout(BASE)?, MutexGuard::leak(work), window);
        *device = Some(Device { crb, pending: None });
    }
    if let Some(device) = device.as_mut() {
        device.crb.reset(tpm);
        device.pending = None;
    }
    WAITS.store(false, Ordering::Release);
    BufferPage.copy_out(0, &[0; COMMAND_BYTES_MAX]);
    Ok(())
}

/// What a guest reads at `offset` of the registers' page, in the low bytes.
#[must_use]
pub fn read(offset: usize, width: Width) -> u64 {
    DEVICE.lock().as_ref().map_or(u64::MAX, |device| device.crb.mmio_read(Access { offset, width }))
}

/// What a guest writes there.
pub fn write(offset: usize, width: Width, value: u64) {
    if let Some(device) = DEVICE.lock().as_mut() {
        let effect = device.crb.mmio_write(Access { offset, width }, value);
        device.follow(effect);
    }
}

/// Takes the command that waits, if one does: copies it into `into` and says from which locality it came and how long it is.
#[must_use]
pub fn next_command(into: &mut [u8; COMMAND_BYTES_MAX]) -> Option<(Locality, usize)> {
    if !WAITS.load(Ordering::Acquire) {
        return None;
    }
    let mut device = DEVICE.lock();
    let device = device.as_mut()?;
    WAITS.store(false, Ordering::Release);
    let locality = device.pending.take()?;
    let command = device.crb.take_command();
    let into = into.get_mut(..command.len())?;
    into.copy_from_slice(command);
    Some((locality, command.len()))
}

/// Shows the response to the command that was taken.
pub fn finish(response: &[u8], tpm: &mut dyn Tpm) {
    if let Some(device) = DEVICE.lock().as_mut() {
        device.crb.finish(response, tpm);
    }
}

/// Ends the command that runs early, if it can be: called on a guest's processor.
pub fn cancel() {
    if let Some(canceller) = CANCELLER.get() {
        canceller();
    }
}

/// Says how a running command is cancelled: called on a guest's processor, so without SSE and without waiting.
pub fn set_canceller(canceller: fn()) {
    CANCELLER.call_once(|| canceller);
}

impl Device {
    fn follow(&mut self, effect: Effect) {
        match effect {
            Effect::None | Effect::Accept => {}
            Effect::Execute(locality) => {
                self.pending = Some(locality);
                WAITS.store(true, Ordering::Release);
                #[cfg(target_os = "none")]
                crate::boot::wake();
            }
            Effect::Cancel => cancel(),
            Effect::AnswerCancelled(_) => self.crb.answer_cancelled(),
            // Only localities that this layout does not have may do that.
            Effect::ResetEstablished(_) => {}
        }
    }
}

/// The guest's page, by copies.
#[derive(Clone, Copy, Debug)]
pub struct BufferPage;

impl BufferPage {
    fn bytes(offset: usize, count: usize) -> impl Iterator<Item = *mut u8> {
        let end = offset.saturating_add(count).min(COMMAND_BYTES_MAX);
        let start: *mut u8 = BUFFER.0.get().cast();
        (offset..end).map(move |at| start.wrapping_add(at))
    }
}

impl GuestPage for BufferPage {
    fn size_bytes(&self) -> usize {
        COMMAND_BYTES_MAX
    }

    fn load(&self, offset: usize) -> u32 {
        let mut word = [0; 4];
        self.copy_in(offset, &mut word);
        u32::from_le_bytes(word)
    }

    fn store(&mut self, offset: usize, value: u32) {
        self.copy_out(offset, &value.to_le_bytes());
    }

    fn copy_in(&self, offset: usize, into: &mut [u8]) {
        for (byte, from) in into.iter_mut().zip(Self::bytes(offset, COMMAND_BYTES_MAX)) {
            // SAFETY: within the page, by `bytes`.
            *byte = unsafe { ptr::read_volatile(from) };
        }
    }

    fn copy_out(&mut self, offset: usize, from: &[u8]) {
        for (byte, to) in from.iter().zip(Self::bytes(offset, COMMAND_BYTES_MAX)) {
            // SAFETY: within the page, by `bytes`.
            unsafe { ptr::write_volatile(to, *byte) };
        }
    }
}
