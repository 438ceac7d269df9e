//! The blob that the host hands over: kernel, initrd, command line, launch configuration, firmware and its first variables.
//!
//! One page of header, then the six parts in that order, each from a page boundary; the rest of each last page is
//! zero. The launcher places it right behind the firmware's memory, at [`PAYLOAD_AT`]. Offsets follow from lengths, so no two parts can overlap. `tools/launcher` writes what this module defines.
//!
//! | offset | bytes | |
//! | ---: | ---: | --- |
//! | 0 | 8 | [`MAGIC`] |
//! | 8 | 4 | [`VERSION`] |
//! | 12 | 4 | how many parts: 6 |
//! | 16 | 6 × 8 | the parts' lengths in bytes |
//! | 64 | 8 | length of the whole |
//!
//! A guest without a firmware of its own begins in its kernel. One with a firmware begins there, and its kernel, if it has one, is what the firmware loads. Variables are a firmware's, and lie right below it: what is kept
//! takes their place.

use super::GuestFault;
use crate::memory::LAYER;
use husk::attest::launch::CONFIG_BYTES_MAX;
use husk::volume::blocks::{BLOCK_BYTES, BLOCKS_MAX};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Where the payload lies in the machine's memory: one hidden stretch with the firmware's own.
pub const PAYLOAD_AT: u64 = LAYER.end;
/// What every payload begins with.
pub const MAGIC: [u8; 8] = *b"HUSKLOAD";
/// The only version there is.
pub const VERSION: u32 = 3;
/// Every part begins at a multiple of this many bytes.
pub const PAGE_BYTES: u64 = 4096;
/// The most that a firmware has: what a PC decodes as its flash (Intel 316972-004, section 9.4.2, "FWH_E0" to "FWH_F8"), less the
/// interrupt controllers' pages below.
pub const FIRMWARE_BYTES_MAX: u64 = 8 << 20;
/// The most that is kept of a firmware's variables.
pub const VARIABLES_BYTES_MAX: u64 = (BLOCKS_MAX * BLOCK_BYTES) as u64;
/// The least that a kernel has without a firmware to load it: its header lies there.
const KERNEL_BYTES_MIN: u64 = 0x1000;
/// Size of the fields in front.
pub const HEADER_BYTES: usize = size_of::<Header>();
/// How many parts there are.
pub const PARTS: usize = 6;
const PARTS_SAID: u32 = 6;

/// Which part is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Part {
    /// The bzImage; with a firmware any program that it loads, or none.
    Kernel = 0,
    /// The initial RAM file system; may be empty.
    Initrd = 1,
    /// The kernel's command line, without a terminator; may be empty.
    CommandLine = 2,
    /// The launch configuration.
    Config = 3,
    /// The guest's firmware, which ends at 4 GiB: whole pages; may be empty.
    Firmware = 4,
    /// What the firmware's flash of variables holds before anything is kept of it: whole blocks; may be empty.
    Variables = 5,
}

impl Part {
    /// All of them, in their order.
    pub const ALL: [Self; PARTS] =
        [Self::Kernel, Self::Initrd, Self::CommandLine, Self::Config, Self::Firmware, Self::Variables];

    /// The fewest and the most bytes.
    #[must_use]
    pub const fn bounds(self) -> (u64, u64) {
        match self {
            Self::Kernel => (0, 128 << 20),
            Self::Initrd => (0, 2 << 30),
            Self::CommandLine => (0, 2047),
            Self::Config => (1, CONFIG_BYTES_MAX as u64),
            Self::Firmware => (0, FIRMWARE_BYTES_MAX),
            Self::Variables => (0, VARIABLES_BYTES_MAX),
        }
    }
}

/// A part's place, from the payload's start, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
}

/// A payload's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    parts: [Extent; PARTS],
    bytes: u64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U32,
    parts: U32,
    lengths: [U64; PARTS],
    bytes: U64,
}

impl Shape {
    /// The shape of a payload with parts of these lengths in bytes.
    ///
    /// # Errors
    /// [`GuestFault::PayloadMalformed`] if a part has a length that it may not have.
    pub fn of(lengths: [u64; PARTS]) -> Result<Self, GuestFault> {
        let mut parts = [Extent::default(); PARTS];
        let mut offset = PAGE_BYTES;
        for ((part, bytes), extent) in Part::ALL.into_iter().zip(lengths).zip(&mut parts) {
            let (least, most) = part.bounds();
            if bytes < least || bytes > most {
                return Err(GuestFault::PayloadMalformed);
            }
            *extent = Extent { offset, bytes };
            offset += bytes.next_multiple_of(PAGE_BYTES);
        }
        let [kernel, .., firmware, variables] = lengths;
        let begins = firmware > 0 || kernel >= KERNEL_BYTES_MIN;
        let flash = [firmware, variables].iter().all(|bytes| bytes.is_multiple_of(PAGE_BYTES));
        let owned = variables == 0 || firmware > 0;
        if begins && flash && owned && firmware + variables <= FIRMWARE_BYTES_MAX {
            Ok(Self { parts, bytes: offset })
        } else {
            Err(GuestFault::PayloadMalformed)
        }
    }

