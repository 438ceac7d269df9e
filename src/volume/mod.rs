//! Sealed records on a disk that an enemy owns.
//!
//! **What.** [`Volume`] keeps one state, its newest, as a checkpoint and a log of changes in one of two areas of a disk.
//! `format.md` beside this file is normative and argues every rule.
//! **Trust.** The key, and the head that the anchor remembers. Nothing on the disk.
//! **Laws.** A state opens at the anchored head, or as many commits behind it as the caller takes, or not at all. Nothing at or before the head is ever overwritten. Between
//! [`Flushed`] and its settling against [`Anchored`](crate::release::Anchored) there is nothing to write with. Opening writes
//! nothing; nothing is repaired or re-created.
//! [`blocks`] keeps what is too large for a state, a guest's flash, under keys that the state holds. [`backup`] seals a state in parts for the tenant's recovery key, [`suspend`] what the host keeps of a TPM that sleeps, at the volume's head.
//! **Not here.** What the state means (`nv`, `engine`); who remembers the head (`release`).

pub mod backup;
pub mod blocks;
mod commit;
pub mod delta;
mod fault;
pub mod layout;
mod open;
mod probe;
mod replay;
pub mod seal;
pub mod suspend;
mod window;
mod workspace;

pub use commit::{Flushed, Stamp, Volume, Written};
pub use fault::VolumeFault;
pub use layout::STATE_BYTES_MAX;
pub use open::{
    HwSealedDisk, NewestHead, Opened, newest_hw_sealed_head, newest_unsealed_head, spend_permits,
};
pub use window::{Wanted, within};
pub use workspace::Workspace;
