//! A tenant's recovery key, and keys that are sealed to a key which is elsewhere.
//!
//! **What.** [`RecoveryCertificate`] is the tenant root key's word on a recovery key; [`SealedKey`] carries 32 bytes to the holder
//! of a P-384 key: HPKE (RFC 9180), base mode, DHKEM(P-384, HKDF-SHA384), HKDF-SHA384, AES-256-GCM.
//! **Trust.** The tenant's root key; the private half of the recovery key, which no broker and no VM has.
//! **Laws.** What is sealed opens with that private half, under the very `info` and `aad` that it was sealed under, or not at all.
//! Nothing comes of entropy that failed.
//! **Not here.** What the keys are for: [`backup`](super::backup).

#![allow(missing_debug_implementations, reason = "structures of the wire are never printed")]
#![allow(clippy::allow_attributes, reason = "an expectation is not seen inside the macro")]

use super::ReleaseFault;
use super::transcript::{AgreementKey, Digest, verifies};
use super::wire::{POINT_BYTES, SIGNATURE_BYTES, TAG_BYTES, wire};
use crate::seams::Entropy;
use crate::secret::Secret;
use core::convert::Infallible;
use core::mem::offset_of;
use hpke::aead::{AeadTag, AesGcm256};
use hpke::kdf::HkdfSha384;
use hpke::kem::DhP384HkdfSha384;
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{
    Deserializable, Kem, OpModeR, OpModeS, Serializable, single_shot_open_inout_detached,
    single_shot_seal_inout_detached_with_rng,
};
use sha2::{Digest as _, Sha384};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const CERTIFICATE_LABEL: &[u8] = b"HUSK v1 recovery certificate\0";

wire! {
    /// What the tenant root key says of a recovery key.
    pub struct RecoveryCertificate {
        /// The tenant.
        pub tenant: [u8; 16],
        /// The recovery key: backups are sealed to it.
        pub key: [u8; POINT_BYTES],
        /// By the tenant root key.
        pub signature: [u8; SIGNATURE_BYTES],
    }

    /// 32 bytes, sealed to the holder of a P-384 key.
    pub struct SealedKey {
        /// `enc` of RFC 9180: an ephemeral point.
        pub encapsulated: [u8; POINT_BYTES],
        /// The ciphertext.
        pub sealed: [u8; 32],
        /// Its tag.
        pub tag: [u8; TAG_BYTES],
    }
}

impl RecoveryCertificate {
    /// What the tenant root key signs: all of it but the signature.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let signed = &self.as_bytes()[..offset_of!(Self, signature)];
        Sha384::new().chain_update(CERTIFICATE_LABEL).chain_update(signed).finalize().into()
    }

    /// Whether `root` certified it for `tenant`.
    #[must_use]
    pub fn is_by(&self, tenant: &[u8; 16], root: &[u8; POINT_BYTES]) -> bool {
        self.tenant == *tenant && verifies(root, &self.digest(), &self.signature)
    }
}

/// Under what a key is sealed: RFC 9180's `info` and `aad`.
#[derive(Clone, Copy, Debug)]
pub struct Context<'c> {
    /// What the key is for.
    pub info: &'c [u8],
    /// What it belongs to.
    pub aad: &'c [u8],
}

impl SealedKey {
    /// Seals `key` to the holder of the point `to`.
    ///
    /// # Errors
    /// [`ReleaseFault::Entropy`]; [`ReleaseFault::OrderUntrusted`] if `to` is no point of the curve.
    pub fn seal(
        to: &[u8; POINT_BYTES],
        under: Context<'_>,
        key: &Secret<32>,
        entropy: &mut dyn Entropy,
    ) -> Result<Self, ReleaseFault> {
        let to = <DhP384HkdfSha384 as Kem>::PublicKey::from_bytes(to);
        let to = to.map_err(|_| ReleaseFault::OrderUntrusted)?;
        let mut draws = Draws { entropy, failed: false };
        let mut sealed = key.with(|key| *key);
        let made = single_shot_seal_inout_detached_with_rng::<AesGcm256, HkdfSha384, DhP384HkdfSha384>(
            &OpModeS::Base,
            &to,
            under.info,
            sealed.as_mut_slice().into(),
            under.aad,
            &mut draws,
        );
        match made {
            Ok((encapped, tag)) if !draws.failed => {
                Ok(Self { encapsulated: encapped.to_bytes().into(), sealed, tag: tag.to_bytes().into() })
            }
            _ => {
                zeroize::Zeroize::zeroize(&mut sealed);
                Err(ReleaseFault::Entropy)
            }
        }
    }

