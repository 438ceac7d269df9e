//! Where the data of NV indices lie in libtpms' marshalled permanent state.
//!
//! The order was read from the library's marshalling code (libtpms 0.9, `NVMarshal.c`); all integers are big-endian. A state is
//! walked to its last byte: what a guest put into an index can look like anything, so nothing is searched for.

use super::objects;
use super::permall::{ALL, ORDERLY};
use super::walk::Walk;
use crate::bytes::Short;
use core::ops::Range;

/// DRBG_STATE_MAGIC.
const DRBG: (u32, Range<u16>) = (0x6FE8_3EA1, 2..3);
/// INDEX_ORDERLY_RAM_MAGIC.
const ORDERLY_RAM: (u32, Range<u16>) = (0x5346_FEAB, 2..3);
/// USER_NVRAM_MAGIC.
const USER: (u32, Range<u16>) = (0x094F_22C3, 2..3);
/// NV_INDEX_MAGIC.
const INDEX: (u32, Range<u16>) = (0x2547_265A, 2..3);

/// Handle types in the upper byte (TPM 2.0 part 2, "TPM_HT").
const TYPE_SHIFT: u32 = 24;
const NV_INDEX: u32 = 0x01;
const PERSISTENT: u32 = 0x81;
/// TPM_NT in TPMA_NV: zero is an ordinary index (TPM 2.0 part 2, "TPM_NT").
const INDEX_TYPE: u32 = 0xF0;
/// NV_RAM_HEADER: size, handle, attributes.
const RAM_HEADER_BYTES: u32 = 12;
/// Entries of a state whose arena has less than a megabyte.
const ENTRIES_MAX: u32 = 4096;
/// Policies and authorizations.
const TPM2B_BYTES_MAX: u16 = 64;

/// An index, as far as anybody asks.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) handle: u32,
    /// TPMA_NV.
    pub(super) attributes: u32,
    /// Where its data lie; of an orderly index nowhere, or in the memory that the library keeps them in.
    pub(super) data: Range<usize>,
    /// It is an orderly index in that memory.
    in_memory: bool,
}

/// Calls `found` with the handle of each ordinary index and where its data lie, in the order of the state. `from` is where
/// ORDERLY_DATA begins in `state`, which holds no saved volatile state.
pub(super) fn each_ordinary(
    state: &[u8],
    from: usize,
    found: &mut dyn FnMut(u32, Range<usize>),
) -> Result<(), Short> {
    each_index(state, from, &mut |index| {
        if !index.in_memory && index.attributes & INDEX_TYPE == 0 {
            found(index.handle, index.data);
        }
    })
}

/// As [`each_ordinary`], with every index, also those that are in the library's memory.
pub(super) fn each_index(state: &[u8], from: usize, found: &mut dyn FnMut(Index)) -> Result<(), Short> {
    let mut walk = Walk::begin(state, from)?;
    orderly_data(&mut walk)?;
    orderly_ram(&mut walk, found)?;
    walk.header(&USER)?;
    // The size of the library's own array.
    walk.skip(8)?;
    for _ in 0..ENTRIES_MAX {
        if walk.u32()? == 0 {
            return end(&mut walk);
        }
        let handle = walk.u32()?;
        match handle >> TYPE_SHIFT {
            NV_INDEX => {
                let attributes = index(&mut walk, handle)?;
                let bytes = walk.u32()?;
                let data = walk.skip(usize::try_from(bytes).map_err(|_| Short)?)?;
                found(Index { handle, attributes, data, in_memory: false });
            }
            PERSISTENT => objects::skip(&mut walk)?,
            _ => return Err(Short),
        }
    }
    Err(Short)
}

fn orderly_data(walk: &mut Walk<'_>) -> Result<(), Short> {
    walk.header(&ORDERLY)?;
    // clock, clockSafe
    walk.skip(8 + 1)?;
    walk.header(&DRBG)?;
    // reseedCounter, magic
    walk.skip(8 + 4)?;
    walk.sized(u16::MAX)?;
    let values = walk.u16()?;
    walk.skip(usize::from(values) * 4)?;
    // After the generator's: the timers', and its own.
    for _ in 0..3 {
        walk.block()?;
    }
    Ok(())
}

/// The orderly indices, which are in memory until a shutdown.
fn orderly_ram(walk: &mut Walk<'_>, found: &mut dyn FnMut(Index)) -> Result<(), Short> {
    walk.header(&ORDERLY_RAM)?;
    let (room, mut taken) = (walk.u32()?, 0_u32);
    while taken.checked_add(RAM_HEADER_BYTES).ok_or(Short)? <= room {
        if walk.u32()? == 0 {
            break;
        }
        let (handle, attributes) = (walk.u32()?, walk.u32()?);
        let data = walk.sized(u16::MAX)?;
        let bytes = u32::try_from(data.len()).map_err(|_| Short)?;
        found(Index { handle, attributes, data, in_memory: true });
        taken = taken.checked_add(RAM_HEADER_BYTES + bytes).ok_or(Short)?;
    }
    walk.block()
}

/// One index without its data: TPMS_NV_PUBLIC and its authorization. Returns its attributes.
fn index(walk: &mut Walk<'_>, handle: u32) -> Result<u32, Short> {
    walk.header(&INDEX)?;
    if walk.u32()? != handle {
        return Err(Short);
    }
    // nameAlg
    walk.skip(2)?;
    let attributes = walk.u32()?;
    walk.sized(TPM2B_BYTES_MAX)?;
    // dataSize
    walk.skip(2)?;
    walk.sized(TPM2B_BYTES_MAX)?;
    walk.block()?;
    Ok(attributes)
}

/// What follows the last entry.
fn end(walk: &mut Walk<'_>) -> Result<(), Short> {
    // maxCount
    walk.skip(8)?;
    walk.block()?;
    walk.block()?;
    if walk.u32()? == ALL.0 && walk.is_over() { Ok(()) } else { Err(Short) }
}
