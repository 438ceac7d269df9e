//! The disk as PCI shows it to the guest (PCI 3.0, section 6.1): one window of ports, one interrupt line, no capability.

use core::ops::RangeInclusive;

/// A block device of the legacy interface, its revision and class (Virtual I/O Device 1.2, section 4.1.2.3: transitional devices; PCI: mass storage, SCSI).
const IDENTITY: u32 = 0x1001_1AF4;
const CLASS: u32 = 0x0100_0000;
const SUBSYSTEM: u32 = 0x0002_1AF4;

const COMMAND: u8 = 0x04;
const ADDRESS: u8 = 0x10;
const INTERRUPT: u8 = 0x3C;
const COMMAND_PORTS: u32 = 1;
const COMMAND_NO_INTX: u32 = 1 << 10;
const COMMAND_MASTER: u32 = 1 << 2;
/// What of the command register is kept. A driver need not ask for bus mastering: only that it is taken away counts.
const COMMAND_KEPT: u32 = COMMAND_PORTS | COMMAND_MASTER | COMMAND_NO_INTX;
const IS_PORTS: u32 = 1;

/// Size of the window in ports.
pub(super) const PORTS: u16 = 0x80;
/// Where the window is when the machine starts: free on a q35, whose other windows SeaBIOS puts at 0xC000 and up.
const BASE: u16 = 0xE000;

/// Configuration space, as far as it is more than zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    command: u32,
    base: u16,
    interrupt: u32,
}

impl Function {
    /// The function as it is after a reset; `interrupt` is what the host's device says at 0x3C.
    #[must_use]
    pub const fn new(interrupt: u32) -> Self {
        Self { command: COMMAND_PORTS, base: BASE, interrupt: interrupt & 0xFFFF }
    }

    /// The register at `offset`, a multiple of four.
    #[must_use]
    pub fn read(&self, offset: u8) -> u32 {
        match offset {
            0 => IDENTITY,
            COMMAND => self.command,
            0x08 => CLASS,
            ADDRESS => u32::from(self.base) | IS_PORTS,
            0x2C => SUBSYSTEM,
            INTERRUPT => self.interrupt,
            _ => 0,
        }
    }

    /// The guest writes those bits of a register that `mask` has. Returns whether all of them counted.
    pub fn write(&mut self, offset: u8, value: u32, mask: u32) -> bool {
        let merged = |held: u32| held & !mask | value & mask;
        let kept = match offset {
            COMMAND => {
                self.command = merged(self.command) & COMMAND_KEPT;
                COMMAND_KEPT
            }
            ADDRESS => {
                let [low, high, ..] = merged(u32::from(self.base)).to_le_bytes();
                self.base = u16::from_le_bytes([low, high]) & !(PORTS - 1);
                u32::from(!(PORTS - 1))
            }
            INTERRUPT => {
                self.interrupt = self.interrupt & !0xFF | merged(self.interrupt) & 0xFF;
                0xFF
            }
            _ => 0,
        };
        mask & !kept == 0
    }

    /// Where its ports are, if it has any now.
    #[must_use]
    pub const fn ports(&self) -> Option<RangeInclusive<u16>> {
        if self.command & COMMAND_PORTS == 0 { None } else { Some(self.base..=self.base + (PORTS - 1)) }
    }

    /// Which of its ports that is, if it is one.
    #[must_use]
    pub fn offset(&self, port: u16) -> Option<u16> {
        self.ports().filter(|ports| ports.contains(&port)).map(|_| port - self.base)
    }

    /// Whether it may access memory by itself.
    #[must_use]
    pub const fn is_master(&self) -> bool {
        self.command & COMMAND_MASTER != 0
    }

    /// Whether its interrupt line is switched off.
    #[must_use]
    pub const fn is_silent(&self) -> bool {
        self.command & COMMAND_NO_INTX != 0
    }
}

#[cfg(test)]
mod tests {
    use super::Function;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    #[test]
    fn a_driver_finds_a_block_device_with_one_window_of_128_ports() {
        let mut function = Function::new(0x010B);
        assert_eq!(
            [0, 8, 0x0C, 0x2C, 0x34].map(|at| function.read(at)),
            [0x1001_1AF4, 0x0100_0000, 0, 0x0002_1AF4, 0]
        );
        assert_eq!((function.read(0x10), function.read(0x3C)), (0xE001, 0x010B));
        assert_eq!(function.offset(0xE010), Some(0x10));
        assert!(!function.write(4, 0, 0xFFFF) && function.ports().is_none());
        function.write(0x10, u32::MAX, u32::MAX);
        assert_eq!(function.read(0x10), 0xFF81, "its size");
        function.write(0x10, 0x6041, u32::MAX);
        assert!(function.write(4, 0x405, 0x405) && function.is_silent());
        assert_eq!((function.ports(), function.offset(0x6080)), (Some(0x6000..=0x607F), None));
        assert_eq!((1..0x10).filter(|at| function.read(0x10 + 4 * at % 0x18 + 4) != 0).count(), 0);
    }

    proptest! {
        #[test]
        fn whatever_is_written_it_stays_a_window_of_ports(writes in proptest::collection::vec((any::<u8>(), any::<u32>(), any::<u32>()), 0..32)) {
            let mut function = Function::new(0x0105);
            for (offset, value, mask) in writes {
                function.write(offset & !3, value, mask);
            }
            prop_assert_eq!(function.read(0), 0x1001_1AF4);
            prop_assert_eq!(function.read(0x3C) >> 8, 1);
            prop_assert_eq!(function.read(0x10) & 0xFFFF_007F, 1);
            prop_assert!(function.ports().is_none_or(|ports| ports.end() - ports.start() == 0x7F));
        }
    }
}
