//! Power may fail at any byte of any write: afterwards the TPM is as before or as after, and nothing acknowledged is lost.

use crate::disk::{Request, SimDisk, Tears, every_crash};
use crate::world::{Answers, Broker, Memory, Seeded, World};
use husk::fault::Fault;
use husk::nv::order::Change;
use husk::release::{Head, ReleaseFault};

/// A small volume in which everything happens soon.
const SMALL: usize = 16 * 1024;

fn state(seed: u64) -> Vec<u8> {
    Seeded(seed).bytes(700)
}

/// What one step of a script did, and every way in which it could have been cut short.
struct Step {
    image: Vec<u8>,
    trace: Vec<Request>,
    before: (Broker, Vec<u8>),
    after: (Broker, Vec<u8>),
}

impl Step {
    /// Every crash image opens at what the broker remembers then, goes on from there, and remembers that too.
    fn survives_every_cut(&self, world: &World, tears: Tears) -> usize {
        let (mut memory, mut cuts) = (Memory::new(), 0);
        every_crash(&self.image, &self.trace, tears, |image, flushes| {
            let possible: &[_] = if flushes == 0 { &[&self.before] } else { &[&self.before, &self.after] };
            for (broker, remembered) in possible.iter().copied() {
                let mut disk = SimDisk::new(0, world.disk.block);
                disk.image.clone_from(&image);
                let mut later = World { disk, entropy: Seeded(99), broker: broker.clone() };
                later.goes_on(&mut memory, remembered);
                cuts += 1;
            }
        });
        cuts
    }
}

impl World {
    /// Boots twice, with a commit in between; panics if anything remembered is gone.
    fn goes_on(&mut self, memory: &mut Memory, remembered: &[u8]) {
        let changed = [remembered, b" and more"].concat();
        let (grant, mut store) = self.launch(memory, remembered).expect("an honest disk boots");
        assert_eq!(store.image().engine_state(), remembered);
        self.put(grant, &mut store, &changed).expect("an honest disk takes a commit");
        drop(store);
        let grant = self.grant();
        let store = self.open(grant, memory).expect("an honest disk boots again");
        assert_eq!(store.image().engine_state(), changed);
    }

    /// Runs `act` as one step from `remembered` to what the store then holds.
    fn step(&mut self, remembered: &[u8], act: impl FnOnce(&mut Self) -> Vec<u8>) -> Step {
        let (image, before) = (self.disk.image.clone(), self.broker.clone());
        self.disk.take_trace();
        let now = act(self);
        let trace = self.disk.take_trace();
        Step { image, trace, before: (before, remembered.to_vec()), after: (self.broker.clone(), now) }
    }
}

fn every_byte(block: usize) -> Tears {
    Tears { block, step: 1 }
}

#[test]
fn a_cut_at_every_byte_of_creation_leaves_no_tpm_or_the_tpm() {
    for block in [512, 4096] {
        let mut world = World::new(SimDisk::new(SMALL, block), 1);
        let step = world.step(&state(1), |world| {
            world.launch(&mut Memory::new(), &state(1)).expect("creates");
            state(1)
        });
        assert_eq!(step.before.0.head, Head::NONE);
        let tears = if block == 512 { every_byte(512) } else { Tears { block, step: 64 } };
        assert!(step.survives_every_cut(&world, tears) > 100);
    }
}

#[test]
fn a_cut_at_every_byte_of_every_commit_leaves_before_or_after() {
    let mut world = World::new(SimDisk::new(SMALL, 512), 2);
    let mut memory = Memory::new();
    let mut now = state(2);
    let (grant, mut store) = world.launch(&mut memory, &now).expect("creates");
    for commit in 0..3 {
        let mut next = now.clone();
        next[8 * commit..8 * commit + 8].copy_from_slice(&[0xAA; 8]);
        let step = world.step(&now, |world| {
            world.put(grant, &mut store, &next).expect("commits");
            next.clone()
        });
        assert_eq!(step.trace.len(), 2);
        let tears = if commit == 1 { every_byte(512) } else { Tears { block: 512, step: 37 } };
        step.survives_every_cut(&world, tears);
        now = next;
    }
}

