//! Reports and certificates as guests' operating systems hand them out.
//!
//! **What.** [`report_in`] finds the report in a file, bare or in the answer of the processor (MSG_REPORT_RSP, as Linux' `sev-guest` gives
//! it). [`key_certificate_in`] finds the certificate of the key that signed: bare DER, one PEM certificate, or the table of an
//! extended report (AMD 56421 GHCB, "SNP extended guest request"; Linux' `auxblob`).
//! **Trust.** None; nothing is verified here.
//! **Laws.** Offsets and sizes of a table are checked; two keys in one table are refused.
//! **Not here.** Intermediates and roots in a table: [`Verifier`](crate::Verifier) has its own.

use crate::EvidenceError;
use husk::attest::guest_message::{VCEK_GUID, VLEK_GUID};
use husk::seams::REPORT_BYTES;
use x509_cert::der::pem;

/// Status, size and reserved bytes before the report in MSG_REPORT_RSP.
const RESPONSE_HEAD_BYTES: usize = 0x20;
const ENTRY_BYTES: usize = 24;
/// A DER certificate is a SEQUENCE with a length of two bytes.
const DER_BEGINS: &[u8] = &[0x30, 0x82];
/// No table of certificates has more entries.
const ENTRIES_MAX: usize = 16;

/// The report in `bytes`: the report itself, or a MSG_REPORT_RSP with status 0, padded with zeros.
///
/// # Errors
/// [`EvidenceError::NoReport`].
pub fn report_in(bytes: &[u8]) -> Result<&[u8; REPORT_BYTES], EvidenceError> {
    if let Ok(report) = bytes.try_into() {
        return Ok(report);
    }
    let (head, rest) = bytes.split_first_chunk::<RESPONSE_HEAD_BYTES>().ok_or(EvidenceError::NoReport)?;
    let (report, padding) = rest.split_first_chunk::<REPORT_BYTES>().ok_or(EvidenceError::NoReport)?;
    let size = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    let answered = head[..4] == [0; 4] && usize::try_from(size) == Ok(REPORT_BYTES);
    if answered && head[8..].iter().chain(padding).all(|byte| *byte == 0) {
        Ok(report)
    } else {
        Err(EvidenceError::NoReport)
    }
}

/// The DER certificate of the key that signs reports.
///
/// # Errors
/// [`EvidenceError::NoCertificate`].
pub fn key_certificate_in(bytes: &[u8]) -> Result<Vec<u8>, EvidenceError> {
    if bytes.starts_with(DER_BEGINS) {
        return Ok(bytes.to_vec());
    }
    if bytes.starts_with(b"-----BEGIN") {
        return match pem::decode_vec(bytes) {
            Ok(("CERTIFICATE", der)) => Ok(der),
            _ => Err(EvidenceError::NoCertificate("the PEM file is not one certificate")),
        };
    }
    let mut found = None;
    for (guid, certificate) in table(bytes)? {
        if [VCEK_GUID, VLEK_GUID].contains(&guid) && found.replace(certificate).is_some() {
            return Err(EvidenceError::NoCertificate("the table has two signing keys"));
        }
    }
    found.map(<[u8]>::to_vec).ok_or(EvidenceError::NoCertificate("the table has no VCEK and no VLEK"))
}

/// A GUID and what it names.
type Entry<'b> = ([u8; 16], &'b [u8]);

/// The entries of a certificate table, up to the one of zeros.
fn table(bytes: &[u8]) -> Result<Vec<Entry<'_>>, EvidenceError> {
    let bad = EvidenceError::NoCertificate;
    let mut out = Vec::new();
    for entry in bytes.chunks_exact(ENTRY_BYTES).take(ENTRIES_MAX) {
        if entry.iter().all(|byte| *byte == 0) {
            return Ok(out);
        }
        let guid = *entry.first_chunk().ok_or(bad("the table is cut"))?;
        let word = |at: usize| {
            let field =
                entry.get(at..).and_then(|rest| rest.first_chunk()).map(|field| u32::from_le_bytes(*field));
            field.and_then(|number| usize::try_from(number).ok())
        };
        let content = word(16).zip(word(20)).and_then(|(at, length)| bytes.get(at..)?.get(..length));
        out.push((guid, content.ok_or(bad("an entry of the table lies behind its end"))?));
    }
    Err(bad("it is neither DER, PEM nor a table of certificates"))
}
