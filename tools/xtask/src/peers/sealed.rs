//! Husk, sealed: a processor, a broker and a relay of its own, and as many VMs as asked for.

use crate::failure::Failure;
use crate::process::Daemon;
use crate::product::{Product, Profile, blank_disk, text};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a component may take to serve: another's lease may be in the way.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// Everything but a component.
#[derive(Debug)]
pub(super) struct Sealed {
    product: Product,
    tenant: String,
    measurement: String,
    firmware: PathBuf,
    relay: PathBuf,
    _services: [Daemon; 3],
}

/// An enrolled VM, whose volume lies where swtpm's words look for it.
#[derive(Debug)]
pub(super) struct Vm {
    pub(super) name: String,
    config: PathBuf,
    state: PathBuf,
}

impl Vm {
    /// Its volume.
    fn volume(&self) -> PathBuf {
        self.state.join("tpm2.husk")
    }
}

impl Sealed {
    /// Builds husk and starts what it needs.
    pub(super) fn set(folder: &Path) -> Result<Self, Failure> {
        let product = Product::build(folder, Profile::Dev)?;
        let (processor, _) = product.processor()?;
        let tenant = product.broker_and_tenant()?;
        let firmware = product.path("firmware");
        fs::write(&firmware, b"firmware of the peers")
            .map_err(|error| Failure::io("write", &firmware, &error))?;
        let measurement = product.measurement(&firmware)?;
        let (broker, address) = product.broker(true)?;
        let (relay_process, relay) = product.relay("relay", &address, None)?;
        let _services = [processor, broker, relay_process];
        Ok(Self { product, tenant, measurement, firmware, relay, _services })
    }

    /// The program.
    pub(super) fn program(&self) -> &Path {
        &self.product.husk
    }

    /// A path in the folder of all this.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.product.path(name)
    }

    /// A VM that never ran.
    pub(super) fn vm(&self, name: &str) -> Result<Vm, Failure> {
        let config = self.product.enrol(&self.tenant, &self.measurement, name)?.config;
        let state = self.path(&format!("{name}.state"));
        fs::create_dir_all(&state).map_err(|error| Failure::io("make", &state, &error))?;
        let vm = Vm { name: name.to_owned(), config, state };
        blank_disk(&vm.volume())?;
        Ok(vm)
    }

    /// `husk vtpmd socket`, by swtpm's words.
    pub(super) fn socket(&self, vm: &Vm, start: &str, words: &[String]) -> Result<Daemon, Failure> {
        let state = format!("dir={}", text(&vm.state));
        let line = ["vtpmd", "socket", "--tpm2", "--tpmstate", &state].map(str::to_owned);
        self.start(vm, start, line.into_iter().chain(words.iter().cloned()).collect())
    }

    /// `husk vtpmd` by its own words.
    pub(super) fn vtpmd(&self, vm: &Vm, start: &str, words: &[String]) -> Result<Daemon, Failure> {
        let line = ["vtpmd", "--volume", &text(&vm.volume())].map(str::to_owned);
        self.start(vm, start, line.into_iter().chain(words.iter().cloned()).collect())
    }

    fn start(&self, vm: &Vm, start: &str, mut line: Vec<String>) -> Result<Daemon, Failure> {
        let name = format!("{}-{start}", vm.name);
        let sealing = [
            ("--config", &vm.config),
            ("--psp", &self.path("psp.socket")),
            ("--relay", &self.relay),
            ("--firmware", &self.firmware),
        ];
        line.extend(sealing.iter().flat_map(|(word, path)| [(*word).to_owned(), text(path)]));
        line.extend(["--wait-for-lease-seconds", "30"].map(str::to_owned));
        let log = self.path(&format!("{name}.log"));
        let mut daemon = Daemon::start(&name, &self.product.husk, &line, &log)?;
        daemon.wait_until(START_PATIENCE, |said| said.contains("vtpmd: ready").then_some(()))?;
        Ok(daemon)
    }
}
