//! The image, and the launch measurement of it.
//!
//! A launch begins with the image's loaded segments, page by page in the order of their addresses: what the file holds is measured
//! with its content, what it only reserves with its address, as zeros; then the secrets page with its address. Kernel, initrd and command line are not part of it: the
//! firmware measures them into PCRs before they run, so that one measurement serves every kernel of a VM, and a tenant decides by
//! a PCR policy which ones unlock what. The launch configuration is bound by HOST_DATA.

use elf::ElfBytes;
use elf::abi::{EM_X86_64, PT_LOAD};
use elf::endian::LittleEndian;
use husk_firmware::memory::{LAYER, SECRETS_PAGE};
use husk_psp::{PageType, Stretch, expected_measurement_of};
use std::path::{Path, PathBuf};

const PAGE_BYTES: u64 = 4096;

/// Why a file is not an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It cannot be read.
    #[error(
        "cannot read the image {path}: {why}; build it with `cargo xtask image`, or name it with --image"
    )]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// It is something else.
    #[error("{0} is not a husk image; build one with `cargo xtask image`")]
    NotAnImage(PathBuf),
}

/// An image.
#[derive(Clone, Debug)]
pub struct Image {
    /// What a launch begins with.
    pub stretches: Vec<Stretch>,
}

impl Image {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        let bytes = std::fs::read(path).map_err(|why| ImageError::Read { path: path.to_owned(), why })?;
        Self::parse(&bytes).ok_or_else(|| ImageError::NotAnImage(path.to_owned()))
    }

    /// Takes an ELF file of this architecture apart, all of whose segments lie in the firmware's memory.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let file = ElfBytes::<LittleEndian>::minimal_parse(bytes).ok()?;
        if file.ehdr.e_machine != EM_X86_64 || !LAYER.contains(&file.ehdr.e_entry) {
            return None;
        }
        let mut stretches = Vec::new();
        let mut end = LAYER.start;
        let mut segments: Vec<_> = file.segments()?.iter().filter(|part| part.p_type == PT_LOAD).collect();
        segments.sort_by_key(|part| part.p_paddr);
        for segment in segments.iter().filter(|part| part.p_memsz > 0) {
            let content = file.segment_data(segment).ok()?;
            let stop = segment.p_paddr.checked_add(segment.p_memsz)?.checked_next_multiple_of(PAGE_BYTES)?;
            let paged = segment.p_paddr.is_multiple_of(PAGE_BYTES) && segment.p_paddr >= end;
            if !paged || stop > SECRETS_PAGE.start || segment.p_filesz > segment.p_memsz {
                return None;
            }
            stretches.extend(segment_stretches(segment.p_paddr, content, stop));
            end = stop;
        }
        if stretches.is_empty() {
            return None;
        }
        stretches.push(Stretch::secrets(SECRETS_PAGE.start));
        Some(Self { stretches })
    }

    /// The MEASUREMENT that a launch of it has.
    #[must_use]
    pub fn measurement(&self) -> [u8; 48] {
        expected_measurement_of(&self.stretches)
    }
}

/// What the file holds, filled up to a page, and the zeros behind it.
fn segment_stretches(start: u64, content: &[u8], stop: u64) -> impl Iterator<Item = Stretch> {
    let mut bytes = content.to_vec();
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    let middle = start + bytes.len() as u64;
    let zeros = vec![0; usize::try_from(stop.saturating_sub(middle)).unwrap_or_default()];
    let parts = [(PageType::Normal, start, bytes), (PageType::Zero, middle, zeros)];
    let parts = parts.into_iter().filter(|(.., bytes)| !bytes.is_empty());
    parts.map(|(page_type, gpa, bytes)| Stretch { page_type, gpa, bytes })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::Image;
    use husk_psp::PageType;

    /// An ELF file with these segments: address, content, size in memory.
    pub(crate) fn elf(segments: &[(u64, &[u8], u64)]) -> Vec<u8> {
        let mut file = b"\x7FELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
        file.extend(0x1000_0000u64.to_le_bytes());
        file.extend(64u64.to_le_bytes());
        file.extend([0; 8 + 4]);
        file.extend([64, 0, 56, 0, segments.len().to_le_bytes()[0], 0, 64, 0, 0, 0, 0, 0]);
        let mut at = 64 + 56 * segments.len() as u64;
        for (address, content, memory) in segments {
            file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
            for field in [at, *address, *address, content.len() as u64, *memory, 0x1000] {
                file.extend(field.to_le_bytes());
            }
            at += content.len() as u64;
        }
        segments.iter().for_each(|(_, content, _)| file.extend(*content));
        file
    }

    #[test]
    fn content_is_measured_as_content_and_the_rest_as_zeros() {
        let file = elf(&[(0x1000_2000, &[7; 5000], 0x5000), (0x1000_0000, b"code", 4)]);
        let image = Image::parse(&file).unwrap();
        let parts: Vec<_> =
            image.stretches.iter().map(|part| (part.page_type, part.gpa, part.bytes.len())).collect();
        assert_eq!(
            parts,
            [
                (PageType::Normal, 0x1000_0000, 0x1000),
                (PageType::Normal, 0x1000_2000, 0x2000),
                (PageType::Zero, 0x1000_4000, 0x3000),
                (PageType::Secrets, 0x107F_F000, 0x1000)
            ]
        );
    }

    #[test]
    fn every_byte_of_content_and_every_address_counts() {
        let of = |segments: &[(u64, &[u8], u64)]| Image::parse(&elf(segments)).unwrap().measurement();
        let first = of(&[(0x1000_0000, b"code", 0x2000)]);
        assert_ne!(first, of(&[(0x1000_0000, b"codf", 0x2000)]));
        assert_ne!(first, of(&[(0x1000_1000, b"code", 0x2000)]));
        assert_ne!(first, of(&[(0x1000_0000, b"code", 0x3000)]));
    }

    #[test]
    fn what_does_not_lie_in_the_firmwares_memory_is_no_image() {
        for segments in [
            &[(0x0FFF_F000u64, &b"code"[..], 4u64)][..],
            &[(0x1000_0800, b"code", 4)],
            &[(0x107F_E000, b"code", 0x1001)],
            &[(0x1000_0000, b"code", 3)],
            &[(0x1000_0000, b"code", u64::MAX)],
            &[(0x1000_0000, b"code", 0x2000), (0x1000_1000, b"code", 4)],
            &[],
        ] {
            assert!(Image::parse(&elf(segments)).is_none(), "{segments:x?}");
        }
        let whole = elf(&[(0x1000_0000, b"code", 4)]);
        for length in 0..whole.len() {
            assert!(Image::parse(&whole[..length]).is_none());
        }
    }
}
