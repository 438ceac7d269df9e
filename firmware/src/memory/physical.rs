//! Bytes of the machine beyond the layer.
//!
//! # Soundness
//! All addresses are physical, and mapped onto themselves by the layer's tables ([`install`]), page 0 through a window.
//! [`Physical`] admits only what [`Map::may_copy`] admits: mapped, and outside of the layer's region, hence outside of every
//! Rust object. Others (a guest, a device) may access the same bytes at the same time, so every access is volatile and of a type of
//! which every bit pattern is a value. [`Registers`] admits only addresses below 4 GiB that no RAM lies at; what an access does there is
//! the device's business, not memory's. The secrets page lies in the layer's region and in no Rust object: it is reached by
//! [`take_secrets_page`] alone.

use super::map::{LAYER, Map, SECRETS_PAGE, overlap};
use super::tables::{PAGE_BYTES, Sections, Tables};
use super::{OutOfReach, Reach, native};
use crate::boot::stacks;
use core::cell::UnsafeCell;
use core::ops::Range;
use core::ptr;
use spin::Once;
use x86_64::PhysAddr;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::PhysFrame;

struct Own(UnsafeCell<Tables>);
// SAFETY: written once by `install`, before another processor runs; afterwards only processors' walks read it.
unsafe impl Sync for Own {}
static TABLES: Own = Own(UnsafeCell::new(Tables::empty()));

/// The virtual page through which page 0 of the machine is seen; its own memory is never used.
#[repr(C, align(4096))]
struct Window(UnsafeCell<[u8; native(PAGE_BYTES)]>);
// SAFETY: nobody makes a reference to it.
unsafe impl Sync for Window {}
static WINDOW: Window = Window(UnsafeCell::new([0; native(PAGE_BYTES)]));

/// How much is copied between two looks at how much is left, and where its words are.
const PIECE_BYTES: u64 = 64;
const PIECE: [usize; 8] = [0, 8, 16, 24, 32, 40, 48, 56];
/// How much is copied at a time where words cannot be.
const CHUNK_BYTES: usize = 512;

static MAP: Once<Map> = Once::new();

unsafe extern "C" {
    static husk_layer_start: u8;
    static husk_text_end: u8;
    static husk_rodata_end: u8;
    static husk_data_end: u8;
}

/// Builds the layer's page tables and enters them; `map` is what the machine is from now on.
pub fn install(map: &Map) {
    let (start, text_end) = (&raw const husk_layer_start as u64, &raw const husk_text_end as u64);
    let (rodata_end, data_end) = (&raw const husk_rodata_end as u64, &raw const husk_data_end as u64);
    let sections = Sections {
        text: start..text_end,
        rodata: text_end..rodata_end,
        data: rodata_end..data_end,
        guards: &stacks::guards(),
        window: WINDOW.0.get() as u64,
    };
    let own = address_of_tables();
    MAP.call_once(|| {
        // SAFETY: `call_once` lets one caller in, and nothing else refers to the tables.
        let tables = unsafe { &mut *TABLES.0.get() };
        tables.fill(own, map, &sections);
        map.clone()
    });
    let root = PhysFrame::containing_address(PhysAddr::new(own));
    // SAFETY: the tables map the layer where it is; the stack and this code stay where they are.
    unsafe { Cr3::write(root, Cr3Flags::empty()) };
}

/// The physical address of the layer's page tables, which is what CR3 holds.
#[must_use]
pub fn address_of_tables() -> u64 {
    TABLES.0.get() as u64
}

/// Moves the secrets page out of where the launch put it: there it is zero afterwards, and so is what a second call finds.
pub fn take_secrets_page(into: &mut [u8; native(PAGE_BYTES)]) {
    // SAFETY: the page is mapped from the entry on, and no Rust object lies there.
    unsafe { read(SECRETS_PAGE.start, into) };
    // SAFETY: as above.
    unsafe { write(SECRETS_PAGE.start, &[0; native(PAGE_BYTES)]) };
}

/// All memory that the machine's map names, but for the layer's.
#[derive(Clone, Copy, Debug)]
pub struct Physical(&'static Map);

impl Physical {
    /// The machine's memory; `None` before [`install`].
    #[must_use]
    pub fn machine() -> Option<Self> {
        MAP.get().map(Self)
    }

    /// The map by which it is reached.
    #[must_use]
    pub const fn map(&self) -> &'static Map {
        self.0
    }

    fn carry_by_chunks(&mut self, from: u64, to: u64, bytes: u64) -> Result<(), OutOfReach> {
        let mut chunk = [0; CHUNK_BYTES];
        for at in (0..bytes).step_by(CHUNK_BYTES) {
            let chunk = &mut chunk[..native(bytes - at).min(CHUNK_BYTES)];
            self.copy_in(from + at, chunk)?;
            self.copy_out(to + at, chunk)?;
        }
        Ok(())
    }

    fn admit(&self, address: u64, bytes: usize) -> Result<(), OutOfReach> {
        let end = address.checked_add(bytes as u64).ok_or(OutOfReach)?;
        if self.0.may_copy(&(address..end)) { Ok(()) } else { Err(OutOfReach) }
    }
}

