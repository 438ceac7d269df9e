//! A resource that is encrypted to this launch's TEE key.
//!
//! **What.** [`TeeKey`], drawn for one conversation; [`open`] takes a JWE in its flattened JSON form (RFC 7516, section 7.2.2) apart and opens it:
//! ECDH-ES+A256KW on P-256 (RFC 7518, section 4.6) and A256GCM.
//! **Trust.** The key's private half. The JWE may come from anybody: a TEE key is public.
//! **Laws.** One algorithm, one curve; every header that would change what is computed is refused, not ignored. What is
//! authenticated is the protected header as it came, never as it would be written again.
//! **Not here.** Whether what is inside is the tenant's: [`super::envelope`].

use super::super::ReleaseFault;
use super::answer::{exactly, parse};
use crate::attest::runtime::{COORDINATE_BYTES, KEY_ALGORITHM, KEY_CURVE};
use crate::seams::Entropy;
use crate::secret::Secret;
use aes_gcm::aead::{AeadInOut, KeyInit, Nonce, Tag};
use aes_gcm::{Aes256Gcm, Key};
use aes_kw::KwAes256;
use base64ct::{Base64UrlUnpadded, Encoding as _};
use p256::elliptic_curve::sec1::ToSec1Point as _;
use p256::{PublicKey, SecretKey};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroize as _;

/// The content's cipher (RFC 7518, section 5.3).
const CIPHER: &str = "A256GCM";
/// The longest protected header in bytes.
const PROTECTED_BYTES_MAX: usize = 512;
/// Length of [`KEY_ALGORITHM`].
const ALGORITHM_BYTES: u32 = 14;
const _: () = assert!(KEY_ALGORITHM.len() == ALGORITHM_BYTES as usize);
/// A wrapped key of 32 bytes (RFC 3394).
const WRAPPED_BYTES: usize = 40;
/// Size of an uncompressed P-256 point (SEC 1, section 2.3.3).
const POINT_BYTES: usize = 1 + 2 * COORDINATE_BYTES;

/// A scalar out of range comes up once in 2^32 draws; a source that yields four is broken.
const DRAWS_MAX: usize = 4;

/// The key of one conversation with a KBS.
pub struct TeeKey {
    secret: SecretKey,
    point: [u8; POINT_BYTES],
}

impl TeeKey {
    /// Draws a key by rejection.
    ///
    /// # Errors
    /// [`ReleaseFault::Entropy`].
    pub fn generate(entropy: &mut dyn Entropy) -> Result<Self, ReleaseFault> {
        for _ in 0..DRAWS_MAX {
            let scalar =
                Secret::<32>::try_fill(|bytes| entropy.fill(bytes)).map_err(|_| ReleaseFault::Entropy)?;
            if let Ok(secret) = scalar.with(|bytes| SecretKey::from_slice(bytes)) {
                let mut point = [0; POINT_BYTES];
                point.copy_from_slice(secret.public_key().to_sec1_point(false).as_bytes());
                return Ok(Self { secret, point });
            }
        }
        Err(ReleaseFault::Entropy)
    }

    /// Its public half: x and y, big-endian.
    #[must_use]
    pub fn coordinates(&self) -> ([u8; COORDINATE_BYTES], [u8; COORDINATE_BYTES]) {
        let (mut x, mut y) = ([0; COORDINATE_BYTES], [0; COORDINATE_BYTES]);
        x.copy_from_slice(&self.point[1..=COORDINATE_BYTES]);
        y.copy_from_slice(&self.point[1 + COORDINATE_BYTES..]);
        (x, y)
    }
}

impl core::fmt::Debug for TeeKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("TeeKey")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Flattened<'t> {
    protected: &'t str,
    encrypted_key: &'t str,
    iv: &'t str,
    ciphertext: &'t str,
    tag: &'t str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Protected<'t> {
    alg: &'t str,
    enc: &'t str,
    #[serde(borrow)]
    epk: EphemeralKey<'t>,
}

/// What else a key says of itself changes nothing.
#[derive(Deserialize)]
struct EphemeralKey<'t> {
    crv: &'t str,
    kty: &'t str,
    x: &'t str,
    y: &'t str,
}

