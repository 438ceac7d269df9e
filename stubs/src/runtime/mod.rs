//! The C library of a machine that has none.
//!
//! **What.** Every symbol that libtpms and libcrypto leave undefined (`symbols.txt`), in one of three classes: *real* does what the C
//! standard or POSIX says, on one thread, without files or environment; *forwarded* asks the firmware; *trapped* says its own
//! name and stops the machine. `README.md` argues for each.
//! **Trust.** The library is measured code; its pointers are believed.
//! **Laws.** There is no fourth class: no clock, process number or randomness is made up. The heap has a ceiling, is
//! counted, and what is freed is overwritten.
//! **Not here.** Formatted output, which needs variable arguments: `c/format.c`. Randomness: `entropy.rs`.
//!
//! # Soundness
//! Functions have the C prototypes of POSIX.1-2008 and demand of pointers what those demand. One thread is in the library at
//! a time (`tpms.rs`), and it is the only caller. Under test the same functions have Rust names, since a host has a C library of
//! its own.

mod convert;
#[cfg(test)]
#[expect(clippy::undocumented_unsafe_blocks, reason = "the calls are what is tested")]
mod format;
mod heap;
mod memory;
mod process;
mod sort;
mod strings;
mod threads;
#[cfg(target_os = "none")]
mod traps;
mod world;

pub use heap::{Usage, usage};
pub use world::{World, install};

/// `errno` values of Linux, as libcrypto was compiled with them.
const ENOENT: i32 = 2;
const EBADF: i32 = 9;
const EAGAIN: i32 = 11;
const EINVAL: i32 = 22;
const ERANGE: i32 = 34;
