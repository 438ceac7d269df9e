//! What a host brings for a guest, and what a guest does to its flash.

use crate::disk::SimDisk;
use crate::input::Input;
use crate::store_world::{Grant, Memory, World};
use husk::frontend::flash::{Access, Flash};
use husk::nv::NvStore;
use husk::seams::Cells;
use husk::volume::blocks::{BLOCK_BYTES, BLOCKS_MAX};
use husk::volume::layout::VOLUME_BYTES_MAX;
use husk_firmware::guest::payload::{HEADER_BYTES, PAGE_BYTES, Part, Shape};

/// A payload's header: of one spelling, and no part overlaps another or leaves the payload.
pub(crate) fn payload(data: &[u8]) {
    let header: [u8; HEADER_BYTES] = Input::new(data).array();
    let Ok(shape) = Shape::parse(&header) else { return };
    assert_eq!(shape.header(), header);
    let mut end = PAGE_BYTES;
    for part in Part::ALL {
        let (extent, (least, most)) = (shape.part(part), part.bounds());
        assert!((least..=most).contains(&extent.bytes) && extent.offset == end);
        end = (extent.offset + extent.bytes).next_multiple_of(PAGE_BYTES);
    }
    assert_eq!(shape.bytes(), end);
    let [firmware, variables] = [Part::Firmware, Part::Variables].map(|part| shape.part(part).bytes);
    assert!(variables == 0 || firmware > 0);
}

pub(crate) fn payload_seeds() -> Vec<Vec<u8>> {
    let most = (BLOCKS_MAX * BLOCK_BYTES) as u64;
    [
        [0x1001, 5, 0, 300, 0, 0],
        [0, 0, 0, 300, 0x37_C000, 0],
        [0, 0, 0, 300, 0x37_C000, most],
        [0x1000, 1, 2047, 2048, 0x1000, 0x1000],
    ]
    .map(|lengths| Shape::of(lengths).unwrap().header().to_vec())
    .to_vec()
}

const BLOCKS: usize = 3;

/// What the guest is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown(Vec<u8>);

impl Cells for Shown {
    fn size_bytes(&self) -> usize {
        self.0.len()
    }

    fn copy_in(&self, offset: usize, into: &mut [u8]) {
        for (at, byte) in (offset..).zip(into) {
            *byte = self.0.get(at).copied().unwrap_or(0xFF);
        }
    }

    fn copy_out(&mut self, offset: usize, from: &[u8]) {
        assert!(offset + from.len() <= self.0.len(), "nothing is written beside the flash");
        self.0[offset..offset + from.len()].copy_from_slice(from);
    }
}

/// Accesses of a guest's, each settled where it must be: nothing tells it of what a launch after a cut would not find, and bits are set by whole blocks alone.
pub(crate) fn flash(data: &[u8]) {
    let disk = usize::try_from(VOLUME_BYTES_MAX).unwrap() + 2 * BLOCKS * BLOCK_BYTES;
    let mut world = World::new(SimDisk::new(disk, 512), 1);
    let mut memory = Memory::new();
    let (grant, mut store) = world.launch(&mut memory, b"a TPM").unwrap();
    let mut shown = Shown(vec![0xFF; BLOCKS * BLOCK_BYTES]);
    let mut flash = Flash::unkept(&shown).unwrap();
    settle(&mut world, grant, &mut store, (&shown, &mut flash));
    let (mut input, mut told) = (Input::new(data), shown.clone());
    while !input.is_over() {
        let (kind, offset) = (input.byte(), input.below(BLOCKS * BLOCK_BYTES + 8));
        let raw = if kind & 1 == 0 { [input.byte(), 0, 0, 0, 0, 0, 0, 0] } else { input.array() };
        let access = if kind & 2 == 0 { Access::Write(raw) } else { Access::Read };
        if flash.owes(&access) {
            settle(&mut world, grant, &mut store, (&shown, &mut flash));
            told.clone_from(&shown);
        }
        let before = shown.clone();
        match access {
            Access::Write(raw) => flash.write(&mut shown, offset, &raw[..1 << (kind >> 2 & 3)]),
            Access::Read => {
                let read = flash.read(&shown, offset);
                assert!(told == shown, "what is read is durable, status or array: {read:x?}");
            }
        }
        for (block, (old, new)) in before.0.chunks(BLOCK_BYTES).zip(shown.0.chunks(BLOCK_BYTES)).enumerate() {
            assert!(old == new || flash.changed().contains(block));
            let erased = new.iter().all(|byte| *byte == 0xFF);
            assert!(erased || old.iter().zip(new).all(|(old, new)| old & new == *new));
        }
    }
    drop(store);
    let (grant, store) = world.launch(&mut memory, &[]).unwrap();
    let mut found = Shown(vec![0; BLOCKS * BLOCK_BYTES]);
    assert_eq!(world.with(grant, |platform, _| store.fetch_blocks(platform, &mut found)), Ok(true));
    assert!(found == told, "a cut leaves what the guest was told of");
}

/// Makes what is owed durable, as `vtpm` does it.
fn settle(world: &mut World, grant: Grant, store: &mut NvStore<'_>, (shown, flash): (&Shown, &mut Flash)) {
    let placed = world.with(grant, |platform, _| store.place_blocks(platform, shown, flash.changed()));
    let committed = world.carry(grant, store).unwrap();
    flash.settle(placed.unwrap(), &committed).unwrap();
}

pub(crate) fn flash_seeds() -> Vec<Vec<u8>> {
    let write = |offset: u16, byte: u8| {
        let [low, high] = offset.to_le_bytes();
        vec![0, low, high, byte]
    };
    let read = |offset: u16| {
        let [low, high] = offset.to_le_bytes();
        vec![2, low, high, 0]
    };
    let programmed = |offset: u16, bytes: &[u8]| -> Vec<u8> {
        (offset..).zip(bytes).flat_map(|(at, byte)| [write(at, 0x10), write(at, *byte)].concat()).collect()
    };
    vec![
        [write(16, 0x50), read(16), write(16, 0x70), read(16), write(16, 0xFF), read(16)].concat(),
        [programmed(0xFFE, b"a variable"), write(0x1007, 0xFF), read(0xFFE)].concat(),
        [programmed(0x2000, b"x"), write(0x2004, 0x20), write(0x2008, 0xD0), read(0x2000)].concat(),
        [write(0, 0x20), write(0x1000, 0xD0), read(0), write(0, 0x50), read(0)].concat(),
    ]
}
