//! The guest's ACPI tables: the machine's, copied once, less the processor that serves, and the TPM's added.
//!
//! The guest is handed an RSDP, an XSDT and a FACS of ours, and every other table that they lead to is one of our copies: what was
//! checked and measured is what the guest reads. A reboot finds the same bytes again, whatever the guest did to its memory.
//! Structures are those of ACPI 6.5, chapter 5.
//!
//! The machine's FACS has a lock that systems take in front of their firmware. It lies where the machine's firmware left it, and a guest
//! that begins in a firmware of its own has no memory there: it would wait for that lock for ever.

use super::GuestFault;
use super::place::TABLES_BYTES;
use crate::memory::Reach;
use core::ops::Range;
use husk::frontend::acpi::{EventLog, ssdt, tpm2_table};
use husk::frontend::crb::Layout;

/// Size of a table's header in bytes.
const HEADER_BYTES: usize = 36;
const LENGTH_AT: usize = 4;
const CHECKSUM_AT: usize = 9;
/// Size of an RSDP of revision 2 in bytes, and of the part that one of revision 0 has.
const RSDP_BYTES: usize = 36;
const RSDP_OLD_BYTES: usize = 20;
/// The most tables that the machine may have.
const TABLES_MAX: usize = 32;
/// The most tables that the guest gets: the TPM's are two, and one may come behind.
const ENTRIES_MAX: usize = TABLES_MAX + 3;
/// Tables begin at multiples of this many bytes.
const ALIGNMENT: usize = 16;
/// Where the XSDT begins, and the tables after it.
const XSDT_AT: usize = 64;
const XSDT_BYTES_MAX: usize = HEADER_BYTES + 8 * ENTRIES_MAX;
/// Where the FACS lies, at a multiple of its size in bytes, and its version (section 5.2.10).
const FACS_AT: usize = (XSDT_AT + XSDT_BYTES_MAX).next_multiple_of(FACS_BYTES);
const FACS_BYTES: usize = 64;
const FACS_VERSION_AT: usize = 32;
const FACS_VERSION: u8 = 2;
const FIRST_AT: usize = FACS_AT + FACS_BYTES;

/// Fields of the FADT (section 5.2.9). Where the FACS has a wide address, the other one is not looked at.
const FADT_FACS_AT: usize = 36;
const FADT_X_FACS_AT: usize = 132;
const FADT_DSDT_AT: usize = 40;
const FADT_X_DSDT_AT: usize = 140;
/// Where the MADT's entries begin.
const MADT_ENTRIES_AT: usize = 44;
/// Kinds of the MADT's entries: a processor by its APIC's 8-bit or 32-bit number.
const MADT_LOCAL_APIC: u8 = 0;
const MADT_LOCAL_X2APIC: u8 = 9;

/// What the guest's tables say beyond the machine's.
#[derive(Clone, Copy, Debug)]
pub struct Additions {
    /// The APIC number of the processor that the guest does not get.
    pub hidden_apic: u32,
    /// Where the TPM is.
    pub crb: Layout,
    /// Where its event log is, if firmware of the guest's does not keep it.
    pub log: Option<EventLog>,
}

/// The guest's tables, as they lie in its memory.
#[derive(Debug)]
pub struct Tables {
    bytes: [u8; TABLES_BYTES],
    base: u64,
    length: usize,
    entries: heapless::Vec<u64, ENTRIES_MAX>,
    /// Where the FADT points to FACS and DSDT, and how many bytes a pointer has.
    of_fadt: heapless::Vec<(usize, u8), 3>,
    /// Where the FADT lies, if there is one.
    fadt: Option<Range<usize>>,
}

/// What changes in the tables where another one comes behind them.
#[derive(Debug)]
pub struct Another {
    /// All in front of the first table: RSDP, XSDT and FACS.
    pub front: [u8; FIRST_AT],
    /// The new table's header; its content follows.
    pub header: [u8; HEADER_BYTES],
}

