//! The machine's memory as the boot loader alleges it, checked.

use core::ops::Range;

/// The region of the layer: everything of it lies here (`image.ld`), and nothing else does.
pub const LAYER: Range<u64> = 0x1000_0000..0x1080_0000;
/// The secrets page: the last one of the layer's region. No file holds it; whoever launches the image fills it, as the processor's
/// firmware does under SEV-SNP.
pub const SECRETS_PAGE: Range<u64> = LAYER.end - 4096..LAYER.end;
/// How many entries a memory map may have.
pub const ENTRIES_MAX: usize = 32;
/// Physical memory above this address is beyond the layer's page tables.
pub const ADDRESS_MAX: u64 = 512 << 30;
/// Where addresses of 32 bits end; below it memory and devices share.
pub const FOUR_GIB: u64 = 1 << 32;
/// Where a PC's firmware and tables lie whatever a memory map says.
const LEGACY: Range<u64> = 0xA_0000..0x10_0000;

/// What a stretch of physical addresses is (the numbers of ACPI's address range types).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Free for use.
    Ram,
    /// Everything else: tables, firmware, devices.
    Reserved,
}

/// One entry of the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Its addresses.
    pub range: Range<u64>,
    /// What it is.
    pub kind: Kind,
}

/// What is wrong with a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// More than [`ENTRIES_MAX`] entries.
    TooLong,
    /// An entry ends before it begins, or RAM lies beyond [`ADDRESS_MAX`].
    OutOfRange,
    /// Two entries claim the same address.
    Overlap,
    /// The layer's region is not RAM.
    LayerMissing,
}

/// A memory map whose entries are sound and disjoint, and in which the layer's region is RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    stretches: heapless::Vec<Stretch, ENTRIES_MAX>,
    end: u64,
}

impl Map {
    /// Checks the entries.
    ///
    /// # Errors
    /// [`MapError`]; a machine that cannot say what its memory is, is not started.
    pub fn new(entries: impl IntoIterator<Item = Stretch>) -> Result<Self, MapError> {
        let mut map = Self { stretches: heapless::Vec::new(), end: FOUR_GIB };
        for stretch in entries {
            map.add(stretch)?;
        }
        if map.is(Kind::Ram, &LAYER) { Ok(map) } else { Err(MapError::LayerMissing) }
    }

    fn add(&mut self, stretch: Stretch) -> Result<(), MapError> {
        let Range { start, end } = stretch.range;
        if start >= end || (stretch.kind == Kind::Ram && end > ADDRESS_MAX) {
            return Err(MapError::OutOfRange);
        }
        if self.stretches.iter().any(|other| overlap(&other.range, &stretch.range)) {
            return Err(MapError::Overlap);
        }
        if stretch.kind == Kind::Ram {
            self.end = self.end.max(end);
        }
        self.stretches.push(stretch).map_err(|_| MapError::TooLong)
    }

    /// Where RAM ends, or 4 GiB if that is later; nothing beyond is mapped.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// The entries, in the order in which they came.
    #[must_use]
    pub fn stretches(&self) -> &[Stretch] {
        &self.stretches
    }

    /// Whether all of `range` lies in stretches of this kind.
    #[must_use]
    pub fn is(&self, kind: Kind, range: &Range<u64>) -> bool {
        self.covers(range, |stretch| stretch.kind == kind)
    }

    /// Whether any address of `range` is RAM.
    #[must_use]
    pub fn touches_ram(&self, range: &Range<u64>) -> bool {
        self.stretches.iter().any(|stretch| stretch.kind == Kind::Ram && overlap(&stretch.range, range))
    }

    /// Whether `range` may be copied to and from: all of it is in the map or is legacy firmware, and none of it is
    /// the layer's.
    #[must_use]
    pub fn may_copy(&self, range: &Range<u64>) -> bool {
        if overlap(range, &LAYER) || range.end > self.end {
            return false;
        }
        (range.start >= LEGACY.start && range.end <= LEGACY.end) || self.covers(range, |_| true)
    }

