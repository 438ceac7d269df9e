//! Every processor's stacks, each above a page that faults.
//!
//! # Soundness
//! [`STACKS`] is memory that only stack pointers enter: Rust never makes a reference to it. Each processor has its own
//! element, handed out once by its number. The high-water mark is read through volatile reads of bytes that a running
//! processor may change; any value is a valid answer.

use super::CPUS_MAX;
use crate::memory::native;
use crate::memory::tables::PAGE_BYTES;
use core::cell::UnsafeCell;
use core::ptr;

const PAGE: usize = native(PAGE_BYTES);
/// Bytes of a processor's stack. The service processor runs the engine and the component on it: its high-water mark is
/// in `budget.toml`.
pub const STACK_BYTES: usize = 96 * 1024;

#[repr(C, align(4096))]
pub(super) struct Stacks {
    guard: [u8; PAGE],
    main: [u8; STACK_BYTES],
    fault_guard: [u8; PAGE],
    fault: [u8; PAGE],
    interrupt_guard: [u8; PAGE],
    interrupt: [u8; PAGE],
}

/// Where a processor's own stack begins, in bytes from its element.
pub(super) const STACK_TOP: usize = PAGE + STACK_BYTES;
const FAULT_TOP: usize = core::mem::offset_of!(Stacks, fault) + PAGE;
const INTERRUPT_TOP: usize = core::mem::offset_of!(Stacks, interrupt) + PAGE;
/// How many guard pages all stacks together have.
pub(crate) const GUARDS: usize = 3 * CPUS_MAX;

pub(super) struct AllStacks(UnsafeCell<[Stacks; CPUS_MAX]>);
// SAFETY: nothing makes references to the bytes; see the essay above.
unsafe impl Sync for AllStacks {}

const EMPTY: Stacks = Stacks {
    guard: [0; PAGE],
    main: [0; STACK_BYTES],
    fault_guard: [0; PAGE],
    fault: [0; PAGE],
    interrupt_guard: [0; PAGE],
    interrupt: [0; PAGE],
};

#[unsafe(link_section = ".bss.husk_secrets.stacks")]
pub(super) static STACKS: AllStacks = AllStacks(UnsafeCell::new([EMPTY; CPUS_MAX]));

/// Where the stacks of processor `cpu` begin in memory.
fn element(cpu: usize) -> u64 {
    STACKS.0.get() as u64 + (cpu * size_of::<Stacks>()) as u64
}

/// The top of a processor's own stack.
pub(super) fn main_top(cpu: usize) -> u64 {
    element(cpu) + STACK_TOP as u64
}

/// The top of the stack on which a processor handles faults.
pub(super) fn fault_top(cpu: usize) -> u64 {
    element(cpu) + FAULT_TOP as u64
}

/// The top of the stack on which a processor handles what interrupts it.
pub(super) fn interrupt_top(cpu: usize) -> u64 {
    element(cpu) + INTERRUPT_TOP as u64
}

/// The pages that must not be mapped.
pub(crate) fn guards() -> [u64; GUARDS] {
    let offsets =
        [0, core::mem::offset_of!(Stacks, fault_guard), core::mem::offset_of!(Stacks, interrupt_guard)];
    core::array::from_fn(|index| element(index / 3) + offsets[index % 3] as u64)
}

/// How deep the stack of processor `cpu` has ever been, in bytes: what was never used is still zero.
#[must_use]
pub fn high_water_bytes(cpu: usize) -> usize {
    let bottom = native(element(cpu) + PAGE_BYTES);
    let untouched = (0..STACK_BYTES / 8).take_while(|word| {
        let at: *const u64 = ptr::with_exposed_provenance(bottom + word * 8);
        // SAFETY: within the stack of an existing processor.
        unsafe { at.read_volatile() == 0 }
    });
    STACK_BYTES - untouched.count() * 8
}
