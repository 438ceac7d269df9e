//! Images that the tests make: an OVMF with SEV metadata, and IGVM files.

#![allow(clippy::allow_attributes, reason = "what is unused differs from test to test")]
#![allow(dead_code, clippy::unwrap_used, clippy::cast_possible_truncation, reason = "each test uses a part")]

use husk_image::digest::{PAGE_BYTES, Page, PageType};
use husk_image::run::{Content, Run};
use igvm::{IgvmDirectiveHeader, IgvmFile, IgvmInitializationHeader, IgvmPlatformHeader, IgvmRevision};
use igvm_defs::{
    IGVM_VHS_PARAMETER, IGVM_VHS_PARAMETER_INSERT, IGVM_VHS_SUPPORTED_PLATFORM, IgvmPageDataFlags,
    IgvmPageDataType, IgvmPlatformType,
};
use zerocopy::FromZeros as _;
use zerocopy::IntoBytes as _;

pub(crate) const POLICY: u64 = 0x30000;
pub(crate) const MASK: u32 = 1;
pub(crate) const RESET_ADDRESS: u32 = 0x0080_B004;
pub(crate) const HASHES_GPA: u32 = 0x0081_0400;

/// Kind, address and size of a section.
pub(crate) type Section = (u32, u32, u32);

/// What an edk2 AmdSev build has, in small.
pub(crate) const SECTIONS: &[Section] = &[
    (1, 0x0080_0000, 0x9000),
    (1, 0x0080_A000, 0x3000),
    (2, 0x0080_D000, 0x1000),
    (3, 0x0080_E000, 0x1000),
    (4, 0x0080_F000, 0x1000),
    (0x10, 0x0081_0000, 0x1000),
    (1, 0x0081_1000, 0xF000),
];

/// The same without a place for kernel hashes.
pub(crate) fn sections_without_hashes() -> Vec<Section> {
    SECTIONS.iter().copied().filter(|(kind, ..)| *kind != 0x10).collect()
}

fn guid(text: &str) -> [u8; 16] {
    let digits: String = text.chars().filter(|digit| *digit != '-').collect();
    let mut bytes: [u8; 16] = hex::decode(digits).unwrap().try_into().unwrap();
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    bytes
}

/// An image of 64 KiB with a table of GUIDs.
pub(crate) fn ovmf(sections: &[Section]) -> Vec<u8> {
    let mut image: Vec<u8> = (0_u32..0x10000).map(|at| (at.wrapping_mul(0x9E37_79B1) >> 24) as u8).collect();
    let metadata_at = 0x8000;
    let mut metadata = b"ASEV".to_vec();
    for word in [16 + 12 * sections.len() as u32, 1, sections.len() as u32] {
        metadata.extend(word.to_le_bytes());
    }
    for (kind, gpa, bytes) in sections {
        [*gpa, *bytes, *kind].iter().for_each(|word| metadata.extend(word.to_le_bytes()));
    }
    image[metadata_at..metadata_at + metadata.len()].copy_from_slice(&metadata);
    let mut table = Vec::new();
    let mut entry = |name: &str, data: &[u8]| {
        table.extend(data);
        table.extend((data.len() as u16 + 18).to_le_bytes());
        table.extend(guid(name));
    };
    entry("11111111-2222-3333-4444-555555555555", b"something else");
    entry("dc886566-984a-4798-a75e-5585a7bf67cc", &((image.len() - metadata_at) as u32).to_le_bytes());
    entry(
        "7255371f-3a3b-4b04-927b-1da6efa8d454",
        &[HASHES_GPA.to_le_bytes(), 0x400_u32.to_le_bytes()].concat(),
    );
    entry("00f771de-1a7e-4fcb-890e-68c77e2fb44e", &RESET_ADDRESS.to_le_bytes());
    table.extend((table.len() as u16 + 18).to_le_bytes());
    table.extend(guid("96b582de-1fb2-45f7-baea-a366c55a082d"));
    let at = image.len() - 32 - table.len();
    image[at..at + table.len()].copy_from_slice(&table);
    image
}

