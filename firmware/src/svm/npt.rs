//! The guest's view of memory: nested page tables (AMD64 APM volume 2, section 15.25).
//!
//! An identity map of 512 GiB, coarse where nothing is special, split where something is. The tables come from a pool of
//! constant size; the map is made before a guest runs. While one does, only the flash with its firmware's variables changes: pages that are read where they lie, or not at all.

use core::ops::Range;

/// Entries of a table.
const ENTRIES: usize = 512;
/// Size of a page in bytes.
pub const PAGE_BYTES: u64 = 0x1000;
/// Everything the map can say lies below this guest-physical address.
pub const END: u64 = 512 << 30;

/// Bits of an entry (volume 2, section 5.4.1). A nested table's every page is a user's page.
const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED_DIRTY: u64 = 0b11 << 5;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;

/// One table.
#[derive(Clone, Debug)]
#[repr(C, align(4096))]
pub struct Table([u64; ENTRIES]);

impl Table {
    /// A table that maps nothing.
    pub const EMPTY: Self = Self([0; ENTRIES]);
}

/// What a guest gets at some addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The machine's own memory or device there.
    Whole,
    /// The machine's own, but every write exits.
    ReadOnly,
    /// Nothing: every access exits.
    Nothing,
    /// Memory that begins at this physical address.
    Elsewhere(u64),
    /// The same, but every write exits.
    Rom(u64),
}

/// Why a map could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NptFault {
    /// The pool of tables is used up.
    PoolEmpty,
    /// A range is not made of pages, or passes the end of the map.
    BadRange,
}

/// The map under construction: tables in `pool`, which lies at the physical address `base`.
#[derive(Debug)]
pub struct Npt<'p> {
    pool: &'p mut [Table],
    base: u64,
    used: usize,
}

/// Sizes of what an entry of each level maps, from a page to 512 GiB.
const SPANS: [u64; 4] = [PAGE_BYTES, 2 << 20, 1 << 30, END];

impl<'p> Npt<'p> {
    /// The identity map of everything.
    ///
    /// # Errors
    /// [`NptFault::PoolEmpty`] if there are not even two tables.
    pub fn identity(pool: &'p mut [Table], base: u64) -> Result<Self, NptFault> {
        let mut npt = Self { pool, base, used: 0 };
        let root = npt.take()?;
        let directory = npt.take()?;
        npt.pool[root].0[0] = npt.address(directory) | PRESENT | WRITE | USER;
        for (gibibyte, entry) in (0u64..).zip(npt.pool[directory].0.iter_mut()) {
            *entry = gibibyte << 30 | leaf_bits(View::Whole) | LARGE;
        }
        Ok(npt)
    }

    /// Physical address of the root table.
    #[must_use]
    pub const fn root(&self) -> u64 {
        self.base
    }

    /// Sets what the guest gets in `range`, whose ends are multiples of a page.
    ///
    /// # Errors
    /// [`NptFault`]; the map is then not fit for use.
    pub fn set(&mut self, range: Range<u64>, view: View) -> Result<(), NptFault> {
        let paged = range.start.is_multiple_of(PAGE_BYTES) && range.end.is_multiple_of(PAGE_BYTES);
        if !paged || range.end > END || range.start > range.end {
            return Err(NptFault::BadRange);
        }
        let mut at = range.start;
        while at < range.end {
            at += self.set_one(at, &range, view)?;
        }
        Ok(())
    }

    /// What the guest gets at `address`, and how many bytes from there on get the same entry's treatment. For tests and for
    /// the check at boot.
    #[must_use]
    pub fn view(&self, address: u64) -> View {
        let mut table = 0;
        for level in (0..4).rev() {
            let entry = self.pool[table].0[index(address, level)];
            if entry & PRESENT == 0 {
                return View::Nothing;
            }
            if level == 0 || entry & LARGE != 0 {
                return seen(entry, address, level);
            }
            match self.table_at(entry & ADDRESS) {
                Some(next) => table = next,
                None => return View::Nothing,
            }
        }
        View::Nothing
    }

