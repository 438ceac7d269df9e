//! The blocks of a guest's flash: on the disk first, then named by the state.

use super::store::NvStore;
use super::{Committed, NvFault};
use crate::fault::Fault;
use crate::seams::{Cells, Platform};
use crate::volume::VolumeFault;
use crate::volume::blocks::{BLOCK_BYTES, BLOCKS_MAX, fetch, fit, place};
use zeroize::Zeroizing;

/// Some of the blocks of a flash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockSet([u64; BLOCKS_MAX.div_ceil(64)]);

impl BlockSet {
    /// None.
    pub const NONE: Self = Self([0; BLOCKS_MAX.div_ceil(64)]);

    /// Adds one; numbers beyond the last possible block are none.
    pub fn insert(&mut self, number: usize) {
        if let Some(word) = self.0.get_mut(number / 64) {
            *word |= 1 << (number % 64);
        }
    }

    /// Whether one is among them.
    #[must_use]
    pub fn contains(&self, number: usize) -> bool {
        self.0.get(number / 64).is_some_and(|word| word & 1 << (number % 64) != 0)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::NONE
    }

    /// Their numbers, in order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..BLOCKS_MAX).filter(|number| self.contains(*number))
    }
}

/// Blocks that are on the disk, and that the image names: what is locked until a commit has made that durable.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    version: u64,
}

impl Placed {
    /// Whether they are durable, by that proof.
    ///
    /// # Errors
    /// [`NvFault::NotCommitted`] if the proof is of an earlier version.
    pub fn release(self, committed: &Committed) -> Result<(), NvFault> {
        if committed.version() < self.version { Err(NvFault::NotCommitted) } else { Ok(()) }
    }
}

impl NvStore<'_> {
    /// Writes `changed` of the blocks that `cells` shows to the disk, flushes them, and has the image name them. Where nothing is kept yet, it is from now on.
    ///
    /// The caller has renewed its lease: what an instance that was fenced writes here might hit what its successor uses. Of an ephemeral TPM nothing is
    /// written or named: the cells are all that there is.
    ///
    /// # Errors
    /// [`NvFault::NotCommitted`] where an earlier commit is not settled; [`NvFault::FlashSize`]; what the volume returns. The durable state and all that it
    /// names are as they were; the image may not be, so this store must not go on.
    pub fn place_blocks(
        &mut self,
        platform: &mut Platform<'_>,
        cells: &dyn Cells,
        changed: &BlockSet,
    ) -> Result<Placed, Fault> {
        self.settled().map(drop)?;
        let blocks = blocks_of(cells)?;
        if self.is_ephemeral() {
            return Ok(Placed { version: self.image().version() });
        }
        fit(platform.disk, blocks)?;
        if self.image().blocks() == 0 {
            self.image_mut().make_blocks(blocks)?;
        }
        let mut content = Zeroizing::new([0; BLOCK_BYTES]);
        for number in changed.iter() {
            let before = self.image().block(number).ok_or(NvFault::FlashSize)?;
            cells.copy_in(number * BLOCK_BYTES, content.as_mut_slice());
            let entry = place(platform, number, &before, &content)?;
            self.image_mut().name_block(number, &entry)?;
        }
        platform.disk.flush().map_err(|_| VolumeFault::Flush)?;
        Ok(Placed { version: self.image().version() })
    }

    /// Shows the blocks that the state names in `cells`; whether there are any.
    ///
    /// # Errors
    /// [`NvFault::FlashSize`] if there are, and `cells` has not their size; [`VolumeFault::BlockDamaged`] and other faults of the volume. What `cells` shows is not to be
    /// used then.
    pub fn fetch_blocks(&self, platform: &mut Platform<'_>, cells: &mut dyn Cells) -> Result<bool, Fault> {
        let (kept, wanted) = (self.image().blocks(), blocks_of(cells)?);
        if kept == 0 {
            return Ok(false);
        }
        if kept != wanted {
            return Err(NvFault::FlashSize.into());
        }
        let mut content = Zeroizing::new([0; BLOCK_BYTES]);
        for number in 0..kept {
            let entry = self.image().block(number).ok_or(NvFault::FlashSize)?;
            fetch(platform.disk, number, &entry, &mut content)?;
            cells.copy_out(number * BLOCK_BYTES, content.as_slice());
        }
        Ok(true)
    }
}

/// How many blocks a flash has.
///
/// # Errors
/// [`NvFault::FlashSize`] if it has another number than can be kept, or is not made of blocks.
pub fn blocks_of(cells: &dyn Cells) -> Result<usize, NvFault> {
    let bytes = cells.size_bytes();
    let blocks = bytes / BLOCK_BYTES;
    let fits = bytes.is_multiple_of(BLOCK_BYTES) && (1..=BLOCKS_MAX).contains(&blocks);
    if fits { Ok(blocks) } else { Err(NvFault::FlashSize) }
}
