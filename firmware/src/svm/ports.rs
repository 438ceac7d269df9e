//! Which I/O ports a guest has (AMD64 APM volume 2, section 15.10), on a PC with an ICH9 south bridge (Intel 316966-002, 316972-004).
//!
//! Most are the guest's. Those that exit do so because they reach memory behind the processor's back (ISA DMA, fw_cfg's DMA, PCI
//! configuration), because they reset, sleep or manage the machine, or because they belong to a device of the layer.

use crate::fw_cfg;
use core::ops::RangeInclusive;

/// Size of the permission map in bytes: one bit a port, and a page for accesses across the end.
const MAP_BYTES: usize = 0x3000;

/// Every port that exits on any machine; more are added by address.
const GUARDED: [RangeInclusive<u16>; 13] = [
    0x00..=0x0F,
    0xC0..=0xDF,
    KEYBOARD_DATA..=KEYBOARD_DATA,
    KEYBOARD_COMMAND..=KEYBOARD_COMMAND,
    SYSTEM_CONTROL..=SYSTEM_CONTROL,
    0xB2..=0xB3,
    0xF4..=0xF4,
    0x514..=0x51B,
    // PCI hot plug: eject. Processor hot plug: flags, command.
    0xCC8..=0xCCB,
    0xCDC..=0xCDD,
    CONFIG_ADDRESS..=0xCFB,
    CONFIG_DATA..=0xCFF,
    0x5658..=0x5659,
];

const KEYBOARD_DATA: u16 = 0x60;
const KEYBOARD_COMMAND: u16 = 0x64;
const SYSTEM_CONTROL: u16 = 0x92;
/// PCI's address port.
pub const CONFIG_ADDRESS: u16 = 0xCF8;
const RESET_CONTROL: u16 = 0xCF9;
/// PCI's data ports.
pub const CONFIG_DATA: u16 = 0xCFC;

/// Processor hot plug (QEMU, docs/specs/acpi_cpu_hotplug.rst): it counts the one that serves.
const PROCESSOR_HOT_PLUG: RangeInclusive<u16> = 0xCD8..=0xCE3;

/// The power management block of the south bridge, from its base.
const PM1_CONTROL: u16 = 4;
const SMI_ENABLE: u16 = 0x30;
/// PM1 control: sleep enable, and the type that is power-off on this machine.
const SLEEP_ENABLE: u32 = 1 << 13;
const SLEEP_TYPE: u32 = 7 << 10;
const SLEEP_TYPE_OFF: u32 = 0;

/// The permission map; set bits exit.
#[derive(Clone, Debug)]
#[repr(C, align(4096))]
pub struct Permissions([u8; MAP_BYTES]);

impl Permissions {
    /// Every port is the guest's.
    pub const OPEN: Self = Self([0; MAP_BYTES]);

    /// Guards also what a machine has that the layer answers for: its configuration device, and how many processors it has.
    pub fn guard_configuration(&mut self) {
        self.guard(fw_cfg::SELECTOR..=0x513);
        self.guard(PROCESSOR_HOT_PLUG);
    }

    /// Guards what must be guarded everywhere, and the power management block at `power`.
    pub fn guard_standard(&mut self, power: u16) {
        for range in GUARDED {
            self.guard(range);
        }
        let at = |offset| power.saturating_add(offset);
        self.guard(at(PM1_CONTROL)..=at(PM1_CONTROL + 3));
        self.guard(at(SMI_ENABLE)..=at(SMI_ENABLE + 3));
    }

    /// Makes accesses to `ports` exit.
    pub fn guard(&mut self, ports: RangeInclusive<u16>) {
        for port in ports {
            self.0[usize::from(port / 8)] |= 1 << (port % 8);
        }
    }

    /// Makes accesses to `ports` the guest's own again.
    pub fn open(&mut self, ports: RangeInclusive<u16>) {
        for port in ports {
            self.0[usize::from(port / 8)] &= !(1 << (port % 8));
        }
    }

    /// Whether accesses to `port` exit.
    #[must_use]
    pub fn exits(&self, port: u16) -> bool {
        self.0[usize::from(port / 8)] & 1 << (port % 8) != 0
    }
}

/// An access, as EXITINFO1 tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Its first port.
    pub port: u16,
    /// One, two or four bytes.
    pub bytes: u8,
    /// Whether it is IN.
    pub reads: bool,
    /// Whether it is INS or OUTS.
    pub is_string: bool,
}

impl Access {
    /// Reads EXITINFO1 (section 15.10.2).
    #[must_use]
    pub const fn of(info: u64) -> Self {
        let bytes = if info & 1 << 4 != 0 {
            1
        } else if info & 1 << 5 != 0 {
            2
        } else {
            4
        };
        let raw = info.to_le_bytes();
        let port = u16::from_le_bytes([raw[2], raw[3]]);
        Self { port, bytes, reads: info & 1 != 0, is_string: info & 1 << 2 != 0 }
    }
}

