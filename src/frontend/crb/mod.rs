//! The Command Response Buffer interface (TCG PC Client Platform TPM Profile 1.05 and 1.06, section "CRB Interface").
//!
//! **What.** [`step`] is the whole interface as one total function of state and event. [`registers`] says which bytes
//! show a state and which writes are events. Two drivers feed it: [`Trapped`] where each access to the register page
//! exits to us, [`Shared`] where the registers are plain memory that a guest writes whenever it likes.
//! **Trust.** None: accesses come in any order, width and alignment, from any locality.
//! **Laws.** Geometry (addresses, sizes) is what [`Layout`] says, never what a guest wrote. The command is copied
//! once, header first, and its size field is clamped to the buffer. Only the active locality moves the interface. A
//! response is shown only to the locality that asked.
//! **Not here.** Interrupts: INT_ENABLE reads zero and polling is how every driver waits. The hash registers of
//! locality 4: they are for hardware that a guest cannot reach, and the firmware that stands for it calls
//! [`Tpm::hash_start`](super::Tpm::hash_start) itself; so no guest can forge a dynamic launch.

mod exchange;
pub mod handover;
pub mod registers;
mod shared;
mod state;
mod trapped;

pub use exchange::Work;
pub use registers::{Buffer, Identity, Layout, Localities};
pub use shared::Shared;
pub use state::{Effect, Event, LocalitySet, Phase, State, step};
pub use trapped::{Access, PrivateWindow, Trapped, Width};