impl Tables {
    /// No tables; [`build`](Self::build) makes them.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            bytes: [0; TABLES_BYTES],
            base: 0,
            length: 0,
            entries: heapless::Vec::new(),
            of_fadt: heapless::Vec::new(),
            fadt: None,
        }
    }

    /// Everything from the RSDP to the last table's end.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Makes the tables that lie at guest-physical `base`, from those that the machine's RSDP at `rsdp_at` leads to.
    ///
    /// # Errors
    /// [`GuestFault::TablesMalformed`], [`GuestFault::TablesTooLarge`] or [`GuestFault::ProcessorUnlisted`].
    pub fn build(
        &mut self,
        ram: &dyn Reach,
        rsdp_at: u64,
        base: u64,
        additions: &Additions,
    ) -> Result<(), GuestFault> {
        self.bytes.fill(0);
        self.entries.clear();
        self.of_fadt.clear();
        self.fadt = None;
        (self.base, self.length) = (base, FIRST_AT);
        let mut has_processors = false;
        for at in roots(ram, rsdp_at)? {
            let start = self.copy(ram, at)?;
            match &self.bytes[start..start + 4] {
                b"APIC" => {
                    self.hide_processor(start, additions.hidden_apic)?;
                    has_processors = true;
                }
                b"FACP" => self.complete_fadt(ram, start)?,
                // Whatever TPM the host describes, the guest has this one.
                b"TPM2" | b"TCPA" => {
                    self.length = start;
                    continue;
                }
                _ => {}
            }
            self.list(start)?;
        }
        if !has_processors {
            return Err(GuestFault::TablesMalformed);
        }
        self.add(|into| tpm2_table(&additions.crb, additions.log, into).ok())?;
        self.add(|into| ssdt(&additions.crb, into).ok())?;
        self.finish()
    }

    /// Where every pointer from one table to another lies, and how many bytes it has; with one more table behind.
    pub fn pointers(&self) -> impl Iterator<Item = (usize, u8)> + '_ {
        let entries = (XSDT_AT + HEADER_BYTES..).step_by(8).take(self.entries.len() + 1).map(|at| (at, 8));
        self.of_fadt.iter().copied().chain(entries)
    }

    /// The tables but for what stands in front of the first one, in two pieces: between them lies the FADT's sum, which follows from where
    /// the tables come to lie. Without an FADT the second is empty.
    #[must_use]
    pub fn around_sum(&self) -> [&[u8]; 2] {
        let tables = &self.bytes[FIRST_AT..self.length];
        match self.fadt_sum() {
            Some((_, sum_at)) => [&tables[..sum_at - FIRST_AT], &tables[sum_at + 1 - FIRST_AT..]],
            None => [tables, &[]],
        }
    }

    /// Where the FADT lies, and its sum, if there is one.
    #[must_use]
    pub fn fadt_sum(&self) -> Option<(Range<usize>, usize)> {
        self.fadt.clone().map(|fadt| (fadt.clone(), fadt.start + CHECKSUM_AT))
    }

    /// What the tables begin with where one more follows them that contains `content`.
    ///
    /// # Errors
    /// [`GuestFault::TablesTooLarge`].
    pub fn with_another(&self, signature: [u8; 4], content: &[u8]) -> Result<Another, GuestFault> {
        let (mut front, mut header) = ([0; FIRST_AT], [0; HEADER_BYTES]);
        front.copy_from_slice(&self.bytes[..FIRST_AT]);
        let entries = self.entries.len();
        let at = XSDT_AT + HEADER_BYTES + 8 * entries;
        let xsdt = front.get_mut(XSDT_AT..at + 8).ok_or(GuestFault::TablesTooLarge)?;
        xsdt[at - XSDT_AT..].copy_from_slice(&(self.base + self.length as u64).to_le_bytes());
        seal(xsdt);
        let bytes = u32::try_from(HEADER_BYTES + content.len()).map_err(|_| GuestFault::TablesTooLarge)?;
        header[..4].copy_from_slice(&signature);
        header[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&bytes.to_le_bytes());
        name(&mut header);
        header[CHECKSUM_AT] = sum(&header).wrapping_add(sum(content)).wrapping_neg();
        Ok(Another { front, header })
    }

    /// Copies the table at `at` behind the last one and returns its offset.
    fn copy(&mut self, ram: &dyn Reach, at: u64) -> Result<usize, GuestFault> {
        let start = self.length;
        let mut header = [0; HEADER_BYTES];
        ram.copy_in(at, &mut header).map_err(|_| GuestFault::TablesMalformed)?;
        let bytes = stated_length(&header);
        if bytes < HEADER_BYTES {
            return Err(GuestFault::TablesMalformed);
        }
        let end =
            start.checked_add(bytes).filter(|end| *end <= TABLES_BYTES).ok_or(GuestFault::TablesTooLarge)?;
        let table = &mut self.bytes[start..end];
        ram.copy_in(at, table).map_err(|_| GuestFault::TablesMalformed)?;
        if stated_length(table) != bytes || sum(table) != 0 {
            return Err(GuestFault::TablesMalformed);
        }
        self.length = end.next_multiple_of(ALIGNMENT).min(TABLES_BYTES);
        Ok(start)
    }

    /// Enters the table at offset `start` into the XSDT.
    fn list(&mut self, start: usize) -> Result<(), GuestFault> {
        self.entries.push(self.base + start as u64).map_err(|_| GuestFault::TablesTooLarge)
    }

    /// Appends a table of ours.
    fn add(&mut self, write: impl FnOnce(&mut [u8]) -> Option<usize>) -> Result<(), GuestFault> {
        let start = self.length;
        let bytes = write(&mut self.bytes[start..]).ok_or(GuestFault::TablesTooLarge)?;
        self.length = (start + bytes).next_multiple_of(ALIGNMENT).min(TABLES_BYTES);
        self.list(start)
    }

    /// Takes the processor with that APIC number out of the MADT at offset `start`, which is the last table.
    fn hide_processor(&mut self, start: usize, apic: u32) -> Result<(), GuestFault> {
        let end = start + stated_length(&self.bytes[start..]);
        let mut at = start + MADT_ENTRIES_AT;
        while at < end {
            let entry = &self.bytes[at..end];
            let bytes = entry.get(1).map_or(0, |bytes| usize::from(*bytes));
            if bytes < 2 || bytes > entry.len() {
                return Err(GuestFault::TablesMalformed);
            }
            if processor(&entry[..bytes]) == Some(apic) {
                self.bytes.copy_within(at + bytes..end, at);
                self.bytes[end - bytes..end].fill(0);
                seal(&mut self.bytes[start..end - bytes]);
                return Ok(());
            }
            at += bytes;
        }
        Err(GuestFault::ProcessorUnlisted)
    }

    /// Copies the DSDT behind the FADT at offset `fadt`, which then points to the copy, and to the FACS of ours.
    fn complete_fadt(&mut self, ram: &dyn Reach, fadt: usize) -> Result<(), GuestFault> {
        let bytes = stated_length(&self.bytes[fadt..]);
        let table = &self.bytes[fadt..fadt + bytes];
        let extended = read_u64(table, FADT_X_DSDT_AT).filter(|at| *at != 0);
        let old = read_u32(table, FADT_DSDT_AT).ok_or(GuestFault::TablesMalformed)?;
        let dsdt = self.copy(ram, extended.unwrap_or(u64::from(old)))?;
        let at = |offset: usize| self.base + offset as u64;
        let [dsdt, facs] = [at(dsdt), at(FACS_AT)];
        let table = &mut self.bytes[fadt..fadt + bytes];
        for (field, at) in [(FADT_FACS_AT, facs), (FADT_DSDT_AT, dsdt)] {
            let short = u32::try_from(at).map_err(|_| GuestFault::TablesMalformed)?;
            table[field..field + 4].copy_from_slice(&short.to_le_bytes());
        }
        for (field, at) in [(FADT_X_FACS_AT, 0), (FADT_X_DSDT_AT, dsdt)] {
            if let Some(field) = table.get_mut(field..field + 8) {
                field.copy_from_slice(&at.to_le_bytes());
            }
        }
        seal(table);
        self.fadt = Some(fadt..fadt + bytes);
        let has_wide = bytes >= FADT_X_DSDT_AT + 8;
        let pointers = [(fadt + FADT_FACS_AT, 4), (fadt + FADT_DSDT_AT, 4), (fadt + FADT_X_DSDT_AT, 8)];
        self.of_fadt = pointers.into_iter().take(2 + usize::from(has_wide)).collect();
        Ok(())
    }

    /// Writes RSDP, XSDT and FACS.
    fn finish(&mut self) -> Result<(), GuestFault> {
        let xsdt_bytes = HEADER_BYTES + 8 * self.entries.len();
        let xsdt = &mut self.bytes[XSDT_AT..XSDT_AT + xsdt_bytes];
        xsdt[..4].copy_from_slice(b"XSDT");
        let length = u32::try_from(xsdt_bytes).map_err(|_| GuestFault::TablesTooLarge)?;
        xsdt[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&length.to_le_bytes());
        name(xsdt);
        for (field, entry) in xsdt[HEADER_BYTES..].chunks_exact_mut(8).zip(&self.entries) {
            field.copy_from_slice(&entry.to_le_bytes());
        }
        seal(xsdt);
        let rsdp = &mut self.bytes[..RSDP_BYTES];
        rsdp[..8].copy_from_slice(b"RSD PTR ");
        rsdp[9..15].copy_from_slice(b"HUSK  ");
        rsdp[15] = 2;
        rsdp[20..24].copy_from_slice(&36u32.to_le_bytes());
        rsdp[24..32].copy_from_slice(&(self.base + XSDT_AT as u64).to_le_bytes());
        rsdp[8] = sum(&rsdp[..RSDP_OLD_BYTES]).wrapping_neg();
        rsdp[32] = sum(rsdp).wrapping_neg();
        // All else of it is zero: the lock is nobody's.
        let facs = &mut self.bytes[FACS_AT..FIRST_AT];
        facs[..4].copy_from_slice(b"FACS");
        let bytes = u32::try_from(FACS_BYTES).map_err(|_| GuestFault::TablesTooLarge)?;
        facs[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&bytes.to_le_bytes());
        facs[FACS_VERSION_AT] = FACS_VERSION;
        Ok(())
    }
}

