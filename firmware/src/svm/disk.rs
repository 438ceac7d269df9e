//! A guest's accesses to its disk, and to PCI's configuration, of which it is a part.

use super::counters::{Counter, count};
use super::machine::{Config, Machine};
use super::ports::Access;
use super::processors;
use crate::clock::now_ms;
use crate::guest_disk::{self, Disk, Hardware, Memory};
use crate::memory::Reach;
use crate::pci::{self, ConfigSpace};
use crate::stop;
use crate::virtio::{DeviceFault, GUEST_DISK_SLOT};
use core::hint::spin_loop;
use core::ops::Range;
use spin::{Mutex, MutexGuard};

const FUNCTION: u8 = GUEST_DISK_SLOT.0 << 3;
/// PCI's registers of command and of interrupts.
const COMMAND: u8 = 0x04;
const INTERRUPT: u8 = 0x3C;
/// The host's device decodes memory and masters the bus, with its interrupts or without.
const COMMAND_RUNS: u32 = 0b110;
const COMMAND_NO_INTX: u32 = 1 << 10;
/// How long a guest that polls is kept from doing so itself.
const POLL_MS_MAX: u64 = 30_000;

/// The guest's disk; the host's device interrupts from now on.
pub(super) fn open() -> Result<Mutex<Disk<Hardware>>, DeviceFault> {
    let (hardware, mut about) = guest_disk::open()?;
    about.interrupt = Config.read(FUNCTION, INTERRUPT);
    Config.write(FUNCTION, COMMAND, COMMAND_RUNS);
    Ok(Mutex::new(Disk::new(hardware, about)))
}

/// The disk for this processor alone; it may be another's for as long as that one polls.
fn taken(disk: &Mutex<Disk<Hardware>>) -> MutexGuard<'_, Disk<Hardware>> {
    loop {
        if let Some(taken) = disk.try_lock() {
            return taken;
        }
        stop::halt_if_stopping();
        spin_loop();
    }
}

/// The guest's memory as a device may reach it.
struct Ram<'m>(&'m Machine);

impl Memory for Ram<'_> {
    fn is_guests(&self, range: &Range<u64>) -> bool {
        self.0.is_guests(range)
    }

    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        self.0.holds(address, into.len()) && self.0.memory.copy_in(address, into).is_ok()
    }

    fn write(&mut self, address: u64, from: &[u8]) -> bool {
        self.0.write(address, from)
    }
}

impl Machine {
    /// What comes of an access to one of the disk's ports; nothing for any other port. Where the layer answers for a port already, the guest moves its disk there in vain.
    pub(super) fn disk_access(&self, cpu: usize, access: Access, written: u32) -> Option<u32> {
        if self.guarded.exits(access.port) {
            return None;
        }
        let mut disk = taken(self.disk.as_ref()?);
        let port = disk.function.offset(access.port)?;
        count(Counter::Disk);
        let mut ram = Ram(self);
        let found = if access.reads {
            disk.read(port, access.bytes, &mut ram)
        } else {
            let mailbox = processors::mailbox(cpu);
            let deadline_ms = now_ms().saturating_add(POLL_MS_MAX);
            let mut goes_on = || {
                stop::halt_if_stopping();
                !mailbox.ends_a_life() && now_ms() < deadline_ms
            };
            disk.write(port, (access.bytes, written), &mut ram, &mut goes_on).then_some(u32::MAX)
        };
        if found.is_none() {
            count(Counter::HiddenPort);
        }
        Some(found.unwrap_or(u32::MAX))
    }

    /// What the guest reads of a register of PCI's configuration.
    pub(super) fn configuration_read(&self, function: u8, offset: u8) -> u32 {
        match &self.disk {
            Some(disk) if function == FUNCTION => taken(disk).function.read(offset & !3),
            _ => self.inventory.lock().read(&mut Config, function, offset),
        }
    }

    /// Writes `bytes` bytes of configuration, as far as the guest may. Returns whether all of it counted.
    pub(super) fn configuration_write(&self, (function, at): (u8, u8), value: u32, bytes: u8) -> bool {
        let lane = at % 4;
        if lane + bytes > 4 {
            return false;
        }
        let mask = (u32::MAX >> (32 - 8 * u32::from(bytes))) << (8 * lane);
        let value = value << (8 * lane);
        let inventory = self.inventory.lock();
        match &self.disk {
            Some(disk) if function == FUNCTION => {
                self.change_disk(&inventory, &mut taken(disk), |disk| disk.configure(at & !3, value, mask))
            }
            _ => inventory.write(&mut Config, (function, at), value, mask),
        }
    }

    /// The machine is reset, and its disk with it.
    pub(super) fn reset_disk(&self) {
        if let Some(disk) = &self.disk {
            let inventory = self.inventory.lock();
            self.change_disk(&inventory, &mut taken(disk), Disk::reset);
        }
    }

    /// Has ports and interrupts follow what PCI shows of the disk. Whoever calls has PCI's own mechanism for itself.
    fn change_disk<T>(
        &self,
        _: &pci::Inventory,
        disk: &mut Disk<Hardware>,
        change: impl FnOnce(&mut Disk<Hardware>) -> T,
    ) -> T {
        let before = disk.function;
        let changed = change(disk);
        if disk.function.ports() != before.ports() {
            let mut permissions = self.permissions.lock();
            for port in before.ports().into_iter().flatten().filter(|port| !self.guarded.exits(*port)) {
                permissions.open(port..=port);
            }
            disk.function.ports().into_iter().for_each(|ports| permissions.guard(ports));
        }
        if disk.function.is_silent() != before.is_silent() {
            let silence = if disk.function.is_silent() { COMMAND_NO_INTX } else { 0 };
            Config.write(FUNCTION, COMMAND, COMMAND_RUNS | silence);
        }
        changed
    }
}
