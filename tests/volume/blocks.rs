//! A guest's flash beside the state: as fresh as the state is, and before or after wherever power fails.

use crate::disk::{Request, SimDisk, Tears, every_crash};
use crate::world::{Answers, Broker, Grant, IDENTITY, Memory, Seeded, World};
use husk::fault::{Family, Fault};
use husk::nv::{BlockSet, NvFault, NvStore, Placed};
use husk::release::ReleaseFault;
use husk::release::unsealed::Unsealed;
use husk::seams::Cells;
use husk::volume::blocks::{BLOCK_BYTES, BLOCKS_MAX, DISK_BYTES_MAX};
use husk::volume::layout::VOLUME_BYTES_MAX;
use husk::volume::{VolumeFault, newest_unsealed_head};
use std::fmt;

const BLOCKS: usize = 3;

/// What the guest sees.
#[derive(Clone, PartialEq, Eq)]
struct Shown(Vec<u8>);

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = self.0.iter().fold(0u32, |sum, byte| sum.rotate_left(5) ^ u32::from(*byte));
        write!(f, "{} bytes, sum {sum:08x}", self.0.len())
    }
}

impl Shown {
    /// Block 0 with content, 1 half of it, 2 erased.
    fn new(seed: u64) -> Self {
        let mut bytes = vec![0xFF; BLOCKS * BLOCK_BYTES];
        bytes[..BLOCK_BYTES * 3 / 2].copy_from_slice(&Seeded(seed).bytes(BLOCK_BYTES * 3 / 2));
        Self(bytes)
    }

    fn block(&mut self, number: usize) -> &mut [u8] {
        &mut self.0[number * BLOCK_BYTES..][..BLOCK_BYTES]
    }
}

impl Cells for Shown {
    fn size_bytes(&self) -> usize {
        self.0.len()
    }

    fn copy_in(&self, offset: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.0[offset..offset + into.len()]);
    }

    fn copy_out(&mut self, offset: usize, from: &[u8]) {
        self.0[offset..offset + from.len()].copy_from_slice(from);
    }
}

fn world(seed: u64) -> World {
    World::new(SimDisk::new(usize::try_from(DISK_BYTES_MAX).expect("small"), 512), seed)
}

fn state() -> Vec<u8> {
    Seeded(7).bytes(700)
}

fn set(numbers: &[usize]) -> BlockSet {
    let mut set = BlockSet::NONE;
    numbers.iter().for_each(|number| set.insert(*number));
    set
}

impl World {
    fn place(
        &mut self,
        grant: Grant,
        store: &mut NvStore<'_>,
        shown: &Shown,
        changed: &[usize],
    ) -> Result<Placed, Fault> {
        self.with(grant, |platform, _| store.place_blocks(platform, shown, &set(changed)))
    }

    /// Makes blocks durable, as `vtpm` does it.
    fn keep(
        &mut self,
        grant: Grant,
        store: &mut NvStore<'_>,
        shown: &Shown,
        changed: &[usize],
    ) -> Result<(), Fault> {
        let placed = self.place(grant, store, shown, changed)?;
        Ok(placed.release(&self.carry(grant, store)?)?)
    }

    /// A TPM whose flash shows that.
    fn first(&mut self, shown: &Shown) {
        let mut memory = Memory::new();
        let (grant, mut store) = self.launch(&mut memory, &state()).expect("creates");
        self.keep(grant, &mut store, shown, &[0, 1, 2]).expect("keeps");
    }

    /// What a launch finds of the flash, if it gets so far.
    fn found(&mut self) -> Result<Option<Shown>, Fault> {
        let mut memory = Memory::new();
        let (grant, store) = self.launch(&mut memory, &[])?;
        assert_eq!(store.image().engine_state(), state());
        let mut found = Shown(vec![0; BLOCKS * BLOCK_BYTES]);
        let any = self.with(grant, |platform, _| store.fetch_blocks(platform, &mut found))?;
        Ok(any.then_some(found))
    }
}

#[test]
fn what_was_kept_is_found_by_every_later_launch() {
    let mut world = world(1);
    let mut shown = Shown::new(1);
    world.first(&shown);
    for launch in 0..4 {
        assert_eq!(world.found(), Ok(Some(shown.clone())));
        let mut memory = Memory::new();
        let (grant, mut store) = world.launch(&mut memory, &[]).expect("boots");
        let number = launch % BLOCKS;
        shown.block(number)[launch] ^= 0x5A;
        world.keep(grant, &mut store, &shown, &[number]).expect("keeps");
    }
    assert_eq!(world.found(), Ok(Some(shown)));
}

