//! No proof without disk, flush and anchor.

use crate::disk::SimDisk;
use crate::world::{Answers, Memory, Seeded, World};
use husk::fault::{Family, Fault};
use husk::nv::order::Change;
use husk::nv::{NvFault, Response};
use husk::release::ReleaseFault;

fn world(seed: u64) -> World {
    World::new(SimDisk::new(64 * 1024, 512), seed)
}

fn state(seed: u64) -> Vec<u8> {
    Seeded(seed).bytes(900)
}

#[test]
fn an_unchanged_image_commits_without_a_request() {
    let mut world = world(1);
    let mut memory = Memory::new();
    let (grant, mut store) = world.launch(&mut memory, &state(1)).expect("creates");
    let (asked, _) = (world.broker.asked, world.disk.take_counts());
    world.put(grant, &mut store, &state(1)).expect("nothing to do");
    assert_eq!((world.broker.asked, world.disk.take_counts()), (asked, Default::default()));
}

#[test]
fn an_undecided_commit_asks_again_and_writes_nothing() {
    for answers in [Answers::NotReached, Answers::ReplyLost] {
        let mut world = world(2);
        let mut memory = Memory::new();
        let (grant, mut store) = world.launch(&mut memory, &state(1)).expect("creates");
        world.broker.answers = answers;
        world.disk.take_counts();
        let undecided = Err(Fault::from(ReleaseFault::Undecided));
        assert_eq!(world.put(grant, &mut store, &state(2)), undecided);
        let written = world.disk.take_counts();
        assert_eq!((written.writes, written.flushes), (1, 1));
        for _ in 0..3 {
            assert_eq!(store.change(), Change::Undecided);
            assert_eq!(world.commit(grant, &mut store), undecided);
        }
        world.broker.answers = Answers::Honestly;
        world.commit(grant, &mut store).expect("the same answer at last");
        assert_eq!(world.disk.take_counts(), Default::default());
        world.put(grant, &mut store, &state(3)).expect("and on it goes");
        assert_eq!(store.head(), Some(&world.broker.head));
    }
}

#[test]
fn an_engine_that_runs_on_while_undecided_latches_the_store() {
    let mut world = world(3);
    let mut memory = Memory::new();
    let (grant, mut store) = world.launch(&mut memory, &state(1)).expect("creates");
    world.broker.answers = Answers::NotReached;
    world.put(grant, &mut store, &state(2)).expect_err("undecided");
    world.broker.answers = Answers::Honestly;
    assert_eq!(world.put(grant, &mut store, &state(3)), Err(NvFault::RanAhead.fault()));
    assert_eq!(world.commit(grant, &mut store), Err(NvFault::Latched.fault()));
}

#[test]
fn a_definite_no_latches_the_store() {
    for no in [ReleaseFault::Fenced, ReleaseFault::Conflict, ReleaseFault::LeaseOver] {
        let mut world = world(4);
        let mut memory = Memory::new();
        let (grant, mut store) = world.launch(&mut memory, &state(1)).expect("creates");
        world.broker.answers = Answers::No(no);
        assert_eq!(world.put(grant, &mut store, &state(2)), Err(no.fault()));
        world.broker.answers = Answers::Honestly;
        assert_eq!(world.commit(grant, &mut store), Err(NvFault::Latched.fault()));
        assert_eq!(store.head(), None);
    }
}

#[test]
fn a_store_that_was_given_up_holds_nothing_and_the_disk_everything() {
    let mut world = world(4);
    let mut memory = Memory::new();
    let (grant, mut store) = world.launch(&mut memory, &state(1)).expect("creates");
    store.give_up();
    assert!(store.image().current().is_empty() && store.image().durable().is_empty());
    assert_eq!(world.commit(grant, &mut store), Err(NvFault::Latched.fault()));
    drop(store);
    let (_, store) = world.launch(&mut memory, &[]).expect("boots");
    assert_eq!(store.image().engine_state(), state(1));
}

#[test]
fn an_instance_that_was_fenced_commits_nothing_more() {
    let mut world = world(5);
    let (mut old, mut new) = (Memory::new(), Memory::new());
    let (grant, mut store) = world.launch(&mut old, &state(1)).expect("creates");
    let (newer, mut successor) = world.launch(&mut new, &[]).expect("a successor boots");
    let head = world.broker.head;
    assert_eq!(world.put(grant, &mut store, &state(2)), Err(ReleaseFault::Fenced.fault()));
    assert_eq!(world.broker.head, head);
    world.put(newer, &mut successor, &state(3)).expect("the successor is not disturbed");
    drop((store, successor));
    let (_, store) = world.launch(&mut old, &[]).expect("boots");
    assert_eq!(store.image().engine_state(), state(3));
}

#[test]
fn a_disk_that_fails_any_one_request_is_the_hosts_fault_and_loses_nothing() {
    let mut failures = 0;
    for request in 0..40 {
        let mut world = world(6);
        let mut memory = Memory::new();
        world.launch(&mut memory, &state(1)).expect("creates");
        world.disk.fails_at = Some(request);
        let mut acknowledged = state(1);
        let failed = (|| {
            let (grant, mut store) = world.launch(&mut memory, &[])?;
            for next in 2..6 {
                world.put(grant, &mut store, &state(next))?;
                acknowledged = state(next);
            }
            Ok::<(), Fault>(())
        })();
        if let Err(fault) = failed {
            assert_eq!(fault.family(), Family::Host);
            failures += 1;
        }
        world.disk.fails_at = None;
        let (_, store) = world.launch(&mut memory, &[]).expect("boots");
        assert_eq!(store.image().engine_state(), acknowledged);
    }
    assert!(failures > 10);
}

#[test]
fn a_response_leaves_only_against_a_proof_of_its_version_or_later() {
    let mut world = world(7);
    let mut memory = Memory::new();
    let (grant, mut store) = world.launch(&mut memory, &state(1)).expect("creates");
    let early = world.carry(grant, &mut store).expect("clean");
    store.image_mut().store_engine_state(&state(2)).expect("fits");
    let version = store.image().version();
    assert_eq!(Response::locked(b"ok", version).release(&early), Err(NvFault::NotCommitted));
    let late = world.carry(grant, &mut store).expect("commits");
    assert_eq!(Response::locked(b"ok", version).release(&late), Ok(&b"ok"[..]));
}

#[test]
fn a_device_with_larger_blocks_takes_over_a_volume_of_smaller_ones() {
    let mut world = world(8);
    let mut memory = Memory::new();
    for block in [512, 4096, 1024, 4096, 512] {
        world.disk.block = block;
        let (grant, mut store) = world.launch(&mut memory, &state(1)).expect("boots");
        for next in [2, 3, 1] {
            world.put(grant, &mut store, &state(next)).expect("commits");
        }
    }
}

#[test]
fn a_newer_token_is_written_from_then_on() {
    let mut world = world(9);
    let mut memory = Memory::new();
    let (mut grant, mut store) = world.launch(&mut memory, &state(1)).expect("creates");
    (world.broker.token, grant.token) = (7, 7);
    store.retoken(7);
    world.put(grant, &mut store, &state(2)).expect("commits");
    let record = husk::volume::layout::RecordHeader::read(&world.disk.image[1536..]).expect("a record");
    assert_eq!(record.token.get(), 7);
    drop(store);
    world.launch(&mut memory, &[]).expect("boots");
}
