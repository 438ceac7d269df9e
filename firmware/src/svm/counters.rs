//! What guests made the layer do, counted: shown at the end, as codes.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// Exits of every kind.
    Exits,
    /// CPUID.
    Cpuid,
    /// Guarded MSRs.
    Msr,
    /// Guarded ports.
    Port,
    /// Accesses to the TPM's registers.
    Crb,
    /// Accesses to the flash with a firmware's variables.
    Flash,
    /// Accesses to the ports of the guest's disk.
    Disk,
    /// Writes to an interrupt controller.
    Apic,
    /// Accesses to hidden memory: they read ones, and wrote nothing.
    HiddenMemory,
    /// Hidden or guarded ports and configuration registers: they read ones, or a write was dropped.
    HiddenPort,
    /// Instructions and MSRs that this guest does not have.
    Refused,
    /// VMMCALL.
    Call,
    /// Physical NMIs.
    Nmi,
    /// Resets of the guest.
    Reset,
    /// Starts of a virtual processor.
    Start,
    /// Events that nobody expects of a guest.
    Odd,
}

/// How many counters there are.
const COUNTERS: usize = Counter::Odd as usize + 1;

/// Every counter with the text that shows it.
pub const SHOWN: [(Counter, &str); COUNTERS] = [
    (Counter::Exits, "husk: count: exits"),
    (Counter::Cpuid, "husk: count: cpuid"),
    (Counter::Msr, "husk: count: msr"),
    (Counter::Port, "husk: count: port"),
    (Counter::Crb, "husk: count: crb"),
    (Counter::Flash, "husk: count: flash"),
    (Counter::Disk, "husk: count: disk"),
    (Counter::Apic, "husk: count: apic"),
    (Counter::HiddenMemory, "husk: count: hidden memory"),
    (Counter::HiddenPort, "husk: count: hidden port"),
    (Counter::Refused, "husk: count: refused"),
    (Counter::Call, "husk: count: call"),
    (Counter::Nmi, "husk: count: nmi"),
    (Counter::Reset, "husk: count: reset"),
    (Counter::Start, "husk: count: start"),
    (Counter::Odd, "husk: count: odd"),
];

static COUNTS: [AtomicU64; COUNTERS] = [const { AtomicU64::new(0) }; COUNTERS];

/// One more.
pub fn count(counter: Counter) {
    COUNTS[counter as usize].fetch_add(1, Relaxed);
}

/// How many so far.
#[must_use]
pub fn value(counter: Counter) -> u64 {
    COUNTS[counter as usize].load(Relaxed)
}

#[cfg(test)]
mod tests {
    use super::{Counter, SHOWN, count, value};

    #[test]
    fn every_counter_is_shown_in_its_place() {
        for (place, (counter, _)) in SHOWN.iter().enumerate() {
            assert_eq!(*counter as usize, place);
        }
        let before = value(Counter::Odd);
        count(Counter::Odd);
        assert_eq!(value(Counter::Odd), before + 1);
    }
}
