use super::super::{EngineFault, Fingerprint, Locality, PowerOn};
use super::EntropySource;
use crate::nv::NvImage;
use husk_stubs::{Blob, Host};

/// What the library finds around it during one call: the image, the locality, the entropy.
pub(super) struct World<'w, 'm> {
    nv: &'w mut NvImage<'m>,
    entropy: EntropySource,
    fingerprint: Fingerprint,
    locality: Locality,
    start: Option<(PowerOn, Option<&'w [u8]>)>,
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
        Self { nv, entropy, fingerprint, locality, start: None, fault: None }
    }

    /// Lets a power-on find the image's state, which must be there, and `volatile`.
    pub(super) fn starting(self, power_on: PowerOn, volatile: Option<&'w [u8]>) -> Result<Self, EngineFault> {
        let (fingerprint, permall) =
            self.nv.engine_state().split_first_chunk().ok_or(EngineFault::StateRefused)?;
        if *fingerprint != self.fingerprint.0 || permall.is_empty() {
            return Err(EngineFault::StateRefused);
        }
        Ok(Self { start: Some((power_on, volatile)), ..self })
    }

    /// The first thing that the world could not give.
    pub(super) const fn fault(&self) -> Option<EngineFault> {
        self.fault
    }

    fn blob(&self, blob: Blob) -> Option<&[u8]> {
        let (_, volatile) = self.start?;
        match blob {
            Blob::Permanent => self.nv.engine_state().get(self.fingerprint.0.len()..),
            Blob::Volatile => volatile,
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
        true
    }

    fn store(&mut self, permanent: &[u8]) -> bool {
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
