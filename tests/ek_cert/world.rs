//! A broker with tenants, authorities and VMs, and instances that were granted their keys.

#[path = "boot.rs"]
mod boot;
#[path = "../support/layout.rs"]
mod layout;

use crate::nothing::Nothing;
pub(crate) use boot::Fails;
use husk::attest::launch::{Kbs, LaunchConfig, Mode, Serve};
use husk::attest::report::Generation;
use husk::engine::EndorsementKey;
use husk::release::open::{Granted, Verdict};
use husk::release::session::{Client, SessionMemory};
use husk::release::tenure::Tenure;
use husk::release::transcript::point_digest;
use husk::release::wire::{Activate, Challenge, Endorse, EndorsementVerdict};
use husk::release::{Head, ReleaseFault};
use husk::seams::{
    Channel, ChannelError, Clock, Entropy, EntropyError, Platform, REPORT_BYTES, REPORT_DATA_BYTES, Reporter,
    ReporterError,
};
use husk_broker::authority::{AuthorityKey, certificate};
use husk_broker::evidence::{Evidence, EvidenceRefused};
use husk_broker::ids::{TenantId, VmId, VmName};
use husk_broker::policy::{Genuine, Policy, Revocation, Signer};
use husk_broker::service::Service;
use husk_broker::store::{Authority, Endorsed, Enrolment, Serving, Store, Tenant};
use husk_broker::vault::{RootKeys, TenantRoot, fresh_secret};
use husk_broker::world::World as Nature;
use layout::layout;
use sha2::{Digest as _, Sha384};
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use zerocopy::IntoBytes;

/// Two VMs of one tenant.
pub(crate) const FRIENDS: [VmName; 2] = [
    VmName { tenant: TenantId([1; 16]), vm: VmId([2; 16]) },
    VmName { tenant: TenantId([1; 16]), vm: VmId([3; 16]) },
];
/// A VM of another.
pub(crate) const STRANGERS: VmName = VmName { tenant: TenantId([4; 16]), vm: VmId([2; 16]) };

const MEASUREMENT: [u8; 48] = [7; 48];
const LEASE_MS: u32 = 10_000;
/// Some day of 2026, in seconds since 1970.
const TODAY: u64 = 1_790_000_000;

/// Entropy from a counter, and a clock that jumps over every lease at each launch.
struct Dice {
    draws: AtomicU64,
    now_ms: AtomicU64,
}

impl Nature for Dice {
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    fn fill(&self, into: &mut [u8]) -> Result<(), EntropyError> {
        for chunk in into.chunks_mut(48) {
            let draw = self.draws.fetch_add(1, Ordering::SeqCst);
            chunk.copy_from_slice(&Sha384::digest(draw.to_le_bytes())[..chunk.len()]);
        }
        Ok(())
    }
}

impl Clock for Dice {
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::SeqCst)
    }
}

impl Entropy for &Dice {
    fn fill(&mut self, into: &mut [u8]) -> Result<(), EntropyError> {
        Nature::fill(*self, into)
    }
}

/// Reports here are not signed: signatures have their own laws.
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

pub(crate) struct World {
    dice: Arc<Dice>,
    keys: Arc<RootKeys>,
    root: TenantRoot,
    service: Option<Service>,
    database: PathBuf,
    _folder: tempfile::TempDir,
    launches: Cell<u8>,
}

impl World {
    /// Both tenants have authorities in the broker, for `keys`.
    pub(crate) fn new(keys: u8) -> Self {
        let mut world = Self::without_authorities();
        for tenant in [FRIENDS[0].tenant, STRANGERS.tenant] {
            let secret = fresh_secret(&*world.dice).unwrap();
            let key = AuthorityKey::of(&secret).unwrap();
            let certificate = certificate::authority(&*world.dice, &key, tenant, (TODAY, None)).unwrap();
            let wrapped = Some(world.keys.wrap_authority(&*world.dice, tenant, &secret).unwrap());
            world.store().authorize(tenant, &Authority { certificate, keys, wrapped }).unwrap();
        }
        world.restart();
        world
    }

