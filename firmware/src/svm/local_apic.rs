//! Interrupt controllers between two guests: what the first left must not disturb the second.

use super::machine::{IO_APIC, LOCAL_APIC};
use crate::memory::Registers;

/// Registers that are put back: task priority, logical destination and format, spurious vector, local entries, timer divider.
const KEPT: [u64; 11] = [0x80, 0xD0, 0xE0, 0xF0, 0x320, 0x330, 0x340, 0x350, 0x360, 0x370, 0x3E0];
const END_OF_INTERRUPT: u64 = 0xB0;
const IN_SERVICE: core::ops::Range<u64> = 0x100..0x180;
const TIMER_COUNT: u64 = 0x380;
/// As many interrupts as there are vectors can be in service.
const VECTORS: usize = 256;

/// A local APIC as the layer found it.
#[derive(Clone, Debug)]
pub(super) struct State([u32; KEPT.len()]);

impl State {
    /// The calling processor's.
    pub(super) fn now() -> Self {
        Self(
            Registers::at(LOCAL_APIC)
                .map_or([0; KEPT.len()], |apic| KEPT.map(|register| apic.read32(register))),
        )
    }

    /// Puts it back, with no timer running and nothing in service.
    pub(super) fn restore(&self) {
        let Some(mut apic) = Registers::at(LOCAL_APIC) else { return };
        apic.write32(TIMER_COUNT, 0);
        for (register, value) in KEPT.into_iter().zip(self.0) {
            apic.write32(register, value);
        }
        for _ in 0..VECTORS {
            if IN_SERVICE.step_by(16).all(|register| apic.read32(register) == 0) {
                break;
            }
            apic.write32(END_OF_INTERRUPT, 0);
        }
    }
}

/// Masks every pin of the I/O APIC.
pub(super) fn silence_machine() {
    const SELECT: u64 = 0;
    const WINDOW: u64 = 0x10;
    const VERSION: u32 = 1;
    const PINS: u32 = 0x10;
    const MASKED: u32 = 1 << 16;
    let Some(mut io_apic) = Registers::at(IO_APIC) else { return };
    io_apic.write32(SELECT, VERSION);
    let last = io_apic.read32(WINDOW) >> 16 & 0xFF;
    for pin in 0..=last {
        io_apic.write32(SELECT, PINS + 2 * pin);
        io_apic.write32(WINDOW, MASKED);
    }
}
