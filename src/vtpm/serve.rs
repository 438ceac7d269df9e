//! One command: allowed, charged, executed, durable, answered.

use super::VtpmFault;
use super::suspend::Suspended;
use super::trust::Trust;
use crate::engine::{Attempts, Command, Engine, EngineFault, Locality, Needs, ResponseCode};
use crate::fault::{Family, Fault};
use crate::nv::order::{self, Change, Due, Outcome};
use crate::nv::{Committed, NvImage, NvStore, Response};
use crate::release::ReleaseFault;
use crate::seams::Platform;
use core::fmt;

/// How far ahead of TPM Clock the durable bound is put, in milliseconds.
const CLOCK_RESERVE_MS: u64 = 4 * 60 * 60 * 1000;
/// The bound is put ahead anew once Clock is this near to it, in milliseconds.
const CLOCK_MARGIN_MS: u64 = 60 * 60 * 1000;
/// TPM_CC_ReadClock shows Clock without any authorization.
const TPM_CC_READ_CLOCK: u32 = 0x181;
/// TPM_CC_HMAC_Start begins a sequence whose result only a key's owner can tell.
const TPM_CC_HMAC_START: u32 = 0x15B;
/// TPM_CC_SequenceComplete tells a sequence's result, of a hash or of an HMAC.
const TPM_CC_SEQUENCE_COMPLETE: u32 = 0x13E;
/// TPM_RH_LOCKOUT (TPM 2.0 part 2, table TPM_RH).
const TPM_RH_LOCKOUT: u32 = 0x4000_000A;
/// How often one call of [`Vtpm::execute`] asks for the outcome of a commit before it gives up; each is a bounded
/// series of exchanges of its own.
const SETTLINGS_MAX: u32 = 4;

/// Where the TPM is between power-on and Startup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    /// Off for good.
    Off,
    /// Off, and waiting for a fresh token to be reset with.
    ResetDue,
    /// On; no Startup has succeeded since.
    Initialized,
    /// Started.
    Started,
}

/// Whether the endorsement keys are worked out at each power-on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endorsement {
    /// Nobody attests.
    Unasked,
    /// Somebody does.
    Learned,
}

/// A command and what was granted to it.
struct Admitted<'c> {
    command: Command<'c>,
    needs: Needs,
    /// Open, and durably so.
    attempts: Attempts,
}

/// A TPM that serves.
pub struct Vtpm<'m, E: Engine> {
    pub(super) engine: E,
    pub(super) nv: NvStore<'m>,
    pub(super) trust: Trust<'m>,
    pub(super) power: Power,
    pub(super) latched: Option<Fault>,
    /// An HMAC sequence may have been begun since power-on.
    pub(super) keyed: bool,
    /// What resumes the TPM from where it stands; nothing may happen to it meanwhile.
    pub(super) suspended: Option<Suspended>,
    pub(super) endorsement: Endorsement,
    /// When the oldest commit that waits for its anchor was answered, on the trusted clock.
    pub(super) deferred_since_ms: Option<u64>,
}

impl<E: Engine> fmt::Debug for Vtpm<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vtpm")
            .field("power", &self.power)
            .field("latched", &self.latched)
            .finish_non_exhaustive()
    }
}

