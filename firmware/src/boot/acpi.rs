//! The few facts that the layer takes from the machine's ACPI tables (ACPI 6.5, section 5.2): its processors, its timer.
//!
//! The tables are the host's allegation. A table that does not parse is not there.

use super::CPUS_MAX;
use crate::memory::Reach;

/// Bytes of the header that every table starts with.
pub const HEADER_BYTES: u64 = 36;
/// No table that is looked at is longer.
const TABLE_BYTES_MAX: u64 = 64 * 1024;
/// No root table lists more.
const TABLES_MAX: u64 = 64;

/// A table in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Where it starts.
    pub address: u64,
    /// Its length in bytes, header included.
    pub bytes: u64,
}

/// The machine's tables, by the root that the loader named.
#[derive(Clone, Copy, Debug)]
pub struct Acpi<'m, M> {
    memory: &'m M,
    root: Table,
    /// Bytes of one address in the root table.
    width: u64,
}

impl<'m, M: Reach> Acpi<'m, M> {
    /// Finds the root table: the XSDT, or the RSDT of an older machine.
    pub fn find(memory: &'m M, rsdp: u64) -> Option<Self> {
        let mut pointer = [0; 36];
        memory.copy_in(rsdp, &mut pointer[..20]).ok()?;
        if !pointer.starts_with(b"RSD PTR ") {
            return None;
        }
        if pointer[15] >= 2 {
            memory.copy_in(rsdp, &mut pointer).ok()?;
        }
        let rsdt = u64::from(u32::from_le_bytes(*pointer[16..].first_chunk()?));
        let (root, width) = match u64::from_le_bytes(*pointer[24..].first_chunk()?) {
            0 => (table(memory, rsdt)?, 4),
            xsdt => (table(memory, xsdt)?, 8),
        };
        Some(Self { memory, root, width })
    }

    /// The root table and the bytes of each address in it.
    #[must_use]
    pub const fn root(&self) -> (Table, u64) {
        (self.root, self.width)
    }

    /// Every table that the root names.
    pub fn tables(&self) -> impl Iterator<Item = Table> + '_ {
        let count = ((self.root.bytes - HEADER_BYTES) / self.width).min(TABLES_MAX);
        (0..count).filter_map(|index| {
            let mut address = [0; 8];
            let width = usize::try_from(self.width).ok()?;
            let at = self.root.address + HEADER_BYTES + index * self.width;
            self.memory.copy_in(at, address.get_mut(..width)?).ok()?;
            table(self.memory, u64::from_le_bytes(address))
        })
    }

    /// The first table with this signature.
    #[must_use]
    pub fn table(&self, signature: [u8; 4]) -> Option<Table> {
        self.tables().find(|table| self.bytes::<4>(table.address) == Some(signature))
    }

    /// Local APIC identifiers of the processors that can be used, in the order of the MADT; `None` if there is none, if
    /// one is beyond 254, or if there are more than the layer has stacks for.
    #[must_use]
    pub fn processors(&self) -> Option<heapless::Vec<u8, CPUS_MAX>> {
        let madt = self.table(*b"APIC")?;
        let mut found = heapless::Vec::new();
        let mut at = HEADER_BYTES + 8;
        while at + 2 <= madt.bytes {
            let [kind, bytes] = self.bytes(madt.address + at)?;
            if bytes < 2 || at + u64::from(bytes) > madt.bytes {
                return None;
            }
            // Type 0: processor, APIC identifier, flags. Type 9 is for identifiers that do not fit a byte.
            if kind == 0 && bytes >= 8 {
                let [apic, flags] = self.bytes(madt.address + at + 3)?;
                if flags & 1 != 0 {
                    found.push(apic).ok()?;
                }
            }
            let large: [u8; 12] =
                if kind == 9 && bytes >= 16 { self.bytes(madt.address + at + 4)? } else { [0; 12] };
            if large[4] & 1 != 0 {
                return None;
            }
            at += u64::from(bytes);
        }
        (!found.is_empty()).then_some(found)
    }

    /// The I/O port of the power management timer, which counts 3,579,545 times a second.
    #[must_use]
    pub fn timer_port(&self) -> Option<u16> {
        let fadt = self.table(*b"FACP")?;
        let port = (fadt.bytes >= 80).then(|| self.bytes(fadt.address + 76))??;
        u16::try_from(u32::from_le_bytes(port)).ok().filter(|port| *port != 0)
    }

    /// The first I/O port of the power management block (PM1a event block).
    #[must_use]
    pub fn power_block(&self) -> Option<u16> {
        let fadt = self.table(*b"FACP")?;
        let port = (fadt.bytes >= 60).then(|| self.bytes(fadt.address + 56))??;
        u16::try_from(u32::from_le_bytes(port)).ok().filter(|port| *port != 0)
    }

    fn bytes<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.memory.copy_in(address, &mut bytes).ok()?;
        Some(bytes)
    }
}