    /// Sets the largest entry at `at` that lies within `range`; returns its size in bytes.
    fn set_one(&mut self, at: u64, range: &Range<u64>, view: View) -> Result<u64, NptFault> {
        let mut table = 0;
        for level in (0..3).rev() {
            let above = self.pool[table].0[index(at, level + 1)];
            table = self.table_at(above & ADDRESS).ok_or(NptFault::BadRange)?;
            let span = SPANS[level];
            let slot = index(at, level);
            let fits = at.is_multiple_of(span) && at + span <= range.end;
            // Only what nothing is split below may be set at once: a table that was made stays in use.
            let entry = self.pool[table].0[slot];
            let is_table = level > 0 && entry & PRESENT != 0 && entry & LARGE == 0;
            if fits && !is_table && large_enough(view, at, range, span) {
                self.pool[table].0[slot] = leaf(view, at, range.start, level);
                return Ok(span);
            }
            if level == 0 {
                return Err(NptFault::BadRange);
            }
            if !is_table {
                self.split(table, slot, level)?;
            }
        }
        Err(NptFault::BadRange)
    }

    /// Replaces a leaf by a table that says the same.
    fn split(&mut self, table: usize, slot: usize, level: usize) -> Result<(), NptFault> {
        let entry = self.pool[table].0[slot];
        let below = self.take()?;
        let span = SPANS[level - 1];
        let large = if level > 1 { LARGE } else { 0 };
        for (n, lower) in (0u64..).zip(self.pool[below].0.iter_mut()) {
            let flags = (entry & !ADDRESS & !LARGE) | large;
            *lower = if entry & PRESENT == 0 { 0 } else { ((entry & ADDRESS) + n * span) | flags };
        }
        self.pool[table].0[slot] = self.address(below) | PRESENT | WRITE | USER;
        Ok(())
    }

    fn take(&mut self) -> Result<usize, NptFault> {
        let taken = self.used;
        *self.pool.get_mut(taken).ok_or(NptFault::PoolEmpty)? = Table::EMPTY;
        self.used += 1;
        Ok(taken)
    }

    const fn address(&self, table: usize) -> u64 {
        self.base + table as u64 * PAGE_BYTES
    }

    fn table_at(&self, address: u64) -> Option<usize> {
        let table = usize::try_from(address.checked_sub(self.base)? / PAGE_BYTES).ok()?;
        (table < self.used).then_some(table)
    }
}

/// Memory elsewhere is mapped page by page unless both sides are aligned alike.
const fn large_enough(view: View, at: u64, range: &Range<u64>, span: u64) -> bool {
    match view {
        View::Elsewhere(target) | View::Rom(target) => (target + (at - range.start)).is_multiple_of(span),
        View::Whole | View::ReadOnly | View::Nothing => true,
    }
}

const fn leaf(view: View, at: u64, start: u64, level: usize) -> u64 {
    let large = if level > 0 { LARGE } else { 0 };
    match view {
        View::Nothing => 0,
        View::Whole | View::ReadOnly => at | leaf_bits(view) | large,
        View::Elsewhere(target) | View::Rom(target) => (target + (at - start)) | leaf_bits(view) | large,
    }
}

const fn leaf_bits(view: View) -> u64 {
    match view {
        View::Whole | View::Elsewhere(_) => PRESENT | WRITE | USER | ACCESSED_DIRTY,
        View::ReadOnly | View::Rom(_) => PRESENT | USER | ACCESSED_DIRTY,
        View::Nothing => 0,
    }
}

const fn seen(entry: u64, address: u64, level: usize) -> View {
    let within = address & (SPANS[level] - 1);
    let target = (entry & ADDRESS & !(SPANS[level] - 1)) + within;
    match (target == address, entry & WRITE != 0) {
        (true, true) => View::Whole,
        (true, false) => View::ReadOnly,
        (false, true) => View::Elsewhere(target),
        (false, false) => View::Rom(target),
    }
}

const fn index(address: u64, level: usize) -> usize {
    ((address >> (12 + 9 * level)) & 0x1FF) as usize
}

