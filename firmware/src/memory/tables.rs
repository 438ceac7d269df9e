//! The layer's own page tables: an identity map in which nothing is both writable and executable.
//!
//! Entries are those of AMD64 (24593, section 5.4): 4 KiB pages for the layer and for the first 2 MiB, 2 MiB pages up to
//! 4 GiB, 1 GiB pages above. Page 0 is absent, so that a null pointer faults; its memory is seen through a window.

use super::map::{FOUR_GIB, LAYER, Map, SECRETS_PAGE};
use super::native;
use core::ops::Range;

/// Bytes of a page.
pub const PAGE_BYTES: u64 = 4096;
const LARGE_BYTES: u64 = 2 << 20;
const HUGE_BYTES: u64 = 1 << 30;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
/// PWT and PCD: uncached under the PAT that a processor wakes up with.
const UNCACHED: u64 = 1 << 3 | 1 << 4;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;

/// Page tables of 4 KiB pages for the layer.
const LAYER_TABLES: usize = 4;
const _: () =
    assert!((LAYER.end - LAYER.start) / LARGE_BYTES == 4 && LAYER.start.is_multiple_of(LARGE_BYTES));
const _: () = assert!(LAYER.end <= HUGE_BYTES, "the layer's tables hang in the first directory");

/// One table of 512 entries.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Table(pub [u64; 512]);

impl Table {
    const EMPTY: Self = Self([0; 512]);
}

/// All tables of the layer.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Tables {
    root: Table,
    pointers: Table,
    directories: [Table; 4],
    first: Table,
    layer: [Table; LAYER_TABLES],
}

/// How the layer's region is used: what lies outside of these and of the secrets page is not mapped.
#[derive(Debug)]
pub struct Sections<'s> {
    /// Code: read and execute.
    pub text: Range<u64>,
    /// Constants: read.
    pub rodata: Range<u64>,
    /// Data, stacks, the engine's arena: read and write.
    pub data: Range<u64>,
    /// Pages in the data that must fault: below each stack.
    pub guards: &'s [u64],
    /// The page in the data through which page 0 of the machine is seen.
    pub window: u64,
}

impl Tables {
    /// Tables that map nothing.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            root: Table::EMPTY,
            pointers: Table::EMPTY,
            directories: [Table::EMPTY; 4],
            first: Table::EMPTY,
            layer: [Table::EMPTY; LAYER_TABLES],
        }
    }

    /// Fills empty tables, which lie at `own` in physical memory and stay there.
    pub fn fill(&mut self, own: u64, map: &Map, sections: &Sections<'_>) {
        let table = |offset: usize| (own + offset as u64) | PRESENT | WRITABLE;
        self.root.0[0] = table(core::mem::offset_of!(Self, pointers));
        let directories = core::mem::offset_of!(Self, directories);
        for (index, entry) in self.pointers.0.iter_mut().enumerate() {
            let at = index as u64 * HUGE_BYTES;
            *entry = match index {
                0..4 => table(directories + index * size_of::<Table>()),
                _ if at < map.end() => at | PRESENT | WRITABLE | LARGE | NO_EXECUTE,
                _ => 0,
            };
        }
        let entries = self.directories.iter_mut().flat_map(|directory| &mut directory.0);
        for (at, entry) in (0..FOUR_GIB).step_by(native(LARGE_BYTES)).zip(entries) {
            *entry = at | PRESENT | WRITABLE | LARGE | NO_EXECUTE | cached(map, at..at + LARGE_BYTES);
        }
        self.directories[0].0[0] = table(core::mem::offset_of!(Self, first));
        for (at, entry) in (0..LARGE_BYTES).step_by(native(PAGE_BYTES)).zip(&mut self.first.0).skip(1) {
            *entry = at | PRESENT | WRITABLE | NO_EXECUTE;
        }
        let layer = core::mem::offset_of!(Self, layer);
        for index in 0..LAYER_TABLES {
            let slot = native(LAYER.start / LARGE_BYTES) + index;
            self.directories[0].0[slot] = table(layer + index * size_of::<Table>());
        }
        let pages = LAYER.step_by(native(PAGE_BYTES));
        for (page, entry) in pages.zip(self.layer.iter_mut().flat_map(|table| &mut table.0)) {
            *entry = layer_page(page, sections);
        }
    }
}

/// Memory is cached; what holds no RAM may be registers, and is not.
fn cached(map: &Map, range: Range<u64>) -> u64 {
    if map.touches_ram(&range) { 0 } else { UNCACHED }
}

