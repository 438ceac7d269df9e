//! What a kernel says of itself: the setup header of a bzImage.
//!
//! Field names and offsets are those of the kernel's documentation, `arch/x86/boot.rst`, "The Real-Mode Kernel Header".

use super::GuestFault;

/// How much of the kernel's front the header may take, in bytes.
pub const FRONT_BYTES: usize = 0x290;
/// Where the header begins, in the kernel's file and in the zero page alike.
pub const HEADER_AT: usize = 0x1F1;
/// The first protocol whose kernels take the RSDP from the zero page: an older one would search for the host's tables itself.
const VERSION_MIN: u16 = 0x020E;
/// `setup_sects` where it says 0.
const SETUP_SECTORS_DEFAULT: u64 = 4;
const SECTOR_BYTES: u64 = 512;
/// LOADED_HIGH of `loadflags`: the protected-mode code belongs above 1 MiB.
const LOADED_HIGH: u8 = 1;

/// A kernel's setup header, checked.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    front: [u8; FRONT_BYTES],
    header_end: usize,
    /// Where in its file the protected-mode code begins, in bytes.
    pub code_offset: u64,
    /// Size of that code in bytes, to the file's end.
    pub code_bytes: u64,
    /// Where it wants to lie.
    pub load_at: u64,
    /// How much memory it needs from there before it knows of any map, in bytes.
    pub init_bytes: u64,
    /// The highest address of the initrd's last byte.
    pub initrd_end_max: u64,
    /// The longest command line in bytes, without its terminator.
    pub command_line_bytes_max: u64,
}

impl Header {
    /// Reads the front of a kernel of `file_bytes` bytes.
    ///
    /// # Errors
    /// [`GuestFault::KernelMalformed`] or [`GuestFault::KernelUnsupported`].
    pub fn parse(front: &[u8; FRONT_BYTES], file_bytes: u64) -> Result<Self, GuestFault> {
        if read_u16(front, 0x1FE) != 0xAA55 || front[0x202..0x206] != *b"HdrS" {
            return Err(GuestFault::KernelMalformed);
        }
        if read_u16(front, 0x206) < VERSION_MIN || front[0x211] & LOADED_HIGH == 0 {
            return Err(GuestFault::KernelUnsupported);
        }
        let sectors = match front[HEADER_AT] {
            0 => SETUP_SECTORS_DEFAULT,
            sectors => u64::from(sectors),
        };
        let code_offset = (sectors + 1) * SECTOR_BYTES;
        let code_bytes = file_bytes.checked_sub(code_offset).ok_or(GuestFault::KernelMalformed)?;
        // The header ends where the jump at 0x200 leads.
        let header_end = 0x202 + usize::from(front[0x201]);
        let load_at = read_u64(front, 0x258);
        let init_bytes = u64::from(read_u32(front, 0x260));
        let alignment = u64::from(read_u32(front, 0x230));
        let placed = alignment.is_power_of_two() && load_at.is_multiple_of(alignment) && load_at >= 1 << 20;
        if !placed
            || code_bytes == 0
            || code_bytes > init_bytes
            || !(0x264..=FRONT_BYTES).contains(&header_end)
        {
            return Err(GuestFault::KernelMalformed);
        }
        Ok(Self {
            front: *front,
            header_end,
            code_offset,
            code_bytes,
            load_at,
            init_bytes,
            initrd_end_max: u64::from(read_u32(front, 0x22C)),
            command_line_bytes_max: u64::from(read_u32(front, 0x238)),
        })
    }

    /// The header's bytes, which the zero page repeats at [`HEADER_AT`].
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.front[HEADER_AT..self.header_end]
    }
}

fn read_u16(bytes: &[u8; FRONT_BYTES], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn read_u32(bytes: &[u8; FRONT_BYTES], at: usize) -> u32 {
    u32::from(read_u16(bytes, at)) | u32::from(read_u16(bytes, at + 2)) << 16
}

fn read_u64(bytes: &[u8; FRONT_BYTES], at: usize) -> u64 {
    u64::from(read_u32(bytes, at)) | u64::from(read_u32(bytes, at + 4)) << 32
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{FRONT_BYTES, Header};
    use crate::guest::GuestFault;

    /// The front of a kernel with one setup sector that wants 32 MiB at 16 MiB.
    pub(crate) fn front() -> [u8; FRONT_BYTES] {
        let mut front = [0; FRONT_BYTES];
        front[0x1F1] = 1;
        front[0x1FE..0x200].copy_from_slice(&[0x55, 0xAA]);
        front[0x200..0x202].copy_from_slice(&[0xEB, 0x6A]);
        front[0x202..0x208].copy_from_slice(b"HdrS\x0F\x02");
        front[0x211] = 1;
        front[0x22C..0x230].copy_from_slice(&0x7FFF_FFFF_u32.to_le_bytes());
        front[0x230..0x234].copy_from_slice(&0x20_0000_u32.to_le_bytes());
        front[0x238..0x23C].copy_from_slice(&2047_u32.to_le_bytes());
        front[0x258..0x260].copy_from_slice(&0x100_0000_u64.to_le_bytes());
        front[0x260..0x264].copy_from_slice(&0x200_0000_u32.to_le_bytes());
        front
    }

    #[test]
    fn a_kernels_header_is_read() {
        let header = Header::parse(&front(), 0x10_0000).unwrap();
        assert_eq!((header.code_offset, header.code_bytes), (1024, 0x10_0000 - 1024));
        assert_eq!((header.load_at, header.init_bytes), (0x100_0000, 0x200_0000));
        assert_eq!(header.bytes().len(), 0x202 + 0x6A - 0x1F1);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let with = |at: usize, byte: u8| {
            let mut front = front();
            front[at] = byte;
            Header::parse(&front, 0x10_0000).map(|_| ())
        };
        for (at, byte) in
            [(0x1FE, 0), (0x202, b'h'), (0x201, 0x20), (0x201, 0xFF), (0x230, 1), (0x258, 1), (0x25B, 0)]
        {
            assert_eq!(with(at, byte), Err(GuestFault::KernelMalformed), "{at:#x}");
        }
        assert_eq!(with(0x206, 13), Err(GuestFault::KernelUnsupported));
        assert_eq!(with(0x211, 0), Err(GuestFault::KernelUnsupported));
        for bytes in [0, 1023, 1024, 0x200_0000 + 1025] {
            assert!(Header::parse(&front(), bytes).is_err(), "{bytes}");
        }
    }

    /// No header makes the parser panic, whatever its bytes.
    #[test]
    fn any_byte_anywhere_is_survived() {
        for at in 0x1F1..FRONT_BYTES {
            for byte in [0, 1, 0x7F, 0x80, 0xFF] {
                let mut front = front();
                front[at] = byte;
                if let Ok(header) = Header::parse(&front, u64::MAX) {
                    assert!(header.code_bytes <= header.init_bytes);
                }
            }
        }
    }
}
