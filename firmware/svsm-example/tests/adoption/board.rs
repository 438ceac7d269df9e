//! A board: the kernel of a fake SVSM, its disk, its guest's memory, the simulated processor, and a host with the real broker.
//!
//! What a kernel or a host does runs on threads of its own, with allocations that nobody counts: what a test measures is glue,
//! component and engine.

use crate::guest_ram::GuestRam;
use husk::attest::guest_message::{Messenger, REPORT_RESPONSE_BYTES};
use husk::attest::launch::{Kbs, LaunchConfig, Mode, Serve};
use husk::attest::report::Policy as GuestPolicy;
use husk::release::transcript::point_digest;
use husk::seams::{EntropyError, GuestMemory, REPORT_BYTES};
use husk_broker::evidence::Judge;
use husk_broker::ids::{TenantId, VmId, VmName};
use husk_broker::policy::Policy;
use husk_broker::service::Service;
use husk_broker::store::{Enrolment, Serving, Store, Tenant};
use husk_broker::vault::{RootKeys, TenantRoot};
use husk_broker::world::World;
use husk_evidence::Verifier;
use husk_psp::{Identity, LocalGuest, Processor, SharedProcessor, expected_measurement};
use husk_svsm_example::kernel::{BlockDriver, Cpu, GuestMm, GuestRequests, Kernel, SvsmError, Vsock};
use sha2::{Digest as _, Sha384};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const NAME: VmName = VmName { tenant: TenantId([1; 16]), vm: VmId([2; 16]) };
const FIRMWARE: &[u8] = b"an SVSM with Husk in it";
const POLICY: u64 = GuestPolicy::RESERVED_ONE.union(GuestPolicy::SMT).bits();
const DISK_BYTES: usize = 1 << 20;
const LEASE_MS: u32 = 60_000;
/// The counter of this board runs at a megahertz.
const KHZ: u64 = 1_000;

/// The GUID of a VCEK's entry, 63da758d-e664-4564-adc5-f4b93be8accd.
const VCEK: [u8; 16] = *b"\x8D\x75\xDA\x63\x64\xE6\x64\x45\xAD\xC5\xF4\xB9\x3B\xE8\xAC\xCD";

static TICKS: AtomicU64 = AtomicU64::new(5_000_000);
static DRAWS: AtomicU64 = AtomicU64::new(0);
static BOARD: Mutex<Option<Board>> = Mutex::new(None);
static FAKE: Fake = Fake;

/// What does not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    Nothing,
    DiskReads,
    DiskWrites,
    Flushes,
    /// Nobody listens at the relay's port.
    Relay,
    /// The relay takes a request and says nothing.
    Replies,
    /// The relay's reply says that it is longer than any.
    ReplyLengths,
    Processor,
    Generator,
}

/// Time and entropy of broker and processor.
#[derive(Debug)]
struct Nature;

fn draw(into: &mut [u8]) {
    for chunk in into.chunks_mut(48) {
        let draw = DRAWS.fetch_add(1, Ordering::SeqCst);
        chunk.copy_from_slice(&Sha384::digest(draw.to_le_bytes())[..chunk.len()]);
    }
}

impl World for Nature {
    fn now_ms(&self) -> u64 {
        TICKS.load(Ordering::SeqCst) / KHZ
    }

    fn fill(&self, into: &mut [u8]) -> Result<(), EntropyError> {
        draw(into);
        Ok(())
    }
}