fn layer_page(page: u64, sections: &Sections<'_>) -> u64 {
    if page == sections.window {
        PRESENT | WRITABLE | NO_EXECUTE
    } else if sections.text.contains(&page) {
        page | PRESENT
    } else if sections.rodata.contains(&page) {
        page | PRESENT | NO_EXECUTE
    } else if SECRETS_PAGE.contains(&page)
        || sections.data.contains(&page) && !sections.guards.contains(&page)
    {
        page | PRESENT | WRITABLE | NO_EXECUTE
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::super::map::{Kind, LAYER, Map, SECRETS_PAGE, Stretch};
    use super::super::native;
    use super::{LARGE, NO_EXECUTE, PRESENT, Sections, Tables, UNCACHED, WRITABLE};
    use std::boxed::Box;

    const OWN: u64 = LAYER.start + 0x40_0000;

    fn tables() -> Box<Tables> {
        let stretches = [(0..0x9_F000), (0x10_0000..0x4000_0000), (1 << 32..(6 << 30) - 4096)];
        let map = Map::new(stretches.map(|range| Stretch { range, kind: Kind::Ram })).expect("a sound map");
        let at = |offset: u64| LAYER.start + offset;
        let sections = Sections {
            text: at(0)..at(0x20_0000),
            rodata: at(0x20_0000)..at(0x30_0000),
            data: at(0x30_0000)..at(0x60_0000),
            guards: &[at(0x50_0000)],
            window: at(0x5F_F000),
        };
        let mut tables = Box::new(Tables::empty());
        tables.fill(OWN, &map, &sections);
        tables
    }

    /// What a processor finds for an address: the page's physical address and its flags.
    fn walk(tables: &Tables, address: u64) -> Option<(u64, u64)> {
        let words: &[u64] = &[&tables.root, &tables.pointers]
            .into_iter()
            .chain(&tables.directories)
            .chain([&tables.first])
            .chain(&tables.layer)
            .flat_map(|table| table.0)
            .collect::<std::vec::Vec<u64>>();
        let mut table = OWN;
        for (level, shift) in [39, 30, 21, 12].into_iter().enumerate() {
            let index = native((table - OWN) / 8 + (address >> shift & 511));
            let entry = words[index];
            if entry & PRESENT == 0 {
                return None;
            }
            let physical = entry & 0x000F_FFFF_FFFF_F000;
            if level == 3 || (level > 0 && entry & LARGE != 0) {
                return Some((physical + (address & ((1 << shift) - 1)), entry));
            }
            table = physical;
        }
        unreachable!("the walk ends at the fourth level");
    }

    #[test]
    fn nothing_is_writable_and_executable() {
        let tables = tables();
        for address in
            (0..8 << 30).step_by(0x1000 * 61).chain(LAYER.step_by(4096)).chain((0..0x40_0000).step_by(4096))
        {
            if let Some((_, flags)) = walk(&tables, address) {
                assert!(flags & WRITABLE == 0 || flags & NO_EXECUTE != 0, "{address:#x} {flags:#x}");
                assert_eq!(
                    flags & NO_EXECUTE == 0,
                    (LAYER.start..LAYER.start + 0x20_0000).contains(&address)
                );
            }
        }
    }

    #[test]
    fn the_map_is_the_identity_but_for_page_zero_and_its_window() {
        let tables = tables();
        for address in
            [0x1000, 0x9_F000, 0x1F_F008, 0x20_0000, 0x3FFF_F000, 0xFEE0_0020, 1 << 32, (6 << 30) - 8]
        {
            assert_eq!(walk(&tables, address).map(|(physical, _)| physical), Some(address), "{address:#x}");
        }
        assert_eq!(walk(&tables, 0), None, "a null pointer faults");
        assert_eq!(walk(&tables, LAYER.start + 0x5F_F010).map(|(physical, _)| physical), Some(0x10));
        assert_eq!(walk(&tables, 6 << 30), None, "beyond memory");
    }

    #[test]
    fn guards_and_the_unused_end_of_the_region_fault() {
        let tables = tables();
        assert_eq!(walk(&tables, LAYER.start + 0x50_0FF8), None);
        assert_eq!(walk(&tables, LAYER.start + 0x60_0000), None);
        assert_eq!(walk(&tables, SECRETS_PAGE.start - 8), None);
    }

    #[test]
    fn the_secrets_page_is_data() {
        let found = walk(&tables(), SECRETS_PAGE.start);
        assert_eq!(found, Some((SECRETS_PAGE.start, SECRETS_PAGE.start | PRESENT | WRITABLE | NO_EXECUTE)));
    }

    #[test]
    fn registers_are_not_cached() {
        let tables = tables();
        let flags = |address| walk(&tables, address).map_or(0, |(_, flags)| flags & UNCACHED);
        assert_eq!(flags(0xFEE0_0000), UNCACHED);
        assert_eq!(flags(0x3000_0000), 0);
    }
}
