//! The component as a host process: shared-page CRB and swtpm-compatible sockets.
//!
//! **What.** A [`machine::Machine`] (a TPM that can be switched on and off) served in two ways at once: over sockets that
//! speak swtpm's protocol ([`server`]), and on a page of a guest's RAM that a polling thread watches ([`shared`]).
//! [`platform`] is what a Linux host supplies to the component's seams. [`cli`] is the command line of all that.
//! **Trust.** Whoever may open the sockets or the memory file is the guest. The host that runs this process sees all of
//! its memory: this is the component for development and tests, and for hosts that are trusted.
//! **Laws.** One command at a time. Every input has a bound. A client that goes away harms nobody. SIGTERM is an orderly
//! end: the running command finishes, the machine is shut down, the sockets vanish.
//! [`component`] is the machine that matters, [`daemon`] the command `husk vtpmd`, [`prepare`] what `husk vm prepare` makes.
//! **Not here.** The broker, the relay and the processor: commands of their own.

pub mod cli;
pub mod component;
pub mod daemon;
mod footing;
pub mod machine;
pub mod platform;
pub mod prepare;
pub mod server;
mod serving;
pub mod shared;
mod swtpm;
#[expect(unsafe_code, reason = "calls of the kernel that the standard library does not have; see its essay")]
mod sys;

pub use serving::Serving;
