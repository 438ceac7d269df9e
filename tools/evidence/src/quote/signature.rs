//! TPMT_SIGNATURE (TPM 2.0 part 2), as `tpm2_quote --signature` writes it.

use super::Hash;
use crate::EvidenceError;
use husk::bytes::{Reader, Short};

/// The longest number of a signature: RSA-8192.
const NUMBER_BYTES_MAX: usize = 1024;

/// How a signature was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// RSASSA-PKCS1-v1_5.
    RsaSsa,
    /// RSASSA-PSS.
    RsaPss,
    /// ECDSA.
    Ecdsa,
}

impl Scheme {
    /// The scheme of this TPM_ALG_ID.
    #[must_use]
    pub const fn from_id(id: u16) -> Option<Self> {
        match id {
            0x0014 => Some(Self::RsaSsa),
            0x0016 => Some(Self::RsaPss),
            0x0018 => Some(Self::Ecdsa),
            _ => None,
        }
    }
}

/// A signature, read but not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuoteSignature {
    /// How it was made.
    pub scheme: Scheme,
    /// Over which digest.
    pub hash: Hash,
    /// One number for RSA; r and s for ECDSA; big-endian.
    pub(super) numbers: Vec<Vec<u8>>,
}

impl QuoteSignature {
    /// Reads a TPMT_SIGNATURE.
    ///
    /// # Errors
    /// [`EvidenceError::BadSignature`].
    pub fn parse(bytes: &[u8]) -> Result<Self, EvidenceError> {
        let bad = EvidenceError::BadSignature;
        let cut = |_: Short| bad("it is cut");
        let mut reader = Reader::new(bytes);
        let scheme = Scheme::from_id(reader.u16_be().map_err(cut)?);
        let scheme = scheme.ok_or(bad("it is by a scheme that is not known here"))?;
        let hash = Hash::from_id(reader.u16_be().map_err(cut)?);
        let hash = hash.ok_or(bad("it is over a digest that is not known here"))?;
        let count = if scheme == Scheme::Ecdsa { 2 } else { 1 };
        let mut numbers = Vec::new();
        for _ in 0..count {
            let length = usize::from(reader.u16_be().map_err(cut)?);
            if length > NUMBER_BYTES_MAX {
                return Err(bad("it is longer than any"));
            }
            numbers.push(reader.take(length).map_err(cut)?.to_vec());
        }
        if reader.is_empty() { Ok(Self { scheme, hash, numbers }) } else { Err(bad("something follows it")) }
    }
}
