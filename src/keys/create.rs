//! The key under which a volume is made.

use super::{Identity, VolumeKey};
use crate::release::Head;
use crate::release::hw_sealed::{HwCreation, HwSealedKey};
use crate::release::open::Creation;
use crate::release::unsealed::UnsealedKey;

/// A volume key under which a new TPM may be made, or one from a backup.
#[derive(Debug)]
pub struct CreateKey {
    key: VolumeKey,
    /// The state in whose place it comes.
    replaces: Head,
    /// Its sequence is beyond this.
    beyond: u64,
}

impl CreateKey {
    /// Of a sealed volume, against the permission that only a signed grant to create holds.
    #[must_use]
    pub fn granted(key: VolumeKey, permission: Creation) -> Self {
        let replaces = *permission.replaces();
        Self { key, replaces, beyond: replaces.sequence }
    }

    /// The same, for a state whose sequence is beyond this one, too.
    #[must_use]
    pub fn beyond(self, sequence: u64) -> Self {
        Self { beyond: self.beyond.max(sequence), ..self }
    }

    /// Of a volume under the processor's key, against the permission that only the tenant's permit gives.
    #[must_use]
    pub fn permitted(key: HwSealedKey<'_>, identity: &Identity, _permission: HwCreation) -> Self {
        Self::first(VolumeKey::hw_sealed(key, identity))
    }

    /// Of a volume that anyone can read.
    #[must_use]
    pub fn unsealed(public: &UnsealedKey, identity: &Identity) -> Self {
        Self::first(VolumeKey::unsealed(public, identity))
    }

    const fn first(key: VolumeKey) -> Self {
        Self { key, replaces: Head::NONE, beyond: 0 }
    }

    /// The state in whose place the new one comes.
    #[must_use]
    pub const fn replaces(&self) -> &Head {
        &self.replaces
    }

    /// The key, for what is written first; what that comes after in the chain.
    #[must_use]
    pub fn into_key(self) -> (VolumeKey, Head) {
        (self.key, Head { sequence: self.beyond, digest: self.replaces.digest })
    }
}
