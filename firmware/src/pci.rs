//! PCI as the layer found it, and as much of it as a guest may touch.
//!
//! **What.** [`Inventory::take`] looks at every function of the root bus and gives each a [`Role`]; a machine with a function that
//! can write memory and that nobody answers for is refused. [`Inventory::read`] and [`Inventory::write`] answer a guest's configuration accesses.
//! **Trust.** The devices are the host's: what they say of themselves is believed only as far as it makes the layer more careful.
//! **Laws.** A guest sees functions that cannot write memory, moves no address register and no chipset window, and makes nobody a
//! bus master. The layer's devices are not there for it, the one below its disk among them: neither their configuration nor their memory nor their ports.
//! **Not here.** Drivers. What it sees in place of the device below its disk: `guest_disk`. Buses behind bridges: a bridge is refused.

use crate::virtio::{GUEST_DISK_SLOT, OWN_SLOTS};
use core::ops::{Range, RangeInclusive};
use heapless::Vec;

/// Functions of one bus.
const FUNCTIONS: u8 = 255;
/// More functions than this are refused.
const FUNCTIONS_MAX: usize = 32;
/// Address registers of a function.
const BARS: u8 = 6;

const VENDOR: u8 = 0x00;
const COMMAND: u8 = 0x04;
const HEADER: u8 = 0x0C;
const BAR_FIRST: u8 = 0x10;
const INTERRUPT_LINE: u8 = 0x3C;
const COMMAND_DECODE: u32 = 0b11;
const COMMAND_BUS_MASTER: u32 = 1 << 2;
const COMMAND_NO_INTX: u32 = 1 << 10;

/// The host bridge, and where it says that the configuration window is (Intel 316966-002, section 5.1.15).
const HOST_BRIDGE: u32 = 0x29C0_8086;
const PCIEXBAR: u8 = 0x60;
/// The south bridge, and its registers that a guest needs: where interrupts of PCI go.
const SOUTH_BRIDGE: u32 = 0x2918_8086;
const PIRQ: [u8; 2] = [0x60, 0x68];
const SMBUS: u32 = 0x2930_8086;
const AHCI: u32 = 0x2922_8086;
const VENDOR_VIRTIO: u32 = 0x1AF4;
/// The host's device below the guest's disk (Virtual I/O Device 1.2, sections 4.1.2 and 5.2.1).
const VIRTIO_BLOCK: u32 = 0x1042_1AF4;

/// The configuration mechanism of the machine: 32-bit registers of the root bus.
pub trait ConfigSpace {
    /// Reads the register of `function` (device times eight plus function) at `offset`, a multiple of four.
    fn read(&mut self, function: u8, offset: u8) -> u32;

    /// Writes it.
    fn write(&mut self, function: u8, offset: u8, value: u32);
}

/// What a function is to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The guest sees it. It cannot write memory.
    Shown,
    /// It writes the guest's memory, where the layer tells it to. The guest sees another function in its place, which the layer makes up (`guest_disk`).
    Driven,
    /// A device of the layer: not there.
    Own,
    /// It came with the machine, no guest needs it, and it might write memory: switched off and not there.
    Quarantined,
}

/// A function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Device times eight plus function.
    pub at: u8,
    /// Device and vendor, as the register at 0 shows them.
    pub identity: u32,
    /// What it is to the guest.
    pub role: Role,
}

/// Why a machine is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A function that could write memory, with its identity: nobody answers for it, and no IOMMU is there to.
    Unguarded(u8, u32),
    /// A function that stays a bus master whatever is written.
    Unquenchable(u8),
    /// More functions than can be watched, or more windows.
    TooMany,
    /// No host bridge that is known.
    UnknownBridge(u32),
}

/// What the layer keeps from the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    /// Memory.
    pub memory: Vec<Range<u64>, FUNCTIONS_MAX>,
    /// Ports.
    pub ports: Vec<RangeInclusive<u16>, FUNCTIONS_MAX>,
}

/// The root bus.
#[derive(Clone, Debug)]
pub struct Inventory {
    functions: Vec<Function, FUNCTIONS_MAX>,
    windows: Windows,
    address: u32,
}

