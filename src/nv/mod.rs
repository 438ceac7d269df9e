//! The TPM's memory: the image in RAM and what makes it durable.
//!
//! **What.** [`NvImage`] holds the durable bytes twice: as last committed and as the engine left them. [`NvStore`]
//! makes the second durable and yields [`Committed`], without which no response leaves. [`order`] says what comes after what. The state
//! also names the blocks of a guest's flash, which the volume keeps beside it.
//! **Trust.** The engine's marks; the volume's and the anchor's proofs.
//! **Laws.** A response leaves only against a [`Committed`] of its version or later. An image that could not be
//! committed is never served from.
//! **Not here.** How bytes reach the disk (`volume`), who remembers the newest (`release`).

mod blocks;
mod envelope;
mod fault;
mod image;
pub mod order;
mod response;
mod store;

pub use crate::volume::STATE_BYTES_MAX;
pub use blocks::{BlockSet, Placed, blocks_of};
pub use envelope::{Envelope, OPEN_ATTEMPTS_MAX};
pub use fault::NvFault;
pub use image::NvImage;
pub use response::Response;
pub use store::{Committed, Keys, Newest, NvStore};
