//! Brokers as processes of their own, on one database.

use husk::attest::launch::{Kbs, LaunchConfig, Mode, Serve};
use husk::attest::report::Generation;
use husk::release::transcript::point_digest;
use husk::seams::{EntropyError, REPORT_BYTES};
use husk_broker::evidence::{Evidence, EvidenceRefused};
use husk_broker::http;
use husk_broker::ids::{TenantId, VmId, VmName};
use husk_broker::policy::{Genuine, Policy, Revocation, Signer};
use husk_broker::service::Service;
use husk_broker::store::{Enrolment, Location, Serving, Store, Tenant};
use husk_broker::vault::{RootKeys, TenantRoot};
use husk_broker::world::World;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(crate) const LEASE_MS: u32 = 250;
pub(crate) const MEASUREMENT: [u8; 48] = [7; 48];
const TENANT: TenantId = TenantId([1; 16]);
const BROKERS: usize = 3;
/// How long a start may take on a machine that does much else.
const START_WAIT_MAX: Duration = Duration::from_secs(60);

/// Random numbers of one seed and purpose (splitmix64).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64, purpose: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ purpose.wrapping_mul(0xD134_2543_DE82_EF95))
    }

    pub(crate) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.word() % bound
    }
}

/// Three brokers, of which one dies now and then.
pub(crate) struct Cluster {
    folder: TempDir,
    url: String,
    root: [u8; 97],
    slots: [Mutex<Slot>; BROKERS],
    starts: AtomicU64,
    seed: u64,
}

struct Slot {
    process: Child,
    address: SocketAddr,
}

pub(crate) fn name(vm: u8) -> VmName {
    VmName { tenant: TENANT, vm: VmId([vm + 2; 16]) }
}

impl Cluster {
    pub(crate) fn start(url: &str, vms: u8, seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let world = Jumping::new(seed);
        let keys = RootKeys::generate(&world).unwrap();
        keys.write(&folder.path().join("root")).unwrap();
        let root = TenantRoot::generate(&world).unwrap();
        let certificate = root.certify(TENANT, &keys).unwrap();
        let mut store = Store::create_at(&Location::Postgres(url.to_owned()), &keys).unwrap();
        store.register(TENANT, &Tenant { root: *root.point(), certificate }).unwrap();
        for vm in 0..vms {
            let policy = Policy { measurements: vec![MEASUREMENT], ..Policy::default() };
            let host_data = config(vm, root.point()).host_data();
            store.enrol(&name(vm), &Enrolment { host_data, policy }).unwrap();
        }
        let starts = AtomicU64::new(0);
        let slots = std::array::from_fn(|_| {
            let start = starts.fetch_add(1, Ordering::SeqCst);
            Mutex::new(Slot::start(folder.path(), url, seed + start))
        });
        Self { folder, url: url.to_owned(), root: *root.point(), slots, starts, seed }
    }

    pub(crate) fn config(&self, vm: u8) -> LaunchConfig {
        config(vm, &self.root)
    }

    /// Where one of them is, or was.
    pub(crate) fn address(&self, dice: &mut Dice) -> SocketAddr {
        let slot = usize::try_from(dice.below(BROKERS as u64)).unwrap();
        self.slots[slot].lock().unwrap().address
    }

    /// Ends one without a farewell and starts another in its place.
    pub(crate) fn kill_one(&self, dice: &mut Dice) {
        let slot = usize::try_from(dice.below(BROKERS as u64)).unwrap();
        self.slots[slot].lock().unwrap().end();
        let start = self.starts.fetch_add(1, Ordering::SeqCst);
        let started = Slot::start(self.folder.path(), &self.url, self.seed + start);
        *self.slots[slot].lock().unwrap() = started;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for slot in &self.slots {
            slot.lock().unwrap().end();
        }
    }
}

fn config(vm: u8, root: &[u8; 97]) -> LaunchConfig {
    LaunchConfig {
        tenant: TENANT.0,
        vm: name(vm).vm.0,
        root: point_digest(root),
        mode: Mode::Strict,
        serve: Serve::Lease,
        kbs: Kbs::None,
        min_key_generation: 1,
        processor: None,
        staleness: None,
        variables: None,
    }
}

impl Slot {
    fn start(folder: &Path, url: &str, seed: u64) -> Self {
        let ready = folder.join(format!("ready-{seed}"));
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "instance", "--nocapture"])
            .env("HUSK_TEST_BROKER", url)
            .env("HUSK_TEST_ROOT", folder.join("root"))
            .env("HUSK_TEST_READY", &ready)
            .env("HUSK_TEST_SEED", seed.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        let address = loop {
            let said = std::fs::read_to_string(&ready).unwrap_or_default();
            match said.parse() {
                Ok(address) => break address,
                Err(_) => assert!(started.elapsed() < START_WAIT_MAX, "a broker did not start"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        Self { process, address }
    }

    fn end(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// In a broker's process: serves until it is killed.
pub(crate) fn serve_if_told() {
    let Ok(url) = std::env::var("HUSK_TEST_BROKER") else { return };
    let path = |name| PathBuf::from(std::env::var_os(name).unwrap());
    let seed = std::env::var("HUSK_TEST_SEED").unwrap().parse().unwrap();
    let keys = Arc::new(RootKeys::read(&path("HUSK_TEST_ROOT")).unwrap());
    let world: Arc<dyn World> = Arc::new(Jumping::new(seed));
    let store = Store::open_at(&Location::Postgres(url)).unwrap();
    let serving = Serving::begin(store, Arc::clone(&keys), Arc::clone(&world), LEASE_MS).unwrap();
    let service = Arc::new(Service::new(serving, keys, world, Box::new(Believes)));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let serving = Arc::clone(&service);
    runtime.unwrap().block_on(async move {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let temporary = path("HUSK_TEST_READY").with_extension("new");
        std::fs::write(&temporary, listener.local_addr().unwrap().to_string()).unwrap();
        std::fs::rename(&temporary, path("HUSK_TEST_READY")).unwrap();
        http::serve(listener, serving, std::future::pending()).await.unwrap();
    });
}

/// Reports of this test are not signed: signatures have their own laws.
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

/// A machine whose clock is set an hour ahead or back now and then.
struct Jumping {
    started: Instant,
    dice: Mutex<(Dice, u64)>,
}

impl Jumping {
    fn new(seed: u64) -> Self {
        Self { started: Instant::now(), dice: Mutex::new((Dice::new(seed, 7), 36_000_000)) }
    }
}

impl World for Jumping {
    fn now_ms(&self) -> u64 {
        let mut dice = self.dice.lock().unwrap();
        let (dice, offset) = &mut *dice;
        match dice.below(20) {
            0 => *offset += 3_600_000,
            1 => *offset = offset.saturating_sub(3_600_000),
            _ => {}
        }
        *offset + u64::try_from(self.started.elapsed().as_millis()).unwrap()
    }

    fn fill(&self, into: &mut [u8]) -> Result<(), EntropyError> {
        getrandom::fill(into).map_err(|_| EntropyError)
    }
}
