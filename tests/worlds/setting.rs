//! What all worlds of one kind share: the tenant, the VM, the state that they start from; and one world's time.

use husk::attest::launch::{Kbs, LaunchConfig, Mode, Serve};
use husk::release::transcript::point_digest;
use husk::release::wire::BrokerCertificate;
use husk::seams::EntropyError;
use husk_broker::ids::{TenantId, VmId, VmName};
use husk_broker::vault::{RootKeys, TenantRoot};
use husk_broker::world::World;
use sha2::{Digest as _, Sha384};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A rule that a mutant lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// The broker answers when its decision is durable.
    BrokerIsDurable,
    /// A flush is one: the component anchors what is on the disk.
    FlushIsDurable,
    /// The broker's clock runs no faster than a VM's.
    LeaseLasts,
}

/// Time and entropy, from one seed.
#[derive(Debug)]
pub(crate) struct Nature {
    now_ms: AtomicU64,
    draws: AtomicU64,
    pub(crate) without: Option<Rule>,
}

impl Nature {
    pub(crate) fn new(seed: u64, without: Option<Rule>) -> Arc<Self> {
        Arc::new(Self { now_ms: AtomicU64::new(1_000), draws: AtomicU64::new(seed << 32), without })
    }

    pub(crate) fn pass_ms(&self, ms: u64) {
        self.now_ms.fetch_add(ms, Ordering::SeqCst);
    }

    pub(crate) fn vm_now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::SeqCst)
    }
}

impl World for Nature {
    fn now_ms(&self) -> u64 {
        let speed = if self.without == Some(Rule::LeaseLasts) { 8 } else { 1 };
        self.vm_now_ms() * speed
    }

    fn fill(&self, into: &mut [u8]) -> Result<(), EntropyError> {
        for chunk in into.chunks_mut(48) {
            let draw = self.draws.fetch_add(1, Ordering::SeqCst);
            chunk.copy_from_slice(&Sha384::digest(draw.to_le_bytes())[..chunk.len()]);
        }
        Ok(())
    }
}

/// A tenant with one VM that serves in one way.
pub(crate) struct Tenancy {
    pub(crate) keys: Arc<RootKeys>,
    pub(crate) root: [u8; 97],
    pub(crate) certificate: BrokerCertificate,
    pub(crate) launch: LaunchConfig,
    pub(crate) config: String,
}

impl Tenancy {
    pub(crate) fn new(serve: Serve) -> Self {
        let nature = Nature::new(1, None);
        let keys = Arc::new(RootKeys::generate(&*nature).expect("keys"));
        let tenant = TenantRoot::generate(&*nature).expect("a tenant's root");
        let name = name();
        let certificate = tenant.certify(name.tenant, &keys).expect("a certificate");
        let launch = LaunchConfig {
            tenant: name.tenant.0,
            vm: name.vm.0,
            root: point_digest(tenant.point()),
            mode: Mode::Strict,
            serve,
            kbs: Kbs::None,
            min_key_generation: 0,
            processor: None,
            staleness: None,
            variables: None,
        };
        let mut config = String::new();
        launch.write(&mut config).expect("a configuration");
        Self { keys, root: *tenant.point(), certificate, launch, config }
    }

    pub(crate) fn name(&self) -> VmName {
        name()
    }

    pub(crate) fn serve(&self) -> Serve {
        self.launch.serve
    }
}

const fn name() -> VmName {
    VmName { tenant: TenantId([1; 16]), vm: VmId([2; 16]) }
}

/// A small generator (xorshift64*): one seed, one world.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        usize::try_from(self.next() >> 33).expect("31 bits") % sides
    }
}
