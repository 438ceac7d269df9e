//! The certificate that goes with a report, in the table form of an extended guest request (AMD 56421 GHCB, section
//! "SNP extended guest request").

use super::Attested;
use crate::attest::guest_message::{Entry, VCEK_GUID, VLEK_GUID};
use crate::attest::report::SigningKey;
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::U32;

/// The largest table in bytes; AMD's certificates of signing keys have less than 2 KiB.
pub(super) const TABLE_BYTES_MAX: usize = 4096;

/// Where the certificate lies: behind its entry and the one of zeros.
const CERTIFICATE_AT: usize = 2 * size_of::<Entry>();

/// Fetches the certificate into `table` and returns the size of the table in bytes; 0 without a certificate.
pub(super) fn fetch(tpm: &mut dyn Attested, table: &mut [u8; TABLE_BYTES_MAX]) -> usize {
    match tpm.certificate(&mut table[CERTIFICATE_AT..]) {
        0 => 0,
        bytes => (CERTIFICATE_AT + bytes).min(TABLE_BYTES_MAX),
    }
}

/// Writes the entries in front of the certificate, for the key that signed.
pub(super) fn name(table: &mut [u8], signer: SigningKey) {
    let guid = match signer {
        SigningKey::Vlek => VLEK_GUID,
        SigningKey::Vcek | SigningKey::None => VCEK_GUID,
    };
    let certificate = table.len().saturating_sub(CERTIFICATE_AT);
    let (Ok(offset), Ok(bytes)) = (u32::try_from(CERTIFICATE_AT), u32::try_from(certificate)) else { return };
    let entries = [
        Entry { guid, offset: U32::new(offset), bytes: U32::new(bytes) },
        Entry { guid: [0; 16], offset: U32::ZERO, bytes: U32::ZERO },
    ];
    if let Some(head) = table.get_mut(..CERTIFICATE_AT) {
        head.copy_from_slice(entries.as_bytes());
    }
}
