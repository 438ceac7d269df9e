//! What the broker needs of its machine: time and entropy, handed in so that a test can own both.

use husk::seams::{Entropy, EntropyError};
use std::time::Instant;

/// Time and entropy.
pub trait World: Send + Sync {
    /// Milliseconds since an arbitrary instant; never decreases while the process lives. No calendar is asked for:
    /// the database counts its own time (`store`), so whoever sets the machine's clock moves no lease.
    fn now_ms(&self) -> u64;

    /// Fills `into` with random bytes.
    ///
    /// # Errors
    /// [`EntropyError`]; nothing may go on without entropy.
    fn fill(&self, into: &mut [u8]) -> Result<(), EntropyError>;
}

/// The machine that the broker runs on.
///
/// Its clock is the monotonic one: it may be slow (it stands still while the machine sleeps), which costs waiting
/// only, and must not run ahead of a VM's by more than the tenth of a lease that the VM leaves unused.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    started: Instant,
}

impl Machine {
    /// Starts counting.
    #[must_use]
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }
}

impl World for Machine {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn fill(&self, into: &mut [u8]) -> Result<(), EntropyError> {
        getrandom::fill(into).map_err(|_| EntropyError)
    }
}

/// A world seen through the component's entropy seam, for the code that both ends share.
#[derive(Clone, Copy)]
pub struct WorldEntropy<'w>(pub &'w dyn World);

impl std::fmt::Debug for WorldEntropy<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WorldEntropy")
    }
}

impl Entropy for WorldEntropy<'_> {
    fn fill(&mut self, into: &mut [u8]) -> Result<(), EntropyError> {
        self.0.fill(into)
    }
}
