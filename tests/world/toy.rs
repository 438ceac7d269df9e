//! A TPM of one counter, and one note that may be stale: small enough to be a model, real enough to be served.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::allow_attributes, reason = "what is unused differs from test to test")]

use husk::engine::{
    Attempts, Command, EndorsementKey, Engine, EngineFault, Fingerprint, Locality, PowerOn, ResponseCode,
    Start,
};
use husk::nv::NvImage;
use std::cell::Cell;
use std::ops::RangeInclusive;

/// Raises the counter and shows it (the code of TPM2_NV_Increment: may change NV).
pub(crate) const INCREMENT: u32 = 0x134;
/// Shows the counter (the code of TPM2_NV_ReadPublic: needs the right to answer).
pub(crate) const SHOW: u32 = 0x169;
/// Shows the reset count (the code of TPM2_ReadClock: needs nothing).
pub(crate) const RESET_COUNT: u32 = 0x181;
/// A measurement (the code of TPM2_PCR_Extend: needs nothing).
pub(crate) const MEASURE: u32 = 0x182;

/// Counts and succeeds (the code of TPM2_PCR_Read: needs nothing), as an engine that forgives a failed attempt on the way.
pub(crate) const FORGIVE: u32 = 0x17E;
/// Counts a failed authorization and says so (the code of TPM2_GetRandom: needs nothing).
pub(crate) const GUESS: u32 = 0x17B;
/// Begins a keyed sequence (the code of TPM2_HMAC_Start: may change NV).
pub(crate) const KEYED: u32 = 0x15B;
/// Ends a sequence (the code of TPM2_SequenceComplete: needs nothing).
pub(crate) const COMPLETE: u32 = 0x13E;
/// Puts the toy into failure mode (the code of TPM2_NV_SetBits: may change NV).
pub(crate) const BREAK: u32 = 0x135;
/// Shows where the clock stood at power-on at least (the code of TPM2_GetCapability: needs nothing).
pub(crate) const CLOCK_MIN: u32 = 0x17A;
/// Tries an authorization and counts that it failed (the code of TPM2_NV_Read): its attempt is opened first.
pub(crate) const TRY: u32 = 0x14E;
/// Raises the note and shows it (the code of TPM2_NV_Write: may change NV): all that it changes may be stale.
pub(crate) const NOTE: u32 = 0x137;
/// Shows the note (the code of TPM2_ReadPublic: needs the right to answer).
pub(crate) const SHOW_NOTE: u32 = 0x173;
/// What a toy's note is once it comes from a backup.
pub(crate) const SPENT: u64 = 1 << 32;
/// How much more a toy has counted once it is another's clone: it can be told from the original.
pub(crate) const CLONED: u64 = 1 << 40;
/// TPM_RC_AUTH_FAIL, for the first session.
pub(crate) const AUTH_FAIL: ResponseCode = ResponseCode(0x98E);

/// What there is to save of a toy.
const VOLATILE: &[u8] = b"a toy forgets nothing";

thread_local! {
    /// How many tries were judged in this world, whatever became of the toy that judged them.
    pub(crate) static JUDGED: Cell<u64> = const { Cell::new(0) };
}

thread_local! {
    /// Whether a toy of this world names no attempts: the mutant of what an engine must do.
    pub(crate) static NAMES_NO_ATTEMPTS: Cell<bool> = const { Cell::new(false) };
    /// Whether a toy of this world calls every change one that may be stale: a mutant.
    pub(crate) static CALLS_ALL_STALE: Cell<bool> = const { Cell::new(false) };
    /// What the clock of every toy of this world says.
    pub(crate) static CLOCK_MS: Cell<u64> = const { Cell::new(1000) };
    /// Whether a toy of this world keeps its clock to itself: a mutant.
    pub(crate) static TELLS_NO_CLOCK: Cell<bool> = const { Cell::new(false) };
    /// Whether a toy of this world stores what a hash sequence measures: a mutant.
    pub(crate) static STORES_MEASUREMENTS: Cell<bool> = const { Cell::new(false) };
}

/// The bytes of a command without parameters.
pub(crate) fn command(code: u32) -> [u8; 10] {
    let sessions = if code == TRY { 0x02 } else { 0x01 };
    let mut bytes = [0x80, sessions, 0, 0, 0, 10, 0, 0, 0, 0];
    bytes[6..].copy_from_slice(&code.to_be_bytes());
    bytes
}

/// The number that a response shows, or the code for which it shows none.
pub(crate) fn shown(response: &[u8]) -> Result<u64, ResponseCode> {
    match ResponseCode::of(response) {
        ResponseCode::SUCCESS => {
            Ok(u64::from_be_bytes(response[10..18].try_into().expect("it shows a number")))
        }
        code => Err(code),
    }
}

fn store(nv: &mut NvImage<'_>, counter: u64, note: u64) -> Result<(), EngineFault> {
    let state = [counter.to_le_bytes(), note.to_le_bytes()].concat();
    nv.store_engine_state(&state).map_err(|_| EngineFault::StateTooLarge)
}

