//! The host's table of certificates (AMD 56421 GHCB, section "SNP extended guest request"): entries of GUID, offset and length, ended by
//! one of zeros, then the certificates.

use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// 63da758d-e664-4564-adc5-f4b93be8accd, as it lies in memory: the entry of the VCEK.
pub const VCEK_GUID: [u8; 16] =
    [0x8D, 0x75, 0xDA, 0x63, 0x64, 0xE6, 0x64, 0x45, 0xAD, 0xC5, 0xF4, 0xB9, 0x3B, 0xE8, 0xAC, 0xCD];
/// a8074bc2-a25a-483e-aae6-39c045a0b8a1, as it lies in memory: the entry of the VLEK.
pub const VLEK_GUID: [u8; 16] =
    [0xC2, 0x4B, 0x07, 0xA8, 0x5B, 0xA2, 0x3E, 0x48, 0xAA, 0xE6, 0x39, 0xC0, 0x45, 0xA0, 0xB8, 0xA1];

/// No table has more entries.
const ENTRIES_MAX: usize = 16;

/// One entry.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Entry {
    pub(crate) guid: [u8; 16],
    /// From the beginning of the table.
    pub(crate) offset: U32,
    pub(crate) bytes: U32,
}

const _: () = {
    assert!(size_of::<Entry>() == 24 && core::mem::offset_of!(Entry, offset) == 16);
    assert!(core::mem::offset_of!(Entry, bytes) == 20);
};

/// The DER certificate of the key that signs reports, the VLEK's before the VCEK's; empty where `table` has neither, or is none. All of it
/// is the host's word, for the broker to check.
#[must_use]
pub fn signing_certificate(table: &[u8]) -> &[u8] {
    [VLEK_GUID, VCEK_GUID].iter().find_map(|guid| named(table, guid)).unwrap_or_default()
}

fn named<'t>(table: &'t [u8], guid: &[u8; 16]) -> Option<&'t [u8]> {
    let entries = table.chunks_exact(size_of::<Entry>()).take(ENTRIES_MAX);
    let mut entries = entries.filter_map(|entry| Entry::read_from_bytes(entry).ok());
    let entry =
        entries.by_ref().take_while(|entry| entry.guid != [0; 16]).find(|entry| entry.guid == *guid)?;
    let offset = usize::try_from(entry.offset.get()).ok()?;
    table.get(offset..)?.get(..usize::try_from(entry.bytes.get()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::{Entry, U32, VCEK_GUID, VLEK_GUID, signing_certificate};
    use zerocopy::IntoBytes;

    extern crate std;
    use std::vec::Vec;

    fn table(entries: &[([u8; 16], u32, u32)]) -> Vec<u8> {
        let entry = |(guid, offset, bytes): &([u8; 16], u32, u32)| Entry {
            guid: *guid,
            offset: U32::new(*offset),
            bytes: U32::new(*bytes),
        };
        let mut table: Vec<u8> =
            entries.iter().flat_map(|fields| entry(fields).as_bytes().to_vec()).collect();
        table.resize(96, 0);
        table.extend(b"the VCEK, the VLEK");
        table
    }

    #[test]
    fn ghcb_extended_guest_request_the_signing_keys_certificate_is_found_and_a_lie_finds_nothing() {
        let (vcek, vlek) = ((VCEK_GUID, 96, 8), (VLEK_GUID, 106, 8));
        assert_eq!(signing_certificate(&table(&[([9; 16], 0, 4), vcek])), b"the VCEK");
        assert_eq!(signing_certificate(&table(&[vcek, vlek])), b"the VLEK");
        let cases: [(&str, Vec<u8>); 6] = [
            ("no table", Vec::new()),
            ("zeros", [0; 96].to_vec()),
            ("others only", table(&[([9; 16], 96, 8)])),
            ("behind the end", table(&[(VCEK_GUID, 96, 4000)])),
            ("wraps around", table(&[(VCEK_GUID, u32::MAX, u32::MAX)])),
            ("after the entry of zeros", table(&[([0; 16], 0, 0), vcek])),
        ];
        for (what, table) in cases {
            assert_eq!(signing_certificate(&table), b"", "{what}");
        }
    }
}
