//! The broker's own keys, and how epoch secrets rest in the database.
//!
//! **What.** [`RootKeys`] is the content of the root key file: the broker's id, the wrapping key and the signing key.
//! [`RootKeys::wrap`] seals one epoch secret for one row of the database.
//! **Trust.** The root key file. Whoever has it and the database can read every epoch secret.
//! **Laws.** Every wrap has its own key: HKDF-SHA-384 over a fresh 32-byte salt, so a nonce cannot repeat. A wrapped
//! secret opens only for the tenant, VM, epoch and token it was made for.
//! **Not here.** Where the wrapped bytes lie (`store`). Erasing old database backups: that is rotating this file.

use crate::ids::VmName;
use crate::private_file::{self, PrivateFileError};
use crate::rules::SecretName;
use crate::world::World;
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use hkdf::Hkdf;
use husk::secret::Secret;
use p384::ecdsa::SigningKey;
use sha2::Sha384;
use std::path::Path;
use zeroize::{Zeroize, Zeroizing};

const FILE_TITLE: &str = "husk broker root 1";
const WRAP_LABEL: &[u8] = b"HUSK v1 broker wrap\0";
const CHECK_LABEL: &[u8] = b"HUSK v1 broker database\0";
/// Keys outside [1, n) are refused; 2^-190 of all draws on P-384.
const KEY_DRAWS_MAX: usize = 8;

/// Why the vault gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The file could not be read or written.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// The file is not what `husk broker init` or `husk tenant init` wrote.
    #[error("{0} is not a {1}; point to the file that `{2}` wrote")]
    Malformed(String, &'static str, &'static str),
    /// The machine has no entropy.
    #[error("the machine's entropy source failed")]
    Entropy,
    /// A wrapped secret does not open.
    #[error("a secret in the database was altered, or moved from another row; restore the database")]
    Altered,
}

/// An epoch secret as it rests in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrapped {
    /// Makes the key.
    pub salt: [u8; 32],
    /// Ciphertext and tag.
    pub sealed: [u8; 48],
}

/// The broker's keys.
#[derive(Debug)]
pub struct RootKeys {
    /// Names the broker in its certificates.
    pub broker: [u8; 16],
    wrapping: Secret<32>,
    signing: SigningKey,
}

impl RootKeys {
    /// Makes new keys.
    ///
    /// # Errors
    /// [`VaultError::Entropy`].
    pub fn generate(world: &dyn World) -> Result<Self, VaultError> {
        let mut broker = [0; 16];
        world.fill(&mut broker).map_err(|_| VaultError::Entropy)?;
        Ok(Self { broker, wrapping: fresh_secret(world)?, signing: fresh_signing_key(world)? })
    }

    /// Writes a new root key file.
    ///
    /// # Errors
    /// [`VaultError::File`].
    pub fn write(&self, path: &Path) -> Result<(), VaultError> {
        let mut text = Zeroizing::new(String::with_capacity(512));
        let signing = Zeroizing::new(<[u8; 48]>::from(self.signing.to_bytes()));
        push_line(&mut text, "", FILE_TITLE);
        push_line(&mut text, "broker ", &hex::encode(self.broker));
        self.wrapping.with(|key| push_line(&mut text, "wrapping ", &Zeroizing::new(hex::encode(key))));
        push_line(&mut text, "signing ", &Zeroizing::new(hex::encode(signing.as_slice())));
        Ok(private_file::create(path, &text)?)
    }

    /// Reads a root key file.
    ///
    /// # Errors
    /// [`VaultError::File`], [`VaultError::Malformed`].
    pub fn read(path: &Path) -> Result<Self, VaultError> {
        let text = private_file::read(path)?;
        let malformed = || {
            VaultError::Malformed(path.display().to_string(), "broker root key file", "husk broker init")
        };
        let mut lines = text.lines();
        if lines.next() != Some(FILE_TITLE) {
            return Err(malformed());
        }
        let broker = key_line(lines.next(), "broker ").ok_or_else(malformed)?;
        let mut wrapping = key_line::<32>(lines.next(), "wrapping ").ok_or_else(malformed)?;
        let signing = key_line::<48>(lines.next(), "signing ").map(Zeroizing::new).ok_or_else(malformed)?;
        let signing = SigningKey::from_slice(signing.as_slice()).map_err(|_| malformed())?;
        if lines.next().is_some() {
            return Err(malformed());
        }
        Ok(Self { broker, wrapping: Secret::take(&mut wrapping), signing })
    }

    /// What the broker signs hellos and grants with.
    #[must_use]
    pub const fn signing(&self) -> &SigningKey {
        &self.signing
    }

    /// A value that tells whether a database belongs to these keys, and nothing of them.
    #[must_use]
    pub fn database_check(&self) -> [u8; 16] {
        let mut check = [0; 16];
        self.wrapping.with(|key| expand(&Hkdf::<Sha384>::new(None, key), &[CHECK_LABEL], &mut check));
        check
    }

