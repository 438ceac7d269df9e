//! An authority of the operator's own, and what it issues to the server (RFC 5280).

use super::TlsError;
use crate::authority::certificate::{
    AUTHORITY_KEY_IDENTIFIER, BASIC_CONSTRAINTS, EXTENDED_KEY_USAGE, IssueError, KEY_USAGE, OwnProfile,
    SUBJECT_ALT_NAME, extension, instant, serial,
};
use crate::world::World;
use p256::ecdsa::{DerSignature, SigningKey};
use p256::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _};
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;
use x509_cert::Certificate;
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{Builder, CertificateBuilder};
use x509_cert::certificate::TbsCertificate;
use x509_cert::der::asn1::{Ia5String, ObjectIdentifier, OctetString};
use x509_cert::der::pem::{self, LineEnding};
use x509_cert::der::{DecodePem as _, EncodePem as _};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName,
};
use x509_cert::name::Name;
use x509_cert::spki::{SubjectPublicKeyInfoOwned, SubjectPublicKeyInfoRef};
use x509_cert::time::Validity;
use zeroize::Zeroizing;

/// id-kp-serverAuth (RFC 5280, section 4.2.1.12).
const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
/// The label of RFC 7468, section 10.
const KEY_LABEL: &str = "PRIVATE KEY";
/// Scalars outside [1, n) are refused; 2^-32 of all on P-256.
const DRAWS_MAX: u8 = 8;

/// From when, since 1970, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Term {
    /// The first moment.
    pub begin: Duration,
    /// How long it holds.
    pub length: Duration,
}

impl Term {
    fn validity(self) -> Result<Validity, IssueError> {
        let end = self.begin.saturating_add(self.length);
        Ok(Validity::new(instant(self.begin.as_secs())?, instant(end.as_secs())?))
    }
}

/// By what clients ask for the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerName {
    /// A host name.
    Dns(String),
    /// An address.
    Address(IpAddr),
}

impl FromStr for ServerName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let known = rustls_pki_types::DnsName::try_from(text.to_owned());
        known.map(|name| Self::Dns(name.as_ref().to_owned())).map_err(|_| {
            "a server's name is a host name, such as broker.example, or an address, such as 192.0.2.1"
                .to_owned()
        })
    }
}

impl ServerName {
    fn general(&self) -> Result<GeneralName, IssueError> {
        Ok(match self {
            Self::Dns(name) => GeneralName::DnsName(Ia5String::new(name)?),
            Self::Address(IpAddr::V4(address)) => GeneralName::IpAddress(OctetString::new(address.octets())?),
            Self::Address(IpAddr::V6(address)) => GeneralName::IpAddress(OctetString::new(address.octets())?),
        })
    }
}

/// An authority for servers: its key and its certificate, in PEM.
pub struct Issuer {
    key: SigningKey,
    certificate: Certificate,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Issuer")
    }
}

/// A certificate and its key, in PEM.
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// The key: a SECRET.
    pub key: Zeroizing<String>,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Issued")
    }
}

impl Issuer {
    /// Makes one.
    ///
    /// # Errors
    /// [`TlsError::Entropy`], [`TlsError::Building`].
    pub fn generate(world: &dyn World, term: Term) -> Result<Self, TlsError> {
        let key = generate(world)?;
        let subject = Name::from_str("CN=Authority of a broker,O=Husk").map_err(building)?;
        let usage = KeyUsage(KeyUsages::KeyCertSign.into());
        let certificate = build(world, OwnProfile { subject, usage }, (&key, &key), term)?;
        Ok(Self { key, certificate })
    }

