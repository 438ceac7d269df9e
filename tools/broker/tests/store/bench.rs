//! A store with one VM enrolled, in a place of the test's choice.

use crate::server::Server;
use crate::world::TestWorld;
use husk::release::Head;
use husk_broker::ids::{TenantId, VmId, VmName};
use husk_broker::policy::Policy;
use husk_broker::rules::{InstanceId, Move, Reply, Request};
use husk_broker::store::{Ask, Decided, Enrolment, Location, Serving, Store, Tenant};
use husk_broker::vault::{RootKeys, TenantRoot};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

pub(crate) const LEASE_MS: u32 = 60_000;
pub(crate) const TENANT: TenantId = TenantId([1; 16]);
pub(crate) const VM: VmName = VmName { tenant: TENANT, vm: VmId([2; 16]) };
pub(crate) const A: InstanceId = InstanceId([0xA; 48]);
pub(crate) const B: InstanceId = InstanceId([0xB; 48]);

/// An empty database that goes with the test.
pub(crate) struct Place {
    pub(crate) location: Location,
    folder: Option<TempDir>,
}

impl Place {
    pub(crate) fn file() -> Self {
        let folder = tempfile::Builder::new().prefix("husk-store").tempdir().unwrap();
        Self { location: Location::File(folder.path().join("db")), folder: Some(folder) }
    }

    /// In a folder that is there.
    pub(crate) fn file_in(folder: &Path) -> Self {
        Self { location: Location::File(folder.join("db")), folder: None }
    }

    pub(crate) fn on(server: &Server, name: &str) -> Self {
        Self { location: Location::Postgres(server.database(name)), folder: None }
    }

    /// The folder of a file.
    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.as_ref().unwrap().path().to_owned()
    }

    /// The file.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder().join("db")
    }
}

pub(crate) struct Bench {
    pub(crate) world: Arc<TestWorld>,
    pub(crate) keys: Arc<RootKeys>,
    pub(crate) place: Place,
}

impl Bench {
    pub(crate) fn at(place: Place) -> Self {
        let world = Arc::new(TestWorld::new(1));
        let keys = Arc::new(RootKeys::generate(&*world).unwrap());
        Self { world, keys, place }
    }

    /// The same broker on another machine.
    pub(crate) fn elsewhere(self) -> Self {
        Self { world: Arc::new(TestWorld::new(2)), ..self }
    }

    /// A new database with the VM in it.
    pub(crate) fn made(&self) -> Store {
        let mut store = Store::create_at(&self.place.location, &self.keys).unwrap();
        let root = TenantRoot::generate(&*self.world).unwrap();
        let certificate = root.certify(TENANT, &self.keys).unwrap();
        store.register(TENANT, &Tenant { root: *root.point(), certificate }).unwrap();
        self.enrol(&mut store, &VM);
        store
    }

    pub(crate) fn enrol(&self, store: &mut Store, vm: &VmName) {
        let policy = Policy { measurements: vec![[7; 48]], ..Policy::default() };
        store.enrol(vm, &Enrolment { host_data: [3; 32], policy }).unwrap();
    }

    pub(crate) fn open(&self) -> Store {
        Store::open_at(&self.place.location).unwrap()
    }

    pub(crate) fn serve(&self, store: Store, lease_ms: u32) -> Serving {
        let world: Arc<TestWorld> = Arc::clone(&self.world);
        Serving::begin(store, Arc::clone(&self.keys), world, lease_ms).unwrap()
    }

    /// A new database, served.
    pub(crate) fn serving(&self) -> Serving {
        self.serve(self.made(), LEASE_MS)
    }
}

pub(crate) fn head(sequence: u64) -> Head {
    Head { sequence, digest: [u8::try_from(sequence).unwrap(); 48] }
}

pub(crate) fn ask(serving: &mut Serving, caller: InstanceId, request: Request) -> Decided {
    serving.decide(&VM, caller, &request).unwrap()
}

pub(crate) fn grant(
    serving: &mut Serving,
    caller: InstanceId,
) -> (Reply, Option<[u8; 32]>, Option<[u8; 32]>) {
    let Decided { reply, secrets } =
        ask(serving, caller, Request::Grant { report_id: [9; 32], guest_svn: 0 });
    let Some(secrets) = secrets else { return (reply, None, None) };
    let current = secrets.current.map(|secret| secret.with(|bytes| *bytes));
    (reply, current, Some(secrets.next.with(|bytes| *bytes)))
}

pub(crate) fn confirm(serving: &mut Serving, caller: InstanceId, new: Head) -> Reply {
    let row = serving.store().row(&VM).unwrap();
    let to = Move {
        token: row.token,
        generation: 0,
        epoch: row.epoch + 1,
        previous: row.head,
        new,
        reset_base: 0,
    };
    ask(serving, caller, Request::Confirm(to)).reply
}

pub(crate) fn release(serving: &mut Serving, caller: InstanceId) -> Reply {
    let row = serving.store().row(&VM).unwrap();
    ask(serving, caller, Request::Release { token: row.token, generation: 0, head: row.head }).reply
}

/// From nothing to a TPM at head 1.
pub(crate) fn create(serving: &mut Serving, caller: InstanceId) {
    grant(serving, caller);
    assert!(matches!(confirm(serving, caller, head(1)), Reply::Leased { .. }));
}

/// The next commit.
pub(crate) fn anchor(serving: &mut Serving, caller: InstanceId) -> Request {
    let row = serving.store().row(&VM).unwrap();
    let new = head(row.head.sequence + 1);
    let to =
        Move { token: row.token, generation: 0, epoch: row.epoch, previous: row.head, new, reset_base: 0 };
    assert!(matches!(ask(serving, caller, Request::Anchor(to)).reply, Reply::Leased { .. }));
    Request::Anchor(to)
}

/// That request, of the one VM.
pub(crate) const fn of(caller: InstanceId, request: Request) -> Ask {
    Ask { vm: VM, caller, request }
}
