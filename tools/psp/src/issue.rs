//! Certificates in AMD's shape, under our names.
//!
//! **What.** ARK, ASK and VCEK certificates (AMD 57230): RSA-4096 keys, RSASSA-PSS with SHA-384 and a salt of 48 bytes,
//! AMD's extensions.
//! **Trust.** None is deserved: see the crate's head.
//! **Laws.** Every subject and issuer says `Husk` and `Simulated`.
//! **Not here.** Where keys are kept: `identity.rs`.

use crate::identity::IdentityError;
use husk::attest::report::Tcb;
use rsa::pkcs8::EncodePublicKey;
use rsa::signature::{RandomizedSigner, SignatureEncoding};
use std::str::FromStr;
use std::time::Duration;
use x509_cert::der::asn1::{Any, BitString, Ia5String, ObjectIdentifier, OctetString, UtcTime};
use x509_cert::der::{self, Decode, Encode, Tag};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages};
use x509_cert::name::Name;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};

/// 2020-01-01 and 2049-12-31, in seconds since 1970. A simulated processor has no clock and needs no renewal.
const NOT_BEFORE: u64 = 1_577_836_800;
const NOT_AFTER: u64 = 2_524_521_600;

const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const MGF1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.8");
const SHA_384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const CRL_NUMBER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.20");
const CERTIFICATE_ISSUER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.29");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
/// Size of the salt.
const SALT_BYTES: u8 = 48;

/// What a certificate says, apart from its signature.
pub(crate) struct Content {
    pub(crate) serial: u32,
    pub(crate) issuer: String,
    pub(crate) subject: String,
    /// DER of SubjectPublicKeyInfo.
    pub(crate) key: Vec<u8>,
    pub(crate) extensions: Vec<Extension>,
}

impl Content {
    /// The DER certificate, signed by `by`.
    pub(crate) fn sign(
        &self,
        by: &rsa::RsaPrivateKey,
        rng: &mut rand_chacha::ChaCha20Rng,
    ) -> Result<Vec<u8>, IdentityError> {
        let algorithm = pss_algorithm()?;
        let signed = self.signed_part(&algorithm)?;
        let signature =
            rsa::pss::BlindedSigningKey::<rsa::sha2::Sha384>::new(by.clone()).sign_with_rng(rng, &signed);
        let signature = BitString::from_bytes(&signature.to_vec())?.to_der()?;
        Ok(sequence(&[&signed, &algorithm, &signature])?)
    }

    /// TBSCertificate (RFC 5280, section 4.1).
    fn signed_part(&self, algorithm: &[u8]) -> der::Result<Vec<u8>> {
        let time = |seconds| UtcTime::from_unix_duration(Duration::from_secs(seconds)).map(Time::UtcTime);
        let validity: Validity = Validity::new(time(NOT_BEFORE)?, time(NOT_AFTER)?);
        let version = tagged(0, &2u8.to_der()?)?;
        sequence(&[
            &version,
            &self.serial.to_der()?,
            algorithm,
            &name(&self.issuer)?,
            &validity.to_der()?,
            &name(&self.subject)?,
            &self.key,
            &tagged(3, &self.extensions.to_der()?)?,
        ])
    }
}

/// What a revocation list of a simulated root says (RFC 5280, section 5.1).
#[derive(Clone, Debug)]
pub struct Revocations {
    /// cRLNumber.
    pub number: u32,
    /// thisUpdate and nextUpdate, in seconds since 1970.
    pub dates: (u64, u64),
    /// Serial numbers of what the root itself issued.
    pub own: Vec<u32>,
    /// Serial numbers of what the intermediate issued: an entry with a certificateIssuer each.
    pub of_intermediate: Vec<u32>,
}

impl Revocations {
    /// The DER list, signed by `by` in the name of `ARK-name`.
    pub(crate) fn sign(
        &self,
        name_of: &str,
        by: &rsa::RsaPrivateKey,
        rng: &mut rand_chacha::ChaCha20Rng,
    ) -> Result<Vec<u8>, IdentityError> {
        let algorithm = pss_algorithm()?;
        let signed = self.signed_part(name_of, &algorithm)?;
        let signature =
            rsa::pss::BlindedSigningKey::<rsa::sha2::Sha384>::new(by.clone()).sign_with_rng(rng, &signed);
        let signature = BitString::from_bytes(&signature.to_vec())?.to_der()?;
        Ok(sequence(&[&signed, &algorithm, &signature])?)
    }

