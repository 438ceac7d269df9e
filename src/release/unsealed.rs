//! The named test mode: nothing is secret and nobody remembers.
//!
//! **What.** [`Unsealed`] stands in for the broker where a TPM is tried out: its keys come from a public label and its
//! memory of the head is this process's ([`LocalAnchor`]).
//! **Trust.** None, and none is claimed: whoever holds such a volume can read, alter and roll it back.
//! **Laws.** Entered only by calling [`Unsealed::for_testing`]. Its keys have a type of their own, and so a mode of their
//! own in the volume's header and key: a sealed volume is never opened or made by them.
//! **Not here.** Any way from a sealed mode to this one.

use super::Head;
use super::local::LocalAnchor;
use crate::secret::Secret;
use sha2::{Digest, Sha384};

/// The source of public keys.
#[derive(Debug)]
pub struct Unsealed(());

impl Unsealed {
    /// Gives up every promise that this component makes, for a test.
    #[must_use]
    pub const fn for_testing() -> Self {
        Self(())
    }

    /// The public key material of one epoch.
    #[must_use]
    pub fn key(&self, epoch: u64) -> UnsealedKey {
        let digest = Sha384::new()
            .chain_update(b"HUSK v1 unsealed for testing: this key is public")
            .chain_update(epoch.to_le_bytes())
            .finalize();
        let mut public = [0; 32];
        public.copy_from_slice(&digest[..32]);
        UnsealedKey { epoch, secret: Secret::take(&mut public) }
    }

    /// An anchor that lasts as long as the process. It believes that `head` is the newest, because the volume alone says so.
    #[must_use]
    pub const fn believe(&self, head: Head) -> LocalAnchor {
        LocalAnchor::at(head)
    }
}

/// Key material that everyone has.
#[derive(Debug)]
pub struct UnsealedKey {
    epoch: u64,
    secret: Secret<32>,
}

impl UnsealedKey {
    /// The epoch that it belongs to.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The material, for `keys::derive` alone.
    #[must_use]
    pub const fn secret(&self) -> &Secret<32> {
        &self.secret
    }
}
