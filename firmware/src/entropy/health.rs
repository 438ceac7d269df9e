//! Health tests of the noise that the processor gives (NIST SP 800-90B, section 4.4).
//!
//! A sample is one byte. The processor's output is conditioned and should have eight bits of entropy a byte; four are counted
//! on. Both cutoffs are for a false alarm in 2^40 samples. Besides, two equal words of 64 bits in a row never come from a
//! generator that works (in 2^64 words): some processors answer with one value for ever, and call it success.

/// Samples that are tested, and thrown away, before the first is used (section 4.3).
pub const STARTUP_WORDS: usize = 128;
const _: () = assert!(STARTUP_WORDS * 8 >= 1024);

/// Repetition count: 1 + 40 bits / 4 bits a sample.
const REPETITIONS_CUTOFF: u32 = 11;
/// Adaptive proportion: samples of a window.
const WINDOW: u32 = 512;
/// Adaptive proportion: of 512 samples with probability 2^-4 each, so many are equal with probability below 2^-40.
const PROPORTION_CUTOFF: u32 = 78;

/// The noise is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unhealthy;

/// Both tests, over everything that was ever drawn.
#[derive(Clone, Debug)]
pub struct Health {
    word: Option<u64>,
    sample: Option<u8>,
    repetitions: u32,
    counted: u8,
    seen: u32,
    equal: u32,
}

impl Health {
    /// Nothing was drawn yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { word: None, sample: None, repetitions: 0, counted: 0, seen: WINDOW, equal: 0 }
    }

    /// Looks at a word.
    ///
    /// # Errors
    /// [`Unhealthy`]; the source is not to be used again.
    pub fn check(&mut self, word: u64) -> Result<(), Unhealthy> {
        if self.word.replace(word) == Some(word) {
            return Err(Unhealthy);
        }
        word.to_le_bytes().into_iter().try_for_each(|sample| self.sample(sample))
    }

    fn sample(&mut self, sample: u8) -> Result<(), Unhealthy> {
        self.repetitions = if self.sample.replace(sample) == Some(sample) { self.repetitions + 1 } else { 1 };
        if self.seen == WINDOW {
            (self.counted, self.seen, self.equal) = (sample, 0, 0);
        }
        self.seen += 1;
        self.equal += u32::from(sample == self.counted);
        let healthy = self.repetitions < REPETITIONS_CUTOFF && self.equal < PROPORTION_CUTOFF;
        if healthy { Ok(()) } else { Err(Unhealthy) }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::{Health, PROPORTION_CUTOFF, REPETITIONS_CUTOFF, STARTUP_WORDS, Unhealthy};

    fn mixed(count: u64) -> impl Iterator<Item = u64> {
        // splitmix64
        (1..=count).map(|n| {
            let z = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        })
    }

    fn verdict(words: impl IntoIterator<Item = u64>) -> Result<(), Unhealthy> {
        let mut health = Health::new();
        words.into_iter().try_for_each(|word| health.check(word))
    }

    #[test]
    fn noise_passes() {
        assert_eq!(verdict(mixed(100_000)), Ok(()));
    }

    #[test]
    fn a_generator_that_stands_still_is_found_at_once() {
        for word in [0, u64::MAX, 0x0123_4567_89AB_CDEF] {
            assert_eq!(verdict([word, word]), Err(Unhealthy));
        }
    }

    #[test]
    fn a_generator_that_counts_is_found_at_the_start() {
        assert_eq!(verdict((0..).take(STARTUP_WORDS)), Err(Unhealthy));
        assert_eq!(verdict((0..).map(|n: u64| n << 32).take(STARTUP_WORDS)), Err(Unhealthy));
    }

    #[test]
    fn the_cutoffs_are_exact() {
        let repeated = |count: u32| {
            let mut health = Health::new();
            (0..count).try_for_each(|_| health.sample(7))
        };
        assert_eq!(repeated(REPETITIONS_CUTOFF - 1), Ok(()));
        assert_eq!(repeated(REPETITIONS_CUTOFF), Err(Unhealthy));
        // One value at every second place never repeats, and is too frequent all the same.
        let frequent = |count: u32| {
            let mut health = Health::new();
            (0..count).try_for_each(|n| {
                health.sample(7)?;
                health.sample(100 + (n % 100).to_le_bytes()[0])
            })
        };
        assert_eq!(frequent(PROPORTION_CUTOFF - 1), Ok(()));
        assert_eq!(frequent(PROPORTION_CUTOFF), Err(Unhealthy));
    }
}
