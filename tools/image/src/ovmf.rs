//! What an OVMF image says of itself.
//!
//! **What.** The table of GUIDs that ends 32 bytes before the image's end, read from its end; in it the reset address for
//! application processors, the place of the kernel hashes, and the SEV metadata: which pages a launch must add
//! (edk2 `OvmfPkg/ResetVector`).
//! **Trust.** None: every offset and length is checked against the image, and nothing is allocated by what it says.
//! **Laws.** What cannot be read is an error, never an absence.
//! **Not here.** The order in which a launch takes them: [`crate::ovmf_launch`].

use crate::digest::{PAGE_BYTES, Page};
use crate::guid::guid;
use crate::run::PAGES_MAX;
use zerocopy::FromBytes as _;

/// The largest image: larger ones overlap devices below 4 GiB.
pub const IMAGE_BYTES_MAX: usize = 64 << 20;
/// Bytes between the table and the image's end: the reset vector.
const TAIL_BYTES: usize = 32;
/// Length and GUID that end each entry of the table.
const ENTRY_BYTES: usize = 2 + 16;

const FOOTER: [u8; 16] = guid(0x96B5_82DE, 0x1FB2, 0x45F7, 0xBAEA_A366_C55A_082D);
const HASHES: [u8; 16] = guid(0x7255_371F, 0x3A3B, 0x4B04, 0x927B_1DA6_EFA8_D454);
const RESET_BLOCK: [u8; 16] = guid(0x00F7_71DE, 0x1A7E, 0x4FCB, 0x890E_68C7_7E2F_B44E);
const METADATA: [u8; 16] = guid(0xDC88_6566, 0x984A, 0x4798, 0xA75E_5585_A7BF_67CC);

/// Signature, size, version, number of sections.
const METADATA_HEADER_BYTES: usize = 16;
/// Address, size, kind.
const SECTION_BYTES: usize = 12;

/// Why an image is not one that SEV-SNP can start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OvmfError {
    /// Not a multiple of a page, empty, or too large.
    #[error(
        "{0} bytes are no firmware image: it is truncated, or the wrong file (whole pages, at most 64 MiB)"
    )]
    Size(usize),
    /// No table of GUIDs at the end.
    #[error(
        "no table of GUIDs at the image's end: this is not OVMF's code volume (OVMF_VARS and legacy BIOSes have none)"
    )]
    NoTable,
    /// The table's lengths contradict each other.
    #[error("the table of GUIDs is damaged: an entry does not lie in it")]
    Table,
    /// Two entries of one name, of which QEMU and others take different ones.
    #[error(
        "the table of GUIDs names one thing twice; who reads it decides which counts: build the firmware anew"
    )]
    Twice,
    /// The SEV metadata does not lie in the image, or has another signature or version.
    #[error("the SEV metadata is damaged, or of a version other than 1")]
    Metadata,
    /// A section of a kind that nobody documented.
    #[error(
        "the SEV metadata has a section of the unknown kind {0:#x}; this program is older than the firmware"
    )]
    Kind(u32),
    /// A section that is not whole pages, that is too large, or not one page where one is meant.
    #[error("the SEV metadata's section at {0:#x} has a size that no launch can have")]
    Section(u32),
}

/// What a section is for (edk2 `OvmfSevMetadata.asm`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectionKind {
    /// Memory that the firmware needs before it can accept any by itself.
    Memory,
    /// The secrets page.
    Secrets,
    /// The CPUID page.
    Cpuid,
    /// The calling area of an SVSM.
    SvsmCallingArea,
    /// Where the kernel hashes go.
    KernelHashes,
}

/// Pages that a launch must add.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// What for.
    pub kind: SectionKind,
    /// Guest-physical address of the first.
    pub gpa: u32,
    /// How many.
    pub pages: u64,
}

/// An image, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ovmf<'a> {
    /// The image, which ends at 4 GiB.
    pub image: &'a [Page],
    /// Where application processors start, if SEV-ES is supported.
    pub reset_address: Option<u32>,
    /// Where the kernel hashes are expected, if anywhere.
    pub hashes_gpa: Option<u32>,
    /// What a launch must add, in order.
    pub sections: Vec<Section>,
}

impl<'a> Ovmf<'a> {
    /// Reads an image.
    ///
    /// # Errors
    /// [`OvmfError`]; the image is at fault.
    pub fn parse(image: &'a [u8]) -> Result<Self, OvmfError> {
        if image.is_empty() || image.len() > IMAGE_BYTES_MAX {
            return Err(OvmfError::Size(image.len()));
        }
        let pages = <[Page]>::ref_from_bytes(image).map_err(|_| OvmfError::Size(image.len()))?;
        let mut ovmf = Self { image: pages, reset_address: None, hashes_gpa: None, sections: Vec::new() };
        let mut metadata = None;
        for entry in Entries(table(image)?) {
            let (name, data) = entry?;
            let place = match name {
                RESET_BLOCK => &mut ovmf.reset_address,
                HASHES => &mut ovmf.hashes_gpa,
                METADATA => &mut metadata,
                _ => continue,
            };
            if place.replace(number(data, 0).ok_or(OvmfError::Table)?).is_some() {
                return Err(OvmfError::Twice);
            }
        }
        if let Some(from_end) = metadata {
            ovmf.sections = sections(image, from_end)?;
        }
        // An address of zero is how firmware says that it has none.
        ovmf.reset_address = ovmf.reset_address.filter(|address| *address != 0);
        ovmf.hashes_gpa = ovmf.hashes_gpa.filter(|address| *address != 0);
        Ok(ovmf)
    }

