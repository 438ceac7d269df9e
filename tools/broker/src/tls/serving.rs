//! What the server shows.

use super::TlsError;
use rustls::ServerConfig;
use rustls::crypto::ring::{default_provider, sign::any_supported_type};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

/// A certificate and its key, in two files.
#[derive(Debug)]
pub struct Credentials {
    certificate: PathBuf,
    key: PathBuf,
    shown: RwLock<Shown>,
}

#[derive(Clone, Debug)]
struct Shown {
    key: Arc<CertifiedKey>,
    end: Duration,
}

impl Credentials {
    /// Reads both files. `now` is the calendar's time since 1970.
    ///
    /// # Errors
    /// [`TlsError`], for everything that would keep clients away.
    pub fn read(certificate: PathBuf, key: PathBuf, now: Duration) -> Result<Arc<Self>, TlsError> {
        let shown = RwLock::new(read(&certificate, &key, now)?);
        Ok(Arc::new(Self { certificate, key, shown }))
    }

    /// Reads both files anew: who connects from now on is shown what they hold. An error leaves what was shown before.
    ///
    /// # Errors
    /// As [`Credentials::read`].
    pub fn reload(&self, now: Duration) -> Result<(), TlsError> {
        let shown = read(&self.certificate, &self.key, now)?;
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = shown;
        Ok(())
    }

    /// When the certificate that is shown ends, since 1970.
    #[must_use]
    pub fn end(&self) -> Duration {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).end
    }

    /// TLS 1.3 for HTTP/1.1.
    ///
    /// # Errors
    /// [`TlsError::Building`].
    pub fn config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, TlsError> {
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]);
        let builder = builder.map_err(|error| TlsError::Building(error.to_string()))?;
        let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::clone(self) as _);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Credentials {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&shown.key))
    }
}

fn read(certificate: &Path, key: &Path, now: Duration) -> Result<Shown, TlsError> {
    let failed = |source| TlsError::Io { path: certificate.to_owned(), source };
    let pem = std::fs::read(certificate).map_err(failed)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|_| TlsError::NoCertificate(certificate.to_owned()))?;
    let end = holds(certificate, &chain, now)?;
    let text = husk_files::read(key)?;
    let private =
        PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| TlsError::NoKey(key.to_owned()))?;
    let private = any_supported_type(&private).map_err(|_| TlsError::UnknownKey(key.to_owned()))?;
    let certified = CertifiedKey::new(chain, private);
    let other = |_| TlsError::OtherKey { certificate: certificate.to_owned(), key: key.to_owned() };
    certified.keys_match().map_err(other)?;
    Ok(Shown { key: Arc::new(certified), end })
}

/// The end of a chain's first certificate; each must hold now.
fn holds(path: &Path, chain: &[CertificateDer<'_>], now: Duration) -> Result<Duration, TlsError> {
    let mut first = None;
    for der in chain {
        let read = Certificate::from_der(der).map_err(|_| TlsError::NoCertificate(path.to_owned()))?;
        let validity = *read.tbs_certificate().validity();
        if now < validity.not_before.to_unix_duration() {
            return Err(TlsError::NotYet { path: path.to_owned(), begin: validity.not_before.to_string() });
        }
        if now > validity.not_after.to_unix_duration() {
            return Err(TlsError::Expired { path: path.to_owned(), end: validity.not_after.to_string() });
        }
        first.get_or_insert(validity.not_after.to_unix_duration());
    }
    first.ok_or_else(|| TlsError::NoCertificate(path.to_owned()))
}
