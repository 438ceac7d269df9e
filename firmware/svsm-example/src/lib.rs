//! How an SVSM adopts Husk.
//!
//! **What.** [`glue`] is all that an SVSM writes: the component's seams over what its kernel has, one locked TPM, and a function for
//! each moment at which the kernel calls. [`kernel`] is the shape of such a kernel, as COCONUT-SVSM has it: a block driver, a stream
//! session, guest requests, a generator, a counter, a log, and copies of guest memory.
//! **Trust.** The kernel's own memory, generator and counter, and its driver of guest requests, which holds VMPCK0. Disk, stream and log are the
//! host's; registers and guest memory are the guest's.
//! **Laws.** `core` only: nothing is allocated. One lock around the TPM and its platform. Where no TPM came up, none answers.
//! **Not here.** Waking up for a call, the calling area, the core protocol, page validation: the SVSM's own.
#![no_std]

pub mod glue;
pub mod kernel;
