//! Public keys as numbers, whatever they came in.

use crate::EndorsementPublic;
use husk::engine::EndorsementKey;
use rsa::pkcs1::DecodeRsaPublicKey as _;
use rsa::traits::PublicKeyParts as _;
use x509_cert::der::asn1::{AnyRef, BitStringRef, ObjectIdentifier};
use x509_cert::spki::SubjectPublicKeyInfo;

/// rsaEncryption (RFC 8017) and id-RSAES-OAEP (RFC 4055), which the TCG EK Credential Profile allows too.
const RSA: [ObjectIdentifier; 2] = [
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1"),
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.7"),
];
/// id-ecPublicKey, secp256r1 and secp384r1 (RFC 5480).
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
/// The exponent of every key that a TPM makes.
const EXPONENT: [u8; 4] = 65537_u32.to_be_bytes();

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Numbers {
    /// Big-endian, the modulus without leading zeros.
    Rsa { modulus: Vec<u8>, exponent: [u8; 4] },
    /// An uncompressed point: 4, x, y.
    P256(Vec<u8>),
    /// The same.
    P384(Vec<u8>),
}

impl Numbers {
    /// The key in a SubjectPublicKeyInfo; `None` if it is of no kind that is known here.
    pub(crate) fn of(info: &SubjectPublicKeyInfo<AnyRef<'_>, BitStringRef<'_>>) -> Option<Self> {
        let bits = info.subject_public_key.as_bytes()?;
        if RSA.contains(&info.algorithm.oid) {
            let key = rsa::RsaPublicKey::from_pkcs1_der(bits).ok()?;
            let exponent = key.e().to_bytes_be();
            let mut padded = [0; 4];
            padded.get_mut(4_usize.checked_sub(exponent.len())?..)?.copy_from_slice(&exponent);
            return Some(Self::Rsa { modulus: key.n().to_bytes_be(), exponent: padded });
        }
        if info.algorithm.oid != EC {
            return None;
        }
        let curve: ObjectIdentifier = info.algorithm.parameters.as_ref()?.decode_as().ok()?;
        match (curve, bits) {
            (P256, [4, point @ ..]) if point.len() == 64 => Some(Self::P256(bits.to_vec())),
            (P384, [4, point @ ..]) if point.len() == 96 => Some(Self::P384(bits.to_vec())),
            _ => None,
        }
    }

    /// Whether this is that endorsement key.
    pub(crate) fn are(&self, public: &EndorsementPublic) -> bool {
        let parts = public.parts().concat();
        match (self, public.key()) {
            (Self::Rsa { modulus, exponent }, EndorsementKey::Rsa2048) => {
                *modulus == parts && *exponent == EXPONENT
            }
            (Self::P256(point), EndorsementKey::P256) | (Self::P384(point), EndorsementKey::P384) => {
                point.get(1..) == Some(&parts)
            }
            _ => false,
        }
    }

    /// `rsa2048` and other sizes, `p256` or `p384`.
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::Rsa { modulus, .. } => format!("rsa{}", 8 * modulus.len()),
            Self::P256(_) => "p256".into(),
            Self::P384(_) => "p384".into(),
        }
    }
}
