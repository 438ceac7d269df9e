//! The machine that matters: the whole component with the reference engine, on what this host supplies.

mod saved;

pub use saved::{SavedState, SavedStateError};

use crate::machine::{About, Blob, Canceller, Machine};
use crate::platform::{BootClock, Counts, FileDisk, OsEntropy, SocketChannel, Stderr};
use husk::engine::Locality;
use husk::engine::reference::ReferenceEngine;
use husk::fault::Fault;
use husk::frontend::Tpm;
use husk::release::session::SessionMemory;
use husk::seams::{Platform, Reporter};
use husk::volume::suspend::{SUSPEND_BYTES_MAX, VOLATILE_BYTES_MAX};
use husk::volume::{STATE_BYTES_MAX, VolumeFault, Workspace};
use husk::vtpm::{Cold, Identified, Memory, PERMANENT_BYTES_MAX, Served, Vtpm, VtpmFault};
use husk_psp::{PspReporter, RemoteGuest};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a broker is asked for the keys.
#[derive(Debug)]
pub struct Launch {
    /// The launch configuration's bytes, as the host supplies them.
    pub config: Vec<u8>,
    /// The channel to the broker, where the configuration names a mode that has one.
    pub channel: Option<SocketChannel>,
    /// Reports from the simulated processor.
    pub reporter: PspReporter<RemoteGuest>,
    /// How long to wait for another instance's lease to end.
    pub wait_for_lease: Duration,
}

/// What the TPM stands on: a broker, or, for tests, nothing.
#[derive(Debug)]
pub enum Footing {
    /// Keys from a broker.
    Sealed(Box<Launch>),
    /// Public keys, and nobody who remembers: every promise is given up.
    UnsealedForTesting,
}

/// The component, as a machine that front-ends serve.
#[expect(missing_debug_implementations, reason = "it holds the TPM's secrets")]
pub struct Component {
    disk: Option<FileDisk>,
    footing: Footing,
    clock: Option<BootClock>,
    state: State,
    canceller: Canceller,
    saved: Option<SavedState>,
    blobs: Blobs,
}

/// What a test machine begins with next.
#[derive(Default)]
struct Blobs {
    permanent: Option<Vec<u8>>,
    volatile: Option<Vec<u8>>,
}

#[expect(clippy::large_enum_variant, reason = "there is one component in a process")]
enum State {
    /// Not booted; the engine waits.
    Cold(ReferenceEngine),
    Booted(Vtpm<'static, ReferenceEngine>),
    /// Booting failed: this launch is over.
    Failed(Fault),
}

/// A volume without a broker belongs to nobody in particular.
const NOBODY: [u8; 16] = [0; 16];

impl Component {
    /// Joins a disk, where the TPM is one that is kept, and a footing with the engine. `None` if this process has a component already: the reference engine's
    /// state is global.
    #[must_use]
    pub fn new(disk: Option<FileDisk>, footing: Footing) -> Option<Self> {
        let engine = ReferenceEngine::claim(OsEntropy::draw)?;
        let cancel = engine.canceller();
        let canceller: Canceller = Arc::new(move || cancel.cancel());
        let (clock, state) = (BootClock::new(), State::Cold(engine));
        Some(Self { disk, footing, clock, state, canceller, saved: None, blobs: Blobs::default() })
    }

    /// Keeps what is suspended in `saved`; without, nothing is.
    #[must_use]
    pub fn saving(self, saved: Option<SavedState>) -> Self {
        Self { saved, ..self }
    }

    fn with<T>(
        &mut self,
        act: impl FnOnce(&mut Vtpm<'static, ReferenceEngine>, &mut Platform<'_>) -> T,
    ) -> Result<T, Fault> {
        let Self { disk, footing, clock, state, .. } = self;
        match state {
            State::Booted(vtpm) => Ok(on(disk, footing, clock.as_ref(), |platform| act(vtpm, platform))),
            State::Cold(_) => Err(VtpmFault::PoweredOff.into()),
            State::Failed(fault) => Err(*fault),
        }
    }

    fn boot(&mut self, engine: ReferenceEngine) -> Result<Vtpm<'static, ReferenceEngine>, Fault> {
        let cold = Cold::new(memory(), engine);
        let (config, wait) = match &self.footing {
            Footing::Sealed(launch) => (launch.config.clone(), launch.wait_for_lease),
            Footing::UnsealedForTesting => (Vec::new(), Duration::ZERO),
        };
        let sealed = matches!(self.footing, Footing::Sealed(_));
        on(&mut self.disk, &mut self.footing, self.clock.as_ref(), |platform| {
            if !sealed {
                eprintln!(
                    "husk: UNSEALED FOR TESTING: anyone can read, alter and roll back this TPM, and its volume is marked for ever"
                );
                return cold.boot_unsealed_for_testing(platform, NOBODY, NOBODY);
            }
            let mut vtpm = earn(cold.identify(platform, &config)?, platform, wait)?;
            let certification = vtpm.certify(platform)?;
            platform.console.line(certification.text(), certification.number());
            vtpm.back_up(platform)?.show(platform.console);
            Ok(vtpm)
        })
    }
}

