//! A broker's world that the test owns: a clock that moves when told, entropy from a seed.

use husk::seams::EntropyError;
use husk_broker::world::World;
use sha2::{Digest as _, Sha384};
use std::sync::atomic::{AtomicU64, Ordering};

/// Time and entropy of one test.
#[derive(Debug)]
pub(crate) struct TestWorld {
    now_ms: AtomicU64,
    draws: AtomicU64,
}

impl TestWorld {
    /// Starts at some time, with the entropy of `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self { now_ms: AtomicU64::new(77), draws: AtomicU64::new(seed << 32) }
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, ms: u64) {
        self.now_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

impl World for TestWorld {
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    fn fill(&self, into: &mut [u8]) -> Result<(), EntropyError> {
        for chunk in into.chunks_mut(48) {
            let draw = self.draws.fetch_add(1, Ordering::SeqCst);
            chunk.copy_from_slice(&Sha384::digest(draw.to_le_bytes())[..chunk.len()]);
        }
        Ok(())
    }
}
