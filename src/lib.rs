//! A TPM 2.0 for confidential VMs whose memory survives power-off, and which the host that stores that
//! memory can neither read, alter, roll back nor clone.
//!
//! **What.** The component that an SVSM links: guest bytes enter at [`frontend`], run through [`engine`],
//! become NV changes in [`nv`], sealed records in [`volume`] under keys from [`keys`], which [`release`]
//! earns from a broker by a report that [`attest`] binds, over the [`seams`] that the firmware implements.
//!
//! **Trust.** The processor and the measured firmware. Nothing that the host, the guest or the network says.
//!
//! **Laws.** A box imports only boxes that lie to its right in
//! `frontend → engine → nv → volume → keys → release → attest → seams → {secret, bytes, fault}`;
//! only [`vtpm`] names them all. `core` only: no allocation, no clock, no entropy but the seams'.
//!
//! **Not here.** The broker, the tools and the bootable image: see `tools/` and `firmware/`.
#![no_std]

pub mod attest;
pub mod bytes;
pub mod engine;
pub mod fault;
pub mod frontend;
pub mod keys;
pub mod manual;
pub mod nv;
pub mod release;
pub mod seams;
pub mod secret;
pub mod volume;
pub mod vtpm;
