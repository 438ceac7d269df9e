//! The three TPMs, and what husk's needs beside it.

use super::client::Client;
use super::commands::{random, shutdown_clear, startup_clear};
use super::cost::{Pins, Reading, resident_kib};
use crate::failure::Failure;
use crate::process::Daemon;
use crate::product::{Product, Start, Vm, blank_disk, text};
use crate::setup;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a TPM may take to end.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// Processor, broker and relay, and a tenant whose VMs they serve.
#[derive(Debug)]
pub(super) struct Site {
    product: Product,
    pins: Pins,
    tenant: String,
    measurement: String,
    relay_socket: PathBuf,
    starts: usize,
    _services: [Daemon; 3],
}

/// A TPM that has been started up.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) client: Client,
    /// From the start of its process to its second answer.
    pub(super) cold_start: Duration,
    daemon: Daemon,
    log: PathBuf,
}

impl Running {
    pub(super) fn reading(&self) -> Result<Reading, Failure> {
        Reading::of(self.daemon.id(), &self.client)
    }

    pub(super) fn resident_kib(&self) -> Result<u64, Failure> {
        resident_kib(self.daemon.id())
    }

    pub(super) fn log(&self) -> PathBuf {
        self.log.clone()
    }

    /// Shuts down in order.
    pub(super) fn stop(mut self) -> Result<(), Failure> {
        self.client.call(&shutdown_clear())?;
        drop(self.client);
        self.daemon.stop(END_PATIENCE)
    }
}

impl Site {
    /// Starts everything but a TPM.
    pub(super) fn set(product: Product, pins: Pins) -> Result<Self, Failure> {
        let (processor, _) = product.processor()?;
        let tenant = product.broker_and_tenant()?;
        let measurement = product.measurement(&product.husk)?;
        let (broker, address) = product.broker(true)?;
        let (relay, relay_socket) = product.relay("relay", &address, None)?;
        let _services = [processor, broker, relay];
        Ok(Self { product, pins, tenant, measurement, relay_socket, starts: 0, _services })
    }

    /// A VM with a blank disk. Names need not be unique.
    pub(super) fn enrol(&mut self, name: &str) -> Result<Vm, Failure> {
        let name = self.unique(name);
        self.product.enrol(&self.tenant, &self.measurement, &name)
    }

    /// A blank disk of nobody's.
    pub(super) fn blank(&mut self, name: &str) -> Result<PathBuf, Failure> {
        let name = self.unique(name);
        let disk = self.product.path(&format!("{name}.disk"));
        blank_disk(&disk).map(|()| disk)
    }

    /// An empty folder for swtpm's state.
    pub(super) fn state(&mut self, name: &str) -> Result<PathBuf, Failure> {
        let name = self.unique(name);
        let folder = self.product.path(&format!("{name}.swtpm"));
        std::fs::create_dir_all(&folder).map_err(|error| Failure::io("make", &folder, &error))?;
        Ok(folder)
    }

    /// husk with its broker.
    pub(super) fn anchored(&mut self, vm: &Vm) -> Result<Running, Failure> {
        let name = self.unique("anchored");
        let socket = self.product.path(&format!("{name}.socket"));
        let start = Start {
            program: &self.product.husk,
            config: &vm.config,
            disk: &vm.disk,
            relay: &self.relay_socket,
            name: &name,
        };
        let line = self.product.component_line(&start, &["--data".into(), format!("unix:{}", text(&socket))]);
        self.start(&name, &self.product.husk, line, &socket)
    }

    /// husk without a broker: every promise given up.
    pub(super) fn unanchored(&mut self, disk: &Path) -> Result<Running, Failure> {
        let name = self.unique("unanchored");
        let socket = self.product.path(&format!("{name}.socket"));
        let data = format!("unix:{}", text(&socket));
        let line = ["vtpmd", "--unsealed-for-testing", "--volume", &text(disk), "--data", &data];
        self.start(&name, &self.product.husk, line.map(str::to_owned).to_vec(), &socket)
    }

    /// Debian's swtpm.
    pub(super) fn swtpm(&mut self, state: &Path) -> Result<Running, Failure> {
        let name = self.unique("swtpm");
        let [socket, control] =
            ["socket", "control"].map(|ending| self.product.path(&format!("{name}.{ending}")));
        let [server, control] = [&socket, &control].map(|path| format!("type=unixio,path={}", text(path)));
        let state = format!("dir={}", text(state));
        let line = ["socket", "--tpm2", "--server", &server, "--ctrl", &control, "--tpmstate", &state];
        let line = line.into_iter().chain(["--flags", "not-need-init,startup-clear"]);
        self.start(&name, &setup::program("swtpm")?, line.map(str::to_owned).collect(), &socket)
    }

    /// Starts a TPM where it is pinned to, and brings it to where it answers anything. Each gets the same commands;
    /// swtpm has started up by itself and says so.
    fn start(
        &self,
        name: &str,
        program: &Path,
        line: Vec<String>,
        socket: &Path,
    ) -> Result<Running, Failure> {
        let log = self.product.path(&format!("{name}.log"));
        let (program, line) = match self.pins.words() {
            Some(words) => {
                let pinned = words.into_iter().chain([text(program)]).chain(line);
                (setup::program("taskset")?, pinned.collect())
            }
            None => (program.to_owned(), line),
        };
        let started = Instant::now();
        let daemon = Daemon::start(name, &program, &line, &log)?;
        let mut client = Client::connect(socket)
            .map_err(|failure| Failure::failed(format!("{failure}\n{}", daemon.log_text().trim())))?;
        client.exchange(&startup_clear())?;
        client.call(&random(16))?;
        Ok(Running { client, cold_start: started.elapsed(), daemon, log })
    }

    fn unique(&mut self, name: &str) -> String {
        self.starts += 1;
        format!("{name}-{}", self.starts)
    }
}
