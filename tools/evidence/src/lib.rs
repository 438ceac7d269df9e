//! Verifies SEV-SNP attestation reports down to AMD's roots, or to a named test root.
//!
//! **What.** [`Verifier`] holds the roots; [`Verifier::verify`] takes the raw bytes of a report and the certificate of
//! the key that signed it, and yields [`Verified`]: whose silicon, which chip, which patch levels. [`Manifest`] reads what an SVSM says of its vTPM, and
//! [`Verified::covers`] whether a report vouches for it. [`view`] is the JSON form of both ([`json`]).
//! **Trust.** The three AMD root keys, pinned by digest. The report, the certificate and every intermediate are
//! allegations. A simulated root counts only in a verifier that was told to accept that very root, and shows as
//! [`Silicon::Simulated`] in the result: nobody gets it by default or by accident.
//! **Laws.** What is hashed is what came, byte for byte: report and certificates are never re-encoded. The
//! certificate's patch levels, chip and kind agree with the report, or there is no result.
//! **Not here.** Policy: measurements, minimum patch levels, allowed chips, VMPL, dates ([`Verified::dates`] only
//! reports them). What a certificate of an endorsement key says. Revocation lists: AMD's only ever revoke intermediates; remove those from the folder instead.

mod certificate;
mod endorsement;
mod error;
mod extended;
mod manifest;
mod roots;
mod vek;
mod verifier;
pub mod view;

pub use certificate::{Certificate, Dates};
pub use endorsement::EndorsementPublic;
pub use error::EvidenceError;
pub use extended::{key_certificate_in, report_in};
pub use manifest::{Manifest, Service, ServiceContent, VtpmManifest, report_data};
pub use roots::SIMULATED_PREFIX;
pub use vek::{Vek, VekCertificate};
pub use verifier::{Endorsement, Silicon, Verified, Verifier};

#[doc = include_str!("json.md")]
pub mod json {}
