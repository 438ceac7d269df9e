//! Opening a volume from a disk that somebody altered, and changes as records carry them.

use crate::disk::SimDisk;
use crate::input::{Input, sized};
use crate::store_world::{Grant, IDENTITY, Memory, Seeded, World};
use husk::fault::Family;
use husk::nv::STATE_BYTES_MAX;
use husk::release::unsealed::Unsealed;
use husk::volume::delta::{WindowIndex, apply, encode};
use husk::volume::newest_unsealed_head;
use std::cell::RefCell;
use std::sync::OnceLock;

const DISK_BYTES: usize = 16 * 1024;

/// A VM's disk with everything that an enemy may have kept of it, and of another.
struct Past {
    world: World,
    honest: Vec<u8>,
    /// Older images of the same disk, and one of another VM's life under the same keys.
    others: Vec<Vec<u8>>,
}

fn lived(seed: u64) -> (World, Vec<Vec<u8>>) {
    let state = Seeded(seed).bytes(600);
    let (mut world, mut images) = (World::new(SimDisk::new(DISK_BYTES, 512), seed), Vec::new());
    for _ in 0..3 {
        let mut memory = Memory::new();
        let (grant, mut store) = world.launch(&mut memory, &state).unwrap();
        for commit in 0..4 {
            let mut next = state.clone();
            next[300] = commit;
            images.push(world.disk.image.clone());
            world.put(grant, &mut store, &next).unwrap();
        }
    }
    (world, images)
}

fn past() -> &'static Past {
    static PAST: OnceLock<Past> = OnceLock::new();
    PAST.get_or_init(|| {
        let (mut world, mut others) = lived(1);
        others.push(lived(2).0.disk.image);
        let honest = opened(&mut world, &mut Memory::new()).unwrap();
        Past { world, honest, others }
    })
}

fn opened(world: &mut World, memory: &mut Memory) -> Result<Vec<u8>, husk::fault::Fault> {
    let grant = Grant { token: 1000, epoch: world.broker.epoch + 1 };
    world.open(grant, memory).map(|store| store.image().engine_state().to_vec())
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::new(Memory::new());
}

/// A script of alterations. The volume opens at its newest state or is a fault of the disk; nothing is written.
pub(crate) fn open(data: &[u8]) {
    let past = past();
    let mut world = past.world.clone();
    let mut input = Input::new(data);
    while !input.is_over() {
        alter(&mut world.disk, &mut input, past);
    }
    let image = world.disk.image.clone();
    MEMORY.with_borrow_mut(|memory| {
        world.disk.take_counts();
        match opened(&mut world, memory) {
            Ok(state) => assert!(state == past.honest, "it opened, but not at the head"),
            Err(fault) => assert!(matches!(fault.family(), Family::Seal | Family::Host), "{fault}"),
        }
        let Memory { current, work, .. } = memory;
        let unsealed = Unsealed::for_testing();
        if let Ok(Some(newest)) = newest_unsealed_head(&mut world.disk, &unsealed, &IDENTITY, work, current) {
            assert!(newest.head.sequence > 0);
        }
        let counts = world.disk.take_counts();
        assert!(counts.writes == 0 && counts.flushes == 0 && world.disk.image == image, "it wrote");
    });
}

fn alter(disk: &mut SimDisk, input: &mut Input<'_>, past: &Past) {
    let (what, at) = (input.byte(), usize::from(input.short()) % DISK_BYTES);
    let other = &past.others[usize::from(what >> 4) % past.others.len()];
    match what & 0xF {
        0 => disk.image.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (what >> 4 & 7)),
        1 => put(&mut disk.image, at, input.sized()),
        2 => {
            let (from, length) = (usize::from(input.short()), usize::from(input.short()));
            let piece: Vec<u8> = disk.image.iter().skip(from % DISK_BYTES).take(length).copied().collect();
            put(&mut disk.image, at, &piece);
        }
        3 => {
            let (from, length) = (usize::from(input.short()), usize::from(input.short()));
            let piece: Vec<u8> = other.iter().skip(from % DISK_BYTES).take(length).copied().collect();
            put(&mut disk.image, at, &piece);
        }
        // A whole area of another time, or another life.
        4 => {
            let area = if what & 0x80 == 0 { 0 } else { DISK_BYTES / 2 };
            put(&mut disk.image, area, &other[at / 512 % 2 * DISK_BYTES / 2..][..DISK_BYTES / 2]);
        }
        5 => disk.image.resize(DISK_BYTES / 2 + at, 0xDB),
        6 => disk.block = [1, 3, 512, 4096, 8192, 65536][at % 6],
        7 => disk.fails_at = Some(at % 64),
        8 => {
            let half = disk.image.len() / 2;
            disk.image.rotate_left(half);
        }
        9 => {
            let length = usize::from(input.short());
            disk.image.iter_mut().skip(at).take(length).for_each(|byte| *byte = what >> 4);
        }
        _ => {}
    }
    // A disk whose size is no number of blocks does not exist.
    let whole = disk.image.len() / 512 * 512;
    disk.image.truncate(whole);
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
}

/// One alteration of every kind, at both areas' objects.
pub(crate) fn open_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![Vec::new()];
    for what in 0..=9u8 {
        for at in [0u16, 100, 0x2000, 0x2064, 0x2400] {
            let more = match what {
                1 => sized(b"HUSK rubbish"),
                _ => [0x2000u16.to_le_bytes(), 700u16.to_le_bytes()].concat(),
            };
            seeds.push([&[what | 0x30][..], &at.to_le_bytes(), &more].concat());
        }
    }
    seeds
}

/// An old state, a new one, and a change that may be none.
pub(crate) fn delta(data: &[u8]) {
    let mut input = Input::new(data);
    let (old, new, change) = (input.sized(), input.sized(), input.rest());
    let (mut index, mut room) = (Box::new(WindowIndex::new()), vec![0; STATE_BYTES_MAX]);
    let mut out = vec![0; 2 * new.len() + 64];
    let length = encode(old, new, &mut index, &mut out).unwrap();
    let made = apply(&out[..length], old, &mut room).unwrap();
    assert!(room[..made] == *new, "a change does not make the new state");
    for size in [STATE_BYTES_MAX, new.len(), 0] {
        if let Ok(made) = apply(change, old, &mut room[..size]) {
            assert!(made <= size);
        }
    }
    // Room that is too small is said so, never overrun.
    for size in [0, length / 2, length - 1] {
        assert_eq!(encode(old, new, &mut index, &mut out[..size]), None);
    }
}

pub(crate) fn delta_seeds() -> Vec<Vec<u8>> {
    let old: Vec<u8> = Seeded(9).bytes(500);
    let mut seeds = Vec::new();
    for (at, cut) in [(0, 0), (100, 0), (250, 8), (400, 100)] {
        let mut new = old.clone();
        new[at] ^= 0xFF;
        new.drain(at..at + cut);
        new.extend(&old[20..60]);
        let (mut index, mut out) = (Box::new(WindowIndex::new()), vec![0; 2000]);
        let length = encode(&old, &new, &mut index, &mut out).unwrap();
        seeds.push([sized(&old), sized(&new), out[..length].to_vec()].concat());
    }
    seeds.push([sized(&[]), sized(b"new"), vec![]].concat());
    seeds
}
