//! X.509 certificates as AMD issues them.
//!
//! **What.** [`Certificate`] keeps the signed bytes as they came, beside the fields that matter here.
//! **Trust.** None until [`Certificate::is_signed_by`] said so, up to a pinned key.
//! **Laws.** Only RSA-4096 with PSS, SHA-384 and a salt of 48 bytes signs; only one encoding (DER) is read.
//! **Not here.** AMD's extensions: `vek.rs`.

use crate::EvidenceError;
use rsa::pkcs1::DecodeRsaPublicKey;
use rsa::signature::Verifier;
use rsa::traits::PublicKeyParts;
use sha2::{Digest, Sha256};
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode, Encode, Reader, SliceReader, pem};
use x509_cert::ext::pkix::BasicConstraints;

/// The longest certificate that is looked at; AMD's have less than 2 KiB.
const CERTIFICATE_BYTES_MAX: usize = 8192;
/// The longest bundle of certificates.
const BUNDLE_BYTES_MAX: usize = 64 * 1024;
/// id-RSASSA-PSS (RFC 4055, section 3.1).
const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
/// RSA-4096.
const MODULUS_BYTES: usize = 512;

/// A certificate's common name and dates, in seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dates {
    /// Whose certificate.
    pub name: String,
    /// First second of validity.
    pub not_before: u64,
    /// Last second of validity.
    pub not_after: u64,
}

impl Dates {
    /// Whether `now` (seconds since 1970) lies between them.
    #[must_use]
    pub const fn cover(&self, now: u64) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

/// One certificate: the bytes that were signed, the signature, and what they say.
#[derive(Clone, Debug)]
pub struct Certificate {
    whose: &'static str,
    signed: Vec<u8>,
    parsed: x509_cert::Certificate,
    subject: String,
    issuer: String,
}

impl Certificate {
    /// Reads one DER certificate; `whose` names it in errors.
    ///
    /// # Errors
    /// [`EvidenceError::BadCertificate`].
    pub fn from_der(der: &[u8], whose: &'static str) -> Result<Self, EvidenceError> {
        let bad = |what| EvidenceError::BadCertificate { whose, what };
        if der.len() > CERTIFICATE_BYTES_MAX {
            return Err(bad("it is longer than any certificate of this kind"));
        }
        let parsed = x509_cert::Certificate::from_der(der).map_err(|_| bad("it is not a DER certificate"))?;
        let signed = signed_part(der).map_err(|_| bad("it is not a DER certificate"))?;
        let subject = common_name(parsed.tbs_certificate().subject()).ok_or(bad("it names no subject"))?;
        let issuer = common_name(parsed.tbs_certificate().issuer()).ok_or(bad("it names no issuer"))?;
        if parsed.signature_algorithm() != parsed.tbs_certificate().signature() {
            return Err(bad("it names two signature algorithms"));
        }
        Ok(Self { whose, signed, parsed, subject, issuer })
    }

    /// Reads every certificate of a PEM bundle, in order.
    ///
    /// # Errors
    /// [`EvidenceError::BadCertificate`] if one is malformed or there is none.
    pub fn from_pem_bundle(bundle: &[u8], whose: &'static str) -> Result<Vec<Self>, EvidenceError> {
        let bad = |what| EvidenceError::BadCertificate { whose, what };
        let text = std::str::from_utf8(bundle).map_err(|_| bad("it is not PEM"))?;
        if bundle.len() > BUNDLE_BYTES_MAX {
            return Err(bad("it is longer than any bundle of this kind"));
        }
        let end = "-----END CERTIFICATE-----";
        let mut out = Vec::new();
        for block in text.split_inclusive(end).filter(|block| block.ends_with(end)) {
            let (_, der) =
                pem::decode_vec(block.trim_start().as_bytes()).map_err(|_| bad("it is not PEM"))?;
            out.push(Self::from_der(&der, whose)?);
        }
        if out.is_empty() { Err(bad("it holds no certificate")) } else { Ok(out) }
    }

    /// The subject's common name.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The issuer's common name.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The certificate's dates.
    #[must_use]
    pub fn dates(&self) -> Dates {
        let validity = self.parsed.tbs_certificate().validity();
        Dates {
            name: self.subject.clone(),
            not_before: validity.not_before.to_unix_duration().as_secs(),
            not_after: validity.not_after.to_unix_duration().as_secs(),
        }
    }

    /// SHA-256 over the DER of the subject's public key with its algorithm.
    ///
    /// # Errors
    /// [`EvidenceError::BadCertificate`] if the key cannot be encoded.
    pub fn key_sha256(&self) -> Result<[u8; 32], EvidenceError> {
        let key = self.parsed.tbs_certificate().subject_public_key_info();
        let der = key.to_der().map_err(|_| self.bad("its key cannot be read"))?;
        Ok(Sha256::digest(der).into())
    }

