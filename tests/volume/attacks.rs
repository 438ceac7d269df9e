//! Whatever the host does to the disk: the newest state opens, or nothing does and the disk is left alone.

use crate::disk::SimDisk;
use crate::world::{Broker, FINGERPRINT, Grant, IDENTITY, Memory, Seeded, World, keys};
use husk::fault::{Family, Fault};
use husk::keys::{Identity, Mode, ObjectSort};
use husk::nv::{NvFault, NvImage, NvStore};
use husk::release::Head;
use husk::volume::layout::{CheckpointHeader, RecordHeader};
use husk::volume::{Stamp, VolumeFault, seal};
use std::collections::BTreeSet;
use std::ops::Range;

const SIZE: usize = 16 * 1024;
const AREA: usize = SIZE / 2;

fn state(seed: u64) -> Vec<u8> {
    Seeded(seed).bytes(600)
}

/// A world after a creation, a second launch and three commits: the head's area has four objects.
fn lived(seed: u64) -> World {
    let mut world = World::new(SimDisk::new(SIZE, 512), seed);
    let mut memory = Memory::new();
    world.launch(&mut memory, &state(1)).expect("creates");
    let (grant, mut store) = world.launch(&mut memory, &[]).expect("boots");
    for counter in 2..5 {
        let mut next = state(1);
        next[300] = counter;
        world.put(grant, &mut store, &next).expect("commits");
    }
    world
}

/// Opens what is there against what the broker remembers; nothing is ever written by that.
fn open(world: &mut World, memory: &mut Memory) -> Result<Vec<u8>, Fault> {
    let grant = Grant { token: 1000, epoch: world.broker.epoch + 1 };
    world.disk.take_counts();
    let opened = world.open(grant, memory).map(|store| store.image().engine_state().to_vec());
    assert_eq!(world.disk.take_counts().bytes_written, 0);
    opened
}

/// Opening gives exactly this fault.
fn refused(world: &mut World, fault: VolumeFault) {
    assert_eq!(open(world, &mut Memory::new()).err(), Some(fault.fault()));
}

/// Every object of every area that is one: where it lies.
fn objects(image: &[u8]) -> Vec<(ObjectSort, Range<usize>)> {
    let mut found = Vec::new();
    for start in [0, AREA] {
        let Some(header) = CheckpointHeader::parse(&image[start..]) else { continue };
        let mut end = start + header.total_bytes.get() as usize;
        let mut digest = seal::chain(ObjectSort::Checkpoint, &header.previous, &image[start..end]);
        found.push((ObjectSort::Checkpoint, start..end));
        while let Some(record) = RecordHeader::read(&image[end..start + AREA]) {
            if record.previous != digest {
                break;
            }
            let next = end + record.total_bytes.get() as usize;
            digest = seal::chain(ObjectSort::Record, &digest, &image[end..next]);
            found.push((ObjectSort::Record, end..next));
            end = next;
        }
    }
    found
}

#[test]
fn a_flipped_bit_in_any_byte_at_or_before_the_head_stops_and_elsewhere_is_harmless() {
    let mut world = lived(1);
    let mut memory = Memory::new();
    let honest = open(&mut world, &mut memory).expect("opens");
    let of_head: Vec<_> = objects(&world.disk.image).into_iter().filter(|(_, o)| o.start >= AREA).collect();
    assert_eq!(of_head.len(), 4);
    let protected = AREA..of_head[3].1.end;
    for byte in 0..SIZE {
        world.disk.image[byte] ^= 1 << (byte % 8);
        match open(&mut world, &mut memory) {
            Ok(state) => assert!(state == honest && !protected.contains(&byte), "byte {byte}"),
            Err(fault) => {
                assert!(fault.family() == Family::Seal && protected.contains(&byte), "byte {byte}: {fault}");
            }
        }
        world.disk.image[byte] ^= 1 << (byte % 8);
    }
}

#[test]
fn bytes_beyond_the_head_and_in_the_dead_area_may_be_anything() {
    let mut world = lived(2);
    let honest = open(&mut world, &mut Memory::new()).expect("opens");
    let end = objects(&world.disk.image).last().expect("the head").1.end;
    for seed in 0..50 {
        let mut noise = Seeded(seed);
        world.disk.image[..AREA].copy_from_slice(&noise.bytes(AREA));
        world.disk.image[end..].copy_from_slice(&noise.bytes(SIZE - end));
        assert_eq!(open(&mut world, &mut Memory::new()), Ok(honest.clone()));
    }
}

