//! The sealed stack around one VM: processor, broker, relay, and `husk vtpmd` as often as it is started.

use super::memory::Memory;
use crate::failure::Failure;
use crate::process::Daemon;
use crate::product::{Product, Start, Vm, text};
use std::path::PathBuf;
use std::time::Duration;

/// Longer than a start takes on a loaded machine, another instance's lease included.
const PATIENCE: Duration = Duration::from_secs(90);

/// How long `husk vtpmd` waits for the lease of the one that was killed.
const LEASE_WAIT_SECONDS: u32 = 60;

/// What the simulated processor measures.
static FIRMWARE: [u8; 4096] = [0x90; 4096];

/// How many KiB a service may have more at the end than after the first lives.
const SERVICE_GROWTH_KIB_MAX: u64 = 8192;

/// Everything but the TPM.
#[derive(Debug)]
pub(super) struct Site {
    product: Product,
    vm: Vm,
    firmware: PathBuf,
    relay_socket: PathBuf,
    starts: usize,
    services: [(&'static str, Daemon, Memory); 3],
}

impl Site {
    pub(super) fn set(product: Product) -> Result<Self, Failure> {
        let (processor, _) = product.processor()?;
        let tenant = product.broker_and_tenant()?;
        let firmware = product.path("firmware");
        std::fs::write(&firmware, FIRMWARE).map_err(|error| Failure::io("write", &firmware, &error))?;
        let measurement = product.measurement(&firmware)?;
        let vm = product.enrol(&tenant, &measurement, "vm")?;
        let (broker, address) = product.broker(true)?;
        let (relay, relay_socket) = product.relay("relay", &address, None)?;
        let services = [("the processor", processor), ("the broker", broker), ("the relay", relay)]
            .map(|(name, daemon)| (name, daemon, Memory::default()));
        Ok(Self { product, vm, firmware, relay_socket, starts: 0, services })
    }

    /// Starts the TPM and waits until it serves: its process, and where it takes commands.
    pub(super) fn open(&mut self) -> Result<(Daemon, PathBuf), Failure> {
        self.starts += 1;
        let name = format!("vtpmd-{}", self.starts);
        let socket = self.product.path(&format!("{name}.socket"));
        let start = Start {
            program: &self.product.husk,
            config: &self.vm.config,
            disk: &self.vm.disk,
            relay: &self.relay_socket,
            name: &name,
        };
        let data = format!("unix:{}", text(&socket));
        let more = ["--firmware", &text(&self.firmware), "--data", &data].map(str::to_owned);
        let mut daemon = self.product.patient_component(&start, LEASE_WAIT_SECONDS, &more)?;
        daemon.wait_until(PATIENCE, |log| log.contains("vtpmd: ready").then_some(()))?;
        Ok((daemon, socket))
    }

    /// Takes readings of the services' memory, once they are warm.
    pub(super) fn weigh(&mut self) {
        for (_, daemon, memory) in &mut self.services {
            memory.weigh(daemon.id());
        }
    }

    /// How much the services grew; fails if one grew too much.
    pub(super) fn judge(&self) -> Result<String, Failure> {
        let grown = self.services.iter().map(|(name, _, memory)| {
            memory.judge(name, SERVICE_GROWTH_KIB_MAX).map(|kib| format!("{name} {kib} KiB"))
        });
        Ok(grown.collect::<Result<Vec<_>, _>>()?.join(", "))
    }
}
