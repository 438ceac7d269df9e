//! Where everything lies when the guest begins.
//!
//! What firmware keeps for the guest to read (tables, event log) and what it hides (its own memory, the payload) is in the
//! guest's map; kernel, initrd, zero page and command line lie in usable memory, apart from each other, as with any loader.

use super::GuestFault;
use super::bzimage::Header;
use super::map::{KEPT, Map, RESERVED};
use core::ops::Range;

/// Room for the ACPI tables in bytes.
pub const TABLES_BYTES: usize = 64 * 1024;
/// Room for the event log in bytes (TCG ACPI Specification 1.3: a server has at least 64 KiB).
pub const LOG_BYTES: u32 = 64 * 1024;

const PAGE_BYTES: u64 = 4096;
/// Below this lie the tables of the machine's own firmware.
const LOW_FIRST: u64 = 0x1_0000;
/// Everything that the 32-bit entry is told of lies below.
const LOW_LIMIT: u64 = 1 << 32;

/// Where everything lies; addresses are guest-physical.
#[derive(Clone, Debug)]
pub struct Place {
    /// The kernel's protected-mode code, and its entry.
    pub kernel_at: u64,
    /// The initrd; 0 where there is none.
    pub initrd_at: u64,
    /// The zero page.
    pub boot_params_at: u64,
    /// The command line, terminated, in a page of its own.
    pub command_line_at: u64,
    /// The descriptor table of the entry.
    pub descriptors_at: u64,
    /// The ACPI tables; RSDP first.
    pub tables: Range<u64>,
    /// The event log.
    pub log: Range<u64>,
    /// The pages of a CRB in the guest's memory, reserved; no bytes where there is none.
    pub crb: Range<u64>,
    /// What the guest is told of its memory.
    pub map: Map,
}

impl Place {
    /// Places a kernel with `initrd_bytes` of initrd, and `crb_bytes` of CRB, into the machine's memory without what is `hidden`.
    ///
    /// # Errors
    /// [`GuestFault::NoRoom`] or [`GuestFault::MapMalformed`].
    pub fn find(
        machine: &Map,
        hidden: &[Range<u64>],
        kernel: &Header,
        initrd_bytes: u64,
        crb_bytes: u64,
    ) -> Result<Self, GuestFault> {
        let mut map = machine.clone();
        hidden.iter().try_for_each(|range| map.give(range, RESERVED))?;
        let mut free = map.clone();
        let kernel_end = kernel.load_at.checked_add(kernel.init_bytes).ok_or(GuestFault::NoRoom)?;
        free.give(&(kernel.load_at..kernel_end), RESERVED)?;
        let mut take = |bytes: u64, from_top: bool, limit: u64| {
            let found = if from_top {
                free.highest(bytes, PAGE_BYTES, limit)
            } else {
                free.lowest(bytes, PAGE_BYTES, LOW_FIRST)
            };
            let start = found.filter(|start| start + bytes <= LOW_LIMIT).ok_or(GuestFault::NoRoom)?;
            free.give(&(start..start + bytes), RESERVED)?;
            Ok::<u64, GuestFault>(start)
        };
        let [boot_params_at, command_line_at, descriptors_at] =
            [take(PAGE_BYTES, false, 0)?, take(PAGE_BYTES, false, 0)?, take(PAGE_BYTES, false, 0)?];
        let (tables, log) = (TABLES_BYTES as u64, u64::from(LOG_BYTES));
        let tables_at = take(tables, true, LOW_LIMIT)?;
        let log_at = take(log, true, LOW_LIMIT)?;
        let crb_at = match crb_bytes {
            0 => 0,
            bytes => take(bytes, true, LOW_LIMIT)?,
        };
        let crb = crb_at..crb_at + crb_bytes;
        let initrd_at = match initrd_bytes {
            0 => 0,
            bytes => take(bytes, true, LOW_LIMIT.min(kernel.initrd_end_max + 1))?,
        };
        let (tables, log) = (tables_at..tables_at + tables, log_at..log_at + log);
        // Not AddressRangeACPI, which a system may use for itself: the FACS stays in use (ACPI 6.5, section 5.2.10).
        map.give(&tables, KEPT)?;
        map.give(&log, KEPT)?;
        if crb_bytes > 0 {
            // Not ACPI NVS: Linux' drivers cannot claim that.
            map.give(&crb, RESERVED)?;
        }
        let kernel_at = kernel.load_at;
        Ok(Self {
            kernel_at,
            initrd_at,
            boot_params_at,
            command_line_at,
            descriptors_at,
            tables,
            log,
            crb,
            map,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Place;
    use crate::guest::GuestFault;
    use crate::guest::bzimage::{Header, tests::front};
    use crate::guest::map::{USABLE, tests::machine};
    use std::ops::Range;
    use std::vec;
    use std::vec::Vec;

    const LAYER: Range<u64> = 0x1000_0000..0x1080_0000;
    const PAYLOAD: Range<u64> = 0x1D00_3000..0x1FFD_F000;

    fn kernel() -> Header {
        Header::parse(&front(), 0x10_0000).unwrap()
    }

    fn taken(place: &Place, initrd_bytes: u64) -> Vec<Range<u64>> {
        let page = |at| at..at + 0x1000;
        vec![
            place.kernel_at..place.kernel_at + 0x200_0000,
            place.initrd_at..place.initrd_at + initrd_bytes,
            page(place.boot_params_at),
            page(place.command_line_at),
            page(place.descriptors_at),
            place.tables.clone(),
            place.log.clone(),
            place.crb.clone(),
            LAYER,
            PAYLOAD,
        ]
    }

    #[test]
    fn nothing_lies_on_anything_else() {
        for initrd_bytes in [1, 0x1000, 0xC00_0000, 0xCFF_0000] {
            let place = Place::find(&machine(), &[LAYER, PAYLOAD], &kernel(), initrd_bytes, 0x2000).unwrap();
            let taken = taken(&place, initrd_bytes);
            for (index, one) in taken.iter().enumerate() {
                assert!(machine().is_usable(one), "{one:x?}");
                for other in &taken[index + 1..] {
                    assert!(one.end <= other.start || other.end <= one.start, "{one:x?} {other:x?}");
                }
            }
        }
    }

    #[test]
    fn the_guest_is_not_told_to_use_what_is_kept_or_hidden() {
        let place = Place::find(&machine(), &[LAYER, PAYLOAD], &kernel(), 0x1000, 0x2000).unwrap();
        for range in [LAYER, PAYLOAD, place.tables.clone(), place.log.clone(), place.crb.clone()] {
            let overlapping = |start: u64, end: u64| start < range.end && range.start < end;
            let told = place.map.regions().iter().filter(|region| overlapping(region.start, region.end));
            assert!(
                told.clone().count() == 1 && told.clone().all(|region| region.kind != USABLE),
                "{range:x?}"
            );
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let find = |hidden: [Range<u64>; 2], initrd| {
            Place::find(&machine(), &hidden, &kernel(), initrd, 0).map(|_| ())
        };
        assert_eq!(find([LAYER, PAYLOAD], 0x1000_0000), Err(GuestFault::NoRoom));
        assert_eq!(find([LAYER, 0x100_0000..0x100_1000], 1), Err(GuestFault::NoRoom));
        assert_eq!(find([LAYER, LAYER], 1), Err(GuestFault::NoRoom));
        assert_eq!(find([LAYER, 0x3000_0000..0x3000_1000], 1), Err(GuestFault::NoRoom));
        assert_eq!(find([LAYER, PAYLOAD], 0), Ok(()));
    }
}