#[derive(Debug, Default)]
pub(crate) struct Toy {
    on: Option<(u64, PowerOn)>,
    note: u64,
    broken: bool,
}

impl Engine for Toy {
    fn fingerprint(&self) -> Fingerprint {
        Fingerprint(*b"toy engine of one counter\0\0\0\0\0\0\0")
    }

    fn power_on(&mut self, nv: &mut NvImage<'_>, power_on: PowerOn) -> Result<(), EngineFault> {
        if power_on.start == Start::Manufacture {
            nv.store_engine_state(&[0; 16]).map_err(|_| EngineFault::StateTooLarge)?;
        }
        let state: [u8; 16] = nv.engine_state().try_into().map_err(|_| EngineFault::StateRefused)?;
        let [counter, note] =
            [0, 8].map(|at| u64::from_le_bytes(state[at..at + 8].try_into().expect("eight bytes")));
        let (counter, note) = match power_on.start {
            Start::Manufacture | Start::Load => (counter, note),
            Start::Restore => (counter, SPENT),
            Start::Clone => (counter + CLONED, 0),
        };
        *self = Self { on: Some((counter, power_on)), note, broken: false };
        store(nv, counter, self.note)
    }

    fn power_off(&mut self) {
        self.on = None;
    }

    fn execute(
        &mut self,
        command: &Command<'_>,
        nv: &mut NvImage<'_>,
        response: &mut [u8],
    ) -> Result<usize, EngineFault> {
        self.broken |= command.code() == BREAK;
        let (counter, facts) = self.on.as_mut().ok_or(EngineFault::Failed)?;
        if command.code() == TRY {
            JUDGED.set(JUDGED.get() + 1);
        }
        if matches!(command.code(), INCREMENT | FORGIVE | GUESS | TRY) {
            *counter += 1;
        }
        self.note += u64::from(command.code() == NOTE);
        store(nv, *counter, self.note)?;
        if matches!(command.code(), GUESS | TRY) {
            response[..10].copy_from_slice(&AUTH_FAIL.response());
            return Ok(10);
        }
        let number = match command.code() {
            RESET_COUNT => u64::from(facts.reset_count),
            CLOCK_MIN => facts.clock_ms_min,
            NOTE | SHOW_NOTE => self.note,
            _ => *counter,
        };
        response[..10].copy_from_slice(&ResponseCode::SUCCESS.response());
        response[5] = 18;
        response[10..18].copy_from_slice(&number.to_be_bytes());
        Ok(18)
    }

    fn attempts(&mut self, command: &Command<'_>, _: &mut NvImage<'_>) -> Result<Attempts, EngineFault> {
        let named = command.code() == TRY && !NAMES_NO_ATTEMPTS.get();
        Ok([7].into_iter().filter(|_| named).collect())
    }

    fn charge(&mut self, nv: &mut NvImage<'_>, handle: u32) -> Result<(), EngineFault> {
        let (counter, _) = self.on.as_mut().filter(|_| handle == 7).ok_or(EngineFault::ChargeFailed)?;
        *counter += 1;
        store(nv, *counter, self.note)
    }

    fn may_be_stale(&self, old: &[u8], new: &[u8], _: &RangeInclusive<u32>) -> bool {
        CALLS_ALL_STALE.get() || old.get(..8) == new.get(..8)
    }

    fn clock_ms(&mut self, _: &mut NvImage<'_>) -> u64 {
        if self.broken || TELLS_NO_CLOCK.get() { 0 } else { CLOCK_MS.get() }
    }

    fn hash_start(&mut self, nv: &mut NvImage<'_>) -> Result<(), EngineFault> {
        match &mut self.on {
            Some((counter, _)) if STORES_MEASUREMENTS.get() => {
                *counter += 1;
                store(nv, *counter, self.note)
            }
            _ => Ok(()),
        }
    }

    fn hash_data(&mut self, _: &mut NvImage<'_>, _: &[u8]) -> Result<(), EngineFault> {
        Ok(())
    }

    fn hash_end(&mut self, _: &mut NvImage<'_>) -> Result<(), EngineFault> {
        Ok(())
    }

    fn established(&mut self) -> bool {
        false
    }

    fn reset_established(&mut self, _: Locality) -> Result<(), EngineFault> {
        Ok(())
    }

    fn save_volatile(&mut self, into: &mut [u8]) -> Result<usize, EngineFault> {
        into[..VOLATILE.len()].copy_from_slice(VOLATILE);
        Ok(VOLATILE.len())
    }

    fn resume_volatile(
        &mut self,
        nv: &mut NvImage<'_>,
        facts: PowerOn,
        volatile: &[u8],
    ) -> Result<(), EngineFault> {
        if volatile != VOLATILE {
            return Err(EngineFault::StateRefused);
        }
        self.power_on(nv, facts)
    }

    fn learn_endorsement(&mut self, _: &mut NvImage<'_>) -> Result<(), EngineFault> {
        Ok(())
    }

    fn endorsement_key(
        &self,
        _: &NvImage<'_>,
        key: EndorsementKey,
        into: &mut [u8],
    ) -> Result<usize, EngineFault> {
        into[..32].fill(key as u8);
        Ok(32)
    }
}
