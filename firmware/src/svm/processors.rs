//! Every processor of the guest: how others reach it, and how the machine is reset, started and switched off.

use super::start::Entry;
use super::vcpu::Mailbox;
use crate::boot::{self, CPUS_MAX, LocalApic};
use crate::memory::Registers;
use crate::stop;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use spin::Mutex;

use super::machine::{LOCAL_APIC, machine};

const COMMAND_HIGH: u64 = 0x310;

/// One processor as others see it.
struct Shared {
    mailbox: Mailbox,
    /// It is in its guest, or about to be.
    busy: AtomicBool,
    /// An NMI was sent to it by the layer.
    kicked: AtomicBool,
    /// What it holds of the guest's map is of before a change.
    stale: AtomicBool,
}

static SHARED: [Shared; CPUS_MAX] = [const {
    Shared {
        mailbox: Mailbox::new(),
        busy: AtomicBool::new(false),
        kicked: AtomicBool::new(false),
        stale: AtomicBool::new(false),
    }
}; CPUS_MAX];

/// Where the first processor begins, once that is known.
static ENTRY: Mutex<Option<Entry>> = Mutex::new(None);
static ENTRY_IS_SET: AtomicBool = AtomicBool::new(false);
/// The guest asked for a reset.
static RESETTING: AtomicBool = AtomicBool::new(false);
/// What the processor that serves is asked for.
static REQUEST: AtomicU8 = AtomicU8::new(NONE);
static SHUT_DOWN: AtomicBool = AtomicBool::new(false);

const NONE: u8 = 0;
const RESET: u8 = 1;
const POWER_OFF: u8 = 2;

/// What the guest's machine asks of the processor that serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Reset the TPM, start the guest anew and say where with [`begin`].
    Reset,
    /// Shut the TPM down, and say so with [`shut_down`].
    PowerOff,
}

/// The request that waits, if one does.
#[must_use]
pub fn request() -> Option<Request> {
    match REQUEST.swap(NONE, Ordering::AcqRel) {
        RESET => Some(Request::Reset),
        POWER_OFF => Some(Request::PowerOff),
        _ => None,
    }
}

/// The guest is loaded: its first processor begins there.
pub fn begin(at: Entry) {
    *ENTRY.lock() = Some(at);
    ENTRY_IS_SET.store(true, Ordering::Release);
}

/// The TPM is shut down: the machine may go off.
pub fn shut_down() {
    SHUT_DOWN.store(true, Ordering::Release);
}

pub(super) fn take_entry() -> Option<Entry> {
    if !ENTRY_IS_SET.swap(false, Ordering::AcqRel) {
        return None;
    }
    RESETTING.store(false, Ordering::Release);
    ENTRY.lock().take()
}

pub(super) fn mailbox(cpu: usize) -> &'static Mailbox {
    &SHARED[cpu].mailbox
}

pub(super) fn set_busy(cpu: usize, busy: bool) {
    SHARED[cpu].busy.store(busy, Ordering::SeqCst);
}

/// Whether an NMI that processor `cpu` found was the layer's; asked once for each.
pub(super) fn was_kicked(cpu: usize) -> bool {
    SHARED[cpu].kicked.swap(false, Ordering::AcqRel)
}

pub(super) fn nmi(cpu: usize) {
    SHARED[cpu].mailbox.nmi();
    kick(cpu);
}

/// Something was taken out of the guest's map: every processor forgets what it holds of it, before it runs its guest again.
pub(super) fn forget_maps() {
    let cpus = machine().map_or(0, super::machine::Machine::guest_cpus);
    for (cpu, shared) in SHARED.iter().enumerate().take(cpus) {
        shared.stale.store(true, Ordering::Release);
        kick(cpu);
    }
}

/// Whether processor `cpu` is to forget it; asked once for each time.
pub(super) fn is_stale(cpu: usize) -> bool {
    SHARED[cpu].stale.swap(false, Ordering::AcqRel)
}

/// INIT of the first processor restarts the machine.
pub(super) fn init(cpu: usize) {
    if cpu == 0 {
        reset();
    } else {
        SHARED[cpu].mailbox.init();
        kick(cpu);
    }
}

pub(super) fn start_up(cpu: usize, page: u8) {
    SHARED[cpu].mailbox.start_up(page);
    kick(cpu);
}

/// Takes every processor out of the guest; the first one then has the machine reset.
pub(super) fn reset() {
    if RESETTING.swap(true, Ordering::AcqRel) {
        return;
    }
    let cpus = machine().map_or(0, super::machine::Machine::guest_cpus);
    for (cpu, shared) in SHARED.iter().enumerate().take(cpus) {
        shared.mailbox.halt();
        kick(cpu);
    }
}

/// Waits until no other processor than the first is in its guest.
pub(super) fn await_others() {
    let cpus = machine().map_or(0, super::machine::Machine::guest_cpus);
    let still = |shared: &Shared| shared.busy.load(Ordering::SeqCst) || !shared.mailbox.is_empty();
    while SHARED[1..cpus.max(1)].iter().any(still) {
        stop::halt_if_stopping();
        spin_loop();
    }
}

/// Asks for a new start.
pub(super) fn ask_for_start() {
    REQUEST.store(RESET, Ordering::Release);
    boot::wake();
}

/// Asks for the TPM's shutdown and waits for it so many milliseconds. Returns whether it came.
pub(super) fn await_shut_down(patience_ms: u64) -> bool {
    REQUEST.store(POWER_OFF, Ordering::Release);
    boot::wake();
    let began = crate::clock::now_ms();
    while !SHUT_DOWN.load(Ordering::Acquire) {
        stop::halt_if_stopping();
        if crate::clock::now_ms().saturating_sub(began) > patience_ms {
            return false;
        }
        spin_loop();
    }
    true
}

/// Pulls a processor out of its guest. What the guest has in its own command register stays.
fn kick(cpu: usize) {
    let Some(machine) = machine() else { return };
    let id = machine.addresses.lock().ids[cpu];
    let (Some(mut registers), Some(mut apic)) = (Registers::at(LOCAL_APIC), LocalApic::own()) else { return };
    if apic.id() == id || !SHARED[cpu].busy.load(Ordering::SeqCst) {
        return;
    }
    SHARED[cpu].kicked.store(true, Ordering::Release);
    let high = registers.read32(COMMAND_HIGH);
    if !apic.nmi(id) {
        stop::stop(stop::Stop::ProcessorSilent, u32::from(id));
    }
    registers.write32(COMMAND_HIGH, high);
}
