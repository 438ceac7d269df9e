//! The processor's noise, and the one generator of the image.
//!
//! # Soundness
//! RDRAND and RDSEED are executed only where CPUID says that they exist. The generator lies among the secrets, which `stop`
//! overwrites when nobody runs any more.

use super::{Drbg, Noise};
use crate::stop::{Stop, stop};
use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::hint::spin_loop;
use husk::seams::{Entropy, EntropyError};
use spin::Mutex;

/// CPUID 1, ECX.
const HAS_RDRAND: u32 = 1 << 30;
/// CPUID 7.0, EBX.
const HAS_RDSEED: u32 = 1 << 18;
/// RDRAND may fail ten times in a row only if it is broken (Intel's guide, 5.2.1).
const RDRAND_TRIES: u32 = 10;
/// RDSEED may be exhausted by other processors for a while.
const RDSEED_TRIES: u32 = 10_000;

/// The processor as a source of noise: both instructions in turn, where there are both.
struct Instructions {
    rdseed: bool,
    turn: bool,
}

impl Noise for Instructions {
    fn word(&mut self) -> Option<u64> {
        self.turn = !self.turn;
        let (tries, draw): (u32, fn() -> Option<u64>) =
            if self.rdseed && self.turn { (RDSEED_TRIES, rdseed) } else { (RDRAND_TRIES, rdrand) };
        (0..tries).find_map(|_| {
            spin_loop();
            draw()
        })
    }
}

fn rdrand() -> Option<u64> {
    let (word, came): (u64, u8);
    // SAFETY: `start` has seen that the instruction exists.
    unsafe { asm!("rdrand {}", "setc {}", out(reg) word, out(reg_byte) came, options(nomem, nostack)) };
    (came != 0).then_some(word)
}

fn rdseed() -> Option<u64> {
    let (word, came): (u64, u8);
    // SAFETY: as above.
    unsafe { asm!("rdseed {}", "setc {}", out(reg) word, out(reg_byte) came, options(nomem, nostack)) };
    (came != 0).then_some(word)
}

struct Source {
    drbg: Drbg,
    noise: Option<Instructions>,
}

static SOURCE: Mutex<Source> = Mutex::new(Source { drbg: Drbg::new(), noise: None });

/// Finds and tests the processor's noise; stops the machine where there is none.
pub fn start() {
    if __cpuid(1).ecx & HAS_RDRAND == 0 {
        stop(Stop::NoEntropy, 1);
    }
    let rdseed = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).ebx & HAS_RDSEED != 0;
    let mut source = SOURCE.lock();
    let mut noise = Instructions { rdseed, turn: false };
    if source.drbg.start(&mut noise).is_err() {
        stop(Stop::NoEntropy, 2);
    }
    source.noise = Some(noise);
}

/// Fills `into` with random bytes; stops the machine if there are none. Also the engine's source.
///
/// # Errors
/// Never: what has no randomness does not return.
pub fn fill(into: &mut [u8]) -> Result<(), EntropyError> {
    let mut source = SOURCE.lock();
    let Source { drbg, noise } = &mut *source;
    match noise.as_mut().map(|noise| drbg.fill(noise, into)) {
        Some(Ok(())) => Ok(()),
        Some(Err(_)) | None => stop(Stop::NoEntropy, 3),
    }
}

/// The component's seam.
#[derive(Clone, Copy, Debug)]
pub struct Processor;

impl Entropy for Processor {
    fn fill(&mut self, into: &mut [u8]) -> Result<(), EntropyError> {
        fill(into)
    }
}
