//! Old volumes still mean the same, and the same steps still make the same bytes.
//!
//! `HUSK_GOLDEN=write cargo test -p husk --test volume_laws golden` makes them anew, after a change of `format.md`.

use crate::disk::SimDisk;
use crate::world::{Memory, Seeded, World};
use husk::release::unsealed::Unsealed;
use husk::volume::newest_unsealed_head;
use std::path::PathBuf;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn state(seed: u64) -> Vec<u8> {
    Seeded(seed).bytes(500)
}

/// Two launches, an in-place change, an insertion and a removal.
fn made(block: usize) -> World {
    let mut world = World::new(SimDisk::new(16 * 1024, block), 1);
    let mut memory = Memory::new();
    world.launch(&mut memory, &state(1)).expect("creates");
    let (grant, mut store) = world.launch(&mut memory, &[]).expect("boots");
    let mut next = state(1);
    next[7] ^= 0xFF;
    world.put(grant, &mut store, &next).expect("commits");
    next.splice(30..30, *b"inserted");
    world.put(grant, &mut store, &next).expect("commits");
    next.drain(400..450);
    world.put(grant, &mut store, &next).expect("commits");
    world
}

#[test]
fn golden_volumes_are_made_and_opened_byte_for_byte() {
    for block in [512, 4096] {
        let world = made(block);
        let file = path(&format!("volume-unsealed-{block}.bin"));
        if std::env::var_os("HUSK_GOLDEN").is_some_and(|value| value == "write") {
            std::fs::write(&file, &world.disk.image).expect("the golden volume is written");
        }
        let golden = std::fs::read(&file).expect("tests/data holds the golden volume");
        assert!(golden == world.disk.image, "{block}: format 1 is not what it was");
    }
}

#[test]
fn golden_volumes_have_the_heads_that_they_had() {
    let digests = ["447743a00483c7a0", "e16effe6017a6ef2"];
    for (block, digest) in [512, 4096].into_iter().zip(digests) {
        let mut disk = SimDisk::new(0, block);
        disk.image = std::fs::read(path(&format!("volume-unsealed-{block}.bin"))).expect("golden");
        let mut memory = Memory::new();
        let newest = newest_unsealed_head(
            &mut disk,
            &Unsealed::for_testing(),
            &crate::world::IDENTITY,
            &mut memory.work,
            &mut memory.durable,
        );
        let newest = newest.expect("a volume").expect("not blank");
        assert_eq!((newest.epoch, newest.head.sequence), (2, 5));
        assert_eq!(hex::encode(&newest.head.digest[..8]), digest);
    }
}
