//! The broker's own keys, and how epoch secrets rest in the database.
//!
//! **What.** [`RootKeys`] is the content of the root key file (`file`): the broker's id, the wrapping key and the signing
//! key. [`RootKeys::wrap`] seals one epoch secret for one row of the database. [`TenantRoot`] is the tenant's own key, [`OperatorKey`] one
//! that it lets sign orders.
//! **Trust.** The root key file, with its passphrase or its token if it has one. Whoever has it and the database can read every epoch
//! secret.
//! **Laws.** Every wrap has its own key: HKDF-SHA-384 over a fresh 32-byte salt and the tenant's and VM's names, so a
//! nonce cannot repeat. A wrapped secret opens only for the tenant, VM, epoch and token it was made for. After a rotation
//! nothing that an older database holds opens with the new file.
//! **Not here.** Where the wrapped bytes lie, and wrapping them anew (`store`).

mod file;
mod operator;
mod recovery;
mod resource;
mod tenant;
mod unlock;

pub use file::{Opener, Passphrase};
pub use operator::OperatorKey;
pub use recovery::RecoveryKey;
pub use resource::RESOURCE_BYTES_MAX;
pub use tenant::TenantRoot;

use crate::ids::{TenantId, VmName};
use crate::rules::SecretName;
use crate::world::World;
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use hkdf::Hkdf;
use husk::release::transcript::{AgreementKey, SigningKey};
use husk::secret::Secret;
use husk_files::PrivateFileError;
use sha2::Sha384;
use zeroize::Zeroizing;

/// The generation of a broker's first signing key.
pub const KEY_GENERATION: u32 = 1;
const WRAP_LABEL: &[u8] = b"HUSK v1 broker wrap\0";
const AUTHORITY_LABEL: &[u8] = b"HUSK v1 authority wrap\0";
const RESTORE_LABEL: &[u8] = b"HUSK v1 broker restore\0";
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
    /// The file is protected.
    #[error("{0} is protected by a passphrase; name its file with --passphrase-file")]
    PassphraseNeeded(String),
    /// The file is not protected.
    #[error("{0} is not protected by a passphrase, although one was given")]
    PassphraseForNothing(String),
    /// It does not open.
    #[error("{0} does not open: the passphrase is another, or the file was altered")]
    PassphraseWrong(String),
    /// Too short to be worth its while.
    #[error("a passphrase has 12 to 1024 bytes, in the first line of its file")]
    PassphraseLength,
    /// The file is sealed by a token.
    #[error(
        "{0} is sealed by a PKCS #11 token; name it with --pkcs11-module, --pkcs11-token and --pkcs11-pin-file"
    )]
    TokenNeeded(String),
    /// The file is not sealed by a token.
    #[error("{0} is not sealed by a PKCS #11 token, although one was named for it")]
    TokenForNothing(String),
    /// The token gave nothing.
    #[error(transparent)]
    Token(#[from] crate::token::TokenError),
    /// The machine has no entropy.
    #[error("the machine's entropy source failed")]
    Entropy,
    /// A wrapped secret does not open.
    #[error("a secret in the database was altered, or moved from another row; restore the database")]
    Altered,
    /// A key could not be derived.
    #[error("a key could not be derived; report this")]
    Bug,
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
    broker: [u8; 16],
    wrapping: Secret<32>,
    signing: StoredKey,
}

/// A signing key that also knows how to be written to its file.
#[derive(Debug)]
struct StoredKey {
    scalar: Secret<48>,
    key: SigningKey,
}

impl RootKeys {
    /// Makes new keys.
    ///
    /// # Errors
    /// [`VaultError::Entropy`].
    pub fn generate(world: &dyn World) -> Result<Self, VaultError> {
        let mut broker = [0; 16];
        world.fill(&mut broker).map_err(|_| VaultError::Entropy)?;
        Ok(Self { broker, wrapping: fresh_secret(world)?, signing: StoredKey::generate(world)? })
    }

    /// The same broker with another wrapping key.
    ///
    /// # Errors
    /// [`VaultError::Entropy`].
    pub fn rotated(&self, world: &dyn World) -> Result<Self, VaultError> {
        let mut scalar = self.signing.scalar.with(|scalar| Zeroizing::new(*scalar));
        let signing = StoredKey::of(&mut scalar).ok_or(VaultError::Bug)?;
        Ok(Self { broker: self.broker, wrapping: fresh_secret(world)?, signing })
    }

    /// What the broker signs hellos and grants with.
    #[must_use]
    pub const fn signing(&self) -> &SigningKey {
        &self.signing.key
    }

    /// The broker's name in its certificates.
    #[must_use]
    pub const fn broker(&self) -> [u8; 16] {
        self.broker
    }