impl Inventory {
    /// Looks at every function and switches off what must not act.
    ///
    /// # Errors
    /// [`Refusal`]; `complain` has then been told of every function that is in the way.
    pub fn take(config: &mut dyn ConfigSpace, complain: &mut dyn FnMut(Function)) -> Result<Self, Refusal> {
        let mut inventory = Self { functions: Vec::new(), windows: Windows::default(), address: 0 };
        let bridge = config.read(0, VENDOR);
        if bridge != HOST_BRIDGE {
            return Err(Refusal::UnknownBridge(bridge));
        }
        let mut verdict = Ok(());
        for at in 0..=FUNCTIONS {
            if !exists(config, at) {
                continue;
            }
            let identity = config.read(at, VENDOR);
            match role(config, at, identity) {
                Some(role) => inventory.admit(config, Function { at, identity, role })?,
                None => {
                    complain(Function { at, identity, role: Role::Quarantined });
                    verdict = Err(Refusal::Unguarded(at, identity));
                }
            }
        }
        let ecam = configuration_window(config.read(0, PCIEXBAR));
        if let Some(window) = ecam {
            inventory.windows.memory.push(window).map_err(|_| Refusal::TooMany)?;
        }
        verdict.map(|()| inventory)
    }

    /// Every function.
    #[must_use]
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// Whether the guest has a disk.
    #[must_use]
    pub fn has_disk(&self) -> bool {
        self.functions.iter().any(|known| known.role == Role::Driven)
    }

    /// What must not be reached: windows of hidden functions, and the configuration window, whose accesses are emulated.
    #[must_use]
    pub const fn windows(&self) -> &Windows {
        &self.windows
    }

    /// The configuration window in memory, if it is open.
    #[must_use]
    pub fn ecam(&self, config: &mut dyn ConfigSpace) -> Option<Range<u64>> {
        configuration_window(config.read(0, PCIEXBAR))
    }

    /// The guest's address register.
    #[must_use]
    pub const fn address(&self) -> u32 {
        self.address
    }

    /// The guest writes its address register.
    pub const fn set_address(&mut self, value: u32) {
        self.address = value & 0x80FF_FFFC;
    }

    /// Where the guest's address register points: a function of the root bus and a register, if anywhere.
    #[must_use]
    pub const fn pointed(&self) -> Option<(u8, u8)> {
        let [offset, function, bus, _] = self.address.to_le_bytes();
        if self.address >> 31 == 0 || bus != 0 { None } else { Some((function, offset)) }
    }

    /// What the guest reads of a register; ones where nothing is for it.
    pub fn read(&self, config: &mut dyn ConfigSpace, function: u8, offset: u8) -> u32 {
        if self.shown(function).is_some() { config.read(function, offset & !3) } else { u32::MAX }
    }

    /// The guest writes those bits of a register that `mask` has. Returns whether all of them counted.
    pub fn write(
        &self,
        config: &mut dyn ConfigSpace,
        (function, offset): (u8, u8),
        value: u32,
        mask: u32,
    ) -> bool {
        let offset = offset & !3;
        let Some(known) = self.shown(function) else { return false };
        let allowed = mask & writable(known.identity, offset);
        if allowed != 0 {
            // Status bits are cleared by writing ones: what the guest does not write is written as zeros there.
            let keep = if offset == COMMAND { 0xFFFF & !allowed } else { !allowed };
            let held = config.read(function, offset) & keep;
            config.write(function, offset, held | value & allowed);
        }
        allowed == mask
    }

    fn shown(&self, function: u8) -> Option<&Function> {
        self.functions.iter().find(|known| known.at == function && known.role == Role::Shown)
    }

    fn admit(&mut self, config: &mut dyn ConfigSpace, function: Function) -> Result<(), Refusal> {
        match function.role {
            Role::Shown => {}
            Role::Own | Role::Driven => {
                self.hide(config, function.at)?;
                let command = config.read(function.at, COMMAND) & 0xFFFF;
                config.write(function.at, COMMAND, command | COMMAND_NO_INTX);
            }
            Role::Quarantined => {
                self.hide(config, function.at)?;
                quench(config, function.at, COMMAND_NO_INTX, COMMAND_BUS_MASTER | COMMAND_DECODE)?;
            }
        }
        self.functions.push(function).map_err(|_| Refusal::TooMany)
    }

    /// Notes the windows of a function.
    fn hide(&mut self, config: &mut dyn ConfigSpace, function: u8) -> Result<(), Refusal> {
        let command = config.read(function, COMMAND) & 0xFFFF;
        config.write(function, COMMAND, command & !COMMAND_DECODE);
        let mut bar = 0;
        while bar < BARS {
            let (window, used) = window(config, function, BAR_FIRST + 4 * bar);
            match window {
                Some(Window::Memory(range)) => {
                    self.windows.memory.push(range).map_err(|_| Refusal::TooMany)?;
                }
                Some(Window::Ports(range)) => {
                    self.windows.ports.push(range).map_err(|_| Refusal::TooMany)?;
                }
                None => {}
            }
            bar += used;
        }
        config.write(function, COMMAND, command);
        Ok(())
    }
}

