//! Commands of any kind from the grammar, valid as far as chance has it, and then perhaps spoilt.

use super::dice::Dice;
use super::grammar::{COMMANDS, Field, Row, Slot};
use super::templates;
use super::wire::{HEADER_BYTES, be32, cc, command, rh, sized};

/// Hashes: SHA-256 mostly; SHA-1, SHA-384, SHA-512, and one that is not there.
const HASHES: [(u16, usize); 6] = [(0x0B, 32), (0x0B, 32), (0x04, 20), (0x0C, 48), (0x0D, 64), (0x12, 32)];

/// What there is in this TPM that a command may name.
#[derive(Clone, Debug)]
pub(super) struct Surroundings<'a> {
    /// Every client's indices and persistent objects.
    pub(super) indices: &'a [u32],
    pub(super) persistent: &'a [u32],
    /// The owner's password, for commands that leave alone what the model knows.
    pub(super) owner: &'a [u8],
}

/// The PCR that any command may change; the model leaves it out.
const SANDBOX_PCR: u32 = 16;

/// A command, and the name of its row.
pub(super) fn command_of_any_kind(dice: &mut Dice, around: &Surroundings<'_>) -> (Vec<u8>, &'static str) {
    let row = dice.one_of(COMMANDS).unwrap_or(COMMANDS[0]);
    // Looking for a prime takes long: now and then is enough.
    let spoilt = dice.below(5) < 2;
    let mut bytes = build(dice, &row, around, spoilt);
    if spoilt {
        spoil(&mut bytes, dice);
    }
    keep_from_the_models_pcrs(&mut bytes);
    (bytes, row.name)
}

/// A command by its row. A password that is right goes only into what can harm nothing, and only unspoilt.
fn build(dice: &mut Dice, row: &Row, around: &Surroundings<'_>, spoilt: bool) -> Vec<u8> {
    let handles: Vec<u32> = row.handles.iter().map(|slot| handle(dice, *slot, around)).collect();
    let harmless = matches!(row.name, "CreatePrimary" | "CreateLoaded") && !spoilt;
    let password = |at: usize, dice: &mut Dice| match handles.get(at) {
        Some(&rh::OWNER) if harmless => around.owner.to_vec(),
        _ if dice.once_in(8) => dice.bytes(4),
        _ => Vec::new(),
    };
    let passwords: Vec<Vec<u8>> = (0..row.auths).map(|at| password(at, dice)).collect();
    let passwords: Vec<&[u8]> = passwords.iter().map(Vec::as_slice).collect();
    let parameters: Vec<u8> = row.fields.iter().flat_map(|one| field(dice, *one, around)).collect();
    command(row.code, &handles, &passwords, &parameters)
}

fn handle(dice: &mut Dice, slot: Slot, around: &Surroundings<'_>) -> u32 {
    if dice.once_in(20) {
        return dice.word();
    }
    let numbered = |dice: &mut Dice, base: u32| base + dice.word() % 3;
    match slot {
        Slot::Hierarchy => {
            dice.one_of(&[rh::OWNER, rh::OWNER, rh::ENDORSEMENT, rh::PLATFORM, rh::NULL]).unwrap_or(rh::NULL)
        }
        Slot::Platform => rh::PLATFORM,
        // Each failure here is charged durably and closes the door until the next start.
        Slot::Lockout => dice.one_of(&[rh::PLATFORM, rh::PLATFORM, rh::LOCKOUT]).unwrap_or(rh::PLATFORM),
        Slot::Object if dice.once_in(3) => dice.one_of(around.persistent).unwrap_or(rh::NULL),
        Slot::Object | Slot::Sequence => numbered(dice, 0x8000_0000),
        Slot::Index => dice.one_of(around.indices).unwrap_or(0x0100_0000),
        Slot::IndexAuth if dice.once_in(2) => rh::OWNER,
        Slot::IndexAuth => dice.one_of(around.indices).unwrap_or(0x0100_0000),
        Slot::Pcr => SANDBOX_PCR,
        Slot::Policy => numbered(dice, 0x0300_0000),
        Slot::Session => numbered(dice, 0x0200_0000),
        Slot::Entity => {
            let slots = [Slot::Hierarchy, Slot::Object, Slot::Index, Slot::Policy, Slot::Session, Slot::Pcr];
            let slot = dice.one_of(&slots).unwrap_or(Slot::Hierarchy);
            handle(dice, slot, around)
        }
    }
}

