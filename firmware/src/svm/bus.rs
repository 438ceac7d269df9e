//! Where a guest's emulated access ends: the TPM, an interrupt controller, PCI, its own memory, or a hole.
//!
//! # Soundness
//! Bits of a byte are set in memory that [`Machine::is_guests`] admits: mapped, and outside of every Rust object.

use super::apic::{Command, Destination, LocalWrite, Set, command, local_write};
use super::counters::{Counter, count};
use super::decode::Size;
use super::emulate::Bus;
use super::flash;
use super::hardware;
use super::machine::{CRB, CRB_BUFFER, IO_APIC, LOCAL_APIC, Machine};
use super::processors;
use super::walk::GuestMemory;
use crate::crb_device::{self, BufferPage};
use crate::memory::{Reach, Registers, native};
use crate::wishes::CrbPlace;
use husk::frontend::crb::Width;
use husk::seams::GuestPage;

const PAGE_BYTES: u64 = 0x1000;
const COMMAND_HIGH: u64 = 0x310;

/// The machine as processor `cpu` of the guest accesses it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Below {
    pub(super) machine: &'static Machine,
    pub(super) cpu: usize,
}

impl GuestMemory for Below {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let end = address.checked_add(into.len() as u64);
        let source = end.and_then(|end| self.machine.source(&(address..end)));
        source.is_some_and(|at| self.machine.memory.copy_in(at, into).is_ok())
    }

    fn write(&mut self, address: u64, from: &[u8]) -> bool {
        self.machine.write(address, from)
    }

    fn set_bits(&mut self, address: u64, bits: u8) -> bool {
        // Page 0 is seen through a window of the layer's; no table of a guest lies there.
        if address < PAGE_BYTES || !self.machine.holds(address, 1) {
            return false;
        }
        // SAFETY: admitted.
        unsafe { hardware::set_bits(native(address), bits) };
        true
    }
}

impl Bus for Below {
    fn load(&mut self, address: u64, size: Size) -> u64 {
        let within = address % PAGE_BYTES;
        let traps = self.machine.ways.crb == CrbPlace::Trapped;
        if traps && CRB.contains(&address) {
            count(Counter::Crb);
            return crb_device::read(native(within), width(size));
        }
        if traps && CRB_BUFFER.contains(&address) {
            let mut raw = [0; 8];
            BufferPage.copy_in(native(within), &mut raw[..size as usize]);
            return u64::from_le_bytes(raw);
        }
        if let Some(offset) = self.machine.in_variables(address) {
            count(Counter::Flash);
            return flash::load(self.machine, self.cpu, offset, size as usize);
        }
        if LOCAL_APIC.contains(&address) || IO_APIC.contains(&address) {
            return registers(address).map_or(u64::MAX, |device| device.read32(within).into());
        }
        if let Some((function, offset)) = self.configuration(address) {
            return self.configuration_load(function, offset, size);
        }
        let mut raw = [0; 8];
        if self.read(address, &mut raw[..size as usize]) {
            return u64::from_le_bytes(raw);
        }
        count(Counter::HiddenMemory);
        u64::MAX
    }

    fn store(&mut self, address: u64, size: Size, value: u64) {
        let within = address % PAGE_BYTES;
        let bytes = value.to_le_bytes();
        let low = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let traps = self.machine.ways.crb == CrbPlace::Trapped;
        if traps && CRB.contains(&address) {
            count(Counter::Crb);
            crb_device::write(native(within), width(size), value);
        } else if traps && CRB_BUFFER.contains(&address) {
            BufferPage.copy_out(native(within), &bytes[..size as usize]);
        } else if let Some(offset) = self.machine.in_variables(address) {
            count(Counter::Flash);
            flash::store(self.machine, self.cpu, offset, (size as usize, value));
        } else if LOCAL_APIC.contains(&address) {
            count(Counter::Apic);
            if size == Size::Dword {
                self.local_apic(within, low);
            }
        } else if IO_APIC.contains(&address) {
            count(Counter::Apic);
            self.io_apic(within, low, size);
        } else if let Some((function, offset)) = self.configuration(address) {
            self.configuration_store(function, offset, low, size);
        } else if !self.write(address, &bytes[..size as usize]) {
            count(Counter::HiddenMemory);
        }
    }
}

impl Below {
    fn io_apic(&self, within: u64, value: u32, size: Size) {
        let mut io_apic = self.machine.io_apic.lock();
        if size == Size::Dword
            && io_apic.write(within, value)
            && let Some(mut device) = registers(IO_APIC.start)
        {
            device.write32(within, value);
        }
    }

    fn local_apic(&self, within: u64, value: u32) {
        let Some(mut device) = registers(LOCAL_APIC.start) else { return };
        match local_write(within, value) {
            LocalWrite::Drop => count(Counter::Refused),
            LocalWrite::Pass => device.write32(within, value),
            LocalWrite::Remember(what) => {
                device.write32(within, value);
                let mut addresses = self.machine.addresses.lock();
                match what {
                    Destination::Logical => addresses.logical[self.cpu] = value.to_be_bytes()[0],
                    Destination::Format => addresses.clusters = value >> 28 == 0,
                }
            }
            LocalWrite::Command => {
                let high = device.read32(COMMAND_HIGH);
                let addresses = *self.machine.addresses.lock();
                match command(value, high, self.cpu, &addresses) {
                    Command::Pass => device.write32(within, value),
                    Command::Nothing => count(Counter::Refused),
                    Command::Nmi(targets) => self.each(targets, processors::nmi),
                    Command::Init(targets) => self.each(targets, processors::init),
                    Command::StartUp(targets, page) => {
                        self.each(targets, |cpu| processors::start_up(cpu, page))
                    }
                }
            }
        }
    }

    fn each(&self, targets: Set, act: impl Fn(usize)) {
        for cpu in (0..self.machine.guest_cpus()).filter(|cpu| targets & 1 << cpu != 0) {
            act(cpu);
        }
    }

    /// The function of the root bus, and the register, that lie at an address of the configuration window; a function that nobody has
    /// for other buses.
    fn configuration(&self, address: u64) -> Option<(Option<u8>, u64)> {
        let window = self.machine.configuration.as_ref().filter(|window| window.contains(&address))?;
        let from = address - window.start;
        let function = u8::try_from(from >> 12).ok();
        Some((function, from % PAGE_BYTES))
    }

    fn configuration_load(&self, function: Option<u8>, offset: u64, size: Size) -> u64 {
        let mut value = u64::MAX;
        for n in (0..size as u64).rev() {
            let byte = match (function, u8::try_from(offset + n)) {
                (Some(function), Ok(at)) => {
                    self.machine.configuration_read(function, at).to_le_bytes()[usize::from(at % 4)]
                }
                _ => 0xFF,
            };
            value = value << 8 | u64::from(byte);
        }
        value
    }

    fn configuration_store(&self, function: Option<u8>, offset: u64, value: u32, size: Size) {
        let counted = match (function, u8::try_from(offset), size) {
            (Some(function), Ok(at), Size::Byte | Size::Word | Size::Dword) => {
                self.machine.configuration_write((function, at), value, size as u8)
            }
            _ => false,
        };
        if !counted {
            count(Counter::HiddenPort);
        }
    }
}

fn registers(address: u64) -> Option<Registers> {
    let page = address & !(PAGE_BYTES - 1);
    Registers::at(page..page + PAGE_BYTES)
}

const fn width(size: Size) -> Width {
    match size {
        Size::Byte => Width::Byte,
        Size::Word => Width::Word,
        Size::Dword => Width::Dword,
        Size::Qword => Width::Qword,
    }
}
