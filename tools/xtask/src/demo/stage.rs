//! What runs on the host in the course of the demo.

use crate::failure::Failure;
use crate::guest::{Guest, Launch, MEMORY_MIB, OnReset, Report, SHARED_PAGE_BASE, Wiring, image};
use crate::process::Daemon;
use crate::product::{Product, Start, Vm, text};
use crate::setup;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A boot under software emulation on a loaded machine, with some hundred TPM commands.
const BOOT_PATIENCE: Duration = Duration::from_secs(180);

/// How long the component may take to serve or to refuse, and to end.
const COMPONENT_PATIENCE: Duration = Duration::from_secs(60);

/// How long another instance's lease may be in the way.
const LEASE_PATIENCE: Duration = Duration::from_secs(20);

/// What the component prints when it serves.
const READY: &str = "vtpmd: ready";

/// "another instance of this VM holds the lease" (`ReleaseFault::Busy`).
pub(super) const BUSY: u32 = 0x0306_0006;

/// The demonstrated world: processor, broker, relay, and one enrolled VM.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) product: Product,
    pub(super) tenant: String,
    pub(super) measurement: String,
    pub(super) vm: Vm,
    pub(super) broker_address: String,
    broker: Option<Daemon>,
    relay: Option<Daemon>,
    pub(super) relay_socket: PathBuf,
    starts: usize,
    _processor: Daemon,
}

/// How a start of the component ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Serves(Daemon),
    /// It ended with this fault.
    Refused {
        code: u32,
        sentence: String,
    },
}

impl Stage {
    /// Starts everything but the VM.
    pub(super) fn set(product: &Product) -> Result<Self, Failure> {
        let (processor, _) = product.processor()?;
        let tenant = product.broker_and_tenant()?;
        let measurement = product.measurement(&product.husk)?;
        let vm = product.enrol(&tenant, &measurement, "vm")?;
        let (broker, broker_address) = product.broker(true)?;
        let (relay, relay_socket) = product.relay("relay", &broker_address, None)?;
        Ok(Self {
            product: product.clone(),
            tenant,
            measurement,
            vm,
            broker_address,
            broker: Some(broker),
            relay: Some(relay),
            relay_socket,
            starts: 0,
            _processor: processor,
        })
    }

    /// Boots the guest, runs a script to its end, and shuts down in order.
    pub(super) fn guest_boot(
        &mut self,
        script: &str,
        settings: Vec<(&str, String)>,
    ) -> Result<Report, Failure> {
        let log = self.product.path(&format!("{script}.console"));
        let (component, guest) = self.guest_start(script, settings, &log)?;
        let report = guest.finish(BOOT_PATIENCE)?;
        component.stop(COMPONENT_PATIENCE)?;
        Ok(report)
    }

    /// Boots the guest, lets it write, and kills guest and component while it does.
    pub(super) fn power_cut_during_writes(&mut self, writes: u64) -> Result<Report, Failure> {
        let log = self.product.path("hammer.console");
        let (component, mut guest) = self.guest_start("hammer", Vec::new(), &log)?;
        guest.wait_acknowledged("progress", writes, BOOT_PATIENCE)?;
        component.kill();
        guest.cut_power(&log)
    }

    /// Starts the component on the VM's own disk, waits out another's lease, and shuts it down in order.
    pub(super) fn honest_boot(&mut self) -> Result<(), Failure> {
        let (program, vm, relay) = (self.product.husk.clone(), self.vm.clone(), self.relay_socket.clone());
        match self.start_when_free(&program, &vm.disk, &vm.config, &relay)? {
            Outcome::Serves(component) => component.stop(COMPONENT_PATIENCE),
            Outcome::Refused { sentence, .. } => {
                Err(Failure::failed(format!("the honest state does not boot: {sentence}")))
            }
        }
    }

    /// Starts the component without a guest until it is not a lease that is in its way.
    pub(super) fn start_when_free(
        &mut self,
        program: &Path,
        disk: &Path,
        config: &Path,
        relay: &Path,
    ) -> Result<Outcome, Failure> {
        self.when_free(|stage| stage.start(program, disk, config, relay))
    }

