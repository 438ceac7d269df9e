//! Interrupt controllers as a guest may use them: who may be started, stopped and interrupted, and how.
//!
//! The local APIC's page and the I/O APIC's are read freely; writes exit and are judged here (AMD64 APM volume 2, chapter 16;
//! Intel 82093AA). What would reset or halt a processor, or drive it into system management mode, never reaches the hardware.

use crate::boot::CPUS_MAX;

/// The task of a register of the local APIC, by its offset.
const LOGICAL_DESTINATION: u64 = 0xD0;
const DESTINATION_FORMAT: u64 = 0xE0;
const COMMAND_LOW: u64 = 0x300;
const LVT: core::ops::RangeInclusive<u64> = 0x320..=0x370;
/// Nothing but this is a register of the local APIC on the processor's side; 0 to 0xF belong to messages from devices.
const REGISTERS: core::ops::Range<u64> = 0x20..0x540;

/// Delivery modes (section 16.5).
const MODE_SHIFT: u32 = 8;
const MODE_FIXED: u32 = 0;
const MODE_LOWEST: u32 = 1;
const MODE_NMI: u32 = 4;
const MODE_INIT: u32 = 5;
const MODE_START_UP: u32 = 6;
const MODE_EXTERNAL: u32 = 7;

/// A set of virtual processors, one bit each.
pub type Set = u8;

const _: () = assert!(CPUS_MAX <= Set::BITS as usize);

/// What a guest's write to its local APIC is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalWrite {
    /// It may reach the hardware.
    Pass,
    /// The logical destination, or the destination format: it may, and is remembered.
    Remember(Destination),
    /// An interrupt to others: see [`command`].
    Command,
    /// It may not.
    Drop,
}

/// What addresses a processor logically.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Its bits.
    Logical,
    /// Their meaning.
    Format,
}

/// Judges a write of `value` at `offset` of the local APIC's page.
#[must_use]
pub fn local_write(offset: u64, value: u32) -> LocalWrite {
    let mode = value >> MODE_SHIFT & 7;
    match offset {
        _ if !REGISTERS.contains(&offset) || !offset.is_multiple_of(16) => LocalWrite::Drop,
        LOGICAL_DESTINATION => LocalWrite::Remember(Destination::Logical),
        DESTINATION_FORMAT => LocalWrite::Remember(Destination::Format),
        COMMAND_LOW => LocalWrite::Command,
        // The timer's entry has no mode; for the others INIT and SMI are refused.
        0x320 => LocalWrite::Pass,
        _ if LVT.contains(&offset) && !matches!(mode, MODE_FIXED | MODE_NMI | MODE_EXTERNAL) => {
            LocalWrite::Drop
        }
        _ => LocalWrite::Pass,
    }
}

/// Every virtual processor's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// APIC identifiers by number of the processor.
    pub ids: [u8; CPUS_MAX],
    /// How many there are.
    pub count: usize,
    /// Logical destinations.
    pub logical: [u8; CPUS_MAX],
    /// Whether logical destinations are clusters instead of bits.
    pub clusters: bool,
}

/// What a guest asks of other processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// An ordinary interrupt: the hardware delivers it.
    Pass,
    /// NMI.
    Nmi(Set),
    /// Wait for a start.
    Init(Set),
    /// Start at this page.
    StartUp(Set, u8),
    /// Nothing.
    Nothing,
}

/// Judges a write to the command register by processor `own`.
#[must_use]
pub fn command(low: u32, high: u32, own: usize, addresses: &Addresses) -> Command {
    let targets = targets(low, high, own, addresses);
    let asserts = low & 1 << 14 != 0;
    let is_level = low & 1 << 15 != 0;
    match low >> MODE_SHIFT & 7 {
        MODE_FIXED | MODE_LOWEST => Command::Pass,
        MODE_NMI => Command::Nmi(targets),
        // A level de-assert only sets arbitration identifiers.
        MODE_INIT if is_level && !asserts => Command::Nothing,
        MODE_INIT => Command::Init(targets),
        MODE_START_UP => Command::StartUp(targets, low.to_le_bytes()[0]),
        _ => Command::Nothing,
    }
}

fn targets(low: u32, high: u32, own: usize, addresses: &Addresses) -> Set {
    let all: Set = (0..addresses.count).fold(0, |set, cpu| set | 1 << cpu);
    let me: Set = 1 << own;
    match low >> 18 & 3 {
        1 => me & all,
        2 => all,
        3 => all & !me,
        _ => {
            let to = high.to_be_bytes()[0];
            let logical = low & 1 << 11 != 0;
            let named = (0..addresses.count).filter(|cpu| reaches(to, logical, *cpu, addresses));
            named.fold(0, |set, cpu| set | 1 << cpu)
        }
    }
}

