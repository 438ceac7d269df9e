//! The certificate that goes with a report, in the table form of an extended guest request (AMD 56421 GHCB, section
//! "SNP extended guest request": entries of GUID, offset and length, ended by one of zeros, then the certificates).

use super::Attested;
use crate::attest::report::SigningKey;
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// The largest table in bytes; AMD's certificates of signing keys have less than 2 KiB.
pub(super) const TABLE_BYTES_MAX: usize = 4096;

/// VCEK 63da758d-e664-4564-adc5-f4b93be8accd and VLEK a8074bc2-a25a-483e-aae6-39c045a0b8a1, as they lie in memory.
const VCEK_GUID: [u8; 16] =
    [0x8D, 0x75, 0xDA, 0x63, 0x64, 0xE6, 0x64, 0x45, 0xAD, 0xC5, 0xF4, 0xB9, 0x3B, 0xE8, 0xAC, 0xCD];
const VLEK_GUID: [u8; 16] =
    [0xC2, 0x4B, 0x07, 0xA8, 0x5B, 0xA2, 0x3E, 0x48, 0xAA, 0xE6, 0x39, 0xC0, 0x45, 0xA0, 0xB8, 0xA1];

/// One entry.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Entry {
    guid: [u8; 16],
    offset: U32,
    bytes: U32,
}

const _: () = assert!(size_of::<Entry>() == 24);

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
