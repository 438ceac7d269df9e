//! Where some numbers and a seed lie in libtpms' marshalled permanent state.
//!
//! The library has no call that sets the reset count or the clock, so they are put into the state before it is loaded.
//! The state is walked from its start, header by header; a state that is not understood to the last step is refused, not
//! guessed at. The order was read from the library's marshalling code (libtpms 0.9 and 0.10, `NVMarshal.c`); all
//! integers are big-endian.

use super::walk::Walk;
use crate::bytes::Short;
use core::ops::Range;

/// Header of the whole: PERSISTENT_ALL_MAGIC; version 3 (libtpms 0.9) or 4 (0.10, which adds a profile).
pub(super) const ALL: (u32, Range<u16>) = (0xAB36_4723, 3..5);
/// PA_COMPILE_CONSTANTS_MAGIC: the sizes that the library was built with.
const CONSTANTS: (u32, Range<u16>) = (0xC9EA_6431, 3..5);
/// PERSISTENT_DATA_MAGIC: version 4 (libtpms 0.9) or 5 (0.10).
const PERSISTENT: (u32, Range<u16>) = (0x1221_3443, 4..6);
/// ORDERLY_DATA_MAGIC.
pub(super) const ORDERLY: (u32, Range<u16>) = (0x5665_7887, 2..3);

/// No more constants than this.
const CONSTANTS_MAX: u32 = 1024;
/// Policies and authorizations are digests, seeds and proofs have PRIMARY_SEED_SIZE: 64 bytes at most.
const TPM2B_BYTES_MAX: u16 = 64;
/// HASH_COUNT banks at most, of PCR_SELECT_MAX bytes.
const BANKS_MAX: u32 = 16;
const PCR_SELECT_BYTES_MAX: u8 = 4;
/// Bitmaps of commands: one bit for each of at most 512.
const BITMAP_BYTES_MAX: u16 = 64;
/// A profile is a short JSON text.
const PROFILE_BYTES_MAX: u16 = 8192;

/// TPM_SU_STATE in `orderlyState`, beneath the two flags of the library (PRE_STARTUP_FLAG, STARTUP_LOCALITY_3).
const SU_STATE: u16 = 1;
const SU_FLAGS: u16 = 0xC000;
/// Values from here on say that there was no orderly shutdown (SU_DA_USED_VALUE, SU_NONE_VALUE).
const SU_DISORDERLY: u16 = 0xFFFE;

/// TPM2_SetCommandCodeAuditStatus is audited in every TPM: bit 31 in a bitmap that leaves out commands that are not
/// implemented (libtpms 0.9), bit 33 in one that does not (0.10).
const AUDIT_DEFAULTS: [usize; 2] = [31, 33];

/// Offsets into a permanent state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Permall {
    /// Where the endorsement primary seed lies (EPSeed).
    pub(super) endorsement_seed: Range<usize>,
    reset_count: usize,
    /// failedTries, maxTries, recoveryTime, lockoutRecovery (four bytes each), lockOutAuthEnabled (one).
    attempts: Range<usize>,
    orderly_state: usize,
    audit_commands: Range<usize>,
    /// Where ORDERLY_DATA begins.
    pub(super) orderly_data: usize,
    clock: usize,
}

impl Permall {
    /// Walks `state`; `None` if it is not one that this code knows.
    pub(super) fn find(state: &[u8]) -> Option<Self> {
        Walk::begin(state, 0).and_then(|mut walk| permall(&mut walk)).ok()
    }

    /// Whether the TPM was shut down with its volatile state kept (TPM2_Shutdown(STATE)).
    pub(super) fn holds_saved_state(&self, state: &[u8]) -> bool {
        let orderly = state
            .get(self.orderly_state..)
            .and_then(|rest| rest.first_chunk())
            .map_or(SU_DISORDERLY, |bytes| u16::from_be_bytes(*bytes));
        orderly < SU_DISORDERLY && orderly & !SU_FLAGS == SU_STATE
    }

    /// Whether any command is audited beyond the one that always is.
    pub(super) fn audits(&self, state: &[u8]) -> bool {
        let Some(bitmap) = state.get(self.audit_commands.clone()) else { return true };
        let alone = |bit: usize| {
            bitmap
                .iter()
                .enumerate()
                .all(|(at, byte)| *byte == if at == bit / 8 { 1 << (bit % 8) } else { 0 })
        };
        !AUDIT_DEFAULTS.into_iter().any(alone)
    }

