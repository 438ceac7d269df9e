//! What a guest's own firmware is given: a machine's description by the configuration device, and its flash below 4 GiB.
//!
//! The firmware takes the end of the highest memory below 4 GiB for the end of all of it there (EDK II, `PlatformInitLib`,
//! `PlatformGetSystemMemorySizeBelow4gb`). So what it is told of ends where the layer begins, and goes on above 4 GiB.

use super::GuestFault;
use super::acpi::Tables;
use super::map::{Map, RESERVED, Region, USABLE};
use crate::fw_cfg::{Cabinet, Kernel, file_name};
use core::ops::Range;

/// Where addresses of 32 bits end, and with them the flash.
pub const FLASH_END: u64 = 1 << 32;
/// No firmware lives with less below 4 GiB: its own volumes are unpacked below 32 MiB, and it wants as much again.
const LOW_BYTES_MIN: u64 = 64 << 20;
const LOW_START: u64 = 1 << 20;

/// Names of files (EDK II, `OvmfPkg/AcpiPlatformDxe` and `PlatformInitLib`).
const MEMORY_FILE: &str = "etc/e820";
const LOADER_FILE: &str = "etc/table-loader";
const TABLES_FILE: &str = "etc/acpi/tables";
/// The loader's commands (QEMU, `hw/acpi/bios-linker-loader.c`).
const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_SUM: u32 = 3;
const COMMAND_BYTES: usize = 128;
const ANYWHERE: u8 = 1;
const PAGE_BYTES: u32 = 4096;
/// One for the file, one for each pointer in it, and one for a sum.
const COMMANDS_MAX: usize = 41;

/// What the table of the events before the firmware's is called: of its own log they are no part, so they are shown as a table of an
/// OEM (ACPI 6.5, section 5.2.5 "System Description Table Header").
const LOG_SIGNATURE: [u8; 4] = *b"OEMH";

/// What a firmware is told of its memory.
#[derive(Clone, Debug)]
pub struct Told {
    regions: heapless::Vec<Region, { super::map::REGIONS_MAX }>,
}

impl Told {
    /// The machine's memory without what is `hidden`.
    ///
    /// # Errors
    /// [`GuestFault::NoRoom`] if too little is left below what is hidden, or [`GuestFault::MapMalformed`].
    pub fn find(machine: &Map, hidden: &[Range<u64>]) -> Result<Self, GuestFault> {
        let mut map = machine.clone();
        hidden.iter().try_for_each(|range| map.give(range, RESERVED))?;
        let usable = || map.regions().iter().filter(|region| region.kind == USABLE);
        let low = usable().find(|region| region.start <= LOW_START && LOW_START < region.end);
        let low_end = low.map(|region| region.end).filter(|end| *end >= LOW_BYTES_MIN);
        let low_end = low_end.ok_or(GuestFault::NoRoom)?;
        let kept_end = kept_end(&map, low_end);
        let mut told = Self { regions: heapless::Vec::new() };
        told.push(0, low_end, USABLE)?;
        told.push(low_end, kept_end, RESERVED)?;
        for region in usable().filter(|region| region.start >= FLASH_END) {
            told.push(region.start, region.end, USABLE)?;
        }
        Ok(told)
    }

    /// How many bytes it may use.
    #[must_use]
    pub fn usable_bytes(&self) -> u64 {
        let usable = self.regions.iter().filter(|region| region.kind == USABLE);
        usable.map(|region| region.end - region.start).sum()
    }

    fn push(&mut self, start: u64, end: u64, kind: u32) -> Result<(), GuestFault> {
        if start == end {
            return Ok(());
        }
        self.regions.push(Region { start, end, kind }).map_err(|_| GuestFault::MapMalformed)
    }

