//! The stage: a broker on a real database, a relay that loses things, disks, and machines that die.
//!
//! What can happen at each step (a write, a flush, or an exchange): see [`Mishap`]. Time passes only when a test says so.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::allow_attributes, reason = "what is unused differs from test to test")]

#[path = "disk.rs"]
mod disk;
#[path = "hardware.rs"]
mod hardware;
#[path = "../support/kbs_end.rs"]
pub(crate) mod kbs_end;
#[path = "../support/tpm_memory.rs"]
mod tpm_memory;

use crate::toy::Toy;
pub(crate) use disk::RamDisk;
use hardware::{Dice, Hardware, MortalDisk, Processor, Relay, Silent};
use husk::attest::launch::{Kbs, LaunchConfig, Mode, Serve, Staleness};
use husk::attest::report::Generation;
use husk::engine::ResponseCode;
use husk::fault::Fault;
use husk::frontend::Tpm as _;
use husk::release::ReleaseFault;
use husk::release::transcript::point_digest;
use husk::seams::{Clock, DerivedKeyRequest, Entropy, EntropyError, Platform, REPORT_BYTES};
use husk::secret::Secret;
use husk::vtpm::{Asked, Cold, Served, Vtpm};
use husk_broker::evidence::{Evidence, EvidenceRefused};
use husk_broker::ids::{TenantId, VmId, VmName};
use husk_broker::policy::{Genuine, Policy, Revocation, Signer};
use husk_broker::service::Service;
use husk_broker::store::{Enrolment, Serving, Store, Tenant};
use husk_broker::vault::{RootKeys, TenantRoot};
use husk_broker::world::World;
use kbs_end::KbsEnd;
use sha2::{Digest as _, Sha384};
use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tpm_memory::memory;
use zerocopy::IntoBytes as _;

/// Length of a lease in this world.
pub(crate) const LEASE_MS: u32 = 10_000;

const NAME: VmName = VmName { tenant: TenantId([1; 16]), vm: VmId([2; 16]) };
const MEASUREMENT: [u8; 48] = [7; 48];

/// What goes wrong, once, at one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mishap {
    /// The machine dies before the step.
    DiesBefore,
    /// The machine dies after the step: the disk has it, or the broker did it, and nobody hears the answer.
    DiesAfter,
    /// The request does not arrive (nothing, where the step is the disk's).
    RequestLost,
    /// The reply does not arrive (nothing, where the step is the disk's).
    ReplyLost,
    /// The broker crashes before it sees the request.
    BrokerCrashesBefore,
    /// The broker crashes when it has decided, and nobody hears the answer.
    BrokerCrashesAfter,
}

impl Mishap {
    pub(crate) const ALL: [Self; 6] = [
        Self::DiesBefore,
        Self::DiesAfter,
        Self::RequestLost,
        Self::ReplyLost,
        Self::BrokerCrashesBefore,
        Self::BrokerCrashesAfter,
    ];
}

/// Time and entropy of everyone, from one seed.
#[derive(Debug)]
pub(crate) struct Nature {
    now_ms: AtomicU64,
    pub(crate) draws: AtomicU64,
}

impl Nature {
    fn draw(&self, into: &mut [u8]) {
        for chunk in into.chunks_mut(48) {
            let draw = self.draws.fetch_add(1, Ordering::SeqCst);
            chunk.copy_from_slice(&Sha384::digest(draw.to_le_bytes())[..chunk.len()]);
        }
    }
}

impl Entropy for &Nature {
    fn fill(&mut self, into: &mut [u8]) -> Result<(), EntropyError> {
        self.draw(into);
        Ok(())
    }
}

impl World for Nature {
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    fn fill(&self, into: &mut [u8]) -> Result<(), EntropyError> {
        self.draw(into);
        Ok(())
    }
}

impl Clock for Nature {
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::SeqCst)
    }
}

/// Reports of this stage are not signed: signatures have their own laws in `tools/evidence` and `tools/psp`.
struct Believes;

impl Evidence for Believes {
    fn verify(&self, _: &[u8; REPORT_BYTES], _: &[u8]) -> Result<Genuine, EvidenceRefused> {
        Ok(Genuine {
            generation: Generation::Milan,
            signer: Signer::Provider(String::new()),
            revocation: Revocation::Unknown,
        })
    }
}

