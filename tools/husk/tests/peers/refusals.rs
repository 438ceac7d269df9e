//! What a hostile host tries from outside, and the exit code that it gets.

use crate::nv;
use crate::stack::{Stack, Start, Started, blank};
use std::fs;

/// Exit codes of `husk vtpmd`: 10 and the number of the family.
const HOST: i32 = 12;
const BROKER: i32 = 13;
const SEAL: i32 = 14;

// Fault codes (src/manual/faults.md).
const TOO_SMALL: u32 = 0x0204_0001;
const BROKER_UNTRUSTED: u32 = 0x0206_0004;
const CONFIG_MALFORMED: u32 = 0x0207_0001;
const UNREACHABLE: u32 = 0x0306_0001;
const BUSY: u32 = 0x0306_0006;
const DENIED_SIMULATED: u32 = 0x0306_0008;
const DENIED_MEASUREMENT: u32 = 0x0306_0009;
const DENIED_LAUNCH_CONFIG: u32 = 0x0306_000A;
const BLANK: u32 = 0x0404_0010;
const NOT_A_VOLUME: u32 = 0x0404_0011;
const UNSEALED: u32 = 0x0404_0013;
const OTHER_SIZE: u32 = 0x0404_0018;
const ROLLED_BACK: u32 = 0x0404_001A;
const DAMAGED: u32 = 0x0404_001C;

/// Offset of the sequence in a checkpoint (`volume/format.md`, section 3).
const SEQUENCE_AT: usize = 112;

/// Leaves a TPM with an index on the disk, both areas in use, and a copy of the disk from before the last write.
pub(crate) fn prepare(stack: &Stack) {
    stack.boot().shut_down();
    let tpm = stack.boot();
    tpm.run_line("nvdefine 0x1500001 -C o -s 7 -a ownerread|ownerwrite");
    fs::write(tpm.path("content"), b"content").unwrap();
    fs::copy(stack.path("volume"), stack.path("older")).unwrap();
    tpm.run_line("nvwrite 0x1500001 -C o -i content");
    tpm.shut_down();
}

fn honest(stack: &Stack) {
    let tpm = stack.boot();
    assert_eq!(nv(&tpm, "0x1500001"), b"content");
    tpm.shut_down();
}

/// A start on a disk of these bytes is refused, and leaves them as they were.
fn refused_disk(stack: &Stack, bytes: &[u8], family: i32, fault: u32) {
    fs::write(stack.path("attack"), bytes).unwrap();
    stack.refuses(Start { volume: "attack", ..Start::default() }, family, fault);
    assert!(fs::read(stack.path("attack")).unwrap() == bytes, "nothing is written");
}

pub(crate) fn of_disks(stack: &Stack) {
    let newest = fs::read(stack.path("volume")).unwrap();
    let half = newest.len() / 2;
    let sequence = |area: usize| u64::from_le_bytes(newest[area + SEQUENCE_AT..][..8].try_into().unwrap());
    let head = if sequence(half) > sequence(0) { half } else { 0 };
    // Magic, previous digest, ciphertext; a format and a VM that are not ours leave the older area to be told of.
    for (at, fault) in [(0, DAMAGED), (152, DAMAGED), (300, DAMAGED), (8, ROLLED_BACK), (80, ROLLED_BACK)] {
        let mut flipped = newest.clone();
        flipped[head + at] ^= 1;
        refused_disk(stack, &flipped, SEAL, fault);
    }
    refused_disk(stack, &vec![0; newest.len()], SEAL, BLANK);
    refused_disk(stack, &vec![0xDB; newest.len()], SEAL, NOT_A_VOLUME);
    refused_disk(stack, &fs::read(stack.path("older")).unwrap(), SEAL, ROLLED_BACK);
    let unsealed = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/volume-unsealed-512.bin");
    refused_disk(stack, &fs::read(unsealed).unwrap(), SEAL, UNSEALED);
    refused_disk(stack, &newest[..half], SEAL, OTHER_SIZE);
    refused_disk(stack, &newest[..8192], HOST, TOO_SMALL);
    honest(stack);
    // That boot was a newer epoch: what was newest before it is an old copy now.
    refused_disk(stack, &newest, SEAL, ROLLED_BACK);
    honest(stack);
}

pub(crate) fn of_launches(stack: &Stack) {
    fs::write(stack.path("changed"), b"firmware of a tesT").unwrap();
    stack.refuses(Start { firmware: "changed", ..Start::default() }, BROKER, DENIED_MEASUREMENT);
    let config = fs::read_to_string(stack.path("config")).unwrap();
    fs::write(stack.path("garbled"), config.replace('=', ":")).unwrap();
    stack.refuses(Start { config: "garbled", ..Start::default() }, HOST, CONFIG_MALFORMED);
    // Configurations of the right form that the tenant did not enrol: another root refuses this broker, and HOST_DATA
    // betrays the rest.
    let (before, root) = config.split_once("husk.root\" = \"").unwrap();
    let flipped = if root.starts_with('0') { '1' } else { '0' };
    fs::write(stack.path("rootless"), format!("{before}husk.root\" = \"{flipped}{}", &root[1..])).unwrap();
    stack.refuses(Start { config: "rootless", ..Start::default() }, HOST, BROKER_UNTRUSTED);
    let (before, _) = config.split_once("husk.min_key_generation").unwrap();
    fs::write(stack.path("foreign"), format!("{before}husk.min_key_generation\" = \"0\"\n")).unwrap();
    stack.refuses(Start { config: "foreign", ..Start::default() }, BROKER, DENIED_LAUNCH_CONFIG);
    honest(stack);
}

/// A second instance, on a copy of the disk and on the disk itself; the first serves on.
pub(crate) fn of_second_instances(stack: &Stack) {
    let first = stack.boot();
    fs::copy(stack.path("volume"), stack.path("clone")).unwrap();
    let clone = Start { volume: "clone", wait_seconds: "0", ..Start::default() };
    stack.refuses(clone, BROKER, BUSY);
    match stack.start(Start::default()) {
        Started::Refused(1, said) => assert!(said.contains("another process"), "{said}"),
        Started::Refused(code, said) => panic!("{code}: {said}"),
        Started::Serves(_) => panic!("two processes have one volume"),
    }
    assert_eq!(nv(&first, "0x1500001"), b"content");
    first.shut_down();
    blank(&stack.path("clone"));
    stack.refuses(Start { wait_seconds: "30", ..clone }, SEAL, BLANK);
    honest(stack);
}

pub(crate) fn of_brokers(stack: &mut Stack) {
    stack.restart_broker(false);
    refused_after_reconnecting(stack, DENIED_SIMULATED);
    stack.stop_broker();
    stack.refuses(Start::default(), BROKER, UNREACHABLE);
    stack.restart_broker(true);
    honest(stack);
}

/// The relay's connection went with the old broker: the first hello after that may find nobody.
fn refused_after_reconnecting(stack: &Stack, fault: u32) {
    for _ in 0..2 {
        match stack.start(Start::default()) {
            Started::Refused(BROKER, said) if said.contains(&format!("{fault:#010x}")) => return,
            Started::Refused(BROKER, said) if said.contains(&format!("{UNREACHABLE:#010x}")) => {}
            Started::Refused(code, said) => panic!("{code}: {said}"),
            Started::Serves(_) => panic!("IT SERVED"),
        }
    }
    panic!("the relay does not find the broker again");
}