#[cfg(test)]
mod tests {
    use super::{END, Npt, NptFault, PAGE_BYTES, Table, View};
    use proptest::prelude::{any, prop_assert_eq, proptest};
    use std::vec;

    const BASE: u64 = 0x1050_0000;

    #[test]
    fn the_layer_is_in_no_part_of_the_map_and_its_neighbours_are() {
        let mut pool = vec![Table::EMPTY; 8];
        let mut npt = Npt::identity(&mut pool, BASE).unwrap();
        npt.set(0x1000_0000..0x1080_0000, View::Nothing).unwrap();
        for page in (0x1000_0000u64..0x1080_0000).step_by(4096) {
            assert_eq!(npt.view(page), View::Nothing);
        }
        assert_eq!(npt.view(0x0FFF_FFFF), View::Whole);
        assert_eq!(npt.view(0x1080_0000), View::Whole);
        assert_eq!(npt.view(END - 1), View::Whole);
        assert_eq!(npt.used, 3, "a hole of whole 2-MiB pages costs one table");
    }

    #[test]
    fn a_page_may_show_other_memory_and_its_neighbours_do_not() {
        let mut pool = vec![Table::EMPTY; 8];
        let mut npt = Npt::identity(&mut pool, BASE).unwrap();
        npt.set(0xFED4_0000..0xFED4_1000, View::Nothing).unwrap();
        npt.set(0xFED4_1000..0xFED4_2000, View::Elsewhere(0x1070_3000)).unwrap();
        npt.set(0xFEE0_0000..0xFEE0_1000, View::ReadOnly).unwrap();
        npt.set(0xFFC8_4000..1 << 32, View::Rom(0x1300_1000)).unwrap();
        assert_eq!(npt.view(0xFFFF_FFF0), View::Rom(0x1337_CFF0));
        assert_eq!(npt.view(0xFFC8_3FFF), View::Whole);
        assert_eq!(npt.view(0xFED4_0FFF), View::Nothing);
        assert_eq!(npt.view(0xFED4_1004), View::Elsewhere(0x1070_3004));
        assert_eq!(npt.view(0xFED4_2000), View::Whole);
        assert_eq!(npt.view(0xFEE0_0300), View::ReadOnly);
    }

    #[test]
    fn a_pool_that_is_too_small_is_a_fault_and_not_a_hole() {
        let mut pool = vec![Table::EMPTY; 3];
        let mut npt = Npt::identity(&mut pool, BASE).unwrap();
        assert_eq!(npt.set(0x1000..0x2000, View::Nothing), Err(NptFault::PoolEmpty));
        assert_eq!(npt.set(0x1001..0x2000, View::Nothing), Err(NptFault::BadRange));
        assert_eq!(npt.set(0..END + PAGE_BYTES, View::Nothing), Err(NptFault::BadRange));
    }

    proptest! {
        #[test]
        fn the_last_word_on_an_address_counts(
            sets in proptest::collection::vec((0u64..2048, 1u64..1200, 0u8..5), 1..8),
            probes in proptest::collection::vec(any::<u16>(), 64),
        ) {
            let mut pool = vec![Table::EMPTY; 64];
            let mut npt = Npt::identity(&mut pool, BASE).unwrap();
            let origin = 0xFE80_0000u64;
            let mut model = vec![View::Whole; 4096];
            for (from, count, kind) in sets {
                let view = [View::Whole, View::ReadOnly, View::Nothing, View::Elsewhere(0x1040_0000), View::Rom(0x1060_1000)][kind as usize];
                let range = origin + from * PAGE_BYTES..origin + (from + count) * PAGE_BYTES;
                npt.set(range, view).unwrap();
                for page in from..from + count {
                    model[crate::memory::native(page)] = match view {
                        View::Elsewhere(target) => View::Elsewhere(target + (page - from) * PAGE_BYTES),
                        View::Rom(target) => View::Rom(target + (page - from) * PAGE_BYTES),
                        same => same,
                    };
                }
            }
            for probe in probes {
                let page = u64::from(probe) % 4096;
                prop_assert_eq!(npt.view(origin + page * PAGE_BYTES), model[crate::memory::native(page)]);
            }
        }
    }
}
