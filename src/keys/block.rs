//! The key of one block of a guest's flash.

use super::ObjectKey;
use crate::seams::{Entropy, EntropyError};
use crate::secret::Secret;

/// Size of such a key in bytes.
pub const BLOCK_KEY_BYTES: usize = 32;

/// The key of one write of one block: drawn for it, and kept in the state, which names the block by it. No key of an epoch goes into it: the state is
/// sealed anew at every launch, and what it names stays where it is.
#[derive(Debug)]
pub struct BlockKey(Secret<BLOCK_KEY_BYTES>);

impl BlockKey {
    /// A fresh one.
    ///
    /// # Errors
    /// [`EntropyError`]; there is no key then.
    pub fn draw(entropy: &mut dyn Entropy) -> Result<Self, EntropyError> {
        Secret::try_fill(|bytes| entropy.fill(bytes)).map(Self)
    }

    /// The one that a state holds.
    #[must_use]
    pub fn stored(mut bytes: [u8; BLOCK_KEY_BYTES]) -> Self {
        Self(Secret::take(&mut bytes))
    }

    /// The bytes, for the state alone.
    #[must_use]
    pub fn to_store(&self) -> [u8; BLOCK_KEY_BYTES] {
        self.0.with(|bytes| *bytes)
    }

    /// The key, for the block's cipher.
    #[must_use]
    pub fn into_object(self) -> ObjectKey {
        ObjectKey(self.0)
    }
}