    /// A value that tells whether a database belongs to these keys, and nothing of them.
    ///
    /// # Errors
    /// [`VaultError::Bug`].
    pub fn database_check(&self) -> Result<[u8; 16], VaultError> {
        let mut check = [0; 16];
        let derived =
            self.wrapping.with(|key| Hkdf::<Sha384>::new(None, key).expand(CHECK_LABEL, &mut check));
        derived.map_err(|_| VaultError::Bug)?;
        Ok(check)
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
        self.seal(world, secret, |salt| self.cipher(salt, vm), &place(vm, name))
    }

    /// Opens what [`RootKeys::wrap`] sealed for that very row, epoch and token.
    ///
    /// # Errors
    /// [`VaultError::Altered`].
    pub fn unwrap(&self, vm: &VmName, name: SecretName, wrapped: &Wrapped) -> Result<Secret<32>, VaultError> {
        open(wrapped, self.cipher(&wrapped.salt, vm)?, &place(vm, name))
    }

    /// Seals what a tenant's authority is derived from.
    ///
    /// # Errors
    /// [`VaultError::Entropy`].
    pub fn wrap_authority(
        &self,
        world: &dyn World,
        tenant: TenantId,
        secret: &Secret<32>,
    ) -> Result<Wrapped, VaultError> {
        self.seal(world, secret, |salt| self.derived(salt, &[AUTHORITY_LABEL, &tenant.0]), &tenant.0)
    }

    /// Opens what [`RootKeys::wrap_authority`] sealed for that very tenant.
    ///
    /// # Errors
    /// [`VaultError::Altered`].
    pub fn unwrap_authority(&self, tenant: TenantId, wrapped: &Wrapped) -> Result<Secret<32>, VaultError> {
        open(wrapped, self.derived(&wrapped.salt, &[AUTHORITY_LABEL, &tenant.0])?, &tenant.0)
    }

    /// The key of the one restore that can be ordered of `vm` while it has this token and generation. It is in no database.
    ///
    /// # Errors
    /// [`VaultError::Bug`].
    pub fn restore_key(
        &self,
        vm: &VmName,
        (token, generation): (u64, u32),
    ) -> Result<AgreementKey, VaultError> {
        let info = [RESTORE_LABEL, &vm.tenant.0, &vm.vm.0, &token.to_le_bytes(), &generation.to_le_bytes()];
        let mut scalar = Zeroizing::new([0; 48]);
        let derived = self
            .wrapping
            .with(|root| Hkdf::<Sha384>::new(None, root).expand_multi_info(&info, scalar.as_mut_slice()));
        derived.map_err(|_| VaultError::Bug)?;
        // One scalar in 2^190 is none of the curve's.
        AgreementKey::from_scalar(&mut scalar).map_err(|_| VaultError::Bug)
    }

    fn seal(
        &self,
        world: &dyn World,
        secret: &Secret<32>,
        cipher: impl FnOnce(&[u8; 32]) -> Result<Aes256Gcm, VaultError>,
        place: &[u8],
    ) -> Result<Wrapped, VaultError> {
        let mut salt = [0; 32];
        world.fill(&mut salt).map_err(|_| VaultError::Entropy)?;
        let mut sealed = [0; 48];
        let (body, tag) = sealed.split_at_mut(32);
        secret.with(|bytes| body.copy_from_slice(bytes));
        let made = cipher(&salt)?
            .encrypt_inout_detached(&Nonce::default(), place, (&mut *body).into())
            .map_err(|_| VaultError::Altered)?;
        tag.copy_from_slice(&made);
        Ok(Wrapped { salt, sealed })
    }

    /// The cipher of one wrap: its salt is fresh, so its key is used once and the nonce may be zero.
    fn cipher(&self, salt: &[u8; 32], vm: &VmName) -> Result<Aes256Gcm, VaultError> {
        self.derived(salt, &[WRAP_LABEL, &vm.tenant.0, &vm.vm.0])
    }

    fn derived(&self, salt: &[u8; 32], info: &[&[u8]]) -> Result<Aes256Gcm, VaultError> {
        let mut key = Zeroizing::new([0; 32]);
        let derived = self
            .wrapping
            .with(|root| Hkdf::<Sha384>::new(Some(salt), root).expand_multi_info(info, key.as_mut_slice()));
        derived.map_err(|_| VaultError::Bug)?;
        Ok(Aes256Gcm::new(&(*key).into()))
    }
}