/// Every image that a cut may leave shows the flash as before or as after, to a launch that a broker keeps fresh and to one that takes the longest chain.
fn survives(world: &World, image: &[u8], trace: &[Request], brokers: [&Broker; 2], shown: [&Shown; 2]) {
    let flushes_of_all = trace.iter().filter(|request| matches!(request, Request::Flush)).count();
    let mut cuts = 0;
    every_crash(image, trace, Tears { block: 512, step: 512 }, |image, flushes| {
        for which in 0..=usize::from(flushes == flushes_of_all) {
            let mut disk = SimDisk::new(0, 512);
            disk.image.clone_from(&image);
            let mut later = World { disk, entropy: Seeded(99), broker: brokers[which].clone() };
            assert_eq!(later.found().as_ref(), Ok(&Some(shown[which].clone())), "after {flushes} flushes");
            cuts += 1;
        }
        let mut disk = SimDisk::new(0, 512);
        disk.image = image;
        let mut memory = Memory::new();
        let public = Unsealed::for_testing();
        let newest =
            newest_unsealed_head(&mut disk, &public, &IDENTITY, &mut memory.work, &mut memory.current);
        let newest = newest.expect("authentic").expect("there");
        let broker = Broker { head: newest.head, epoch: newest.epoch, ..world.broker.clone() };
        let mut later = World { disk, entropy: Seeded(98), broker };
        let found = later.found().expect("whole").expect("kept");
        assert!(shown.iter().any(|shown| **shown == found), "the longest chain, after {flushes} flushes");
    });
    assert!(cuts > 10, "{cuts}");
}

/// Which blocks change, and how.
type Change = (&'static [usize], fn(&mut Shown));

#[test]
fn a_cut_anywhere_in_a_session_leaves_the_flash_before_or_after() {
    let changes: [Change; 4] = [
        (&[0], |shown| shown.block(0)[100] = 0),
        (&[0], |shown| shown.block(0).fill(0xFF)),
        (&[0, 2], |shown| {
            shown.block(0)[1] = 1;
            shown.block(2)[2] = 2;
        }),
        (&[2], |shown| shown.block(2)[3] = 3),
    ];
    let mut world = world(2);
    let mut shown = Shown::new(2);
    world.first(&shown);
    for (changed, change) in changes {
        let mut memory = Memory::new();
        let (grant, mut store) = world.launch(&mut memory, &[]).expect("boots");
        let (image, broker, before) = (world.disk.image.clone(), world.broker.clone(), shown.clone());
        change(&mut shown);
        world.disk.take_trace();
        world.keep(grant, &mut store, &shown, changed).expect("keeps");
        let trace = world.disk.take_trace();
        let brokers = [&broker, &world.broker.clone()];
        survives(&world, &image, &trace, brokers, [&before, &shown]);
    }
}

#[test]
fn a_session_costs_its_blocks_one_record_and_two_flushes() {
    let mut world = world(3);
    let mut shown = Shown::new(3);
    world.first(&shown);
    let mut memory = Memory::new();
    let (grant, mut store) = world.launch(&mut memory, &[]).expect("boots");
    for (changed, bytes) in [(&[0][..], 4096 + 512), (&[0, 1], 2 * 4096 + 512), (&[], 0)] {
        changed.iter().for_each(|number| shown.block(*number)[9] ^= 1);
        world.disk.take_counts();
        world.keep(grant, &mut store, &shown, changed).expect("keeps");
        let cost = world.disk.take_counts();
        assert_eq!((cost.bytes_written, cost.reads), (bytes, 0), "{cost:?}");
        assert!(cost.flushes <= 2, "{cost:?}");
    }
}

#[test]
fn yesterdays_blocks_another_vms_and_any_other_byte_are_refused() {
    let mut world = world(4);
    let mut shown = Shown::new(4);
    world.first(&shown);
    let yesterday = world.disk.image.clone();
    let mut memory = Memory::new();
    let (grant, mut store) = world.launch(&mut memory, &[]).expect("boots");
    for byte in 0..2 {
        shown.block(0)[byte] ^= 1;
        world.keep(grant, &mut store, &shown, &[0]).expect("keeps");
    }
    drop(store);
    let blocks_at = usize::try_from(VOLUME_BYTES_MAX).expect("small");
    let damaged = Err(VolumeFault::BlockDamaged.fault());
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut later = world.clone();
        change(&mut later.disk.image);
        later.found()
    };
    assert!(refused(&|_| ()).is_ok());
    assert_eq!(refused(&|image| image[blocks_at..].copy_from_slice(&yesterday[blocks_at..])), damaged);
    assert_eq!(refused(&|image| image[blocks_at..].fill(0)), damaged);
    for block in 0..2 {
        let first_place = blocks_at + 2 * block * BLOCK_BYTES;
        let of = |image: &mut Vec<u8>, at: usize| image[first_place + at] ^= 1;
        for at in [0, 1, BLOCK_BYTES / 2, BLOCK_BYTES - 1] {
            let both: [Result<_, Fault>; 2] =
                [refused(&|image| of(image, at)), refused(&|image| of(image, BLOCK_BYTES + at))];
            let which = both.iter().filter(|found| **found == damaged).count();
            assert_eq!(which, 1, "one place counts, byte {at} of block {block}");
        }
    }
    let swapped = refused(&|image| {
        let (a, b) = image[blocks_at..].split_at_mut(2 * BLOCK_BYTES);
        a.swap_with_slice(&mut b[..2 * BLOCK_BYTES]);
    });
    assert_eq!(swapped, damaged);
    assert_eq!(refused(&|image| image.clone_from(&yesterday)), Err(VolumeFault::RolledBack.fault()));
}

