//! Starting a guest: what the host brought is parsed, placed, measured and entered; again on each reboot.
//!
//! **What.** [`payload`] is the blob with kernel, initrd, command line and launch configuration; [`bzimage`] what a kernel says
//! of itself; [`map`] and [`place`] where everything lies; [`boot_params`] the page that Linux is handed; [`acpi`] the tables;
//! [`uefi`] what a guest's own firmware is handed instead; [`files`], [`measure`] and [`log`] what goes into which PCR and how the guest learns of it; [`banks`] which banks a new TPM has.
//! **Trust.** None: payload, memory map and ACPI tables are the host's. What protects a guest from another kernel than its own is
//! that every byte of it is in the PCRs before it runs.
//! **Laws.** The payload stays out of the guest's reach for as long as the machine runs, and every start copies from it: a guest
//! that reboots finds what the host brought, never what it left itself. Nothing runs before it was measured.
//! **Not here.** Nested page tables and processors: `svm`. The TPM's own boot: `service`.

pub mod acpi;
pub mod banks;
pub mod boot_params;
pub mod bzimage;
#[cfg(test)]
pub(crate) mod fakes;
mod fault;
pub mod files;
pub mod log;
pub mod map;
pub mod measure;
pub mod payload;
pub mod place;
pub mod start;
pub mod uefi;

pub use fault::GuestFault;

use crate::memory::OutOfReach;

impl From<OutOfReach> for GuestFault {
    fn from(_: OutOfReach) -> Self {
        Self::OutOfRange
    }
}

/// How much is copied at a time, in bytes.
const CHUNK_BYTES: usize = 4096;

/// The front of `chunk`, not longer than `left`.
fn piece(chunk: &mut [u8; CHUNK_BYTES], left: u64) -> &mut [u8] {
    let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
    &mut chunk[..bytes]
}
