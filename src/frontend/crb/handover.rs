//! What an SVSM tells a guest's firmware (OVMF, say) about a CRB in the guest's private memory. Normative.
//!
//! An SVSM that serves a private CRB writes these 64 bytes at [`OFFSET`] of the register page, at every reset, before the guest's
//! firmware runs. Where the page is, both know from the launch: it is named by the metadata of the firmware's image, as the page of
//! secrets is. All numbers are little-endian; reserved bytes are zero.
//!
//! | offset | bytes | field |
//! | ---: | ---: | --- |
//! | 0x00 | 8 | signature, `HUSKCRB1` |
//! | 0x08 | 4 | length of this structure: 64 |
//! | 0x0C | 1 | checksum: all 64 bytes sum to zero, modulo 256 |
//! | 0x0D | 3 | reserved |
//! | 0x10 | 8 | guest-physical address of the register page of locality 0 |
//! | 0x18 | 4 | size of the register pages in bytes |
//! | 0x1C | 4 | size of the buffer's page behind them in bytes, or 0 if the buffer is in the register page |
//! | 0x20 | 4 | EFI memory type that the firmware must give all these pages: 6, EfiRuntimeServicesData (UEFI 2.10, section 7.2.1) |
//! | 0x24 | 4 | start method for the TPM2 table: 7 (TCG ACPI Specification 1.3) |
//! | 0x28 | 4 | protocol of the doorbell, the upper half of RAX in an SVSM call; 0 if there is none |
//! | 0x2C | 4 | call of the doorbell, the lower half |
//! | 0x30 | 16 | reserved |
//!
//! The firmware takes the pages out of the guest's memory by that type, and publishes the TPM2 table and the device that
//! [`acpi`](crate::frontend::acpi) makes. It does not trust the structure for its secrecy: the pages are private because the firmware
//! validated them itself, and an address outside of its own private memory is refused by it. Nobody reads these bytes afterwards.

use super::registers::{LOCALITY_STRIDE_BYTES, Layout};
use crate::frontend::FrontendFault;
use core::mem::size_of;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Where the structure lies, in bytes from the register page of locality 0: the end of a data buffer that is not used there.
pub const OFFSET: usize = LOCALITY_STRIDE_BYTES - HANDOVER_BYTES;
/// Size of the structure in bytes.
pub const HANDOVER_BYTES: usize = 64;

/// The same, as the structure states it.
const LENGTH: u32 = 64;
const _: () = assert!(LENGTH as usize == HANDOVER_BYTES);
const SIGNATURE: [u8; 8] = *b"HUSKCRB1";
/// EfiRuntimeServicesData.
const MEMORY_TYPE: u32 = 6;
/// TPM2 table, field "Start Method": the Command Response Buffer interface.
const START_METHOD: u32 = 7;

/// The structure.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Wire {
    signature: [u8; 8],
    length: U32,
    checksum: u8,
    reserved: [u8; 3],
    base: U64,
    register_bytes: U32,
    buffer_bytes: U32,
    memory_type: U32,
    start_method: U32,
    doorbell_protocol: U32,
    doorbell_call: U32,
    reserved_end: [u8; 16],
}
const _: () = assert!(size_of::<Wire>() == HANDOVER_BYTES);

/// How a guest says that it wrote to the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doorbell {
    /// The protocol of the SVSM call; not 0, which is the core protocol.
    pub protocol: u32,
    /// The call.
    pub call: u32,
}

/// What is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handover {
    /// Guest-physical address of the register page of locality 0.
    pub base: u64,
    /// Size of the register pages in bytes.
    pub register_bytes: u32,
    /// Size of the buffer's page in bytes, or 0.
    pub buffer_bytes: u32,
    /// The doorbell, where there is one.
    pub doorbell: Option<Doorbell>,
}

