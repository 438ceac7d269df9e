//! What a Linux host supplies to the component's seams.
//!
//! **What.** [`FileDisk`], [`SocketChannel`], [`OsEntropy`], [`BootClock`] and [`Stderr`].
//! **Trust.** As much as the host itself: a component that runs here has no protection from it.
//! **Laws.** A volume has one user at a time. Every exchange ends within its timeout.
//! **Not here.** Attestation reports: the simulated processor (`husk-psp`) makes these.

mod channel;
mod disk;

pub use channel::SocketChannel;
pub use disk::{Counts, FileDisk, FileDiskError};

use crate::sys;
use husk::seams::{Clock, Console, Entropy, EntropyError};

/// The kernel's random number generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsEntropy;

impl OsEntropy {
    /// As a plain function, for an engine that draws in the middle of a command.
    ///
    /// # Errors
    /// [`EntropyError`] if the kernel gave none.
    pub fn draw(into: &mut [u8]) -> Result<(), EntropyError> {
        getrandom::fill(into).map_err(|_| EntropyError)
    }
}

impl Entropy for OsEntropy {
    fn fill(&mut self, into: &mut [u8]) -> Result<(), EntropyError> {
        Self::draw(into)
    }
}

/// CLOCK_BOOTTIME: it goes on while the host sleeps, so that a lease ends in time. Only as trusted as the host, which
/// can set the guest's world aside whenever it likes; on SNP the clock is the Secure TSC.
#[derive(Clone, Copy, Debug)]
pub struct BootClock(());

impl BootClock {
    /// The clock, if this kernel has it.
    #[must_use]
    pub fn new() -> Option<Self> {
        sys::boottime_ms().map(|_| Self(()))
    }
}

impl Clock for BootClock {
    /// A clock that stops answering reads as the end of time: every lease is over then.
    fn now_ms(&self) -> u64 {
        sys::boottime_ms().unwrap_or(u64::MAX)
    }
}

/// Standard error.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stderr;

impl Console for Stderr {
    fn line(&mut self, text: &'static str, code: u32) {
        eprintln!("husk: {text} (0x{code:08x})");
    }
}