    /// Seals `secret` for the row of `vm`.
    ///
    /// # Errors
    /// [`VaultError::Entropy`].
    pub fn wrap(
        &self,
        world: &dyn World,
        vm: &VmName,
        name: SecretName,
        secret: &Secret<32>,
    ) -> Result<Wrapped, VaultError> {
        let mut salt = [0; 32];
        world.fill(&mut salt).map_err(|_| VaultError::Entropy)?;
        let mut sealed = [0; 48];
        let (body, tag) = sealed.split_at_mut(32);
        secret.with(|bytes| body.copy_from_slice(bytes));
        let made = self
            .cipher(&salt, vm)
            .encrypt_inout_detached(&Nonce::default(), &place(vm, name), (&mut *body).into())
            .map_err(|_| VaultError::Altered)?;
        tag.copy_from_slice(&made);
        Ok(Wrapped { salt, sealed })
    }

    /// Opens what [`RootKeys::wrap`] sealed for that very row, epoch and token.
    ///
    /// # Errors
    /// [`VaultError::Altered`].
    pub fn unwrap(&self, vm: &VmName, name: SecretName, wrapped: &Wrapped) -> Result<Secret<32>, VaultError> {
        let (body, tag) = wrapped.sealed.split_at(32);
        let tag = <[u8; 16]>::try_from(tag).map_err(|_| VaultError::Altered)?;
        Secret::try_fill(|secret: &mut [u8; 32]| {
            secret.copy_from_slice(body);
            self.cipher(&wrapped.salt, vm)
                .decrypt_inout_detached(
                    &Nonce::default(),
                    &place(vm, name),
                    secret.as_mut_slice().into(),
                    &Tag::from(tag),
                )
                .map_err(|_| VaultError::Altered)
        })
    }

    /// The cipher of one wrap: its salt is fresh, so its key is used once and the nonce may be zero.
    fn cipher(&self, salt: &[u8; 32], vm: &VmName) -> Aes256Gcm {
        let mut key = Zeroizing::new([0; 32]);
        self.wrapping.with(|root| {
            let prk = Hkdf::<Sha384>::new(Some(salt), root);
            expand(&prk, &[WRAP_LABEL, &vm.tenant.0, &vm.vm.0], key.as_mut_slice());
        });
        Aes256Gcm::new(&(*key).into())
    }
}

/// 32 fresh bytes.
///
/// # Errors
/// [`VaultError::Entropy`].
pub fn fresh_secret(world: &dyn World) -> Result<Secret<32>, VaultError> {
    Secret::try_fill(|bytes: &mut [u8; 32]| world.fill(bytes)).map_err(|_| VaultError::Entropy)
}

/// A fresh P-384 signing key, by rejection.
///
/// # Errors
/// [`VaultError::Entropy`], also if the draws never fall into the group's order.
pub fn fresh_signing_key(world: &dyn World) -> Result<SigningKey, VaultError> {
    let mut draw = Zeroizing::new([0; 48]);
    for _ in 0..KEY_DRAWS_MAX {
        world.fill(draw.as_mut_slice()).map_err(|_| VaultError::Entropy)?;
        if let Ok(key) = SigningKey::from_slice(draw.as_slice()) {
            return Ok(key);
        }
    }
    Err(VaultError::Entropy)
}

/// Expands into a short output. HKDF-SHA-384 refuses only more than 255 × 48 bytes.
fn expand(prk: &Hkdf<Sha384>, info: &[&[u8]], out: &mut [u8]) {
    if prk.expand_multi_info(info, out).is_err() {
        out.zeroize();
        unreachable!("outputs here are at most 48 bytes");
    }
}

/// What a wrapped secret is bound to beside its key.
fn place(vm: &VmName, name: SecretName) -> [u8; 48] {
    let mut place = [0; 48];
    place[..16].copy_from_slice(&vm.tenant.0);
    place[16..32].copy_from_slice(&vm.vm.0);
    place[32..40].copy_from_slice(&name.epoch.to_le_bytes());
    place[40..].copy_from_slice(&name.token.to_le_bytes());
    place
}

fn push_line(text: &mut String, word: &str, value: &str) {
    text.push_str(word);
    text.push_str(value);
    text.push('\n');
}

fn key_line<const N: usize>(line: Option<&str>, word: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(line?.strip_prefix(word)?, &mut bytes).ok()?;
    Some(bytes)
}

const TENANT_TITLE: &str = "husk tenant root 1";

/// The tenant's root key: certifies brokers, and stays with the tenant.
#[derive(Debug)]
pub struct TenantRoot(SigningKey);

impl TenantRoot {
    /// Makes a new one.
    ///
    /// # Errors
    /// [`VaultError::Entropy`].
    pub fn generate(world: &dyn World) -> Result<Self, VaultError> {
        fresh_signing_key(world).map(Self)
    }

    /// Writes a new tenant root key file.
    ///
    /// # Errors
    /// [`VaultError::File`].
    pub fn write(&self, path: &Path) -> Result<(), VaultError> {
        let key = Zeroizing::new(<[u8; 48]>::from(self.0.to_bytes()));
        let mut text = Zeroizing::new(String::with_capacity(256));
        push_line(&mut text, "", TENANT_TITLE);
        push_line(&mut text, "key ", &Zeroizing::new(hex::encode(key.as_slice())));
        Ok(private_file::create(path, &text)?)
    }

    /// The key.
    #[must_use]
    pub const fn signing(&self) -> &SigningKey {
        &self.0
    }
}
