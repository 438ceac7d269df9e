//! A broker in a test's world, VMs made of the component's own client code, and the relay between them.

use crate::nothing::Nothing;
use crate::world::TestWorld;
use husk::attest::launch::{Kbs, LaunchConfig, Mode, Serve};
use husk::attest::report::{Generation, Layout, Report, SIGNED_BYTES};
use husk::release::open::Verdict;
use husk::release::session::{Client, SessionMemory};
use husk::release::statement::{Statement, StatusRequest};
use husk::release::tenure::Tenure;
use husk::release::ticket::{Ticket, TicketOrder};
use husk::release::transcript::{SigningKey, point_digest, verifies};
use husk::release::wire::{FRAME_BYTES_MAX, FrameKind, Wire};
use husk::release::{Head, ReleaseFault, frame};
use husk::seams::{
    Channel, ChannelError, Clock, Entropy, EntropyError, Platform, REPORT_BYTES, REPORT_DATA_BYTES, Reporter,
    ReporterError,
};
use husk_broker::evidence::{Evidence, EvidenceRefused};
use husk_broker::ids::{TenantId, VmId, VmName};
use husk_broker::policy::{Floors, Genuine, Policy, Revocation, Signer, tcb};
use husk_broker::service::Service;
use husk_broker::store::{Authority, Enrolment, Location, Serving, Store, Tenant};
use husk_broker::vault::{OperatorKey, RootKeys, TenantRoot};
use husk_broker::world::WorldEntropy;
use sha2::{Digest as _, Sha384};
use std::path::Path;
use std::sync::Arc;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

pub(crate) const LEASE_MS: u32 = 60_000;
pub(crate) const TENANT: TenantId = TenantId([1; 16]);
pub(crate) const VM: VmName = VmName { tenant: TENANT, vm: VmId([2; 16]) };
pub(crate) const OTHER_VM: VmName = VmName { tenant: TENANT, vm: VmId([3; 16]) };

/// A chip of the test's own making.
pub(crate) struct Chip(SigningKey);

impl Chip {
    fn new(world: &TestWorld) -> Self {
        Self(SigningKey::generate(&mut WorldEntropy(world)).unwrap())
    }

    fn sign(&self, layout: &mut Layout) {
        let digest = Sha384::digest(&layout.as_bytes()[..SIGNED_BYTES]);
        let mut signature = self.0.sign(&digest.into()).unwrap();
        signature.reverse();
        layout.signature_s[..48].copy_from_slice(&signature[..48]);
        layout.signature_r[..48].copy_from_slice(&signature[48..]);
    }
}

/// What the test's broker believes: that one chip, as silicon or as a simulation that it was not told to accept.
struct TestEvidence {
    chip: [u8; 97],
    is_silicon: bool,
}

impl Evidence for TestEvidence {
    fn verify(&self, raw: &[u8; REPORT_BYTES], _: &[u8]) -> Result<Genuine, EvidenceRefused> {
        let report = Report::parse(raw).map_err(|defect| EvidenceRefused::Unsound(defect.to_string()))?;
        let digest = Sha384::digest(report.signed()).into();
        if !verifies(&self.chip, &digest, &report.signature()) {
            return Err(EvidenceRefused::Unsound("the signature does not hold".to_owned()));
        }
        if !self.is_silicon {
            return Err(EvidenceRefused::Simulated("simulated".to_owned()));
        }
        Ok(Genuine {
            generation: Generation::Milan,
            signer: Signer::Chip(*report.chip_id()),
            revocation: Revocation::Unknown,
        })
    }
}

