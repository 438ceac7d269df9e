//! The SVM layer: a guest runs below, the TPM's memory stays above.
//!
//! **What.** [`vmcb`] is the processor's control block, [`npt`] what the guest sees of memory, [`ports`], [`msr`] and
//! [`cpuid`] what it may say to the processor and the machine. [`walk`], [`decode`] and [`emulate`] turn a guest's access to a
//! page that it does not have into one value on a [`emulate::Bus`]. [`apic`] and [`vcpu`] start, stop and interrupt
//! virtual processors.
//! **Trust.** None in the guest: its registers, its page tables and its instructions are allegations, and may change while they
//! are read.
//! **Laws.** The layer's memory is in no guest's map. What is hidden behaves like a hole: reads are ones, writes are
//! dropped, both are counted. Nothing a guest does stops the layer, and no guest access waits for a TPM command; only a call (`gate`) does, and an access to the flash that would tell of what is not durable yet. Who polls its disk waits for that.
//! **Not here.** The TPM's registers (`crb_device`, over `husk::frontend::crb`), PCI (`pci`), what a guest boots from.

pub mod apic;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "sets bits of a guest's page tables")]
mod bus;
#[cfg(target_os = "none")]
mod calls;
pub mod counters;
pub mod cpuid;
pub mod decode;
#[cfg(target_os = "none")]
mod disk;
pub mod emulate;
#[cfg(target_os = "none")]
mod flash;
pub mod gate;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "the instructions of SVM, ports and MSRs")]
mod hardware;
#[cfg(target_os = "none")]
mod local_apic;
#[cfg(target_os = "none")]
mod machine;
pub mod msr;
pub mod npt;
pub mod ports;
#[cfg(target_os = "none")]
mod processors;
#[cfg(target_os = "none")]
mod run;
pub mod start;
pub mod vcpu;
pub mod vmcb;
pub mod walk;

#[cfg(target_os = "none")]
pub use calls::{Call, GuestRam};
#[cfg(target_os = "none")]
pub use flash::show_variables;
#[cfg(target_os = "none")]
pub use machine::{Plan, prepare};
#[cfg(target_os = "none")]
pub use processors::{Request, begin, request, shut_down};
#[cfg(target_os = "none")]
pub use run::run;