/// Says whose table it is.
fn name(table: &mut [u8]) {
    table[8] = 1;
    table[10..24].copy_from_slice(b"HUSK  HUSKVTPM");
    table[24] = 1;
    table[28..33].copy_from_slice(b"HUSK\x01");
}

/// The addresses of the machine's tables.
fn roots(ram: &dyn Reach, rsdp_at: u64) -> Result<heapless::Vec<u64, TABLES_MAX>, GuestFault> {
    let mut rsdp = [0; RSDP_BYTES];
    ram.copy_in(rsdp_at, &mut rsdp).map_err(|_| GuestFault::TablesMalformed)?;
    if rsdp[..8] != *b"RSD PTR " || sum(&rsdp[..RSDP_OLD_BYTES]) != 0 {
        return Err(GuestFault::TablesMalformed);
    }
    let (table_at, signature, width) = if rsdp[15] >= 2 {
        if sum(&rsdp) != 0 {
            return Err(GuestFault::TablesMalformed);
        }
        (read_u64(&rsdp, 24), b"XSDT", 8)
    } else {
        (read_u32(&rsdp, 16).map(u64::from), b"RSDT", 4)
    };
    let at = table_at.ok_or(GuestFault::TablesMalformed)?;
    let mut table = [0; HEADER_BYTES + 8 * TABLES_MAX];
    ram.copy_in(at, &mut table[..HEADER_BYTES]).map_err(|_| GuestFault::TablesMalformed)?;
    let bytes = stated_length(&table);
    let table = table.get_mut(..bytes).ok_or(GuestFault::TablesTooLarge)?;
    ram.copy_in(at, table).map_err(|_| GuestFault::TablesMalformed)?;
    if bytes < HEADER_BYTES || table[..4] != *signature || stated_length(table) != bytes || sum(table) != 0 {
        return Err(GuestFault::TablesMalformed);
    }
    let mut found = heapless::Vec::new();
    for entry in table[HEADER_BYTES..].chunks_exact(width) {
        let address = if width == 8 { read_u64(entry, 0) } else { read_u32(entry, 0).map(u64::from) };
        found.push(address.unwrap_or_default()).map_err(|_| GuestFault::TablesTooLarge)?;
    }
    Ok(found)
}

/// The APIC number in an entry of the MADT, if it is a processor's.
fn processor(entry: &[u8]) -> Option<u32> {
    match *entry.first()? {
        MADT_LOCAL_APIC => entry.get(3).copied().map(u32::from),
        MADT_LOCAL_X2APIC => read_u32(entry, 4),
        _ => None,
    }
}

/// What a table's header says of its length; 0 where there is no header.
fn stated_length(table: &[u8]) -> usize {
    read_u32(table, LENGTH_AT).and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or_default()
}

/// States the table's length and makes it sum to zero.
fn seal(table: &mut [u8]) {
    if let (Ok(bytes), true) = (u32::try_from(table.len()), table.len() >= HEADER_BYTES) {
        table[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&bytes.to_le_bytes());
        table[CHECKSUM_AT] = 0;
        table[CHECKSUM_AT] = sum(table).wrapping_neg();
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
#[path = "tests/acpi.rs"]
pub(crate) mod tests;
