//! A server in this process, which no report pleases.

use crate::world::TestWorld;
use husk::seams::REPORT_BYTES;
use husk_broker::evidence::{Evidence, EvidenceRefused};
use husk_broker::http::{self, Limits, Speech};
use husk_broker::policy::Genuine;
use husk_broker::service::Service;
use husk_broker::store::{Serving, Store};
use husk_broker::vault::RootKeys;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::runtime::Runtime;

/// No report comes this far here.
struct Nobody;

impl Evidence for Nobody {
    fn verify(&self, _: &[u8; REPORT_BYTES], _: &[u8]) -> Result<Genuine, EvidenceRefused> {
        Err(EvidenceRefused::Unsound("nobody".to_owned()))
    }
}

/// An empty broker on a free port of loopback.
pub(crate) fn served(seed: u64, manner: (Speech, Limits)) -> (Runtime, SocketAddr) {
    let world = Arc::new(TestWorld::new(seed));
    world.pass(1);
    let keys = Arc::new(RootKeys::generate(&*world).unwrap());
    let store = Store::in_memory(&keys).unwrap();
    let serving = Serving::begin(store, Arc::clone(&keys), Arc::clone(&world) as _, 1000).unwrap();
    let service = Arc::new(Service::new(serving, keys, world, Box::new(Nobody)));
    let runtime = Runtime::new().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(http::serve_within(listener, service, std::future::pending(), manner));
    (runtime, address)
}