    /// Reads the two files of an authority.
    ///
    /// # Errors
    /// [`TlsError::Io`], [`TlsError::File`], [`TlsError::NoCertificate`], [`TlsError::NotAnIssuer`].
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let failed = |source| TlsError::Io { path: certificate.to_owned(), source };
        let pem = std::fs::read(certificate).map_err(failed)?;
        let read =
            Certificate::from_pem(&pem).map_err(|_| TlsError::NoCertificate(certificate.to_owned()))?;
        let no_issuer = || TlsError::NotAnIssuer(key.to_owned());
        let private = SigningKey::from_pkcs8_pem(&husk_files::read(key)?).map_err(|_| no_issuer())?;
        let public = SubjectPublicKeyInfoOwned::from_key(private.verifying_key()).map_err(building)?;
        if public != *read.tbs_certificate().subject_public_key_info() {
            return Err(no_issuer());
        }
        Ok(Self { key: private, certificate: read })
    }

    /// Its certificate and key, in PEM.
    ///
    /// # Errors
    /// [`TlsError::Building`].
    pub fn issued(&self) -> Result<Issued, TlsError> {
        issued(&self.certificate, &self.key)
    }

    /// Issues a certificate and a new key to a server of these names.
    ///
    /// # Errors
    /// [`TlsError::Entropy`], [`TlsError::Building`].
    pub fn issue(&self, world: &dyn World, names: &[ServerName], term: Term) -> Result<Issued, TlsError> {
        let key = generate(world)?;
        let names = names.iter().map(ServerName::general).collect::<Result<_, _>>().map_err(building)?;
        let issuer = self.certificate.tbs_certificate().subject().clone();
        let certificate = build(world, ServerProfile { issuer, names }, (&self.key, &key), term)?;
        issued(&certificate, &key)
    }
}

fn generate(world: &dyn World) -> Result<SigningKey, TlsError> {
    for _ in 0..DRAWS_MAX {
        let mut scalar = Zeroizing::new([0; 32]);
        world.fill(scalar.as_mut_slice()).map_err(|_| TlsError::Entropy)?;
        if let Ok(key) = SigningKey::from_slice(scalar.as_slice()) {
            return Ok(key);
        }
    }
    Err(TlsError::Entropy)
}

fn build(
    world: &dyn World,
    profile: impl BuilderProfile,
    (signer, key): (&SigningKey, &SigningKey),
    term: Term,
) -> Result<Certificate, TlsError> {
    let public = SubjectPublicKeyInfoOwned::from_key(key.verifying_key()).map_err(building)?;
    let validity = term.validity().map_err(building)?;
    let number = serial(world).map_err(building)?;
    let builder = CertificateBuilder::new(profile, number, validity, public).map_err(building)?;
    builder.build::<_, DerSignature>(signer).map_err(building)
}

fn issued(certificate: &Certificate, key: &SigningKey) -> Result<Issued, TlsError> {
    let der = key.to_pkcs8_der().map_err(building)?;
    let key = pem::encode_string(KEY_LABEL, LineEnding::LF, der.as_bytes()).map_err(building)?;
    let certificate = certificate.to_pem(LineEnding::LF).map_err(building)?;
    Ok(Issued { certificate, key: Zeroizing::new(key) })
}

fn building(error: impl std::fmt::Display) -> TlsError {
    TlsError::Building(error.to_string())
}

struct ServerProfile {
    issuer: Name,
    names: Vec<GeneralName>,
}

impl BuilderProfile for ServerProfile {
    fn get_issuer(&self, _: &Name) -> Name {
        self.issuer.clone()
    }

    /// Empty: the names stand among its other names.
    fn get_subject(&self) -> Name {
        Name::default()
    }

    fn build_extensions(
        &self,
        _: SubjectPublicKeyInfoRef<'_>,
        issuer: SubjectPublicKeyInfoRef<'_>,
        _: &TbsCertificate,
    ) -> x509_cert::builder::Result<Vec<Extension>> {
        let constraints = BasicConstraints { ca: false, path_len_constraint: None };
        Ok(vec![
            // Critical, as the subject is empty (RFC 5280, section 4.2.1.6).
            extension(SUBJECT_ALT_NAME, true, &SubjectAltName(self.names.clone()))?,
            extension(BASIC_CONSTRAINTS, true, &constraints)?,
            extension(KEY_USAGE, true, &KeyUsage(KeyUsages::DigitalSignature.into()))?,
            extension(EXTENDED_KEY_USAGE, false, &ExtendedKeyUsage(vec![SERVER_AUTH]))?,
            extension(AUTHORITY_KEY_IDENTIFIER, false, &AuthorityKeyIdentifier::try_from(issuer)?)?,
        ])
    }
}
