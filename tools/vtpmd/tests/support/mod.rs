//! A machine for tests: the reference engine over an image in RAM. It keeps nothing and proves nothing.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]
#![allow(clippy::allow_attributes, reason = "what is unused differs from test to test")]
#![expect(clippy::expect_used, reason = "a test stops at the first surprise")]

use husk::engine::reference::ReferenceEngine;
use husk::engine::{Command, Engine, EngineFault, Locality, PowerOn, Start};
use husk::fault::Fault;
use husk::frontend::{Tpm, reply};
use husk::nv::{NvImage, STATE_BYTES_MAX};
use husk::vtpm::VtpmFault;
use husk_vtpmd::machine::{About, Blob, Canceller, Machine};
use husk_vtpmd::platform::OsEntropy;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

static TURN: Mutex<()> = Mutex::new(());

/// The library can be one TPM at a time in a process: hold this while a machine lives.
pub fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the program at `path` is installed; says so loudly where it is not.
pub fn is_installed(path: &str) -> bool {
    let found = Path::new(path).exists();
    if !found {
        eprintln!("SKIPPED: {path} is not installed");
    }
    found
}

pub struct BenchMachine {
    engine: ReferenceEngine,
    nv: NvImage<'static>,
    volatile: Option<Vec<u8>>,
    on: bool,
    resets: u32,
}

impl BenchMachine {
    pub fn boxed() -> Box<dyn Machine> {
        let memory = || Box::leak(vec![0; STATE_BYTES_MAX].into_boxed_slice().try_into().unwrap());
        let nv = NvImage::new(memory(), memory());
        let engine = ReferenceEngine::claim(OsEntropy::draw).expect("one machine at a time");
        Box::new(Self { engine, nv, volatile: None, on: false, resets: 0 })
    }

    fn power(&self) -> PowerOn {
        let made = !self.nv.engine_state().is_empty();
        let start = if made { Start::Load } else { Start::Manufacture };
        PowerOn { start, reset_count: self.resets, clock_ms_min: 0 }
    }
}

impl Tpm for BenchMachine {
    fn execute(&mut self, locality: Locality, command: &[u8], response: &mut [u8]) -> usize {
        let executed = Command::parse(command, locality)
            .and_then(|parsed| self.engine.execute(&parsed, &mut self.nv, response));
        executed.unwrap_or_else(|fault| reply::write(fault.fault(), command, response))
    }
    fn established(&mut self) -> bool {
        self.engine.established()
    }
    fn reset_established(&mut self, locality: Locality) -> Result<(), Fault> {
        self.engine.reset_established(locality).map_err(EngineFault::fault)
    }
    fn hash_start(&mut self) -> Result<(), Fault> {
        self.engine.hash_start(&mut self.nv).map_err(EngineFault::fault)
    }
    fn hash_data(&mut self, data: &[u8]) -> Result<(), Fault> {
        self.engine.hash_data(&mut self.nv, data).map_err(EngineFault::fault)
    }
    fn hash_end(&mut self) -> Result<(), Fault> {
        self.engine.hash_end(&mut self.nv).map_err(EngineFault::fault)
    }
}

impl Machine for BenchMachine {
    fn about(&self) -> About {
        About { revision: 164, model: "bench", keeps_volatile: true, gives_state: false }
    }
    fn canceller(&self) -> Option<Canceller> {
        let canceller = self.engine.canceller();
        Some(Arc::new(move || canceller.cancel()))
    }
    fn is_on(&self) -> bool {
        self.on
    }
    fn power_on(&mut self) -> Result<(), Fault> {
        self.resets += 1;
        self.on = false;
        let power = self.power();
        match self.volatile.take() {
            Some(bytes) => self.engine.resume_volatile(&mut self.nv, power, &bytes),
            None => self.engine.power_on(&mut self.nv, power),
        }
        .map_err(EngineFault::fault)?;
        self.on = true;
        Ok(())
    }
    fn power_off(&mut self) -> Result<(), Fault> {
        self.engine.power_off();
        self.on = false;
        Ok(())
    }
    fn store_volatile(&mut self) -> Result<(), Fault> {
        let mut bytes = vec![0; 64 * 1024];
        let length = self.engine.save_volatile(&mut bytes).map_err(EngineFault::fault)?;
        bytes.truncate(length);
        self.volatile = Some(bytes);
        Ok(())
    }
    fn read_blob(&mut self, _: Blob) -> Result<Vec<u8>, Fault> {
        Err(VtpmFault::StateStays.into())
    }
    fn write_blob(&mut self, _: Blob, _: Vec<u8>) -> Result<(), Fault> {
        Err(VtpmFault::StateStays.into())
    }
    fn shut_down(&mut self) -> Result<(), Fault> {
        self.power_off()
    }
}