fn exists(config: &mut dyn ConfigSpace, at: u8) -> bool {
    let is_first = at.is_multiple_of(8);
    let has_more = is_first || config.read(at & !7, HEADER) & 0x80_0000 != 0;
    has_more && config.read(at, VENDOR) & 0xFFFF != 0xFFFF
}

/// Writes a function's command, after which those bits must be off.
fn quench(config: &mut dyn ConfigSpace, at: u8, command: u32, off: u32) -> Result<(), Refusal> {
    config.write(at, COMMAND, command);
    if config.read(at, COMMAND) & off == 0 { Ok(()) } else { Err(Refusal::Unquenchable(at)) }
}

/// What a function is, or nothing if it may not be on this machine.
fn role(config: &mut dyn ConfigSpace, at: u8, identity: u32) -> Option<Role> {
    let is_bridge = config.read(at, HEADER) >> 16 & 0x7F != 0;
    match identity {
        _ if is_bridge => None,
        // Neither has a bus master of its own.
        HOST_BRIDGE if at == 0 => Some(Role::Shown),
        SOUTH_BRIDGE => Some(Role::Shown),
        AHCI | SMBUS => Some(Role::Quarantined),
        VIRTIO_BLOCK if at == GUEST_DISK_SLOT.0 << 3 => Some(Role::Driven),
        _ if is_own(at, identity) => Some(Role::Own),
        _ => None,
    }
}

/// A device of virtio in one of the places that the launcher keeps for the layer.
fn is_own(at: u8, identity: u32) -> bool {
    let in_place = OWN_SLOTS.iter().any(|slot| slot.0 << 3 == at);
    in_place && identity & 0xFFFF == VENDOR_VIRTIO
}

/// What a guest may write of a register.
const fn writable(identity: u32, offset: u8) -> u32 {
    match (identity, offset) {
        (HOST_BRIDGE, _) => 0,
        // Everything but bus mastering; decoding stays as it is.
        (_, COMMAND) => !(COMMAND_BUS_MASTER | COMMAND_DECODE),
        (_, INTERRUPT_LINE) => 0xFF,
        (SOUTH_BRIDGE, offset) if offset == PIRQ[0] || offset == PIRQ[1] => u32::MAX,
        _ => 0,
    }
}

enum Window {
    Memory(Range<u64>),
    Ports(RangeInclusive<u16>),
}

/// The window of an address register, whole pages of it, and how many registers it takes (PCI 3.0, section 6.2.5.1).
fn window(config: &mut dyn ConfigSpace, function: u8, register: u8) -> (Option<Window>, u8) {
    let held = config.read(function, register);
    let size_bits = sized(config, function, register, held);
    if held & 1 != 0 {
        let size = (!(size_bits & !3) & 0xFFFF).saturating_add(1);
        let base = held & 0xFFFC;
        let last = u16::try_from(base + size - 1).unwrap_or(u16::MAX);
        let first = u16::try_from(base).unwrap_or(u16::MAX);
        return ((size_bits & !3 != 0).then_some(Window::Ports(first..=last)), 1);
    }
    let is_wide = held >> 1 & 3 == 2 && register < BAR_FIRST + 4 * (BARS - 1);
    let low_size = u64::from(size_bits & !0xF);
    let (base, mask) = if is_wide {
        let high = config.read(function, register + 4);
        let high_size = sized(config, function, register + 4, high);
        (u64::from(held & !0xF) | u64::from(high) << 32, low_size | u64::from(high_size) << 32)
    } else {
        (u64::from(held & !0xF), if low_size == 0 { 0 } else { low_size | 0xFFFF_FFFF_0000_0000 })
    };
    let range = (mask != 0).then(|| {
        let end = base.saturating_add((!mask).saturating_add(1));
        Window::Memory(base & !0xFFF..end.checked_next_multiple_of(0x1000).unwrap_or(!0xFFF))
    });
    (range, if is_wide { 2 } else { 1 })
}

fn sized(config: &mut dyn ConfigSpace, function: u8, register: u8, held: u32) -> u32 {
    config.write(function, register, u32::MAX);
    let bits = config.read(function, register);
    config.write(function, register, held);
    bits
}

/// Where PCIEXBAR says that configuration registers lie in memory.
const fn configuration_window(register: u32) -> Option<Range<u64>> {
    let size = match register >> 1 & 3 {
        0 => 256 << 20,
        1 => 128 << 20,
        _ => 64 << 20,
    };
    let base = (register & 0xFC00_0000) as u64;
    if register & 1 == 0 { None } else { Some(base..base + size) }
}

#[cfg(test)]
#[path = "pci/tests.rs"]
mod tests;
