//! The secrets page: where the message keys come from.

use super::{KEY_BYTES, PAGE_BYTES};
use crate::attest::AttestFault;
use crate::secret::Secret;
use subtle::ConstantTimeEq;
use zerocopy::FromBytes;
use zerocopy::byteorder::little_endian::U32;

/// The secrets page that the processor wrote at launch (AMD 56860, table "secrets page format"), taken apart.
#[derive(Debug)]
pub struct SecretsPage {
    version: u32,
    tsc_factor: u32,
    pub(super) vmpck0: Secret<KEY_BYTES>,
}

impl SecretsPage {
    /// Offset of VMPCK0; the other three follow.
    const VMPCK0: usize = 0x20;
    /// Offset of TSC_FACTOR.
    const TSC_FACTOR: usize = 0x160;

    /// Takes VMPCK0 out of `page`, where it is wiped: no other code in the guest may speak with this key.
    ///
    /// The other keys stay for lower privilege levels.
    ///
    /// # Errors
    /// [`AttestFault::SecretsAbsent`] if the page was never written or its key was taken before.
    pub fn take(page: &mut [u8; PAGE_BYTES]) -> Result<Self, AttestFault> {
        let absent = AttestFault::SecretsAbsent;
        let word = |at: usize| U32::read_from_prefix(&page[at..]).map(|(word, _)| word.get());
        let version = word(0).map_err(|_| absent)?;
        let tsc_factor = word(Self::TSC_FACTOR).map_err(|_| absent)?;
        let key = page[Self::VMPCK0..].first_chunk_mut::<KEY_BYTES>().ok_or(absent)?;
        let empty = key.ct_eq(&[0; KEY_BYTES]);
        let vmpck0 = Secret::take(key);
        if version == 0 || bool::from(empty) {
            return Err(absent);
        }
        Ok(Self { version, tsc_factor, vmpck0 })
    }

    /// TSC_FACTOR: by how many hundred-thousandths the mean frequency of the guest's counter lies below the nominal one. The same number is in
    /// [`TscInfo`](super::TscInfo).
    #[must_use]
    pub const fn tsc_factor(&self) -> u32 {
        self.tsc_factor
    }

    /// VERSION of the page.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }
}
