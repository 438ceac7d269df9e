//! Milliseconds since boot, from the processor's own counter.
//!
//! The counter is measured once against the power management timer (ACPI 6.5, section 4.8.3.3), before a guest runs; that gives what the
//! register GUEST_TSC_FREQ says on SEV-SNP, its nominal speed. What the secure processor answers to MSG_TSC_INFO then makes it the mean
//! one ([`follow`]). On this platform it stands for what the Secure TSC is there: a clock that, once the VM runs, the host can neither
//! stop nor turn back.
//!
//! # Soundness
//! The counter, the processor's description and the timer's port are only read, which changes nothing.

use core::arch::x86_64::{__cpuid, _rdtsc};
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use husk::attest::guest_message::TscInfo;
use x86_64::instructions::port::PortReadOnly;

/// The timer counts so many times a second, in 24 bits at least.
const TIMER_HZ: u64 = 3_579_545;
const TIMER_MASK: u32 = 0xFF_FFFF;
/// Counts of one measurement: 5 ms, so that an error of a microsecond at each end is one in 2500.
const SPAN: u32 = 17_898;
/// How often the timer is read in one measurement before it counts as standing still.
const READS_MAX: u32 = 50_000_000;
const MEASUREMENTS: usize = 3;
/// Fn8000_0007 of CPUID, and TscInvariant in its EDX (AMD64 24594, appendix E.4.6).
const CPUID_POWER: u32 = 0x8000_0007;
const TSC_INVARIANT: u32 = 1 << 8;
/// Fn8000_0000 says in EAX how far such leaves go.
const CPUID_EXTENDED: u32 = 0x8000_0000;

/// Counts of the processor's counter in a millisecond; 0 before [`calibrate`].
static PER_MS: AtomicU64 = AtomicU64::new(0);
static ORIGIN: AtomicU64 = AtomicU64::new(0);

/// The processor's counter.
#[must_use]
pub fn ticks() -> u64 {
    // SAFETY: every processor of this architecture has it.
    unsafe { _rdtsc() }
}

/// Measures the counter against the timer at `port`. Returns whether the timer runs.
#[must_use]
pub fn calibrate(port: u16) -> bool {
    // An interruption makes a measurement too long, never too short.
    let Some(per_ms) = (0..MEASUREMENTS).filter_map(|_| measure(port)).min() else { return false };
    ORIGIN.store(ticks(), Relaxed);
    PER_MS.store(per_ms, Relaxed);
    true
}

/// Takes the mean speed from what the secure processor says: not more than was measured, so the clock never goes back. Returns it, in
/// kilohertz, or `None` if no clock could run so.
pub fn follow(info: &TscInfo) -> Option<u64> {
    let mean_khz = info.mean_khz(PER_MS.load(Relaxed))?;
    PER_MS.store(mean_khz, Relaxed);
    Some(mean_khz)
}

/// Whether the processor says that the counter's speed does not change with its own.
#[must_use]
pub fn is_invariant() -> bool {
    __cpuid(CPUID_EXTENDED).eax >= CPUID_POWER && __cpuid(CPUID_POWER).edx & TSC_INVARIANT != 0
}

fn measure(port: u16) -> Option<u64> {
    // In this order, as at the end: what lies between the two readings counts as spent.
    let (began, first) = (ticks(), timer(port));
    for _ in 0..READS_MAX {
        let counted = timer(port).wrapping_sub(first) & TIMER_MASK;
        if counted >= SPAN {
            let spent = ticks().wrapping_sub(began);
            let per_ms = u128::from(spent) * u128::from(TIMER_HZ) / (u128::from(counted) * 1000);
            return u64::try_from(per_ms).ok().filter(|per_ms| *per_ms > 0);
        }
        spin_loop();
    }
    None
}

fn timer(port: u16) -> u32 {
    // SAFETY: reading the timer changes nothing.
    unsafe { PortReadOnly::<u32>::new(port).read() }
}

/// Milliseconds since [`calibrate`]; 0 before it.
#[must_use]
pub fn now_ms() -> u64 {
    ticks().saturating_sub(ORIGIN.load(Relaxed)).checked_div(PER_MS.load(Relaxed)).unwrap_or(0)
}

/// Microseconds since [`calibrate`]; 0 before it.
#[must_use]
pub fn now_us() -> u64 {
    let (spent, per_ms) = (ticks().saturating_sub(ORIGIN.load(Relaxed)), PER_MS.load(Relaxed));
    let (Some(whole), Some(rest)) = (spent.checked_div(per_ms), spent.checked_rem(per_ms)) else { return 0 };
    whole.saturating_mul(1000).saturating_add(rest.saturating_mul(1000) / per_ms)
}

/// Waits.
pub fn pause_ms(span: u64) {
    let began = now_ms();
    while now_ms() - began < span {
        spin_loop();
    }
}

/// The component's seam.
#[derive(Clone, Copy, Debug)]
pub struct Counter;

impl husk::seams::Clock for Counter {
    fn now_ms(&self) -> u64 {
        now_ms()
    }
}