    /// Checks the signature by `issuer`, whose key must be RSA-4096 and marked as an authority's.
    ///
    /// # Errors
    /// [`EvidenceError::ChainSignature`], or [`EvidenceError::BadCertificate`] if `issuer` is no authority.
    pub fn is_signed_by(&self, issuer: &Self) -> Result<(), EvidenceError> {
        let forged = || EvidenceError::ChainSignature {
            subject: self.subject.clone(),
            issuer: issuer.subject.clone(),
        };
        let named = self.parsed.tbs_certificate().issuer() == issuer.parsed.tbs_certificate().subject();
        let signature = self.parsed.signature().as_bytes().ok_or_else(forged)?;
        let algorithm = self.parsed.signature_algorithm().oid;
        let holds = verify_pss(issuer.authority_key()?, algorithm, &self.signed, signature);
        if named && holds { Ok(()) } else { Err(forged()) }
    }

    /// The serial number, big-endian.
    pub(crate) fn serial(&self) -> &[u8] {
        self.parsed.tbs_certificate().serial_number().as_bytes()
    }

    /// The whole name of the subject.
    pub(crate) fn subject_name(&self) -> &x509_cert::name::Name {
        self.parsed.tbs_certificate().subject()
    }

    /// The value of the one extension with this identifier.
    ///
    /// # Errors
    /// [`EvidenceError::BadCertificate`] if there are two.
    pub(crate) fn extension(&self, oid: ObjectIdentifier) -> Result<Option<&[u8]>, EvidenceError> {
        let extensions = self.parsed.tbs_certificate().extensions().map_or(&[][..], Vec::as_slice);
        let mut found = extensions.iter().filter(|extension| extension.extn_id == oid);
        match (found.next(), found.next()) {
            (None, _) => Ok(None),
            (Some(one), None) => Ok(Some(one.extn_value.as_bytes())),
            (Some(_), Some(_)) => Err(self.bad("it has an extension twice")),
        }
    }

    /// The P-384 key of the subject.
    ///
    /// # Errors
    /// [`EvidenceError::BadCertificate`] if it is another kind of key.
    pub(crate) fn p384_key(&self) -> Result<p384::ecdsa::VerifyingKey, EvidenceError> {
        let key = self.parsed.tbs_certificate().subject_public_key_info();
        p384::ecdsa::VerifyingKey::from_sec1_bytes(key.subject_public_key.raw_bytes())
            .map_err(|_| self.bad("its key is not on P-384"))
    }

    pub(crate) const fn bad(&self, what: &'static str) -> EvidenceError {
        EvidenceError::BadCertificate { whose: self.whose, what }
    }

    pub(crate) fn authority_key(&self) -> Result<rsa::RsaPublicKey, EvidenceError> {
        let constraints = self.parsed.tbs_certificate().get_extension::<BasicConstraints>();
        let authority = constraints.map_err(|_| self.bad("its constraints cannot be read"))?;
        if !authority.is_some_and(|(_, constraints)| constraints.ca) {
            return Err(self.bad("it is not an authority's"));
        }
        let key = self.parsed.tbs_certificate().subject_public_key_info();
        let key = rsa::RsaPublicKey::from_pkcs1_der(key.subject_public_key.raw_bytes())
            .map_err(|_| self.bad("its key is not RSA"))?;
        if key.size() == MODULUS_BYTES { Ok(key) } else { Err(self.bad("its key is not RSA-4096")) }
    }
}

/// Whether `signature` is RSASSA-PSS with SHA-384 and a salt of 48 bytes, by `key` over `signed`.
pub(crate) fn verify_pss(
    key: rsa::RsaPublicKey,
    algorithm: ObjectIdentifier,
    signed: &[u8],
    signature: &[u8],
) -> bool {
    let verifying = rsa::pss::VerifyingKey::<rsa::sha2::Sha384>::new(key);
    algorithm == RSASSA_PSS
        && rsa::pss::Signature::try_from(signature)
            .is_ok_and(|signature| verifying.verify(signed, &signature).is_ok())
}

/// The first element of the outer sequence, with its tag and length, as it came.
pub(crate) fn signed_part(der: &[u8]) -> x509_cert::der::Result<Vec<u8>> {
    SliceReader::new(der)?.sequence(|inner| {
        let signed = inner.tlv_bytes()?.to_vec();
        inner.drain(inner.remaining_len())?;
        Ok(signed)
    })
}

pub(crate) fn common_name(name: &x509_cert::name::Name) -> Option<String> {
    Some(name.common_name().ok()??.value().into_owned())
}
