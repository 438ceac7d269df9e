//! The key that signs quotes.

use super::{Hash, QuoteSignature, Scheme};
use crate::numbers::Numbers;
use crate::{EndorsementPublic, EvidenceError};
use husk::bytes::{Reader, Short};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
};

/// TPM_ALG_RSA, TPM_ALG_ECC, TPM_ALG_NULL.
const RSA: u16 = 0x0001;
const ECC: u16 = 0x0023;
const NULL: u16 = 0x0010;
/// TPM_ECC_NIST_P256 and TPM_ECC_NIST_P384.
const NIST_P256: u16 = 0x0003;
const NIST_P384: u16 = 0x0004;
/// TPMA_OBJECT: fixedTPM, fixedParent, sensitiveDataOrigin, restricted, decrypt, sign.
const ATTRIBUTES: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 17 | 1 << 18;
/// As an attestation key has them: all but decrypt.
const ATTESTING: u32 = ATTRIBUTES & !(1 << 17);
/// Where an exponent of zero stands for 65537.
const EXPONENT: u32 = 65537;
/// TPM_RH_ENDORSEMENT: the parent of an endorsement key.
const ENDORSEMENT: [u8; 4] = 0x4000_000B_u32.to_be_bytes();
/// Longer than the public area of RSA-8192.
const KEY_BYTES_MAX: usize = 2048;

/// An attestation key's public half.
///
/// From its TPM2B_PUBLIC or TPMT_PUBLIC (`tpm2_createak --public`), which must say that the key signs nothing but what its TPM made
/// (restricted), that it was born there and never leaves. From PEM (`--format pem`) none of this is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttestationKey {
    numbers: Numbers,
    /// What the public area fixes: scheme and its hash.
    fixed: Option<(Scheme, Hash)>,
    name: Option<Name>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    hash: Hash,
    bytes: Vec<u8>,
}

impl AttestationKey {
    /// Reads a TPM2B_PUBLIC, a TPMT_PUBLIC or a PEM public key.
    ///
    /// # Errors
    /// [`EvidenceError::BadAttestationKey`].
    pub fn parse(bytes: &[u8]) -> Result<Self, EvidenceError> {
        if bytes.len() > KEY_BYTES_MAX {
            return Err(EvidenceError::BadAttestationKey("it is longer than any"));
        }
        if bytes.starts_with(b"-----BEGIN") {
            return from_pem(bytes);
        }
        public_area(bytes.get(2..).filter(|rest| is_sized(bytes, rest)).unwrap_or(bytes))
    }

    /// The TPM Name, where the public area was given.
    #[must_use]
    pub fn name(&self) -> Option<&[u8]> {
        self.name.as_ref().map(|name| name.bytes.as_slice())
    }

    /// `rsa2048` and other sizes, `p256` or `p384`.
    #[must_use]
    pub fn kind(&self) -> String {
        self.numbers.kind()
    }

    /// The qualified name (TPM 2.0 part 1, "Names") of this key as a child of that primary key.
    pub(super) fn qualified_name_under(&self, parent: &EndorsementPublic) -> Option<Vec<u8>> {
        let name = self.name.as_ref()?;
        let qualified = |hash: Hash, above: &[u8], name: &[u8]| {
            Some([&hash.id().to_be_bytes()[..], &hash.digest(&[above, name])?].concat())
        };
        let parent_name = parent.name();
        let parent_hash = Hash::from_id(u16::from_be_bytes(*parent_name.first_chunk()?))?;
        let above = qualified(parent_hash, &ENDORSEMENT, &parent_name)?;
        qualified(name.hash, &above, &name.bytes)
    }

    pub(super) fn verify(&self, message: &[u8], signature: &QuoteSignature) -> Result<(), EvidenceError> {
        let made = (signature.scheme, signature.hash);
        if self.fixed.is_some_and(|fixed| fixed != made) {
            return Err(EvidenceError::QuoteSignature);
        }
        let numbers: Vec<&[u8]> = signature.numbers.iter().map(Vec::as_slice).collect();
        let holds = match (&self.numbers, numbers.as_slice()) {
            (Numbers::Rsa { modulus, exponent }, [number]) => {
                let key = RsaPublicKeyComponents { n: modulus.as_slice(), e: trimmed(exponent) };
                rsa(made).is_some_and(|parameters| key.verify(parameters, message, number).is_ok())
            }
            (Numbers::P256(point), [r, s]) if made == (Scheme::Ecdsa, Hash::Sha256) => {
                let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
                pair::<32>(r, s).is_some_and(|pair| key.verify(message, &pair).is_ok())
            }
            (Numbers::P384(point), [r, s]) if made == (Scheme::Ecdsa, Hash::Sha384) => {
                let key = UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point);
                pair::<48>(r, s).is_some_and(|pair| key.verify(message, &pair).is_ok())
            }
            _ => false,
        };
        if holds { Ok(()) } else { Err(EvidenceError::QuoteSignature) }
    }
}

/// How ring names it; of PSS, with salts as long as the digest.
fn rsa(made: (Scheme, Hash)) -> Option<&'static RsaParameters> {
    match made {
        (Scheme::RsaSsa, Hash::Sha256) => Some(&RSA_PKCS1_2048_8192_SHA256),
        (Scheme::RsaSsa, Hash::Sha384) => Some(&RSA_PKCS1_2048_8192_SHA384),
        (Scheme::RsaSsa, Hash::Sha512) => Some(&RSA_PKCS1_2048_8192_SHA512),
        (Scheme::RsaPss, Hash::Sha256) => Some(&RSA_PSS_2048_8192_SHA256),
        (Scheme::RsaPss, Hash::Sha384) => Some(&RSA_PSS_2048_8192_SHA384),
        (Scheme::RsaPss, Hash::Sha512) => Some(&RSA_PSS_2048_8192_SHA512),
        (Scheme::Ecdsa, _) | (_, Hash::Sha1) => None,
    }
}