    /// Whether `range` holds registers of a device: below 4 GiB, and no RAM.
    #[must_use]
    pub fn may_be_registers(&self, range: &Range<u64>) -> bool {
        range.end <= FOUR_GIB && range.start < range.end && !self.touches_ram(range)
    }

    fn covers(&self, range: &Range<u64>, wanted: impl Fn(&Stretch) -> bool) -> bool {
        let mut at = range.start;
        while at < range.end {
            let here = self.stretches.iter().find(|stretch| stretch.range.contains(&at) && wanted(stretch));
            match here {
                Some(stretch) => at = stretch.range.end,
                None => return false,
            }
        }
        range.start <= range.end
    }
}

/// Whether two ranges share an address.
#[must_use]
pub const fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

#[cfg(test)]
mod tests {
    use super::{FOUR_GIB, Kind, LAYER, Map, MapError, Stretch};
    use core::ops::Range;

    fn ram(range: Range<u64>) -> Stretch {
        Stretch { range, kind: Kind::Ram }
    }

    fn machine() -> Map {
        let tables = Stretch { range: 0x3FFD_0000..0x4000_0000, kind: Kind::Reserved };
        let map = Map::new([ram(0..0x9_FC00), ram(0x10_0000..0x3FFD_0000), tables, ram(FOUR_GIB..5 << 30)]);
        map.expect("a sound map")
    }

    #[test]
    fn what_touches_the_layer_is_never_copied() {
        let map = machine();
        for range in [
            LAYER.start - 1..LAYER.start + 1,
            LAYER.end - 1..LAYER.end + 1,
            LAYER.start + 4096..LAYER.start + 4097,
            0x20_0000..0x2000_0000,
        ] {
            assert!(!map.may_copy(&range), "{range:x?}");
        }
        assert!(map.may_copy(&(LAYER.start - 4096..LAYER.start)));
        assert!(map.may_copy(&(LAYER.end..LAYER.end + 4096)));
    }

    #[test]
    fn what_is_not_known_is_never_copied() {
        let map = machine();
        assert!(map.may_copy(&(0..0x9_FC00)));
        assert!(map.may_copy(&(0x3FFC_0000..0x4000_0000)), "over the border of two stretches");
        assert!(map.may_copy(&(0xF_5000..0xF_5024)), "legacy firmware");
        for range in [0x4000_0000..0x4000_0001, 0xFEE0_0000..0xFEE0_0004, 0..0xA_0000, u64::MAX - 8..u64::MAX]
        {
            assert!(!map.may_copy(&range), "{range:x?}");
        }
        assert_eq!(map.end(), 5 << 30);
    }

    #[test]
    fn registers_are_below_4_gib_and_no_ram() {
        let map = machine();
        assert!(map.may_be_registers(&(0xFEE0_0000..0xFEE0_1000)));
        assert!(!map.may_be_registers(&(0x3000_0000..0x3000_1000)));
        assert!(!map.may_be_registers(&(FOUR_GIB..FOUR_GIB + 4)));
        assert!(!map.may_be_registers(&(LAYER.start..LAYER.start + 4)));
    }

    #[test]
    fn a_map_that_lies_is_refused() {
        let low = || ram(0x10_0000..0x3000_0000);
        assert_eq!(Map::new([ram(0..0x1000_0000)]), Err(MapError::LayerMissing));
        assert_eq!(Map::new([low(), ram(0x2000_0000..0x4000_0000)]), Err(MapError::Overlap));
        assert_eq!(
            Map::new([low(), Stretch { range: 8..8, kind: Kind::Reserved }]),
            Err(MapError::OutOfRange)
        );
        assert_eq!(Map::new([low(), ram(511 << 30..513 << 30)]), Err(MapError::OutOfRange));
        let many = (0..33).map(|n| ram((1 << 33) + n * 8192..(1 << 33) + n * 8192 + 4096));
        assert_eq!(Map::new([low()].into_iter().chain(many)), Err(MapError::TooLong));
    }
}
