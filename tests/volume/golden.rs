//! Old volumes still mean the same, and the same steps still make the same bytes.
//!
//! `HUSK_GOLDEN=write cargo test -p husk --test volume_laws golden` makes them anew, after a change of `format.md`.

use crate::disk::SimDisk;
use crate::world::{IDENTITY, Memory, Seeded, World};
use husk::release::unsealed::Unsealed;
use husk::volume::{NewestHead, VolumeFault, newest_unsealed_head};
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

fn newest(image: &[u8], block: usize) -> Result<Option<NewestHead>, VolumeFault> {
    let mut disk = SimDisk::new(0, block);
    disk.image = image.to_vec();
    let Memory { mut work, durable: mut state, .. } = Memory::new();
    newest_unsealed_head(&mut disk, &Unsealed::for_testing(), &IDENTITY, &mut work, &mut state)
}

#[test]
fn golden_volumes_have_the_heads_that_they_had() {
    let digests = ["447743a00483c7a0", "e16effe6017a6ef2"];
    for (block, digest) in [512, 4096].into_iter().zip(digests) {
        let image = std::fs::read(path(&format!("volume-unsealed-{block}.bin"))).expect("golden");
        let newest = newest(&image, block).expect("a volume").expect("not blank");
        assert_eq!((newest.epoch, newest.head.sequence), (2, 5));
        assert_eq!(hex::encode(&newest.head.digest[..8]), digest);
    }
}

#[test]
fn the_newest_unsealed_head_is_the_longest_authentic_chain() {
    let golden = std::fs::read(path("volume-unsealed-512.bin")).expect("golden");
    let half = golden.len() / 2;
    let sequence = |image: &[u8]| newest(image, 512).map(|newest| newest.map(|newest| newest.head.sequence));
    assert_eq!(sequence(&vec![0; golden.len()]), Ok(None));
    // Checkpoint of 1024 bytes, then records of 512: whatever is torn, what lies before it counts.
    for (torn, left) in [(half + 1024 + 1500, 4), (half + 1024 + 700, 3), (half + 1024, 2), (half + 1000, 1)]
    {
        let mut image = golden.clone();
        image[torn] ^= 1;
        assert_eq!(sequence(&image), Ok(Some(left)), "{torn}");
    }
    let mut image = golden;
    image[1000] ^= 1;
    image[half + 1000] ^= 1;
    assert_eq!(sequence(&image), Err(VolumeFault::Damaged));
    image[10] = 1;
    image[half + 10] = 1;
    assert_eq!(sequence(&image), Err(VolumeFault::Sealed));
}
