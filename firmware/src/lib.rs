//! The image: Husk on bare metal, above an unmodified guest.
//!
//! **What.** A resident layer on AMD SVM that stands in for VMPL 0 where there is no SEV-SNP: it keeps its memory, its disk and
//! its broker channel from the guest, runs a kernel below itself, and shows it a CRB TPM.
//! **Trust.** The processor, and what was measured into the image. Guest, devices and host are allegations.
//! **Laws.** What can be decided without hardware is pure and is tested on the host; what touches hardware is compiled for
//! bare metal only. No heap but the engine's arena.
//! **Not here.** The TPM itself: `husk`. How the image is started: `tools/launcher`.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod boot;
pub mod crb_private;
pub mod entropy;
pub mod fw_cfg;
pub mod guest;
pub mod guest_disk;
pub mod memory;
pub mod pci;
pub mod platform;
pub mod policy;
pub mod stopwatch;
pub mod svm;
pub mod variables;
pub mod virtio;
pub mod wishes;

#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "memory that is handed out once")]
pub mod arena;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "reads the processor's counter and a timer's port")]
pub mod clock;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "accesses the serial port")]
pub mod console;
#[expect(unsafe_code, reason = "a page that guests write at any instant")]
pub mod crb_device;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "entered by assembly")]
mod resident;
#[cfg(target_os = "none")]
mod self_test;
#[cfg(target_os = "none")]
mod serve;
#[cfg(target_os = "none")]
pub mod service;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "wipes the layer's memory and halts")]
pub mod stop;
