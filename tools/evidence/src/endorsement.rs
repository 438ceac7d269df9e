//! Endorsement keys as a manifest shows them.
//!
//! **What.** [`EndorsementPublic`] reads a TPMT_PUBLIC (TPM 2.0 part 2) that was made from a template of the TCG EK Credential
//! Profile, and tells its Name.
//! **Trust.** None: whoever supplied the bytes may have made them up, until a report covers them.
//! **Laws.** Everything but the key itself must be as the template has it, to the byte.
//! **Not here.** EK certificates; whether the TPM holds the private half (TPM2_MakeCredential shows that).

use crate::EvidenceError;
use husk::engine::EndorsementKey;
use sha2::{Digest, Sha256, Sha384};

/// What stands before the key in each of the three public areas: type, name algorithm, attributes, policy, symmetric algorithm,
/// scheme, then bits and exponent, or curve and key derivation.
const RSA_2048: &[u8] = b"\x00\x01\x00\x0B\x00\x03\x00\xB2\
    \x00\x20\x83\x71\x97\x67\x44\x84\xB3\xF8\x1A\x90\xCC\x8D\x46\xA5\xD7\x24\xFD\x52\xD7\x6E\x06\x52\x0B\x64\xF2\xA1\xDA\x1B\x33\x14\x69\xAA\
    \x00\x06\x00\x80\x00\x43\x00\x10\x08\x00\x00\x00\x00\x00";
const P_256: &[u8] = b"\x00\x23\x00\x0B\x00\x03\x00\xB2\
    \x00\x20\x83\x71\x97\x67\x44\x84\xB3\xF8\x1A\x90\xCC\x8D\x46\xA5\xD7\x24\xFD\x52\xD7\x6E\x06\x52\x0B\x64\xF2\xA1\xDA\x1B\x33\x14\x69\xAA\
    \x00\x06\x00\x80\x00\x43\x00\x10\x00\x03\x00\x10";
const P_384: &[u8] = b"\x00\x23\x00\x0C\x00\x03\x00\xF2\
    \x00\x30\xB2\x6E\x7D\x28\xD1\x1A\x50\xBC\x53\xD8\x82\xBC\xF5\xFD\x3A\x1A\x07\x41\x48\xBB\x35\xD3\xB4\xE4\xCB\x1C\x0A\xD9\xBD\xE4\x19\xCA\
    \xCB\x47\xBA\x09\x69\x96\x46\x15\x0F\x9F\xC0\x00\xF3\xF8\x0E\x12\
    \x00\x06\x01\x00\x00\x43\x00\x10\x00\x04\x00\x10";

/// The public area of an endorsement key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndorsementPublic {
    key: EndorsementKey,
    public: Vec<u8>,
    parts: Vec<Vec<u8>>,
}

impl EndorsementPublic {
    /// Reads a TPMT_PUBLIC that must be made from the template of `key`.
    ///
    /// # Errors
    /// [`EvidenceError::BadManifest`].
    pub fn parse(key: EndorsementKey, public: &[u8]) -> Result<Self, EvidenceError> {
        let (template, lengths): (&[u8], &[usize]) = match key {
            EndorsementKey::Rsa2048 => (RSA_2048, &[256]),
            EndorsementKey::P256 => (P_256, &[32, 32]),
            EndorsementKey::P384 => (P_384, &[48, 48]),
        };
        let mut rest = public
            .strip_prefix(template)
            .ok_or(EvidenceError::BadManifest("a public area is not of the endorsement key's template"))?;
        let mut parts = Vec::new();
        for length in lengths {
            let part = sized(&mut rest).filter(|part| part.len() == *length);
            parts.push(part.ok_or(EvidenceError::BadManifest("a public key has the wrong length"))?.to_vec());
        }
        if !rest.is_empty() {
            return Err(EvidenceError::BadManifest("something follows a public area"));
        }
        Ok(Self { key, public: public.to_vec(), parts })
    }

    /// Which key.
    #[must_use]
    pub const fn key(&self) -> EndorsementKey {
        self.key
    }

    /// The TPMT_PUBLIC as it came.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The modulus of an RSA key (the exponent is 65537), or the coordinates x and y of an ECC key's point; big-endian.
    #[must_use]
    pub fn parts(&self) -> &[Vec<u8>] {
        &self.parts
    }

    /// The TPM Name: the name algorithm and the public area's digest.
    #[must_use]
    pub fn name(&self) -> Vec<u8> {
        match self.key {
            EndorsementKey::Rsa2048 | EndorsementKey::P256 => {
                [&[0x00, 0x0B], &Sha256::digest(&self.public)[..]].concat()
            }
            EndorsementKey::P384 => [&[0x00, 0x0C], &Sha384::digest(&self.public)[..]].concat(),
        }
    }
}

/// Takes a TPM2B from the front.
fn sized<'b>(bytes: &mut &'b [u8]) -> Option<&'b [u8]> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (part, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    *bytes = rest;
    Some(part)
}
