//! What a grant yields: a key, and what it may be used for.

use crate::secret::Secret;

/// What the broker's signed grant allows. Creating a TPM is an intent, never a consequence of not finding state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Make a new TPM.
    Create,
    /// Open the TPM that exists.
    Open,
}

/// An epoch's secret, released for one epoch of one VM. Only this box makes one.
#[derive(Debug)]
pub struct ReleasedKey {
    epoch: u64,
    secret: Secret<32>,
}

impl ReleasedKey {
    #[expect(dead_code, reason = "the session that releases keys is being built")]
    pub(super) const fn new(epoch: u64, secret: Secret<32>) -> Self {
        Self { epoch, secret }
    }

    /// The epoch that it belongs to.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The secret, for `keys::derive` alone.
    #[must_use]
    pub const fn secret(&self) -> &Secret<32> {
        &self.secret
    }
}
