//! A server in this process, which no report pleases.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::allow_attributes, reason = "what is unused differs from test to test")]

use crate::world::TestWorld;
use husk::seams::REPORT_BYTES;
use husk_broker::admin::Right;
use husk_broker::evidence::{Evidence, EvidenceRefused};
use husk_broker::http::{self, Limits, Speech};
use husk_broker::ids::TenantId;
use husk_broker::metrics::Metrics;
use husk_broker::policy::Genuine;
use husk_broker::service::Service;
use husk_broker::store::{Serving, Store, Tenant};
use husk_broker::vault::{OperatorKey, RootKeys, TenantRoot};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Runtime;

/// No report comes this far here.
struct Nobody;

impl Evidence for Nobody {
    fn verify(&self, _: &[u8; REPORT_BYTES], _: &[u8]) -> Result<Genuine, EvidenceRefused> {
        Err(EvidenceRefused::Unsound("nobody".to_owned()))
    }
}

/// A broker, and the root keys of its tenants.
pub(crate) struct Broker {
    pub(crate) world: Arc<TestWorld>,
    pub(crate) keys: Arc<RootKeys>,
    pub(crate) service: Arc<Service>,
    roots: BTreeMap<TenantId, TenantRoot>,
}

impl Broker {
    /// In memory.
    pub(crate) fn with(tenants: &[TenantId]) -> Self {
        Self::at(None, tenants)
    }

    /// With its database at `path`, or in memory. Brokers of other tenants have other keys.
    pub(crate) fn at(path: Option<&Path>, tenants: &[TenantId]) -> Self {
        Self::made(path, tenants, |service| service)
    }

    /// With its database at `path`, counting in `metrics`.
    pub(crate) fn counted(path: &Path, tenants: &[TenantId], metrics: &Arc<Metrics>) -> Self {
        Self::made(Some(path), tenants, |service| service.counting(Arc::clone(metrics)))
    }

    fn made(path: Option<&Path>, tenants: &[TenantId], finish: impl FnOnce(Service) -> Service) -> Self {
        let seed = tenants.iter().fold(1, |seed, tenant| seed * 31 + u64::from(tenant.0[0]));
        let world = Arc::new(TestWorld::new(seed));
        world.pass(1);
        let keys = Arc::new(RootKeys::generate(&*world).unwrap());
        let store = path.map_or_else(|| Store::in_memory(&keys), |path| Store::create(path, &keys));
        let mut store = store.unwrap();
        let mut roots = BTreeMap::new();
        for &id in tenants {
            let root = TenantRoot::generate(&*world).unwrap();
            let certificate = root.certify(id, &keys).unwrap();
            store.register(id, &Tenant { root: *root.point(), certificate }).unwrap();
            roots.insert(id, root);
        }
        let service = Arc::new(finish(service(store, &keys, &world)));
        Self { world, keys, service, roots }
    }

    /// The same on a store that was opened again.
    pub(crate) fn restarted(self, store: Store) -> Self {
        let Self { world, keys, service: ended, roots } = self;
        drop(ended);
        let service = Arc::new(service(store, &keys, &world));
        Self { world, keys, service, roots }
    }

    /// An operator that may ask what `rights` allow.
    pub(crate) fn operator(&self, tenant: TenantId, rights: &[Right]) -> OperatorKey {
        self.operator_of(tenant, rights, 1)
    }

    pub(crate) fn operator_of(&self, tenant: TenantId, rights: &[Right], generation: u32) -> OperatorKey {
        let bits = rights.iter().fold(0, |bits, right| bits | right.bit());
        let root = &self.roots[&tenant];
        OperatorKey::generate(&*self.world, root, tenant, (&[], bits, generation)).unwrap()
    }
}

fn service(store: Store, keys: &Arc<RootKeys>, world: &Arc<TestWorld>) -> Service {
    let serving = Serving::begin(store, Arc::clone(keys), Arc::clone(world) as _, 1000).unwrap();
    Service::new(serving, Arc::clone(keys), Arc::clone(world) as _, Box::new(Nobody))
}

/// An empty broker on a free port of loopback.
pub(crate) fn served(manner: (Speech, Limits)) -> (Runtime, SocketAddr) {
    let runtime = Runtime::new().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let service = Broker::with(&[]).service;
    runtime.spawn(http::serve_within(listener, service, std::future::pending(), manner));
    (runtime, address)
}
