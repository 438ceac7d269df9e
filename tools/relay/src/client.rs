//! HTTP to a broker or a KBS.
//!
//! **What.** [`agent`] makes the client, [`Roots`] say whose certificates it believes.
//! **Trust.** The VM relies on none of it: its frames are sealed. TLS keeps from the network who talks when, and what an operator asks.
//! **Laws.** Who names an authority is answered under that authority or not at all.

use crate::pipe::{EXCHANGE_WAIT_MAX, PipeError};
use rustls::{CertificateError, Error as TlsError, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::Agent;
use ureq::http::Uri;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// How long a connection may take to come about.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(3);

/// How much of an answer is read: a hundred entries of a log, each with a long policy, are less.
const CONTENT_BYTES_MAX: u64 = 8 << 20;
const OCTETS: &str = "application/octet-stream";

/// Whose certificates are believed.
#[derive(Clone, Debug)]
pub struct Roots(RootCerts);

/// Why certificates cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file holds no certificate of an authority.
    #[error("{0} holds no certificate of an authority: PEM is expected, as `husk broker tls init` writes it")]
    NoCertificate(PathBuf),
    /// There is nothing to verify.
    #[error("--broker-ca goes with an address that starts with https://")]
    NoTls,
}

impl Roots {
    /// The authorities that web browsers believe.
    #[must_use]
    pub const fn web() -> Self {
        Self(RootCerts::WebPki)
    }

    /// The authorities in a PEM file, and no other.
    ///
    /// # Errors
    /// [`RootsError::Io`], [`RootsError::NoCertificate`].
    pub fn of_file(path: &Path) -> Result<Self, RootsError> {
        let failed = |source| RootsError::Io { path: path.to_owned(), source };
        let none = || RootsError::NoCertificate(path.to_owned());
        let pem = std::fs::read(path).map_err(failed)?;
        let mut store = RootCertStore::empty();
        let mut certificates = Vec::new();
        for der in CertificateDer::pem_slice_iter(&pem) {
            let der = der.map_err(|_| none())?;
            store.add(der.clone()).map_err(|_| none())?;
            certificates.push(Certificate::from_der(&der).to_owned());
        }
        if certificates.is_empty() { Err(none()) } else { Ok(Self(RootCerts::from(certificates))) }
    }
}

/// By whose authority a broker is known.
#[derive(clap::Args, Clone, Debug)]
pub struct BrokerCa {
    /// The authority that the broker's certificate must come from, as `husk broker tls init` wrote it [default: the web's]. The VM does not
    /// rely on it.
    #[arg(long, value_name = "FILE", requires = "broker")]
    broker_ca: Option<PathBuf>,
}

impl BrokerCa {
    /// Whose certificates are believed of the broker at `url`.
    ///
    /// # Errors
    /// [`RootsError`].
    pub fn roots(&self, url: &str) -> Result<Roots, RootsError> {
        match &self.broker_ca {
            Some(_) if !url.starts_with("https://") => Err(RootsError::NoTls),
            Some(path) => Roots::of_file(path),
            None => Ok(Roots::web()),
        }
    }
}

/// Reads an address of HTTP.
///
/// # Errors
/// One line that says what is wanted.
pub fn is_url(text: &str) -> Result<String, String> {
    let known = text.starts_with("http://") || text.starts_with("https://");
    if known { Ok(text.to_owned()) } else { Err("an address starts with http:// or https://".to_owned()) }
}

/// A client that waits so long for an exchange, follows nobody elsewhere and leaves statuses to its user.
#[must_use]
pub fn agent(wait_max: Duration, roots: Roots) -> Agent {
    let config = Agent::config_builder()
        .timeout_connect(Some(CONNECT_WAIT_MAX))
        .timeout_global(Some(wait_max))
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .tls_config(TlsConfig::builder().root_certs(roots.0).build())
        .build();
    config.into()
}

/// A client of one server's requests, which are of any kind.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    base: String,
}

impl Client {
    /// A client of the broker at `base`, whose certificate must come from `roots`. Connects with the first request.
    #[must_use]
    pub fn new(base: &str, roots: Roots) -> Self {
        Self { agent: agent(EXCHANGE_WAIT_MAX, roots), base: base.trim_end_matches('/').to_owned() }
    }

    /// Whether the network does not see what is said: TLS is spoken, or it stays on this machine.
    #[must_use]
    pub fn is_private(&self) -> bool {
        let uri: Option<Uri> = self.base.parse().ok();
        let host = uri.as_ref().and_then(Uri::host).unwrap_or_default();
        let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        let is_here = host == "localhost" || address.is_some_and(|address| address.is_loopback());
        self.base.starts_with("https://") || is_here
    }

    /// Gets what is at `path`, or posts a body there; status and content.
    ///
    /// # Errors
    /// [`PipeError`]. Of what was posted, none says whether it was done.
    pub fn exchange(&self, path: &str, body: Option<&[u8]>) -> Result<(u16, Vec<u8>), PipeError> {
        let url = format!("{}{path}", self.base);
        let answer = match body {
            None => self.agent.get(&url).call(),
            Some(body) => self.agent.post(&url).header("content-type", OCTETS).send(body),
        };
        let mut answer = answer.map_err(broker_failed)?;
        let content = answer.body_mut().with_config().limit(CONTENT_BYTES_MAX).read_to_vec();
        Ok((answer.status().as_u16(), content.map_err(broker_failed)?))
    }
}

/// Why a broker gave no answer.
#[must_use]
pub fn broker_failed(error: ureq::Error) -> PipeError {
    let tls = match &error {
        ureq::Error::Rustls(tls) => Some(tls),
        ureq::Error::Io(io) => io.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()),
        _ => None,
    };
    match tls {
        Some(TlsError::InvalidCertificate(why)) => PipeError::NotTrusted(distrust(why)),
        Some(TlsError::InvalidMessage(_)) => {
            PipeError::Unreachable("it speaks no TLS: does its address start with http://?".to_owned())
        }
        _ => PipeError::Unreachable(error.to_string()),
    }
}

fn distrust(why: &CertificateError) -> String {
    let words = match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it expired; its operator issues another (`husk broker tls issue`), or this machine's clock is wrong"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet; is this machine's clock right?"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is for another name than the address has; ask by a name that it was issued for"
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "no authority that is believed issued it; give --broker-ca the certificate of the broker's authority"
        }
        other => return other.to_string(),
    };
    words.to_owned()
}
