//! The machine behind all the ways in, and when to end.

use crate::machine::{About, Canceller, Machine};
use husk::engine::{COMMAND_BYTES_MAX, EngineFault, Locality};
use husk::fault::Fault;
use husk::frontend::{Tpm, reply};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// One machine, shared by every thread that serves it.
#[expect(missing_debug_implementations, reason = "the machine holds secrets")]
pub struct Serving {
    machine: Mutex<Option<Box<dyn Machine>>>,
    about: About,
    canceller: Option<Canceller>,
    locality: AtomicU32,
    buffer_bytes: AtomicU32,
    power_cycles: AtomicU64,
    over: Mutex<bool>,
    ended: Condvar,
}

impl Serving {
    /// The smallest buffer that a client may agree on, in bytes: what a CRB page holds.
    pub const BUFFER_BYTES_MIN: u32 = 0xF80;
    /// The largest, in bytes.
    #[expect(clippy::cast_possible_truncation, reason = "4096")]
    pub const BUFFER_BYTES_MAX: u32 = COMMAND_BYTES_MAX as u32;

    /// Takes `machine`, on or off.
    #[must_use]
    pub fn new(machine: Box<dyn Machine>) -> Arc<Self> {
        let (about, canceller) = (machine.about(), machine.canceller());
        Arc::new(Self {
            machine: Mutex::new(Some(machine)),
            about,
            canceller,
            locality: AtomicU32::new(0),
            buffer_bytes: AtomicU32::new(Self::BUFFER_BYTES_MAX),
            power_cycles: AtomicU64::new(0),
            over: Mutex::new(false),
            ended: Condvar::new(),
        })
    }

    /// Waits for the machine, then uses it; nothing after the end.
    pub(crate) fn with<T>(&self, using: impl FnOnce(&mut dyn Machine) -> T) -> Option<T> {
        let mut machine = lock(&self.machine);
        machine.as_mut().map(|machine| using(machine.as_mut()))
    }

    pub(crate) fn about(&self) -> About {
        self.about
    }

    pub(crate) fn can_cancel(&self) -> bool {
        self.canceller.is_some()
    }

    /// Ends the running command early, without waiting for the machine.
    pub(crate) fn cancel(&self) {
        if let Some(canceller) = &self.canceller {
            canceller();
        }
    }

    /// The locality of commands that come over sockets.
    pub(crate) fn locality(&self) -> Locality {
        let number = u8::try_from(self.locality.load(Ordering::Relaxed)).ok();
        number.and_then(Locality::from_number).unwrap_or_default()
    }

    pub(crate) fn set_locality(&self, locality: Locality) {
        self.locality.store(u32::from(locality.number()), Ordering::Relaxed);
    }

    /// The longest command and response over sockets, in bytes.
    pub(crate) fn buffer_bytes(&self) -> u32 {
        self.buffer_bytes.load(Ordering::Relaxed)
    }

    /// Agrees on a size as near to `wanted` as can be.
    pub(crate) fn set_buffer_bytes(&self, wanted: u32) {
        let agreed = wanted.clamp(Self::BUFFER_BYTES_MIN, Self::BUFFER_BYTES_MAX);
        self.buffer_bytes.store(agreed, Ordering::Relaxed);
    }

    /// Changes whenever the TPM was switched on or off.
    pub(crate) fn power_cycles(&self) -> u64 {
        self.power_cycles.load(Ordering::Acquire)
    }

    pub(crate) fn power_was_cycled(&self) {
        self.power_cycles.fetch_add(1, Ordering::Release);
    }

    /// Asks for the end.
    pub fn end(&self) {
        *lock(&self.over) = true;
        self.ended.notify_all();
    }

    /// Whether the end was asked for.
    #[must_use]
    pub fn is_over(&self) -> bool {
        *lock(&self.over)
    }

    /// Returns when the end was asked for.
    pub fn wait_for_end(&self) {
        let mut over = lock(&self.over);
        while !*over {
            over = self.ended.wait(over).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for the running command, shuts the machine down and drops it; every command fails from then on.
    ///
    /// # Errors
    /// The fault that left something undone.
    pub fn shut_down(&self) -> Result<(), Fault> {
        match lock(&self.machine).take() {
            Some(mut machine) => machine.shut_down(),
            None => Ok(()),
        }
    }
}

/// A thread that panicked while it held the machine has broken a command, not the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The machine as front-ends drive it: off, or after the end, it answers with failure.
impl Tpm for &Serving {
    fn execute(&mut self, locality: Locality, command: &[u8], response: &mut [u8]) -> usize {
        let answered = self.with(|machine| {
            if machine.is_on() { Some(machine.execute(locality, command, response)) } else { None }
        });
        match answered.flatten() {
            Some(bytes) => bytes,
            None => reply::write(EngineFault::Failed.fault(), command, response),
        }
    }

    fn established(&mut self) -> bool {
        self.with(|machine| machine.established()).unwrap_or(false)
    }

    fn reset_established(&mut self, locality: Locality) -> Result<(), Fault> {
        self.with(|machine| machine.reset_established(locality)).unwrap_or(Err(EngineFault::Failed.fault()))
    }

    fn hash_start(&mut self) -> Result<(), Fault> {
        self.with(|machine| machine.hash_start()).unwrap_or(Err(EngineFault::Failed.fault()))
    }

    fn hash_data(&mut self, data: &[u8]) -> Result<(), Fault> {
        self.with(|machine| machine.hash_data(data)).unwrap_or(Err(EngineFault::Failed.fault()))
    }

    fn hash_end(&mut self) -> Result<(), Fault> {
        self.with(|machine| machine.hash_end()).unwrap_or(Err(EngineFault::Failed.fault()))
    }
}