fn open(wrapped: &Wrapped, cipher: Aes256Gcm, place: &[u8]) -> Result<Secret<32>, VaultError> {
    let (body, tag) = wrapped.sealed.split_at(32);
    let tag = <[u8; 16]>::try_from(tag).map_err(|_| VaultError::Altered)?;
    Secret::try_fill(|secret: &mut [u8; 32]| {
        secret.copy_from_slice(body);
        cipher
            .decrypt_inout_detached(&Nonce::default(), place, secret.as_mut_slice().into(), &Tag::from(tag))
            .map_err(|_| VaultError::Altered)
    })
}

/// 32 fresh bytes.
///
/// # Errors
/// [`VaultError::Entropy`].
pub fn fresh_secret(world: &dyn World) -> Result<Secret<32>, VaultError> {
    Secret::try_fill(|bytes: &mut [u8; 32]| world.fill(bytes)).map_err(|_| VaultError::Entropy)
}

impl StoredKey {
    /// Draws a key by rejection.
    fn generate(world: &dyn World) -> Result<Self, VaultError> {
        for _ in 0..KEY_DRAWS_MAX {
            let mut scalar = [0; 48];
            world.fill(&mut scalar).map_err(|_| VaultError::Entropy)?;
            if let Some(key) = Self::of(&mut scalar) {
                return Ok(key);
            }
        }
        Err(VaultError::Entropy)
    }

    /// Takes the scalar away from the caller.
    fn of(scalar: &mut [u8; 48]) -> Option<Self> {
        let key = SigningKey::from_scalar(&mut scalar.clone()).ok();
        let scalar = Secret::take(scalar);
        key.map(|key| Self { scalar, key })
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

#[cfg(test)]
mod tests {
    use super::{RootKeys, TenantRoot, VaultError, fresh_secret};
    use crate::ids::{TenantId, VmId, VmName};
    use crate::rules::SecretName;
    use crate::world::Machine;
    use husk::release::transcript::{certificate_digest, verifies};

    const VM: VmName = VmName { tenant: TenantId([1; 16]), vm: VmId([2; 16]) };
    const NAME: SecretName = SecretName { token: 3, epoch: 4 };

    #[test]
    fn a_wrapped_secret_opens_only_in_its_place() {
        let world = Machine::start();
        let keys = RootKeys::generate(&world).unwrap();
        let secret = fresh_secret(&world).unwrap();
        let wrapped = keys.wrap(&world, &VM, NAME, &secret).unwrap();
        let opened = keys.unwrap(&VM, NAME, &wrapped).unwrap();
        assert!(secret.with(|a| opened.with(|b| a == b)));
        assert_ne!(wrapped, keys.wrap(&world, &VM, NAME, &secret).unwrap());
        let refused = |vm, name, wrapped| {
            assert!(matches!(keys.unwrap(&vm, name, &wrapped), Err(VaultError::Altered)));
        };
        refused(VmName { vm: VmId([9; 16]), ..VM }, NAME, wrapped.clone());
        refused(VmName { tenant: TenantId([9; 16]), ..VM }, NAME, wrapped.clone());
        refused(VM, SecretName { token: 9, ..NAME }, wrapped.clone());
        refused(VM, SecretName { epoch: 9, ..NAME }, wrapped.clone());
        for at in 0..48 {
            let mut other = wrapped.clone();
            other.sealed[at] ^= 1;
            refused(VM, NAME, other);
        }
        for at in 0..32 {
            let mut other = wrapped.clone();
            other.salt[at] ^= 1;
            refused(VM, NAME, other);
        }
    }

    #[test]
    fn the_root_key_file_reads_what_it_wrote_and_nothing_else() {
        let world = Machine::start();
        let keys = RootKeys::generate(&world).unwrap();
        let folder = std::env::temp_dir().join(format!("husk-vault-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("root");
        keys.write(&path).unwrap();
        let read = RootKeys::read(&path).unwrap();
        assert_eq!(read.broker, keys.broker);
        assert_eq!(read.signing().point(), keys.signing().point());
        assert_eq!(read.database_check().unwrap(), keys.database_check().unwrap());
        let text = std::fs::read_to_string(&path).unwrap();
        for cut in 0..text.len() - 1 {
            std::fs::write(&path, &text[..cut]).unwrap();
            assert!(matches!(RootKeys::read(&path), Err(VaultError::Malformed(..))), "cut at {cut}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_certificate_is_the_tenants_word() {
        let world = Machine::start();
        let (keys, tenant) = (RootKeys::generate(&world).unwrap(), TenantRoot::generate(&world).unwrap());
        let mut certificate = tenant.certify(VM.tenant, &keys).unwrap();
        assert!(verifies(tenant.point(), &certificate_digest(&certificate), &certificate.signature));
        certificate.tenant[0] ^= 1;
        assert!(!verifies(tenant.point(), &certificate_digest(&certificate), &certificate.signature));
    }
}