fn reaches(to: u8, logical: bool, cpu: usize, addresses: &Addresses) -> bool {
    let own = addresses.logical[cpu];
    match (logical, addresses.clusters) {
        _ if to == 0xFF => true,
        (false, _) => addresses.ids[cpu] == to,
        (true, false) => own & to != 0,
        (true, true) => own >> 4 == to >> 4 && own & to & 0xF != 0,
    }
}

/// The I/O APIC: its window shows the register that was selected last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoApic {
    selected: u8,
}

impl IoApic {
    /// Before anything is selected.
    pub const NEW: Self = Self { selected: 0 };

    /// Whether a write of 32 bits at `offset` of the page may reach the hardware. The hardware repeats its 256 bytes.
    #[must_use]
    pub const fn write(&mut self, offset: u64, value: u32) -> bool {
        match offset & 0xFF {
            0x00 => {
                self.selected = value.to_le_bytes()[0];
                true
            }
            0x10 => {
                let is_low_half = self.selected >= 0x10 && self.selected.is_multiple_of(2);
                let mode = value >> MODE_SHIFT & 7;
                !is_low_half || matches!(mode, MODE_FIXED | MODE_LOWEST | MODE_EXTERNAL)
            }
            0x40 => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Addresses, Command, IoApic, LocalWrite, command, local_write};

    const THREE: Addresses = Addresses {
        ids: [0, 1, 2, 0, 0, 0, 0, 0],
        count: 3,
        logical: [1, 2, 4, 0, 0, 0, 0, 0],
        clusters: false,
    };

    #[test]
    fn starts_and_stops_name_virtual_processors_only() {
        let to = |id: u32| id << 24;
        assert_eq!(command(0xC500, to(1), 0, &THREE), Command::Init(0b010));
        assert_eq!(command(0x8500, to(1), 0, &THREE), Command::Nothing, "de-assert");
        assert_eq!(command(0x4608, to(2), 0, &THREE), Command::StartUp(0b100, 8));
        assert_eq!(command(0xC4500, 0, 0, &THREE), Command::Init(0b110), "all but self");
        assert_eq!(command(0x84400, 0, 1, &THREE), Command::Nmi(0b111), "all");
        assert_eq!(command(0x4500, to(3), 0, &THREE), Command::Init(0), "the layer's own is nobody");
        assert_eq!(command(0x4500, to(0xFF), 0, &THREE), Command::Init(0b111));
    }

    #[test]
    fn nmis_may_be_addressed_logically() {
        assert_eq!(command(0x4C00, 6 << 24, 0, &THREE), Command::Nmi(0b110));
        let clustered = Addresses { logical: [0x11, 0x12, 0x21, 0, 0, 0, 0, 0], clusters: true, ..THREE };
        assert_eq!(command(0x4C00, 0x13 << 24, 0, &clustered), Command::Nmi(0b011));
    }

    #[test]
    fn ordinary_interrupts_pass_and_system_management_does_not() {
        assert_eq!(command(0x40FD, 0, 0, &THREE), Command::Pass);
        for mode in [0x200, 0x300, 0x700] {
            assert_eq!(command(0x4000 | mode, 0, 0, &THREE), Command::Nothing);
        }
    }

    #[test]
    fn local_entries_cannot_reset_or_manage() {
        assert_eq!(local_write(0x350, 0x700), LocalWrite::Pass, "external");
        assert_eq!(local_write(0x360, 0x400), LocalWrite::Pass, "NMI");
        assert_eq!(local_write(0x360, 0x500), LocalWrite::Drop, "INIT");
        assert_eq!(local_write(0x330, 0x200), LocalWrite::Drop, "SMI");
        for message in [0, 4, 0xC, 0x10, 0x304, 0xFF0] {
            assert_eq!(local_write(message, 0x4500), LocalWrite::Drop);
        }
    }

    #[test]
    fn no_pin_of_the_io_apic_resets_anybody() {
        for offset in [0x10, 0x110, 0xF10] {
            let mut io = IoApic::NEW;
            assert!(io.write(offset - 0x10, 0x12));
            assert!(io.write(offset, 0x1_0031));
            for mode in [0x200, 0x400, 0x500, 0x600] {
                assert!(!io.write(offset, mode));
            }
            assert!(io.write(offset - 0x10, 0x13));
            assert!(io.write(offset, 0x0500_0000), "the upper half has no mode");
        }
    }
}
