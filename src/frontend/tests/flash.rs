extern crate std;

use super::{Access, BLOCK_BYTES, Flash, Mode, READY};
use crate::seams::Cells;
use std::vec;
use std::vec::Vec;

const BLOCKS: usize = 3;

struct Memory(Vec<u8>);

impl Cells for Memory {
    fn size_bytes(&self) -> usize {
        self.0.len()
    }

    fn copy_in(&self, offset: usize, into: &mut [u8]) {
        for (at, byte) in (offset..).zip(into) {
            *byte = self.0.get(at).copied().unwrap_or(0xFF);
        }
    }

    fn copy_out(&mut self, offset: usize, from: &[u8]) {
        for (at, byte) in (offset..).zip(from) {
            if let Some(cell) = self.0.get_mut(at) {
                *cell = *byte;
            }
        }
    }
}

fn chip(content: u8) -> (Flash, Memory) {
    let cells = Memory(vec![content; BLOCKS * BLOCK_BYTES]);
    (Flash::new(&cells).unwrap(), cells)
}

/// What a commit does to the chip.
fn settled(flash: &mut Flash) {
    flash.changed = super::BlockSet::NONE;
}

/// Writes one byte, as a guest whose machine settles whatever is owed.
fn put(flash: &mut Flash, cells: &mut Memory, offset: usize, byte: u8) {
    if flash.owes(&Access::Write([byte, 0, 0, 0, 0, 0, 0, 0])) {
        settled(flash);
    }
    flash.write(cells, offset, &[byte]);
}

/// As EDK II looks for a flash: a byte that is none of the values it uses, a cleared status, and that status read.
#[test]
fn edk_ii_finds_a_flash() {
    let (mut flash, mut cells) = chip(0x8D);
    put(&mut flash, &mut cells, 16, 0x50);
    assert_ne!(flash.read(&cells, 16)[0], 0x50, "no RAM");
    put(&mut flash, &mut cells, 16, 0x70);
    assert_eq!(flash.read(&cells, 16)[0], 0, "neither RAM nor ROM");
    put(&mut flash, &mut cells, 16, 0xFF);
    assert_eq!(flash.read(&cells, 16), [0x8D; 8]);
    assert!(flash.changed().is_empty());
}

#[test]
fn a_bit_is_cleared_by_programming_and_set_by_erasing_its_block_alone() {
    let (mut flash, mut cells) = chip(0xF0);
    for (command, byte, shown) in [(0x10, 0x3C, 0x30), (0x40, 0xFF, 0x30), (0x10, 0x0F, 0)] {
        put(&mut flash, &mut cells, BLOCK_BYTES, command);
        put(&mut flash, &mut cells, BLOCK_BYTES, byte);
        assert_eq!(cells.0[BLOCK_BYTES], shown);
    }
    put(&mut flash, &mut cells, BLOCK_BYTES + 7, 0x20);
    put(&mut flash, &mut cells, BLOCK_BYTES + 9, 0xD0);
    assert_eq!(flash.changed().iter().collect::<Vec<_>>(), [1]);
    for (at, byte) in cells.0.iter().enumerate() {
        assert_eq!(*byte, if at / BLOCK_BYTES == 1 { 0xFF } else { 0xF0 }, "{at}");
    }
}

#[test]
fn an_erasure_that_is_not_confirmed_in_its_block_erases_nothing_and_says_so() {
    for (at, confirm) in [(2 * BLOCK_BYTES, 0xD0), (0, 0xFF), (0, 0x20)] {
        let (mut flash, mut cells) = chip(0);
        put(&mut flash, &mut cells, 0, 0x20);
        put(&mut flash, &mut cells, at, confirm);
        assert_eq!(flash.read(&cells, 0)[0], 0xB0);
        assert!(cells.0.iter().all(|byte| *byte == 0) && flash.changed().is_empty());
    }
}

#[test]
fn nothing_tells_the_guest_that_a_change_is_done_before_it_is_durable() {
    let write = |byte| Access::Write([byte, 0, 0, 0, 0, 0, 0, 0]);
    for mode in [Mode::Array, Mode::Status, Mode::Program, Mode::Erase(0)] {
        let (mut flash, mut cells) = chip(0xFF);
        flash.changed.insert(1);
        flash.mode = mode;
        assert!(flash.owes(&Access::Read));
        assert_eq!(flash.read(&cells, BLOCK_BYTES)[0] & READY, 0, "busy, whoever looks all the same");
        for byte in 0..=u8::MAX {
            let goes_on =
                matches!(mode, Mode::Program | Mode::Erase(_)) || [0x10, 0x40, 0x20].contains(&byte);
            assert_eq!(flash.owes(&write(byte)), !goes_on, "{mode:?} {byte:#x}");
        }
        if matches!(mode, Mode::Array | Mode::Status) {
            flash.write(&mut cells, 0, &[0xFF]);
            assert_eq!(flash.mode, mode, "a busy chip does not listen");
        }
        settled(&mut flash);
        assert!(!flash.owes(&Access::Read) && !flash.owes(&write(0xFF)));
    }
}

#[test]
fn a_session_of_edk_iis_is_one_debt() {
    let (mut flash, mut cells) = chip(0xFF);
    let bytes = b"a variable";
    for (at, byte) in (BLOCK_BYTES - 4..).zip(bytes) {
        for value in [0x10, *byte] {
            assert!(!flash.owes(&Access::Write([value, 0, 0, 0, 0, 0, 0, 0])));
            flash.write(&mut cells, at, &[value]);
        }
    }
    assert_eq!(flash.changed().iter().collect::<Vec<_>>(), [0, 1]);
    assert!(flash.owes(&Access::Write([0xFF; 8])));
    settled(&mut flash);
    flash.write(&mut cells, BLOCK_BYTES, &[0xFF]);
    assert_eq!(&flash.read(&cells, BLOCK_BYTES - 4)[..], &bytes[..8]);
}

/// Whatever a guest does, it touches the cells of the flash alone, sets bits by whole blocks only, and never sees a change that is owed.
#[test]
fn random_accesses_keep_the_laws() {
    let mut seed = 1u64;
    let mut next = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap()
    };
    let (mut flash, mut cells) = chip(0xFF);
    let mut kept = cells.0.clone();
    for _ in 0..200_000 {
        let offset = next() % (BLOCKS * BLOCK_BYTES + 16);
        let command = [0x10, 0x40, 0x20, 0xD0, 0xFF, 0x70, 0x50, 0x55][next() % 8];
        let before = cells.0.clone();
        if next() % 3 == 0 {
            if flash.owes(&Access::Read) {
                assert_eq!(flash.read(&cells, offset)[0] & READY, 0);
                settled(&mut flash);
                kept.clone_from(&cells.0);
            }
            assert_eq!(kept, cells.0);
            continue;
        }
        let mut bytes = [0; 8];
        bytes.fill_with(|| u8::try_from(next() % 256).unwrap());
        bytes[0] = command;
        flash.write(&mut cells, offset, &bytes[..[1, 2, 4, 8][next() % 4]]);
        for (block, (old, new)) in before.chunks(BLOCK_BYTES).zip(cells.0.chunks(BLOCK_BYTES)).enumerate() {
            let erased = new.iter().all(|byte| *byte == 0xFF);
            assert!(erased || old.iter().zip(new).all(|(old, new)| old & new == *new));
            assert!(old == new || flash.changed().contains(block));
        }
    }
}
