//! What the library finds around it during one call.

use super::super::{EngineFault, Fingerprint, Locality};
use super::EntropySource;
use super::permall::Permall;
use crate::nv::NvImage;
use husk_stubs::{Blob, Host};

/// How a TPM comes up from a stored state.
#[derive(Clone, Copy)]
pub(super) enum Entry<'w> {
    /// A TPM Reset follows.
    Launch {
        /// The reset count after the Startup that follows.
        reset_count: u32,
        /// The clock stands at this or later.
        clock_ms_min: u64,
    },
    /// The TPM goes on where it was.
    Resume {
        /// The reset count.
        reset_count: u32,
        /// What was saved.
        volatile: &'w [u8],
    },
}

impl Entry<'_> {
    /// Puts what this entry says into a permanent state, which must be one.
    fn prepare(self, found: &Permall, permall: &mut [u8]) {
        match self {
            // The Startup that follows counts one up.
            Self::Launch { reset_count, clock_ms_min } => {
                found.set_reset_count(permall, reset_count.wrapping_sub(1));
                found.raise_clock(permall, clock_ms_min);
            }
            Self::Resume { reset_count, .. } => found.set_reset_count(permall, reset_count),
        }
    }
}

/// What becomes of a state that the library stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stores {
    /// It goes into the image.
    Keep,
    /// It is forgotten: a rehearsal.
    Forget,
}

/// The image, the locality, the entropy; at power-on also how to come up.
pub(super) struct World<'w, 'm> {
    nv: &'w mut NvImage<'m>,
    entropy: EntropySource,
    fingerprint: Fingerprint,
    locality: Locality,
    stores: Stores,
    entry: Option<Entry<'w>>,
    fault: Option<EngineFault>,
}

impl<'w, 'm> World<'w, 'm> {
    /// A world for a running TPM, which finds nothing to load.
    pub(super) fn new(
        nv: &'w mut NvImage<'m>,
        entropy: EntropySource,
        fingerprint: Fingerprint,
        locality: Locality,
    ) -> Self {
        Self { nv, entropy, fingerprint, locality, stores: Stores::Keep, entry: None, fault: None }
    }

    /// Decides what becomes of what the library stores.
    pub(super) const fn storing(self, stores: Stores) -> Self {
        Self { stores, ..self }
    }

    /// Lets a power-on find the image's state, which must be there and known.
    pub(super) fn starting(self, entry: Entry<'w>) -> Result<Self, EngineFault> {
        let (fingerprint, permall) =
            self.nv.engine_state().split_first_chunk().ok_or(EngineFault::StateRefused)?;
        if *fingerprint != self.fingerprint.0 || Permall::find(permall).is_none() {
            return Err(EngineFault::StateRefused);
        }
        Ok(Self { entry: Some(entry), ..self })
    }

    /// The first thing that the world could not give.
    pub(super) const fn fault(&self) -> Option<EngineFault> {
        self.fault
    }

    fn blob(&self, blob: Blob) -> Option<&[u8]> {
        match (blob, self.entry?) {
            (Blob::Permanent, _) => self.nv.engine_state().get(self.fingerprint.0.len()..),
            (Blob::Volatile, Entry::Resume { volatile, .. }) => Some(volatile),
            (Blob::Volatile, Entry::Launch { .. }) => None,
        }
    }
}

impl Host for World<'_, '_> {
    fn load_len(&mut self, blob: Blob) -> Option<usize> {
        self.blob(blob).map(<[u8]>::len)
    }

    fn load(&mut self, blob: Blob, into: &mut [u8]) -> bool {
        match self.blob(blob) {
            Some(bytes) if bytes.len() == into.len() => into.copy_from_slice(bytes),
            _ => return false,
        }
        let (Blob::Permanent, Some(entry)) = (blob, self.entry) else { return true };
        let Some(found) = Permall::find(into) else { return false };
        entry.prepare(&found, into);
        true
    }

    fn store(&mut self, permanent: &[u8]) -> bool {
        if self.stores == Stores::Forget {
            return true;
        }
        let stored = self.nv.store_engine_parts(&self.fingerprint.0, permanent);
        if stored.is_err() {
            self.fault.get_or_insert(EngineFault::StateTooLarge);
        }
        stored.is_ok()
    }

    fn locality(&mut self) -> u8 {
        self.locality.number()
    }

    fn entropy(&mut self, into: &mut [u8]) -> bool {
        let filled = (self.entropy)(into);
        if filled.is_err() {
            self.fault.get_or_insert(EngineFault::EntropyFailed);
        }
        filled.is_ok()
    }
}