/// What becomes of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes to the hardware.
    Pass,
    /// This is written instead.
    Write(u32),
    /// Nothing is there: it reads ones, or is dropped.
    Hole,
    /// It is about PCI's configuration: see `pci`.
    Configuration,
    /// This item of the layer's configuration device is chosen.
    Select(u16),
    /// The next byte of that item.
    Item,
    /// The machine is reset.
    Reset,
    /// The machine is switched off: this write does it.
    PowerOff(u16),
}

/// Whose configuration device the guest reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Configuration {
    /// The machine's own, which the host fills.
    Machines,
    /// The layer's: see `fw_cfg`.
    Layers,
}

/// What must be remembered between accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    power: u16,
    configuration: Configuration,
    output_port_follows: bool,
}

impl Ports {
    /// A machine whose power management block is at `power`.
    #[must_use]
    pub fn new(power: u16, configuration: Configuration) -> Self {
        Self { power, configuration, output_port_follows: false }
    }

    /// Judges an access to a guarded port; `value` is what it writes.
    #[must_use]
    pub fn judge(&mut self, access: Access, value: u32) -> Action {
        let Access { port, bytes, reads, .. } = access;
        let offset = port.wrapping_sub(self.power);
        match (port, bytes) {
            (KEYBOARD_COMMAND | KEYBOARD_DATA | SYSTEM_CONTROL | 0xB2 | 0xB3, 1) if reads => Action::Pass,
            (KEYBOARD_COMMAND, 1) => self.keyboard_command(value),
            (KEYBOARD_DATA, 1) => self.keyboard_data(value),
            // Bit 0 resets. Bit 1 is the address line 20, which stays.
            (SYSTEM_CONTROL, 1) if value & 1 != 0 => Action::Reset,
            (SYSTEM_CONTROL, 1) => Action::Write(value | 2),
            (RESET_CONTROL, 1) if reads => Action::Pass,
            (RESET_CONTROL, 1) if value & 4 != 0 => Action::Reset,
            (RESET_CONTROL, 1) => Action::Write(value & 2),
            (CONFIG_ADDRESS..=0xCFB, 4) if port == CONFIG_ADDRESS => Action::Configuration,
            (CONFIG_DATA..=0xCFF, _) if port - CONFIG_DATA + u16::from(bytes) <= 4 => Action::Configuration,
            (fw_cfg::SELECTOR, 2) if self.configuration == Configuration::Layers && !reads => {
                let [low, high, ..] = value.to_le_bytes();
                Action::Select(u16::from_le_bytes([low, high]))
            }
            (fw_cfg::DATA, 1) if self.configuration == Configuration::Layers && reads => Action::Item,
            (0xCDC..=0xCDD, _) if self.configuration == Configuration::Layers => Action::Hole,
            (0xCC8..=0xCCB | 0xCDC..=0xCDD, _) if reads => Action::Pass,
            _ if offset == PM1_CONTROL && bytes >= 2 && !reads => sleep(value),
            _ if (PM1_CONTROL..PM1_CONTROL + 4).contains(&offset) && reads => Action::Pass,
            _ if (SMI_ENABLE..SMI_ENABLE + 4).contains(&offset) && reads => Action::Pass,
            _ => Action::Hole,
        }
    }

    /// The keyboard controller resets the processor by a pulse of line 0, or with the next byte of data.
    const fn keyboard_command(&mut self, value: u32) -> Action {
        self.output_port_follows = value == 0xD1;
        match value {
            0xF0..=0xFF if value & 1 == 0 => Action::Reset,
            // Address line 20 off.
            0xDD => Action::Hole,
            _ => Action::Pass,
        }
    }

    const fn keyboard_data(&mut self, value: u32) -> Action {
        if !self.output_port_follows {
            return Action::Pass;
        }
        self.output_port_follows = false;
        if value & 1 == 0 { Action::Reset } else { Action::Write(value | 2) }
    }
}

/// Only power-off is done: whoever wakes from sleep wakes above the layer.
const fn sleep(value: u32) -> Action {
    if value & SLEEP_ENABLE == 0 {
        Action::Pass
    } else if value & SLEEP_TYPE == SLEEP_TYPE_OFF {
        let [low, high, ..] = value.to_le_bytes();
        Action::PowerOff(u16::from_le_bytes([low, high]))
    } else {
        Action::Hole
    }
}

#[cfg(test)]
mod tests {
    use super::Configuration::{Layers, Machines};
    use super::{Access, Action, Permissions, Ports};
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    const POWER: u16 = 0x600;

    fn writes(port: u16, bytes: u8, value: u32) -> Action {
        Ports::new(POWER, Machines).judge(Access { port, bytes, reads: false, is_string: false }, value)
    }

    fn reads(port: u16, bytes: u8) -> Action {
        Ports::new(POWER, Machines).judge(Access { port, bytes, reads: true, is_string: false }, 0)
    }

