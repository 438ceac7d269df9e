//! The three TPMs, and what husk's needs beside it.

use super::Three;
use super::client::Client;
use super::commands::{random, shutdown_clear, startup_clear};
use super::cost::{self, Pins, Reading, resident_kib};
use super::tap::Tap;
use crate::failure::Failure;
use crate::process::Daemon;
use crate::product::{Product, Start, Vm, blank_disk, text};
use crate::setup;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What the simulated processor measures: a stand-in as long as a small image. Measuring belongs to a VM's launch and not
/// to its TPM; the husk program itself, with its symbols, would take a third of a second.
static FIRMWARE: [u8; 256 << 10] = [0x90; 256 << 10];

/// Where files are memory.
const RAM: &str = "/dev/shm";

/// How long a TPM may take to end.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// Processor, broker and relay, and a tenant whose VMs they serve.
#[derive(Debug)]
pub(super) struct Site {
    product: Product,
    pins: Pins,
    tenant: String,
    measurement: String,
    firmware: PathBuf,
    relay_socket: PathBuf,
    starts: usize,
    _services: [Daemon; 3],
}

/// What three TPMs keep their memory in.
#[derive(Debug)]
pub(super) struct Stores {
    pub(super) vm: Vm,
    /// Of husk without a broker.
    pub(super) disk: PathBuf,
    /// swtpm's folder.
    pub(super) state: PathBuf,
}

impl Stores {
    fn make(vm: Vm, folder: &Path) -> Result<Self, Failure> {
        let (disk, state) = (folder.join("unanchored.disk"), folder.join("swtpm"));
        std::fs::create_dir_all(&state).map_err(|error| Failure::io("make", &state, &error))?;
        blank_disk(&disk)?;
        Ok(Self { vm, disk, state })
    }
}

/// A folder in memory, removed with this value.
#[derive(Debug)]
pub(super) struct Ram(PathBuf);

impl Drop for Ram {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("bench: {} stays: {error}", self.0.display());
        }
    }
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

    /// Ends what ends with its client, and what watches it.
    pub(super) fn leave(mut self) -> Result<(), Failure> {
        self.client.call(&shutdown_clear())?;
        drop(self.client);
        self.daemon.wait_end(END_PATIENCE)
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
        let firmware = product.path("firmware");
        std::fs::write(&firmware, FIRMWARE).map_err(|error| Failure::io("write", &firmware, &error))?;
        let measurement = product.measurement(&firmware)?;
        let (broker, address) = product.broker(true)?;
        let (relay, relay_socket) = product.relay("relay", &address, None)?;
        let _services = [processor, broker, relay];
        Ok(Self { product, pins, tenant, measurement, firmware, relay_socket, starts: 0, _services })
    }

    /// A VM with a blank disk. Names need not be unique.
    pub(super) fn enrol(&mut self, name: &str) -> Result<Vm, Failure> {
        let name = self.unique(name);
        self.product.enrol(&self.tenant, &self.measurement, &name)
    }

    /// What the three keep their memory in, each with nothing in it.
    pub(super) fn stores(&mut self, name: &str) -> Result<Stores, Failure> {
        let folder = self.unique(name);
        let folder = self.product.path(&folder);
        let vm = self.enrol(name)?;
        Stores::make(vm, &folder)
    }

    /// The same in files that are memory; `None` where there are none. What is left of them goes with the value.
    pub(super) fn stores_in_ram(&mut self, name: &str) -> Result<Option<(Stores, Ram)>, Failure> {
        if !Path::new(RAM).is_dir() {
            return Ok(None);
        }
        let folder = Path::new(RAM).join(format!("husk-bench-{}", std::process::id()));
        let ram = Ram(folder.clone());
        let enrolled = self.enrol(name)?;
        let disk = folder.join("anchored.disk");
        let stores = Stores::make(Vm { config: enrolled.config, disk: disk.clone() }, &folder)?;
        blank_disk(&disk)?;
        Ok(Some((stores, ram)))
    }

    /// Starts all three.
    pub(super) fn three(&mut self, stores: &Stores) -> Result<Three<Running>, Failure> {
        Ok([self.anchored(&stores.vm)?, self.unanchored(&stores.disk)?, self.swtpm(&stores.state)?])
    }

    /// Taps on the ways to the broker and to the processor.
    pub(super) fn taps(&mut self) -> Result<[Tap; 2], Failure> {
        let [broker, processor] = ["tap-broker", "tap-processor"].map(|name| self.scratch(name));
        Ok([Tap::set(broker, &self.relay_socket)?, Tap::set(processor, &self.product.path("psp.socket"))?])
    }

    /// husk with its broker.
    pub(super) fn anchored(&mut self, vm: &Vm) -> Result<Running, Failure> {
        let (name, line, socket) = self.anchored_line(vm);
        self.start(&name, &self.product.husk, line, &socket)
    }

    /// The same with taps between.
    pub(super) fn anchored_through(&mut self, taps: &[Tap; 2], vm: &Vm) -> Result<Running, Failure> {
        let (name, mut line, socket) = self.anchored_line(vm);
        for (word, tap) in ["--relay", "--psp"].iter().zip(taps) {
            if let Some(at) = line.iter().position(|given| given == word) {
                line[at + 1] = text(&tap.path);
            }
        }
        self.start(&name, &self.product.husk, line, &socket)
    }

    /// husk's words, its name and where it then listens.
    fn anchored_line(&mut self, vm: &Vm) -> (String, Vec<String>, PathBuf) {
        let name = self.unique("anchored");
        let socket = self.product.path(&format!("{name}.socket"));
        let start = Start {
            program: &self.product.husk,
            config: &vm.config,
            disk: &vm.disk,
            relay: &self.relay_socket,
            name: &name,
        };
        let data = format!("unix:{}", text(&socket));
        let more = ["--firmware", &text(&self.firmware), "--data", &data].map(str::to_owned);
        let line = self.product.component_line(&start, &more);
        (name, line, socket)
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
        let (line, socket) = self.swtpm_line(&name, state);
        self.start(&name, &setup::program("swtpm")?, line, &socket)
    }

    /// The same with every flush that it asks for written down in `trace`; it ends with its client. Not to be timed.
    pub(super) fn swtpm_traced(&mut self, state: &Path, trace: &Path) -> Result<Running, Failure> {
        let name = self.unique("swtpm-traced");
        let (line, socket) = self.swtpm_line(&name, state);
        let tracer = ["-f", "-qq", "-e", "signal=none", "-e", cost::FLUSHES, "-o", &text(trace)];
        let traced = tracer.map(str::to_owned).into_iter().chain([text(&setup::program("swtpm")?)]);
        let line = traced.chain(line).chain(["--terminate".to_owned()]).collect();
        self.start(&name, &setup::program("strace")?, line, &socket)
    }

    /// swtpm's words, and where it then listens.
    fn swtpm_line(&self, name: &str, state: &Path) -> (Vec<String>, PathBuf) {
        let [socket, control] =
            ["socket", "control"].map(|ending| self.product.path(&format!("{name}.{ending}")));
        let [server, control] = [&socket, &control].map(|path| format!("type=unixio,path={}", text(path)));
        let state = format!("dir={}", text(state));
        let line = ["socket", "--tpm2", "--server", &server, "--ctrl", &control, "--tpmstate", &state];
        let line = line.into_iter().chain(["--flags", "not-need-init,startup-clear"]);
        (line.map(str::to_owned).collect(), socket)
    }

    /// A file in the folder of all this, of a name that no other has.
    pub(super) fn scratch(&mut self, name: &str) -> PathBuf {
        let name = self.unique(name);
        self.product.path(&name)
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
