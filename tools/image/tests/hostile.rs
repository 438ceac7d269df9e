//! Any bytes end in a result: no panic, no endless work, whatever is flipped, cut or invented.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test ends where its world fails"
)]

mod support;

use husk_image::fuzzing;
use husk_image::vcpu::{CpuSignature, RESET_VECTOR, Vcpus, reset_vmsa};
use igvm::IgvmRevision;
use igvm_defs::IgvmPageDataType;
use proptest::prelude::*;
use support::{SECTIONS, area, data, igvm_file, insert, memory_map, ovmf, page, vmsa};

fn file() -> Vec<u8> {
    let vcpus = Vcpus { count: 1, signature: CpuSignature(0x00A0_0F11), features: 1 };
    let own = reset_vmsa(RESET_VECTOR, &vcpus);
    igvm_file(
        IgvmRevision::V1,
        vec![
            area(0, 2),
            memory_map(0),
            insert(0x8000, 0),
            page(0x1000, 1),
            data(0x2000, None, IgvmPageDataType::SECRETS, false),
            data(0x3000, None, IgvmPageDataType::CPUID_DATA, false),
            vmsa(0, &own),
        ],
    )
}

/// The file with its checksum made right, so that what was changed is read.
fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    let Some(size) = bytes.get(12..16) else { return bytes };
    let end = 24 + u32::from_le_bytes(size.try_into().unwrap()) as usize;
    if end <= bytes.len() {
        bytes[20..24].fill(0);
        let sum = crc32fast::hash(&bytes[..end]);
        bytes[20..24].copy_from_slice(&sum.to_le_bytes());
    }
    bytes
}

/// Where the headers end; what lies behind is content, whose value nobody reads.
fn headers_end(bytes: &[u8]) -> usize {
    24 + u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize
}

#[test]
fn every_byte_of_the_headers_may_have_every_value() {
    let good = file();
    assert!(fuzzing::igvm(&good));
    for at in 0..headers_end(&good) {
        for value in [0, 1, 0x7F, 0x80, 0xFF, good[at] ^ 1, good[at] ^ 0x10] {
            let mut bytes = good.clone();
            bytes[at] = value;
            fuzzing::igvm(&with_checksum(bytes));
        }
    }
}

#[test]
fn a_file_may_end_anywhere() {
    let good = file();
    for end in 0..headers_end(&good) + 64 {
        let mut bytes = good[..end].to_vec();
        if end >= 24 {
            bytes[16..20].copy_from_slice(&(end as u32).to_le_bytes());
        }
        assert!(!fuzzing::igvm(&with_checksum(bytes)), "a file cut at {end} was read");
    }
    let image = ovmf(SECTIONS);
    for pages in 0..image.len() / 4096 {
        assert!(!fuzzing::ovmf(&image[..pages * 4096]));
    }
    assert!(fuzzing::ovmf(&image));
}

#[test]
fn every_byte_of_the_tables_may_have_every_value() {
    let good = ovmf(SECTIONS);
    let table = good.len() - 192..good.len() - 32;
    for at in (0x8000..0x8000 + 16 + SECTIONS.len() * 12).chain(table) {
        for value in [0, 1, 0x7F, 0x80, 0xFF, good[at] ^ 1, good[at] ^ 0x10] {
            let mut bytes = good.clone();
            bytes[at] = value;
            fuzzing::ovmf(&bytes);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if std::env::var_os("HUSK_LONG").is_some() { 20_000 } else { 300 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn headers_with_many_changes_end_in_a_result(changes in prop::collection::vec((0_usize..0x200, any::<u8>()), 1..12)) {
        let mut bytes = file();
        let end = headers_end(&bytes);
        for (at, value) in changes {
            bytes[24 + at % (end - 24)] = value;
        }
        fuzzing::igvm(&with_checksum(bytes));
    }

    #[test]
    fn invented_headers_end_in_a_result(headers in prop::collection::vec((prop::sample::select(vec![1_u32, 0x101, 0x102, 0x301, 0x302, 0x303, 0x304, 0x305, 0x309, 0x30B, 0x30C, 0x30D, 0x311, 0x313]), prop::collection::vec(any::<u8>(), 0..40)), 0..20)) {
        let mut variable = vec![1, 0, 0, 0, 16, 0, 0, 0, 1, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for (kind, body) in headers {
            variable.extend(kind.to_le_bytes());
            variable.extend((body.len() as u32).to_le_bytes());
            variable.extend(&body);
            variable.resize(variable.len().next_multiple_of(8), 0);
        }
        let mut bytes = b"IGVM".to_vec();
        for word in [1, 24, variable.len() as u32, 24 + variable.len() as u32 + 8192, 0] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(variable);
        bytes.resize(bytes.len() + 8192, 0x5A);
        fuzzing::igvm(&with_checksum(bytes));
    }

    #[test]
    fn any_bytes_end_in_a_result(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        fuzzing::igvm(&bytes);
        fuzzing::ovmf(&bytes);
        let mut image = bytes;
        image.resize(8192, 0);
        image.rotate_right(2048);
        fuzzing::ovmf(&image);
    }
}
