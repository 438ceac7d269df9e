//! What an authority issues: its own certificate, and those of endorsement keys (TCG EK Credential Profile for TPM Family 2.0, chapter 3).

use super::AuthorityKey;
use crate::ids::{TenantId, VmName};
use crate::world::World;
use husk::engine::{EndorsementKey, Maker};
use husk_evidence::EndorsementPublic;
use p384::ecdsa::DerSignature;
use rsa::pkcs8::EncodePublicKey as _;
use std::str::FromStr;
use std::time::Duration;
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{Builder, CertificateBuilder};
use x509_cert::certificate::TbsCertificate;
use x509_cert::der::asn1::{Any, BitString, ObjectIdentifier, OctetString, Utf8StringRef};
use x509_cert::der::{self, Decode, Encode, Tag};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName,
    SubjectKeyIdentifier,
};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned, SubjectPublicKeyInfoRef};
use x509_cert::time::{Time, Validity};

/// tcg-kp-EKCertificate.
const EK_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.1");
/// tcg-at-tpmManufacturer, tcg-at-tpmModel, tcg-at-tpmVersion, tcg-at-tpmSpecification.
const MANUFACTURER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.2.1");
const MODEL: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.2.2");
const VERSION: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.2.3");
const SPECIFICATION: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.2.16");
/// The specification that the reference engine implements: family, level, revision.
const FAMILY: &str = "2.0";
const LEVEL: u8 = 0;
const REVISION: u8 = 164;
/// What the model is called.
const MODEL_NAME: &str = "Husk";

/// Extensions of RFC 5280, sections 4.2.1 and following.
const SUBJECT_DIRECTORY_ATTRIBUTES: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.9");
pub(crate) const SUBJECT_KEY_IDENTIFIER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.14");
pub(crate) const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
pub(crate) const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
pub(crate) const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
pub(crate) const AUTHORITY_KEY_IDENTIFIER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.35");
pub(crate) const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
/// id-ecPublicKey, secp256r1 and secp384r1 (RFC 5480).
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const SECP256R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");

/// Why nothing was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The machine has no entropy.
    #[error("the machine's entropy source failed")]
    Entropy,
    /// A certificate could not be built.
    #[error("a certificate could not be built: {0}")]
    Encoding(#[from] x509_cert::builder::Error),
    /// The authority's certificate is none.
    #[error("the authority's certificate cannot be read: {0}")]
    Authority(&'static str),
}

impl From<der::Error> for IssueError {
    fn from(error: der::Error) -> Self {
        Self::Encoding(error.into())
    }
}

/// Which VM's launch a certificate speaks of.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    /// The VM.
    pub vm: VmName,
    /// Who made its TPM.
    pub maker: Maker,
    /// HOST_DATA of its report.
    pub host_data: [u8; 32],
    /// SHA-384 of the report that the keys were named under.
    pub report_digest: [u8; 48],
}

/// The self-signed certificate of a tenant's authority, which holds from `not_before` (seconds since 1970) on, for as many seconds as are named or for ever.
///
/// # Errors
/// [`IssueError`].
pub fn authority(
    world: &dyn World,
    key: &AuthorityKey,
    tenant: TenantId,
    (not_before, seconds): (u64, Option<u64>),
) -> Result<Vec<u8>, IssueError> {
    let not_after = match seconds {
        Some(seconds) => instant(not_before.saturating_add(seconds))?,
        // RFC 5280, section 4.1.2.5: no expiration date that is well defined.
        None => Time::INFINITY,
    };
    let validity = Validity::new(instant(not_before)?, not_after);
    let subject = Name::from_str(&format!("CN=Endorsement keys of tenant {tenant},O=Husk"))?;
    let info = SubjectPublicKeyInfoOwned::from_key(key.0.verifying_key())
        .map_err(x509_cert::builder::Error::from)?;
    let usage = KeyUsage(KeyUsages::KeyCertSign | KeyUsages::CRLSign);
    let profile = OwnProfile { subject, usage };
    let builder = CertificateBuilder::new(profile, serial(world)?, validity, info)?;
    Ok(builder.build::<_, DerSignature>(&key.0)?.to_der()?)
}

