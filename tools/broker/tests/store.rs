//! The laws of what the broker remembers.

#![expect(clippy::unwrap_used, reason = "a test ends where its world fails")]

#[path = "support/world.rs"]
mod world;

use husk::release::Head;
use husk_broker::ids::{TenantId, VmId, VmName};
use husk_broker::policy::Policy;
use husk_broker::rules::{InstanceId, Life, Move, Order, Reply, Request};
use husk_broker::store::{Decided, Enrolment, Serving, Store, StoreError, Tenant};
use husk_broker::vault::{RootKeys, TenantRoot};
use rusqlite::Connection;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use world::TestWorld;

const LEASE_MS: u32 = 60_000;
const TENANT: TenantId = TenantId([1; 16]);
const VM: VmName = VmName { tenant: TENANT, vm: VmId([2; 16]) };
const A: InstanceId = InstanceId([0xA; 48]);
const B: InstanceId = InstanceId([0xB; 48]);

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("husk-store-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn database(&self) -> PathBuf {
        self.0.join("db")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

struct Bench {
    world: Arc<TestWorld>,
    keys: Arc<RootKeys>,
}

impl Bench {
    fn new() -> Self {
        let world = Arc::new(TestWorld::new(1));
        let keys = Arc::new(RootKeys::generate(&*world).unwrap());
        Self { world, keys }
    }

    fn enrolled(&self, mut store: Store) -> Store {
        let root = TenantRoot::generate(&*self.world).unwrap();
        let certificate = root.certify(TENANT, &self.keys).unwrap();
        store.register(TENANT, &Tenant { root: *root.point(), certificate }).unwrap();
        let policy = Policy { measurements: vec![[7; 48]], min_tcb: None, chips: vec![] };
        store.enrol(&VM, &Enrolment { host_data: [3; 32], policy }).unwrap();
        store
    }

    fn serve(&self, store: Store, lease_ms: u32) -> Serving {
        let world: Arc<TestWorld> = Arc::clone(&self.world);
        Serving::begin(store, Arc::clone(&self.keys), world, lease_ms).unwrap()
    }

    fn serving(&self) -> Serving {
        self.serve(self.enrolled(Store::in_memory(&self.keys).unwrap()), LEASE_MS)
    }
}

fn head(sequence: u64) -> Head {
    Head { sequence, digest: [u8::try_from(sequence).unwrap(); 48] }
}

fn ask(serving: &mut Serving, caller: InstanceId, request: Request) -> Decided {
    serving.decide(&VM, caller, &request).unwrap()
}

fn grant(serving: &mut Serving, caller: InstanceId) -> (Reply, Option<[u8; 32]>, Option<[u8; 32]>) {
    let Decided { reply, secrets } = ask(serving, caller, Request::Grant { report_id: [9; 32] });
    let Some(secrets) = secrets else { return (reply, None, None) };
    let current = secrets.current.map(|secret| secret.with(|bytes| *bytes));
    (reply, current, Some(secrets.next.with(|bytes| *bytes)))
}

fn confirm(serving: &mut Serving, caller: InstanceId, new: Head) -> Reply {
    let row = serving.store().row(&VM).unwrap();
    let to = Move { token: row.token, generation: 0, epoch: row.epoch + 1, previous: row.head, new };
    ask(serving, caller, Request::Confirm(to)).reply
}

fn release(serving: &mut Serving, caller: InstanceId) -> Reply {
    let row = serving.store().row(&VM).unwrap();
    ask(serving, caller, Request::Release { token: row.token, generation: 0, head: row.head }).reply
}

#[test]
fn a_secret_lives_exactly_as_long_as_its_name() {
    let mut serving = Bench::new().serving();
    let (_, none, first) = grant(&mut serving, A);
    assert!(none.is_none());
    assert!(matches!(confirm(&mut serving, A, head(1)), Reply::Leased { .. }));
    assert_eq!(release(&mut serving, A), Reply::Done);
    let (_, current, second) = grant(&mut serving, A);
    assert_eq!(current, first, "what sealed epoch 1 opens it");
    let (_, current, third) = grant(&mut serving, B);
    assert_eq!(current, first, "kept until CONFIRM");
    assert!(second != third && third != first, "fresh for every token");
    assert!(matches!(confirm(&mut serving, B, head(2)), Reply::Leased { .. }));
    assert_eq!(release(&mut serving, B), Reply::Done);
    let (_, current, _) = grant(&mut serving, A);
    assert_eq!(current, third, "CONFIRM promoted its own");
}

/// Neither in the database nor beside it: not even wrapped.
#[test]
fn an_erased_secret_is_gone_from_the_files() {
    let (bench, folder) = (Bench::new(), Folder::new("erase"));
    let store = bench.enrolled(Store::create(&folder.database(), &bench.keys).unwrap());
    let mut serving = bench.serve(store, LEASE_MS);
    grant(&mut serving, A);
    assert!(matches!(confirm(&mut serving, A, head(1)), Reply::Leased { .. }));
    let wrapped: Vec<u8> = Connection::open(folder.database())
        .unwrap()
        .query_row("SELECT sealed FROM secrets", [], |row| row.get(0))
        .unwrap();
    assert!(holds(&folder, &wrapped), "the test can find what is there");
    assert_eq!(release(&mut serving, A), Reply::Done);
    grant(&mut serving, B);
    assert!(holds(&folder, &wrapped), "kept until CONFIRM");
    assert!(matches!(confirm(&mut serving, B, head(2)), Reply::Leased { .. }));
    assert!(!holds(&folder, &wrapped), "erased at CONFIRM");
}

fn holds(folder: &Folder, needle: &[u8]) -> bool {
    std::fs::read_dir(&folder.0).unwrap().any(|entry| {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        bytes.windows(needle.len()).any(|window| window == needle)
    })
}

#[test]
fn an_answered_commit_survives_the_process() {
    let (bench, folder) = (Bench::new(), Folder::new("reopen"));
    let store = bench.enrolled(Store::create(&folder.database(), &bench.keys).unwrap());
    let mut serving = bench.serve(store, LEASE_MS);
    grant(&mut serving, A);
    assert!(matches!(confirm(&mut serving, A, head(1)), Reply::Leased { .. }));
    for sequence in 2..20 {
        let row = serving.store().row(&VM).unwrap();
        let to = Move { token: row.token, generation: 0, epoch: 1, previous: row.head, new: head(sequence) };
        assert!(matches!(ask(&mut serving, A, Request::Anchor(to)).reply, Reply::Leased { .. }));
        // A copy taken now is what a crash leaves: nothing was closed or written back in order.
        let copy = Folder::new(&format!("reopen-{sequence}"));
        for entry in std::fs::read_dir(&folder.0).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.0.join(entry.file_name())).unwrap();
        }
        let mut reopened = Store::open(&copy.database()).unwrap();
        assert_eq!(reopened.row(&VM).unwrap().head, head(sequence));
    }
}

