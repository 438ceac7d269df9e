//! The machine's memory: which of it is the layer's, how the rest is reached.
//!
//! **What.** [`Map`] is the checked memory map, `tables` the layer's page tables, `Physical` the one way to bytes that
//! are not the layer's, `Registers` the one way to a device's.
//! **Trust.** None in the map, which the loader alleges, nor in any byte that is reached: guest and devices may write it at
//! any instant.
//! **Laws.** Foreign memory is copied by volatile accesses; no Rust reference to it ever exists. Nothing that touches the
//! layer's region is copied for anybody.
//! **Not here.** What the bytes mean.

mod map;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "copies physical memory, loads page tables, accesses registers of devices")]
mod physical;
pub mod tables;

pub use map::{
    ADDRESS_MAX, ENTRIES_MAX, FOUR_GIB, Kind, LAYER, Map, MapError, SECRETS_PAGE, Stretch, overlap,
};
#[cfg(target_os = "none")]
pub use physical::{Early, Physical, Registers, address_of_tables, install, take_secrets_page};

/// These addresses are not there, not known, or not for the asker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfReach;

/// An address or a length as this processor has it in a register.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the layer is built for processors of 64 bits only")]
pub const fn native(value: u64) -> usize {
    const { assert!(usize::BITS == 64) };
    value as usize
}

/// Memory that is copied in and out by physical address.
pub trait Reach {
    /// Fills `into` from `address`.
    ///
    /// # Errors
    /// [`OutOfReach`]; nothing was copied then.
    fn copy_in(&self, address: u64, into: &mut [u8]) -> Result<(), OutOfReach>;

    /// Writes `from` to `address`.
    ///
    /// # Errors
    /// [`OutOfReach`]; nothing was copied then.
    fn copy_out(&mut self, address: u64, from: &[u8]) -> Result<(), OutOfReach>;

    /// Copies `bytes` bytes from address `from` to address `to`; where the two overlap, what arrives is any of what was there.
    ///
    /// # Errors
    /// [`OutOfReach`]; nothing was copied then.
    fn carry(&mut self, from: u64, to: u64, bytes: u64) -> Result<(), OutOfReach>;
}
