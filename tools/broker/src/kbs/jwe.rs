//! A resource, encrypted to the TEE key that a report names.
//!
//! **What.** [`TeeKey`] as a client shows it, and [`sealed_to`]: the flattened JSON form of a JWE (RFC 7516, section 7.2.2) by ECDH-ES+A256KW on
//! P-256 (RFC 7518, section 4.6) and A256GCM, as Trustee writes it.
//! **Trust.** The key, once a report has bound it.
//! **Laws.** Every resource gets an ephemeral key, a content key and an IV of its own.
//! **Not here.** The other algorithms of Trustee (P-521, RSA): no client that speaks ECDH needs them.

use crate::world::{World, WorldEntropy};
use aes_gcm::aead::{AeadInOut as _, KeyInit as _, Nonce};
use aes_gcm::{Aes256Gcm, Key};
use aes_kw::KwAes256;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use husk::attest::runtime::{COORDINATE_BYTES, KEY_ALGORITHM, KEY_CURVE};
use husk::release::kbs::jwe::{TeeKey as EphemeralKey, wrapping_key};
use husk::secret::Secret;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The content's cipher (RFC 7518, section 5.3).
const CIPHER: &str = "A256GCM";

/// A TEE key as RCAR shows it (a JWK, RFC 7517).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeeKey {
    alg: String,
    crv: String,
    kty: String,
    x: String,
    y: String,
}

/// Why nothing was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Another algorithm, another curve, or a point that is not on it.
    #[error("the TEE key is none for ECDH-ES+A256KW on P-256")]
    Key,
    /// The machine gave no randomness.
    #[error("this machine gives no randomness")]
    Entropy,
    /// The ciphers refused what they always take.
    #[error("a defect: the content was not encrypted")]
    Bug,
}

impl TeeKey {
    /// The key at these coordinates.
    #[must_use]
    pub fn new(x: &[u8; COORDINATE_BYTES], y: &[u8; COORDINATE_BYTES]) -> Self {
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        Self { alg: KEY_ALGORITHM.to_owned(), crv: KEY_CURVE.to_owned(), kty: "EC".to_owned(), x, y }
    }

    /// Its coordinates, if it is for the algorithm and the curve that are spoken here.
    #[must_use]
    pub fn coordinates(&self) -> Option<([u8; COORDINATE_BYTES], [u8; COORDINATE_BYTES])> {
        let spoken = (&*self.alg, &*self.crv, &*self.kty) == (KEY_ALGORITHM, KEY_CURVE, "EC");
        let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok();
        if spoken { Some((bytes(&self.x)?, bytes(&self.y)?)) } else { None }
    }
}

/// Encrypts `content` to `key`.
///
/// # Errors
/// [`SealError`].
pub fn sealed_to(key: &TeeKey, content: &[u8], world: &dyn World) -> Result<Value, SealError> {
    let (x, y) = key.coordinates().ok_or(SealError::Key)?;
    let no_entropy = |_| SealError::Entropy;
    let ephemeral = EphemeralKey::generate(&mut WorldEntropy(world)).map_err(|_| SealError::Entropy)?;
    let content_key = Secret::<32>::try_fill(|bytes| world.fill(bytes)).map_err(no_entropy)?;
    let mut iv = [0; 12];
    world.fill(&mut iv).map_err(no_entropy)?;
    let wrapping = wrapping_key(&ephemeral, &x, &y).ok_or(SealError::Key)?;
    let mut wrapped = [0; 40];
    let cipher = wrapping.with(|key| KwAes256::new(key.into()));
    content_key.with(|key| cipher.wrap_key(key, &mut wrapped).map(drop)).map_err(|_| SealError::Bug)?;
    let (x, y) = ephemeral.coordinates();
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    let protected = json!({
        "alg": KEY_ALGORITHM,
        "enc": CIPHER,
        "epk": { "crv": KEY_CURVE, "kty": "EC", "x": x, "y": y },
    });
    let protected = URL_SAFE_NO_PAD.encode(protected.to_string());
    let cipher = content_key.with(|key| Aes256Gcm::new(&Key::<Aes256Gcm>::from(*key)));
    let mut sealed = content.to_vec();
    let nonce = Nonce::<Aes256Gcm>::from(iv);
    let tag = cipher
        .encrypt_inout_detached(&nonce, protected.as_bytes(), sealed.as_mut_slice().into())
        .map_err(|_| SealError::Bug)?;
    Ok(json!({
        "protected": protected,
        "encrypted_key": URL_SAFE_NO_PAD.encode(wrapped),
        "iv": URL_SAFE_NO_PAD.encode(iv),
        "ciphertext": URL_SAFE_NO_PAD.encode(sealed),
        "tag": URL_SAFE_NO_PAD.encode(tag),
    }))
}
