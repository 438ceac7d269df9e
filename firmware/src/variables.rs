//! The flash with a guest's variables on this machine: guests' accesses on one side, the processor that serves on the other.
//!
//! Its content lies in the payload, where no guest reaches, and which is not among what the layer takes from the machine for itself. A guest's access that would tell it that a change is done waits
//! until it is; every other one takes the lock for as long as the chip takes a step.

use crate::guest::start::Flash as Window;
use crate::memory::Reach;
use core::sync::atomic::{AtomicBool, Ordering};
use husk::frontend::flash::{Access, Flash};
use husk::seams::Cells;
#[cfg(target_os = "none")]
use {crate::memory::Physical, spin::Mutex};

/// The cells of the flash, in memory that only the layer reaches.
#[derive(Clone, Debug)]
pub struct Shown<M> {
    memory: M,
    at: u64,
    bytes: usize,
}

impl<M: Reach> Shown<M> {
    /// What the guest finds at `window`.
    #[must_use]
    pub fn new(memory: M, window: &Window) -> Self {
        let bytes = usize::try_from(window.window.end - window.window.start).unwrap_or(0);
        Self { memory, at: window.at, bytes }
    }
}

impl<M: Reach> Cells for Shown<M> {
    fn size_bytes(&self) -> usize {
        self.bytes
    }

    fn copy_in(&self, offset: usize, into: &mut [u8]) {
        let (here, beyond) = into.split_at_mut(self.bytes.saturating_sub(offset).min(into.len()));
        beyond.fill(u8::MAX);
        if self.memory.copy_in(self.at + offset as u64, here).is_err() {
            here.fill(u8::MAX);
        }
    }

    fn copy_out(&mut self, offset: usize, from: &[u8]) {
        let here = from.len().min(self.bytes.saturating_sub(offset));
        let written = self.memory.copy_out(self.at + offset as u64, &from[..here]);
        debug_assert!(written.is_ok(), "the payload is the layer's to write");
    }
}

/// The chip and its cells.
#[derive(Debug)]
pub struct Chip<M> {
    /// What the guest drives.
    pub flash: Flash,
    /// What it shows.
    pub cells: Shown<M>,
    /// How often changes were made durable, and how many blocks in all.
    pub kept: (u32, u32),
    /// The guest reads the array without an exit.
    pub mapped: bool,
}

impl<M: Reach> Chip<M> {
    /// What a guest reads; nothing while that would tell it of what is not durable.
    #[must_use]
    pub fn read(&self, offset: usize, bytes: usize) -> Option<u64> {
        if self.flash.owes(&Access::Read) {
            return None;
        }
        let shown = u64::from_le_bytes(self.flash.read(&self.cells, offset));
        Some(if bytes < 8 { shown & ((1 << (8 * bytes)) - 1) } else { shown })
    }

    /// What a guest writes; whether it was heard, which it is not while that would tell it of what is not durable.
    #[must_use]
    pub fn write(&mut self, offset: usize, bytes: usize, value: u64) -> bool {
        let raw = value.to_le_bytes();
        if self.flash.owes(&Access::Write(raw)) {
            return false;
        }
        self.flash.write(&mut self.cells, offset, &raw[..bytes.min(8)]);
        true
    }
}

#[cfg(target_os = "none")]
static CHIP: Mutex<Option<Chip<Physical>>> = Mutex::new(None);
/// A guest waits for something to be durable: looked at without the lock.
static OWED: AtomicBool = AtomicBool::new(false);

/// Says that a guest waits; whether that is new.
pub fn owe() -> bool {
    !OWED.swap(true, Ordering::AcqRel)
}

/// Whether a guest waits.
#[must_use]
pub fn is_owed() -> bool {
    OWED.load(Ordering::Acquire)
}

/// Nobody waits any more.
pub fn settled() {
    OWED.store(false, Ordering::Release);
}

/// Puts the chip where guests find it.
#[cfg(target_os = "none")]
pub(crate) fn install(chip: Chip<Physical>) {
    *CHIP.lock() = Some(chip);
}

/// Does something with the chip, if there is one and nobody else does.
#[cfg(target_os = "none")]
pub(crate) fn with<T>(act: impl FnOnce(&mut Chip<Physical>) -> T) -> Option<T> {
    CHIP.try_lock()?.as_mut().map(act)
}

#[cfg(test)]
mod tests {
    use super::{Chip, Shown, Window};
    use crate::guest::fakes::Memory;
    use crate::memory::Reach as _;
    use husk::frontend::flash::Flash;
    use husk::seams::Cells as _;

    #[test]
    fn a_guest_reads_and_programs_its_cells_and_no_byte_beside_them() {
        let mut ram = Memory::of(0x4000);
        ram.copy_out(0, &[0xFF; 0x4000]).unwrap();
        let window = Window { window: 0xFFC0_0000..0xFFC0_2000, at: 0x1000 };
        let cells = Shown::new(ram, &window);
        let flash = Flash::new(&cells).unwrap();
        let mut chip = Chip { flash, cells, kept: (0, 0), mapped: true };
        for (offset, value) in [(0x1FFE, 0x40), (0x1FFE, 0x1122_3344_5566_7788)] {
            assert!(chip.write(offset, 8, value));
        }
        let (mut near, mut behind) = ([0; 4], [0; 4]);
        chip.cells.copy_in(0x1FFE, &mut near);
        assert_eq!(near, [0x88, 0x77, 0xFF, 0xFF]);
        chip.cells.memory.copy_in(0x3000, &mut behind).unwrap();
        assert_eq!(behind, [0xFF; 4]);
        assert_eq!(chip.read(0x1FFE, 2), None, "not before it is durable");
        assert!(!chip.write(0x1FFE, 1, 0xFF), "nor does it hear of it");
        assert!(chip.write(0x1FFE, 1, 0x10), "while more of the same goes on");
    }
}