    /// Reads a payload's header.
    ///
    /// # Errors
    /// [`GuestFault::PayloadMalformed`] for anything but what [`header`](Self::header) writes.
    pub fn parse(header: &[u8; HEADER_BYTES]) -> Result<Self, GuestFault> {
        let said: Header = zerocopy::transmute!(*header);
        let shape = Self::of(said.lengths.map(U64::get))?;
        if shape.header() == *header { Ok(shape) } else { Err(GuestFault::PayloadMalformed) }
    }

    /// The header that says so.
    #[must_use]
    pub fn header(&self) -> [u8; HEADER_BYTES] {
        zerocopy::transmute!(Header {
            magic: MAGIC,
            version: U32::new(VERSION),
            parts: U32::new(PARTS_SAID),
            lengths: self.parts.map(|part| U64::new(part.bytes)),
            bytes: U64::new(self.bytes),
        })
    }

    /// Where a part lies.
    #[must_use]
    pub const fn part(&self, part: Part) -> Extent {
        self.parts[part as usize]
    }

    /// Size of the whole in bytes, a multiple of [`PAGE_BYTES`].
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::{HEADER_BYTES, Part, Shape};

    const LENGTHS: [u64; 6] = [0x1001, 5, 0, 300, 0x2000, 0x1000];

    #[test]
    fn parts_lie_on_pages_of_their_own_in_order() {
        let shape = Shape::of(LENGTHS).unwrap();
        assert_eq!(
            Part::ALL.map(|part| shape.part(part).offset),
            [0x1000, 0x3000, 0x4000, 0x4000, 0x5000, 0x7000]
        );
        assert_eq!(shape.bytes(), 0x8000);
        assert_eq!(Shape::parse(&shape.header()), Ok(shape));
    }

    /// Whatever one bit becomes: refused, or the header of another payload of the same size.
    #[test]
    fn there_is_one_spelling() {
        let shape = Shape::of(LENGTHS).unwrap();
        for bit in 0..HEADER_BYTES * 8 {
            let mut header = shape.header();
            header[bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = Shape::parse(&header) {
                assert!(other.header() == header && other.bytes() == shape.bytes(), "bit {bit}");
            }
        }
    }

    #[test]
    fn a_part_out_of_its_bounds_is_refused() {
        for part in Part::ALL {
            let (least, most) = part.bounds();
            let with = |bytes| {
                let mut lengths = LENGTHS;
                // A firmware of the most bytes leaves no room for variables.
                lengths[Part::Variables as usize] = 0;
                lengths[part as usize] = bytes;
                Shape::of(lengths)
            };
            assert!(with(least).is_ok() && with(most).is_ok());
            assert!(with(most + 1).is_err() && with(u64::MAX).is_err());
            assert!(least == 0 || with(least - 1).is_err());
        }
    }

    #[test]
    fn something_begins_and_a_firmware_is_made_of_pages() {
        assert!(Shape::of([0, 0, 0, 1, 0, 0]).is_err() && Shape::of([0xFFF, 0, 0, 1, 0, 0]).is_err());
        assert!(Shape::of([0x1000, 0, 0, 1, 0, 0]).is_ok() && Shape::of([0, 0, 0, 1, 0x1000, 0]).is_ok());
        assert!(Shape::of([0x1000, 0, 0, 1, 0x1001, 0]).is_err());
    }

    #[test]
    fn variables_are_a_firmwares_and_share_its_room() {
        assert!(Shape::of([0, 0, 0, 1, 0x1000, 0x1000]).is_ok());
        assert!(Shape::of([0, 0, 0, 1, 0x1000, 0x1001]).is_err());
        assert!(Shape::of([0x1000, 0, 0, 1, 0, 0x1000]).is_err(), "nobody's");
        assert!(Shape::of([0, 0, 0, 1, super::FIRMWARE_BYTES_MAX, 0x1000]).is_err(), "no room below 4 GiB");
    }
}