pub(crate) fn page(gpa: u64, byte: u8) -> IgvmDirectiveHeader {
    data(gpa, Some(&[byte; PAGE_BYTES]), IgvmPageDataType::NORMAL, false)
}

pub(crate) fn data(
    gpa: u64,
    content: Option<&Page>,
    data_type: IgvmPageDataType,
    unmeasured: bool,
) -> IgvmDirectiveHeader {
    IgvmDirectiveHeader::PageData {
        gpa,
        compatibility_mask: MASK,
        flags: IgvmPageDataFlags::new().with_unmeasured(unmeasured),
        data_type,
        data: content.map_or_else(Vec::new, |page| page.to_vec()),
    }
}

pub(crate) fn area(index: u32, pages: u64) -> IgvmDirectiveHeader {
    IgvmDirectiveHeader::ParameterArea {
        number_of_bytes: pages * PAGE_BYTES as u64,
        parameter_area_index: index,
        initial_data: Vec::new(),
    }
}

pub(crate) fn memory_map(index: u32) -> IgvmDirectiveHeader {
    IgvmDirectiveHeader::MemoryMap(IGVM_VHS_PARAMETER { parameter_area_index: index, byte_offset: 0 })
}

pub(crate) fn insert(gpa: u64, index: u32) -> IgvmDirectiveHeader {
    IgvmDirectiveHeader::ParameterInsert(IGVM_VHS_PARAMETER_INSERT {
        gpa,
        compatibility_mask: MASK,
        parameter_area_index: index,
    })
}

pub(crate) fn vmsa(index: u16, content: &Page) -> IgvmDirectiveHeader {
    let mut vmsa = igvm::snp_defs::SevVmsa::new_box_zeroed().unwrap();
    vmsa.as_mut_bytes().copy_from_slice(content);
    IgvmDirectiveHeader::SnpVpContext {
        gpa: 0xFFFF_FFFF_F000,
        compatibility_mask: MASK,
        vp_index: index,
        vmsa,
    }
}

/// A page of that kind, for each page of `run`.
pub(crate) fn pages_of(run: &Run<'_>) -> Vec<IgvmDirectiveHeader> {
    let kind = match run.page_type {
        PageType::Secrets => IgvmPageDataType::SECRETS,
        PageType::Cpuid => IgvmPageDataType::CPUID_DATA,
        _ => IgvmPageDataType::NORMAL,
    };
    let unmeasured = run.page_type == PageType::Unmeasured;
    let one = |index: usize, content: Option<&Page>| {
        data(run.gpa + (index * PAGE_BYTES) as u64, content, kind, unmeasured)
    };
    match &run.content {
        Content::Blank(count) => (0..*count as usize).map(|index| one(index, None)).collect(),
        Content::Pages(pages) => {
            pages.iter().enumerate().map(|(index, page)| one(index, Some(page))).collect()
        }
        Content::Made(page) => vec![one(0, Some(page))],
    }
}

pub(crate) fn snp_platform() -> IgvmPlatformHeader {
    IgvmPlatformHeader::SupportedPlatform(IGVM_VHS_SUPPORTED_PLATFORM {
        compatibility_mask: MASK,
        highest_vtl: 0,
        platform_type: IgvmPlatformType::SEV_SNP,
        platform_version: 1,
        shared_gpa_boundary: 0,
    })
}

/// A file of these directives, written by crate `igvm`.
pub(crate) fn igvm_file(revision: IgvmRevision, directives: Vec<IgvmDirectiveHeader>) -> Vec<u8> {
    let policy = IgvmInitializationHeader::GuestPolicy { policy: POLICY, compatibility_mask: MASK };
    let file = IgvmFile::new(revision, vec![snp_platform()], vec![policy], directives).unwrap();
    let mut bytes = Vec::new();
    file.serialize(&mut bytes).unwrap();
    bytes
}
