//! What an engine does so that its endorsement keys are certified.

use super::{CHALLENGE_SECRET_BYTES, ChallengeObject, EndorsementKey, Engine, EngineFault, PowerOn};
use crate::nv::NvImage;
use crate::secret::Secret;

/// The longest certificate of an endorsement key: what an NV index of the reference engine holds (MAX_NV_INDEX_SIZE).
pub const CERTIFICATE_BYTES_MAX: usize = 2048;

/// Who made the TPM, as TPM2_GetCapability tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Maker {
    /// TPM_PT_MANUFACTURER.
    pub manufacturer: [u8; 4],
    /// TPM_PT_FIRMWARE_VERSION_1.
    pub firmware: u32,
}

/// A credential that TPM2_MakeCredential made for an endorsement key.
#[derive(Clone, Copy, Debug)]
pub struct Credential<'c> {
    /// The content of TPM2B_ID_OBJECT.
    pub blob: &'c [u8],
    /// The content of TPM2B_ENCRYPTED_SECRET.
    pub secret: &'c [u8],
}

/// What became of certificates that were to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Written {
    /// They are there.
    All,
    /// Some are not: the TPM's NV memory has no room for them, or their indices are taken.
    Refused,
}

/// An engine whose endorsement keys can be certified. It is off before and after each of these.
pub trait CertifiedEngine: Engine {
    /// Who made it; known once its keys were [learned](Engine::learn_endorsement).
    fn maker(&self) -> Option<Maker>;

    /// Opens `credential` with `key` (TPM2_ActivateCredential) for `object`. Nothing is stored. `None` if it does not open.
    ///
    /// # Errors
    /// [`EngineFault`] if the state does not load or the engine fails.
    fn activate_credential(
        &mut self,
        nv: &mut NvImage<'_>,
        key: EndorsementKey,
        object: &ChallengeObject,
        credential: &Credential<'_>,
    ) -> Result<Option<Secret<CHALLENGE_SECRET_BYTES>>, EngineFault>;

    /// The keys whose certificate's NV index is there, as a sum of [`EndorsementKey::bit`]. Nothing is stored.
    ///
    /// # Errors
    /// [`EngineFault`] if the state does not load or the engine fails.
    fn certificates(&mut self, nv: &mut NvImage<'_>) -> Result<u8, EngineFault>;

    /// Writes certificates, in the order of [`EndorsementKey::ALL`], to the NV indices of the TCG EK Credential Profile: created by the platform, read by all,
    /// written and locked. Each is there whole, or not at all.
    ///
    /// # Errors
    /// [`EngineFault`] if the state does not load or the engine fails.
    fn write_certificates(
        &mut self,
        nv: &mut NvImage<'_>,
        power_on: PowerOn,
        certificates: &[Option<&[u8]>; EndorsementKey::ALL.len()],
    ) -> Result<Written, EngineFault>;
}