/// The certificate of an endorsement key, under the authority whose certificate is `issuer`. It holds as long as that one: the broker asks no calendar.
///
/// # Errors
/// [`IssueError`].
pub fn endorsement(
    world: &dyn World,
    (key, issuer): (&AuthorityKey, &[u8]),
    endorsed: &EndorsementPublic,
    launch: &Launch,
) -> Result<Vec<u8>, IssueError> {
    let issuer = x509_cert::Certificate::from_der(issuer);
    let issuer = issuer.map_err(|_| IssueError::Authority("it is not a DER certificate"))?;
    let issuer = issuer.tbs_certificate();
    let profile = EkProfile { issuer: issuer.subject().clone(), key: endorsed.key(), launch: *launch };
    let info = key_info(endorsed)?;
    let builder = CertificateBuilder::new(profile, serial(world)?, *issuer.validity(), info)?;
    Ok(builder.build::<_, DerSignature>(&key.0)?.to_der()?)
}

pub(crate) fn instant(seconds: u64) -> Result<Time, IssueError> {
    Ok(Time::from(der::DateTime::from_unix_duration(Duration::from_secs(seconds))?))
}

/// Positive, and never drawn twice.
pub(crate) fn serial(world: &dyn World) -> Result<SerialNumber, IssueError> {
    let mut serial = [0; 16];
    world.fill(&mut serial).map_err(|_| IssueError::Entropy)?;
    serial[0] = serial[0] & 0x3F | 0x40;
    Ok(SerialNumber::new(&serial)?)
}

/// SubjectPublicKeyInfo of an endorsement key.
///
/// # Errors
/// [`IssueError`].
pub fn key_info(endorsed: &EndorsementPublic) -> Result<SubjectPublicKeyInfoOwned, IssueError> {
    let parts = endorsed.parts();
    let bad = || IssueError::Authority("an endorsement key is no key of its kind");
    let curve = match endorsed.key() {
        EndorsementKey::Rsa2048 => {
            let modulus = parts.first().ok_or_else(bad)?;
            let exponent = rsa::BigUint::from(65_537_u32);
            let public = rsa::RsaPublicKey::new(rsa::BigUint::from_bytes_be(modulus), exponent);
            let info = public.map_err(|_| bad())?.to_public_key_der().map_err(|_| bad())?;
            return Ok(SubjectPublicKeyInfoOwned::from_der(info.as_bytes())?);
        }
        EndorsementKey::P256 => SECP256R1,
        EndorsementKey::P384 => SECP384R1,
    };
    let algorithm =
        AlgorithmIdentifierOwned { oid: EC_PUBLIC_KEY, parameters: Some(Any::encode_from(&curve)?) };
    let point = [&[4][..], &parts.concat()].concat();
    Ok(SubjectPublicKeyInfoOwned { algorithm, subject_public_key: BitString::from_bytes(&point)? })
}

/// An authority of one level, under its own key: it issues to keys and to servers, never to another authority.
pub(crate) struct OwnProfile {
    pub(crate) subject: Name,
    /// What its key signs.
    pub(crate) usage: KeyUsage,
}

impl BuilderProfile for OwnProfile {
    fn get_issuer(&self, subject: &Name) -> Name {
        subject.clone()
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        own: SubjectPublicKeyInfoRef<'_>,
        _: SubjectPublicKeyInfoRef<'_>,
        _: &TbsCertificate,
    ) -> x509_cert::builder::Result<Vec<Extension>> {
        let constraints = BasicConstraints { ca: true, path_len_constraint: Some(0) };
        Ok(vec![
            extension(BASIC_CONSTRAINTS, true, &constraints)?,
            extension(KEY_USAGE, true, &self.usage)?,
            extension(SUBJECT_KEY_IDENTIFIER, false, &SubjectKeyIdentifier::try_from(own)?)?,
        ])
    }
}

struct EkProfile {
    issuer: Name,
    key: EndorsementKey,
    launch: Launch,
}

