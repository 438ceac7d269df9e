//! Sleep of the processor that serves: halted until somebody wakes it, so that it leaves its core to the guest.
//!
//! A waker raises a flag and sends a non-maskable interrupt, which ends a halt whatever the interrupt flag says. One that comes
//! between the look at the flag and the halt would be lost; so the interrupt's handler, where it finds the processor in that stretch,
//! lets it go on behind the halt ([`past_halt`]).
//!
//! # Soundness
//! `husk_rest` changes nothing but flags, and is called like any function. Its stretch has no stack frame, so leaving it early is returning.

use super::{LocalApic, cpus};
use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, Ordering};

global_asm!(
    ".pushsection .text.husk_rest,\"ax\",@progbits",
    ".globl husk_rest, husk_rest_end",
    // rdi: the flag.
    "husk_rest:",
    "cmp byte ptr [rdi], 0",
    "jne husk_rest_end",
    "hlt",
    "husk_rest_end:",
    "ret",
    ".popsection",
);

unsafe extern "C" {
    fn husk_rest(flag: *const AtomicBool);
    static husk_rest_end: u8;
}

/// There is something to do.
static WOKEN: AtomicBool = AtomicBool::new(false);

/// Returns when there may be something to do; only the processor that serves calls this.
pub fn rest() {
    if !WOKEN.swap(false, Ordering::AcqRel) {
        // SAFETY: a flag that lives for ever.
        unsafe { husk_rest(&raw const WOKEN) };
        // Whoever raised it meanwhile made something ready before: it is seen after this.
        WOKEN.swap(false, Ordering::AcqRel);
    }
}

/// Wakes the processor that serves, after something was made ready for it. Whatever the caller's APIC had in its command
/// register stays there: it may be a guest's.
pub fn wake() {
    if WOKEN.swap(true, Ordering::AcqRel) {
        return;
    }
    let (Some(id), Some(mut apic)) = (cpus::ids().last(), LocalApic::own()) else { return };
    if apic.id() != *id {
        let destination = apic.destination();
        // What does not arrive is made up for: the flag is up, and the processor looks before it halts.
        if !apic.nmi(*id) {
            crate::console::line("husk: the service processor does not take interrupts", u32::from(*id));
        }
        apic.set_destination(destination);
    }
}

/// Where a processor goes on that was interrupted at `rip`.
pub(super) fn past_halt(rip: u64) -> u64 {
    let (start, end) = (husk_rest as *const () as u64, &raw const husk_rest_end as u64);
    if (start..end).contains(&rip) { end } else { rip }
}