/// Everything but the SVSM.
pub(crate) struct Board {
    pub(crate) broken: Broken,
    pub(crate) ram: GuestRam,
    pub(crate) log: Vec<(&'static str, u32)>,
    /// What the host knows of sessions with its broker is gone.
    pub(crate) restart_broker: bool,
    pub(crate) exchanges: usize,
    disk: Vec<u8>,
    keys: Arc<RootKeys>,
    service: Option<Service>,
    folder: tempfile::TempDir,
    identity: Identity,
    processor: SharedProcessor,
    guest: Option<(LocalGuest, Messenger)>,
    launch: LaunchConfig,
    reply: Vec<u8>,
}

impl Board {
    /// A blank disk, and a VM enrolled at a broker that accepts the simulated processor; in place of the board before.
    pub(crate) fn insert() {
        let identity = Identity::published(0).expect("an identity");
        let entropy = Box::new(|into: &mut [u8]| {
            draw(into);
            Ok(())
        });
        let processor = Processor::shared(identity.clone(), entropy);
        let keys = Arc::new(RootKeys::generate(&Nature).expect("keys"));
        let root = TenantRoot::generate(&Nature).expect("a tenant's root");
        let launch = LaunchConfig {
            tenant: NAME.tenant.0,
            vm: NAME.vm.0,
            root: point_digest(root.point()),
            mode: Mode::Strict,
            serve: Serve::Lease,
            kbs: Kbs::None,
            min_key_generation: 0,
            processor: None,
            staleness: None,
            variables: None,
        };
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let folder = folder.expect("a folder");
        let mut store = Store::create(&folder.path().join("broker.db"), &keys).expect("a database");
        let certificate = root.certify(NAME.tenant, &keys).expect("a certificate");
        store.register(NAME.tenant, &Tenant { root: *root.point(), certificate }).expect("a tenant");
        let policy = Policy { measurements: vec![expected_measurement(FIRMWARE)], ..Policy::default() };
        store.enrol(&NAME, &Enrolment { host_data: launch.host_data(), policy }).expect("a VM");
        drop(store);
        let mut made = Self {
            broken: Broken::Nothing,
            ram: GuestRam::new(),
            log: Vec::new(),
            restart_broker: false,
            exchanges: 0,
            disk: vec![0; DISK_BYTES],
            keys,
            service: None,
            folder,
            identity,
            processor,
            guest: None,
            launch,
            reply: Vec::new(),
        };
        made.restart();
        *board() = Some(made);
    }

    /// The launch configuration as the host hands it over.
    pub(crate) fn config(&self) -> Vec<u8> {
        let mut config = String::new();
        self.launch.write(&mut config).expect("a configuration");
        config.into_bytes()
    }

    /// A launch at the processor: a secrets page of its own.
    pub(crate) fn launch(&mut self) {
        let host_data = self.launch.host_data();
        let launched = LocalGuest::launch(&self.processor, FIRMWARE, &host_data, POLICY);
        let (guest, secrets) = launched.expect("it launches");
        self.guest = Some((guest, Messenger::new(secrets)));
    }

    /// Whoever accepts this processor as if it were silicon.
    pub(crate) fn verifier(&self) -> Verifier {
        let chain = self.identity.chain_pem().expect("certificates");
        Verifier::new().and_then(|verifier| verifier.accept_simulated(chain.as_bytes())).expect("a verifier")
    }
}

/// The board's state, for the moment.
fn board() -> MutexGuard<'static, Option<Board>> {
    BOARD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks at the board, or changes it.
pub(crate) fn on_board<R: Send>(act: impl FnOnce(&mut Board) -> R + Send) -> R {
    let mut result = None;
    let act = || result = Some(act(board().as_mut().expect("a board")));
    allocation_counter::opt_out(|| {
        std::thread::scope(|scope| scope.spawn(act).join().expect("a board that works"));
    });
    result.expect("it was done")
}

/// Lets time pass.
pub(crate) fn pass_ms(ms: u64) {
    TICKS.fetch_add(ms * KHZ, Ordering::SeqCst);
}

/// The kernel of the fake SVSM.
pub(crate) fn kernel() -> Kernel {
    Kernel { disk: &FAKE, vsock: &FAKE, greq: &FAKE, mm: &FAKE, cpu: &FAKE }
}

struct Fake;

fn unless(board: &Board, broken: Broken) -> Result<(), SvsmError> {
    if board.broken == broken { Err(SvsmError) } else { Ok(()) }
}

impl BlockDriver for Fake {
    fn read_blocks(&self, block_id: usize, buf: &mut [u8]) -> Result<(), SvsmError> {
        on_board(|board| {
            unless(board, Broken::DiskReads)?;
            assert!(buf.len().is_multiple_of(512), "whole blocks");
            buf.copy_from_slice(
                board.disk.get(block_id * 512..).and_then(|rest| rest.get(..buf.len())).ok_or(SvsmError)?,
            );
            Ok(())
        })
    }

    fn write_blocks(&self, block_id: usize, buf: &[u8]) -> Result<(), SvsmError> {
        on_board(|board| {
            unless(board, Broken::DiskWrites)?;
            assert!(buf.len().is_multiple_of(512), "whole blocks");
            let at = block_id * 512;
            board.disk.get_mut(at..at + buf.len()).ok_or(SvsmError)?.copy_from_slice(buf);
            Ok(())
        })
    }

    fn block_size_log2(&self) -> u8 {
        9
    }

    fn size(&self) -> usize {
        DISK_BYTES
    }

