//! What a commit and an opening cost, counted at the disk.

use crate::disk::{Counts, SimDisk};
use crate::world::{Memory, Seeded, World};
use husk::nv::order::Change;

const FULL: usize = 1 << 20;

/// Commits small changes of a state of `bytes` until the volume has switched areas three times. Returns the largest cost of
/// a commit that appended, and the least number of those between two switches.
fn wear(bytes: usize, change: usize, block: usize) -> (Counts, usize) {
    let mut world = World::new(SimDisk::new(FULL, block), 1);
    let mut memory = Memory::new();
    let mut state = Seeded(2).bytes(bytes);
    let (grant, mut store) = world.launch(&mut memory, &state).expect("creates");
    let (mut most, mut least, mut run, mut switches) = (Counts::default(), usize::MAX, 0, 0);
    for commit in 0_usize.. {
        let at = commit * 131 % (bytes - change);
        state[at..at + change].copy_from_slice(&Seeded(commit as u64).bytes(change));
        store.image_mut().store_engine_state(&state).expect("fits");
        let switching = store.change() == Change::Checkpoint;
        world.disk.take_counts();
        world.commit(grant, &mut store).expect("commits");
        let cost = world.disk.take_counts();
        assert_eq!((cost.writes, cost.flushes, cost.reads), (1, 1, 0), "one write, one flush, always");
        if switching {
            least = least.min(run);
            (run, switches) = (0, switches + 1);
        } else {
            most = if cost.bytes_written > most.bytes_written { cost } else { most };
            run += 1;
        }
        if switches == 3 {
            break;
        }
    }
    (most, least)
}

#[test]
fn a_small_change_is_one_write_of_one_unit_and_one_flush() {
    for bytes in [3_000, 9_000] {
        for change in [8, 64] {
            let (most, least) = wear(bytes, change, 512);
            assert_eq!((most.bytes_written, least >= 64), (512, true), "{bytes} {change} {least}");
            let (most, least) = wear(bytes, change, 4096);
            assert_eq!((most.bytes_written, least >= 64), (4096, true), "{bytes} {change} {least}");
        }
    }
}

#[test]
fn the_largest_state_has_64_commits_between_checkpoints_even_on_4_kib_blocks() {
    let (most, least) = wear(160 * 1024 - 128, 64, 4096);
    assert_eq!(most.bytes_written, 4096);
    assert!(least >= 64, "{least}");
}

#[test]
fn the_size_of_a_small_commit_does_not_tell_what_happened() {
    let mut world = World::new(SimDisk::new(FULL, 512), 3);
    let mut memory = Memory::new();
    let first = Seeded(4).bytes(9_000);
    let (grant, mut store) = world.launch(&mut memory, &first).expect("creates");
    let mut next = first.clone();
    let mut changes: Vec<Vec<u8>> = Vec::new();
    for len in [1, 8, 64, 300] {
        next[100..100 + len].fill(0x11);
        changes.push(next.clone());
    }
    next.splice(4_000..4_000, Seeded(5).bytes(100));
    changes.push(next.clone());
    next.drain(2_000..5_000);
    changes.push(next);
    for change in changes {
        world.disk.take_counts();
        world.put(grant, &mut store, &change).expect("commits");
        assert_eq!(world.disk.take_counts().bytes_written, 512);
    }
}

#[test]
fn opening_reads_each_byte_once_at_most() {
    for (bytes, block) in [(9_000, 512), (9_000, 4096), (150_000, 512)] {
        let mut world = World::new(SimDisk::new(FULL, block), 6);
        let mut memory = Memory::new();
        let mut state = Seeded(7).bytes(bytes);
        let (grant, mut store) = world.launch(&mut memory, &state).expect("creates");
        while !{
            state[0] = state[0].wrapping_add(1);
            store.image_mut().store_engine_state(&state).expect("fits");
            store.change() == Change::Checkpoint
        } {
            world.commit(grant, &mut store).expect("commits");
        }
        drop(store);
        let head = world.broker.head.sequence;
        let grant = world.grant();
        world.disk.take_counts();
        drop(world.open(grant, &mut memory).expect("opens"));
        let cost = world.disk.take_counts();
        assert!(cost.bytes_read <= FULL / 2 + 2 * block + 4096, "{cost:?} at {head}");
        assert_eq!((cost.writes, cost.flushes), (0, 0));
        assert!(cost.reads < 32, "{cost:?}");
    }
}

#[test]
fn a_state_that_does_not_fit_the_disk_is_refused_and_the_old_one_kept() {
    let mut world = World::new(SimDisk::new(16 * 1024, 512), 8);
    let mut memory = Memory::new();
    let small = Seeded(9).bytes(600);
    let (grant, mut store) = world.launch(&mut memory, &small).expect("creates");
    let refused = world.put(grant, &mut store, &Seeded(10).bytes(9_000));
    assert_eq!(refused, Err(husk::volume::VolumeFault::StateTooLarge.fault()));
    drop(store);
    let (_, store) = world.launch(&mut memory, &[]).expect("boots");
    assert_eq!(store.image().engine_state(), small);
}