#[test]
fn a_restart_assumes_the_largest_lease_ever_granted() {
    let (bench, folder) = (Bench::new(), Folder::new("restart"));
    let store = bench.enrolled(Store::create(&folder.database(), &bench.keys).unwrap());
    let mut serving = bench.serve(store, LEASE_MS);
    grant(&mut serving, A);
    assert!(matches!(confirm(&mut serving, A, head(1)), Reply::Leased { .. }));
    drop(serving);
    // However long the broker was away: it cannot know whom it answered last.
    bench.world.pass(1_000_000);
    let mut serving = bench.serve(Store::open(&folder.database()).unwrap(), 1000);
    assert_eq!(grant(&mut serving, B).0, Reply::Busy { retry_ms: LEASE_MS });
    bench.world.pass(u64::from(LEASE_MS));
    assert!(matches!(grant(&mut serving, B).0, Reply::Granted(_)));
}

#[test]
fn the_clock_is_the_databases_and_never_goes_back() {
    let (bench, folder) = (Bench::new(), Folder::new("clock"));
    let store = bench.enrolled(Store::create(&folder.database(), &bench.keys).unwrap());
    let mut serving = bench.serve(store, LEASE_MS);
    bench.world.pass(5_000_000);
    grant(&mut serving, A);
    assert!(matches!(confirm(&mut serving, A, head(1)), Reply::Leased { .. }));
    let until = serving.store().row(&VM).unwrap().lease_until_ms;
    drop(serving);
    // The next machine's clock starts elsewhere altogether.
    let young = Bench { world: Arc::new(TestWorld::new(2)), keys: Arc::clone(&bench.keys) };
    let mut serving = young.serve(Store::open(&folder.database()).unwrap(), LEASE_MS);
    assert!(serving.store().row(&VM).unwrap().lease_until_ms >= until);
    assert_eq!(
        grant(&mut serving, B).0,
        Reply::Busy { retry_ms: LEASE_MS },
        "and waits no longer than a lease"
    );
}

#[test]
fn one_broker_serves_a_database() {
    let (bench, folder) = (Bench::new(), Folder::new("lock"));
    let serving = bench.serve(Store::create(&folder.database(), &bench.keys).unwrap(), LEASE_MS);
    let world: Arc<TestWorld> = Arc::clone(&bench.world);
    let second =
        Serving::begin(Store::open(&folder.database()).unwrap(), Arc::clone(&bench.keys), world, LEASE_MS);
    assert!(matches!(second, Err(StoreError::Served)));
    drop(serving);
    bench.serve(Store::open(&folder.database()).unwrap(), LEASE_MS);
    let mut lock = folder.database().into_os_string();
    lock.push(".serving");
    let mode = std::fs::metadata(lock).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "whoever can open the lock can hold it");
}

