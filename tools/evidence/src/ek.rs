//! Certificates of endorsement keys.
//!
//! **What.** [`EkCertificate`] reads what the TCG EK Credential Profile for TPM Family 2.0 puts into one (chapter 3, its X.509 fields): the key,
//! and the TPM's manufacturer, model and version. [`EkAuthorities`] verifies it up to roots that the caller names, as RFC 5280 has it.
//! **Trust.** Exactly the roots that were named: there is no list of TPM makers here.
//! **Laws.** What the profile demands is there, once, or the certificate is refused; dates count.
//! **Not here.** Revocation; whether a TPM holds the private half (TPM2_ActivateCredential shows that).

use crate::numbers::Numbers;
use crate::{EndorsementPublic, EvidenceError};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use std::array::TryFromSliceError;
use std::time::Duration;
use webpki::{EndEntityCert, KeyUsage as Usage, anchor_from_trusted_cert, ring as algorithms};
use x509_cert::der::asn1::{ObjectIdentifier, OctetString, PrintableStringRef, Utf8StringRef};
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName};
use x509_cert::name::Name;
use x509_cert::spki::SubjectPublicKeyInfoRef;

/// tcg-kp-EKCertificate, 2.23.133.8.1: as text for what was parsed, as DER's content for what verifies.
const EK_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.1");
const EK_USAGE_DER: &[u8] = &[0x67, 0x81, 0x05, 0x08, 0x01];
/// tcg-at-tpmManufacturer, tcg-at-tpmModel, tcg-at-tpmVersion.
const MANUFACTURER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.2.1");
const MODEL: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.2.2");
const VERSION: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.2.3");
/// Husk's own extension, SEQUENCE { tenant, vm, hostData, reportDigest: OCTET STRING } of 16, 16, 32 and 48 bytes: which VM's launch the key was
/// named under. The number is from the experimental arc (RFC 1155, section 3.1.3): nobody has registered one.
pub const LAUNCH_EXTENSION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.3.18515.1");
/// How the profile writes numbers in names.
const NUMBER_PREFIX: &str = "id:";
/// The longest certificate that is looked at: what an NV index of a TPM may hold is less.
const CERTIFICATE_BYTES_MAX: usize = 8192;
/// The longest bundle of certificates.
const BUNDLE_BYTES_MAX: usize = 256 * 1024;
/// The longest model or version.
const WORD_BYTES_MAX: usize = 128;
/// What may sign certificates.
const ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
    algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
];

/// Whether a file is a DER certificate for endorsement keys, as far as its extended key usage says.
#[must_use]
pub fn is_ek_certificate(der: &[u8]) -> bool {
    x509_cert::Certificate::from_der(der).is_ok_and(|parsed| has_ek_usage(&parsed))
}

/// Which VM's launch an endorsement key was named under, as the authority of its tenant knew it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EkLaunch {
    /// The tenant.
    pub tenant: [u8; 16],
    /// The VM.
    pub vm: [u8; 16],
    /// HOST_DATA of the report: SHA-256 of the launch configuration.
    pub host_data: [u8; 32],
    /// SHA-384 of the report.
    pub report_digest: [u8; 48],
}

/// What a certificate of an endorsement key says. Nothing of it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EkCertificate {
    numbers: Numbers,
    /// TPM_PT_MANUFACTURER: four characters, the last ones may be zero.
    pub manufacturer: [u8; 4],
    /// The model, as its maker writes it.
    pub model: String,
    /// The firmware's version: hexadecimal digits.
    pub version: String,
    /// The issuer's name (RFC 4514).
    pub issuer: String,
    /// The subject's name (RFC 4514); empty where the profile is followed to the letter.
    pub subject: String,
    /// The serial number, big-endian.
    pub serial: Vec<u8>,
    /// Which VM's launch the key was named under, where a tenant's authority says so ([`LAUNCH_EXTENSION`]).
    pub launch: Option<EkLaunch>,
    /// First second of validity, since 1970.
    pub not_before: u64,
    /// Last second of validity, since 1970.
    pub not_after: u64,
}

impl EkCertificate {
    /// Reads one DER certificate.
    ///
    /// # Errors
    /// [`EvidenceError::BadEkCertificate`].
    pub fn parse(der: &[u8]) -> Result<Self, EvidenceError> {
        let bad = EvidenceError::BadEkCertificate;
        if der.len() > CERTIFICATE_BYTES_MAX {
            return Err(bad("it is longer than any certificate of this kind"));
        }
        let parsed = x509_cert::Certificate::from_der(der).map_err(|_| bad("it is not a DER certificate"))?;
        if !has_ek_usage(&parsed) {
            return Err(bad("it is not for an endorsement key (tcg-kp-EKCertificate is missing)"));
        }
        let body = parsed.tbs_certificate();
        let key = body.subject_public_key_info().to_der().map_err(|_| bad("its key cannot be read"))?;
        let numbers = SubjectPublicKeyInfoRef::from_der(&key).ok().and_then(|info| Numbers::of(&info));
        let numbers = numbers.ok_or(bad("its key is neither RSA nor on P-256 or P-384"))?;
        usage(&parsed, &numbers)?;
        let name = tpm_name(&parsed)?;
        let validity = body.validity();
        Ok(Self {
            numbers,
            manufacturer: manufacturer(&word(&name, MANUFACTURER)?)?,
            model: word(&name, MODEL)?,
            version: version(&word(&name, VERSION)?)?,
            issuer: body.issuer().to_string(),
            subject: body.subject().to_string(),
            serial: body.serial_number().as_bytes().to_vec(),
            launch: launch(&parsed)?,
            not_before: validity.not_before.to_unix_duration().as_secs(),
            not_after: validity.not_after.to_unix_duration().as_secs(),
        })
    }