impl Handover {
    /// What is to be said of `layout`.
    #[must_use]
    pub fn of(layout: &Layout, doorbell: Option<Doorbell>) -> Self {
        let bytes = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let registers = layout.register_bytes();
        Self {
            base: layout.base().into(),
            register_bytes: bytes(registers),
            buffer_bytes: bytes(layout.window_bytes() - registers),
            doorbell,
        }
    }

    /// The bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HANDOVER_BYTES] {
        let doorbell = self.doorbell.unwrap_or(Doorbell { protocol: 0, call: 0 });
        let mut wire = Wire {
            signature: SIGNATURE,
            length: U32::new(LENGTH),
            checksum: 0,
            reserved: [0; 3],
            base: U64::new(self.base),
            register_bytes: U32::new(self.register_bytes),
            buffer_bytes: U32::new(self.buffer_bytes),
            memory_type: U32::new(MEMORY_TYPE),
            start_method: U32::new(START_METHOD),
            doorbell_protocol: U32::new(doorbell.protocol),
            doorbell_call: U32::new(doorbell.call),
            reserved_end: [0; 16],
        };
        wire.checksum = sum(wire.as_bytes()).wrapping_neg();
        let mut bytes = [0; HANDOVER_BYTES];
        bytes.copy_from_slice(wire.as_bytes());
        bytes
    }

    /// Reads the bytes, as a guest's firmware does.
    ///
    /// # Errors
    /// [`FrontendFault::HandoverMalformed`] for anything but what [`to_bytes`](Self::to_bytes) makes.
    pub fn parse(bytes: &[u8; HANDOVER_BYTES]) -> Result<Self, FrontendFault> {
        let wire = Wire::read_from_bytes(bytes).map_err(|_| FrontendFault::HandoverMalformed)?;
        let doorbell = Doorbell { protocol: wire.doorbell_protocol.get(), call: wire.doorbell_call.get() };
        let found = Self {
            base: wire.base.get(),
            register_bytes: wire.register_bytes.get(),
            buffer_bytes: wire.buffer_bytes.get(),
            doorbell: (doorbell.protocol != 0).then_some(doorbell),
        };
        if found.to_bytes() == *bytes { Ok(found) } else { Err(FrontendFault::HandoverMalformed) }
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

#[cfg(test)]
mod tests {
    use super::{Doorbell, HANDOVER_BYTES, Handover};
    use crate::frontend::FrontendFault;
    use crate::frontend::crb::{Buffer, Identity, Layout, Localities};

    fn sample() -> Handover {
        let identity = Identity { vendor: 0x1AF4, device: 1, revision: 1 };
        let layout = Layout::new(0x2FFB_B000, Localities::Zero, Buffer::OwnPage, identity).unwrap();
        Handover::of(&layout, Some(Doorbell { protocol: 0x4855_534B, call: 0 }))
    }

    /// The table at the head of this file, byte by byte.
    #[test]
    fn the_layout_is_the_normative_one() {
        let mut expected = [0; HANDOVER_BYTES];
        for (at, bytes) in [
            (0x00, &b"HUSKCRB1"[..]),
            (0x08, &[64]),
            (0x10, &[0x00, 0xB0, 0xFB, 0x2F]),
            (0x18, &[0, 0x10]),
            (0x1C, &[0, 0x10]),
            (0x20, &[6]),
            (0x24, &[7]),
            (0x28, b"KSUH"),
        ] {
            expected[at..at + bytes.len()].copy_from_slice(bytes);
        }
        expected[0x0C] = expected.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
        assert_eq!(sample().to_bytes(), expected);
    }

    #[test]
    fn what_is_written_is_read_and_every_flipped_bit_is_refused() {
        for doorbell in [sample().doorbell, None] {
            let handover = Handover { doorbell, ..sample() };
            let bytes = handover.to_bytes();
            assert_eq!(Handover::parse(&bytes), Ok(handover));
            for bit in 0..HANDOVER_BYTES * 8 {
                let mut flipped = bytes;
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Handover::parse(&flipped), Err(FrontendFault::HandoverMalformed), "{bit}");
            }
        }
    }
}
