//! The broker of a world: its real server on a real socket, and a database that survives it.

use crate::hardware::MEASUREMENT;
use crate::setting::{Nature, Rule, Tenancy};
use husk::attest::report::Generation;
use husk::seams::REPORT_BYTES;
use husk_broker::evidence::{Evidence, EvidenceRefused};
use husk_broker::http;
use husk_broker::policy::{Genuine, Policy, Revocation, Signer};
use husk_broker::service::Service;
use husk_broker::store::{Enrolment, Serving, Store, Tenant};
use husk_broker::world::World;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// Length of a lease.
pub(crate) const LEASE_MS: u32 = 10_000;
/// What a database is on disk: itself, and the log of what it has not taken in yet. The third file is rebuilt.
const FILES: [&str; 2] = ["db", "db-wal"];

/// Reports here are not signed: signatures have their own laws in `tools/evidence` and `tools/psp`.
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

pub(crate) struct Broker<'r> {
    runtime: &'r Runtime,
    tenancy: Arc<Tenancy>,
    nature: Arc<Nature>,
    listener: TcpListener,
    task: Option<JoinHandle<()>>,
    folder: PathBuf,
    /// Lives of this broker.
    lives: u32,
}

impl<'r> Broker<'r> {
    /// Serves a new database in `folder`.
    pub(crate) fn create(
        runtime: &'r Runtime,
        tenancy: &Arc<Tenancy>,
        nature: &Arc<Nature>,
        folder: &Path,
    ) -> Self {
        let Tenancy { keys, root, certificate, launch, .. } = &**tenancy;
        let path = folder.join("0");
        fs::create_dir_all(&path).expect("a folder");
        let mut store = Store::create(&path.join("db"), keys).expect("a database");
        let name = tenancy.name();
        store.register(name.tenant, &Tenant { root: *root, certificate: *certificate }).expect("a tenant");
        let policy = Policy { measurements: vec![MEASUREMENT], ..Policy::default() };
        store.enrol(&name, &Enrolment { host_data: launch.host_data(), policy }).expect("a VM");
        drop(store);
        Self::serve(runtime, tenancy, nature, folder)
    }

    /// Serves a copy of the database in `from`.
    pub(crate) fn copied(
        runtime: &'r Runtime,
        tenancy: &Arc<Tenancy>,
        nature: &Arc<Nature>,
        (from, folder): (&Path, &Path),
    ) -> Self {
        copy(from, &folder.join("0"));
        Self::serve(runtime, tenancy, nature, folder)
    }

    fn serve(runtime: &'r Runtime, tenancy: &Arc<Tenancy>, nature: &Arc<Nature>, folder: &Path) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        listener.set_nonblocking(true).expect("a listener for tokio");
        let mut broker = Self {
            runtime,
            tenancy: Arc::clone(tenancy),
            nature: Arc::clone(nature),
            listener,
            task: None,
            folder: folder.to_owned(),
            lives: 0,
        };
        broker.start();
        broker
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().expect("it is bound").port()
    }

    /// Where its database is now.
    pub(crate) fn database(&self) -> PathBuf {
        self.folder.join(self.lives.to_string())
    }

    fn start(&mut self) {
        let store = Store::open(&self.database().join("db")).expect("the database opens");
        let (keys, world) = (Arc::clone(&self.tenancy.keys), Arc::clone(&self.nature) as Arc<dyn World>);
        let serving = Serving::begin(store, Arc::clone(&keys), Arc::clone(&world), LEASE_MS);
        let service = Service::new(serving.expect("it begins"), keys, world, Box::new(Believes));
        let listener = self.listener.try_clone().expect("a listener");
        self.task = Some(self.runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            let end = std::future::pending();
            http::serve(listener, Arc::new(service), end).await.expect("it serves");
        }));
    }

    /// Its process dies: what goes on is what its files hold at this instant.
    pub(crate) fn crash(&mut self) {
        let left = self.database();
        self.lives += 1;
        let kept = if self.nature.without == Some(Rule::BrokerIsDurable) {
            // The mutant: answers were given before they were durable, and the newest is lost.
            self.folder.join("before")
        } else {
            left.clone()
        };
        copy(&kept, &self.database());
        self.stop();
        fs::remove_dir_all(left).expect("the old files");
        self.start();
    }

    /// The mutant's memory: what was durable before the request that comes.
    pub(crate) fn remember(&self) {
        if self.nature.without == Some(Rule::BrokerIsDurable) {
            copy(&self.database(), &self.folder.join("before"));
        }
    }

    fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            // It was cancelled, or had failed: then whoever asked it has noticed.
            drop(self.runtime.block_on(task));
        }
    }
}

impl Drop for Broker<'_> {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Copies a database's files; nothing else is in `to` then.
pub(crate) fn copy(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).expect("an old copy");
    }
    fs::create_dir_all(to).expect("a folder");
    for file in FILES.into_iter().filter(|file| from.join(file).exists()) {
        fs::copy(from.join(file), to.join(file)).expect("a copy");
    }
}
