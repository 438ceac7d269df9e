//! The TCG reference implementation (libtpms) as an [`Engine`].
//!
//! **What.** [`ReferenceEngine`] powers libtpms on from an image, runs commands through it and lets it store into the
//! image. The stored engine state is a [`Fingerprint`] followed by libtpms' "permall".
//! **Trust.** The library is measured code; its state comes from the image, which was authenticated.
//! **Laws.** A launch is always a TPM Reset with the reset count that it was told, and with a clock that never goes back.
//! A state of another engine, or none, is refused, never replaced. What fails leaves the engine failed until it is
//! powered on again.
//! **Not here.** Raw pointers and C: `husk-stubs`.

mod certified;
mod clone;
mod endorsement;
mod inquiry;
mod objects;
mod permall;
mod spend;
mod stale;
mod user_nvram;
mod walk;
mod world;

use super::{Attempts, Command, EndorsementKey};
use super::{COMMAND_BYTES_MAX, Engine, EngineFault, Fingerprint, Locality, PowerOn, ResponseCode, Start};
use crate::nv::NvImage;
use crate::seams::EntropyError;
use core::ops::RangeInclusive;
use endorsement::Endorsement;
use husk_stubs::{Canceller, Failure, Tpms, Version};
use permall::Permall;
use world::{Entry, Stores, World};
use zeroize::Zeroize;

/// Where the engine's randomness comes from.
///
/// A plain function and no [`Entropy`](crate::seams::Entropy): C code draws in the middle of a command, when the
/// [`Platform`](crate::seams::Platform) is lent to others, so the source must be reachable without a borrow. The
/// firmware passes the function beneath its own `Entropy`.
pub type EntropySource = fn(&mut [u8]) -> Result<(), EntropyError>;

/// Level of Husk's own framing of the stored state.
const FORMAT_LEVEL: u8 = 1;

/// The version of libtpms whose laws were shown, major and minor.
///
/// libtpms 0.10 loads and runs here, but it judges a DA-protected authorization before it has stored that one is in use:
/// a guess whose record the host throws away would cost nothing. 0.9 stores first and answers TPM_RC_RETRY.
const VERSION_SHOWN: (u8, u8) = (0, 9);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Off,
    On,
    Failed,
}

/// The one TPM that libtpms can be in an address space.
#[derive(Debug)]
pub struct ReferenceEngine {
    tpms: Tpms,
    entropy: EntropySource,
    phase: Phase,
    /// A session was bound to TPM_RH_LOCKOUT, so that any HMAC session may try its authorization.
    lockout_bound: bool,
    stores: Stores,
    endorsement: Option<Endorsement>,
}

impl ReferenceEngine {
    /// Takes the library, unless an engine has it; dropping the engine powers it off and gives it back.
    #[must_use]
    pub fn claim(entropy: EntropySource) -> Option<Self> {
        let tpms = Tpms::claim()?;
        Some(Self {
            tpms,
            entropy,
            phase: Phase::Off,
            lockout_bound: false,
            stores: Stores::Keep,
            endorsement: None,
        })
    }

