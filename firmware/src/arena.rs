//! The engine's heap, the component's memory, and that of the guest's description: set aside in the image, handed out once, wiped at the end.
//!
//! # Soundness
//! Each piece is a static that only [`Reserve::take`] makes a reference to, once. `stop` overwrites them when nobody runs
//! any more.

use crate::guest::start::Description;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};
use husk::frontend::crb::Work;
use husk::frontend::svsm::CallMemory;
use husk::vtpm::{Memory, Storage};

/// The ceiling of the engine's heap, in bytes: what does not fit is refused, and the command fails.
pub const ARENA_BYTES: usize = 1024 * 1024;

/// Memory that is handed out once.
struct Reserve<T> {
    taken: AtomicBool,
    memory: UnsafeCell<T>,
}
// SAFETY: one caller ever gets the reference.
unsafe impl<T: Send> Sync for Reserve<T> {}

impl<T> Reserve<T> {
    const fn new(memory: T) -> Self {
        Self { taken: AtomicBool::new(false), memory: UnsafeCell::new(memory) }
    }

    #[expect(clippy::mut_from_ref, reason = "given out once, which the flag sees to")]
    fn take(&'static self) -> Option<&'static mut T> {
        let first = !self.taken.swap(true, Ordering::AcqRel);
        // SAFETY: no other call came here, and nothing else refers to the memory.
        first.then(|| unsafe { &mut *self.memory.get() })
    }
}

#[unsafe(link_section = ".bss.husk_secrets.arena")]
static ARENA: Reserve<[u8; ARENA_BYTES]> = Reserve::new([0; ARENA_BYTES]);
#[unsafe(link_section = ".bss.husk_secrets.storage")]
static STORAGE: Reserve<Storage> = Reserve::new(Storage::new());
#[unsafe(link_section = ".bss.husk_secrets.calls")]
static CALLS: Reserve<CallMemory> = Reserve::new(CallMemory::EMPTY);
static DESCRIPTION: Reserve<Description> = Reserve::new(Description::empty());

#[unsafe(link_section = ".bss.husk_secrets.crb")]
static CRB: Reserve<Work> = Reserve::new(Work::EMPTY);

/// The memory of a CRB in the guest's memory, once.
#[must_use]
pub fn crb_work() -> Option<&'static mut Work> {
    CRB.take()
}

/// The memory of SVSM calls, once.
#[must_use]
pub fn call_memory() -> Option<&'static mut CallMemory> {
    CALLS.take()
}

/// The engine's heap, once.
#[must_use]
pub fn engine_heap() -> Option<&'static mut [u8]> {
    ARENA.take().map(<[u8; ARENA_BYTES]>::as_mut_slice)
}

/// The component's memory, once.
#[must_use]
pub fn component() -> Option<Memory<'static>> {
    STORAGE.take().map(Storage::lend)
}

/// The memory of the guest's description, once.
#[must_use]
pub fn description() -> Option<&'static mut Description> {
    DESCRIPTION.take()
}
