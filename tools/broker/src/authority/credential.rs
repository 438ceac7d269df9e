//! TPM2_MakeCredential, as the authority runs it: what only the holder of an endorsement key opens, and only for one object.
//!
//! TPM 2.0 part 1, "Credential Protection", with the key derivations of "KDFa()" and "KDFe()".

use crate::world::World;
use aes::{Aes128, Aes256};
use cfb_mode::cipher::KeyIvInit;
use hmac::{Hmac, KeyInit, Mac};
use husk::engine::EndorsementKey;
use husk::release::wire::WireCredential;
use husk_evidence::EndorsementPublic;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use sha2::{Digest, Sha256, Sha384};
use zerocopy::byteorder::little_endian::U16;
use zeroize::Zeroizing;

/// Labels end in a zero byte, which is hashed (part 1, "KDFa()").
const IDENTITY: &str = "IDENTITY\0";
const STORAGE: &[u8] = b"STORAGE\0";
const INTEGRITY: &[u8] = b"INTEGRITY\0";
/// Scalars outside [1, n) come up once in 2^32 draws on P-256.
const DRAWS_MAX: usize = 8;

/// Why there is no credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// The machine has no entropy.
    #[error("the machine's entropy source failed")]
    Entropy,
    /// The public key is none.
    #[error("the endorsement key is no key of its kind")]
    BadKey,
}

/// What TPM2_ActivateCredential takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Content of TPM2B_ID_OBJECT.
    pub blob: Vec<u8>,
    /// Content of TPM2B_ENCRYPTED_SECRET.
    pub secret: Vec<u8>,
}

impl Credential {
    /// Writes it to its place on the wire, which is zeros; nothing if it does not fit.
    pub(crate) fn write(&self, place: &mut WireCredential) -> Option<()> {
        place.blob.get_mut(..self.blob.len())?.copy_from_slice(&self.blob);
        place.secret.get_mut(..self.secret.len())?.copy_from_slice(&self.secret);
        place.blob_bytes = U16::new(u16::try_from(self.blob.len()).ok()?);
        place.secret_bytes = U16::new(u16::try_from(self.secret.len()).ok()?);
        Some(())
    }
}

/// The hash of a key's name, which is that of its credentials too.
#[derive(Clone, Copy)]
enum Hash {
    Sha256,
    Sha384,
}

impl Hash {
    const fn bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
        }
    }

    fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        match self {
            Self::Sha256 => digest::<Sha256>(parts),
            Self::Sha384 => digest::<Sha384>(parts),
        }
    }

    fn mac(self, key: &[u8], parts: &[&[u8]]) -> Result<Vec<u8>, CredentialError> {
        match self {
            Self::Sha256 => mac::<Hmac<Sha256>>(key, parts),
            Self::Sha384 => mac::<Hmac<Sha384>>(key, parts),
        }
    }

    /// KDFa for at most one block of this hash.
    fn kdf_a(
        self,
        key: &[u8],
        (label, context): (&[u8], &[u8]),
        bytes: usize,
    ) -> Result<Zeroizing<Vec<u8>>, CredentialError> {
        let parts = [&1_u32.to_be_bytes()[..], label, context, &bits(bytes)];
        let mut block = self.mac(key, &parts)?;
        block.truncate(bytes);
        Ok(Zeroizing::new(block))
    }
}

fn digest<D: Digest>(parts: &[&[u8]]) -> Vec<u8> {
    parts.iter().fold(D::new(), |digest, part| digest.chain_update(part)).finalize().to_vec()
}

fn mac<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Result<Vec<u8>, CredentialError> {
    let mac = <M as KeyInit>::new_from_slice(key).map_err(|_| CredentialError::BadKey)?;
    let mac = parts.iter().fold(mac, |mut mac, part| {
        mac.update(part);
        mac
    });
    Ok(mac.finalize().into_bytes().to_vec())
}

/// Lengths here are of keys: at most 48 bytes.
fn bits(bytes: usize) -> [u8; 4] {
    u32::try_from(8 * bytes).unwrap_or(u32::MAX).to_be_bytes()
}

/// A TPM2B. Lengths here are at most 256 bytes.
fn sized(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes()[..], bytes].concat()
}