/// A broker with two VMs enrolled.
pub(crate) struct Bench {
    pub(crate) world: Arc<TestWorld>,
    pub(crate) chip: Arc<Chip>,
    pub(crate) service: Arc<Service>,
    pub(crate) keys: Arc<RootKeys>,
    root: TenantRoot,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(None, true)
    }

    /// With its database at `path`, or in memory; believing its chip to be silicon or a simulation.
    pub(crate) fn with(path: Option<&Path>, is_silicon: bool) -> Self {
        let place = path.map(|path| Location::File(path.to_owned()));
        Self::on(place.as_ref(), is_silicon)
    }

    /// With a new database in `place`, or in memory.
    pub(crate) fn on(place: Option<&Location>, is_silicon: bool) -> Self {
        let world = Arc::new(TestWorld::new(1));
        let chip = Arc::new(Chip::new(&world));
        let keys = Arc::new(RootKeys::generate(&*world).unwrap());
        let root = TenantRoot::generate(&*world).unwrap();
        let certificate = root.certify(TENANT, &keys).unwrap();
        let store = place.map_or_else(|| Store::in_memory(&keys), |place| Store::create_at(place, &keys));
        let mut store = store.unwrap();
        store.register(TENANT, &Tenant { root: *root.point(), certificate }).unwrap();
        // Any of the three kinds of endorsement key, certified elsewhere.
        store.authorize(TENANT, &Authority { certificate: Vec::new(), keys: 7, wrapped: None }).unwrap();
        for vm in [VM, OTHER_VM] {
            let min_tcb = Floors::Every(tcb("bootloader=4,tee=0,snp=22,microcode=213").unwrap());
            let policy =
                Policy { measurements: vec![[7; 48]], min_tcb, chips: vec![[8; 64]], ..Policy::default() };
            let host_data = config(&vm, root.point()).host_data();
            store.enrol(&vm, &Enrolment { host_data, policy }).unwrap();
        }
        let service = service(store, &keys, &world, (&chip, is_silicon));
        Self { world, chip, service, keys, root }
    }

    /// The tenant's root key.
    pub(crate) const fn root(&self) -> &TenantRoot {
        &self.root
    }

    /// An operator of the tenant's that may give `orders`.
    pub(crate) fn operator(&self, orders: &[TicketOrder]) -> OperatorKey {
        OperatorKey::generate(&*self.world, &self.root, TENANT, (orders, 0, 1)).unwrap()
    }

    /// What the broker says of a VM, as whoever has its launch configuration checks it.
    pub(crate) fn asked(&self, vm: &VmName, nonce: [u8; 32]) -> Statement {
        let request = StatusRequest { tenant: vm.tenant.0, vm: vm.vm.0, nonce };
        self.stated(vm, (FrameKind::StatusRequest, &request), nonce)
    }

    /// Signs an order about a VM as it stands, and hands it in.
    pub(crate) fn order(&self, vm: &VmName, operator: &OperatorKey, order: TicketOrder) -> Statement {
        let mut ticket = self.ticket(vm, order);
        operator.sign(&*self.world, &mut ticket).unwrap();
        self.hand_in(vm, &ticket)
    }

    /// An order about a VM as it stands, unsigned.
    pub(crate) fn ticket(&self, vm: &VmName, order: TicketOrder) -> Ticket {
        let seen = self.asked(vm, [0; 32]);
        let mut ticket = Ticket::new_zeroed();
        (ticket.vm, ticket.order) = (vm.vm.0, order as u8);
        (ticket.token, ticket.generation, ticket.until_ms) = (seen.token, seen.generation, seen.time_ms);
        ticket
    }

    pub(crate) fn hand_in(&self, vm: &VmName, ticket: &Ticket) -> Statement {
        self.stated(vm, (FrameKind::Ticket, ticket), Statement::nonce_of_ticket(&ticket.id))
    }

    fn stated(&self, vm: &VmName, (kind, body): (FrameKind, &impl Wire), nonce: [u8; 32]) -> Statement {
        let mut bytes = [0; FRAME_BYTES_MAX];
        let length = frame::frame_of(kind, &mut bytes, body).unwrap();
        let mut answer = self.service.handle(&bytes[..length]);
        let Ok((FrameKind::Statement, body)) = frame::open(&mut answer) else { panic!("no statement") };
        let statement: Statement = frame::exactly(body).unwrap();
        assert!(statement.is_vouched_for(&self.config(vm), &nonce));
        statement
    }

    /// The same broker after its process ended and began again, on the database at `path`.
    pub(crate) fn restarted(self, path: &Path) -> Self {
        let Self { world, chip, service: old, keys, root } = self;
        drop(Arc::into_inner(old).unwrap());
        let service = service(Store::open(path).unwrap(), &keys, &world, (&chip, true));
        Self { world, chip, service, keys, root }
    }

    /// The launch configuration of a VM.
    pub(crate) fn config(&self, vm: &VmName) -> LaunchConfig {
        config(vm, self.root.point())
    }

    /// A launch of the enrolled firmware; `number` tells launches apart.
    pub(crate) fn launch(&self, vm: &VmName, number: u8) -> Launch {
        let config = self.config(vm);
        let mut layout = Layout::new_zeroed();
        layout.version.set(3);
        layout.policy.set(0x3_0000);
        layout.signature_algo.set(1);
        layout.measurement = [7; 48];
        layout.chip_id = [8; 64];
        layout.report_id = [number; 32];
        layout.host_data = config.host_data();
        layout.reported_tcb = [4, 0, 0, 0, 0, 0, 22, 213];
        layout.committed_tcb = layout.reported_tcb;
        layout.launch_tcb = layout.reported_tcb;
        let chip = Arc::clone(&self.chip);
        Launch {
            config,
            relay: Relay { service: Arc::clone(&self.service), seen: vec![], silent: false },
            processor: TestProcessor { layout, chip },
            world: TestClock(Arc::clone(&self.world)),
        }
    }
}

