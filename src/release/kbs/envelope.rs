//! The resource that a KBS stores for a VM: the static key, signed by the tenant.
//!
//! **What.** [`Envelope`], one fixed structure; [`Envelope::read`] and [`Envelope::verify`].
//! **Trust.** The tenant root key of the launch configuration.
//! **Laws.** The signature covers every byte before it, under a label of its own. An envelope is of one tenant and one VM; of another it
//! is refused, whoever hands it out.
//! **Not here.** How it comes: `rcar`. How it is made: `husk tenant envelope`.

use super::super::ReleaseFault;
use super::super::transcript::{Digest, SigningKey, point_digest, verifies};
use super::super::wire::{POINT_BYTES, SIGNATURE_BYTES};
use super::KbsSecret;
use crate::attest::launch::LaunchConfig;
use crate::secret::Secret;
use core::mem::offset_of;
use sha2::{Digest as _, Sha384};
use zerocopy::byteorder::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use zeroize::Zeroize;

const LABEL: &[u8] = b"HUSK v1 KBS envelope\0";
const MAGIC: [u8; 8] = *b"HUSKKBS\0";
const FORMAT: u16 = 1;

/// The tenant's static key for one VM. It is a secret, and is wiped when dropped.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Envelope {
    magic: [u8; 8],
    format: U16,
    zero: [u8; 6],
    /// The tenant.
    pub tenant: [u8; 16],
    /// The VM.
    pub vm: [u8; 16],
    /// Names the key among the tenant's; random, no secret.
    pub key_id: [u8; 16],
    /// The static key.
    key: [u8; 32],
    /// The tenant root key (SEC 1, uncompressed).
    pub root: [u8; POINT_BYTES],
    /// ECDSA by the root key over [`digest`](Self::digest): r ‖ s, big-endian.
    pub signature: [u8; SIGNATURE_BYTES],
}

impl Envelope {
    /// Size in bytes.
    pub const BYTES: usize = size_of::<Self>();

    /// An envelope of `key` for the VM that `config` names, signed by `root`.
    ///
    /// # Errors
    /// As [`SigningKey::sign`].
    pub fn signed(
        config: &LaunchConfig,
        key_id: [u8; 16],
        key: &Secret<32>,
        root: &SigningKey,
    ) -> Result<Self, ReleaseFault> {
        let mut envelope = Self {
            magic: MAGIC,
            format: U16::new(FORMAT),
            zero: [0; 6],
            tenant: config.tenant,
            vm: config.vm,
            key_id,
            key: [0; 32],
            root: *root.point(),
            signature: [0; SIGNATURE_BYTES],
        };
        key.with(|key| envelope.key.copy_from_slice(key));
        envelope.signature = root.sign(&envelope.digest())?;
        Ok(envelope)
    }

    /// Takes the envelope out of `bytes`, which it must fill. Nothing of it has been checked but that it is of this format.
    ///
    /// # Errors
    /// [`ReleaseFault::EnvelopeMalformed`].
    pub fn read(bytes: &[u8]) -> Result<Self, ReleaseFault> {
        let envelope = Self::read_from_bytes(bytes).map_err(|_| ReleaseFault::EnvelopeMalformed)?;
        let known = envelope.magic == MAGIC && envelope.format.get() == FORMAT && envelope.zero == [0; 6];
        if known { Ok(envelope) } else { Err(ReleaseFault::EnvelopeMalformed) }
    }

    /// Yields the key, if the tenant that `config` names gave it to the VM that `config` names.
    ///
    /// # Errors
    /// [`ReleaseFault::EnvelopeUntrusted`], [`ReleaseFault::EnvelopeOfAnother`].
    pub fn verify(&self, config: &LaunchConfig) -> Result<KbsSecret, ReleaseFault> {
        let signed =
            point_digest(&self.root) == config.root && verifies(&self.root, &self.digest(), &self.signature);
        if !signed {
            return Err(ReleaseFault::EnvelopeUntrusted);
        }
        if (self.tenant, self.vm) != (config.tenant, config.vm) {
            return Err(ReleaseFault::EnvelopeOfAnother);
        }
        let mut key = self.key;
        Ok(KbsSecret(Secret::take(&mut key)))
    }

