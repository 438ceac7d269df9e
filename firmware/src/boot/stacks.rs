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
/// Bytes of a processor's stack.
pub const STACK_BYTES: usize = 32 * 1024;
/// Bytes of the service processor's, which runs the engine and the component; `budget.toml` says how deep it may be.
pub const SERVICE_STACK_BYTES: usize = 192 * 1024;

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
pub(crate) const GUARDS: usize = 3 * CPUS_MAX + 1;

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

#[repr(C, align(4096))]
struct Service {
    guard: [u8; PAGE],
    main: [u8; SERVICE_STACK_BYTES],
}

struct ServiceStack(UnsafeCell<Service>);
// SAFETY: as above.
unsafe impl Sync for ServiceStack {}

#[unsafe(link_section = ".bss.husk_secrets.service_stack")]
static SERVICE: ServiceStack =
    ServiceStack(UnsafeCell::new(Service { guard: [0; PAGE], main: [0; SERVICE_STACK_BYTES] }));

/// Where the stacks of processor `cpu` begin in memory.
fn element(cpu: usize) -> u64 {
    STACKS.0.get() as u64 + (cpu * size_of::<Stacks>()) as u64
}

/// The top of a processor's own stack.
pub(super) fn main_top(cpu: usize) -> u64 {
    element(cpu) + STACK_TOP as u64
}

/// The top of the stack of the processor that serves, which it has in place of its own.
pub(super) fn service_top() -> u64 {
    SERVICE.0.get() as u64 + size_of::<Service>() as u64
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
    core::array::from_fn(|index| match index / 3 {
        CPUS_MAX => SERVICE.0.get() as u64,
        cpu => element(cpu) + offsets[index % 3] as u64,
    })
}

/// How deep the boot processor's stack has ever been, in bytes.
#[must_use]
pub fn boot_high_water_bytes() -> usize {
    high_water_bytes(element(0) + PAGE_BYTES, STACK_BYTES)
}

/// How deep the service processor's stack has ever been, in bytes.
#[must_use]
pub fn service_high_water_bytes() -> usize {
    high_water_bytes(SERVICE.0.get() as u64 + PAGE_BYTES, SERVICE_STACK_BYTES)
}

/// What was never used is still zero.
fn high_water_bytes(bottom: u64, bytes: usize) -> usize {
    let untouched = (0..bytes / 8).take_while(|word| {
        let at: *const u64 = ptr::with_exposed_provenance(native(bottom) + word * 8);
        // SAFETY: within a stack.
        unsafe { at.read_volatile() == 0 }
    });
    bytes - untouched.count() * 8
}