/// Everything that outlives a machine.
pub(crate) struct Stage {
    pub(crate) nature: Arc<Nature>,
    serve: Serve,
    keys: Arc<RootKeys>,
    service: RefCell<Option<Service>>,
    database: PathBuf,
    _folder: tempfile::TempDir,
    config: Vec<u8>,
    host_data: [u8; 32],
    launches: Cell<u8>,
    /// Steps of all machines so far.
    pub(crate) steps: Cell<usize>,
    /// What happens, and at which step.
    pub(crate) plan: Cell<Option<(usize, Mishap)>>,
    /// The relay carries nothing.
    pub(crate) cut_off: Cell<bool>,
    /// On which chip the host launches.
    pub(crate) chip: Cell<u8>,
    /// The KBS, where the relay was told of one.
    pub(crate) kbs: RefCell<Option<KbsEnd>>,
    pub(crate) launch: LaunchConfig,
    /// The tenant's root key.
    pub(crate) root: TenantRoot,
}

impl Stage {
    pub(crate) fn new(seed: u64) -> Self {
        Self::serving(seed, Serve::Lease)
    }

    /// A stage whose VM serves in this way; only leases come with a trusted clock.
    pub(crate) fn serving(seed: u64, serve: Serve) -> Self {
        Self::configured(seed, (Mode::Strict, serve), None, (Kbs::None, None), NAME)
    }

    /// A stage whose VM has this id: another of the tenant that the stage of the same seed is of, with a broker of its own.
    pub(crate) fn of_vm(seed: u64, vm: [u8; 16]) -> Self {
        let name = VmName { vm: VmId(vm), ..NAME };
        Self::configured(seed, (Mode::Strict, Serve::Lease), None, (Kbs::None, None), name)
    }

    /// A stage whose VM's keys also take one of a KBS, and of the chip where it says so. The KBS stores the right envelope.
    pub(crate) fn with_kbs(seed: u64, on_chip: bool) -> Self {
        let processor = on_chip.then_some(DerivedKeyRequest { guest_svn: None, tcb: None });
        let stage =
            Self::configured(seed, (Mode::Strict, Serve::Lease), processor, (Kbs::Required, None), NAME);
        stage.kbs.replace(Some(KbsEnd::new(stage.envelope(0x4B))));
        stage
    }

    /// The tenant's envelope of a key for this VM.
    pub(crate) fn envelope(&self, key: u8) -> Vec<u8> {
        envelope(&self.launch, &self.root, key)
    }

    /// Another tenant's root key.
    pub(crate) fn another_root(&self) -> TenantRoot {
        TenantRoot::generate(&*self.nature).expect("a tenant's root")
    }

    /// A stage whose VM's keys also take one of the chip.
    pub(crate) fn on_chip(seed: u64) -> Self {
        let processor = Some(DerivedKeyRequest { guest_svn: None, tcb: None });
        Self::configured(seed, (Mode::Strict, Serve::Lease), processor, (Kbs::None, None), NAME)
    }

    /// A stage whose VM defers what may be stale.
    pub(crate) fn stale(seed: u64, staleness: Staleness) -> Self {
        Self::configured(seed, (Mode::Strict, Serve::Lease), None, (Kbs::None, Some(staleness)), NAME)
    }

    /// A stage whose VM's TPM keeps nothing.
    pub(crate) fn ephemeral(seed: u64, serve: Serve) -> Self {
        Self::configured(seed, (Mode::Ephemeral, serve), None, (Kbs::None, None), NAME)
    }

    fn configured(
        seed: u64,
        (mode, serve): (Mode, Serve),
        processor: Option<DerivedKeyRequest>,
        (kbs, staleness): (Kbs, Option<Staleness>),
        name: VmName,
    ) -> Self {
        let nature = Arc::new(Nature { now_ms: AtomicU64::new(1_000), draws: AtomicU64::new(seed << 40) });
        let folder =
            tempfile::Builder::new().prefix("husk-world").tempdir_in(memory_folder()).expect("a folder");
        let database = folder.path().join("broker.db");
        let keys = Arc::new(RootKeys::generate(&*nature).expect("keys"));
        let root = TenantRoot::generate(&*nature).expect("a tenant's root");
        let launch = LaunchConfig {
            tenant: name.tenant.0,
            vm: name.vm.0,
            root: point_digest(root.point()),
            mode,
            serve,
            kbs,
            min_key_generation: 0,
            processor,
            staleness,
            variables: None,
        };
        let mut store = Store::create(&database, &keys).expect("a database");
        let certificate = root.certify(NAME.tenant, &keys).expect("a certificate");
        store.register(NAME.tenant, &Tenant { root: *root.point(), certificate }).expect("a tenant");
        let policy = Policy { measurements: vec![MEASUREMENT], ..Policy::default() };
        store.enrol(&name, &Enrolment { host_data: launch.host_data(), policy }).expect("a VM");
        drop(store);
        let mut config = String::new();
        launch.write(&mut config).expect("a configuration");
        let stage = Self {
            nature,
            serve,
            keys,
            service: RefCell::new(None),
            database,
            _folder: folder,
            config: config.into_bytes(),
            host_data: launch.host_data(),
            launches: Cell::new(0),
            steps: Cell::new(0),
            plan: Cell::new(None),
            cut_off: Cell::new(false),
            chip: Cell::new(0),
            kbs: RefCell::new(None),
            launch,
            root,
        };
        stage.restart_broker();
        stage
    }

