//! Sleep of the processor that serves: halted until somebody wakes it, so that it leaves its core to the guest.
//!
//! A waker raises a flag and sends a non-maskable interrupt, which ends a halt whatever the interrupt flag says. One that comes
//! between the look at the flag and the halt would be lost; so the interrupt's handler, where it finds the processor in that stretch,
//! lets it go on behind the halt ([`past_halt`]). Where there is nobody to wake it, the local APIC's timer does; that is an ordinary
//! interrupt, which comes during this halt and nowhere else.
//!
//! # Soundness
//! `husk_rest` and `husk_rest_until` change nothing but flags, and are called like any function. Their stretch has no stack frame, so
//! leaving it early is returning; the second switches interrupts off again behind it.

use super::exceptions::VECTOR_TIMER;
use super::{LocalApic, cpus};
use crate::clock;
use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, Ordering};
use spin::Once;

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
    ".globl husk_rest_until, husk_rest_until_end",
    // rdi: the flag. An interrupt that is due comes when the processor halts, not before.
    "husk_rest_until:",
    "cmp byte ptr [rdi], 0",
    "jne husk_rest_until_end",
    "sti",
    "hlt",
    "husk_rest_until_end:",
    "cli",
    "ret",
    ".popsection",
);

unsafe extern "C" {
    fn husk_rest(flag: *const AtomicBool);
    static husk_rest_end: u8;
    fn husk_rest_until(flag: *const AtomicBool);
    static husk_rest_until_end: u8;
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

/// Counts of the local APIC's timer in a millisecond, measured at the first use.
static PER_MS: Once<u32> = Once::new();
/// How long that measurement takes, in milliseconds.
const MEASURED_MS: u64 = 4;

/// As [`rest`], but for a millisecond at most.
pub fn rest_a_millisecond() {
    let Some(mut apic) = LocalApic::own() else { return };
    let per_ms = *PER_MS.call_once(|| measure(&mut apic));
    if !WOKEN.swap(false, Ordering::AcqRel) {
        apic.set_timer(Some(VECTOR_TIMER), per_ms);
        // SAFETY: a flag that lives for ever; the timer's interrupt ends the halt.
        unsafe { husk_rest_until(&raw const WOKEN) };
        WOKEN.swap(false, Ordering::AcqRel);
    }
}

fn measure(apic: &mut LocalApic) -> u32 {
    apic.enable();
    apic.set_timer(None, u32::MAX);
    clock::pause_ms(MEASURED_MS);
    let counted = u64::from(u32::MAX - apic.timer());
    // One at least: a timer that is set to zero stands still.
    u32::try_from(counted / MEASURED_MS).unwrap_or(u32::MAX).max(1)
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
    let stretches = [
        (husk_rest as *const () as u64, &raw const husk_rest_end as u64),
        (husk_rest_until as *const () as u64, &raw const husk_rest_until_end as u64),
    ];
    stretches.into_iter().find(|(start, end)| (*start..*end).contains(&rip)).map_or(rip, |(_, end)| end)
}