#[test]
fn every_older_image_is_refused_as_rolled_back() {
    let mut world = World::new(SimDisk::new(SIZE, 512), 3);
    let mut memory = Memory::new();
    let mut images = Vec::new();
    for launch in 0..3 {
        let (grant, mut store) = world.launch(&mut memory, &state(1)).expect("boots");
        images.push(world.disk.image.clone());
        for commit in 0..12 {
            world.put(grant, &mut store, &state(100 * launch + commit)).expect("commits");
            images.push(world.disk.image.clone());
        }
    }
    let newest = images.pop().expect("the newest");
    for image in images {
        world.disk.image = image;
        let fault = open(&mut world, &mut Memory::new()).expect_err("an older image");
        assert_eq!(fault, VolumeFault::RolledBack.fault());
    }
    world.disk.image = newest;
    assert!(open(&mut world, &mut Memory::new()).is_ok());
}

#[test]
fn a_disk_that_is_blank_or_none_of_ours_says_so() {
    let mut world = lived(4);
    world.disk.image.fill(0);
    refused(&mut world, VolumeFault::Blank);
    world.disk.image = Seeded(1).bytes(SIZE);
    refused(&mut world, VolumeFault::NotAVolume);
}

#[test]
fn another_tenant_vm_generation_format_mode_or_size_says_so() {
    let mut world = lived(5);
    let others = [
        (Identity { tenant: [0; 16], ..IDENTITY }, VolumeFault::OtherTenant),
        (Identity { vm: [0; 16], ..IDENTITY }, VolumeFault::OtherVm),
        (Identity { generation: 2, ..IDENTITY }, VolumeFault::OtherGeneration),
    ];
    for (identity, fault) in others {
        let mut memory = Memory::new();
        let image = NvImage::new(&mut memory.durable, &mut memory.current);
        let keys = keys(&world.broker, &identity);
        let stamp = Stamp { token: 9, fingerprint: FINGERPRINT };
        let opened = world.with(Grant { token: 9, epoch: 9 }, |platform, _| {
            NvStore::open(platform, image, keys, stamp, &mut memory.work).err()
        });
        assert_eq!(opened, Some(fault.fault()));
    }
    let honest = world.disk.image.clone();
    for (at, value, fault) in
        [(8, 2, VolumeFault::OtherFormat), (10, Mode::Sealed as u8, VolumeFault::Sealed)]
    {
        world.disk.image.clone_from(&honest);
        (world.disk.image[at], world.disk.image[AREA + at]) = (value, value);
        refused(&mut world, fault);
    }
    world.disk.image.clone_from(&honest);
    world.disk.image.resize(2 * SIZE, 0);
    refused(&mut world, VolumeFault::OtherSize);
}

#[test]
fn another_engine_is_refused_before_it_sees_the_state() {
    let mut world = lived(6);
    let mut memory = Memory::new();
    let image = NvImage::new(&mut memory.durable, &mut memory.current);
    let keys = keys(&world.broker, &IDENTITY);
    let stamp = Stamp { token: 9, fingerprint: [1; 32] };
    let opened = world.with(Grant { token: 9, epoch: 9 }, |platform, _| {
        NvStore::open(platform, image, keys, stamp, &mut memory.work).err()
    });
    assert_eq!(opened, Some(NvFault::OtherEngine.fault()));
}

#[test]
fn a_disk_that_is_too_small_or_odd_is_the_hosts_fault() {
    let mut world = lived(7);
    world.disk.image.truncate(SIZE - 512);
    refused(&mut world, VolumeFault::TooSmall);
    for block in [3, 8192] {
        world.disk.block = block;
        refused(&mut world, VolumeFault::BlockSize);
    }
}

#[test]
fn truncated_objects_and_swapped_areas_are_refused() {
    let mut world = lived(8);
    let honest = world.disk.image.clone();
    for (_, object) in objects(&honest).into_iter().filter(|(_, object)| object.start >= AREA) {
        for cut in [object.start, object.start + 200, object.end - 1] {
            world.disk.image.clone_from(&honest);
            world.disk.image[cut..].fill(0);
            let fault = open(&mut world, &mut Memory::new()).expect_err("truncated");
            assert_eq!(fault.family(), Family::Seal);
        }
    }
    world.disk.image = [&honest[AREA..], &honest[..AREA]].concat();
    assert!(
        open(&mut world, &mut Memory::new()).is_ok(),
        "areas have no names of their own: the chain decides"
    );
    world.disk.image = [&honest[..AREA], &honest[..AREA]].concat();
    refused(&mut world, VolumeFault::RolledBack);
}

