//! The guest's memory map: what the machine has, less what is not the guest's.

use super::GuestFault;
use core::ops::Range;

/// The most regions of a map.
pub const REGIONS_MAX: usize = 64;

/// AddressRangeMemory: the guest may use it (ACPI 6.5, table "Address Range Types"; the numbers of e820 are the same).
pub const USABLE: u32 = 1;
/// AddressRangeReserved.
pub const RESERVED: u32 = 2;
/// AddressRangeNVS: firmware's, to be kept as it is.
pub const KEPT: u32 = 4;

/// A stretch of guest-physical memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// Its first byte.
    pub start: u64,
    /// The byte after its last.
    pub end: u64,
    /// What it is for: [`USABLE`] and so on; unknown numbers are passed on.
    pub kind: u32,
}

/// Regions in ascending order that do not overlap.
#[derive(Clone, Debug, Default)]
pub struct Map(heapless::Vec<Region, REGIONS_MAX>);

impl Map {
    /// Takes the host's regions, in any order.
    ///
    /// # Errors
    /// [`GuestFault::MapMalformed`] for too many, or for two that overlap.
    pub fn of(regions: impl IntoIterator<Item = Region>) -> Result<Self, GuestFault> {
        let mut map = Self::default();
        for region in regions {
            map.insert(region)?;
        }
        Ok(map)
    }

    /// The regions.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.0
    }

    /// How many bytes the guest may use.
    #[must_use]
    pub fn usable_bytes(&self) -> u64 {
        self.0.iter().filter(|region| region.kind == USABLE).map(|region| region.end - region.start).sum()
    }

    /// Whether all of `range` may be used.
    #[must_use]
    pub fn is_usable(&self, range: &Range<u64>) -> bool {
        self.holder(range).is_some()
    }

    /// Takes `range` out of the usable region that it lies in, and gives it another kind.
    ///
    /// # Errors
    /// [`GuestFault::NoRoom`] if it does not lie in one usable region, [`GuestFault::MapMalformed`] if there are too many
    /// regions then.
    pub fn give(&mut self, range: &Range<u64>, kind: u32) -> Result<(), GuestFault> {
        let at = self.holder(range).ok_or(GuestFault::NoRoom)?;
        let whole = self.0.remove(at);
        let parts = [
            Region { end: range.start, ..whole },
            Region { start: range.start, end: range.end, kind },
            Region { start: range.end, ..whole },
        ];
        parts.into_iter().filter(|part| part.start < part.end).try_for_each(|part| self.insert(part))
    }

    /// The highest address at which `bytes` bytes may be used, all below `limit`; a multiple of `alignment`.
    #[must_use]
    pub fn highest(&self, bytes: u64, alignment: u64, limit: u64) -> Option<u64> {
        let fits = |region: &Region| {
            let start = region.end.min(limit).checked_sub(bytes)? / alignment * alignment;
            (start >= region.start).then_some(start)
        };
        self.0.iter().rev().filter(|region| region.kind == USABLE).find_map(fits)
    }

    /// The lowest address from `from` on at which `bytes` bytes may be used; a multiple of `alignment`.
    #[must_use]
    pub fn lowest(&self, bytes: u64, alignment: u64, from: u64) -> Option<u64> {
        let fits = |region: &Region| {
            let start = region.start.max(from).checked_next_multiple_of(alignment)?;
            (start.checked_add(bytes)? <= region.end).then_some(start)
        };
        self.0.iter().filter(|region| region.kind == USABLE).find_map(fits)
    }

    /// The index of the usable region in which `range` lies.
    fn holder(&self, range: &Range<u64>) -> Option<usize> {
        self.0.iter().position(|region| {
            region.kind == USABLE
                && region.start <= range.start
                && range.start < range.end
                && range.end <= region.end
        })
    }

    fn insert(&mut self, region: Region) -> Result<(), GuestFault> {
        let at = self.0.iter().position(|other| other.start >= region.start).unwrap_or(self.0.len());
        let before = at.checked_sub(1).and_then(|before| self.0.get(before));
        let clear = before.is_none_or(|before| before.end <= region.start)
            && self.0.get(at).is_none_or(|after| region.end <= after.start);
        if region.start >= region.end || !clear {
            return Err(GuestFault::MapMalformed);
        }
        self.0.insert(at, region).map_err(|_| GuestFault::MapMalformed)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{KEPT, Map, REGIONS_MAX, RESERVED, Region, USABLE};
    use crate::guest::GuestFault;

    /// A machine with 512 MiB, as QEMU describes it.
    pub(crate) fn machine() -> Map {
        let region = |start, end, kind| Region { start, end, kind };
        Map::of([
            region(0x10_0000, 0x1FFE_0000, USABLE),
            region(0, 0x9_FC00, USABLE),
            region(0x9_FC00, 0xA_0000, RESERVED),
            region(0x1FFE_0000, 0x2000_0000, RESERVED),
        ])
        .unwrap()
    }

    #[test]
    fn what_is_given_away_is_cut_out_and_nothing_overlaps() {
        let mut map = machine();
        let before = map.usable_bytes();
        map.give(&(0x1000_0000..0x1080_0000), RESERVED).unwrap();
        map.give(&(0x1FFD_0000..0x1FFE_0000), KEPT).unwrap();
        map.give(&(0x10_0000..0x10_1000), KEPT).unwrap();
        assert_eq!(map.usable_bytes(), before - 0x80_0000 - 0x1_1000);
        assert!(map.regions().windows(2).all(|pair| pair[0].end <= pair[1].start));
        for taken in [0x1000_0000..0x1000_0001, 0xFFF_FFFF..0x1000_0001, 0..0, 0x1FFD_0000..0x1FFE_0000] {
            assert_eq!(map.give(&taken, KEPT), Err(GuestFault::NoRoom), "{taken:x?}");
        }
    }

    #[test]
    fn room_is_found_at_either_end_and_never_in_what_is_reserved() {
        let mut map = machine();
        map.give(&(0x1000_0000..0x1080_0000), RESERVED).unwrap();
        assert_eq!(map.highest(0x1000, 0x1000, u64::MAX), Some(0x1FFD_F000));
        assert_eq!(map.highest(0x1000, 0x1000, 0x1040_0000), Some(0xFFF_F000));
        assert_eq!(map.highest(0x1000_0000, 1, u64::MAX), None);
        assert_eq!(map.lowest(0x1000, 0x1000, 0x9_F000), Some(0x10_0000));
        assert_eq!(map.lowest(0x1000, 0x1000, u64::MAX), None);
    }

    #[test]
    fn a_map_that_overlaps_or_overflows_is_refused() {
        let region = |start, end| Region { start, end, kind: USABLE };
        for pair in [[(0, 2), (1, 3)], [(1, 3), (0, 2)], [(0, 9), (3, 4)], [(5, 5), (7, 8)], [(9, 5), (1, 2)]]
        {
            assert_eq!(
                Map::of(pair.map(|(a, b)| region(a, b))).err(),
                Some(GuestFault::MapMalformed),
                "{pair:?}"
            );
        }
        let many = |count: u64| Map::of((0..count).map(|at| region(2 * at, 2 * at + 1)));
        assert!(many(REGIONS_MAX as u64).is_ok() && many(REGIONS_MAX as u64 + 1).is_err());
    }
}