    /// What the root key signs: all of it but the signature.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let signed = &self.as_bytes()[..offset_of!(Self, signature)];
        Sha384::new().chain_update(LABEL).chain_update(signed).finalize().into()
    }
}

impl Drop for Envelope {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// Says whose it is, never what is in it.
impl core::fmt::Debug for Envelope {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Envelope({:?})", self.key_id)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::transcript::tests::Seeded;
    use super::super::super::transcript::{SigningKey, point_digest};
    use super::{Envelope, ReleaseFault};
    use crate::attest::launch::{Kbs, LaunchConfig, Mode, Serve};
    use crate::secret::Secret;
    use zerocopy::IntoBytes;

    fn root(seed: u64) -> SigningKey {
        SigningKey::generate(&mut Seeded(seed)).unwrap()
    }

    fn config(root: &SigningKey) -> LaunchConfig {
        LaunchConfig {
            tenant: [1; 16],
            vm: [2; 16],
            root: point_digest(root.point()),
            mode: Mode::Strict,
            serve: Serve::Lease,
            kbs: Kbs::Required,
            min_key_generation: 0,
            processor: None,
            staleness: None,
            variables: None,
        }
    }

    fn envelope(config: &LaunchConfig, root: &SigningKey) -> Envelope {
        Envelope::signed(config, [3; 16], &Secret::take(&mut [4; 32]), root).unwrap()
    }

    #[test]
    fn an_envelope_of_the_tenant_for_this_vm_yields_its_key() {
        let root = root(1);
        let config = config(&root);
        let bytes = envelope(&config, &root);
        let key = Envelope::read(bytes.as_bytes()).unwrap().verify(&config).unwrap();
        assert!(key.secret().with(|key| *key == [4; 32]));
    }

    /// Whatever one byte becomes: no key.
    #[test]
    fn every_byte_of_an_envelope_is_checked() {
        let root = root(1);
        let config = config(&root);
        let envelope = envelope(&config, &root);
        for at in 0..Envelope::BYTES {
            let mut bytes = [0; Envelope::BYTES];
            bytes.copy_from_slice(envelope.as_bytes());
            bytes[at] ^= 1;
            let expected =
                if at < 16 { ReleaseFault::EnvelopeMalformed } else { ReleaseFault::EnvelopeUntrusted };
            let verified = Envelope::read(&bytes).and_then(|envelope| envelope.verify(&config)).map(drop);
            assert_eq!(verified, Err(expected), "byte {at}");
        }
    }

    #[test]
    fn an_envelope_of_another_length_root_tenant_or_vm_is_refused_with_its_reason() {
        let (tenant, host) = (root(1), root(2));
        let config = config(&tenant);
        let bytes = envelope(&config, &tenant);
        let read = |bytes: &[u8]| Envelope::read(bytes).map(drop);
        for cut in 0..Envelope::BYTES {
            assert_eq!(read(&bytes.as_bytes()[..cut]), Err(ReleaseFault::EnvelopeMalformed));
        }
        let mut longer = [0; Envelope::BYTES + 1];
        longer[..Envelope::BYTES].copy_from_slice(bytes.as_bytes());
        assert_eq!(read(&longer), Err(ReleaseFault::EnvelopeMalformed));
        let verified = |envelope: Envelope| envelope.verify(&config).map(drop);
        assert_eq!(verified(envelope(&config, &host)), Err(ReleaseFault::EnvelopeUntrusted));
        for other in [LaunchConfig { vm: [9; 16], ..config }, LaunchConfig { tenant: [9; 16], ..config }] {
            assert_eq!(verified(envelope(&other, &tenant)), Err(ReleaseFault::EnvelopeOfAnother));
        }
    }
}