    pub(crate) fn restart_broker(&self) {
        self.service.replace(None);
        let store = Store::open(&self.database).expect("the database opens");
        let world: Arc<dyn World> = self.nature.clone();
        let serving =
            Serving::begin(store, self.keys.clone(), world.clone(), LEASE_MS).expect("the broker starts");
        self.service.replace(Some(Service::new(serving, self.keys.clone(), world, Box::new(Believes))));
    }

    pub(crate) fn pass_ms(&self, ms: u64) {
        self.nature.now_ms.fetch_add(ms, Ordering::SeqCst);
    }

    fn clock(&self) -> Option<&dyn Clock> {
        (self.serve == Serve::Lease).then_some(&*self.nature)
    }

    /// Whoever the relay takes a frame to.
    fn beyond(&self, frame: &[u8]) -> Vec<u8> {
        match &mut *self.kbs.borrow_mut() {
            Some(kbs) if KbsEnd::is_asked(frame) => kbs.answer(frame, &self.launch, &*self.nature),
            _ => self.broker(frame),
        }
    }

    /// The details of what the tenant's log tells.
    pub(crate) fn log(&self) -> Vec<String> {
        let mut store = Store::open(&self.database).expect("the database opens");
        let entries = store.audit(NAME.tenant, 0).expect("a log");
        entries.into_iter().map(|(entry, _)| entry.detail).collect()
    }

    pub(crate) fn broker(&self, frame: &[u8]) -> Vec<u8> {
        self.service.borrow().as_ref().expect("a broker").handle(frame)
    }

    /// Counts a step; what goes wrong at it.
    fn step(&self) -> Option<Mishap> {
        let step = self.steps.get();
        self.steps.set(step + 1);
        self.plan.get().filter(|(at, _)| *at == step).map(|(_, mishap)| mishap)
    }
}

/// An envelope as `husk tenant envelope` writes it.
pub(crate) fn envelope(config: &LaunchConfig, root: &TenantRoot, key: u8) -> Vec<u8> {
    let envelope = root.envelope(config, [key; 16], &Secret::take(&mut [key; 32]));
    envelope.expect("a signature").as_bytes().to_vec()
}

/// SQLite's durability has its own tests; here a database in memory-backed storage saves the time of real flushes.
fn memory_folder() -> PathBuf {
    let shm = PathBuf::from("/dev/shm");
    if shm.is_dir() { shm } else { std::env::temp_dir() }
}

/// A machine that was launched: its memory, its disk, and whether it still lives.
pub(crate) struct Machine<'s> {
    hardware: Hardware<'s>,
    disk: &'s RefCell<RamDisk>,
    vtpm: Option<Vtpm<'s, Toy>>,
}

/// A disk on which nothing is.
pub(crate) fn blank() -> RefCell<RamDisk> {
    RefCell::new(RamDisk { image: vec![0; 64 * 1024] })
}

impl<'s> Machine<'s> {
    /// Launches on `disk`, and boots.
    pub(crate) fn booted(stage: &'s Stage, disk: &'s RefCell<RamDisk>) -> Self {
        let mut machine = Self::launch(stage, disk);
        machine.boot(4).expect("it boots");
        machine
    }

    /// Launches on `disk`; its memory is leaked, as a firmware's is never given back.
    pub(crate) fn launch(stage: &'s Stage, disk: &'s RefCell<RamDisk>) -> Self {
        let launch = stage.launches.get() + 1;
        stage.launches.set(launch);
        let hardware =
            Hardware { stage, dead: Box::leak(Box::new(Cell::new(false))), report_id: [launch; 32] };
        Self { hardware, disk, vtpm: None }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.hardware.dead.get()
    }

    pub(crate) fn kill(&self) {
        self.hardware.dies();
    }

    fn with<R>(&mut self, act: impl FnOnce(&mut Option<Vtpm<'s, Toy>>, &mut Platform<'_>) -> R) -> R {
        let hardware = &self.hardware;
        let mut platform = Platform {
            disk: &mut MortalDisk { hardware, disk: self.disk },
            channel: &mut Relay(hardware),
            reporter: &mut Processor(hardware),
            entropy: &mut Dice(hardware),
            clock: hardware.stage.clock(),
            console: &mut Silent,
        };
        act(&mut self.vtpm, &mut platform)
    }

