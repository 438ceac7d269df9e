//! Reports and certificates as guests' operating systems hand them out.
//!
//! **What.** [`report_in`] finds the report in a file, bare or in the answer of the processor (MSG_REPORT_RSP, as Linux' `sev-guest` gives
//! it). [`key_certificate_in`] finds the certificate of the key that signed: bare DER, one PEM certificate, or the table of an
//! extended report (AMD 56421 GHCB, "SNP extended guest request"; Linux' `auxblob`).
//! **Trust.** None; nothing is verified here.
//! **Laws.** Offsets and sizes of a table are checked; two keys in one table are refused.
//! **Not here.** Intermediates and roots in a table: [`Verifier`](crate::Verifier) has its own.

use crate::EvidenceError;
use husk::seams::REPORT_BYTES;
use x509_cert::der::pem;

/// Status, size and reserved bytes before the report in MSG_REPORT_RSP.
const RESPONSE_HEAD_BYTES: usize = 0x20;
/// VCEK 63da758d-e664-4564-adc5-f4b93be8accd and VLEK a8074bc2-a25a-483e-aae6-39c045a0b8a1, as they lie in memory.
const KEY_GUIDS: [[u8; 16]; 2] = [
    [0x8D, 0x75, 0xDA, 0x63, 0x64, 0xE6, 0x64, 0x45, 0xAD, 0xC5, 0xF4, 0xB9, 0x3B, 0xE8, 0xAC, 0xCD],
    [0xC2, 0x4B, 0x07, 0xA8, 0x5B, 0xA2, 0x3E, 0x48, 0xAA, 0xE6, 0x39, 0xC0, 0x45, 0xA0, 0xB8, 0xA1],
];
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
        if KEY_GUIDS.contains(&guid) && found.replace(certificate).is_some() {
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