    /// Opens it; nothing if it was sealed to another key, under something else, or altered.
    #[must_use]
    pub fn open(&self, holder: &AgreementKey, under: Context<'_>) -> Option<Secret<32>> {
        let private = holder.with_scalar(<DhP384HkdfSha384 as Kem>::PrivateKey::from_bytes).ok()?;
        let encapped = <DhP384HkdfSha384 as Kem>::EncappedKey::from_bytes(&self.encapsulated).ok()?;
        let tag = AeadTag::<AesGcm256>::from_bytes(&self.tag).ok()?;
        let open = |key: &mut [u8; 32]| {
            *key = self.sealed;
            single_shot_open_inout_detached::<AesGcm256, HkdfSha384, DhP384HkdfSha384>(
                &OpModeR::Base,
                &private,
                &encapped,
                under.info,
                key.as_mut_slice().into(),
                under.aad,
                &tag,
            )
        };
        Secret::try_fill(open).ok()
    }
}

/// Entropy for a function that takes no failure: it is remembered, and what came of it is thrown away.
struct Draws<'e> {
    entropy: &'e mut dyn Entropy,
    failed: bool,
}

impl TryRng for Draws<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes).map(|()| u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes).map(|()| u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, into: &mut [u8]) -> Result<(), Infallible> {
        if self.entropy.fill(into).is_err() {
            into.fill(0);
            self.failed = true;
        }
        Ok(())
    }
}

impl TryCryptoRng for Draws<'_> {}

#[cfg(test)]
mod tests {
    use super::super::ReleaseFault;
    use super::super::transcript::tests::Seeded;
    use super::super::transcript::{AgreementKey, SigningKey};
    use super::{Context, RecoveryCertificate, SealedKey};
    use crate::seams::{Entropy, EntropyError};
    use crate::secret::Secret;
    use zerocopy::{FromZeros, IntoBytes};

    const UNDER: Context<'_> = Context { info: b"a backup", aad: b"of that TPM" };

    struct Broken;

    impl Entropy for Broken {
        fn fill(&mut self, _: &mut [u8]) -> Result<(), EntropyError> {
            Err(EntropyError)
        }
    }

    #[test]
    fn every_byte_of_a_recovery_certificate_is_signed() {
        let root = SigningKey::generate(&mut Seeded(0x4EC)).unwrap();
        let mut certificate = RecoveryCertificate::new_zeroed();
        (certificate.tenant, certificate.key) = ([3; 16], *root.point());
        certificate.signature = root.sign(&certificate.digest()).unwrap();
        assert!(certificate.is_by(&[3; 16], root.point()) && !certificate.is_by(&[4; 16], root.point()));
        for at in 0..RecoveryCertificate::BYTES {
            certificate.as_mut_bytes()[at] ^= 1;
            assert!(!certificate.is_by(&[3; 16], root.point()), "byte {at}");
            certificate.as_mut_bytes()[at] ^= 1;
        }
    }

    #[test]
    fn a_sealed_key_opens_for_its_holder_and_under_its_context_only() {
        let mut entropy = Seeded(0x5EA1);
        let [holder, other] = [(); 2].map(|()| AgreementKey::generate(&mut entropy).unwrap());
        let key = Secret::take(&mut [0x5A; 32]);
        let mut sealed = SealedKey::seal(holder.point(), UNDER, &key, &mut entropy).unwrap();
        let opened = |sealed: &SealedKey, key: &AgreementKey, under| {
            sealed.open(key, under).map(|secret| secret.with(|bytes| *bytes))
        };
        assert_eq!(opened(&sealed, &holder, UNDER), Some([0x5A; 32]));
        assert_eq!(opened(&sealed, &other, UNDER), None);
        assert_eq!(opened(&sealed, &holder, Context { info: b"a restore", ..UNDER }), None);
        assert_eq!(opened(&sealed, &holder, Context { aad: b"of another", ..UNDER }), None);
        for at in 0..SealedKey::BYTES {
            sealed.as_mut_bytes()[at] ^= 1;
            assert_eq!(opened(&sealed, &holder, UNDER), None, "byte {at}");
            sealed.as_mut_bytes()[at] ^= 1;
        }
        let again = SealedKey::seal(holder.point(), UNDER, &key, &mut entropy).unwrap();
        assert_ne!(again.sealed, sealed.sealed, "each has an ephemeral key of its own");
    }

    #[test]
    fn nothing_is_sealed_without_entropy_or_to_no_point() {
        let holder = AgreementKey::generate(&mut Seeded(1)).unwrap();
        let key = Secret::take(&mut [1; 32]);
        let fault =
            |to: &[u8; 97], entropy: &mut dyn Entropy| SealedKey::seal(to, UNDER, &key, entropy).err();
        assert_eq!(fault(holder.point(), &mut Broken), Some(ReleaseFault::Entropy));
        assert_eq!(fault(&[4; 97], &mut Seeded(2)), Some(ReleaseFault::OrderUntrusted));
    }
}