    /// Starts the component anew until it is not a lease that is in its way.
    fn when_free(
        &mut self,
        mut start: impl FnMut(&mut Self) -> Result<Outcome, Failure>,
    ) -> Result<Outcome, Failure> {
        let deadline = Instant::now() + LEASE_PATIENCE;
        loop {
            match start(self)? {
                Outcome::Refused { code: BUSY, .. } if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(500));
                }
                outcome => return Ok(outcome),
            }
        }
    }

    /// Starts the component without a guest, serving a socket that nobody uses.
    pub(super) fn start(
        &mut self,
        program: &Path,
        disk: &Path,
        config: &Path,
        relay: &Path,
    ) -> Result<Outcome, Failure> {
        self.starts += 1;
        let name = format!("component-{}", self.starts);
        let data = format!("unix:{}", text(&self.product.path(&format!("{name}.socket"))));
        let start = Start { program, config, disk, relay, name: &name };
        let component = self.product.component(&start, &["--data".into(), data])?;
        outcome(component)
    }

    /// Where the component that was started last takes commands.
    pub(super) fn last_socket(&self) -> PathBuf {
        self.product.path(&format!("component-{}.socket", self.starts))
    }

    /// Stops the broker and starts it again, with or without acceptance of simulated silicon; the relay follows.
    pub(super) fn restart_broker(&mut self, accepts_simulation: bool) -> Result<(), Failure> {
        if let Some(broker) = self.broker.take() {
            broker.stop(COMPONENT_PATIENCE)?;
        }
        drop(self.relay.take());
        let (broker, address) = self.product.broker(accepts_simulation)?;
        self.starts += 1;
        let (relay, socket) = self.product.relay(&format!("relay-{}", self.starts), &address, None)?;
        (self.broker, self.broker_address) = (Some(broker), address);
        (self.relay, self.relay_socket) = (Some(relay), socket);
        Ok(())
    }

    fn guest_start(
        &mut self,
        script: &str,
        settings: Vec<(&str, String)>,
        log: &Path,
    ) -> Result<(Daemon, Guest), Failure> {
        let [memory, tables] = ["guest.memory", "tables"].map(|name| self.product.path(name));
        let sized = std::fs::File::create(&memory).and_then(|file| file.set_len(MEMORY_MIB << 20));
        sized.map_err(|error| Failure::io("make", &memory, &error))?;
        std::fs::create_dir_all(&tables).map_err(|error| Failure::io("make", &tables, &error))?;
        let component = self.component_for_guest(script, &memory, &tables)?;
        let kernel = setup::fetched_kernel()?;
        let tables = ["tpm2.aml", "ssdt.aml"].map(|name| tables.join(name)).to_vec();
        let wiring = Wiring::SharedPage { memory, tables };
        let (initramfs, on_reset) = (image()?, OnReset::Stops);
        let launch =
            Launch { kernel: &kernel.image, initramfs: &initramfs, wiring, on_reset, script, settings, log };
        Ok((component, Guest::start(&launch)?))
    }

    fn component_for_guest(&mut self, script: &str, memory: &Path, tables: &Path) -> Result<Daemon, Failure> {
        let crb_at = format!("{SHARED_PAGE_BASE:#x}");
        let served = ["--guest-memory", &text(memory), "--crb-at", &crb_at, "--acpi", &text(tables)]
            .map(str::to_owned);
        let started = self.when_free(|stage| {
            stage.starts += 1;
            let name = format!("component-{}-{script}", stage.starts);
            let (program, vm, relay) = (&stage.product.husk, &stage.vm, &stage.relay_socket);
            let start = Start { program, config: &vm.config, disk: &vm.disk, relay, name: &name };
            outcome(stage.product.component(&start, &served)?)
        })?;
        match started {
            Outcome::Serves(component) => Ok(component),
            Outcome::Refused { sentence, .. } => Err(Failure::failed(format!("{script}: {sentence}"))),
        }
    }
}

/// Waits until the component serves, or has said why not and ended.
fn outcome(mut component: Daemon) -> Result<Outcome, Failure> {
    let seen = component.wait_until(COMPONENT_PATIENCE, |log| match fault(log) {
        Some(fault) => Some(Some(fault)),
        None => log.contains(READY).then_some(None),
    })?;
    match seen {
        None => Ok(Outcome::Serves(component)),
        Some((code, sentence)) => {
            component.wait_end(COMPONENT_PATIENCE)?;
            Ok(Outcome::Refused { code, sentence })
        }
    }
}

/// The first fault in a log, as `husk::fault::Fault` shows itself: `0x04040010 seal: what happened; what to do`.
fn fault(log: &str) -> Option<(u32, String)> {
    log.match_indices("0x").find_map(|(at, _)| {
        let line = log.get(at..)?.lines().next()?;
        let (digits, rest) = (line.get(2..10)?, line.get(10..)?);
        let code = u32::from_str_radix(digits, 16).ok()?;
        let family = rest.strip_prefix(' ')?.split(": ").next()?;
        let is_family = ["guest", "host", "broker", "seal", "engine", "bug"].contains(&family);
        is_family.then(|| (code, line.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::fault;

    #[test]
    fn a_fault_is_found_in_a_log() {
        let log = "starting at 0x1c000000\nhusk: the VM did not boot: 0x04040010 seal: the disk is blank; attach it\n";
        let (code, sentence) = fault(log).expect("found");
        assert_eq!(code, 0x0404_0010);
        assert_eq!(sentence, "0x04040010 seal: the disk is blank; attach it");
        assert_eq!(fault("0x1c000000 is where the page is"), None);
    }
}