    /// A handle that ends a running command early (CRB cancel), usable from another processor.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        self.tpms.canceller()
    }

    /// Runs `call` on the library, and fails the engine if the call or its world failed.
    fn enter<'m, T>(
        &mut self,
        nv: &mut NvImage<'m>,
        locality: Locality,
        call: impl FnOnce(&mut Tpms, &mut World<'_, 'm>) -> Result<T, Failure>,
    ) -> Result<T, EngineFault> {
        if self.phase != Phase::On {
            return Err(EngineFault::Failed);
        }
        let mut world = World::new(nv, self.entropy, self.fingerprint(), locality).storing(self.stores);
        let result = call(&mut self.tpms, &mut world);
        let result = match (world.fault(), result) {
            (None, Ok(value)) => return Ok(value),
            (Some(fault), _) => Err(fault),
            (None, Err(Failure::TooLarge)) => Err(EngineFault::StateTooLarge),
            (None, Err(Failure::Code(_) | Failure::GaveUp)) => Err(EngineFault::Failed),
        };
        self.phase = Phase::Failed;
        result
    }

    /// Whether the linked library is one that may hold a TPM.
    fn check_version(&self) -> Result<(), EngineFault> {
        let version = self.tpms.version();
        if (version.major, version.minor) == VERSION_SHOWN {
            Ok(())
        } else {
            Err(EngineFault::VersionRefused)
        }
    }

    /// Makes a new TPM and leaves its state in the image; the engine is off afterwards.
    fn manufacture(&mut self, nv: &mut NvImage<'_>) -> Result<(), EngineFault> {
        if !nv.engine_state().is_empty() {
            return Err(EngineFault::StateRefused);
        }
        let mut world = World::new(nv, self.entropy, self.fingerprint(), Locality::Zero);
        let made = self.tpms.power_on(&mut world);
        let fault = world.fault();
        self.power_off();
        match (fault, made) {
            (Some(fault), _) => Err(fault),
            (None, Err(_)) => Err(EngineFault::InitFailed),
            (None, Ok(())) => Ok(()),
        }
    }

    /// Powers on from the image's state, with what `entry` puts in.
    fn load(&mut self, nv: &mut NvImage<'_>, entry: Entry<'_>) -> Result<(), EngineFault> {
        let world = World::new(nv, self.entropy, self.fingerprint(), Locality::Zero);
        let mut world = world.storing(self.stores).starting(entry)?;
        let loaded = self.tpms.power_on(&mut world);
        match (world.fault(), loaded) {
            (None, Ok(())) => {
                self.phase = Phase::On;
                Ok(())
            }
            (fault, _) => {
                self.power_off();
                Err(fault.unwrap_or(EngineFault::StateRefused))
            }
        }
    }

    /// Makes a TPM that was shut down with its volatile state kept into one that was shut down without.
    ///
    /// The launch of a machine is a TPM Reset (PCRs start anew), whatever the TPM was told before. The state blocks are
    /// the library's business, so it is the library that drops them: a restart, and a shutdown that keeps nothing.
    fn drop_saved_state(&mut self, nv: &mut NvImage<'_>, entry: Entry<'_>) -> Result<(), EngineFault> {
        let state = nv.engine_state().get(size_of::<Fingerprint>()..).unwrap_or(&[]);
        let found = Permall::find(state).ok_or(EngineFault::StateRefused)?;
        if !found.holds_saved_state(state) {
            return Ok(());
        }
        self.load(nv, entry)?;
        let forgot = self.restart_and_shut_down(nv);
        self.power_off();
        // Giving up over a stored state is the state's fault, not the running TPM's.
        forgot.map_err(|fault| if fault == EngineFault::Failed { EngineFault::StateRefused } else { fault })
    }

    /// Runs `command` in a private copy, since the library decrypts parameters in place.
    fn run(
        &mut self,
        command: &Command<'_>,
        nv: &mut NvImage<'_>,
        response: &mut [u8],
    ) -> Result<usize, EngineFault> {
        self.lockout_bound |= binds_lockout(command);
        let mut copy = [0; COMMAND_BYTES_MAX];
        let bytes = &mut copy[..command.bytes().len()];
        bytes.copy_from_slice(command.bytes());
        let ran = self.enter(nv, command.locality(), |tpms, world| tpms.process(world, bytes, response));
        copy.zeroize();
        ran
    }
}

/// "libtpms 0.09 level 1": a state of another minor version may be marshalled otherwise, so it has another name.
fn fingerprint(version: Version) -> Fingerprint {
    let mut name = [0; 32];
    let digits = |number: u8| [b'0' + number / 10 % 10, b'0' + number % 10];
    let ([_, major], minor, [_, level]) =
        (digits(version.major), digits(version.minor), digits(FORMAT_LEVEL));
    let text = [b"libtpms ".as_slice(), &[major, b'.'], &minor, b" level ", &[level]];
    for (to, from) in name.iter_mut().zip(text.into_iter().flatten()) {
        *to = *from;
    }
    Fingerprint(name)
}

/// Spends every guess that may have been made at the stored state.
fn spend_all(nv: &mut NvImage<'_>) -> Result<(), EngineFault> {
    let spend = |state: &mut [u8]| state.get_mut(size_of::<Fingerprint>()..).is_some_and(spend::spend);
    if nv.edit_engine_state(spend) { Ok(()) } else { Err(EngineFault::StateRefused) }
}

/// Whether `command` is TPM2_StartAuthSession with TPM_RH_LOCKOUT as its second handle, `bind`.
fn binds_lockout(command: &Command<'_>) -> bool {
    let bind = command.body().get(4..8);
    command.code() == Command::START_AUTH_SESSION && bind == Some(&inquiry::LOCKOUT.to_be_bytes())
}

/// Writes `code` as the whole response.
fn answer(code: ResponseCode, response: &mut [u8]) -> Result<usize, EngineFault> {
    let bytes = code.response();
    response.get_mut(..bytes.len()).ok_or(EngineFault::Failed)?.copy_from_slice(&bytes);
    Ok(bytes.len())
}

impl Engine for ReferenceEngine {
    fn fingerprint(&self) -> Fingerprint {
        fingerprint(self.tpms.version())
    }

    fn power_on(&mut self, nv: &mut NvImage<'_>, power_on: PowerOn) -> Result<(), EngineFault> {
        self.power_off();
        self.check_version()?;
        if power_on.start == Start::Manufacture {
            self.manufacture(nv)?;
        }
        let entry = Entry::Launch { reset_count: power_on.reset_count, clock_ms_min: power_on.clock_ms_min };
        self.drop_saved_state(nv, entry)?;
        match power_on.start {
            Start::Manufacture | Start::Load => {}
            Start::Restore => spend_all(nv)?,
            Start::Clone => self.renew(nv)?,
        }
        self.load(nv, entry)
    }

