//! Blocks of a guest's flash, behind the areas (`format.md` §14).
//!
//! The state names each block by an [`Entry`]: where it lies, and the key and tag of that very write. So a block is as fresh as the state.

use super::VolumeFault;
use super::layout::{TAG_BYTES, VOLUME_BYTES_MAX};
use super::seal::{open_once, seal_once};
use crate::keys::{BLOCK_KEY_BYTES, BlockKey};
use crate::seams::{Disk, Platform};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use zeroize::{Zeroize, Zeroizing};

/// Size of a block in bytes: what EDK II erases at once (`PcdOvmfFirmwareBlockSize`), and the largest unit of a disk.
pub const BLOCK_BYTES: usize = 4096;
/// The most blocks of a flash: the 528 KiB of variables of OVMF's larger build (`OvmfPkgDefines.fdf.inc`).
pub const BLOCKS_MAX: usize = 132;
/// How much disk the volume and all its blocks take, in bytes.
pub const DISK_BYTES_MAX: u64 = place_of(BLOCKS_MAX, 0);

/// Where blocks begin on the disk.
const BLOCKS_AT: u64 = VOLUME_BYTES_MAX;
/// Each block has two places, so that a new one never touches the old.
const PLACES: u64 = 2;
const LABEL: &[u8; 8] = b"HUSKFLSH";
/// What a block is bound to: the label and its number.
const BOUND_BYTES: usize = LABEL.len() + 4;

/// How a state names a block, as it is stored there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Entry {
    key: [u8; BLOCK_KEY_BYTES],
    tag: [u8; TAG_BYTES],
    /// 0: nowhere, all its bytes are ones; 1 and 2: its first and its second place.
    place: u8,
    zero: [u8; 7],
}

impl Entry {
    /// Size in bytes.
    pub const BYTES: usize = size_of::<Self>();
    /// A block of ones, which lies nowhere.
    pub const ERASED: Self = Self { key: [0; BLOCK_KEY_BYTES], tag: [0; TAG_BYTES], place: 0, zero: [0; 7] };

    /// The place that this block is not at.
    const fn spare(&self) -> u8 {
        if self.place == 1 { 2 } else { 1 }
    }
}

/// A block in memory between what it is bound to and its tag; wiped when it goes.
#[derive(Debug)]
struct Object(Zeroizing<[u8; BOUND_BYTES + BLOCK_BYTES + TAG_BYTES]>);

impl Object {
    fn of(number: usize) -> Result<Self, VolumeFault> {
        let mut object = Self(Zeroizing::new([0; BOUND_BYTES + BLOCK_BYTES + TAG_BYTES]));
        let number = u32::try_from(number).map_err(|_| VolumeFault::Bounds)?;
        let (bound, _) = object.0.split_at_mut(BOUND_BYTES);
        let (label, place) = bound.split_at_mut(LABEL.len());
        label.copy_from_slice(LABEL);
        place.copy_from_slice(&number.to_le_bytes());
        Ok(object)
    }

    fn body(&mut self) -> Option<&mut [u8; BLOCK_BYTES]> {
        self.0.get_mut(BOUND_BYTES..)?.first_chunk_mut()
    }

    fn tag(&mut self) -> Option<&mut [u8; TAG_BYTES]> {
        self.0.last_chunk_mut()
    }
}

/// Writes block `number` to where the one that `before` names is not, and says how a state names it. Not flushed: until it is, no state may name it.
///
/// # Errors
/// [`VolumeFault::NoBlocks`]; entropy and disk faults. What `before` names is as it was.
pub fn place(
    platform: &mut Platform<'_>,
    number: usize,
    before: &Entry,
    content: &[u8; BLOCK_BYTES],
) -> Result<Entry, VolumeFault> {
    if content.iter().all(|byte| *byte == u8::MAX) {
        return Ok(Entry::ERASED);
    }
    let offset = offset(platform.disk, number, before.spare())?;
    let key = BlockKey::draw(platform.entropy).map_err(|_| VolumeFault::Entropy)?;
    let mut entry = Entry { key: key.to_store(), tag: [0; TAG_BYTES], place: before.spare(), zero: [0; 7] };
    let mut object = Object::of(number)?;
    object.body().ok_or(VolumeFault::Bounds)?.copy_from_slice(content);
    seal_once(object.0.as_mut_slice(), BOUND_BYTES, &key.into_object())?;
    entry.tag = *object.tag().ok_or(VolumeFault::Bounds)?;
    let sealed = object.body().ok_or(VolumeFault::Bounds)?;
    platform.disk.write(offset, sealed).map_err(|_| VolumeFault::Write)?;
    Ok(entry)
}

/// Reads the block of that number that `entry` names into `content`.
///
/// # Errors
/// [`VolumeFault::BlockDamaged`] for any other bytes than those that were placed; [`VolumeFault::NoBlocks`]; disk faults. `content` is zeros then.
pub fn fetch(
    disk: &mut dyn Disk,
    number: usize,
    entry: &Entry,
    content: &mut [u8; BLOCK_BYTES],
) -> Result<(), VolumeFault> {
    content.zeroize();
    if *entry == Entry::ERASED {
        content.fill(u8::MAX);
        return Ok(());
    }
    if !matches!(entry.place, 1 | 2) || entry.zero != [0; 7] {
        return Err(VolumeFault::BlockDamaged);
    }
    let offset = offset(disk, number, entry.place)?;
    let mut object = Object::of(number)?;
    let sealed = object.body().ok_or(VolumeFault::Bounds)?;
    disk.read(offset, sealed).map_err(|_| VolumeFault::Read)?;
    *object.tag().ok_or(VolumeFault::Bounds)? = entry.tag;
    let key = BlockKey::stored(entry.key).into_object();
    let opened =
        open_once(object.0.as_mut_slice(), BOUND_BYTES, &key).map_err(|_| VolumeFault::BlockDamaged)?;
    content.copy_from_slice(opened.first_chunk::<BLOCK_BYTES>().ok_or(VolumeFault::Bounds)?);
    Ok(())
}

/// Whether the disk has room for so many blocks.
///
/// # Errors
/// [`VolumeFault::NoBlocks`].
pub fn fit(disk: &dyn Disk, blocks: usize) -> Result<(), VolumeFault> {
    let has_room = blocks <= BLOCKS_MAX && place_of(blocks, 0) <= disk.geometry().size_bytes;
    if has_room { Ok(()) } else { Err(VolumeFault::NoBlocks) }
}

fn offset(disk: &dyn Disk, number: usize, place: u8) -> Result<u64, VolumeFault> {
    fit(disk, number.saturating_add(1))?;
    Ok(place_of(number, place.saturating_sub(1)))
}

const fn place_of(number: usize, place: u8) -> u64 {
    BLOCKS_AT + (number as u64 * PLACES + place as u64) * BLOCK_BYTES as u64
}