/// Earns the keys; waits at most `patience` for another instance's lease to end.
fn earn(
    identified: Identified<'static, ReferenceEngine>,
    platform: &mut Platform<'_>,
    patience: Duration,
) -> Result<Vtpm<'static, ReferenceEngine>, Fault> {
    let deadline = Instant::now() + patience;
    identified.earn(platform, &mut |retry_ms| {
        let pause = Duration::from_millis(u64::from(retry_ms));
        if Instant::now() + pause > deadline {
            return false;
        }
        eprintln!("husk: another instance may still be answering; asking again in {retry_ms} ms");
        std::thread::sleep(pause);
        true
    })
}

/// Lends the platform for one call.
fn on<T>(
    disk: &mut Option<FileDisk>,
    footing: &mut Footing,
    clock: Option<&BootClock>,
    act: impl FnOnce(&mut Platform<'_>) -> T,
) -> T {
    let (mut nothing, mut nobody) = (Nothing, Nothing);
    let (channel, reporter): (&mut dyn husk::seams::Channel, &mut dyn Reporter) = match footing {
        Footing::Sealed(launch) => match &mut launch.channel {
            Some(channel) => (channel, &mut launch.reporter),
            None => (&mut nothing, &mut launch.reporter),
        },
        Footing::UnsealedForTesting => (&mut nothing, &mut nobody),
    };
    act(&mut Platform {
        disk,
        channel,
        reporter,
        entropy: &mut OsEntropy,
        clock: clock.map(|clock| clock as &dyn husk::seams::Clock),
        console: &mut Stderr,
    })
}

/// The absence of a broker and of a processor, which is what a test without either has.
struct Nothing;

impl husk::seams::Channel for Nothing {
    fn exchange(&mut self, _: &[u8], _: &mut [u8]) -> Result<usize, husk::seams::ChannelError> {
        Err(husk::seams::ChannelError::Unreachable)
    }
}

impl Reporter for Nothing {
    fn report(
        &mut self,
        _: &[u8; husk::seams::REPORT_DATA_BYTES],
        _: &mut [u8; husk::seams::REPORT_BYTES],
    ) -> Result<(), husk::seams::ReporterError> {
        Err(husk::seams::ReporterError::Unsupported)
    }

    fn certificate(&mut self, _: &mut [u8]) -> usize {
        0
    }
}

/// As a firmware's, this memory is never given back: the process has one component.
fn memory() -> Memory<'static> {
    Memory {
        durable: leaked([0; STATE_BYTES_MAX]),
        current: leaked([0; STATE_BYTES_MAX]),
        workspace: leaked(Workspace::new()),
        session: leaked(SessionMemory::new()),
    }
}

fn leaked<T>(value: T) -> &'static mut T {
    Box::leak(Box::new(value))
}

impl Tpm for Component {
    fn execute(&mut self, locality: Locality, command: &[u8], response: &mut [u8]) -> usize {
        match self.serve(|tpm| tpm.execute(locality, command, response)) {
            Ok(bytes) => bytes,
            Err(fault) => husk::frontend::reply::write(fault, command, response),
        }
    }

    fn established(&mut self) -> bool {
        self.serve(|tpm| tpm.established()).unwrap_or(false)
    }

    fn reset_established(&mut self, locality: Locality) -> Result<(), Fault> {
        self.serve(|tpm| tpm.reset_established(locality))?
    }

    fn hash_start(&mut self) -> Result<(), Fault> {
        self.serve(|tpm| tpm.hash_start())?
    }

    fn hash_data(&mut self, data: &[u8]) -> Result<(), Fault> {
        self.serve(|tpm| tpm.hash_data(data))?
    }

    fn hash_end(&mut self) -> Result<(), Fault> {
        self.serve(|tpm| tpm.hash_end())?
    }
}

impl Component {
    /// Boots a TPM that never was on; whether it did.
    fn boot_if_cold(&mut self) -> Result<bool, Fault> {
        match std::mem::replace(&mut self.state, State::Failed(VtpmFault::PoweredOff.into())) {
            State::Cold(engine) => match self.boot(engine) {
                Ok(vtpm) => {
                    self.state = State::Booted(vtpm);
                    Ok(true)
                }
                Err(fault) => {
                    self.state = State::Failed(fault);
                    Err(fault)
                }
            },
            State::Booted(vtpm) => {
                self.state = State::Booted(vtpm);
                Ok(false)
            }
            State::Failed(fault) => {
                self.state = State::Failed(fault);
                Err(fault)
            }
        }
    }

