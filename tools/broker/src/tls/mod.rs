//! TLS 1.3 of the server.
//!
//! **What.** [`Credentials`] are the certificate and key that it shows, read from two files and read anew on demand; [`Issuer`] makes both
//! under an authority of the operator's own.
//! **Trust.** The files, and the machine's calendar for their dates. Clients trust the authority. A VM trusts neither: what matters is sealed within its
//! frames, so TLS hides from the network who talks when, and an operator's requests (`admin`).
//! **Laws.** TLS 1.3 alone. A certificate that no client would take, or a key that is another's, is refused when it is read, not when the
//! first client comes; what was read before is shown on.
//! **Not here.** Certificates of endorsement keys (`authority`).

mod issue;
mod serving;

pub use issue::{Issued, Issuer, ServerName, Term};
pub use serving::Credentials;

use std::path::PathBuf;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A key file could not be read.
    #[error(transparent)]
    File(#[from] husk_files::PrivateFileError),
    /// A file holds no certificate.
    #[error("{0} holds no certificate: PEM is expected, the server's own first")]
    NoCertificate(PathBuf),
    /// A file holds no key.
    #[error("{0} holds no private key: PEM is expected (PKCS #8, PKCS #1 or SEC 1)")]
    NoKey(PathBuf),
    /// Key and certificate do not belong together.
    #[error(
        "the key in {key} is not that of the first certificate in {certificate}; give the two files that were made together"
    )]
    OtherKey {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The certificate's time is over.
    #[error(
        "the certificate in {path} expired at {end}; make another (`husk broker tls issue`), or set this machine's clock right"
    )]
    Expired {
        /// The certificate's file.
        path: PathBuf,
        /// When.
        end: String,
    },
    /// The certificate's time has not come.
    #[error("the certificate in {path} is not valid before {begin}; is this machine's clock right?")]
    NotYet {
        /// The certificate's file.
        path: PathBuf,
        /// When.
        begin: String,
    },
    /// A key of a kind that TLS 1.3 does not sign with.
    #[error("the key in {0} is of a kind that is not known here: P-256, P-384, Ed25519 or RSA is expected")]
    UnknownKey(PathBuf),
    /// The file does not hold what an authority signs with.
    #[error("{0} is not the key of an authority that `husk broker tls init` made")]
    NotAnIssuer(PathBuf),
    /// A certificate could not be built.
    #[error("a certificate could not be built: {0}")]
    Building(String),
    /// The machine has no entropy.
    #[error("the machine's entropy source failed")]
    Entropy,
}
