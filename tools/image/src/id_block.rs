//! ID blocks: what a tenant signs so that the processor itself refuses any other image, policy or age.
//!
//! **What.** [`IdBlock`] and [`IdAuth`] (AMD 56860, tables "ID block" and "ID authentication information", keys and signatures
//! as in its chapter on ECDSA), made by [`sign`] with P-384 keys.
//! **Trust.** The key files, which only their owner may read.
//! **Laws.** Signatures are deterministic (RFC 6979): the same input gives the same bytes. A policy that the processor
//! refuses, or that gives memory away, is not signed unless the caller insists.
//! **Not here.** Which digest to sign: [`crate::plan`], [`crate::ovmf_launch`].

use crate::igvm_file::IdBlockHeader;
use core::mem::{offset_of, size_of};
use p384::SecretKey;
use p384::ecdsa::signature::Signer as _;
use p384::ecdsa::{Signature, SigningKey};
use p384::elliptic_curve::sec1::ToSec1Point as _;
use p384::pkcs8::DecodePrivateKey as _;
use sha2::{Digest as _, Sha384};
use std::path::{Path, PathBuf};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout, Unaligned};

/// ID_KEY_ALGO and AUTHOR_KEY_ALGO: ECDSA P-384 with SHA-384.
const ALGORITHM: u32 = 1;
/// The curve's number: P-384.
const CURVE: u32 = 2;
/// VERSION of the ID block.
const VERSION: u32 = 1;
/// Bytes of an integer of P-384.
const INTEGER_BYTES: usize = 48;

/// What is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdBlock {
    /// The only launch digest that may run.
    pub launch_digest: [u8; 48],
    /// The tenant's word for a family of images; shown in reports.
    pub family_id: [u8; 16],
    /// The tenant's word for this image; shown in reports.
    pub image_id: [u8; 16],
    /// VERSION: 1.
    pub version: U32,
    /// The image's security version; shown in reports.
    pub guest_svn: U32,
    /// The only policy that may run.
    pub policy: U64,
}

/// A public key as the processor has it; its digest is over all bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EcdsaKey {
    /// 2: P-384; 0: no key.
    pub curve: U32,
    /// Little-endian.
    pub qx: [u8; 72],
    /// Little-endian.
    pub qy: [u8; 72],
    zero: [u8; 880],
}

/// A signature as the processor has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EcdsaSignature {
    /// Little-endian.
    pub r: [u8; 72],
    /// Little-endian.
    pub s: [u8; 72],
    zero: [u8; 368],
}

/// The page of keys and signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdAuth {
    /// 1: ECDSA P-384 with SHA-384.
    pub id_key_algorithm: U32,
    /// The same, or 0 without an author key.
    pub author_key_algorithm: U32,
    zero: [u8; 56],
    /// The ID key's signature over the ID block.
    pub id_block_signature: EcdsaSignature,
    /// The ID key.
    pub id_key: EcdsaKey,
    zero_after_key: [u8; 60],
    /// The author key's signature over the ID key.
    pub id_key_signature: EcdsaSignature,
    /// The author key.
    pub author_key: EcdsaKey,
    zero_at_end: [u8; 892],
}

const _: () = assert!(size_of::<IdBlock>() == 96);
const _: () = assert!(offset_of!(IdBlock, version) == 0x50);
const _: () = assert!(offset_of!(IdBlock, guest_svn) == 0x54);
const _: () = assert!(offset_of!(IdBlock, policy) == 0x58);
const _: () = assert!(size_of::<EcdsaKey>() == 0x404);
const _: () = assert!(size_of::<EcdsaSignature>() == 512);
const _: () = assert!(offset_of!(IdAuth, id_block_signature) == 0x40);
const _: () = assert!(offset_of!(IdAuth, id_key) == 0x240);
const _: () = assert!(offset_of!(IdAuth, id_key_signature) == 0x680);
const _: () = assert!(offset_of!(IdAuth, author_key) == 0x880);
const _: () = assert!(size_of::<IdAuth>() == 4096);

impl EcdsaKey {
    /// SHA-384 over all bytes: ID_KEY_DIGEST or AUTHOR_KEY_DIGEST of a report.
    #[must_use]
    pub fn digest(&self) -> [u8; 48] {
        Sha384::digest(self.as_bytes()).into()
    }
}

/// An IGVM file's ID block, for a launch under `policy`, in the form in which the processor takes it.
#[must_use]
pub fn from_header(header: &IdBlockHeader, policy: u64) -> (IdBlock, IdAuth) {
    let block = IdBlock {
        launch_digest: header.ld,
        family_id: header.family_id,
        image_id: header.image_id,
        version: header.version.into(),
        guest_svn: header.guest_svn.into(),
        policy: policy.into(),
    };
    let mut auth = IdAuth::new_zeroed();
    auth.id_key_algorithm = header.id_key_algorithm.into();
    auth.author_key_algorithm = header.author_key_algorithm.into();
    auth.id_block_signature.r = header.id_key_signature.r_comp;
    auth.id_block_signature.s = header.id_key_signature.s_comp;
    auth.id_key_signature.r = header.author_key_signature.r_comp;
    auth.id_key_signature.s = header.author_key_signature.s_comp;
    for (key, from) in
        [(&mut auth.id_key, &header.id_public_key), (&mut auth.author_key, &header.author_public_key)]
    {
        key.curve = from.curve.into();
        key.qx = from.qx;
        key.qy = from.qy;
    }
    (block, auth)
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum IdBlockError {
    /// The key file itself.
    #[error(transparent)]
    File(#[from] husk_files::PrivateFileError),
    /// Not a P-384 key.
    #[error(
        "{0} holds no P-384 private key in PEM form; make one with: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384"
    )]
    Key(PathBuf),
    /// The processor refuses the policy.
    #[error("policy {0:#x} is one that no processor takes: bit 17 must be set and bits 26 to 63 clear")]
    Policy(u64),
    /// The policy gives the guest's memory away.
    #[error(
        "policy {0:#x} lets the host read the guest's memory (bit 19, debugging) or hands it to a migration agent (bit 18); nothing that Husk promises holds then"
    )]
    WeakPolicy(u64),
    /// The arithmetic failed.
    #[error("the key did not sign; try again, or make another key")]
    Signing,
}

