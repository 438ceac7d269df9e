//! The C side of Husk's reference engine: libtpms behind a safe door.
//!
//! **What.** [`Tpms`] is the one TPM that libtpms can be in an address space, with a method for each library call
//! that Husk makes. What the library asks back (state, locality, entropy) it asks of the [`Host`] that is lent for
//! that call. Two platform functions of the library are replaced at link time: its entropy (`entropy.rs`) and its
//! way to die (`guard.rs`). [`digest`] is libcrypto's hashes.
//! **Trust.** The library is measured code. What it hands to the host (a length, a pointer) is believed; the bytes of a
//! state that it is given were authenticated before.
//! **Laws.** Nobody but the holder of [`Tpms`] enters the library, one call at a time. Randomness comes from the
//! host of the running call or not at all; there is no second source.
//! **Not here.** What a state means, when to power on, what a failure leads to: `husk::engine::reference`.
#![no_std]

#[cfg(test)]
extern crate std;

#[expect(unsafe_code, reason = "callbacks from C find their host through a raw pointer")]
mod callbacks;
#[expect(unsafe_code, reason = "calls C functions with pointers to its own memory")]
pub mod digest;
#[expect(unsafe_code, reason = "symbols that C code calls for randomness")]
mod entropy;
#[expect(unsafe_code, reason = "declarations of C functions")]
mod extern_c;
#[expect(unsafe_code, reason = "leaves a C call that gave up, as longjmp does")]
mod guard;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "corrects a word of libcrypto's")]
mod processor;
#[cfg(any(target_os = "none", test))]
#[expect(unsafe_code, reason = "functions that C code calls in place of a C library")]
#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "on a host it is only tested"))]
pub mod runtime;
#[expect(unsafe_code, reason = "runs on another stack")]
mod stack;
#[expect(unsafe_code, reason = "calls C functions with pointers to its arguments")]
mod tpms;

pub use callbacks::{Blob, Host};
pub use stack::{STACK_BYTES_MIN, Stack, StackUsage};
pub use tpms::{BUFFER_BYTES, Canceller, Failure, Tpms, Version};
