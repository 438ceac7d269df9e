//! A tenant's authority: certifies the endorsement keys of its VMs.
//!
//! **What.** [`AuthorityKey`] is a P-384 key that the vault wraps. [`credential`] makes the challenge that shows who holds an endorsement key
//! (TPM2_MakeCredential), [`certificate`] what is issued then (TCG EK Credential Profile).
//! **Trust.** The VM's attested word for its public areas, and the TPM's answer to the challenge: both are wanted.
//! **Laws.** Nothing is issued that was not challenged in the same session; a key is certified for one VM of a tenant (`store`).
//! **Not here.** Who asks, and when (`service`); revocation.

pub mod certificate;
pub mod credential;

use crate::vault::VaultError;
use hkdf::Hkdf;
use husk::secret::Secret;
use p384::ecdsa::SigningKey;
use sha2::Sha384;
use zeroize::Zeroizing;

const KEY_LABEL: &[u8] = b"HUSK v1 endorsement authority\0";
/// Scalars outside [1, n) are refused; 2^-190 of all on P-384.
const DRAWS_MAX: u8 = 4;

/// What an authority signs with.
pub struct AuthorityKey(SigningKey);

impl std::fmt::Debug for AuthorityKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuthorityKey")
    }
}

impl AuthorityKey {
    /// The key that follows from a secret of the vault.
    ///
    /// # Errors
    /// [`VaultError::Bug`].
    pub fn of(secret: &Secret<32>) -> Result<Self, VaultError> {
        for draw in 0..DRAWS_MAX {
            let mut scalar = Zeroizing::new([0; 48]);
            let derived = secret.with(|key| {
                Hkdf::<Sha384>::new(None, key).expand_multi_info(&[KEY_LABEL, &[draw]], scalar.as_mut_slice())
            });
            derived.map_err(|_| VaultError::Bug)?;
            if let Ok(key) = SigningKey::from_slice(scalar.as_slice()) {
                return Ok(Self(key));
            }
        }
        Err(VaultError::Bug)
    }
}