    fn flush(&self) -> Result<(), SvsmError> {
        on_board(|board| unless(board, Broken::Flushes))
    }
}

impl Vsock for Fake {
    fn connect(&self, port: u32) -> Result<u32, SvsmError> {
        assert_eq!(port, 1851);
        on_board(|board| {
            board.reply.clear();
            unless(board, Broken::Relay).map(|()| 7)
        })
    }

    fn send(&self, session: u32, buf: &[u8], _: u64) -> Result<(), SvsmError> {
        assert_eq!(session, 7);
        on_board(|board| {
            board.exchanges += 1;
            if std::mem::take(&mut board.restart_broker) {
                board.restart();
            }
            board.reply = board.service.as_ref().expect("a broker").handle(buf);
            if board.broken == Broken::ReplyLengths {
                board.reply[..4].fill(0xFF);
            }
            Ok(())
        })
    }

    fn recv(&self, session: u32, buf: &mut [u8], _: u64) -> Result<(), SvsmError> {
        assert_eq!(session, 7);
        on_board(|board| {
            unless(board, Broken::Replies)?;
            if buf.len() > board.reply.len() {
                return Err(SvsmError);
            }
            let rest = board.reply.split_off(buf.len());
            buf.copy_from_slice(&std::mem::replace(&mut board.reply, rest));
            Ok(())
        })
    }

    fn shutdown(&self, session: u32) {
        assert_eq!(session, 7);
        on_board(|board| board.reply.clear());
    }
}

impl Board {
    /// The broker's process ends and begins again on its database.
    fn restart(&mut self) {
        self.service = None;
        let world = Arc::new(Nature);
        let store = Store::open(&self.folder.path().join("broker.db")).expect("a database");
        let serving = Serving::begin(store, Arc::clone(&self.keys), world.clone(), LEASE_MS);
        let verifier = Box::new(Judge::new(self.verifier()));
        let service = Service::new(serving.expect("it serves"), Arc::clone(&self.keys), world, verifier);
        self.service = Some(service);
    }
}

impl GuestRequests for Fake {
    fn extended_report(&self, buffer: &mut [u8], certs: &mut [u8]) -> Result<usize, SvsmError> {
        on_board(|board| {
            unless(board, Broken::Processor)?;
            let data = buffer.first_chunk().ok_or(SvsmError)?;
            assert!(buffer[64..96].iter().all(|byte| *byte == 0), "VMPL 0, and nothing reserved");
            let (guest, messenger) = board.guest.as_mut().expect("it was launched");
            let certificate = guest.certificate().map_err(|_| SvsmError)?;
            let mut report = [0; REPORT_BYTES];
            messenger.report(guest, data, 0, &mut report).map_err(|_| SvsmError)?;
            buffer.fill(0);
            buffer[4..8].copy_from_slice(&1184_u32.to_le_bytes());
            buffer[32..REPORT_RESPONSE_BYTES].copy_from_slice(&report);
            // The VCEK's entry, the entry of zeros, the certificate.
            certs[..16].copy_from_slice(&VCEK);
            certs[16..20].copy_from_slice(&48_u32.to_le_bytes());
            certs[20..24]
                .copy_from_slice(&u32::try_from(certificate.len()).map_err(|_| SvsmError)?.to_le_bytes());
            certs[48..48 + certificate.len()].copy_from_slice(&certificate);
            Ok(REPORT_RESPONSE_BYTES)
        })
    }
}

impl GuestMm for Fake {
    fn read_from_guest(&self, paddr: u64, buf: &mut [u8]) -> Result<(), SvsmError> {
        on_board(|board| board.ram.copy_in(paddr, buf).map_err(|_| SvsmError))
    }

    fn write_to_guest(&self, paddr: u64, buf: &[u8]) -> Result<(), SvsmError> {
        on_board(|board| board.ram.copy_out(paddr, buf).map_err(|_| SvsmError))
    }
}

impl Cpu for Fake {
    fn random(&self, buf: &mut [u8]) -> Result<(), SvsmError> {
        on_board(|board| {
            unless(board, Broken::Generator)?;
            draw(buf);
            Ok(())
        })
    }

    fn rdtsc(&self) -> u64 {
        TICKS.load(Ordering::SeqCst)
    }

    fn secure_tsc_khz(&self) -> Option<u64> {
        Some(KHZ)
    }

    fn pause_ms(&self, span_ms: u32) {
        pass_ms(span_ms.into());
    }

    fn log(&self, line: &'static str, code: u32) {
        on_board(|board| board.log.push((line, code)));
    }

    fn stop(&self, function: &'static str) -> ! {
        panic!("the C library called {function}");
    }
}