impl BuilderProfile for EkProfile {
    fn get_issuer(&self, _: &Name) -> Name {
        self.issuer.clone()
    }

    /// Empty: which TPM it is stands among its other names.
    fn get_subject(&self) -> Name {
        Name::default()
    }

    fn build_extensions(
        &self,
        _: SubjectPublicKeyInfoRef<'_>,
        issuer: SubjectPublicKeyInfoRef<'_>,
        _: &TbsCertificate,
    ) -> x509_cert::builder::Result<Vec<Extension>> {
        let usage = match self.key {
            EndorsementKey::Rsa2048 => KeyUsages::KeyEncipherment,
            EndorsementKey::P256 | EndorsementKey::P384 => KeyUsages::KeyAgreement,
        };
        let names = SubjectAltName(vec![GeneralName::DirectoryName(tpm_name(&self.launch.maker)?)]);
        let constraints = BasicConstraints { ca: false, path_len_constraint: None };
        let attributes = Any::from_der(&specification()?)?;
        let launch = Any::from_der(&launch(&self.launch)?)?;
        Ok(vec![
            // Critical, as the subject is empty (RFC 5280, section 4.2.1.6).
            extension(SUBJECT_ALT_NAME, true, &names)?,
            extension(SUBJECT_DIRECTORY_ATTRIBUTES, false, &attributes)?,
            extension(BASIC_CONSTRAINTS, true, &constraints)?,
            extension(KEY_USAGE, true, &KeyUsage(usage.into()))?,
            extension(EXTENDED_KEY_USAGE, false, &ExtendedKeyUsage(vec![EK_USAGE]))?,
            extension(AUTHORITY_KEY_IDENTIFIER, false, &AuthorityKeyIdentifier::try_from(issuer)?)?,
            extension(husk_evidence::LAUNCH_EXTENSION, false, &launch)?,
        ])
    }
}

pub(crate) fn extension(
    extn_id: ObjectIdentifier,
    critical: bool,
    value: &impl Encode,
) -> der::Result<Extension> {
    Ok(Extension { extn_id, critical, extn_value: OctetString::new(value.to_der()?)? })
}

/// The profile's section "Subject Alternative Name": numbers as `id:` and hexadecimal digits.
fn tpm_name(maker: &Maker) -> der::Result<Name> {
    let manufacturer = format!("id:{}", hex::encode_upper(maker.manufacturer));
    let version = format!("id:{:08X}", maker.firmware);
    let words = [(MANUFACTURER, manufacturer.as_str()), (MODEL, MODEL_NAME), (VERSION, &version)];
    let mut names = Vec::new();
    for (oid, word) in words {
        let pair = sequence(&[&oid.to_der()?, &Utf8StringRef::new(word)?.to_der()?])?;
        names.push(Any::new(Tag::Set, pair)?.to_der()?);
    }
    let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    Name::from_der(&sequence(&names)?)
}

/// Subject directory attributes: tcg-at-tpmSpecification.
fn specification() -> der::Result<Vec<u8>> {
    let family = Utf8StringRef::new(FAMILY)?.to_der()?;
    let value = sequence(&[&family, &LEVEL.to_der()?, &REVISION.to_der()?])?;
    let attribute = sequence(&[&SPECIFICATION.to_der()?, &Any::new(Tag::Set, value)?.to_der()?])?;
    sequence(&[&attribute])
}

/// SEQUENCE { tenant, vm, hostData, reportDigest: OCTET STRING }.
fn launch(launch: &Launch) -> der::Result<Vec<u8>> {
    let octets = |bytes: &[u8]| OctetString::new(bytes)?.to_der();
    let Launch { vm, host_data, report_digest, .. } = launch;
    sequence(&[&octets(&vm.tenant.0)?, &octets(&vm.vm.0)?, &octets(host_data)?, &octets(report_digest)?])
}

fn sequence(parts: &[&[u8]]) -> der::Result<Vec<u8>> {
    Any::new(Tag::Sequence, parts.concat())?.to_der()
}