    /// As e820 has it: twenty bytes a region.
    fn e820(&self) -> heapless::Vec<u8, { 20 * super::map::REGIONS_MAX }> {
        let entry = |region: &Region| {
            let mut entry = [0; 20];
            entry[..8].copy_from_slice(&region.start.to_le_bytes());
            entry[8..16].copy_from_slice(&(region.end - region.start).to_le_bytes());
            entry[16..].copy_from_slice(&region.kind.to_le_bytes());
            entry
        };
        self.regions.iter().flat_map(entry).collect()
    }
}

/// Where the memory of the machine ends that begins with what is hidden.
fn kept_end(map: &Map, low_end: u64) -> u64 {
    let below = map.regions().iter().filter(|region| region.end <= FLASH_END && region.start >= low_end);
    below.fold(low_end, |end, region| if region.start == end { region.end } else { end })
}

/// What a firmware is handed at each of its starts.
#[derive(Clone, Copy, Debug)]
pub struct Handover<'h> {
    /// How many processors the guest has.
    pub processors: u32,
    /// Its memory.
    pub told: &'h Told,
    /// Its tables, made for the address 0.
    pub tables: &'h Tables,
    /// The log of the events before the firmware's own.
    pub log: &'h [u8],
    /// What it loads, if anything.
    pub kernel: Option<&'h Kernel<'h>>,
}

impl Handover<'_> {
    /// Writes all of it.
    ///
    /// # Errors
    /// [`GuestFault::TablesTooLarge`] if it does not fit.
    pub fn fill(&self, cabinet: &mut Cabinet) -> Result<(), GuestFault> {
        cabinet.begin(u16::try_from(self.processors).map_err(|_| GuestFault::OutOfRange)?)?;
        cabinet.file(MEMORY_FILE, &[&self.told.e820()])?;
        let more = self.tables.with_another(LOG_SIGNATURE, self.log)?;
        let [tables, behind_sum] = self.tables.around_sum();
        // EDK II sums over what is there, so a sum begins as zero.
        let no_sum = if self.tables.fadt_sum().is_some() { &[0][..] } else { &[] };
        cabinet.file(TABLES_FILE, &[&more.front, tables, no_sum, behind_sum, &more.header, self.log])?;
        cabinet.file(LOADER_FILE, &[self.commands()?.as_flattened()])?;
        if let Some(kernel) = self.kernel {
            cabinet.kernel(kernel)?;
        }
        cabinet.close()
    }

    /// How the tables come to lie in the guest's memory: every pointer in them counts from their beginning.
    fn commands(&self) -> Result<heapless::Vec<[u8; COMMAND_BYTES], COMMANDS_MAX>, GuestFault> {
        let file = file_name(TABLES_FILE).ok_or(GuestFault::TablesTooLarge)?;
        let mut commands = heapless::Vec::new();
        let mut add = |parts: &[&[u8]]| {
            let mut command = [0; COMMAND_BYTES];
            let mut at = 0;
            for part in parts {
                command[at..at + part.len()].copy_from_slice(part);
                at += part.len();
            }
            commands.push(command).map_err(|_| GuestFault::TablesTooLarge)
        };
        add(&[&ALLOCATE.to_le_bytes(), &file, &PAGE_BYTES.to_le_bytes(), &[ANYWHERE]])?;
        for (offset, size) in self.tables.pointers() {
            let offset = u32::try_from(offset).map_err(|_| GuestFault::TablesTooLarge)?;
            add(&[&ADD_POINTER.to_le_bytes(), &file, &file, &offset.to_le_bytes(), &[size]])?;
        }
        if let Some((fadt, sum_at)) = self.tables.fadt_sum() {
            let mut numbers = [[0; 4]; 3];
            for (number, value) in numbers.iter_mut().zip([sum_at, fadt.start, fadt.len()]) {
                *number = u32::try_from(value).map_err(|_| GuestFault::TablesTooLarge)?.to_le_bytes();
            }
            add(&[&ADD_SUM.to_le_bytes(), &file, numbers.as_flattened()])?;
        }
        Ok(commands)
    }
}

#[cfg(test)]
#[path = "tests/uefi.rs"]
mod tests;