#[test]
fn a_flash_of_another_size_and_a_disk_without_room_are_named() {
    let mut world = world(5);
    world.first(&Shown::new(5));
    let mut memory = Memory::new();
    let (grant, mut store) = world.launch(&mut memory, &[]).expect("boots");
    let mut other = Shown(vec![0xFF; (BLOCKS + 1) * BLOCK_BYTES]);
    let found = world.with(grant, |platform, _| store.fetch_blocks(platform, &mut other));
    assert_eq!(found, Err(NvFault::FlashSize.fault()));
    for bytes in [0, BLOCK_BYTES - 1, (BLOCKS_MAX + 1) * BLOCK_BYTES] {
        let placed = world.place(grant, &mut store, &Shown(vec![0xFF; bytes]), &[]);
        assert_eq!(placed, Err(NvFault::FlashSize.fault()), "{bytes}");
    }
    let mut small = World::new(SimDisk::new(1 << 20, 512), 6);
    let mut memory = Memory::new();
    let (grant, mut store) = small.launch(&mut memory, &state()).expect("creates");
    let placed = small.place(grant, &mut store, &Shown::new(1), &[0]);
    assert_eq!(placed, Err(VolumeFault::NoBlocks.fault()));
    assert_eq!(VolumeFault::NoBlocks.fault().family(), Family::Host);
}

#[test]
fn a_disk_that_fails_any_one_request_is_the_hosts_fault_and_the_flash_is_as_before() {
    let mut failures = 0;
    for request in 0..12 {
        let mut world = world(6);
        let shown = Shown::new(6);
        world.first(&shown);
        let mut memory = Memory::new();
        let (grant, mut store) = world.launch(&mut memory, &[]).expect("boots");
        world.disk.fails_at = Some(request);
        let mut next = shown.clone();
        next.block(1)[0] ^= 1;
        let kept = world.keep(grant, &mut store, &next, &[0, 1]);
        drop(store);
        world.disk.fails_at = None;
        let wanted = if kept.is_ok() { next } else { shown };
        if let Err(fault) = kept {
            assert_eq!(fault.family(), Family::Host);
            failures += 1;
        }
        assert_eq!(world.found(), Ok(Some(wanted)));
    }
    assert!(failures > 3, "{failures}");
}

#[test]
fn blocks_are_locked_until_their_commit_is_durable_and_anchored() {
    let mut world = world(7);
    let shown = Shown::new(7);
    let mut memory = Memory::new();
    let (grant, mut store) = world.launch(&mut memory, &state()).expect("creates");
    let early = world.carry(grant, &mut store).expect("clean");
    let placed = world.place(grant, &mut store, &shown, &[0]).expect("placed");
    assert_eq!(placed.release(&early), Err(NvFault::NotCommitted));
    world.broker.answers = Answers::NotReached;
    let undecided = world.carry(grant, &mut store).map(drop);
    assert_eq!(undecided, Err(ReleaseFault::Undecided.fault()));
    let again = world.place(grant, &mut store, &shown, &[0]);
    assert_eq!(again, Err(NvFault::NotCommitted.fault()), "nothing is written while that is undecided");
}

/// The largest table leaves the engine's part alone, and a restore is rid of it.
#[test]
fn a_table_moves_the_engines_part_and_changes_none_of_it() {
    let mut world = world(8);
    let mut memory = Memory::new();
    let (grant, mut store) = world.launch(&mut memory, &state()).expect("creates");
    let all = Shown(Seeded(9).bytes(BLOCKS_MAX * BLOCK_BYTES));
    let numbers: Vec<usize> = (0..BLOCKS_MAX).collect();
    world.keep(grant, &mut store, &all, &numbers).expect("keeps");
    assert_eq!((store.image().engine_state(), store.image().blocks()), (&state()[..], BLOCKS_MAX));
    world.put(grant, &mut store, &[state(), state()].concat()).expect("grows");
    assert_eq!(store.image().engine_state(), [state(), state()].concat());
    assert!(store.image().block(BLOCKS_MAX - 1).is_some() && store.image().block(BLOCKS_MAX).is_none());
    let mut found = Shown(vec![0; all.0.len()]);
    let any = world.with(grant, |platform, _| store.fetch_blocks(platform, &mut found));
    assert_eq!((any, found), (Ok(true), all));
    store.image_mut().forget_blocks();
    assert_eq!((store.image().engine_state(), store.image().blocks()), (&[state(), state()].concat()[..], 0));
}