impl Reach for Physical {
    fn copy_in(&self, address: u64, into: &mut [u8]) -> Result<(), OutOfReach> {
        self.admit(address, into.len())?;
        for (part, bytes) in parts(address, into.len()) {
            // SAFETY: admitted above; `parts` stays within the range.
            unsafe { read(virtual_of(part), &mut into[bytes]) };
        }
        Ok(())
    }

    fn copy_out(&mut self, address: u64, from: &[u8]) -> Result<(), OutOfReach> {
        self.admit(address, from.len())?;
        for (part, bytes) in parts(address, from.len()) {
            // SAFETY: as above.
            unsafe { write(virtual_of(part), &from[bytes]) };
        }
        Ok(())
    }

    fn carry(&mut self, from: u64, to: u64, bytes: u64) -> Result<(), OutOfReach> {
        let whole = bytes & !(PIECE_BYTES - 1);
        let rest = native(bytes - whole);
        self.admit(from, native(bytes))?;
        self.admit(to, native(bytes))?;
        if from.min(to) < PAGE_BYTES || !(from | to).is_multiple_of(8) {
            return self.carry_by_chunks(from, to, bytes);
        }
        for at in (0..whole).step_by(native(PIECE_BYTES)) {
            // SAFETY: admitted above, beyond page 0, and aligned.
            unsafe { carry_piece(native(from + at), native(to + at)) };
        }
        let mut tail = [0; native(PIECE_BYTES)];
        self.copy_in(from + whole, &mut tail[..rest])?;
        self.copy_out(to + whole, &tail[..rest])
    }
}

/// Memory before the layer's own tables are in place: the first GiB, but for the layer.
#[derive(Clone, Copy, Debug)]
pub struct Early;

impl Reach for Early {
    fn copy_in(&self, address: u64, into: &mut [u8]) -> Result<(), OutOfReach> {
        let end = address.checked_add(into.len() as u64).ok_or(OutOfReach)?;
        if MAP.get().is_some() || address == 0 || end > 1 << 30 || overlap(&(address..end), &LAYER) {
            return Err(OutOfReach);
        }
        // SAFETY: the entry's tables map the first GiB onto itself, and the layer is excluded.
        unsafe { read(address, into) };
        Ok(())
    }

    fn copy_out(&mut self, _address: u64, _from: &[u8]) -> Result<(), OutOfReach> {
        Err(OutOfReach)
    }

    fn carry(&mut self, _from: u64, _to: u64, _bytes: u64) -> Result<(), OutOfReach> {
        Err(OutOfReach)
    }
}

/// Registers of a device in memory.
#[derive(Debug)]
pub struct Registers {
    base: u64,
    bytes: u64,
}

impl Registers {
    /// The registers at `range`; `None` where RAM is, or before [`install`].
    #[must_use]
    pub fn at(range: Range<u64>) -> Option<Self> {
        let sound = MAP.get()?.may_be_registers(&range) && range.start.is_multiple_of(8);
        sound.then_some(Self { base: range.start, bytes: range.end - range.start })
    }

    /// Reads the register of 32 bits at `offset`; all ones where none is.
    #[must_use]
    pub fn read32(&self, offset: u64) -> u32 {
        match self.pointer(offset) {
            // SAFETY: within the registers.
            Some(register) => unsafe { register.read_volatile() },
            None => u32::MAX,
        }
    }

    /// Writes the register of 32 bits at `offset`, if there is one.
    pub fn write32(&mut self, offset: u64, value: u32) {
        if let Some(register) = self.pointer(offset) {
            // SAFETY: within the registers.
            unsafe { register.write_volatile(value) };
        }
    }

    fn pointer(&self, offset: u64) -> Option<*mut u32> {
        let inside = offset.is_multiple_of(4) && offset.checked_add(4)? <= self.bytes;
        inside.then(|| ptr::with_exposed_provenance_mut(native(self.base + offset)))
    }
}

