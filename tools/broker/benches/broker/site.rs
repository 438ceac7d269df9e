//! A database, its brokers, and a tenant with VMs.

use crate::server::Server;
use anyhow::{Context as _, ensure};
use husk::attest::launch::{Kbs, LaunchConfig, Mode, Serve};
use husk::release::transcript::point_digest;
use husk_broker::ids::{TenantId, VmId, VmName};
use husk_broker::policy::Policy;
use husk_broker::store::{Enrolment, Location, Store, Tenant};
use husk_broker::vault::{RootKeys, TenantRoot};
use husk_broker::world::Machine;
use husk_psp::{Identity, Processor, SharedProcessor, expected_measurement, os_entropy};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(crate) const FIRMWARE: [u8; 4096] = [0x90; 4096];
const TENANT: TenantId = TenantId([1; 16]);
const START_WAIT_MAX: Duration = Duration::from_secs(60);

/// Which database, and how many brokers serve it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Sqlite,
    Postgres(usize),
}

pub(crate) struct Site {
    pub(crate) kind: Kind,
    pub(crate) processor: SharedProcessor,
    brokers: Vec<Broker>,
    location: Location,
    root: [u8; 97],
    _folder: TempDir,
    _server: Option<Server>,
}

/// A process that ends with the site.
struct Broker {
    process: Child,
    address: SocketAddr,
}

impl Drop for Broker {
    fn drop(&mut self) {
        if self.process.kill().and_then(|()| self.process.wait()).is_err() {
            eprintln!("bench: a broker did not end");
        }
    }
}

impl Site {
    pub(crate) fn start(kind: Kind) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let (location, server, count) = match kind {
            Kind::Sqlite => (Location::File(folder.path().join("db")), None, 1),
            Kind::Postgres(count) => {
                let server = Server::start();
                (Location::Postgres(server.database("bench")), Some(server), count)
            }
        };
        let machine = Machine::start();
        let keys = RootKeys::generate(&machine)?;
        keys.write(&folder.path().join("root"))?;
        let tenant = TenantRoot::generate(&machine)?;
        let certificate = tenant.certify(TENANT, &keys)?;
        let mut store = Store::create_at(&location, &keys)?;
        store.register(TENANT, &Tenant { root: *tenant.point(), certificate })?;
        drop(store);
        let identity = Identity::published(1)?;
        std::fs::write(folder.path().join("chain.pem"), identity.chain_pem()?)?;
        let processor = Processor::shared(identity, os_entropy());
        let brokers: anyhow::Result<Vec<Broker>> =
            (0..count).map(|number| broker(folder.path(), &location, number)).collect();
        let (brokers, root) = (brokers?, *tenant.point());
        Ok(Self { kind, processor, brokers, location, root, _folder: folder, _server: server })
    }

    /// Where VM `number` asks.
    pub(crate) fn address(&self, number: usize) -> SocketAddr {
        self.brokers[number % self.brokers.len()].address
    }

    /// Processor time of all brokers, the kernel's part included, in milliseconds (proc(5): ticks are 10 ms).
    pub(crate) fn cpu_ms(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for broker in &self.brokers {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", broker.process.id()))?;
            let after_name = stat.rsplit_once(") ").context("/proc/PID/stat")?.1;
            let ticks = after_name.split(' ').skip(11).take(2);
            sum += ticks.map(|ticks| ticks.parse::<u64>()).sum::<Result<u64, _>>()? * 10;
        }
        Ok(sum)
    }

    /// Enrols the VM of that number; its launch configuration.
    pub(crate) fn enrol(&self, number: u32) -> anyhow::Result<LaunchConfig> {
        let mut vm = [2; 16];
        vm[..4].copy_from_slice(&number.to_be_bytes());
        let config = LaunchConfig {
            tenant: TENANT.0,
            vm,
            root: point_digest(&self.root),
            mode: Mode::Strict,
            serve: Serve::Lease,
            kbs: Kbs::None,
            min_key_generation: 1,
            processor: None,
            staleness: None,
            variables: None,
        };
        let measurements = vec![expected_measurement(&FIRMWARE)];
        let policy = Policy { measurements, ..Policy::default() };
        let name = VmName { tenant: TENANT, vm: VmId(vm) };
        let enrolment = Enrolment { host_data: config.host_data(), policy };
        Store::open_at(&self.location)?.enrol(&name, &enrolment)?;
        Ok(config)
    }

    /// Brings the number of rows to `rows`, with VMs that were enrolled and never ran.
    pub(crate) fn fill(&self, rows: u32) -> anyhow::Result<()> {
        let mut store = Store::open_at(&self.location)?;
        let there = store.vms(None)?.len();
        if there == 0 {
            self.enrol(u32::MAX)?;
        }
        let missing = usize::try_from(rows)?.saturating_sub(there.max(1));
        const COLUMNS: &str =
            "host_data, policy, life, generation, token, epoch, sequence, digest, lease_until_ms, released";
        match &self.location {
            Location::File(path) => rusqlite::Connection::open(path)?.execute_batch(&format!(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {missing})
                 INSERT INTO vms (tenant, vm, {COLUMNS})
                 SELECT tenant, randomblob(16), {COLUMNS} FROM n, (SELECT * FROM vms WHERE token = 0 LIMIT 1)
                 WHERE {missing} > 0"
            ))?,
            Location::Postgres(url) => {
                let mut client = postgres::Client::connect(url, postgres::NoTls)?;
                client.batch_execute(&format!(
                    "INSERT INTO husk.vms (tenant, vm, {COLUMNS})
                     SELECT tenant, decode(md5(random()::text), 'hex'), {COLUMNS}
                     FROM generate_series(1, {missing}), (SELECT * FROM husk.vms WHERE token = 0 LIMIT 1) AS one;
                     ANALYZE husk.vms"
                ))?;
            }
        }
        Ok(())
    }
}

fn broker(folder: &Path, location: &Location, number: usize) -> anyhow::Result<Broker> {
    let ready = folder.join(format!("ready-{number}"));
    let log = std::fs::File::create(folder.join(format!("log-{number}")))?;
    let process = Command::new(std::env::current_exe()?)
        .args(["child", "serve", "--plain-http", "--listen", "127.0.0.1:0", "--lease-seconds", "3600"])
        .args(["--database", &location.to_string()])
        .arg("--root-key")
        .arg(folder.join("root"))
        .arg("--accept-simulated-silicon")
        .arg(folder.join("chain.pem"))
        .arg("--ready-file")
        .arg(&ready)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    let started = Instant::now();
    while !ready.exists() {
        ensure!(started.elapsed() < START_WAIT_MAX, "a broker did not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    let address = std::fs::read_to_string(&ready)?.trim().parse()?;
    Ok(Broker { process, address })
}
