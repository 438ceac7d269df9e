//! Quotes: what a TPM says of its PCRs.
//!
//! **What.** [`Quote`] reads a TPMS_ATTEST of type TPM_ST_ATTEST_QUOTE (TPM 2.0 part 2), as `tpm2_quote --message` writes it;
//! [`Quote::verify`] checks it under an [`AttestationKey`] and yields [`VerifiedQuote`], which alone tells fresh from old and
//! judges a file of PCR values.
//! **Trust.** None in any of the files. Whose TPM holds the attestation key no quote says: TPM2_ActivateCredential shows that.
//! **Laws.** What is hashed is what came, byte for byte. Every byte of every file has one meaning; what has none is refused.
//! **Not here.** Which PCR values are the right ones; quotes by keys that may sign what no TPM made.

mod key;
mod pcrs;
mod signature;
mod text;

pub use key::AttestationKey;
pub use pcrs::{PcrBank, PcrValue};
pub use signature::{QuoteSignature, Scheme};
pub use text::{pcr_number, pcr_values_in};

use crate::{EndorsementPublic, EvidenceError};
use husk::bytes::{Reader, Short};

/// TPM_GENERATED_VALUE: no TPM signs these four bytes with a restricted key unless it made what follows.
const GENERATED: [u8; 4] = *b"\xFFTCG";
/// TPM_ST_ATTEST_QUOTE.
const ATTEST_QUOTE: u16 = 0x8018;
/// A Name, or a nonce: TPM2B_NAME and TPM2B_DATA hold at most an algorithm and its largest digest.
const SIZED_BYTES_MAX: usize = 66;

/// Whether a file looks like a TPMS_ATTEST, of whatever type.
#[must_use]
pub fn is_attest(bytes: &[u8]) -> bool {
    bytes.starts_with(&GENERATED)
}

/// A quote, read but not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    bytes: Vec<u8>,
    /// The qualified name of the key that is said to have signed.
    pub signer: Vec<u8>,
    /// extraData: what whoever asked for the quote chose, its nonce.
    pub nonce: Vec<u8>,
    /// TPMS_CLOCK_INFO: milliseconds that the TPM was powered.
    pub clock_ms: u64,
    /// TPM resets so far.
    pub resets: u32,
    /// Restarts and resumes since the last reset.
    pub restarts: u32,
    /// Whether the clock has never been further ahead.
    pub safe: bool,
    /// The TPM's firmware version.
    pub firmware_version: u64,
    /// The PCRs that were quoted, bank by bank.
    pub selection: Vec<PcrBank>,
    /// The digest over their values, by the hash algorithm of the signature.
    pub digest: Vec<u8>,
}

impl Quote {
    /// Reads a TPMS_ATTEST.
    ///
    /// # Errors
    /// [`EvidenceError::BadQuote`].
    pub fn parse(bytes: &[u8]) -> Result<Self, EvidenceError> {
        let bad = EvidenceError::BadQuote;
        let mut reader = Reader::new(bytes);
        if reader.array().ok() != Some(GENERATED) {
            return Err(bad("it does not begin with TPM_GENERATED_VALUE"));
        }
        if reader.u16_be().ok() != Some(ATTEST_QUOTE) {
            return Err(bad("it attests to something else than PCRs"));
        }
        let quote = fields(bytes, &mut reader)?;
        if reader.is_empty() { Ok(quote) } else { Err(bad("something follows it")) }
    }

    /// Checks that `key` made `signature` over this quote.
    ///
    /// # Errors
    /// [`EvidenceError::QuoteSignature`]; [`EvidenceError::BadQuote`] where digest and signature are of different algorithms.
    pub fn verify(
        self,
        signature: &QuoteSignature,
        key: &AttestationKey,
    ) -> Result<VerifiedQuote, EvidenceError> {
        key.verify(&self.bytes, signature)?;
        if self.digest.len() != signature.hash.bytes() {
            return Err(EvidenceError::BadQuote("its digest is not by the signature's hash algorithm"));
        }
        Ok(VerifiedQuote { quote: self, hash: signature.hash, key: key.clone() })
    }
}