fn trimmed(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// r and s at their full length: a TPM may leave out leading zeros.
fn pair<const BYTES: usize>(r: &[u8], s: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for number in [r, s] {
        out.resize(out.len() + BYTES.checked_sub(number.len())?, 0);
        out.extend(number);
    }
    Some(out)
}

/// Whether `rest` is all that the length in front of it counts.
fn is_sized(bytes: &[u8], rest: &[u8]) -> bool {
    bytes.first_chunk().is_some_and(|length| usize::from(u16::from_be_bytes(*length)) == rest.len())
}

/// TPMT_PUBLIC.
fn public_area(area: &[u8]) -> Result<AttestationKey, EvidenceError> {
    let bad = EvidenceError::BadAttestationKey;
    let cut = |_: Short| bad("its public area is cut");
    let mut reader = Reader::new(area);
    let kind = reader.u16_be().map_err(cut)?;
    let hash =
        Hash::from_id(reader.u16_be().map_err(cut)?).ok_or(bad("its name is by an unknown algorithm"))?;
    if reader.u32_be().map_err(cut)? & ATTRIBUTES != ATTESTING {
        return Err(bad("it may sign what no TPM made, or was not born in one, or can leave it"));
    }
    part(&mut reader)?;
    if reader.u16_be().map_err(cut)? != NULL {
        return Err(bad("it is a storage key"));
    }
    let fixed = scheme(&mut reader)?;
    let numbers = match kind {
        RSA => rsa_numbers(&mut reader)?,
        ECC => point(&mut reader)?,
        _ => return Err(bad("it is neither RSA nor ECC")),
    };
    if !reader.is_empty() {
        return Err(bad("something follows its public area"));
    }
    let digest = hash.digest(&[area]).ok_or(bad("its name is by SHA-1"))?;
    let name = Name { hash, bytes: [&hash.id().to_be_bytes()[..], &digest].concat() };
    Ok(AttestationKey { numbers, fixed, name: Some(name) })
}

/// A TPM2B.
fn part<'b>(reader: &mut Reader<'b>) -> Result<&'b [u8], EvidenceError> {
    let cut = |_: Short| EvidenceError::BadAttestationKey("its public area is cut");
    let length = usize::from(reader.u16_be().map_err(cut)?);
    reader.take(length).map_err(cut)
}

/// TPMT_RSA_SCHEME or TPMT_ECC_SCHEME: none, or one that signs.
fn scheme(reader: &mut Reader<'_>) -> Result<Option<(Scheme, Hash)>, EvidenceError> {
    let bad = EvidenceError::BadAttestationKey;
    let cut = |_: Short| bad("its public area is cut");
    let id = reader.u16_be().map_err(cut)?;
    if id == NULL {
        return Ok(None);
    }
    let scheme = Scheme::from_id(id);
    let hash = Hash::from_id(reader.u16_be().map_err(cut)?);
    let fixed = scheme.zip(hash).ok_or(bad("its scheme is not known here"))?;
    Ok(Some(fixed))
}

fn rsa_numbers(reader: &mut Reader<'_>) -> Result<Numbers, EvidenceError> {
    let bad = EvidenceError::BadAttestationKey;
    let cut = |_: Short| bad("its public area is cut");
    let bits = usize::from(reader.u16_be().map_err(cut)?);
    let exponent = match reader.u32_be().map_err(cut)? {
        0 => EXPONENT,
        other => other,
    };
    let modulus = part(reader)?.to_vec();
    if 8 * modulus.len() != bits || modulus.first().is_none_or(|byte| *byte < 0x80) {
        return Err(bad("its modulus has another size than it says"));
    }
    Ok(Numbers::Rsa { modulus, exponent: exponent.to_be_bytes() })
}

fn point(reader: &mut Reader<'_>) -> Result<Numbers, EvidenceError> {
    let bad = EvidenceError::BadAttestationKey;
    let cut = |_: Short| bad("its public area is cut");
    let (curve, derivation) = (reader.u16_be().map_err(cut)?, reader.u16_be().map_err(cut)?);
    let uncompressed = |x: &[u8], y: &[u8]| [&[4][..], x, y].concat();
    match (curve, derivation, part(reader)?, part(reader)?) {
        (NIST_P256, NULL, x, y) if x.len() == 32 && y.len() == 32 => Ok(Numbers::P256(uncompressed(x, y))),
        (NIST_P384, NULL, x, y) if x.len() == 48 && y.len() == 48 => Ok(Numbers::P384(uncompressed(x, y))),
        _ => Err(bad("its point is not on a curve that is known here")),
    }
}

/// SubjectPublicKeyInfo in PEM.
fn from_pem(bytes: &[u8]) -> Result<AttestationKey, EvidenceError> {
    use x509_cert::der::{Decode as _, pem};
    let bad = EvidenceError::BadAttestationKey;
    let (label, der) = pem::decode_vec(bytes).map_err(|_| bad("it is not PEM"))?;
    let info = x509_cert::spki::SubjectPublicKeyInfoRef::from_der(&der)
        .map_err(|_| bad("it is not a public key"))?;
    if label != "PUBLIC KEY" {
        return Err(bad("it is not a public key"));
    }
    let numbers = Numbers::of(&info).ok_or(bad("it is neither RSA nor on P-256 or P-384"))?;
    Ok(AttestationKey { numbers, fixed: None, name: None })
}
