//! From the loader's first instruction to a machine that is the layer's.
//!
//! **What.** [`BootInfo`] is what the loader says, checked; `entry` the first instructions; `segments`, `exceptions` and `stacks` what
//! each processor needs to run Rust; [`Acpi`] what little is read from the machine's tables; `cpus` starts them all.
//! **Trust.** What was measured into the image. The loader's words and the machine's tables are allegations.
//! **Laws.** Every stack ends at a page that faults. Whatever interrupts a processor has a stack of its own. A processor that does
//! not come stops the boot: nothing runs on half a machine.
//! **Not here.** What the processors then do: `resident`.

mod acpi;
mod pvh;

#[cfg(target_os = "none")]
mod apic;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "processors are started through variables that assembly reads")]
pub mod cpus;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "the first instructions are assembly")]
mod entry;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "entered by the processor on an exception")]
mod exceptions;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "halts in assembly")]
mod rest;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "loads descriptor tables")]
pub mod segments;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "memory that stack pointers enter")]
pub mod stacks;

pub use acpi::{Acpi, HEADER_BYTES, Table};
#[cfg(target_os = "none")]
pub use apic::LocalApic;
#[cfg(target_os = "none")]
pub use exceptions::nmis;
pub use pvh::{BootError, BootInfo};
#[cfg(target_os = "none")]
pub use rest::{rest, rest_a_millisecond, wake};

/// How many processors a machine may have.
pub const CPUS_MAX: usize = 8;

/// Makes the boot processor able to fault loudly.
#[cfg(target_os = "none")]
pub(crate) fn settle_boot_processor() {
    segments::load(0);
    exceptions::load();
}