fn table(memory: &impl Reach, address: u64) -> Option<Table> {
    let mut header = [0; 8];
    memory.copy_in(address, &mut header).ok()?;
    let bytes = u64::from(u32::from_le_bytes(*header[4..].first_chunk()?));
    let sound = (HEADER_BYTES..=TABLE_BYTES_MAX).contains(&bytes) && address.checked_add(bytes).is_some();
    sound.then_some(Table { address, bytes })
}

#[cfg(test)]
mod tests {
    use super::{Acpi, CPUS_MAX, HEADER_BYTES, Table};
    use crate::guest::fakes::Memory;
    use crate::memory::Reach;
    use std::vec::Vec;

    const RSDP: usize = 0x10;
    const RSDT: usize = 0x100;
    const MADT: usize = 0x200;
    const FADT: usize = 0x400;

    fn short(at: usize) -> u32 {
        u32::try_from(at).expect("below 4 KiB")
    }

    fn put(low: &mut Memory, at: usize, bytes: &[u8]) {
        low.copy_out(at as u64, bytes).expect("below 4 KiB");
    }

    fn table(low: &mut Memory, at: usize, signature: [u8; 4], body: &[u8]) {
        let bytes = u32::try_from(36 + body.len()).expect("a short table");
        put(low, at, &signature);
        put(low, at + 4, &bytes.to_le_bytes());
        put(low, at + 36, body);
    }

    /// A machine with these entries in its MADT.
    fn machine(entries: &[&[u8]]) -> Memory {
        let mut low = Memory::of(4096);
        put(&mut low, RSDP, b"RSD PTR ");
        put(&mut low, RSDP + 16, &short(RSDT).to_le_bytes());
        table(
            &mut low,
            RSDT,
            *b"RSDT",
            &[short(MADT), 0xFFFF_0000, short(FADT)].map(u32::to_le_bytes).concat(),
        );
        table(&mut low, MADT, *b"APIC", &[&[0; 8], entries.concat().as_slice()].concat());
        let mut body = [0; 44];
        body[20..24].copy_from_slice(&0x600_u32.to_le_bytes());
        body[40..44].copy_from_slice(&0x608_u32.to_le_bytes());
        table(&mut low, FADT, *b"FACP", &body);
        low
    }

    fn processors(entries: &[&[u8]]) -> Option<Vec<u8>> {
        let low = machine(entries);
        let found = Acpi::find(&low, RSDP as u64).expect("a root").processors();
        found.map(|ids| ids.iter().copied().collect())
    }

    #[test]
    fn processors_timer_and_power_block_are_found() {
        let entries: [&[u8]; 3] =
            [&[0, 8, 0, 0, 1, 0, 0, 0], &[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[0, 8, 1, 4, 1, 0, 0, 0]];
        let low = machine(&entries);
        let acpi = Acpi::find(&low, RSDP as u64).expect("a root");
        assert_eq!(acpi.root(), (Table { address: RSDT as u64, bytes: HEADER_BYTES + 12 }, 4));
        assert_eq!((acpi.timer_port(), acpi.power_block()), (Some(0x608), Some(0x600)));
        assert_eq!(processors(&entries), Some([0, 4].into()));
        // One that is not enabled is not there.
        assert_eq!(processors(&[entries[0], &[0, 8, 1, 5, 0, 0, 0, 0]]), Some([0].into()));
    }

    #[test]
    fn processors_that_cannot_all_be_started_are_none() {
        let one = |id: u8| [0, 8, id, id, 1, 0, 0, 0];
        let many: Vec<[u8; 8]> = (0..).map(one).take(CPUS_MAX + 1).collect();
        let many: Vec<&[u8]> = many.iter().map(|entry| entry.as_slice()).collect();
        assert_eq!(processors(&many[..CPUS_MAX]).map(|ids| ids.len()), Some(CPUS_MAX));
        assert_eq!(processors(&many), None);
        let large = [9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(processors(&[&one(0), &large]), None, "an identifier that does not fit");
        assert_eq!(processors(&[]), None);
    }

    #[test]
    fn whatever_the_tables_say_ends() {
        for broken in [&[0_u8, 0][..], &[0, 1], &[0, 200, 0, 0, 1, 0, 0, 0]] {
            assert_eq!(processors(&[broken]), None, "{broken:?}");
        }
        let good = machine(&[&[0, 8, 0, 0, 1, 0, 0, 0]]);
        for at in RSDP..FADT + 80 {
            for value in [0, 1, 0x7F, 0xFF] {
                let mut low = good.clone();
                put(&mut low, at, &[value]);
                let Some(acpi) = Acpi::find(&low, RSDP as u64) else { continue };
                assert!(acpi.tables().count() <= 64);
                assert!(acpi.processors().is_none_or(|ids| ids.len() <= CPUS_MAX));
            }
        }
        assert!(Acpi::find(&good, u64::MAX - 3).is_none());
    }
}
