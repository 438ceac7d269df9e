//! Verifies SEV-SNP attestation reports down to AMD's roots, or to a named test root.
//!
//! **What.** [`Verifier`] holds the roots; [`Verifier::verify`] takes the raw bytes of a report and the certificate of
//! the key that signed it, and yields [`Verified`]: whose silicon, which chip, which patch levels. [`Manifest`] reads what an SVSM says of its vTPM, and
//! [`Verified::covers`] whether a report vouches for it. [`EkAuthorities`] verifies certificates of endorsement keys, [`RevocationList`] what a root took back, and [`Quote`] what a TPM
//! signed of its PCRs. [`view`] is the JSON form of all of them ([`json`]).
//! **Trust.** The three AMD root keys, pinned by digest; of endorsement keys, the roots that the caller names. The report, the certificate and every intermediate are
//! allegations. A simulated root counts only in a verifier that was told to accept that very root, and shows as
//! [`Silicon::Simulated`] in the result: nobody gets it by default or by accident.
//! **Laws.** What is hashed is what came, byte for byte: report and certificates are never re-encoded. The
//! certificate's patch levels, chip and kind agree with the report, or there is no result.
//! **Not here.** Policy: measurements, minimum patch levels, allowed chips, VMPL, dates ([`Verified::dates`] only
//! reports them), PCR values. Whether the TPM of an endorsement key holds an attestation key: only TPM2_ActivateCredential shows that, in a talk with the TPM. Whether a revocation list that has ended still counts: [`Verified::revocations`] only reports it.
//!
//! ```no_run
//! # fn judged(nonce: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
//! use husk_evidence::{AttestationKey, Quote, QuoteSignature};
//! let key = AttestationKey::parse(&std::fs::read("ak.pub")?)?;
//! let signature = QuoteSignature::parse(&std::fs::read("signature")?)?;
//! let quote = Quote::parse(&std::fs::read("quote")?)?.verify(&signature, &key)?;
//! quote.answers(nonce)?;
//! for pcr in quote.pcrs(&std::fs::read("pcrs")?)? {
//!     println!("{} {} {:02x?}", pcr.hash.name(), pcr.pcr, pcr.value);
//! }
//! # Ok(())
//! # }
//! ```

mod certificate;
mod crl;
mod ek;
mod endorsement;
mod error;
mod extended;
pub mod kds;
mod manifest;
mod numbers;
mod quote;
mod roots;
mod vek;
mod verifier;
pub mod view;

pub use certificate::{Certificate, Dates};
pub use crl::{LIST_BYTES_MAX, RevocationList};
pub use ek::{EkAuthorities, EkCertificate, EkLaunch, LAUNCH_EXTENSION, VerifiedEk, is_ek_certificate};
pub use endorsement::EndorsementPublic;
pub use error::EvidenceError;
pub use extended::{key_certificate_in, report_in};
pub use manifest::{Manifest, Service, ServiceContent, VtpmManifest, report_data};
pub use quote::{
    AttestationKey, Hash, PcrBank, PcrValue, Quote, QuoteSignature, Scheme, VerifiedQuote, is_attest,
    pcr_number, pcr_values_in,
};
pub use roots::SIMULATED_PREFIX;
pub use vek::{Vek, VekCertificate};
pub use verifier::{Endorsement, Silicon, Verified, Verifier};

#[doc = include_str!("json.md")]
pub mod json {}