    /// A mutant of what follows a boot that was refused: another TPM takes the place, which no broker knows.
    pub(crate) fn boot_without_a_broker(&mut self) -> Result<(), Fault> {
        self.with(|vtpm, platform| {
            let cold = Cold::new(memory(), Toy::default());
            *vtpm = Some(cold.boot_unsealed_for_testing(platform, NAME.tenant.0, NAME.vm.0)?);
            Ok(())
        })
    }

    /// Boots: waits out busy answers and asks again where the broker did not answer.
    pub(crate) fn boot(&mut self, patience: u32) -> Result<(), Fault> {
        let stage = self.hardware.stage;
        self.with(|vtpm, platform| {
            let mut identified = Cold::new(memory(), Toy::default()).identify(platform, &stage.config)?;
            for _ in 0..patience {
                match identified.release(platform) {
                    Asked::Released(released) => {
                        *vtpm = Some(released.unseal(platform)?.confirm(platform)?);
                        return Ok(());
                    }
                    Asked::Busy { again, retry_ms } => {
                        stage.pass_ms(u64::from(retry_ms));
                        identified = again;
                    }
                    Asked::Refused { again, .. } => identified = again,
                }
            }
            Err(ReleaseFault::Busy.fault())
        })
    }

    /// Boots at the first attempt, or says why not.
    pub(crate) fn boot_at_once(&mut self) -> Result<(), Fault> {
        let stage = self.hardware.stage;
        self.with(|vtpm, platform| {
            let identified = Cold::new(memory(), Toy::default()).identify(platform, &stage.config)?;
            *vtpm = Some(identified.earn(platform, &mut |_| false)?);
            Ok(())
        })
    }

    /// Executes one command of the toy; what it shows.
    pub(crate) fn ask(&mut self, code: u32) -> Result<u64, Fault> {
        self.with(|vtpm, platform| {
            let mut buffer = [0; husk::engine::COMMAND_BYTES_MAX];
            let vtpm = vtpm.as_mut().ok_or(ReleaseFault::Misuse.fault())?;
            let command = crate::toy::command(code);
            let response = vtpm.execute(platform, husk::engine::Locality::Zero, &command, &mut buffer)?;
            Ok(crate::toy::shown(response).expect("the toy never fails"))
        })
    }

    /// As a front-end asks: there always is a response code.
    pub(crate) fn code_of(&mut self, code: u32) -> ResponseCode {
        self.with(|vtpm, platform| {
            let mut buffer = [0; husk::engine::COMMAND_BYTES_MAX];
            let Some(vtpm) = vtpm.as_mut() else { return ResponseCode::FAILURE };
            let mut tpm = Served { vtpm, platform };
            let bytes = tpm.execute(husk::engine::Locality::Zero, &crate::toy::command(code), &mut buffer);
            assert!(buffer[bytes..].iter().all(|byte| *byte == 0), "nothing lies behind the response");
            ResponseCode::of(&buffer[..bytes])
        })
    }

    /// The TPM as a front-end sees it; it has booted.
    pub(crate) fn served<R>(&mut self, act: impl FnOnce(&mut Served<'_, '_, '_, Toy>) -> R) -> R {
        self.with(|vtpm, platform| {
            let vtpm = vtpm.as_mut().expect("it has booted");
            act(&mut Served { vtpm, platform })
        })
    }

    /// A hash sequence of locality 4, from its start to its end.
    pub(crate) fn measure(&mut self) -> Result<(), Fault> {
        self.with(|vtpm, platform| {
            let vtpm = vtpm.as_mut().ok_or(ReleaseFault::Misuse.fault())?;
            let mut tpm = Served { vtpm, platform };
            tpm.hash_start()?;
            tpm.hash_data(b"what is launched")?;
            tpm.hash_end()
        })
    }

    /// Calls the TPM, which must have booted.
    pub(crate) fn call<R>(
        &mut self,
        act: impl FnOnce(&mut Vtpm<'s, Toy>, &mut Platform<'_>) -> Result<R, Fault>,
    ) -> Result<R, Fault> {
        self.with(|vtpm, platform| act(vtpm.as_mut().ok_or(ReleaseFault::Misuse.fault())?, platform))
    }

    pub(crate) fn reset(&mut self) -> Result<(), Fault> {
        self.call(Vtpm::reset)
    }

    pub(crate) fn shut_down(&mut self) -> Result<(), Fault> {
        self.call(Vtpm::shutdown)
    }
}
