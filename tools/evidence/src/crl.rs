//! Certificate revocation lists as AMD issues them.
//!
//! **What.** [`RevocationList`]: a full list of a root (RFC 5280, section 5), with what it revokes.
//! **Trust.** None before [`RevocationList::is_signed_by`] said so, by a root's key.
//! **Laws.** A list with a critical extension that is unknown here is refused, and so is a delta: it would say less than it seems to. An
//! older list never takes a newer one's place.
//! **Not here.** Whether a list that has ended still counts: policy ([`RevocationList::dates`] only reports).

use crate::certificate::{Certificate, common_name, signed_part, verify_pss};
use crate::{Dates, EvidenceError};
use x509_cert::crl::{CertificateList, RevokedCert};
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode, pem};
use x509_cert::ext::pkix::CrlNumber;
use x509_cert::ext::pkix::crl::dp::IssuingDistributionPoint;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::{Extension, Extensions};

/// The longest list that is looked at; AMD's have less than 2 KiB.
pub const LIST_BYTES_MAX: usize = 256 * 1024;
/// cRLNumber, issuingDistributionPoint, certificateIssuer (RFC 5280, sections 5.2
/// and 5.3).
const CRL_NUMBER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.20");
const DISTRIBUTION_POINT: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.28");
const CERTIFICATE_ISSUER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.29");

/// One list.
#[derive(Clone, Debug)]
pub struct RevocationList {
    der: Vec<u8>,
    signed: Vec<u8>,
    parsed: CertificateList,
    issuer: String,
    number: Vec<u8>,
    /// Issuer and serial number of what is revoked.
    revoked: Vec<(String, Vec<u8>)>,
}

fn bad(what: &'static str) -> EvidenceError {
    EvidenceError::BadCertificate { whose: "the revocation list", what }
}

impl RevocationList {
    /// Reads one list, DER or PEM.
    ///
    /// # Errors
    /// [`EvidenceError::BadCertificate`].
    pub fn parse(bytes: &[u8]) -> Result<Self, EvidenceError> {
        if bytes.len() > LIST_BYTES_MAX {
            return Err(bad("it is longer than any list of this kind"));
        }
        let der = if bytes.starts_with(b"-----BEGIN") {
            match pem::decode_vec(bytes) {
                Ok(("X509 CRL", der)) => der,
                _ => return Err(bad("the PEM file is not one revocation list")),
            }
        } else {
            bytes.to_vec()
        };
        let parsed = CertificateList::from_der(&der).map_err(|_| bad("it is not a DER revocation list"))?;
        let signed = signed_part(&der).map_err(|_| bad("it is not a DER revocation list"))?;
        let list = &parsed.tbs_cert_list;
        if parsed.signature_algorithm != list.signature {
            return Err(bad("it names two signature algorithms"));
        }
        let issuer = common_name(&list.issuer).ok_or(bad("it names no issuer"))?;
        let number = number(list.crl_extensions.as_ref())?;
        let revoked = revoked(&issuer, list.revoked_certificates.as_deref().unwrap_or_default())?;
        Ok(Self { signed, issuer, number, revoked, parsed, der })
    }

    /// The list as DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The common name of the root that issued it.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// cRLNumber, big-endian without leading zeros; numbers of one issuer only grow.
    #[must_use]
    pub fn number(&self) -> &[u8] {
        &self.number
    }

    /// From when to when it holds, in seconds since 1970. One without an end never ends.
    #[must_use]
    pub fn dates(&self) -> Dates {
        let list = &self.parsed.tbs_cert_list;
        Dates {
            name: format!("the revocation list of {}", self.issuer),
            not_before: list.this_update.to_unix_duration().as_secs(),
            not_after: list.next_update.map_or(u64::MAX, |time| time.to_unix_duration().as_secs()),
        }
    }

    /// How many certificates it revokes.
    #[must_use]
    pub const fn revoked(&self) -> usize {
        self.revoked.len()
    }