    /// Whether it is that endorsement key's.
    ///
    /// # Errors
    /// [`EvidenceError::OtherEndorsementKey`].
    pub fn certifies(&self, public: &EndorsementPublic) -> Result<(), EvidenceError> {
        if self.numbers.are(public) { Ok(()) } else { Err(EvidenceError::OtherEndorsementKey) }
    }

    /// `rsa2048` and other sizes, `p256` or `p384`.
    #[must_use]
    pub fn kind(&self) -> String {
        self.numbers.kind()
    }
}

/// A certificate of an endorsement key that an authority vouches for.
#[derive(Clone, Debug)]
pub struct VerifiedEk {
    certificate: EkCertificate,
}

impl VerifiedEk {
    /// What it says.
    #[must_use]
    pub const fn certificate(&self) -> &EkCertificate {
        &self.certificate
    }
}

/// The authorities that a relying party believes in matters of endorsement keys.
#[derive(Clone, Debug)]
pub struct EkAuthorities {
    roots: Vec<CertificateDer<'static>>,
    intermediates: Vec<CertificateDer<'static>>,
}

impl EkAuthorities {
    /// Believes every certificate of a PEM bundle, or of one DER file. They need not be self-signed, and their own dates do not count
    /// (RFC 5280, section 6.1.1, d).
    ///
    /// # Errors
    /// [`EvidenceError::BadAuthority`].
    pub fn new(roots: &[u8]) -> Result<Self, EvidenceError> {
        let roots = bundle(roots)?;
        for root in &roots {
            anchor_from_trusted_cert(root)
                .map_err(|_| EvidenceError::BadAuthority("one is no certificate"))?;
        }
        Ok(Self { roots, intermediates: Vec::new() })
    }

    /// Adds certificates that may stand between a root and an endorsement key's.
    ///
    /// # Errors
    /// [`EvidenceError::BadAuthority`].
    pub fn with_intermediates(mut self, intermediates: &[u8]) -> Result<Self, EvidenceError> {
        self.intermediates.extend(bundle(intermediates)?);
        Ok(self)
    }

    /// Verifies a DER certificate at `now` (seconds since 1970).
    ///
    /// # Errors
    /// [`EvidenceError::BadEkCertificate`]; [`EvidenceError::EkChain`] if no root vouches for it.
    pub fn verify(&self, der: &[u8], now: u64) -> Result<VerifiedEk, EvidenceError> {
        let certificate = EkCertificate::parse(der)?;
        let refused = |error: webpki::Error| EvidenceError::EkChain { why: error.to_string() };
        let anchors = self.roots.iter().map(|root| anchor_from_trusted_cert(root).map_err(refused));
        let anchors = anchors.collect::<Result<Vec<_>, _>>()?;
        let der = CertificateDer::from(der);
        let end = EndEntityCert::try_from(&der).map_err(refused)?;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        // The certificate has it, or it was not read; authorities need none.
        let usage = Usage::required_if_present(EK_USAGE_DER);
        end.verify_for_usage(ALGORITHMS, &anchors, &self.intermediates, now, usage, None, None)
            .map_err(refused)?;
        Ok(VerifiedEk { certificate })
    }
}

/// Every certificate of a PEM bundle, or one in DER.
fn bundle(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, EvidenceError> {
    let bad = EvidenceError::BadAuthority;
    if bytes.len() > BUNDLE_BYTES_MAX {
        return Err(bad("the bundle is longer than any"));
    }
    if bytes.first() == Some(&0x30) {
        return Ok(vec![CertificateDer::from(bytes.to_vec())]);
    }
    let found = CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|_| bad("the bundle is not PEM"))?;
    if found.is_empty() { Err(bad("the bundle holds no certificate")) } else { Ok(found) }
}

fn has_ek_usage(parsed: &x509_cert::Certificate) -> bool {
    let usage = parsed.tbs_certificate().get_extension::<ExtendedKeyUsage>();
    usage.is_ok_and(|usage| usage.is_some_and(|(_, usage)| usage.0.contains(&EK_USAGE)))
}

