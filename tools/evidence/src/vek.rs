//! The certificate of the key that signs reports.
//!
//! **What.** AMD's extensions under 1.3.6.1.4.1.3704.1 (AMD 57230, "VCEK certificate and KDS interface"): product,
//! patch levels, chip, cloud provider.
//! **Trust.** None before the chain is verified.
//! **Laws.** Every field that is compared with a report is present once and in one of the encodings seen in the field.
//! **Not here.** The comparison: `verifier.rs`.

use crate::{Certificate, EvidenceError};
use husk::attest::report::{Generation, SigningKey, Tcb};
use x509_cert::der::Decode;
use x509_cert::der::asn1::{Ia5StringRef, ObjectIdentifier, OctetStringRef};

const PRODUCT: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.2");
const BOOTLOADER_SPL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.1");
const TEE_SPL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.2");
const SNP_SPL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.3");
const MICROCODE_SPL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.8");
const FMC_SPL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.9");
const HWID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.4");
const CSP_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.5");

/// Whose key it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vek {
    /// A chip's: its HWID, 64 bytes (Milan, Genoa) or 8 (Turin).
    Vcek {
        /// The chip.
        hwid: Vec<u8>,
    },
    /// A cloud provider's, on any of its chips.
    Vlek {
        /// Who AMD says the provider is.
        csp: String,
    },
}

impl Vek {
    /// What SIGNING_KEY must say.
    #[must_use]
    pub const fn signing_key(&self) -> SigningKey {
        match self {
            Self::Vcek { .. } => SigningKey::Vcek,
            Self::Vlek { .. } => SigningKey::Vlek,
        }
    }

    /// The word for people.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Vcek { .. } => "VCEK",
            Self::Vlek { .. } => "VLEK",
        }
    }
}

/// A VCEK or VLEK certificate, read but not verified.
#[derive(Clone, Debug)]
pub struct VekCertificate {
    /// The certificate.
    pub certificate: Certificate,
    /// Whose key.
    pub vek: Vek,
    /// The product as the extension says, for example `Milan-B0`.
    pub product: String,
    /// The generation that the product belongs to.
    pub generation: Generation,
    /// The patch levels that the key was derived for.
    pub tcb: Tcb,
    pub(crate) key: p384::ecdsa::VerifyingKey,
}

impl VekCertificate {
    /// Reads a DER certificate and AMD's extensions.
    ///
    /// # Errors
    /// [`EvidenceError::BadCertificate`]; [`EvidenceError::WrongProduct`] for a product not known here.
    pub fn from_der(der: &[u8]) -> Result<Self, EvidenceError> {
        let certificate = Certificate::from_der(der, "the certificate of the report's key")?;
        let key = certificate.p384_key()?;
        let vek = vek(&certificate)?;
        let product = text(&certificate, PRODUCT)?;
        // A stepping may follow: "Milan-B0".
        let word = product.split('-').next().unwrap_or_default();
        let generation = Generation::ALL.into_iter().find(|generation| generation.name() == word);
        let other = "this program's list of products";
        let generation =
            generation.ok_or_else(|| EvidenceError::WrongProduct { product: product.clone(), other })?;
        let tcb = tcb(&certificate, generation)?;
        Ok(Self { certificate, vek, product, generation, tcb, key })
    }
}

fn required(certificate: &Certificate, oid: ObjectIdentifier) -> Result<&[u8], EvidenceError> {
    certificate.extension(oid)?.ok_or(certificate.bad("one of AMD's extensions is missing"))
}

fn vek(certificate: &Certificate) -> Result<Vek, EvidenceError> {
    match certificate.subject() {
        "SEV-VCEK" => Ok(Vek::Vcek { hwid: hwid(certificate)? }),
        "SEV-VLEK" => Ok(Vek::Vlek { csp: text(certificate, CSP_ID)? }),
        _ => Err(certificate.bad("it is neither a VCEK's nor a VLEK's")),
    }
}

/// HWID: the octets themselves, or wrapped in an OCTET STRING once more; both are in the field.
fn hwid(certificate: &Certificate) -> Result<Vec<u8>, EvidenceError> {
    let value = required(certificate, HWID)?;
    let plain = |bytes: &[u8]| matches!(bytes.len(), 8 | 64).then(|| bytes.to_vec());
    let wrapped = || plain(<&OctetStringRef>::from_der(value).ok()?.as_bytes());
    plain(value).or_else(wrapped).ok_or(certificate.bad("its hardware identity has no known form"))
}

/// A patch level: an INTEGER of one byte, or of two where the first keeps it positive.
fn level(certificate: &Certificate, oid: ObjectIdentifier) -> Result<u8, EvidenceError> {
    u8::from_der(required(certificate, oid)?)
        .map_err(|_| certificate.bad("a patch level is not a number up to 255"))
}

fn tcb(certificate: &Certificate, generation: Generation) -> Result<Tcb, EvidenceError> {
    let fmc = match generation {
        Generation::Turin => Some(level(certificate, FMC_SPL)?),
        Generation::Milan | Generation::Genoa => None,
    };
    Ok(Tcb {
        fmc,
        bootloader: level(certificate, BOOTLOADER_SPL)?,
        tee: level(certificate, TEE_SPL)?,
        snp: level(certificate, SNP_SPL)?,
        microcode: level(certificate, MICROCODE_SPL)?,
    })
}

fn text(certificate: &Certificate, oid: ObjectIdentifier) -> Result<String, EvidenceError> {
    let value = required(certificate, oid)?;
    let text = Ia5StringRef::from_der(value).map_err(|_| certificate.bad("a name is not IA5 text"))?;
    Ok(text.as_str().to_owned())
}
