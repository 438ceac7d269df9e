//! Where three numbers and a seed lie in libtpms' marshalled permanent state.
//!
//! The library has no call that sets the reset count or the clock, so they are put into the state before it is loaded.
//! The state is walked from its start, header by header; a state that is not understood to the last step is refused, not
//! guessed at. The order was read from the library's marshalling code (libtpms 0.9 and 0.10, `NVMarshal.c`); all
//! integers are big-endian.

use crate::bytes::{Reader, Short};
use core::ops::Range;

/// Header of the whole: PERSISTENT_ALL_MAGIC; version 3 (libtpms 0.9) or 4 (0.10, which adds a profile).
const ALL: (u32, Range<u16>) = (0xAB36_4723, 3..5);
/// PA_COMPILE_CONSTANTS_MAGIC: the sizes that the library was built with.
const CONSTANTS: (u32, Range<u16>) = (0xC9EA_6431, 3..5);
/// PERSISTENT_DATA_MAGIC: version 4 (libtpms 0.9) or 5 (0.10).
const PERSISTENT: (u32, Range<u16>) = (0x1221_3443, 4..6);
/// ORDERLY_DATA_MAGIC.
const ORDERLY: (u32, Range<u16>) = (0x5665_7887, 2..3);

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
    orderly_state: usize,
    audit_commands: Range<usize>,
    clock: usize,
}

impl Permall {
    /// Walks `state`; `None` if it is not one that this code knows.
    pub(super) fn find(state: &[u8]) -> Option<Self> {
        let mut walk = Walk { reader: Reader::new(state), len: state.len() };
        walk.permall().ok()
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

struct Walk<'s> {
    reader: Reader<'s>,
    len: usize,
}

impl Walk<'_> {
    fn permall(&mut self) -> Result<Permall, Short> {
        if self.header(&ALL)? > ALL.1.start {
            self.sized(PROFILE_BYTES_MAX)?;
        }
        self.constants()?;
        self.header(&PERSISTENT)?;
        // disableClear; the hash algorithms of three policies.
        self.skip(1 + 3 * 2)?;
        // Three policies, three authorizations.
        for _ in 0..6 {
            self.sized(TPM2B_BYTES_MAX)?;
        }
        let endorsement_seed = self.sized(TPM2B_BYTES_MAX)?;
        // Two more seeds, three proofs.
        for _ in 0..5 {
            self.sized(TPM2B_BYTES_MAX)?;
        }
        // totalResetCount
        self.skip(8)?;
        let reset_count = self.skip(4)?.start;
        // pcrPolicies
        self.block()?;
        self.pcr_selections()?;
        // ppList
        self.sized(BITMAP_BYTES_MAX)?;
        // failedTries, maxTries, recoveryTime, lockoutRecovery, lockOutAuthEnabled
        self.skip(4 * 4 + 1)?;
        let orderly_state = self.skip(2)?.start;
        let audit_commands = self.sized(BITMAP_BYTES_MAX)?;
        // auditHashAlg, auditCounter, algorithmSet, two firmware versions
        self.skip(2 + 8 + 4 + 4 + 4)?;
        self.time_epoch()?;
        self.block()?;
        self.header(&ORDERLY)?;
        let clock = self.skip(8)?.start;
        Ok(Permall { endorsement_seed, reset_count, orderly_state, audit_commands, clock })
    }

    fn at(&self) -> usize {
        self.len - self.reader.rest().len()
    }

    fn skip(&mut self, count: usize) -> Result<Range<usize>, Short> {
        let start = self.at();
        self.reader.take(count)?;
        Ok(start..start + count)
    }

    fn byte(&mut self) -> Result<u8, Short> {
        self.reader.array().map(|[byte]| byte)
    }

    /// A header: version, magic, lowest version that reads it. Returns the version.
    fn header(&mut self, (magic, versions): &(u32, Range<u16>)) -> Result<u16, Short> {
        let version = self.reader.u16_be()?;
        let known = self.reader.u32_be()? == *magic && versions.contains(&version);
        self.reader.u16_be()?;
        if known { Ok(version) } else { Err(Short) }
    }

    /// A length of two bytes and that many bytes. Returns where they lie.
    fn sized(&mut self, max: u16) -> Result<Range<usize>, Short> {
        let len = self.reader.u16_be()?;
        if len > max { Err(Short) } else { self.skip(usize::from(len)) }
    }

    /// A block that an older version may skip: whether it is there, its length, its bytes.
    fn block(&mut self) -> Result<(), Short> {
        if self.byte()? > 1 {
            return Err(Short);
        }
        self.sized(u16::MAX)?;
        Ok(())
    }

    fn constants(&mut self) -> Result<(), Short> {
        self.header(&CONSTANTS)?;
        let count = self.reader.u32_be()?;
        if count > CONSTANTS_MAX {
            return Err(Short);
        }
        for _ in 0..count {
            self.skip(4)?;
        }
        self.block()
    }

    fn pcr_selections(&mut self) -> Result<(), Short> {
        let count = self.reader.u32_be()?;
        if count > BANKS_MAX {
            return Err(Short);
        }
        for _ in 0..count {
            self.skip(2)?;
            let bytes = self.byte()?;
            if bytes > PCR_SELECT_BYTES_MAX {
                return Err(Short);
            }
            self.skip(usize::from(bytes))?;
        }
        Ok(())
    }

    fn time_epoch(&mut self) -> Result<(), Short> {
        match self.byte()? {
            size @ (4 | 8) => self.skip(usize::from(size)).map(drop),
            _ => Err(Short),
        }
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
