//! Randomness: the processor's noise, tested, through a generator.
//!
//! **What.** `health` tests each word of noise, [`Drbg`] makes requests of it, `processor` draws the noise (RDRAND, and RDSEED where
//! there is one).
//! **Trust.** The processor. Nothing that the host supplies is ever mixed in.
//! **Laws.** Noise that fails a test, or does not come, ends all randomness for ever, and with it the machine: there is no
//! second source, and no number that is only nearly random.
//! **Not here.** Who asks: the component by its `Entropy` seam, the engine by its source.

mod drbg;
mod health;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "instructions that draw noise; a static that is wiped at the end")]
mod processor;

pub use drbg::{Drbg, Noise};
pub use health::{Health, STARTUP_WORDS, Unhealthy};
#[cfg(target_os = "none")]
pub use processor::{Processor, fill, start};