    fn power_off(&mut self) {
        self.tpms.power_off();
        self.phase = Phase::Off;
        self.lockout_bound = false;
    }

    fn execute(
        &mut self,
        command: &Command<'_>,
        nv: &mut NvImage<'_>,
        response: &mut [u8],
    ) -> Result<usize, EngineFault> {
        match self.phase {
            Phase::On => self.run(command, nv, response),
            Phase::Off | Phase::Failed => answer(ResponseCode::FAILURE, response),
        }
    }

    fn attempts(&mut self, command: &Command<'_>, nv: &mut NvImage<'_>) -> Result<Attempts, EngineFault> {
        self.find_attempts(nv, command)
    }

    fn charge(&mut self, nv: &mut NvImage<'_>, handle: u32) -> Result<(), EngineFault> {
        self.fail_once(nv, handle)
    }

    fn clock_ms(&mut self, nv: &mut NvImage<'_>) -> u64 {
        // No clock is no time: before Startup and in failure mode.
        self.ask_clock_ms(nv).ok().flatten().unwrap_or(0)
    }

    fn hash_start(&mut self, nv: &mut NvImage<'_>) -> Result<(), EngineFault> {
        self.enter(nv, Locality::Four, |tpms, world| tpms.hash_start(world))
    }

    fn hash_data(&mut self, nv: &mut NvImage<'_>, data: &[u8]) -> Result<(), EngineFault> {
        self.enter(nv, Locality::Four, |tpms, world| tpms.hash_data(world, data))
    }

    fn hash_end(&mut self, nv: &mut NvImage<'_>) -> Result<(), EngineFault> {
        self.enter(nv, Locality::Four, |tpms, world| tpms.hash_end(world))
    }

    fn established(&mut self) -> bool {
        self.phase == Phase::On && self.tpms.established().unwrap_or(false)
    }

    fn reset_established(&mut self, locality: Locality) -> Result<(), EngineFault> {
        match (self.phase, locality) {
            (Phase::On, Locality::Three | Locality::Four) => {
                self.tpms.reset_established(locality.number()).map_err(|_| EngineFault::Failed)
            }
            (Phase::On, _) => Err(EngineFault::LocalityRefused),
            (Phase::Off | Phase::Failed, _) => Err(EngineFault::Failed),
        }
    }

    fn save_volatile(&mut self, into: &mut [u8]) -> Result<usize, EngineFault> {
        if self.phase != Phase::On {
            return Err(EngineFault::Failed);
        }
        self.tpms.volatile_state(into).map_err(|failure| match failure {
            Failure::TooLarge => EngineFault::StateTooLarge,
            Failure::Code(_) | Failure::GaveUp => EngineFault::Failed,
        })
    }

    fn learn_endorsement(&mut self, nv: &mut NvImage<'_>) -> Result<(), EngineFault> {
        self.power_off();
        self.check_version()?;
        self.work_out_endorsement(nv)
    }

    fn endorsement_key(
        &self,
        nv: &NvImage<'_>,
        key: EndorsementKey,
        into: &mut [u8],
    ) -> Result<usize, EngineFault> {
        let known = self.endorsement.as_ref().and_then(|known| known.public(key, nv));
        let public = known.ok_or(EngineFault::EndorsementUnknown)?;
        into.get_mut(..public.len()).ok_or(EngineFault::StateTooLarge)?.copy_from_slice(public);
        Ok(public.len())
    }

    fn may_be_stale(&self, old: &[u8], new: &[u8], named: &RangeInclusive<u32>) -> bool {
        let (Some((old_name, old)), Some((new_name, new))) =
            (old.split_at_checked(size_of::<Fingerprint>()), new.split_at_checked(size_of::<Fingerprint>()))
        else {
            return false;
        };
        old_name == new_name && stale::is_data_of(old, new, named)
    }

    fn resume_volatile(
        &mut self,
        nv: &mut NvImage<'_>,
        power_on: PowerOn,
        volatile: &[u8],
    ) -> Result<(), EngineFault> {
        self.power_off();
        self.check_version()?;
        if volatile.is_empty() {
            return Err(EngineFault::StateRefused);
        }
        self.load(nv, Entry::Resume { reset_count: power_on.reset_count, volatile })?;
        self.lockout_bound = true;
        if self.ask_clock_ms(nv)?.is_some_and(|clock_ms| clock_ms < power_on.clock_ms_min) {
            self.power_off();
            return Err(EngineFault::StateRefused);
        }
        Ok(())
    }
}