#[test]
fn any_object_in_the_place_of_another_is_refused() {
    let mut world = lived(9);
    let (honest, foreign) = (world.disk.image.clone(), lived(10).disk.image);
    let places: Vec<_> = objects(&honest).into_iter().filter(|(_, object)| object.start >= AREA).collect();
    let donors = objects(&honest).into_iter().map(|(_, o)| &honest[o]);
    let strangers = objects(&foreign).into_iter().map(|(_, o)| &foreign[o]);
    let mut tried = 0;
    for donor in donors.chain(strangers) {
        for (_, place) in &places {
            let len = donor.len().min(place.len());
            if honest[place.start..place.start + len] == donor[..len] {
                continue;
            }
            world.disk.image.clone_from(&honest);
            world.disk.image[place.start..place.start + len].copy_from_slice(&donor[..len]);
            let fault = open(&mut world, &mut Memory::new()).expect_err("spliced");
            assert_eq!(fault.family(), Family::Seal);
            tried += 1;
        }
    }
    assert!(tried > 20);
}

/// A clone that goes on from the same image under the same grant, with entropy of its own.
fn fork(world: &World, seed: u64) -> World {
    World { entropy: Seeded(seed), ..world.clone() }
}

#[test]
fn a_clone_that_went_another_way_is_refused_as_forked() {
    let mut world = lived(11);
    let mut clone = fork(&world, 77);
    for (which, seed) in [(&mut world, 5), (&mut clone, 6)] {
        let mut memory = Memory::new();
        let (grant, mut store) = which.launch(&mut memory, &[]).expect("boots");
        which.put(grant, &mut store, &state(seed)).expect("commits");
    }
    assert_eq!(world.broker.head.sequence, clone.broker.head.sequence);
    std::mem::swap(&mut world.disk.image, &mut clone.disk.image);
    refused(&mut world, VolumeFault::Forked);
}

#[test]
fn a_broker_that_forgot_is_told_from_a_disk_that_did() {
    let mut world = lived(12);
    let forgetful: Broker = world.broker.clone();
    let mut memory = Memory::new();
    world.launch(&mut memory, &[]).expect("boots");
    world.launch(&mut memory, &[]).expect("boots");
    world.broker = forgetful;
    refused(&mut world, VolumeFault::NewerThanAnchor);
}

#[test]
fn creation_never_overwrites_somebody_elses_volume() {
    let mut world = lived(13);
    let honest = world.disk.image.clone();
    let mut memory = Memory::new();
    for at in [64, 80, 10] {
        world.disk.image.clone_from(&honest);
        (world.broker.head, world.broker.epoch) = (Head::NONE, 0);
        for area in [0, AREA] {
            world.disk.image[area + at] = if at == 10 { Mode::Sealed as u8 } else { b'!' };
        }
        let found = world.disk.image.clone();
        let created = world.launch(&mut memory, &state(1)).err();
        assert_eq!(created, Some(VolumeFault::Occupied.fault()));
        assert!(found == world.disk.image);
    }
}

#[test]
fn creation_under_a_grant_spares_the_newer_rest_of_an_earlier_attempt() {
    let mut world = lived(14);
    let newer = world.disk.image[AREA..].to_vec();
    (world.broker.head, world.broker.epoch) = (Head::NONE, 0);
    world.launch(&mut Memory::new(), &state(1)).expect("the grant allows it");
    assert!(world.disk.image[AREA..] == newer);
    assert!(open(&mut world, &mut Memory::new()).is_ok());
}

#[test]
fn no_two_objects_of_any_two_clones_share_a_key() {
    let world = lived(15);
    let mut names = BTreeSet::new();
    let mut count = 0;
    for seed in 0..4 {
        let mut clone = fork(&world, seed);
        let mut memory = Memory::new();
        let (grant, mut store) = clone.launch(&mut memory, &[]).expect("boots");
        for commit in 0..40 {
            clone.put(grant, &mut store, &state(commit)).expect("commits");
        }
        for request in clone.disk.trace.split_off(world.disk.trace.len()) {
            let crate::disk::Request::Write(_, object) = request else { continue };
            let salt = CheckpointHeader::parse(&object).map_or_else(
                || RecordHeader::read(&object).expect("a record").salt,
                |checkpoint| checkpoint.salt,
            );
            names.insert(salt);
            count += 1;
        }
    }
    assert_eq!((names.len(), count), (4 * 41, 4 * 41));
}
