//! A reference engine on a bench: one at a time in a process, deterministic entropy, images that can be kept and put back.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]
#![allow(clippy::allow_attributes, reason = "what is unused differs from test to test")]

use crate::tpm::{self, Reply};
use husk::engine::reference::ReferenceEngine;
use husk::engine::{
    COMMAND_BYTES_MAX, Command, ENDORSEMENT_BYTES_MAX, EndorsementKey, Engine, EngineFault, Locality,
    PowerOn, Start,
};
use husk::nv::{NvFault, NvImage, STATE_BYTES_MAX};
use husk::seams::EntropyError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use zerocopy::IntoBytes;

static TURN: Mutex<()> = Mutex::new(());
static SEED: AtomicU64 = AtomicU64::new(0);
static STOPPED: AtomicBool = AtomicBool::new(false);

/// splitmix64 over a counter, or nothing while stopped.
fn entropy(into: &mut [u8]) -> Result<(), EntropyError> {
    if STOPPED.load(SeqCst) {
        return Err(EntropyError);
    }
    for chunk in into.chunks_mut(8) {
        let mut z = SEED.fetch_add(0x9E37_79B9_7F4A_7C15, SeqCst);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
    }
    Ok(())
}

/// An engine, its image, and the process's only permission to have one.
pub struct Bench {
    pub engine: ReferenceEngine,
    pub nv: NvImage<'static>,
    _turn: MutexGuard<'static, ()>,
}

impl Bench {
    /// An engine that is off, over an image of nothing.
    pub fn new(seed: u64) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        SEED.store(seed, SeqCst);
        STOPPED.store(false, SeqCst);
        let engine = ReferenceEngine::claim(entropy).expect("no other engine lives");
        Self { engine, nv: image(), _turn: turn }
    }

    /// A new TPM after Startup(CLEAR), with reset count 1.
    pub fn started() -> Self {
        let mut bench = Self::new(1);
        bench.power_on(Start::Manufacture, 1).unwrap();
        bench.send(&tpm::startup_clear()).ok();
        bench
    }

    pub fn power_on(&mut self, start: Start, reset_count: u32) -> Result<(), EngineFault> {
        self.engine.power_on(&mut self.nv, PowerOn { start, reset_count, clock_ms_min: 0 })
    }

    /// As [`power_on`](Self::power_on) from a stored state, with the clock at `clock_ms_min` or later.
    pub fn launch(&mut self, reset_count: u32, clock_ms_min: u64) -> Result<(), EngineFault> {
        self.engine.power_on(&mut self.nv, PowerOn { start: Start::Load, reset_count, clock_ms_min })
    }

    /// Cuts the power; the image stays as it is.
    pub fn engine_off(&mut self) {
        self.engine.power_off();
    }

    /// Has the endorsement keys worked out; the engine is off afterwards.
    pub fn learn(&mut self) -> Result<(), EngineFault> {
        self.engine.learn_endorsement(&mut self.nv)
    }

    /// The public area of an endorsement key, as the engine tells it.
    pub fn endorsement(&self, key: EndorsementKey) -> Result<Vec<u8>, EngineFault> {
        let mut public = [0; ENDORSEMENT_BYTES_MAX];
        let len = self.engine.endorsement_key(&self.nv, key, &mut public)?;
        Ok(public[..len].to_vec())
    }

    /// The handles whose attempts `bytes` opens.
    pub fn attempts(&mut self, bytes: &[u8]) -> Vec<u32> {
        let command = Command::parse(bytes, Locality::Zero).unwrap();
        self.engine.attempts(&command, &mut self.nv).unwrap().to_vec()
    }

    /// Makes entropy fail from now on, or work again.
    pub fn stop_entropy(&self, stopped: bool) {
        STOPPED.store(stopped, SeqCst);
    }

    /// Executes once, at locality 0.
    pub fn send_once(&mut self, bytes: &[u8]) -> Result<Reply, EngineFault> {
        self.send_at(Locality::Zero, bytes)
    }

    pub fn send_at(&mut self, locality: Locality, bytes: &[u8]) -> Result<Reply, EngineFault> {
        let mut response = [0; COMMAND_BYTES_MAX];
        let command = Command::parse(bytes, locality)?;
        let len = self.engine.execute(&command, &mut self.nv, &mut response)?;
        Ok(Reply(response[..len].to_vec()))
    }

    /// Executes, and again where the TPM asks for it (TPM_RC_RETRY).
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) -> Reply {
        let mut reply = self.send_once(bytes).unwrap();
        for _ in 0..3 {
            if reply.code() == 0x922 {
                reply = self.send_once(bytes).unwrap();
            }
        }
        reply
    }

    /// The image as the engine left it.
    pub fn image(&self) -> Vec<u8> {
        self.nv.current().to_vec()
    }

    /// Puts an image back, as if it were what the volume holds. The engine is off afterwards.
    pub fn put_back(&mut self, bytes: &[u8]) {
        self.engine.power_off();
        let loaded: Result<(), NvFault> = self.nv.load(|into| {
            into[..bytes.len()].copy_from_slice(bytes);
            Ok(bytes.len())
        });
        loaded.unwrap();
    }

    /// As [`put_back`](Self::put_back), with another engine state.
    pub fn put_back_state(&mut self, state: &[u8]) {
        let envelope = self.nv.envelope();
        self.put_back(&[envelope.as_bytes(), state].concat());
    }

    /// Cuts power without a shutdown and launches again from `bytes`, up to and with Startup(CLEAR).
    pub fn relaunch(&mut self, bytes: &[u8], reset_count: u32) {
        self.put_back(bytes);
        self.power_on(Start::Load, reset_count).unwrap();
        self.send(&tpm::startup_clear()).ok();
    }

    pub fn clock(&mut self) -> tpm::Clock {
        let reply = self.send(&tpm::read_clock()).ok();
        tpm::clock_of(&reply)
    }

    pub fn failed_tries(&mut self) -> u32 {
        let reply = self.send(&tpm::capability(6, tpm::PT_LOCKOUT_COUNTER, 1)).ok();
        tpm::property_of(&reply)
    }
}

fn image() -> NvImage<'static> {
    let buffer = || Box::leak(Box::new([0; STATE_BYTES_MAX]));
    NvImage::new(buffer(), buffer())
}