    /// Guest-physical address of the image's first page.
    #[must_use]
    pub const fn gpa(&self) -> u64 {
        (1 << 32) - (self.image.len() * PAGE_BYTES) as u64
    }
}

/// The entries of the table, without its footer.
fn table(image: &[u8]) -> Result<&[u8], OvmfError> {
    let before_tail = image.len().checked_sub(TAIL_BYTES).and_then(|end| image.get(..end));
    let (rest, footer) = before_tail.and_then(|bytes| bytes.split_last_chunk()).ok_or(OvmfError::NoTable)?;
    let (total, name) = tail(footer);
    if name != FOOTER {
        return Err(OvmfError::NoTable);
    }
    let bytes = usize::from(total).checked_sub(ENTRY_BYTES).ok_or(OvmfError::Table)?;
    rest.len().checked_sub(bytes).and_then(|start| rest.get(start..)).ok_or(OvmfError::Table)
}

/// Length and name that end an entry.
fn tail(bytes: &[u8; ENTRY_BYTES]) -> (u16, [u8; 16]) {
    let (length, name) = bytes.split_at(2);
    (u16::from_le_bytes([length[0], length[1]]), name.try_into().unwrap_or_default())
}

/// What is left of the table, taken from its end.
struct Entries<'a>(&'a [u8]);

impl<'a> Iterator for Entries<'a> {
    type Item = Result<([u8; 16], &'a [u8]), OvmfError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (rest, end) = self.0.split_last_chunk()?;
        let (total, name) = tail(end);
        let start = usize::from(total).checked_sub(ENTRY_BYTES).and_then(|data| rest.len().checked_sub(data));
        let Some((rest, data)) = start.and_then(|start| rest.split_at_checked(start)) else {
            self.0 = &[];
            return Some(Err(OvmfError::Table));
        };
        self.0 = rest;
        Some(Ok((name, data)))
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

fn sections(image: &[u8], from_end: u32) -> Result<Vec<Section>, OvmfError> {
    let start = usize::try_from(from_end).ok().and_then(|offset| image.len().checked_sub(offset));
    let bytes = start.and_then(|start| image.get(start..)).ok_or(OvmfError::Metadata)?;
    let head = |at| number(bytes, at).ok_or(OvmfError::Metadata);
    let (size, version, count) = (head(4)?, head(8)?, head(12)?);
    if !bytes.starts_with(b"ASEV") || version != 1 {
        return Err(OvmfError::Metadata);
    }
    let listed = usize::try_from(count).ok().and_then(|count| count.checked_mul(SECTION_BYTES));
    let body = usize::try_from(size).ok().and_then(|size| bytes.get(METADATA_HEADER_BYTES..size));
    let listed = listed.and_then(|length| body?.get(..length)).ok_or(OvmfError::Metadata)?;
    let mut found: Vec<Section> = Vec::new();
    let mut pages = 0;
    for bytes in listed.chunks_exact(SECTION_BYTES) {
        let section = section(bytes)?;
        pages += section.pages;
        if pages > PAGES_MAX {
            return Err(OvmfError::Section(section.gpa));
        }
        found.push(section);
    }
    Ok(found)
}

fn section(bytes: &[u8]) -> Result<Section, OvmfError> {
    let field = |at| number(bytes, at).ok_or(OvmfError::Metadata);
    let (gpa, size, kind) = (field(0)?, field(4)?, field(8)?);
    let (kind, single) = match kind {
        1 => (SectionKind::Memory, false),
        2 => (SectionKind::Secrets, true),
        3 => (SectionKind::Cpuid, true),
        4 => (SectionKind::SvsmCallingArea, false),
        0x10 => (SectionKind::KernelHashes, true),
        other => return Err(OvmfError::Kind(other)),
    };
    let pages = u64::from(size) / PAGE_BYTES as u64;
    let whole = |number: u32| u64::from(number).is_multiple_of(PAGE_BYTES as u64);
    let fits = u64::from(gpa) + u64::from(size) <= 1 << 32;
    if !whole(gpa) || !whole(size) || pages == 0 || (single && pages != 1) || !fits {
        return Err(OvmfError::Section(gpa));
    }
    Ok(Section { kind, gpa, pages })
}
