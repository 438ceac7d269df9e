//! A guest's accesses to the flash with its firmware's variables: each waits until it may be served.
//!
//! While the chip shows its array the guest reads that where it lies, by any instruction that it likes, and only writes come here. The first one that leads elsewhere has every access come here, on every processor.

use super::machine::{Machine, machine};
use super::processors;
use crate::memory::Physical;
use crate::variables::{self, Chip};
use crate::{boot, stop};
use core::hint::spin_loop;

/// What processor `cpu` reads; ones if it is wanted elsewhere for good.
pub(super) fn load(machine: &Machine, cpu: usize, offset: usize, bytes: usize) -> u64 {
    served(machine, cpu, |chip| chip.read(offset, bytes)).unwrap_or(u64::MAX)
}

/// What processor `cpu` writes: so many bytes of a value.
pub(super) fn store(machine: &Machine, cpu: usize, offset: usize, (bytes, value): (usize, u64)) {
    // A processor that is wanted elsewhere for good does not learn that it was not heard.
    served(machine, cpu, |chip| chip.write(offset, bytes, value).then_some(())).unwrap_or_default();
}

/// The guest is reset: it finds the array.
pub fn show_variables() {
    if let Some(machine) = machine() {
        variables::with(|chip| follow(machine, chip)).unwrap_or_default();
    }
}

/// Tries until the chip serves it, which it does once what it owes is durable; nothing if the processor's life ends before.
fn served<T>(
    machine: &Machine,
    cpu: usize,
    mut attempt: impl FnMut(&mut Chip<Physical>) -> Option<T>,
) -> Option<T> {
    let mailbox = processors::mailbox(cpu);
    loop {
        stop::halt_if_stopping();
        let tried = variables::with(|chip| {
            let found = attempt(chip);
            follow(machine, chip);
            found
        });
        match tried {
            Some(Some(found)) => return Some(found),
            Some(None) if variables::owe() => boot::wake(),
            // It waits already, or somebody else is at the chip.
            Some(None) | None => {}
        }
        if mailbox.ends_a_life() {
            return None;
        }
        spin_loop();
    }
}

/// Has the guest's map follow the chip. Where its array is hidden, every processor forgets what it had mapped; one that looks at that very instant may see the array once more.
fn follow(machine: &Machine, chip: &mut Chip<Physical>) {
    let shown = chip.flash.shows_array();
    if shown != chip.mapped {
        machine.map_variables(shown);
        chip.mapped = shown;
        if !shown {
            processors::forget_maps();
        }
    }
}