/// Basic constraints and key usage: no authority's, and to encrypt for, as the key's kind does it.
fn usage(parsed: &x509_cert::Certificate, numbers: &Numbers) -> Result<(), EvidenceError> {
    let bad = EvidenceError::BadEkCertificate;
    let body = parsed.tbs_certificate();
    let constraints = body.get_extension::<BasicConstraints>();
    let constraints = constraints.map_err(|_| bad("its basic constraints cannot be read"))?;
    if constraints.is_none_or(|(_, constraints)| constraints.ca) {
        return Err(bad("it does not say that it is no authority's"));
    }
    let usage = body.get_extension::<KeyUsage>().map_err(|_| bad("its key usage cannot be read"))?;
    let (_, usage) = usage.ok_or(bad("it does not say what its key is for"))?;
    let encrypts = match numbers {
        Numbers::Rsa { .. } => usage.key_encipherment(),
        Numbers::P256(_) | Numbers::P384(_) => usage.key_agreement(),
    };
    if encrypts && !usage.key_cert_sign() { Ok(()) } else { Err(bad("its key is not one to encrypt for")) }
}

/// The four strings of [`LAUNCH_EXTENSION`], if it is there: once, each of its length, and nothing besides.
fn launch(parsed: &x509_cert::Certificate) -> Result<Option<EkLaunch>, EvidenceError> {
    let bad = || EvidenceError::BadEkCertificate("what it says of a launch cannot be read");
    let all = parsed.tbs_certificate().extensions().map(Vec::as_slice).unwrap_or_default();
    let mut found = all.iter().filter(|extension| extension.extn_id == LAUNCH_EXTENSION);
    let value = match (found.next(), found.next()) {
        (None, _) => return Ok(None),
        (Some(extension), None) => extension.extn_value.as_bytes(),
        (Some(_), Some(_)) => return Err(bad()),
    };
    let strings = Vec::<OctetString>::from_der(value).map_err(|_| bad())?;
    let [tenant, vm, host_data, report_digest] = &strings[..] else { return Err(bad()) };
    let parts = || -> Result<EkLaunch, TryFromSliceError> {
        Ok(EkLaunch {
            tenant: tenant.as_bytes().try_into()?,
            vm: vm.as_bytes().try_into()?,
            host_data: host_data.as_bytes().try_into()?,
            report_digest: report_digest.as_bytes().try_into()?,
        })
    };
    parts().map(Some).map_err(|_| bad())
}

/// The one directory name among the subject's other names.
fn tpm_name(parsed: &x509_cert::Certificate) -> Result<Name, EvidenceError> {
    let bad = EvidenceError::BadEkCertificate;
    let body = parsed.tbs_certificate();
    let names = body.get_extension::<SubjectAltName>().map_err(|_| bad("its other names cannot be read"))?;
    let (critical, names) = names.ok_or(bad("it does not say which TPM it is for"))?;
    if body.subject().is_empty() && !critical {
        return Err(bad("it has no subject, yet its other names may be ignored"));
    }
    let mut found = names.0.into_iter().filter_map(|name| match name {
        GeneralName::DirectoryName(name) => Some(name),
        _ => None,
    });
    match (found.next(), found.next()) {
        (Some(name), None) => Ok(name),
        _ => Err(bad("it does not say once which TPM it is for")),
    }
}

/// An attribute of the name, once, in printable ASCII.
fn word(name: &Name, oid: ObjectIdentifier) -> Result<String, EvidenceError> {
    let bad = EvidenceError::BadEkCertificate;
    let mut found = name.iter().filter(|attribute| attribute.oid == oid);
    let value = match (found.next(), found.next()) {
        (Some(attribute), None) => &attribute.value,
        _ => return Err(bad("it does not name manufacturer, model and version of the TPM once")),
    };
    let text = value.decode_as::<Utf8StringRef<'_>>().map(|text| text.as_str().to_owned());
    let text =
        text.or_else(|_| value.decode_as::<PrintableStringRef<'_>>().map(|text| text.as_str().to_owned()));
    let text = text.map_err(|_| bad("a word about the TPM is not text"))?;
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if plain && !text.is_empty() && text.len() <= WORD_BYTES_MAX {
        Ok(text)
    } else {
        Err(bad("a word about the TPM is not short and printable"))
    }
}

/// `id:` and eight hexadecimal digits.
fn manufacturer(word: &str) -> Result<[u8; 4], EvidenceError> {
    let mut out = [0; 4];
    let digits = word.strip_prefix(NUMBER_PREFIX).unwrap_or_default();
    let bad = EvidenceError::BadEkCertificate("the TPM's manufacturer is not a number of eight digits");
    hex::decode_to_slice(digits, &mut out).map_err(|_| bad)?;
    Ok(out)
}

/// `id:` and hexadecimal digits.
fn version(word: &str) -> Result<String, EvidenceError> {
    let digits = word.strip_prefix(NUMBER_PREFIX).unwrap_or_default();
    let all = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if all {
        Ok(digits.to_owned())
    } else {
        Err(EvidenceError::BadEkCertificate("the TPM's version is not a number"))
    }
}