/// Opens the JWE in `text` into the front of `plain` and yields what is in it.
///
/// # Errors
/// [`ReleaseFault::KbsAnswerRefused`] for a JWE that is none, or not to this key by these algorithms;
/// [`ReleaseFault::EnvelopeMalformed`] for a content that is longer than `plain`.
pub fn open<'p>(key: &TeeKey, text: &[u8], plain: &'p mut [u8]) -> Result<&'p [u8], ReleaseFault> {
    let jwe: Flattened<'_> = parse(text).ok_or(ReleaseFault::KbsAnswerRefused)?;
    let content = content_key(key, &jwe).ok_or(ReleaseFault::KbsAnswerRefused)?;
    let sealed = sealed(&jwe).ok_or(ReleaseFault::KbsAnswerRefused)?;
    let length = Base64UrlUnpadded::decode(jwe.ciphertext, plain)
        .map_err(|error| match error {
            base64ct::Error::InvalidLength => ReleaseFault::EnvelopeMalformed,
            base64ct::Error::InvalidEncoding => ReleaseFault::KbsAnswerRefused,
        })?
        .len();
    let plain = &mut plain[..length];
    let (iv, tag) = (Nonce::<Aes256Gcm>::from(sealed.iv), Tag::<Aes256Gcm>::from(sealed.tag));
    let cipher = content.with(|key| Aes256Gcm::new(&Key::<Aes256Gcm>::from(*key)));
    cipher
        .decrypt_inout_detached(&iv, jwe.protected.as_bytes(), (&mut *plain).into(), &tag)
        .map_err(|_| ReleaseFault::KbsAnswerRefused)?;
    Ok(plain)
}

/// What A256GCM takes beside key and content.
struct Sealed {
    iv: [u8; 12],
    tag: [u8; 16],
}

fn sealed(jwe: &Flattened<'_>) -> Option<Sealed> {
    let iv = exactly::<12, Base64UrlUnpadded>(jwe.iv)?;
    Some(Sealed { iv, tag: exactly::<16, Base64UrlUnpadded>(jwe.tag)? })
}

/// The key of the content: agreed upon, then unwrapped.
fn content_key(key: &TeeKey, jwe: &Flattened<'_>) -> Option<Secret<32>> {
    let mut protected = [0; PROTECTED_BYTES_MAX];
    let protected = Base64UrlUnpadded::decode(jwe.protected, &mut protected).ok()?;
    let header: Protected<'_> = parse(protected)?;
    if (header.alg, header.enc) != (KEY_ALGORITHM, CIPHER) {
        return None;
    }
    let (x, y) = peer(&header.epk)?;
    let wrapping = wrapping_key(key, &x, &y)?;
    let wrapped = exactly::<WRAPPED_BYTES, Base64UrlUnpadded>(jwe.encrypted_key)?;
    let cipher = wrapping.with(|key| KwAes256::new(key.into()));
    Secret::try_fill(|content| cipher.unwrap_key(&wrapped, content).map(drop)).ok()
}

/// The sender's coordinates, of the curve that is spoken here.
fn peer(key: &EphemeralKey<'_>) -> Option<([u8; COORDINATE_BYTES], [u8; COORDINATE_BYTES])> {
    if (key.kty, key.crv) != ("EC", KEY_CURVE) {
        return None;
    }
    let x = exactly::<COORDINATE_BYTES, Base64UrlUnpadded>(key.x)?;
    Some((x, exactly::<COORDINATE_BYTES, Base64UrlUnpadded>(key.y)?))
}

/// The key that wraps the content's: ECDH with the peer at (`x`, `y`), then Concat KDF (NIST SP 800-56A, section 5.8.1; RFC 7518,
/// section 4.6.2), one block of SHA-256 without party information. Nothing if the point is not on the curve. Compiled by both ends.
#[must_use]
pub fn wrapping_key(
    key: &TeeKey,
    x: &[u8; COORDINATE_BYTES],
    y: &[u8; COORDINATE_BYTES],
) -> Option<Secret<32>> {
    let mut point = [4; POINT_BYTES];
    let (_, coordinates) = point.split_at_mut(1);
    let (at_x, at_y) = coordinates.split_at_mut(COORDINATE_BYTES);
    at_x.copy_from_slice(x);
    at_y.copy_from_slice(y);
    let peer = PublicKey::from_sec1_bytes(&point).ok()?;
    let agreed = p256::ecdh::diffie_hellman(key.secret.to_nonzero_scalar(), peer.as_affine());
    let mut block = Sha256::new()
        .chain_update(1_u32.to_be_bytes())
        .chain_update(agreed.raw_secret_bytes())
        .chain_update(ALGORITHM_BYTES.to_be_bytes())
        .chain_update(KEY_ALGORITHM)
        .chain_update([0; 8])
        .chain_update(256_u32.to_be_bytes())
        .finalize();
    let mut bytes: [u8; 32] = block.into();
    block.as_mut_slice().zeroize();
    Some(Secret::take(&mut bytes))
}