fn config(vm: &VmName, root: &[u8; 97]) -> LaunchConfig {
    LaunchConfig {
        tenant: vm.tenant.0,
        vm: vm.vm.0,
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

fn service(
    store: Store,
    keys: &Arc<RootKeys>,
    world: &Arc<TestWorld>,
    (chip, is_silicon): (&Chip, bool),
) -> Arc<Service> {
    let world: Arc<TestWorld> = Arc::clone(world);
    let serving = Serving::begin(store, Arc::clone(keys), Arc::clone(&world) as _, LEASE_MS).unwrap();
    let evidence = TestEvidence { chip: *chip.0.point(), is_silicon };
    Arc::new(Service::new(serving, Arc::clone(keys), world, Box::new(evidence)))
}

/// The relay: remembers what passed, and can fall silent.
pub(crate) struct Relay {
    pub(crate) service: Arc<Service>,
    pub(crate) seen: Vec<Vec<u8>>,
    pub(crate) silent: bool,
}

impl Channel for Relay {
    fn exchange(&mut self, request: &[u8], reply: &mut [u8]) -> Result<usize, ChannelError> {
        self.seen.push(request.to_vec());
        let answer = self.service.handle(request);
        if self.silent {
            return Err(ChannelError::Unreachable);
        }
        reply[..answer.len()].copy_from_slice(&answer);
        Ok(answer.len())
    }
}

/// What the processor says of a launch.
pub(crate) struct TestProcessor {
    pub(crate) layout: Layout,
    chip: Arc<Chip>,
}

impl Reporter for TestProcessor {
    fn report(
        &mut self,
        data: &[u8; REPORT_DATA_BYTES],
        report: &mut [u8; REPORT_BYTES],
    ) -> Result<(), ReporterError> {
        let mut layout = self.layout;
        layout.report_data = *data;
        self.chip.sign(&mut layout);
        *report = <[u8; REPORT_BYTES]>::read_from_bytes(layout.as_bytes()).unwrap();
        Ok(())
    }

    fn certificate(&mut self, _: &mut [u8]) -> usize {
        0
    }
}

struct TestClock(Arc<TestWorld>);

impl Clock for TestClock {
    fn now_ms(&self) -> u64 {
        husk_broker::world::World::now_ms(&*self.0)
    }
}

impl Entropy for &TestClock {
    fn fill(&mut self, into: &mut [u8]) -> Result<(), EntropyError> {
        husk_broker::world::World::fill(&*self.0, into)
    }
}

/// One launch of a VM.
pub(crate) struct Launch {
    pub(crate) config: LaunchConfig,
    pub(crate) relay: Relay,
    pub(crate) processor: TestProcessor,
    world: TestClock,
}

impl Launch {
    /// Lends the platform for one call.
    pub(crate) fn on<R>(&mut self, call: impl FnOnce(&mut Platform<'_>) -> R) -> R {
        call(&mut Platform {
            disk: &mut Nothing,
            channel: &mut self.relay,
            reporter: &mut self.processor,
            entropy: &mut &self.world,
            clock: Some(&self.world),
            console: &mut Nothing,
        })
    }

    /// From power-on to the broker's verdict.
    pub(crate) fn boot(&mut self) -> Result<(Client<'static>, Verdict), ReleaseFault> {
        let config = self.config.bind(&self.config.host_data()).unwrap().anchored().unwrap();
        let memory = Box::leak(Box::new(SessionMemory::new()));
        let mut client = self.on(|platform| Client::new(platform, config, memory))?;
        let greeted = self.on(|platform| client.hello(platform))?;
        let attested = self.on(|platform| greeted.attest(platform, &mut client))?;
        let verdict = self.on(|platform| attested.grant(platform, &mut client))?;
        Ok((client, verdict))
    }
}

/// A head that only a commit on `branch` has.
pub(crate) fn head(sequence: u64, branch: u8) -> Head {
    Head { sequence, digest: [branch; 48] }
}

/// A confirmed instance at work.
pub(crate) struct Running {
    pub(crate) launch: Launch,
    pub(crate) tenure: Tenure<'static>,
}
