//! What the broker needs of its machine: time and entropy, handed in so that a test can own both.

use husk::seams::{Entropy, EntropyError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Time and entropy.
pub trait World: Send + Sync {
    /// Milliseconds since the Unix epoch. The store ratchets it, so a step back costs waiting and nothing else.
    fn now_ms(&self) -> u64;

    /// Fills `into` with random bytes.
    ///
    /// # Errors
    /// [`EntropyError`]; nothing may go on without entropy.
    fn fill(&self, into: &mut [u8]) -> Result<(), EntropyError>;
}

/// The machine that the broker runs on.
///
/// The wall clock is read once, at start; from then on the monotonic clock counts. Nobody who sets the clock of a
/// running broker forward can end a lease early; and a start assumes every lease anew, whatever the wall clock says.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    wall_ms: u64,
    started: Instant,
}

impl Machine {
    /// Reads the wall clock.
    #[must_use]
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX / 2), started: Instant::now() }
    }
}

impl World for Machine {
    fn now_ms(&self) -> u64 {
        let elapsed_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX / 2);
        self.wall_ms.saturating_add(elapsed_ms)
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
