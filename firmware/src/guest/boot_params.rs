//! What Linux is handed at its 32-bit entry: the zero page and a descriptor table.
//!
//! Offsets are those of the kernel's documentation, `arch/x86/zero-page.rst` and `arch/x86/boot.rst`, "32-bit Boot Protocol".

use super::GuestFault;
use super::bzimage::{HEADER_AT, Header};
use super::place::Place;

/// Size of the zero page in bytes.
pub const ZERO_PAGE_BYTES: usize = 4096;
/// A loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xFF;
/// The map begins here, 20 bytes an entry.
const MAP_AT: usize = 0x2D0;

/// The descriptors at `__BOOT_CS` (0x10) and `__BOOT_DS` (0x18): flat, 4 GiB, 32 bits.
pub const DESCRIPTORS: [u64; 4] = [0, 0, 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF];

/// The limit of such a table: its size in bytes, less one.
pub const DESCRIPTORS_LIMIT: u16 = 31;

/// Writes the zero page.
///
/// # Errors
/// [`GuestFault::MapMalformed`] if an address is not one that a 32-bit field holds, which [`Place::find`] rules out.
pub fn zero_page(
    kernel: &Header,
    place: &Place,
    initrd_bytes: u64,
    page: &mut [u8; ZERO_PAGE_BYTES],
) -> Result<(), GuestFault> {
    page.fill(0);
    let header = kernel.bytes();
    page[HEADER_AT..HEADER_AT + header.len()].copy_from_slice(header);
    page[0x210] = LOADER_UNDEFINED;
    for (at, value) in [
        (0x214, place.kernel_at),
        (0x218, place.initrd_at),
        (0x21C, initrd_bytes),
        (0x228, place.command_line_at),
    ] {
        let value = u32::try_from(value).map_err(|_| GuestFault::MapMalformed)?;
        page[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    // setup_data: whatever the file says, this loader passes none.
    page[0x250..0x258].fill(0);
    // acpi_rsdp_addr.
    page[0x070..0x078].copy_from_slice(&place.tables.start.to_le_bytes());
    let regions = place.map.regions();
    page[0x1E8] = u8::try_from(regions.len()).map_err(|_| GuestFault::MapMalformed)?;
    for (entry, region) in page[MAP_AT..].chunks_exact_mut(20).zip(regions) {
        entry[..8].copy_from_slice(&region.start.to_le_bytes());
        entry[8..16].copy_from_slice(&(region.end - region.start).to_le_bytes());
        entry[16..].copy_from_slice(&region.kind.to_le_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::zero_page;
    use crate::guest::bzimage::{Header, tests::front};
    use crate::guest::map::tests::machine;
    use crate::guest::place::Place;

    #[test]
    fn the_zero_page_says_where_everything_is() {
        let mut front = front();
        front[0x250..0x258].fill(0xEE);
        let kernel = Header::parse(&front, 0x10_0000).unwrap();
        let place = Place::find(&machine(), &[], &kernel, 0x1234, 0).unwrap();
        let mut page = [0xEE; 4096];
        zero_page(&kernel, &place, 0x1234, &mut page).unwrap();
        let long = |at: usize| u32::from_le_bytes(page[at..at + 4].try_into().unwrap());
        assert_eq!(u64::from(long(0x218)), place.initrd_at);
        assert_eq!(long(0x21C), 0x1234);
        assert_eq!(page[0x202..0x206], *b"HdrS");
        assert_eq!(page[0x250..0x258], [0; 8]);
        assert_eq!(usize::from(page[0x1E8]), place.map.regions().len());
        let last = place.map.regions().len() - 1;
        let entry = &page[0x2D0 + 20 * last..][..20];
        assert_eq!(entry[..8], place.map.regions()[last].start.to_le_bytes());
        assert_eq!(page[0x70..0x78], place.tables.start.to_le_bytes());
    }
}
