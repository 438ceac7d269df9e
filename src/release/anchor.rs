use super::ReleaseFault;
use crate::seams::Platform;

/// Size of a head's digest in bytes (SHA-384).
pub const HEAD_DIGEST_BYTES: usize = 48;

/// The newest state: how many commits there were and the digest of the chain up to the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Head {
    /// Commits since manufacture; the first is 1.
    pub sequence: u64,
    /// Digest of the chain (`volume/format.md`).
    pub digest: [u8; HEAD_DIGEST_BYTES],
}

impl Head {
    /// The head of a TPM that does not exist yet.
    pub const NONE: Self = Self { sequence: 0, digest: [0; HEAD_DIGEST_BYTES] };
}

/// Proof that the anchor of trust remembers `head` as the newest state of this VM, durably.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Anchored {
    head: Head,
}

impl Anchored {
    /// Only the two anchors of trust in this box make one, each from a definite answer.
    pub(super) const fn new(head: Head) -> Self {
        Self { head }
    }

    /// The head that is remembered.
    #[must_use]
    pub const fn head(&self) -> &Head {
        &self.head
    }
}

/// Where the newest head is remembered, out of the host's reach.
pub trait Anchor {
    /// Moves the remembered head from `previous` to `new`, which must already be durable on disk.
    ///
    /// Retries the same request while the answer is unknown, for a bounded time.
    ///
    /// # Errors
    /// [`ReleaseFault::Undecided`] if the answer is still unknown: the same call may be made again, nothing else may
    /// run meanwhile. Any other fault is definite: this instance must stop.
    fn anchor(
        &mut self,
        platform: &mut Platform<'_>,
        previous: &Head,
        new: &Head,
    ) -> Result<Anchored, ReleaseFault>;
}