    #[test]
    fn every_way_to_reset_is_one() {
        assert_eq!(writes(0xCF9, 1, 6), Action::Reset);
        assert_eq!(writes(0xCF9, 1, 0xE), Action::Reset);
        assert_eq!(writes(0xCF9, 1, 2), Action::Write(2));
        assert_eq!(writes(0x64, 1, 0xFE), Action::Reset);
        assert_eq!(writes(0x92, 1, 1), Action::Reset);
        let mut ports = Ports::new(POWER, Machines);
        let write = |port| Access { port, bytes: 1, reads: false, is_string: false };
        assert_eq!(ports.judge(write(0x64), 0xD1), Action::Pass);
        assert_eq!(ports.judge(write(0x60), 0xFE), Action::Reset);
        assert_eq!(ports.judge(write(0x60), 0xFE), Action::Pass, "data for the keyboard itself");
    }

    #[test]
    fn address_line_20_stays_on() {
        assert_eq!(writes(0x92, 1, 0), Action::Write(2));
        assert_eq!(writes(0x64, 1, 0xDD), Action::Hole);
        let mut ports = Ports::new(POWER, Machines);
        let write = |port| Access { port, bytes: 1, reads: false, is_string: false };
        assert_eq!(ports.judge(write(0x64), 0xD1), Action::Pass);
        assert_eq!(ports.judge(write(0x60), 0x01), Action::Write(3));
    }

    #[test]
    fn the_machine_goes_off_but_never_to_sleep() {
        assert_eq!(writes(POWER + 4, 2, 1 << 13), Action::PowerOff(1 << 13));
        for other in 1..8 {
            assert_eq!(writes(POWER + 4, 2, 1 << 13 | other << 10), Action::Hole);
        }
        assert_eq!(writes(POWER + 4, 2, 1), Action::Pass);
        assert_eq!(writes(POWER + 5, 1, 0x20), Action::Hole);
        assert_eq!(reads(POWER + 4, 2), Action::Pass);
    }

    #[test]
    fn nothing_that_moves_memory_behind_our_back_is_reached() {
        for port in [0x00, 0x0B, 0xC0, 0xD6, 0xB2, 0x514, 0x518, 0xF4, 0xCDC, 0xCC8, POWER + 0x30] {
            for bytes in [1, 2, 4] {
                assert_eq!(writes(port, bytes, 0xFFFF_FFFF), Action::Hole, "{port:#x}");
            }
        }
    }

    /// A guest that has a firmware reads the layer's configuration device, and never the host's.
    #[test]
    fn the_machines_own_configuration_device_is_a_hole_where_the_layer_has_one() {
        let mut ports = Ports::new(POWER, Layers);
        let mut judge =
            |port, bytes, reads, value| ports.judge(Access { port, bytes, reads, is_string: false }, value);
        assert_eq!(judge(0x510, 2, false, 0x8019), Action::Select(0x8019));
        assert_eq!(judge(0x511, 1, true, 0), Action::Item);
        for (port, bytes, reads) in [
            (0x510, 1, false),
            (0x510, 2, true),
            (0x510, 4, false),
            (0x511, 1, false),
            (0x511, 2, true),
            (0x512, 1, true),
            (0x514, 4, true),
            (0x514, 4, false),
            (0xCD8, 4, true),
            (0xCD8, 4, false),
            (0xCDC, 1, true),
            (0xCDD, 1, false),
        ] {
            assert_eq!(judge(port, bytes, reads, 0), Action::Hole, "{port:#x} {bytes} {reads}");
        }
        let mut map = Permissions::OPEN;
        map.guard_standard(POWER);
        assert!(!map.exits(0x510), "without a firmware the guest has the machine's");
        map.guard_configuration();
        assert!((0x510..0x51C).chain(0xCD8..0xCE4).all(|port| map.exits(port)));
    }

    #[test]
    fn configuration_is_reached_by_its_own_widths_only() {
        assert_eq!(writes(0xCF8, 4, 0x8000_0060), Action::Configuration);
        assert_eq!(writes(0xCFE, 2, 0), Action::Configuration);
        for (port, bytes) in [(0xCF8, 1), (0xCF8, 2), (0xCFA, 4), (0xCFE, 4), (0xCFA, 2)] {
            assert_eq!(writes(port, bytes, 0), Action::Hole);
        }
    }

    #[test]
    fn an_exit_tells_what_was_accessed() {
        let seen = Access::of(0x0CF8_0000 | 1 << 6);
        assert_eq!(seen, Access { port: 0xCF8, bytes: 4, reads: false, is_string: false });
        assert_eq!(Access::of(0x0060_0015), Access { port: 0x60, bytes: 1, reads: true, is_string: true });
    }

    proptest! {
        #[test]
        fn what_is_not_known_to_be_harmless_is_a_hole(port in any::<u16>(), value in any::<u32>(), width in 0u8..3) {
            let mut map = Permissions::OPEN;
            map.guard_standard(POWER);
            let bytes = 1 << width;
            let action = writes(port, bytes, value);
            if (0x514..0x51C).contains(&port) || port < 0x10 || (0xC0..0xE0).contains(&port) {
                prop_assert_eq!(action, Action::Hole);
            }
            prop_assert!(map.exits(0xCF9) && map.exits(0x604) && !map.exits(0x3F8));
        }
    }
}