    fn signed_part(&self, name_of: &str, algorithm: &[u8]) -> der::Result<Vec<u8>> {
        let time = |seconds| UtcTime::from_unix_duration(Duration::from_secs(seconds))?.to_der();
        let (from, until) = (time(self.dates.0)?, time(self.dates.1)?);
        let issuer = tagged(4, &name(&format!("SEV-{name_of}"))?)?;
        let other = vec![extension(CERTIFICATE_ISSUER, true, sequence(&[&issuer])?)?].to_der()?;
        let mut entries = Vec::new();
        for serial in &self.own {
            entries.push(sequence(&[&serial.to_der()?, &from])?);
        }
        for serial in &self.of_intermediate {
            entries.push(sequence(&[&serial.to_der()?, &from, &other])?);
        }
        let entries: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
        let revoked = if entries.is_empty() { Vec::new() } else { sequence(&entries)? };
        let number = vec![extension(CRL_NUMBER, false, self.number.to_der()?)?];
        let extensions = tagged(0, &number.to_der()?)?;
        let issuer = name(&format!("ARK-{name_of}"))?;
        sequence(&[&1u8.to_der()?, algorithm, &issuer, &from, &until, &revoked, &extensions])
    }
}

/// DER of an RSA key's SubjectPublicKeyInfo.
pub(crate) fn rsa_key(key: &rsa::RsaPrivateKey) -> Result<Vec<u8>, IdentityError> {
    let der = key.to_public_key().to_public_key_der().map_err(|_| IdentityError::Encoding)?;
    Ok(der.into_vec())
}

/// DER of a P-384 key's SubjectPublicKeyInfo (RFC 5480).
pub(crate) fn p384_key(key: &p384::ecdsa::VerifyingKey) -> der::Result<Vec<u8>> {
    let curve = Any::encode_from(&SECP384R1)?;
    let algorithm = AlgorithmIdentifierOwned { oid: EC_PUBLIC_KEY, parameters: Some(curve) };
    let point = BitString::from_bytes(key.to_sec1_point(false).as_bytes())?;
    SubjectPublicKeyInfoOwned { algorithm, subject_public_key: point }.to_der()
}

/// What marks an authority; `last` if it may only issue end certificates.
pub(crate) fn authority(last: bool) -> der::Result<Vec<Extension>> {
    let constraints = BasicConstraints { ca: true, path_len_constraint: last.then_some(0) };
    let usage = KeyUsage(KeyUsages::KeyCertSign.into());
    Ok(vec![
        extension(BASIC_CONSTRAINTS, true, constraints.to_der()?)?,
        extension(KEY_USAGE, true, usage.to_der()?)?,
    ])
}

/// AMD's extensions of a VCEK: structure version, product, patch levels in AMD's order, hardware identity (raw).
pub(crate) fn vcek(product: &str, tcb: &Tcb, hwid: &[u8; 64]) -> der::Result<Vec<Extension>> {
    let amd = |suffix: &str| {
        ObjectIdentifier::new(&format!("1.3.6.1.4.1.3704.1.{suffix}")).map_err(der::Error::from)
    };
    let levels = [
        ("1", 0),
        ("3.1", tcb.bootloader),
        ("3.2", tcb.tee),
        ("3.4", 0),
        ("3.5", 0),
        ("3.6", 0),
        ("3.7", 0),
        ("3.3", tcb.snp),
        ("3.8", tcb.microcode),
    ];
    let mut out = Vec::new();
    for (suffix, level) in levels {
        out.push(extension(amd(suffix)?, false, level.to_der()?)?);
    }
    out.insert(1, extension(amd("2")?, false, Ia5String::new(product)?.to_der()?)?);
    out.push(extension(amd("4")?, false, hwid.to_vec())?);
    Ok(out)
}

/// The `x` of a root's common name `ARK-x`.
pub(crate) fn root_name(ark_der: &[u8]) -> Option<String> {
    let ark = x509_cert::Certificate::from_der(ark_der).ok()?;
    let name = ark.tbs_certificate().subject().common_name().ok()??;
    Some(name.value().strip_prefix("ARK-")?.to_owned())
}

fn extension(extn_id: ObjectIdentifier, critical: bool, value: Vec<u8>) -> der::Result<Extension> {
    Ok(Extension { extn_id, critical, extn_value: OctetString::new(value)? })
}

/// A name like AMD's, with the organisation that it really is.
fn name(common_name: &str) -> der::Result<Vec<u8>> {
    Name::from_str(&format!("CN={common_name},O=Husk simulated secure processor - not AMD"))?.to_der()
}

/// RSASSA-PSS-params (RFC 4055, section 3.1): SHA-384, MGF1 with SHA-384, salt of 48 bytes.
fn pss_algorithm() -> der::Result<Vec<u8>> {
    let hash = sequence(&[&SHA_384.to_der()?, &der::asn1::Null.to_der()?])?;
    let mask = sequence(&[&MGF1.to_der()?, &hash])?;
    let parameters = sequence(&[&tagged(0, &hash)?, &tagged(1, &mask)?, &tagged(2, &SALT_BYTES.to_der()?)?])?;
    sequence(&[&RSASSA_PSS.to_der()?, &parameters])
}

fn sequence(parts: &[&[u8]]) -> der::Result<Vec<u8>> {
    Any::new(Tag::Sequence, parts.concat())?.to_der()
}

/// An explicit, constructed, context-specific tag around `inner`.
fn tagged(number: u32, inner: &[u8]) -> der::Result<Vec<u8>> {
    let tag = Tag::ContextSpecific { constructed: true, number: der::TagNumber(number) };
    Any::new(tag, inner)?.to_der()
}