    /// Asks something of the TPM, which may make void what was saved.
    fn serve<T>(&mut self, ask: impl FnOnce(&mut dyn Tpm) -> T) -> Result<T, Fault> {
        let answered = self.with(|vtpm, platform| ask(&mut Served { vtpm, platform }));
        self.drop_void_state();
        answered
    }

    /// What is saved vanishes with its worth.
    fn drop_void_state(&mut self) {
        let live = matches!(&self.state, State::Booted(vtpm) if vtpm.is_suspended());
        if let (false, Some(saved)) = (live, &mut self.saved) {
            saved.remove_own();
        }
    }

    fn resume(&mut self, mut object: Vec<u8>) -> Result<(), Fault> {
        let resumed = self.with(|vtpm, platform| vtpm.resume(platform, &mut object))?;
        let live = matches!(&self.state, State::Booted(vtpm) if vtpm.is_suspended());
        if let (false, Some(saved)) = (live, &mut self.saved) {
            saved.remove_used();
        }
        resumed
    }

    fn begin_with(&mut self, blobs: &Blobs) -> Result<(), Fault> {
        let (permanent, volatile) = (blobs.permanent.as_deref(), blobs.volatile.as_deref());
        let began = self.with(|vtpm, platform| vtpm.power_on_for_testing(platform, permanent, volatile))?;
        self.drop_void_state();
        began
    }

    fn suspend(&mut self, into: &mut [u8]) -> Result<usize, Fault> {
        self.with(|vtpm, platform| vtpm.suspend(platform, into))?
    }
}

impl Machine for Component {
    fn about(&self) -> About {
        About {
            revision: 164,
            model: "husk with the TCG reference engine",
            keeps_volatile: self.saved.is_some(),
            gives_state: matches!(self.footing, Footing::UnsealedForTesting),
        }
    }

    fn canceller(&self) -> Option<Canceller> {
        Some(Arc::clone(&self.canceller))
    }

    fn is_on(&self) -> bool {
        matches!(&self.state, State::Booted(vtpm) if vtpm.is_on())
    }

    fn power_on(&mut self) -> Result<(), Fault> {
        let booted = self.boot_if_cold()?;
        let blobs = std::mem::take(&mut self.blobs);
        if blobs.permanent.is_some() || blobs.volatile.is_some() {
            return self.begin_with(&blobs);
        }
        match self.saved.as_ref().and_then(SavedState::read) {
            Some(object) => self.resume(object),
            None if booted => Ok(()),
            None => self.with(Vtpm::reset)?,
        }
    }

    fn power_off(&mut self) -> Result<(), Fault> {
        if let State::Booted(vtpm) = &mut self.state {
            vtpm.power_off();
        }
        Ok(())
    }

    fn store_volatile(&mut self) -> Result<(), Fault> {
        if self.saved.is_none() {
            return Err(VtpmFault::Unsupported.into());
        }
        let mut object = vec![0; SUSPEND_BYTES_MAX];
        let length = self.suspend(&mut object)?;
        let Some(saved) = &mut self.saved else { return Err(VtpmFault::Unsupported.into()) };
        saved.write(object.get(..length).unwrap_or(&[])).map_err(|error| {
            eprintln!("vtpmd: {error}");
            VolumeFault::Write.into()
        })
    }

    fn read_blob(&mut self, blob: Blob) -> Result<Vec<u8>, Fault> {
        let mut bytes = vec![0; PERMANENT_BYTES_MAX.max(VOLATILE_BYTES_MAX)];
        let length = self.with(|vtpm, _| match blob {
            Blob::Permanent => vtpm.permanent_for_testing(&mut bytes),
            Blob::Volatile => vtpm.volatile_for_testing(&mut bytes),
        })??;
        bytes.truncate(length);
        Ok(bytes)
    }

    fn write_blob(&mut self, blob: Blob, bytes: Vec<u8>) -> Result<(), Fault> {
        if !self.about().gives_state {
            return Err(VtpmFault::StateStays.into());
        }
        let place = match blob {
            Blob::Permanent => &mut self.blobs.permanent,
            Blob::Volatile => &mut self.blobs.volatile,
        };
        *place = Some(bytes).filter(|bytes| !bytes.is_empty());
        Ok(())
    }

    fn shut_down(&mut self) -> Result<(), Fault> {
        let done = match &self.state {
            State::Booted(_) => self.with(Vtpm::shutdown)?,
            State::Cold(_) | State::Failed(_) => Ok(()),
        };
        self.drop_void_state();
        let Counts { writes, written_bytes, flushes } =
            self.disk.as_ref().map(FileDisk::counts).unwrap_or_default();
        eprintln!("vtpmd: disk: {writes} writes, {written_bytes} bytes, {flushes} flushes");
        done
    }
}