/// Makes the credential that carries `carried` to the holder of `key`, for the object of that Name.
///
/// # Errors
/// [`CredentialError`].
pub fn make(
    world: &dyn World,
    key: &EndorsementPublic,
    object: &[u8],
    carried: &[u8; 32],
) -> Result<Credential, CredentialError> {
    let (hash, (seed, secret)) = match key.key() {
        EndorsementKey::Rsa2048 => (Hash::Sha256, rsa_seed(world, key)?),
        EndorsementKey::P256 => (Hash::Sha256, p256_seed(world, key)?),
        EndorsementKey::P384 => (Hash::Sha384, p384_seed(world, key)?),
    };
    let mut identity = sized(carried);
    let refused = |_| CredentialError::BadKey;
    if let EndorsementKey::P384 = key.key() {
        let symmetric = hash.kdf_a(&seed, (STORAGE, object), 32)?;
        let cipher = cfb_mode::Encryptor::<Aes256>::new_from_slices(&symmetric, &[0; 16]).map_err(refused)?;
        cipher.encrypt(&mut identity);
    } else {
        let symmetric = hash.kdf_a(&seed, (STORAGE, object), 16)?;
        let cipher = cfb_mode::Encryptor::<Aes128>::new_from_slices(&symmetric, &[0; 16]).map_err(refused)?;
        cipher.encrypt(&mut identity);
    }
    let integrity = hash.kdf_a(&seed, (INTEGRITY, &[]), hash.bytes())?;
    let outer = hash.mac(&integrity, &[&identity, object])?;
    Ok(Credential { blob: [sized(&outer), identity].concat(), secret })
}

/// The seed, and what carries it to the key.
type Seed = (Zeroizing<Vec<u8>>, Vec<u8>);

/// Part 1, annex B, "Secret Sharing" with RSA: OAEP with the name's hash and the label.
fn rsa_seed(world: &dyn World, key: &EndorsementPublic) -> Result<Seed, CredentialError> {
    let [modulus] = key.parts() else { return Err(CredentialError::BadKey) };
    let exponent = rsa::BigUint::from(65_537_u32);
    let public = rsa::RsaPublicKey::new(rsa::BigUint::from_bytes_be(modulus), exponent);
    let public = public.map_err(|_| CredentialError::BadKey)?;
    let (mut seed, mut start) = (Zeroizing::new(vec![0; 32]), Zeroizing::new([0; 32]));
    world
        .fill(&mut seed)
        .and_then(|()| world.fill(start.as_mut_slice()))
        .map_err(|_| CredentialError::Entropy)?;
    let padding = rsa::Oaep::new_with_label::<rsa::sha2::Sha256, _>(IDENTITY);
    let secret = public.encrypt(&mut ChaCha20Rng::from_seed(*start), padding, &seed);
    Ok((seed, secret.map_err(|_| CredentialError::BadKey)?))
}

macro_rules! agreement {
    ($name:ident, $curve:ident, $hash:expr, $bytes:literal) => {
        /// Part 1, annex C, "Secret Sharing" with ECC: one pass of Diffie-Hellman, and KDFe.
        fn $name(world: &dyn World, key: &EndorsementPublic) -> Result<Seed, CredentialError> {
            let [x, y] = key.parts() else { return Err(CredentialError::BadKey) };
            let point = [&[4][..], x, y].concat();
            let public = $curve::PublicKey::from_sec1_bytes(&point).map_err(|_| CredentialError::BadKey)?;
            let ephemeral = (0..DRAWS_MAX).find_map(|_| {
                let mut scalar = Zeroizing::new([0; $bytes]);
                world.fill(scalar.as_mut_slice()).ok()?;
                $curve::SecretKey::from_slice(scalar.as_slice()).ok()
            });
            let ephemeral = ephemeral.ok_or(CredentialError::Entropy)?;
            let own =
                $curve::elliptic_curve::sec1::ToSec1Point::to_sec1_point(&ephemeral.public_key(), false);
            let (own_x, own_y) = own
                .as_bytes()
                .get(1..)
                .and_then(|own| own.split_at_checked($bytes))
                .ok_or(CredentialError::BadKey)?;
            let shared = ephemeral.diffie_hellman(&public);
            let parts = [
                &1_u32.to_be_bytes()[..],
                shared.raw_secret_bytes().as_slice(),
                IDENTITY.as_bytes(),
                own_x,
                x,
            ];
            Ok((Zeroizing::new($hash.digest(&parts)), [sized(own_x), sized(own_y)].concat()))
        }
    };
}

agreement!(p256_seed, p256, Hash::Sha256, 32);
agreement!(p384_seed, p384, Hash::Sha384, 48);
