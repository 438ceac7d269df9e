//! The calls of the guest's processors, and the guest's memory as a call may name it.

use super::gate::Slot;
use super::machine::machine;
use super::processors;
use crate::boot::{self, CPUS_MAX};
use crate::memory::Reach;
use crate::stop;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicUsize, Ordering};
use husk::frontend::svsm::Registers;
use husk::seams::{BadAddress, GuestMemory};

static SLOTS: [Slot; CPUS_MAX] = [const { Slot::new() }; CPUS_MAX];
/// Whose turn it is.
static TURN: AtomicUsize = AtomicUsize::new(0);

/// A call that waits to be answered.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    cpu: usize,
    /// What the guest has in its registers.
    pub registers: Registers,
}

impl Call {
    /// The next one, in turn.
    #[must_use]
    pub fn next() -> Option<Self> {
        let first = TURN.load(Ordering::Relaxed);
        let cpus = (0..CPUS_MAX).map(|n| (first + n) % CPUS_MAX);
        let found = cpus.into_iter().find_map(|cpu| Some(Self { cpu, registers: SLOTS[cpu].take()? }))?;
        TURN.store(found.cpu + 1, Ordering::Relaxed);
        Some(found)
    }

    /// Lets the guest go on with these registers.
    pub fn answer(self, registers: Registers) {
        SLOTS[self.cpu].answer(registers);
    }
}

/// Has a call of processor `cpu` answered; `None` if the processor is wanted elsewhere for good.
pub(super) fn ask(cpu: usize, call: Registers) -> Option<Registers> {
    let (slot, mailbox) = (&SLOTS[cpu], processors::mailbox(cpu));
    let mut posted = false;
    loop {
        stop::halt_if_stopping();
        if mailbox.ends_a_life() {
            if posted {
                slot.withdraw();
            }
            return None;
        }
        if !posted {
            posted = slot.post(call);
            if posted {
                boot::wake();
            }
        } else if let Some(answer) = slot.collect() {
            return Some(answer);
        }
        spin_loop();
    }
}

/// The guest's memory: RAM, and nothing that is hidden from it.
#[derive(Clone, Copy, Debug)]
pub struct GuestRam;

impl GuestMemory for GuestRam {
    fn copy_in(&mut self, address: u64, into: &mut [u8]) -> Result<(), BadAddress> {
        let machine = machine().ok_or(BadAddress)?;
        let end = address.checked_add(into.len() as u64).ok_or(BadAddress)?;
        if !machine.is_guests(&(address..end)) {
            return Err(BadAddress);
        }
        machine.memory.copy_in(address, into).map_err(|_| BadAddress)
    }

    fn copy_out(&mut self, address: u64, from: &[u8]) -> Result<(), BadAddress> {
        let machine = machine().ok_or(BadAddress)?;
        let end = address.checked_add(from.len() as u64).ok_or(BadAddress)?;
        let mut memory = machine.memory;
        if !machine.is_guests(&(address..end)) {
            return Err(BadAddress);
        }
        memory.copy_out(address, from).map_err(|_| BadAddress)
    }
}
