//! Commits behind the anchored head: so many are deferred, and so many taken at an opening (`format.md` §12).

use crate::disk::SimDisk;
use crate::world::{Grant, IDENTITY, Memory, World, keys, stamp};
use husk::fault::Fault;
use husk::nv::order::{self, Change, Due, Outcome};
use husk::nv::{Keys, NvFault, NvImage, NvStore};
use husk::volume::{VolumeFault, Wanted};

fn state(number: u8) -> Vec<u8> {
    vec![number; 600]
}

/// Makes `number` the engine's state and leaves it without an anchor.
fn defer(world: &mut World, grant: Grant, store: &mut NvStore<'_>, number: u8) -> Result<(), Fault> {
    store.image_mut().store_engine_state(&state(number))?;
    world.with(grant, |platform, _| {
        let mut due = order::first(Change::Deferred);
        while due != Due::Permit {
            match due {
                Due::Write => store.write(platform)?,
                Due::Flush => store.flush(platform)?,
                Due::Defer => store.defer()?,
                _ => {}
            }
            due = order::next(Change::Deferred, due, Outcome::Done);
        }
        Ok(())
    })
}

/// A volume whose state 1 is anchored, and behind it three that were deferred and one that was refused that.
fn deferred() -> World {
    let mut world = World::new(SimDisk::new(64 * 1024, 512), 11);
    let mut memory = Memory::new();
    let (grant, store) = world.launch(&mut memory, &state(1)).expect("creates");
    let mut store = store.deferring(3);
    for number in 2..=4 {
        assert!(store.has_slack());
        defer(&mut world, grant, &mut store, number).expect("it may wait");
    }
    assert_eq!((store.deferred(), store.has_slack(), store.owed()), (3, false, Change::Window));
    assert_eq!(store.head(), Some(&world.broker.head));
    assert_eq!(defer(&mut world, grant, &mut store, 5), Err(NvFault::NoSlack.into()), "one too many");
    drop(store);
    world
}

/// What an opening that takes so many commits behind the head finds.
fn opened(world: &mut World, beyond: u32) -> Result<u8, Fault> {
    let mut memory = Memory::new();
    let grant = world.grant();
    let keys = keys(&world.broker, &IDENTITY);
    let keys = Keys { wanted: Wanted { beyond, ..keys.wanted }, ..keys };
    let image = NvImage::new(&mut memory.durable, &mut memory.current);
    let work = &mut memory.work;
    let store = world.with(grant, |platform, _| NvStore::open(platform, image, keys, stamp(grant), work))?;
    Ok(store.image().engine_state()[0])
}

#[test]
fn an_opening_takes_so_many_commits_behind_the_head_and_no_more() {
    let mut world = deferred();
    for (beyond, found) in [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (1000, 5)] {
        assert_eq!(opened(&mut world, beyond), Ok(found), "{beyond}");
    }
}

/// Behind the head a bad byte ends the chain; at the head it is what it always was.
#[test]
fn damage_behind_the_head_costs_what_lies_there_and_nothing_else() {
    const UNIT: usize = 512;
    let pristine = deferred();
    let units = pristine.disk.image.chunks(UNIT).enumerate();
    let records: Vec<usize> =
        units.filter(|(_, unit)| unit.starts_with(b"HREC")).map(|(at, _)| at * UNIT).collect();
    assert_eq!(records.len(), 4);
    for (at, found) in records.iter().zip(1..) {
        let mut world = pristine.clone();
        world.disk.image[at + 200] ^= 1;
        assert_eq!(opened(&mut world, 3), Ok(found), "the record at {at}");
    }
    let mut world = pristine;
    world.disk.image[records[0] - 100] ^= 1;
    assert_eq!(opened(&mut world, 3), Err(VolumeFault::Damaged.into()));
}

#[test]
fn the_next_anchor_covers_what_was_deferred() {
    let mut world = World::new(SimDisk::new(64 * 1024, 512), 12);
    let mut memory = Memory::new();
    let (grant, store) = world.launch(&mut memory, &state(1)).expect("creates");
    let mut store = store.deferring(3);
    let asked = world.broker.asked;
    for number in 2..=3 {
        defer(&mut world, grant, &mut store, number).expect("it may wait");
    }
    assert_eq!(world.broker.asked, asked);
    world.put(grant, &mut store, &state(4)).expect("it is anchored");
    assert_eq!((world.broker.asked, store.deferred()), (asked + 1, 0));
    drop(store);
    assert_eq!(opened(&mut world, 0), Ok(4));
}
