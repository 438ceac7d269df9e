//! Past a persistent object in libtpms' marshalled permanent state.
//!
//! The library's own order is from `NVMarshal.c` (libtpms 0.9); the public and the sensitive area are those of TPM 2.0 part 2, sections
//! "TPMT_PUBLIC" and "TPMT_SENSITIVE".

use super::walk::Walk;
use crate::bytes::Short;
use core::ops::Range;

/// ANY_OBJECT_MAGIC.
const ANY: (u32, Range<u16>) = (0xFE9A_3974, 2..3);
/// OBJECT_MAGIC.
const OBJECT: (u32, Range<u16>) = (0x75BE_73AF, 3..4);

/// TPM_ALG_ID (TCG Algorithm Registry).
mod alg {
    pub(super) const ERROR: u16 = 0x00;
    pub(super) const RSA: u16 = 0x01;
    pub(super) const HMAC: u16 = 0x05;
    pub(super) const KEYEDHASH: u16 = 0x08;
    pub(super) const XOR: u16 = 0x0A;
    pub(super) const NULL: u16 = 0x10;
    pub(super) const RSASSA: u16 = 0x14;
    pub(super) const RSAES: u16 = 0x15;
    pub(super) const RSAPSS: u16 = 0x16;
    pub(super) const OAEP: u16 = 0x17;
    pub(super) const ECDSA: u16 = 0x18;
    pub(super) const ECDH: u16 = 0x19;
    pub(super) const ECDAA: u16 = 0x1A;
    pub(super) const SM2: u16 = 0x1B;
    pub(super) const ECSCHNORR: u16 = 0x1C;
    pub(super) const ECMQV: u16 = 0x1D;
    pub(super) const ECC: u16 = 0x23;
    pub(super) const SYMCIPHER: u16 = 0x25;
}

/// Attributes of a slot whose object is no sequence: `occupied` set, the bits of `hmacSeq`, `hashSeq` and `eventSeq` clear (`Global.h`,
/// OBJECT_ATTRIBUTES).
const OCCUPIED: u32 = 1 << 15;
const SEQUENCES: u32 = 1 << 8 | 1 << 9 | 1 << 10;

/// Skips one object.
pub(super) fn skip(walk: &mut Walk<'_>) -> Result<(), Short> {
    walk.header(&ANY)?;
    let attributes = walk.u32()?;
    if attributes & (OCCUPIED | SEQUENCES) != OCCUPIED {
        return Err(Short);
    }
    walk.header(&OBJECT)?;
    public(walk)?;
    sensitive(walk)?;
    // privateExponent
    walk.block()?;
    sized(walk)?;
    // evictHandle, between the qualified name and the name
    walk.skip(4)?;
    sized(walk)?;
    // The object's block, then the slot's.
    walk.block()?;
    walk.block()
}

fn public(walk: &mut Walk<'_>) -> Result<(), Short> {
    let kind = walk.u16()?;
    // nameAlg, objectAttributes
    walk.skip(2 + 4)?;
    sized(walk)?;
    match kind {
        alg::RSA => {
            symmetric(walk)?;
            scheme(walk)?;
            // keyBits, exponent
            walk.skip(2 + 4)?;
        }
        alg::ECC => {
            symmetric(walk)?;
            scheme(walk)?;
            // curveID
            walk.skip(2)?;
            // kdf
            if walk.u16()? != alg::NULL {
                walk.skip(2)?;
            }
            sized(walk)?;
        }
        alg::KEYEDHASH => scheme(walk)?,
        alg::SYMCIPHER => symmetric(walk)?,
        _ => return Err(Short),
    }
    // unique; of a point, its second half
    sized(walk)
}

/// TPMT_SYM_DEF_OBJECT.
fn symmetric(walk: &mut Walk<'_>) -> Result<(), Short> {
    if walk.u16()? != alg::NULL {
        // keyBits, mode
        walk.skip(2 + 2)?;
    }
    Ok(())
}

/// TPMT_RSA_SCHEME, TPMT_ECC_SCHEME or TPMT_KEYEDHASH_SCHEME.
fn scheme(walk: &mut Walk<'_>) -> Result<(), Short> {
    let details = match walk.u16()? {
        alg::NULL | alg::RSAES => 0,
        alg::HMAC
        | alg::RSASSA
        | alg::RSAPSS
        | alg::OAEP
        | alg::ECDSA
        | alg::ECDH
        | alg::SM2
        | alg::ECSCHNORR
        | alg::ECMQV => 2,
        alg::XOR | alg::ECDAA => 4,
        _ => return Err(Short),
    };
    walk.skip(details).map(drop)
}

/// TPMT_SENSITIVE; of a public key that was loaded alone, its empty front.
fn sensitive(walk: &mut Walk<'_>) -> Result<(), Short> {
    let kind = walk.u16()?;
    sized(walk)?;
    sized(walk)?;
    match kind {
        alg::RSA | alg::ECC | alg::KEYEDHASH | alg::SYMCIPHER => sized(walk),
        alg::ERROR => Ok(()),
        _ => Err(Short),
    }
}

fn sized(walk: &mut Walk<'_>) -> Result<(), Short> {
    walk.sized(u16::MAX).map(drop)
}