fn field(dice: &mut Dice, field: Field, around: &Surroundings<'_>) -> Vec<u8> {
    match field {
        Field::U8 => vec![dice.byte() & 3],
        Field::U16 => small(dice, 64).to_be_bytes().to_vec(),
        Field::U32 => capability_like(dice).to_be_bytes().to_vec(),
        Field::U64 => dice.next().to_be_bytes().to_vec(),
        Field::Bytes => {
            let length = if dice.once_in(10) { dice.below(1024) } else { dice.below(40) };
            sized(&dice.bytes(length))
        }
        Field::Digest => {
            let length = dice.one_of(&[0, 32, 32, 20, 48]).unwrap_or(0);
            sized(&dice.bytes(length))
        }
        Field::Hash => hash(dice).0.to_be_bytes().to_vec(),
        Field::Hierarchy => handle(dice, Slot::Hierarchy, around).to_be_bytes().to_vec(),
        Field::Handle => handle(dice, Slot::Entity, around).to_be_bytes().to_vec(),
        Field::Selection => selection(dice),
        Field::Digests => {
            let (algorithm, length) = hash(dice);
            [&[0, 0, 0, 1][..], &algorithm.to_be_bytes(), &dice.bytes(length)].concat()
        }
        Field::DigestList => {
            let count = dice.below(9);
            let digests: Vec<u8> = (0..count).flat_map(|_| sized(&dice.bytes(32))).collect();
            [&word(count)[..], &digests].concat()
        }
        Field::List => {
            let count = dice.below(4);
            let entries: Vec<u8> = (0..count).flat_map(|_| small(dice, 0x30).to_be_bytes()).collect();
            [&word(count)[..], &entries].concat()
        }
        Field::Sensitive
        | Field::Public
        | Field::IndexPublic
        | Field::Symmetric
        | Field::Scheme
        | Field::Signature
        | Field::Ticket
        | Field::Point
        | Field::Parms
        | Field::Context => templates::structure(dice, field),
    }
}

fn word(count: usize) -> [u8; 4] {
    u32::try_from(count).unwrap_or(0).to_be_bytes()
}

/// A hash: its identifier and its digest's size.
pub(super) fn hash(dice: &mut Dice) -> (u16, usize) {
    dice.one_of(&HASHES).unwrap_or(HASHES[0])
}

fn small(dice: &mut Dice, bound: usize) -> u16 {
    u16::try_from(dice.below(bound)).unwrap_or(0)
}

/// Capabilities, properties, counts, command codes, times: mostly small.
fn capability_like(dice: &mut Dice) -> u32 {
    match dice.below(5) {
        0 => dice.word(),
        1 => 0x100 + dice.word() % 0x100,
        2 => 0x8000_0000,
        _ => dice.word() % 16,
    }
}

fn selection(dice: &mut Dice) -> Vec<u8> {
    let count = dice.below(3);
    let one = |dice: &mut Dice| [&hash(dice).0.to_be_bytes()[..], &[3], &dice.bytes(3)].concat();
    let selections: Vec<u8> = (0..count).flat_map(|_| one(dice)).collect();
    [&word(count)[..], &selections].concat()
}

/// Changes what follows the size, or drops or adds bytes; the size stays true, so that the next command is one.
fn spoil(bytes: &mut Vec<u8>, dice: &mut Dice) {
    for _ in 0..=dice.below(3) {
        let at = dice.below(bytes.len());
        match dice.below(6) {
            0 => bytes.truncate(at.max(HEADER_BYTES)),
            1 => bytes.extend(dice.bytes(1 + at % 40)),
            2 => bytes.iter_mut().skip(at.max(6)).take(2).for_each(|byte| *byte = 0xFF),
            3 => bytes.iter_mut().take(2).for_each(|byte| *byte ^= dice.byte() & 3),
            4 => bytes.iter_mut().skip(at.max(6)).take(1).for_each(|byte| *byte = 0),
            _ => bytes.iter_mut().skip(at.max(6)).take(1).for_each(|byte| *byte ^= 1 << dice.below(8)),
        }
    }
    let total = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    bytes[2..6].copy_from_slice(&total);
}

/// PCRs have no password that could be withheld: whatever a command has become, it may change the sandbox only.
fn keep_from_the_models_pcrs(bytes: &mut [u8]) {
    let changes_a_pcr =
        [cc::PCR_EXTEND, cc::PCR_EVENT, cc::PCR_RESET, cc::PCR_SET_AUTH_VALUE, cc::EVENT_SEQUENCE_COMPLETE];
    if changes_a_pcr.contains(&be32(bytes, 6))
        && let Some(handle) = bytes.get_mut(HEADER_BYTES..HEADER_BYTES + 4)
    {
        handle.copy_from_slice(&SANDBOX_PCR.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::{Surroundings, command_of_any_kind};
    use crate::soak::dice::Dice;
    use crate::soak::wire::be32;
    use std::collections::BTreeSet;

    #[test]
    fn a_seed_decides_every_byte_and_every_command_comes() {
        let around = Surroundings { indices: &[0x0150_0000], persistent: &[0x8100_0000], owner: b"owner" };
        let drawn = |seed| {
            let mut dice = Dice::of(seed, 1);
            (0..3000).map(|_| command_of_any_kind(&mut dice, &around)).collect::<Vec<_>>()
        };
        let commands = drawn(7);
        assert!(commands == drawn(7) && commands != drawn(8));
        let names: BTreeSet<&str> = commands.iter().map(|(_, name)| *name).collect();
        assert_eq!(names.len(), super::COMMANDS.len());
        for (bytes, name) in &commands {
            assert!((10..=4096).contains(&bytes.len()), "{name}");
            assert_eq!(be32(bytes, 2) as usize, bytes.len(), "{name}");
            let changes_a_pcr = [0x13C, 0x13D, 0x182, 0x183, 0x185].contains(&be32(bytes, 6));
            assert!(!changes_a_pcr || bytes.len() < 14 || be32(bytes, 10) == 16, "{name}");
        }
    }
}