    /// Whether it revokes `certificate`.
    #[must_use]
    pub fn revokes(&self, certificate: &Certificate) -> bool {
        let serial = certificate.serial();
        self.revoked.iter().any(|(issuer, number)| issuer == certificate.issuer() && number == serial)
    }

    /// Checks the signature by `root`.
    ///
    /// # Errors
    /// [`EvidenceError::ChainSignature`].
    pub fn is_signed_by(&self, root: &Certificate) -> Result<(), EvidenceError> {
        let forged = || EvidenceError::ChainSignature {
            subject: self.dates().name,
            issuer: root.subject().to_owned(),
        };
        let named = self.parsed.tbs_cert_list.issuer == *root.subject_name();
        let signature = self.parsed.signature.as_bytes().ok_or_else(forged)?;
        let algorithm = self.parsed.signature_algorithm.oid;
        let key = root.authority_key()?;
        if named && verify_pss(key, algorithm, &self.signed, signature) { Ok(()) } else { Err(forged()) }
    }

    /// Whether this may take the place of `old`: its number and its date are not lower.
    #[must_use]
    pub fn succeeds(&self, old: &Self) -> bool {
        let of = |list: &Self| (list.number.len(), list.number.clone());
        let (new_from, old_from) = (self.dates().not_before, old.dates().not_before);
        of(self) > of(old) && new_from >= old_from || self.der == old.der
    }
}

/// The number; every other extension that is critical must be known.
fn number(extensions: Option<&Extensions>) -> Result<Vec<u8>, EvidenceError> {
    let mut number = None;
    for extension in extensions.into_iter().flatten() {
        let value = extension.extn_value.as_bytes();
        match extension.extn_id {
            CRL_NUMBER => {
                let read = CrlNumber::from_der(value).map_err(|_| bad("its number cannot be read"))?;
                if number.replace(read.0.as_bytes().to_vec()).is_some() {
                    return Err(bad("it has two numbers"));
                }
            }
            DISTRIBUTION_POINT => {
                let point = IssuingDistributionPoint::from_der(value)
                    .map_err(|_| bad("its distribution point cannot be read"))?;
                let is_part = point.only_contains_user_certs
                    || point.only_contains_ca_certs
                    || point.only_contains_attribute_certs
                    || point.only_some_reasons.is_some();
                if is_part {
                    return Err(bad("it is a part of a list. Fetch the whole one"));
                }
            }
            _ if extension.critical => return Err(bad("it has a critical extension that is not known here")),
            _ => {}
        }
    }
    number.ok_or(bad("it has no number, so that nobody could tell a newer one"))
}

/// Issuer and serial number of each entry. In an indirect list an entry's issuer holds for those that follow (RFC 5280, section 5.3.3).
fn revoked(issuer: &str, entries: &[RevokedCert]) -> Result<Vec<(String, Vec<u8>)>, EvidenceError> {
    let mut issuer = issuer.to_owned();
    let mut out = Vec::with_capacity(entries.len());
    for entry in entries {
        for extension in entry.crl_entry_extensions.iter().flatten() {
            match extension.extn_id {
                CERTIFICATE_ISSUER => issuer = named(extension)?,
                _ if extension.critical => {
                    return Err(bad("an entry has a critical extension that is not known here"));
                }
                _ => {}
            }
        }
        out.push((issuer.clone(), entry.serial_number.as_bytes().to_vec()));
    }
    Ok(out)
}

/// The common name in a certificateIssuer.
fn named(extension: &Extension) -> Result<String, EvidenceError> {
    let names = Vec::<GeneralName>::from_der(extension.extn_value.as_bytes())
        .map_err(|_| bad("an entry's issuer cannot be read"))?;
    let name = names.iter().find_map(|name| match name {
        GeneralName::DirectoryName(name) => common_name(name),
        _ => None,
    });
    name.ok_or(bad("an entry's issuer has no name"))
}