    /// Puts the reset count in.
    pub(super) fn set_reset_count(&self, state: &mut [u8], count: u32) {
        put(state, self.reset_count, count.to_be_bytes());
    }

    /// Takes every attempt that dictionary attack protection allows as made, and lockoutAuth as tried. Where the owner has switched that
    /// protection off (recoveryTime is zero) there is nothing to spend.
    pub(super) fn spend_attempts(&self, state: &mut [u8]) {
        let Some([failed @ .., lockout_enabled]) = state.get_mut(self.attempts.clone()) else { return };
        let Some((failed, rest)) = failed.split_first_chunk_mut::<4>() else { return };
        let Some((max, rest)) = rest.split_first_chunk::<4>() else { return };
        if rest.first_chunk() != Some(&[0; 4]) && *failed < *max {
            *failed = *max;
        }
        *lockout_enabled = 0;
    }

    /// Puts the clock forward to `clock_ms_min`, if it stands before that.
    pub(super) fn raise_clock(&self, state: &mut [u8], clock_ms_min: u64) {
        let Some(bytes) = state.get(self.clock..).and_then(|rest| rest.first_chunk()) else { return };
        let clock_ms = u64::from_be_bytes(*bytes).max(clock_ms_min);
        put(state, self.clock, clock_ms.to_be_bytes());
    }
}

fn put<const N: usize>(state: &mut [u8], at: usize, bytes: [u8; N]) {
    if let Some(place) = state.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *place = bytes;
    }
}

fn permall(walk: &mut Walk<'_>) -> Result<Permall, Short> {
    if walk.header(&ALL)? > ALL.1.start {
        walk.sized(PROFILE_BYTES_MAX)?;
    }
    constants(walk)?;
    walk.header(&PERSISTENT)?;
    // disableClear; the hash algorithms of three policies.
    walk.skip(1 + 3 * 2)?;
    // Three policies, three authorizations.
    for _ in 0..6 {
        walk.sized(TPM2B_BYTES_MAX)?;
    }
    let endorsement_seed = walk.sized(TPM2B_BYTES_MAX)?;
    // Two more seeds, three proofs.
    for _ in 0..5 {
        walk.sized(TPM2B_BYTES_MAX)?;
    }
    // totalResetCount
    walk.skip(8)?;
    let reset_count = walk.skip(4)?.start;
    // pcrPolicies
    walk.block()?;
    pcr_selections(walk)?;
    // ppList
    walk.sized(BITMAP_BYTES_MAX)?;
    let attempts = walk.skip(4 * 4 + 1)?;
    let orderly_state = walk.skip(2)?.start;
    let audit_commands = walk.sized(BITMAP_BYTES_MAX)?;
    // auditHashAlg, auditCounter, algorithmSet, two firmware versions
    walk.skip(2 + 8 + 4 + 4 + 4)?;
    time_epoch(walk)?;
    walk.block()?;
    let orderly_data = walk.at();
    walk.header(&ORDERLY)?;
    let clock = walk.skip(8)?.start;
    Ok(Permall {
        endorsement_seed,
        reset_count,
        attempts,
        orderly_state,
        audit_commands,
        orderly_data,
        clock,
    })
}

fn constants(walk: &mut Walk<'_>) -> Result<(), Short> {
    walk.header(&CONSTANTS)?;
    let count = walk.u32()?;
    if count > CONSTANTS_MAX {
        return Err(Short);
    }
    for _ in 0..count {
        walk.skip(4)?;
    }
    walk.block()
}

fn pcr_selections(walk: &mut Walk<'_>) -> Result<(), Short> {
    let count = walk.u32()?;
    if count > BANKS_MAX {
        return Err(Short);
    }
    for _ in 0..count {
        walk.skip(2)?;
        let bytes = walk.byte()?;
        if bytes > PCR_SELECT_BYTES_MAX {
            return Err(Short);
        }
        walk.skip(usize::from(bytes))?;
    }
    Ok(())
}

fn time_epoch(walk: &mut Walk<'_>) -> Result<(), Short> {
    match walk.byte()? {
        size @ (4 | 8) => walk.skip(usize::from(size)).map(drop),
        _ => Err(Short),
    }
}

#[cfg(test)]
mod tests {
    use super::Permall;

    #[test]
    fn what_is_not_a_permanent_state_is_not_walked() {
        for len in [0, 1, 8, 2000] {
            for fill in [0, 1, 0x7F, 0xFF] {
                assert_eq!(Permall::find(&[fill; 2000][..len]), None);
            }
        }
    }
}
