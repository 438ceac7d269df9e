//! Files that a launch is made from: IGVM and OVMF.

use husk_image::fuzzing;

/// An IGVM file, or the headers of one, which then gets sizes, checksum and a page of data.
pub(crate) fn igvm(data: &[u8]) {
    fuzzing::igvm(data);
    fuzzing::igvm(&fuzzing::sealed(data));
}

/// An OVMF image, filled up to whole pages.
pub(crate) fn ovmf(data: &[u8]) {
    fuzzing::ovmf(data);
    let mut image = vec![0; data.len().next_multiple_of(4096) - data.len()];
    image.extend(data);
    fuzzing::ovmf(&image);
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A platform, a policy, a parameter area with a memory map, a page with data and one without.
pub(crate) fn igvm_seeds() -> Vec<Vec<u8>> {
    let headers = [
        words(&[1, 16, 1, 0x0001_0200, 0, 0]),
        words(&[0x101, 16, 0x3_0000, 0, 1, 0]),
        words(&[0x301, 16, 4096, 0, 0, 0]),
        words(&[0x30C, 8, 0, 0]),
        words(&[0x303, 16, 0x8000, 0, 1, 0]),
        words(&[0x302, 24, 0x1000, 0, 1, 200, 0, 0]),
        words(&[0x302, 24, 0x2000, 0, 1, 0, 0, 1]),
    ]
    .concat();
    let mut seed = words(&[u32::from_le_bytes(*b"IGVM"), 1, 24, 0, 0, 0]);
    seed.extend(headers);
    assert!(seed.len() == 200, "the page's data lies right after the headers");
    assert!(fuzzing::igvm(&fuzzing::sealed(&seed)), "the seed is an IGVM file");
    vec![seed]
}

/// An image of one page with two sections and a table of three entries.
pub(crate) fn ovmf_seeds() -> Vec<Vec<u8>> {
    const METADATA: [u32; 4] = [0xDC88_6566, 0x4798_984A, 0x8555_5EA7, 0xCC67_BFA7];
    const RESET: [u32; 4] = [0x00F7_71DE, 0x4FCB_1A7E, 0xC768_0E89, 0x4EB4_2F7E];
    const FOOTER: [u32; 4] = [0x96B5_82DE, 0x45F7_1FB2, 0x66A3_EABA, 0x2D08_5AC5];
    let mut image = [0; 2048].to_vec();
    image.extend(b"ASEV");
    image.extend(words(&[40, 1, 2, 0x80_0000, 0x2000, 1, 0x80_2000, 0x1000, 2]));
    let mut table = Vec::new();
    let mut entry = |value: &[u32], bytes: u16, name: &[u32]| {
        table.extend(words(value));
        table.extend(bytes.to_le_bytes());
        table.extend(words(name));
    };
    entry(&[2048], 22, &METADATA);
    entry(&[0x80_B004], 22, &RESET);
    entry(&[], 62, &FOOTER);
    image.resize(4096 - 32 - table.len(), 0);
    image.extend(table);
    image.resize(4096, 0);
    assert!(fuzzing::ovmf(&image), "the seed is an OVMF image");
    vec![image]
}