    /// The first tenant's authority is elsewhere; the other tenant has none.
    pub(crate) fn elsewhere(keys: u8) -> Self {
        let mut world = Self::without_authorities();
        let authority = Authority { certificate: Vec::new(), keys, wrapped: None };
        world.store().authorize(FRIENDS[0].tenant, &authority).unwrap();
        world.restart();
        world
    }

    fn without_authorities() -> Self {
        let dice = Arc::new(Dice { draws: AtomicU64::new(1 << 40), now_ms: AtomicU64::new(1000) });
        let folder = tempfile::tempdir().unwrap();
        let keys = Arc::new(RootKeys::generate(&*dice).unwrap());
        let root = TenantRoot::generate(&*dice).unwrap();
        let database = folder.path().join("db");
        let mut store = Store::create(&database, &keys).unwrap();
        for tenant in [FRIENDS[0].tenant, STRANGERS.tenant] {
            let certificate = root.certify(tenant, &keys).unwrap();
            store.register(tenant, &Tenant { root: *root.point(), certificate }).unwrap();
        }
        let world =
            Self { dice, keys, root, service: None, database, _folder: folder, launches: Cell::new(0) };
        for vm in FRIENDS.iter().chain([&STRANGERS]) {
            let policy = Policy { measurements: vec![MEASUREMENT], ..Policy::default() };
            let host_data = world.config(vm).host_data();
            store.enrol(vm, &Enrolment { host_data, policy }).unwrap();
        }
        world
    }

    fn store(&self) -> Store {
        Store::open(&self.database).unwrap()
    }

    /// Another process of the broker.
    pub(crate) fn restart(&mut self) {
        self.service = None;
        let nature: Arc<dyn Nature> = self.dice.clone();
        let serving = Serving::begin(self.store(), self.keys.clone(), nature.clone(), LEASE_MS).unwrap();
        self.service = Some(Service::new(serving, self.keys.clone(), nature, Box::new(Believes)));
    }

    /// What the database says of a VM's keys.
    pub(crate) fn stored(&self, vm: &VmName) -> Vec<Endorsed> {
        self.store().endorsed(vm).unwrap()
    }

    pub(crate) fn forget(&self, vm: &VmName) {
        assert_eq!(self.store().forget_endorsed(vm).unwrap(), 1);
    }

    pub(crate) fn bring(&self, vm: &VmName, key: EndorsementKey, certificate: &[u8]) {
        self.store().bring_certificate(vm, key.bit(), certificate).unwrap();
    }

    /// The certificate of a tenant's authority.
    pub(crate) fn authority(&self, vm: &VmName) -> Vec<u8> {
        self.store().authority(vm.tenant).unwrap().unwrap().certificate
    }

    fn config(&self, vm: &VmName) -> LaunchConfig {
        LaunchConfig {
            tenant: vm.tenant.0,
            vm: vm.vm.0,
            root: point_digest(self.root.point()),
            mode: Mode::Strict,
            serve: Serve::Lease,
            kbs: Kbs::None,
            min_key_generation: 0,
            processor: None,
            staleness: None,
            variables: None,
        }
    }

