//! The generator between the processor's noise and everybody who asks.
//!
//! Every request is a generator of its own: ChaCha20 under SHA-256 of what the last one left, of fresh noise, and of how many requests there
//! were. So each request is as good as the noise drawn for it *or* all noise before, whichever is better; and what was
//! given out cannot be computed from what is in memory afterwards, since the next state is the end of the same stream.
//! Neither fork nor restored snapshot can repeat a stream unless the processor repeats its noise.

use super::health::{Health, STARTUP_WORDS, Unhealthy};
use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

/// Words of noise for one request: 512 bits, of which half is counted on.
const FRESH_WORDS: usize = 8;
const LABEL: &[u8] = b"husk entropy 1";

/// A source of noise.
pub trait Noise {
    /// A word, or nothing if the source does not answer.
    fn word(&mut self) -> Option<u64>;
}

/// The generator's state; after a failure it gives nothing any more.
pub struct Drbg {
    chain: [u8; 32],
    requests: u64,
    health: Health,
    /// Set once the start-up test has passed, cleared for ever by a failure.
    usable: bool,
    failed: bool,
}

impl core::fmt::Debug for Drbg {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Drbg")
            .field("usable", &self.usable)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl Drbg {
    /// A generator that was not started.
    #[must_use]
    pub const fn new() -> Self {
        Self { chain: [0; 32], requests: 0, health: Health::new(), usable: false, failed: false }
    }

    /// Tests the source.
    ///
    /// # Errors
    /// [`Unhealthy`], and for ever.
    pub fn start(&mut self, noise: &mut impl Noise) -> Result<(), Unhealthy> {
        for _ in 0..STARTUP_WORDS {
            self.draw(noise)?;
        }
        self.usable = true;
        Ok(())
    }

    /// Fills `into`.
    ///
    /// # Errors
    /// [`Unhealthy`] before a start, after a failure, or if the noise fails now; `into` is cleared then.
    pub fn fill(&mut self, noise: &mut impl Noise, into: &mut [u8]) -> Result<(), Unhealthy> {
        let filled = self.generate(noise, into);
        if filled.is_err() {
            into.zeroize();
        }
        filled
    }

    fn generate(&mut self, noise: &mut impl Noise, into: &mut [u8]) -> Result<(), Unhealthy> {
        if !self.usable {
            return Err(Unhealthy);
        }
        self.requests += 1;
        let mut hash = Sha256::new();
        hash.update(LABEL);
        hash.update(self.requests.to_le_bytes());
        hash.update(self.chain);
        for _ in 0..FRESH_WORDS {
            hash.update(self.draw(noise)?.to_le_bytes());
        }
        let mut seed = hash.finalize();
        let mut stream = ChaCha20Rng::from_seed(seed.into());
        seed.zeroize();
        stream.fill_bytes(into);
        stream.fill_bytes(&mut self.chain);
        Ok(())
    }

    fn draw(&mut self, noise: &mut impl Noise) -> Result<u64, Unhealthy> {
        let word = noise.word().filter(|_| !self.failed).ok_or(Unhealthy);
        let word = word.and_then(|word| self.health.check(word).map(|()| word));
        if word.is_err() {
            (self.failed, self.usable) = (true, false);
            self.chain.zeroize();
        }
        word
    }
}

impl Default for Drbg {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::{Drbg, Noise};

    /// Noise from a counter, until it ends or repeats.
    #[derive(Clone)]
    struct Counted {
        drawn: u64,
        ends_after: u64,
        repeats_after: u64,
    }

    impl Noise for Counted {
        fn word(&mut self) -> Option<u64> {
            if self.drawn == self.ends_after {
                return None;
            }
            self.drawn += 1;
            let z = self.drawn.min(self.repeats_after).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            Some(z ^ (z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB))
        }
    }

    const ENDLESS: Counted = Counted { drawn: 0, ends_after: u64::MAX, repeats_after: u64::MAX };

    fn started(noise: &mut Counted) -> Drbg {
        let mut drbg = Drbg::new();
        drbg.start(noise).expect("healthy");
        drbg
    }

    #[test]
    fn nothing_comes_before_the_start_up_test() {
        let mut bytes = [0xAA; 16];
        assert!(Drbg::new().fill(&mut ENDLESS.clone(), &mut bytes).is_err());
        assert_eq!(bytes, [0; 16]);
    }

    #[test]
    fn requests_differ_even_where_the_noise_repeats_between_them() {
        let mut noise = ENDLESS.clone();
        let mut drbg = started(&mut noise);
        let (mut one, mut other) = ([0; 40], [0; 40]);
        drbg.fill(&mut noise.clone(), &mut one).expect("healthy");
        drbg.fill(&mut noise, &mut other).expect("healthy");
        assert_ne!(one, other);
    }

    #[test]
    fn two_machines_in_the_same_state_differ_by_their_noise() {
        let fill = |drawn| {
            let mut noise = ENDLESS.clone();
            let mut drbg = started(&mut noise);
            noise.drawn += drawn;
            let mut bytes = [0; 32];
            drbg.fill(&mut noise, &mut bytes).map(|()| bytes).expect("healthy")
        };
        assert_ne!(fill(0), fill(1));
        assert_eq!(fill(5), fill(5));
    }

    #[test]
    fn a_source_that_fails_once_is_never_believed_again() {
        for mut noise in [Counted { ends_after: 140, ..ENDLESS }, Counted { repeats_after: 140, ..ENDLESS }] {
            let mut drbg = started(&mut noise);
            let mut bytes = [0xAA; 16];
            drbg.fill(&mut noise, &mut bytes).expect("healthy");
            assert!(drbg.fill(&mut noise, &mut bytes).is_err());
            assert_eq!(bytes, [0; 16], "nothing half random leaves");
            assert!(drbg.fill(&mut ENDLESS.clone(), &mut bytes).is_err());
            assert!(drbg.start(&mut ENDLESS.clone()).is_err());
        }
    }
}
