//! Copying between private memory and the guest's, a page at a time.

use super::ResultCode;
use crate::seams::GuestMemory;

/// Size of a page in bytes.
pub(super) const PAGE_BYTES: u64 = 4096;

/// Whether `address` is a multiple of `alignment`, a power of two.
pub(super) const fn is_aligned(address: u64, alignment: u64) -> bool {
    address & (alignment - 1) == 0
}

/// Whether all `bytes` at `address` lie in one page.
pub(super) const fn is_in_one_page(address: u64, bytes: u64) -> bool {
    address % PAGE_BYTES + bytes <= PAGE_BYTES
}

/// Copies guest bytes into private memory.
pub(super) fn copy_in(guest: &mut dyn GuestMemory, address: u64, into: &mut [u8]) -> Result<(), ResultCode> {
    let mut rest = into;
    for (at, bytes) in pieces(address, rest.len())? {
        let (piece, after) = rest.split_at_mut_checked(bytes).ok_or(ResultCode::InvalidAddress)?;
        guest.copy_in(at, piece).map_err(|_| ResultCode::InvalidAddress)?;
        rest = after;
    }
    Ok(())
}

/// Copies private bytes to the guest.
pub(super) fn copy_out(guest: &mut dyn GuestMemory, address: u64, from: &[u8]) -> Result<(), ResultCode> {
    let mut rest = from;
    for (at, bytes) in pieces(address, rest.len())? {
        let (piece, after) = rest.split_at_checked(bytes).ok_or(ResultCode::InvalidAddress)?;
        guest.copy_out(at, piece).map_err(|_| ResultCode::InvalidAddress)?;
        rest = after;
    }
    Ok(())
}

/// Where each page's piece of `bytes` bytes at `address` begins, and its length; refused where it would wrap around.
fn pieces(address: u64, bytes: usize) -> Result<impl Iterator<Item = (u64, usize)>, ResultCode> {
    let wide = u64::try_from(bytes).map_err(|_| ResultCode::InvalidAddress)?;
    let end = address.checked_add(wide).ok_or(ResultCode::InvalidAddress)?;
    let mut at = address;
    Ok(core::iter::from_fn(move || {
        let here = (PAGE_BYTES - at % PAGE_BYTES).min(end - at);
        let piece = (at, usize::try_from(here).ok().filter(|bytes| *bytes > 0)?);
        at += here;
        Some(piece)
    }))
}

#[cfg(test)]
mod tests {
    use super::{ResultCode, is_in_one_page, pieces};

    extern crate std;
    use std::vec::Vec;

    #[test]
    fn a_copy_is_cut_at_page_boundaries_and_never_wraps_around() {
        let cut = |address, bytes| pieces(address, bytes).map(Iterator::collect::<Vec<_>>);
        assert_eq!(cut(0xFFD, 10), Ok([(0xFFD, 3), (0x1000, 7)].into()));
        assert_eq!(cut(0x1000, 0x2000), Ok([(0x1000, 0x1000), (0x2000, 0x1000)].into()));
        assert_eq!(cut(7, 0), Ok(Vec::new()));
        assert_eq!(cut(u64::MAX - 3, 4).map(drop), Err(ResultCode::InvalidAddress));
        assert!(is_in_one_page(0xFC0, 64) && !is_in_one_page(0xFC1, 64));
        assert!(is_in_one_page(u64::MAX - 63, 64));
    }
}
