//! The memory that a volume works in.

use super::delta::WindowIndex;
use super::layout::{CHECKPOINT_BYTES_MAX, RECORD_BYTES_MAX, UNIT_BYTES_MAX};
use zeroize::Zeroize;

/// The volume's buffers, handed in at boot: about 216 KiB, so keep it out of stacks (a `static` is a good place).
#[expect(missing_debug_implementations, reason = "it may hold the TPM's secrets")]
pub struct Workspace {
    /// A checkpoint, sealed or not, or the state that a delta makes.
    pub(super) state: [u8; CHECKPOINT_BYTES_MAX],
    /// Part of a log while reading (a whole record wherever it begins in a block), or a record while writing.
    pub(super) log: [u8; RECORD_BYTES_MAX + UNIT_BYTES_MAX],
    pub(super) index: WindowIndex,
}

impl Workspace {
    /// Empty buffers.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: [0; CHECKPOINT_BYTES_MAX],
            log: [0; RECORD_BYTES_MAX + UNIT_BYTES_MAX],
            index: WindowIndex::new(),
        }
    }

    /// Forgets every byte that may have been plaintext.
    pub(super) fn wipe(&mut self) {
        self.state.zeroize();
        self.log.zeroize();
    }
}

impl Default for Workspace {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        self.wipe();
    }
}
