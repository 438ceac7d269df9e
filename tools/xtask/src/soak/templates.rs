//! Structures of TPM 2.0 part 2 that commands carry, mostly such as a TPM accepts.

use super::dice::Dice;
use super::generate::hash;
use super::grammar::Field;
use super::wire::{rh, sized};

const ALG_RSA: u16 = 0x01;
const ALG_AES: u16 = 0x06;
const ALG_KEYEDHASH: u16 = 0x08;
const ALG_SHA256: u16 = 0x0B;
const ALG_NULL: u16 = 0x10;
const ALG_ECDSA: u16 = 0x18;
const ALG_ECC: u16 = 0x23;
const ALG_SYMCIPHER: u16 = 0x25;
const ALG_CFB: u16 = 0x43;
const CURVE_P256: u16 = 0x03;

/// TPMA_OBJECT: fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA.
const KEY: u32 = 0x0000_0472;
/// The same for data that comes from outside.
const DATA: u32 = 0x0000_0452;
const RESTRICTED: u32 = 1 << 16;
const DECRYPT: u32 = 1 << 17;
const SIGN: u32 = 1 << 18;

fn shorts(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// One of the structured parameters.
pub(super) fn structure(dice: &mut Dice, field: Field) -> Vec<u8> {
    match field {
        Field::Sensitive => {
            let data = if dice.once_in(4) { dice.bytes(16) } else { Vec::new() };
            sized(&[sized(&[]), sized(&data)].concat())
        }
        Field::Public => public(dice),
        Field::IndexPublic => {
            let index = 0x0180_0000 + dice.word() % 16;
            let attributes = dice.one_of(&[0x0204_0004, 0x0204_0014, 0x0204_0024, 0x0000_0000]).unwrap_or(0);
            sized(&index_public(index, attributes, 8))
        }
        Field::Symmetric => {
            dice.one_of(&[&[ALG_NULL][..], &[ALG_AES, 128, ALG_CFB]]).map(shorts).unwrap_or_default()
        }
        Field::Scheme => {
            dice.one_of(&[&[ALG_NULL][..], &[ALG_ECDSA, ALG_SHA256]]).map(shorts).unwrap_or_default()
        }
        Field::Signature => {
            [shorts(&[ALG_ECDSA, hash(dice).0]), sized(&dice.bytes(32)), sized(&dice.bytes(32))].concat()
        }
        // TPM_ST_HASHCHECK and its neighbours, mostly the ticket that says nothing.
        Field::Ticket => {
            let tag = 0x8021 + u16::from(dice.byte() & 3);
            let digest = if dice.once_in(3) { dice.bytes(32) } else { Vec::new() };
            [&tag.to_be_bytes()[..], &rh::NULL.to_be_bytes(), &sized(&digest)].concat()
        }
        Field::Point => sized(&[sized(&dice.bytes(32)), sized(&dice.bytes(32))].concat()),
        Field::Parms => parms(dice),
        Field::Context => {
            let blob = dice.bytes(80);
            [
                &dice.next().to_be_bytes()[..],
                &0x8000_0000u32.to_be_bytes(),
                &rh::OWNER.to_be_bytes(),
                &sized(&blob),
            ]
            .concat()
        }
        _ => Vec::new(),
    }
}

fn parms(dice: &mut Dice) -> Vec<u8> {
    match dice.below(4) {
        0 => shorts(&[ALG_RSA, ALG_NULL, ALG_NULL, 2048, 0, 0]),
        1 => shorts(&[ALG_ECC, ALG_NULL, ALG_NULL, CURVE_P256, ALG_NULL]),
        2 => shorts(&[ALG_SYMCIPHER, ALG_AES, 128, ALG_CFB]),
        _ => dice.bytes(12),
    }
}

fn public(dice: &mut Dice) -> Vec<u8> {
    let unique = dice.bytes(8);
    match dice.below(16) {
        0..=5 => sized(&storage_key(&unique)),
        6..=10 => sized(&area(
            ALG_ECC,
            KEY | SIGN,
            &shorts(&[ALG_NULL, ALG_NULL, CURVE_P256, ALG_NULL]),
            &[sized(&unique), sized(&[])].concat(),
        )),
        11 | 12 => sized(&area(ALG_KEYEDHASH, DATA, &shorts(&[ALG_NULL]), &sized(&[]))),
        13 => sized(&area(ALG_SYMCIPHER, KEY | DECRYPT, &shorts(&[ALG_AES, 128, ALG_CFB]), &sized(&unique))),
        // A prime takes a third of a second.
        14 if dice.once_in(20) => sized(&area(
            ALG_RSA,
            KEY | SIGN,
            &[shorts(&[ALG_NULL, ALG_NULL, 2048]), vec![0; 4]].concat(),
            &sized(&unique),
        )),
        _ => sized(&dice.bytes(40)),
    }
}

/// TPMT_PUBLIC with SHA-256 names and no policy.
fn area(kind: u16, attributes: u32, parameters: &[u8], unique: &[u8]) -> Vec<u8> {
    [&shorts(&[kind, ALG_SHA256])[..], &attributes.to_be_bytes(), &sized(&[]), parameters, unique].concat()
}

/// TPMT_PUBLIC of a P-256 storage key; a primary key is decided by what is in `unique`.
pub(super) fn storage_key(unique: &[u8]) -> Vec<u8> {
    let parameters = shorts(&[ALG_AES, 128, ALG_CFB, ALG_NULL, CURVE_P256, ALG_NULL]);
    area(ALG_ECC, KEY | RESTRICTED | DECRYPT, &parameters, &[sized(unique), sized(&[])].concat())
}

/// TPMS_NV_PUBLIC with SHA-256 names and no policy.
pub(super) fn index_public(index: u32, attributes: u32, bytes: u16) -> Vec<u8> {
    [
        &index.to_be_bytes()[..],
        &ALG_SHA256.to_be_bytes(),
        &attributes.to_be_bytes(),
        &sized(&[]),
        &bytes.to_be_bytes(),
    ]
    .concat()
}