impl<E: Engine> Vtpm<'_, E> {
    /// Executes the command in `bytes`, which must be private memory, and yields the response in `buffer`, which has
    /// at least [`COMMAND_BYTES_MAX`](crate::engine::COMMAND_BYTES_MAX) bytes. What the response tells of is durable.
    ///
    /// # Errors
    /// A [`Fault`] that `frontend::reply` turns into a response code. The durable state is as last acknowledged; after a
    /// fault that is definite every later call fails with it.
    pub fn execute<'b>(
        &mut self,
        platform: &mut Platform<'_>,
        locality: Locality,
        bytes: &[u8],
        buffer: &'b mut [u8],
    ) -> Result<&'b [u8], Fault> {
        self.alive()?;
        self.begin();
        let command = Command::parse(bytes, locality)?;
        let attempts = self.attempts(&command).map_err(|fault| self.latch(fault))?;
        let needs = if attempts.is_empty() { self.needs(&command) } else { Needs::Nv };
        if needs != Needs::Nothing {
            self.close_what_is_due(platform)?;
        }
        self.trust.allow(platform, needs).map_err(|fault| self.latch_if_definite(fault))?;
        if needs == Needs::Nv {
            self.prepare(platform, &attempts)?;
        }
        self.keyed |= command.code() == TPM_CC_HMAC_START;
        let admitted = Admitted { command, needs, attempts };
        self.run(platform, &admitted, buffer).map_err(|fault| self.latch(fault))
    }

    /// Runs one step of a hash sequence of locality 4. It needs nothing that a host could withhold; if the step changed the
    /// engine's memory all the same, that is committed.
    pub(super) fn measure(
        &mut self,
        platform: &mut Platform<'_>,
        step: impl FnOnce(&mut E, &mut NvImage<'_>) -> Result<(), EngineFault>,
    ) -> Result<(), Fault> {
        self.alive()?;
        self.begin();
        let before = self.nv.image().version();
        let mut measured = step(&mut self.engine, self.nv.image_mut()).map_err(Fault::from);
        if measured.is_ok() && self.nv.image().version() != before {
            measured = self.commit(platform).map(drop);
        }
        measured.map_err(|fault| self.latch(fault))
    }

    /// The fault after which this TPM stopped serving, if it did.
    #[must_use]
    pub const fn latched(&self) -> Option<Fault> {
        self.latched
    }

    /// The engine, for what concerns no state: establishment, cancellation.
    pub(super) const fn engine(&mut self) -> &mut E {
        &mut self.engine
    }

    /// Something begins to happen to the TPM: what was saved is void, and what the broker permitted was for what came before.
    pub(super) fn begin(&mut self) {
        self.suspended = None;
        self.trust.begin();
    }

    pub(super) fn alive(&self) -> Result<(), Fault> {
        match (self.latched, self.power) {
            (Some(fault), _) => Err(fault),
            (None, Power::Off | Power::ResetDue) => Err(VtpmFault::PoweredOff.into()),
            (None, Power::Initialized | Power::Started) => Ok(()),
        }
    }

    /// What the command itself needs, and what the TPM's state adds: Clock is never shown beyond its bound, and the
    /// result of a keyed sequence, which means something outside, only by who has the right to answer.
    fn needs(&mut self, command: &Command<'_>) -> Needs {
        let shows_clock = command.code() == TPM_CC_READ_CLOCK;
        if shows_clock && self.clock_ms() >= self.nv.image().envelope().clock_ms_reserved.get() {
            return Needs::Nv;
        }
        match (command.code(), command.needs()) {
            (TPM_CC_SEQUENCE_COMPLETE, Needs::Nothing) if self.keyed => Needs::Lease,
            (_, needs) => needs,
        }
    }

    /// Executes, makes durable, answers.
    ///
    /// What needs nothing tells of nothing that was stored, and does not wait for a broker: where the engine forgave an old
    /// failed authorization on the way (the reference engine does so at the start of any command), that becomes
    /// durable with the next commit, and is forgotten with a crash. But where such a command fails and something was
    /// stored, its answer may tell of just that (a session bound to a DA-protected object tries that object's
    /// authorization with any command): then it waits like any other.
    fn run<'b>(
        &mut self,
        platform: &mut Platform<'_>,
        admitted: &Admitted<'_>,
        buffer: &'b mut [u8],
    ) -> Result<&'b [u8], Fault> {
        let Admitted { command, needs, attempts } = admitted;
        let before = self.nv.image().version();
        let bytes = self.engine.execute(command, self.nv.image_mut(), buffer)?;
        let response: &'b [u8] = buffer.get(..bytes).ok_or(VtpmFault::Overlong)?;
        let counted =
            ResponseCode::of(response) != ResponseCode::SUCCESS && self.nv.image().version() != before;
        let needs = if counted { Needs::Nv } else { *needs };
        if needs == Needs::Nothing {
            let response = Response::locked(response, self.nv.image().durable_version());
            return Ok(response.release(&self.carry(platform, Change::Nothing, needs)?)?);
        }
        self.follow(command, ResponseCode::of(response))?;
        self.settle_attempts(attempts);
        let response = Response::locked(response, self.nv.image().version());
        let change = self.change(platform);
        Ok(response.release(&self.carry(platform, change, needs)?)?)
    }

    /// The handles whose authorization this command tries and whose failure the engine alone would forget.
    fn attempts(&mut self, command: &Command<'_>) -> Result<Attempts, Fault> {
        if self.power != Power::Started || !command.has_sessions() {
            return Ok(Attempts::new());
        }
        Ok(self.engine.attempts(command, self.nv.image_mut())?)
    }

    /// Before a command of class [`Needs::Nv`]: puts Clock's bound ahead, and makes durable which attempts are open.
    fn prepare(&mut self, platform: &mut Platform<'_>, attempts: &Attempts) -> Result<(), Fault> {
        self.reserve_clock();
        let mut envelope = self.nv.image().envelope();
        if envelope.open_attempts(attempts) {
            self.nv.image_mut().store_envelope(&envelope);
            self.commit(platform).map(drop).map_err(|fault| self.latch(fault))?;
        }
        Ok(())
    }

    /// Closes what a command had opened, in the very commit that makes its outcome durable. Where there is nothing to
    /// commit an attempt on an index stays open, and the next one on it costs nothing: a crash costs one of its tries.
    /// On lockout it would cost lockout itself, so that attempt is closed at the price of a commit.
    fn settle_attempts(&mut self, attempts: &Attempts) {
        let settles = self.nv.image().is_dirty() || attempts.contains(&TPM_RH_LOCKOUT);
        if !attempts.is_empty() && settles {
            let mut envelope = self.nv.image().envelope();
            envelope.close_attempts_on(attempts);
            self.nv.image_mut().store_envelope(&envelope);
        }
    }

    /// What a command that succeeded changes outside the engine.
    fn follow(&mut self, command: &Command<'_>, code: ResponseCode) -> Result<(), Fault> {
        match (code, command.code()) {
            (ResponseCode::SUCCESS, Command::STARTUP) if self.power == Power::Initialized => {
                self.power = Power::Started;
                self.charge_attempts()?;
                self.reserve_clock();
            }
            (ResponseCode::SUCCESS, Command::CLEAR) => {
                let mut envelope = self.nv.image().envelope();
                envelope.reset_base.set(self.trust.token());
                self.nv.image_mut().store_envelope(&envelope);
            }
            _ => {}
        }
        Ok(())
    }

    /// Charges every attempt that an earlier launch left open.
    fn charge_attempts(&mut self) -> Result<(), Fault> {
        let mut envelope = self.nv.image().envelope();
        for handle in envelope.attempts() {
            self.engine.charge(self.nv.image_mut(), handle)?;
        }
        envelope.close_attempts();
        self.nv.image_mut().store_envelope(&envelope);
        Ok(())
    }

    /// Puts Clock's bound ahead where it is near; the next commit makes it durable.
    fn reserve_clock(&mut self) {
        let clock_ms = self.clock_ms();
        let mut envelope = self.nv.image().envelope();
        if clock_ms.saturating_add(CLOCK_MARGIN_MS) >= envelope.clock_ms_reserved.get() {
            envelope.clock_ms_reserved.set(clock_ms.saturating_add(CLOCK_RESERVE_MS));
            self.nv.image_mut().store_envelope(&envelope);
        }
    }

    pub(super) fn clock_ms(&mut self) -> u64 {
        self.engine.clock_ms(self.nv.image_mut())
    }

    /// Has the broker remember the newest commit, and from where its resetCount is counted.
    fn anchor(&mut self, platform: &mut Platform<'_>) -> Result<(), Fault> {
        self.trust.count_resets_from(self.nv.image().envelope().reset_base.get());
        self.nv.anchor(platform, &mut self.trust)
    }

    /// Makes what the engine left durable, for no answer, and leaves nothing without an anchor.
    pub(super) fn commit(&mut self, platform: &mut Platform<'_>) -> Result<Committed, Fault> {
        let change = self.nv.owed();
        self.carry(platform, change, Needs::Nothing)
    }

    /// Does what [`order`] says is due, one thing after the other, until an answer with those needs may leave. While an
    /// anchor's outcome is unknown it asks again for that one: nothing else can run meanwhile.
    pub(super) fn carry(
        &mut self,
        platform: &mut Platform<'_>,
        change: Change,
        needs: Needs,
    ) -> Result<Committed, Fault> {
        let (mut due, mut anchorings) = (order::first(change), 0);
        loop {
            let done = match due {
                Due::Renew => self.trust.renew(platform).map_err(Fault::from),
                Due::Hold => self.trust.may_touch_disk(platform).map_err(Fault::from),
                Due::Write => self.nv.write(platform),
                Due::Flush => self.nv.flush(platform),
                Due::Anchor => self.anchor(platform),
                Due::Defer => self.nv.defer(),
                Due::Keep => self.nv.keep(),
                Due::Permit => self.trust.permit(platform, needs),
                Due::Answer => return Ok(self.nv.settled()?),
                Due::Over => return Err(VtpmFault::PoweredOff.into()),
            };
            anchorings += u32::from(due == Due::Anchor);
            let outcome = match done {
                Ok(()) => Outcome::Done,
                Err(fault) if fault == ReleaseFault::Undecided.fault() && anchorings < SETTLINGS_MAX => {
                    Outcome::Unknown
                }
                Err(_) => Outcome::Failed,
            };
            if outcome == Outcome::Done {
                self.note_deferral(platform, due);
            }
            due = order::next(change, due, outcome);
            if due == Due::Over {
                done?;
            }
        }
    }

    /// Stops serving for good: the engine ran, so there is no going on without its change, or the instance is over. The
    /// TPM's memory is wiped.
    pub(super) fn latch(&mut self, fault: Fault) -> Fault {
        if self.latched.is_none() {
            self.latched = Some(fault);
            self.engine.power_off();
            self.nv.give_up();
            self.power = Power::Off;
            self.suspended = None;
        }
        fault
    }

    /// Before execution only what is definite ends the instance; the rest may be tried again.
    pub(super) fn latch_if_definite(&mut self, fault: Fault) -> Fault {
        let passing = [ReleaseFault::Unreachable, ReleaseFault::LeaseOver, ReleaseFault::SessionLost]
            .iter()
            .any(|passing| passing.fault() == fault);
        if passing || fault.family() == Family::Guest { fault } else { self.latch(fault) }
    }
}