#[test]
fn the_operator_works_beside_a_serving_broker() {
    let (bench, folder) = (Bench::new(), Folder::new("beside"));
    let store = bench.enrolled(Store::create(&folder.database(), &bench.keys).unwrap());
    let mut serving = bench.serve(store, LEASE_MS);
    grant(&mut serving, A);
    assert!(matches!(confirm(&mut serving, A, head(1)), Reply::Leased { .. }));
    let mut admin = Store::open(&folder.database()).unwrap();
    assert_eq!(admin.operate(&VM, Order::Halt).unwrap().life, Life::Halted);
    assert_eq!(ask(&mut serving, A, Request::Renew { token: 1, generation: 0 }).reply, Reply::Fenced);
    assert!(matches!(admin.operate(&VM, Order::Halt), Err(StoreError::Barred(Life::Halted))));
    admin.operate(&VM, Order::Retire).unwrap();
    let left: i64 = Connection::open(folder.database())
        .unwrap()
        .query_row("SELECT count(*) FROM secrets", [], |row| row.get(0))
        .unwrap();
    assert_eq!(left, 0, "a retired VM's secrets are erased");
}

#[test]
fn foreign_files_and_keys_are_refused() {
    let (bench, folder) = (Bench::new(), Folder::new("foreign"));
    assert!(matches!(Store::open(&folder.database()), Err(StoreError::Missing)));
    drop(Store::create(&folder.database(), &bench.keys).unwrap());
    assert!(matches!(Store::create(&folder.database(), &bench.keys), Err(StoreError::Exists)));
    let others = Arc::new(RootKeys::generate(&TestWorld::new(9)).unwrap());
    let world: Arc<TestWorld> = Arc::clone(&bench.world);
    let refused = Serving::begin(Store::open(&folder.database()).unwrap(), others, world, LEASE_MS);
    assert!(matches!(refused, Err(StoreError::OtherKeys)));
    let connection = Connection::open(folder.database()).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(Store::open(&folder.database()), Err(StoreError::Newer)));
    connection.pragma_update(None, "application_id", 1).unwrap();
    assert!(matches!(Store::open(&folder.database()), Err(StoreError::NotOurs)));
    std::fs::write(folder.0.join("text"), "no database at all, but long enough to be read").unwrap();
    assert!(matches!(Store::open(&folder.0.join("text")), Err(StoreError::Database(_))));
}

#[test]
fn a_damaged_row_is_refused_and_not_repaired() {
    let (bench, folder) = (Bench::new(), Folder::new("damage"));
    let store = bench.enrolled(Store::create(&folder.database(), &bench.keys).unwrap());
    let mut serving = bench.serve(store, LEASE_MS);
    grant(&mut serving, A);
    assert!(matches!(confirm(&mut serving, A, head(1)), Reply::Leased { .. }));
    assert_eq!(release(&mut serving, A), Reply::Done);
    let connection = Connection::open(folder.database()).unwrap();
    for change in ["life = 9", "epoch = 0", "sequence = 0", "current_token = NULL", "life = 0", "token = -1"]
    {
        connection.execute_batch(&format!("BEGIN; UPDATE vms SET {change}; COMMIT")).unwrap();
        let refused = serving.decide(&VM, B, &Request::Grant { report_id: [0; 32] });
        assert!(matches!(refused, Err(StoreError::Damaged)), "{change}");
        connection
            .execute_batch("UPDATE vms SET life = 1, epoch = 1, sequence = 1, token = 1, current_token = 1")
            .unwrap();
    }
    connection.execute_batch("UPDATE secrets SET salt = zeroblob(32)").unwrap();
    let refused = serving.decide(&VM, B, &Request::Grant { report_id: [0; 32] });
    assert!(matches!(refused, Err(StoreError::Vault(_))));
    let row = serving.store().row(&VM).unwrap();
    assert_eq!((row.token, row.next), (1, None), "a failed decision is no decision");
}

#[test]
fn a_launch_speaks_with_one_key() {
    let mut serving = Bench::new().serving();
    let store = serving.store();
    assert!(store.bind_launch(&VM, &[5; 32], A).unwrap());
    assert!(store.bind_launch(&VM, &[5; 32], A).unwrap());
    assert!(!store.bind_launch(&VM, &[5; 32], B).unwrap());
    assert!(store.bind_launch(&VM, &[6; 32], B).unwrap());
}

#[test]
fn names_are_given_once() {
    let mut serving = Bench::new().serving();
    let store = serving.store();
    let (tenant, enrolment) = (store.tenant(TENANT).unwrap(), store.enrolment(&VM).unwrap());
    assert!(matches!(store.register(TENANT, &tenant), Err(StoreError::TenantExists(TENANT))));
    assert!(matches!(store.enrol(&VM, &enrolment), Err(StoreError::VmExists(_))));
    let stranger = VmName { tenant: TenantId([8; 16]), ..VM };
    assert!(matches!(store.enrol(&stranger, &enrolment), Err(StoreError::UnknownTenant(_))));
    assert!(matches!(store.row(&stranger), Err(StoreError::UnknownVm(_))));
    assert_eq!(store.vms(None).unwrap(), [VM]);
    assert_eq!(store.vms(Some(stranger.tenant)).unwrap(), []);
}