/// Splits a range at the end of page 0: physical start, and which of the bytes.
fn parts(address: u64, bytes: usize) -> impl Iterator<Item = (u64, Range<usize>)> {
    let first = bytes.min(native(PAGE_BYTES.saturating_sub(address)));
    [(address, 0..first), (address + first as u64, first..bytes)]
        .into_iter()
        .filter(|(_, part)| !part.is_empty())
}

fn virtual_of(address: u64) -> u64 {
    if address < PAGE_BYTES { WINDOW.0.get().expose_provenance() as u64 + address } else { address }
}

/// Copies [`PIECE_BYTES`] bytes, word by word, with no loop: a kernel and its initrd are millions of words, and under emulation a turn of a
/// loop costs as much as they do.
///
/// # Safety
/// So many bytes from both addresses are mapped and lie in no Rust object, and both are multiples of eight.
unsafe fn carry_piece(from: usize, to: usize) {
    // SAFETY: by this function's contract.
    let words = PIECE.map(|at| unsafe { ptr::with_exposed_provenance::<u64>(from + at).read_volatile() });
    for (at, word) in PIECE.into_iter().zip(words) {
        // SAFETY: as above.
        unsafe { ptr::with_exposed_provenance_mut::<u64>(to + at).write_volatile(word) };
    }
}

/// # Safety
/// `into.len()` bytes from `address` are mapped and lie in no Rust object.
unsafe fn read(address: u64, into: &mut [u8]) {
    let start = native(address);
    if let (true, Ok(word)) = (start.is_multiple_of(4), <&mut [u8; 4]>::try_from(&mut *into)) {
        // A register in memory: seen whole. SAFETY: by this function's contract, and aligned.
        *word = unsafe { ptr::with_exposed_provenance::<u32>(start).read_volatile() }.to_ne_bytes();
        return;
    }
    let head = (start.wrapping_neg() % 8).min(into.len());
    let (bytes, rest) = into.split_at_mut(head);
    for (at, byte) in (start..).zip(bytes) {
        // SAFETY: by this function's contract.
        *byte = unsafe { ptr::with_exposed_provenance::<u8>(at).read_volatile() };
    }
    let (pieces, rest) = rest.as_chunks_mut::<{ native(PIECE_BYTES) }>();
    let rest_start = start + head + pieces.len() * native(PIECE_BYTES);
    for (at, piece) in (start + head..).step_by(native(PIECE_BYTES)).zip(pieces) {
        for (word, offset) in piece.as_chunks_mut::<8>().0.iter_mut().zip(PIECE) {
            // SAFETY: as above, and aligned.
            let read = unsafe { ptr::with_exposed_provenance::<u64>(at + offset).read_volatile() };
            *word = read.to_ne_bytes();
        }
    }
    let (words, tail) = rest.as_chunks_mut::<8>();
    let tail_start = rest_start + words.len() * 8;
    for (at, word) in (rest_start..).step_by(8).zip(words) {
        // SAFETY: as above, and aligned.
        *word = unsafe { ptr::with_exposed_provenance::<u64>(at).read_volatile() }.to_ne_bytes();
    }
    for (at, byte) in (tail_start..).zip(tail) {
        // SAFETY: as above.
        *byte = unsafe { ptr::with_exposed_provenance::<u8>(at).read_volatile() };
    }
}

/// # Safety
/// As [`read`].
unsafe fn write(address: u64, from: &[u8]) {
    let start = native(address);
    if let (true, Ok(word)) = (start.is_multiple_of(4), <&[u8; 4]>::try_from(from)) {
        // SAFETY: by this function's contract, and aligned.
        unsafe { ptr::with_exposed_provenance_mut::<u32>(start).write_volatile(u32::from_ne_bytes(*word)) };
        return;
    }
    let head = (start.wrapping_neg() % 8).min(from.len());
    let (bytes, rest) = from.split_at(head);
    for (at, byte) in (start..).zip(bytes) {
        // SAFETY: by this function's contract.
        unsafe { ptr::with_exposed_provenance_mut::<u8>(at).write_volatile(*byte) };
    }
    let (words, tail) = rest.as_chunks::<8>();
    let tail_start = start + head + words.len() * 8;
    for (at, word) in (start + head..).step_by(8).zip(words) {
        // SAFETY: as above, and aligned.
        unsafe { ptr::with_exposed_provenance_mut::<u64>(at).write_volatile(u64::from_ne_bytes(*word)) };
    }
    for (at, byte) in (tail_start..).zip(tail) {
        // SAFETY: as above.
        unsafe { ptr::with_exposed_provenance_mut::<u8>(at).write_volatile(*byte) };
    }
}