fn fields(bytes: &[u8], reader: &mut Reader<'_>) -> Result<Quote, EvidenceError> {
    let cut = |_: Short| EvidenceError::BadQuote("it is cut");
    let (signer, nonce) = (sized(reader)?, sized(reader)?);
    let clock_ms = u64::from_be_bytes(reader.array().map_err(cut)?);
    let (resets, restarts) = (reader.u32_be().map_err(cut)?, reader.u32_be().map_err(cut)?);
    let safe = match reader.array().map_err(cut)? {
        [0] => false,
        [1] => true,
        _ => return Err(EvidenceError::BadQuote("its clock is neither safe nor not")),
    };
    let firmware_version = u64::from_be_bytes(reader.array().map_err(cut)?);
    let selection = pcrs::selection(reader)?;
    let digest = sized(reader)?;
    let bytes = bytes.to_vec();
    Ok(Quote { bytes, signer, nonce, clock_ms, resets, restarts, safe, firmware_version, selection, digest })
}

/// A TPM2B.
fn sized(reader: &mut Reader<'_>) -> Result<Vec<u8>, EvidenceError> {
    let cut = |_: Short| EvidenceError::BadQuote("it is cut");
    let length = usize::from(reader.u16_be().map_err(cut)?);
    if length > SIZED_BYTES_MAX {
        return Err(EvidenceError::BadQuote("a name, nonce or digest is longer than any"));
    }
    Ok(reader.take(length).map_err(cut)?.to_vec())
}

/// A quote whose signature holds under the key that was given.
#[derive(Clone, Debug)]
pub struct VerifiedQuote {
    quote: Quote,
    hash: Hash,
    key: AttestationKey,
}

impl VerifiedQuote {
    /// What was quoted.
    #[must_use]
    pub const fn quote(&self) -> &Quote {
        &self.quote
    }

    /// The key that signed.
    #[must_use]
    pub const fn key(&self) -> &AttestationKey {
        &self.key
    }

    /// Whether the quote was made for `nonce`.
    ///
    /// # Errors
    /// [`EvidenceError::QuoteNonce`].
    pub fn answers(&self, nonce: &[u8]) -> Result<(), EvidenceError> {
        if self.quote.nonce == nonce { Ok(()) } else { Err(EvidenceError::QuoteNonce) }
    }

    /// The quoted PCRs' values: `file` as `tpm2_quote --pcr` writes it, in either of its formats (`serialized`, `values`).
    ///
    /// # Errors
    /// [`EvidenceError::QuotePcrs`] if they are not the ones that were quoted.
    pub fn pcrs(&self, file: &[u8]) -> Result<Vec<PcrValue>, EvidenceError> {
        pcrs::values(&self.quote.selection, file, self.hash, &self.quote.digest)
    }

    /// Whether the key says of itself that it was made under `parent`, as a primary key of the endorsement hierarchy. `None` where the key was
    /// given without its public area, so that its name is not known.
    ///
    /// It is the signer's own word: a key outside of a TPM can say the same.
    #[must_use]
    pub fn says_child_of(&self, parent: &EndorsementPublic) -> Option<bool> {
        Some(self.key.qualified_name_under(parent)? == self.quote.signer)
    }
}

/// The hash algorithms of PCR banks and signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-1; in banks only.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Hash {
    /// The algorithm of this TPM_ALG_ID.
    #[must_use]
    pub const fn from_id(id: u16) -> Option<Self> {
        match id {
            0x0004 => Some(Self::Sha1),
            0x000B => Some(Self::Sha256),
            0x000C => Some(Self::Sha384),
            0x000D => Some(Self::Sha512),
            _ => None,
        }
    }

    /// Its TPM_ALG_ID.
    #[must_use]
    pub const fn id(self) -> u16 {
        match self {
            Self::Sha1 => 0x0004,
            Self::Sha256 => 0x000B,
            Self::Sha384 => 0x000C,
            Self::Sha512 => 0x000D,
        }
    }

    /// Its name as tpm2-tools write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// Its digests' size.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The digest of `parts`, one after the other; none by SHA-1, which proves nothing.
    fn digest(self, parts: &[&[u8]]) -> Option<Vec<u8>> {
        use sha2::Digest as _;
        let whole = parts.concat();
        match self {
            Self::Sha1 => None,
            Self::Sha256 => Some(sha2::Sha256::digest(whole).to_vec()),
            Self::Sha384 => Some(sha2::Sha384::digest(whole).to_vec()),
            Self::Sha512 => Some(sha2::Sha512::digest(whole).to_vec()),
        }
    }
}
