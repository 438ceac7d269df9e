//! The flash in which a UEFI firmware keeps its variables.
//!
//! **What.** [`Flash`] is a chip with the Basic Command Set (JEDEC JEP137, command set 0001; Intel 290606, "Command Bus-Cycle Definitions") as far as EDK II drives one
//! (`OvmfPkg/QemuFlashFvbServicesRuntimeDxe`): program a byte, erase a block, read and clear the status, read the array. Its content lies in [`Cells`].
//! **Trust.** None in the guest: accesses come in any order, place and width.
//! **Laws.** A bit goes from one to zero by programming and back by erasing its whole block, and by nothing else. What was changed is *owed*: before the guest
//! learns that it was done, by whatever it reads or by any command but more of the same, it must be durable ([`Flash::owes`], [`Flash::settle`]). Until then the status
//! says that the chip is busy.
//! **Not here.** Locking, buffered writes, the chip's identity and query table: EDK II uses none of them, and an unknown command leads back to the array, as in QEMU's `pflash_cfi01`.

use crate::nv::{BlockSet, Committed, NvFault, Placed, blocks_of};
use crate::seams::Cells;
use crate::volume::blocks::BLOCK_BYTES;

/// Commands (Intel 290606, table "Command Bus-Cycle Definitions").
const READ_STATUS: u8 = 0x70;
const CLEAR_STATUS: u8 = 0x50;
const PROGRAM: u8 = 0x40;
const PROGRAM_TOO: u8 = 0x10;
const ERASE: u8 = 0x20;
const ERASE_CONFIRM: u8 = 0xD0;
/// Bits of the status (the same, table "Status Register Definition"): ready; an erasure and a programming that failed, which
/// together say that commands came in a wrong order. EDK II takes a chip for a flash if a cleared status is zero, ready or not, as QEMU's is.
const READY: u8 = 1 << 7;
const WRONG_ORDER: u8 = 1 << 5 | 1 << 4;

/// What the next access means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mode {
    /// Reads show the array.
    Array,
    /// Reads show the status.
    Status,
    /// The next write is data.
    Program,
    /// The next write confirms that this block is to be erased.
    Erase(usize),
}

/// An access of a guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It reads.
    Read,
    /// It writes these bytes, of which a command is the first.
    Write([u8; 8]),
}

/// The chip, but for its content.
#[derive(Clone, Debug)]
pub struct Flash {
    blocks: usize,
    mode: Mode,
    status: u8,
    changed: BlockSet,
}

impl Flash {
    /// A chip of the size of `cells`, which shows what is kept.
    ///
    /// # Errors
    /// [`NvFault::FlashSize`].
    pub fn new(cells: &dyn Cells) -> Result<Self, NvFault> {
        Ok(Self { blocks: blocks_of(cells)?, mode: Mode::Array, status: READY, changed: BlockSet::NONE })
    }

    /// A chip of whose content nothing is kept yet.
    ///
    /// # Errors
    /// [`NvFault::FlashSize`].
    pub fn unkept(cells: &dyn Cells) -> Result<Self, NvFault> {
        let mut flash = Self::new(cells)?;
        (0..flash.blocks).for_each(|number| flash.changed.insert(number));
        Ok(flash)
    }

    /// The chip as after a reset of the machine: it shows its array. What is owed stays owed.
    pub const fn reset(&mut self) {
        self.mode = Mode::Array;
        self.status = READY;
    }

    /// Which blocks are to be made durable.
    #[must_use]
    pub const fn changed(&self) -> &BlockSet {
        &self.changed
    }

    /// Whether what was changed must be durable before this access is served: it would tell the guest that it is.
    #[must_use]
    pub fn owes(&self, access: &Access) -> bool {
        let goes_on = match (self.mode, access) {
            (Mode::Program | Mode::Erase(_), Access::Write(_)) => true,
            (Mode::Array | Mode::Status, Access::Write([command, ..])) => {
                matches!(*command, PROGRAM | PROGRAM_TOO | ERASE)
            }
            (_, Access::Read) => false,
        };
        !self.changed.is_empty() && !goes_on
    }

    /// What was changed is durable.
    ///
    /// # Errors
    /// [`NvFault::NotCommitted`] if the proof is of something earlier; nothing changed then.
    pub fn settle(&mut self, placed: Placed, committed: &Committed) -> Result<(), NvFault> {
        placed.release(committed)?;
        self.changed = BlockSet::NONE;
        Ok(())
    }

    /// Whether reads show the array and nothing is owed: then a machine may map it for the guest to read, as long as every write still comes here.
    #[must_use]
    pub fn shows_array(&self) -> bool {
        self.mode == Mode::Array && self.changed.is_empty()
    }

    /// What the guest reads at `offset`, in the first bytes of what is returned. Nothing may be [owed](Self::owes); a chip that owes all the same is busy.
    #[must_use]
    pub fn read(&self, cells: &dyn Cells, offset: usize) -> [u8; 8] {
        let mut shown = [self.status(); 8];
        if self.shows_array() {
            cells.copy_in(offset, &mut shown);
        }
        shown
    }

    /// The guest writes `bytes`, one to eight, at `offset`. Nothing may be [owed](Self::owes); a chip that owes all the same is busy, and does not listen.
    pub fn write(&mut self, cells: &mut dyn Cells, offset: usize, bytes: &[u8]) {
        let mut raw = [0; 8];
        raw.iter_mut().zip(bytes).for_each(|(raw, byte)| *raw = *byte);
        if self.owes(&Access::Write(raw)) {
            return;
        }
        self.mode = match (self.mode, raw[0]) {
            (Mode::Program, _) => {
                self.program(cells, offset, bytes);
                Mode::Status
            }
            (Mode::Erase(number), command) => {
                if command == ERASE_CONFIRM && number == offset / BLOCK_BYTES {
                    self.erase(cells, number);
                } else {
                    self.status |= READY | WRONG_ORDER;
                }
                Mode::Status
            }
            (Mode::Array | Mode::Status, PROGRAM | PROGRAM_TOO) => Mode::Program,
            (Mode::Array | Mode::Status, ERASE) => Mode::Erase(offset / BLOCK_BYTES),
            (Mode::Array | Mode::Status, READ_STATUS) => Mode::Status,
            (Mode::Array | Mode::Status, CLEAR_STATUS) => {
                self.status = 0;
                Mode::Array
            }
            // READ ARRAY, 0xFF, and whatever is unknown.
            (Mode::Array | Mode::Status, _) => Mode::Array,
        };
    }

    fn status(&self) -> u8 {
        if self.changed.is_empty() { self.status } else { self.status & !READY }
    }

    fn program(&mut self, cells: &mut dyn Cells, offset: usize, bytes: &[u8]) {
        for (at, byte) in (offset..self.blocks * BLOCK_BYTES).zip(bytes) {
            let mut cell = [0];
            cells.copy_in(at, &mut cell);
            let programmed = cell[0] & byte;
            if programmed != cell[0] {
                cells.copy_out(at, &[programmed]);
                self.changed.insert(at / BLOCK_BYTES);
            }
        }
        self.status |= READY;
    }

    fn erase(&mut self, cells: &mut dyn Cells, number: usize) {
        if number < self.blocks {
            cells.copy_out(number * BLOCK_BYTES, &[u8::MAX; BLOCK_BYTES]);
            self.changed.insert(number);
        }
        self.status |= READY;
    }
}

#[cfg(test)]
#[path = "tests/flash.rs"]
mod tests;