#[test]
fn a_cut_at_every_byte_of_an_area_switch_leaves_before_or_after() {
    for (block, step) in [(512, 1), (4096, 97)] {
        let mut world = World::new(SimDisk::new(SMALL, block), 3);
        let mut memory = Memory::new();
        let mut now = state(3);
        let (grant, mut store) = world.launch(&mut memory, &now).expect("creates");
        for commit in 0_u64.. {
            let mut next = now.clone();
            next[..8].copy_from_slice(&commit.to_be_bytes());
            next[100] ^= 1;
            store.image_mut().store_engine_state(&next).expect("fits");
            let switches = store.change() == Change::Checkpoint;
            let done = world.step(&now, |world| {
                world.commit(grant, &mut store).expect("commits");
                next.clone()
            });
            let offset = |request: &Request| matches!(request, Request::Write(8192, _));
            assert_eq!(switches, done.trace.iter().any(offset));
            now = next;
            if switches {
                assert!(commit > 0);
                done.survives_every_cut(&world, Tears { block, step });
                break;
            }
        }
    }
}

#[test]
fn a_cut_at_every_byte_of_an_epoch_change_leaves_before_or_after() {
    let mut world = World::new(SimDisk::new(SMALL, 512), 4);
    let mut memory = Memory::new();
    let (grant, mut store) = world.launch(&mut memory, &state(4)).expect("creates");
    world.put(grant, &mut store, &state(5)).expect("commits");
    drop(store);
    for launch in 0..2 {
        let step = world.step(&state(5), |world| {
            world.launch(&mut Memory::new(), &[]).expect("boots");
            state(5)
        });
        assert_eq!(step.after.0.epoch, step.before.0.epoch + 1);
        step.survives_every_cut(&world, Tears { block: 512, step: if launch == 0 { 1 } else { 61 } });
    }
}

#[test]
fn a_full_size_volume_survives_cuts_at_every_block() {
    let mut world = World::new(SimDisk::new(1 << 20, 4096), 5);
    let mut memory = Memory::new();
    let large = Seeded(6).bytes(150 * 1024);
    let created = world.step(&large, |world| {
        world.launch(&mut Memory::new(), &large).expect("creates");
        large.clone()
    });
    created.survives_every_cut(&world, Tears { block: 4096, step: 4096 });
    let (grant, mut store) = world.launch(&mut memory, &[]).expect("boots");
    let mut next = large.clone();
    next[70_000..70_008].copy_from_slice(&[1; 8]);
    let commit = world.step(&large, |world| {
        world.put(grant, &mut store, &next).expect("commits");
        next.clone()
    });
    commit.survives_every_cut(&world, Tears { block: 4096, step: 512 });
}

#[test]
fn a_cut_while_the_anchor_is_undecided_leaves_what_the_broker_decided() {
    for answers in [Answers::NotReached, Answers::ReplyLost] {
        for switching in [false, true] {
            let mut world = World::new(SimDisk::new(SMALL, 512), 6);
            let mut memory = Memory::new();
            let (grant, mut store) = world.launch(&mut memory, &state(7)).expect("creates");
            let next = if switching { Seeded(8).bytes(7000) } else { state(8) };
            world.broker.answers = answers;
            let undecided = world.put(grant, &mut store, &next);
            assert_eq!(undecided, Err(Fault::from(ReleaseFault::Undecided)));
            drop(store);
            world.broker.answers = Answers::Honestly;
            let kept = if answers == Answers::ReplyLost { next } else { state(7) };
            world.goes_on(&mut memory, &kept);
        }
    }
}

#[test]
fn launches_that_are_cut_before_confirmation_never_use_up_the_state() {
    let mut world = World::new(SimDisk::new(SMALL, 512), 7);
    let mut memory = Memory::new();
    world.launch(&mut memory, &state(9)).expect("creates");
    for launch in 0..8 {
        world.broker.answers = if launch % 3 == 2 { Answers::ReplyLost } else { Answers::NotReached };
        assert_eq!(world.launch(&mut memory, &[]).err(), Some(Fault::from(ReleaseFault::Undecided)));
    }
    world.broker.answers = Answers::Honestly;
    world.goes_on(&mut memory, &state(9));
}