/// A tenant's key.
pub struct IdentityKey(SigningKey);

impl core::fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("IdentityKey")
    }
}

impl IdentityKey {
    /// Reads a key file that only its owner may read: PEM, PKCS #8 or SEC 1.
    ///
    /// # Errors
    /// [`IdBlockError::File`], [`IdBlockError::Key`].
    pub fn read(path: &Path) -> Result<Self, IdBlockError> {
        const SEC1: &str = "-----BEGIN EC PRIVATE KEY-----";
        let text = husk_files::read(path)?;
        // `openssl ecparam -genkey` writes the curve's name in a block before the key.
        let key = match text.find(SEC1) {
            Some(at) => text.get(at..).and_then(|pem| SecretKey::from_sec1_pem(pem).ok()),
            None => SecretKey::from_pkcs8_pem(&text).ok(),
        };
        key.map(|key| Self(SigningKey::from(&key))).ok_or_else(|| IdBlockError::Key(path.to_owned()))
    }

    /// The public half.
    ///
    /// # Errors
    /// [`IdBlockError::Signing`], if the key is no point of the curve.
    pub fn public(&self) -> Result<EcdsaKey, IdBlockError> {
        let point = self.0.verifying_key().as_affine().to_sec1_point(false);
        let coordinates = point.as_bytes().get(1..).and_then(|bytes| bytes.split_at_checked(INTEGER_BYTES));
        let (x, y) = coordinates.ok_or(IdBlockError::Signing)?;
        let mut key = EcdsaKey::new_zeroed();
        key.curve = CURVE.into();
        key.qx = little_endian(x);
        key.qy = little_endian(y);
        Ok(key)
    }

    fn sign(&self, message: &[u8]) -> Result<EcdsaSignature, IdBlockError> {
        let signature: Signature = self.0.try_sign(message).map_err(|_| IdBlockError::Signing)?;
        let (r, s) = signature.split_bytes();
        let mut signed = EcdsaSignature::new_zeroed();
        signed.r = little_endian(&r);
        signed.s = little_endian(&s);
        Ok(signed)
    }
}

/// A big-endian integer as the processor writes it.
fn little_endian(integer: &[u8]) -> [u8; 72] {
    let mut bytes = [0; 72];
    bytes.iter_mut().zip(integer.iter().rev()).for_each(|(byte, digit)| *byte = *digit);
    bytes
}

/// What a tenant says of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The launch digest.
    pub launch_digest: [u8; 48],
    /// FAMILY_ID.
    pub family_id: [u8; 16],
    /// IMAGE_ID.
    pub image_id: [u8; 16],
    /// GUEST_SVN.
    pub guest_svn: u32,
    /// POLICY.
    pub policy: u64,
}

/// Which policies are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyRule {
    /// Those under which the guest's memory stays its own.
    Strong,
    /// Also those under which it does not, for development.
    EvenWeak,
}

/// Signs `statement`.
///
/// # Errors
/// [`IdBlockError`].
pub fn sign(
    statement: &Statement,
    rule: PolicyRule,
    id_key: &IdentityKey,
    author_key: Option<&IdentityKey>,
) -> Result<(IdBlock, IdAuth), IdBlockError> {
    check_policy(statement.policy, rule)?;
    let block = IdBlock {
        launch_digest: statement.launch_digest,
        family_id: statement.family_id,
        image_id: statement.image_id,
        version: VERSION.into(),
        guest_svn: statement.guest_svn.into(),
        policy: statement.policy.into(),
    };
    let mut auth = IdAuth::new_zeroed();
    auth.id_key_algorithm = ALGORITHM.into();
    auth.id_key = id_key.public()?;
    auth.id_block_signature = id_key.sign(block.as_bytes())?;
    if let Some(author) = author_key {
        auth.author_key_algorithm = ALGORITHM.into();
        auth.author_key = author.public()?;
        auth.id_key_signature = author.sign(auth.id_key.as_bytes())?;
    }
    Ok((block, auth))
}

/// POLICY (AMD 56860, table "Guest policy").
fn check_policy(policy: u64, rule: PolicyRule) -> Result<(), IdBlockError> {
    const MUST: u64 = 1 << 17;
    const WEAK: u64 = 1 << 18 | 1 << 19;
    if policy & MUST == 0 || policy >> 26 != 0 {
        return Err(IdBlockError::Policy(policy));
    }
    if policy & WEAK != 0 && rule == PolicyRule::Strong {
        return Err(IdBlockError::WeakPolicy(policy));
    }
    Ok(())
}