    /// A launch of `vm` that has confirmed; every lease before it is over.
    pub(crate) fn launch(&self, vm: &VmName) -> Instance<'_> {
        let config = self.config(vm);
        let host = self.host(vm);
        let launch = host.report_id[0];
        let mut text = String::new();
        config.write(&mut text).unwrap();
        let parsed = LaunchConfig::parse(text.as_bytes()).unwrap();
        let bound = parsed.bind(&host.host_data).unwrap();
        let husk::attest::launch::Named::Anchored(anchored) = bound.named() else { panic!("it is anchored") };
        let memory = Box::leak(Box::new(SessionMemory::new()));
        let tenure = on(&host, |platform| {
            let mut client = Client::new(platform, anchored, memory).unwrap();
            let attested = client.hello(platform).unwrap().attest(platform, &mut client).unwrap();
            let Verdict::Granted(granted) = attested.grant(platform, &mut client).unwrap() else {
                panic!("every lease is over")
            };
            let (pending, sequence) = match granted {
                Granted::Create(grant) => (grant.pending, 0),
                Granted::Open(grant) => (grant.pending, grant.head.sequence),
                Granted::Restore(_) | Granted::Ephemeral(_) => panic!("nobody ordered that"),
            };
            let mut tenure = Tenure::new(client, pending);
            let _anchored =
                tenure.confirm(platform, &Head { sequence: sequence + 1, digest: [launch; 48] }).unwrap();
            tenure
        });
        Instance { host, tenure }
    }
}

/// What a launch has around it.
struct Host<'w> {
    world: &'w World,
    host_data: [u8; 32],
    report_id: [u8; 32],
    report_digest: Cell<[u8; 48]>,
}

impl Channel for &Host<'_> {
    fn exchange(&mut self, request: &[u8], reply: &mut [u8]) -> Result<usize, ChannelError> {
        let answer = self.world.service.as_ref().unwrap().handle(request);
        reply[..answer.len()].copy_from_slice(&answer);
        Ok(answer.len())
    }
}

impl Reporter for &Host<'_> {
    fn report(
        &mut self,
        data: &[u8; REPORT_DATA_BYTES],
        report: &mut [u8; REPORT_BYTES],
    ) -> Result<(), ReporterError> {
        let mut layout = layout(data);
        layout.measurement = MEASUREMENT;
        layout.host_data = self.host_data;
        layout.report_id = self.report_id;
        report.copy_from_slice(layout.as_bytes());
        self.report_digest.set(Sha384::digest(&report[..]).into());
        Ok(())
    }

    fn certificate(&mut self, _: &mut [u8]) -> usize {
        0
    }
}

fn on<T>(host: &Host<'_>, act: impl FnOnce(&mut Platform<'_>) -> T) -> T {
    let dice = &*host.world.dice;
    let (mut channel, mut reporter, mut entropy) = (host, host, dice);
    act(&mut Platform {
        disk: &mut Nothing,
        channel: &mut channel,
        reporter: &mut reporter,
        entropy: &mut entropy,
        clock: Some(dice),
        console: &mut Nothing,
    })
}

/// A launch that serves.
pub(crate) struct Instance<'w> {
    host: Host<'w>,
    tenure: Tenure<'static>,
}

impl Instance<'_> {
    pub(crate) fn certified_keys(&mut self) -> u8 {
        on(&self.host, |platform| self.tenure.certified_keys(platform)).unwrap()
    }

    pub(crate) fn endorse(&mut self, request: &mut Endorse) -> Result<(Challenge, [u8; 48]), ReleaseFault> {
        on(&self.host, |platform| self.tenure.endorse(platform, request))
    }

    /// The certificates, of no length where there is none.
    pub(crate) fn activate(
        &mut self,
        answers: &mut Activate,
    ) -> Result<Result<[Vec<u8>; 3], EndorsementVerdict>, ReleaseFault> {
        on(&self.host, |platform| {
            let reply = self.tenure.activate(platform, answers)?;
            Ok(crate::verdict(reply.verdict).map(|()| {
                reply
                    .certificates
                    .each_ref()
                    .map(|issued| issued.certificate[..usize::from(issued.bytes.get())].to_vec())
            }))
        })
    }

    pub(crate) const fn host_data(&self) -> [u8; 32] {
        self.host.host_data
    }

    /// SHA-384 of the report that this launch showed the broker.
    pub(crate) fn report_digest(&self) -> [u8; 48] {
        self.host.report_digest.get()
    }
}
