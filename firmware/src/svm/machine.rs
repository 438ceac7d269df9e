//! The one machine that all processors of the layer share: maps, fences, and what stands between guest and hardware.

use super::apic::{Addresses, IoApic};
use super::disk;
use super::hardware::{port_in, port_out};
use super::npt::{Npt, NptFault, Table, View};
use super::ports::{self, Configuration, Ports};
use super::vmcb::Fences;
use super::{msr, npt};
use crate::boot::{self, CPUS_MAX, cpus};
use crate::console;
use crate::crb_device;
use crate::crb_private::wants_cancel;
use crate::guest::start::Flash;
use crate::guest_disk::{self, Disk, Hardware};
use crate::memory::{Kind, LAYER, Physical, Reach, Registers, native, overlap};
use crate::pci::{ConfigSpace, Inventory, Refusal};
use crate::policy::{Page, crb_pages, shared_with_host};
use crate::stop::{Stop, stop};
use crate::virtio::DeviceFault;
use crate::virtio::hardware::device_pages;
use crate::wishes::{CrbPlace, Ways};
use core::ops::Range;
use heapless::Vec;
use husk::frontend::crb::Layout;
use spin::{Mutex, MutexGuard, Once};

/// Tables of the nested map: it splits around the layer, the payload, registers and devices' windows.
const TABLES: usize = 48;
/// Ranges that are kept from the guest.
const HIDDEN_MAX: usize = 16;
/// Every local APIC's registers, as processors see them, and the window of messages to all of them.
pub(super) const LOCAL_APIC: Range<u64> = 0xFEE0_0000..0xFEE0_1000;
const LOCAL_APIC_MESSAGES: Range<u64> = 0xFEE0_1000..0xFEF0_0000;
/// The I/O APIC of a PC.
pub(super) const IO_APIC: Range<u64> = 0xFEC0_0000..0xFEC0_1000;
/// The high precision event timer of a PC.
const HPET: Range<u64> = 0xFED0_0000..0xFED0_0400;
/// The registers of the TPM, and its buffer.
pub(super) const CRB: Range<u64> = crb_device::BASE..crb_device::BASE + npt::PAGE_BYTES;
pub(super) const CRB_BUFFER: Range<u64> = CRB.end..CRB.end + npt::PAGE_BYTES;
/// The south bridge and where it says that its power management block is.
const SOUTH_BRIDGE: u8 = 0xF8;
const PMBASE: u8 = 0x40;

static POOL: Mutex<[Table; TABLES]> = Mutex::new([const { Table::EMPTY }; TABLES]);
static GUARDED: Mutex<ports::Permissions> = Mutex::new(ports::Permissions::OPEN);
static IOPM: Mutex<ports::Permissions> = Mutex::new(ports::Permissions::OPEN);
static MSRPM: Mutex<msr::Permissions> = Mutex::new(msr::Permissions::standard());
static MACHINE: Once<Machine> = Once::new();

/// What is shared.
#[derive(Debug)]
pub(super) struct Machine {
    /// What every guest processor runs in.
    pub(super) fences: Fences,
    /// The guest's memory is what this admits, without what is hidden.
    pub(super) memory: Physical,
    pub(super) hidden: Vec<Range<u64>, HIDDEN_MAX>,
    pub(super) configuration: Option<Range<u64>>,
    pub(super) inventory: Mutex<Inventory>,
    pub(super) ports: Mutex<Ports>,
    pub(super) io_apic: Mutex<IoApic>,
    pub(super) addresses: Mutex<Addresses>,
    pub(super) power: u16,
    /// How the guest reaches its TPM.
    pub(super) ways: Ways,
    /// Where its registers are.
    pub(super) crb: Layout,
    /// Its firmware, if it has one of its own.
    pub(super) flash: Option<Flash>,
    /// Where that one's variables are, if they are kept.
    pub(super) variables: Option<Flash>,
    /// What it sees of memory.
    nested: Mutex<Npt<'static>>,
    /// The guest's disk, if it has one.
    pub(super) disk: Option<Mutex<Disk<Hardware>>>,
    /// Which ports exit whatever the guest does.
    pub(super) guarded: &'static ports::Permissions,
    /// Which ports exit.
    pub(super) permissions: Mutex<&'static mut ports::Permissions>,
}

/// What the guest's machine is made by.
#[derive(Clone, Debug)]
pub struct Plan<'p> {
    /// What the guest must not reach besides the layer.
    pub hidden: &'p [Range<u64>],
    /// Where the power management block is.
    pub power: u16,
    /// The processor that is not the guest's.
    pub service: usize,
    /// How the guest reaches its TPM.
    pub ways: Ways,
    /// Where its registers are.
    pub crb: Layout,
    /// The guest's firmware, if it has one of its own.
    pub flash: Option<Flash>,
    /// Where that one's variables are, if they are kept.
    pub variables: Option<Flash>,
}

/// Makes the map and the fences of the guest. Stops the machine if a device could reach the layer.
///
/// # Errors
/// [`DeviceFault`] if the guest's disk is none.
pub fn prepare(memory: Physical, plan: &Plan<'_>) -> Result<(), DeviceFault> {
    let Plan { hidden, power, service, ways, crb, ref flash, ref variables } = *plan;
    let inventory = inventory();
    check_timer();
    let found = u16::try_from(Config.read(SOUTH_BRIDGE, PMBASE) & 0xFF80).unwrap_or(0);
    if found != power {
        stop(Stop::Device, u32::from(power));
    }
    let mut kept: Vec<Range<u64>, HIDDEN_MAX> = Vec::new();
    let pages = hidden.iter().map(|range| range.start & !0xFFF..range.end.next_multiple_of(npt::PAGE_BYTES));
    for range in [LAYER].into_iter().chain(pages).chain(inventory.windows().memory.iter().cloned()) {
        if kept.push(range).is_err() {
            stop(Stop::Device, line!());
        }
    }
    let guarded = leaked(&GUARDED);
    guarded.guard_standard(power);
    if flash.is_some() {
        guarded.guard_configuration();
    }
    for ports in &inventory.windows().ports {
        guarded.guard(ports.clone());
    }
    let iopm = leaked(&IOPM);
    iopm.clone_from(guarded);
    let disk = if inventory.has_disk() { Some(disk::open()?) } else { None };
    let ports = disk.as_ref().and_then(|disk| disk.lock().function.ports());
    ports.into_iter().for_each(|ports| iopm.guard(ports));
    let queue = disk.as_ref().map(|_| guest_disk::pages());
    let crb_pages = crb_pages(ways.crb, &crb);
    for shared in shared_with_host(&crb_pages).chain(&device_pages()).chain(&queue) {
        console::line("husk: on SEV-SNP the host reads from", low(shared.start));
        console::line("husk:   up to", low(shared.end));
    }
    let roms = flash.iter().chain(variables);
    let Ok(nested) = map(&kept, &crb_pages, roms) else { stop(Stop::Bug, line!()) };
    let fences = Fences {
        iopm: core::ptr::from_mut(iopm) as u64,
        msrpm: core::ptr::from_mut(leaked(&MSRPM)) as u64,
        nested_cr3: nested.root(),
    };
    MACHINE.call_once(|| Machine {
        fences,
        memory,
        hidden: kept,
        configuration: inventory.ecam(&mut Config),
        inventory: Mutex::new(inventory),
        ports: Mutex::new(Ports::new(power, configuration_of(flash.as_ref()))),
        io_apic: Mutex::new(IoApic::NEW),
        addresses: Mutex::new(addresses(service)),
        power,
        ways,
        crb,
        flash: flash.clone(),
        variables: variables.clone(),
        nested: Mutex::new(nested),
        disk,
        guarded,
        permissions: Mutex::new(iopm),
    });
    Ok(())
}

/// The machine; `None` before [`prepare`].
#[must_use]
pub(super) fn machine() -> Option<&'static Machine> {
    MACHINE.get()
}

impl Machine {
    /// Whether all of a range is the guest's memory.
    pub(super) fn is_guests(&self, range: &Range<u64>) -> bool {
        self.memory.map().is(Kind::Ram, range) && !self.hidden.iter().any(|hidden| overlap(hidden, range))
    }

    /// Whether so many bytes from an address are the guest's memory.
    pub(super) fn holds(&self, address: u64, bytes: usize) -> bool {
        address.checked_add(bytes as u64).is_some_and(|end| self.is_guests(&(address..end)))
    }

    /// Copies bytes to the guest at `address`; false if that is not all its memory.
    pub(super) fn write(&self, address: u64, from: &[u8]) -> bool {
        let mut memory = self.memory;
        self.holds(address, from.len()) && memory.copy_out(address, from).is_ok()
    }

    /// The ports as they are after a reset, and the disk behind some of them.
    pub(super) fn reset_ports(&self) {
        self.reset_disk();
        *self.ports.lock() = Ports::new(self.power, configuration_of(self.flash.as_ref()));
    }

    /// Where the layer finds what the guest reads at `range`, if it may read it.
    pub(super) fn source(&self, range: &Range<u64>) -> Option<u64> {
        let in_flash = self.flash.as_ref().and_then(|flash| flash.source(range));
        in_flash.or_else(|| self.is_guests(range).then_some(range.start))
    }

    /// Where in the flash with the firmware's variables an address lies, if it does.
    pub(super) fn in_variables(&self, address: u64) -> Option<usize> {
        let window = &self.variables.as_ref()?.window;
        window.contains(&address).then(|| native(address - window.start))
    }

    /// Shows the array of the flash with the firmware's variables to whoever reads, or has reads exit, too. Who had it mapped must forget that.
    pub(super) fn map_variables(&self, shown: bool) {
        let Some(Flash { window, at }) = &self.variables else { return };
        let view = if shown { View::Rom(*at) } else { View::Nothing };
        // Of pages alone, which the first map has split: each entry changes by one store, and at no instant is there another one.
        if self.nested.lock().set(window.clone(), view).is_err() {
            stop(Stop::Bug, line!());
        }
    }

    /// The guest wrote to a CRB in its memory: whoever serves it rests, or is at a command that is to end early.
    pub(super) fn ring(&self) {
        if self.ways.crb == CrbPlace::Private {
            if wants_cancel(&self.memory, &self.crb) {
                crb_device::cancel();
            }
            boot::wake();
        }
    }

    /// How many processors the guest has.
    pub(super) fn guest_cpus(&self) -> usize {
        self.addresses.lock().count
    }
}

const fn configuration_of(flash: Option<&Flash>) -> Configuration {
    if flash.is_some() { Configuration::Layers } else { Configuration::Machines }
}

/// PCI's own mechanism, by ports. Whoever uses it holds the inventory's lock, or runs before the guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Config;

impl Config {
    fn point(function: u8, offset: u8) {
        let address = 1 << 31 | u32::from(function) << 8 | u32::from(offset & !3);
        port_out(ports::CONFIG_ADDRESS, 4, address);
    }
}

impl ConfigSpace for Config {
    fn read(&mut self, function: u8, offset: u8) -> u32 {
        Self::point(function, offset);
        port_in(ports::CONFIG_DATA, 4)
    }

    fn write(&mut self, function: u8, offset: u8, value: u32) {
        Self::point(function, offset);
        port_out(ports::CONFIG_DATA, 4, value);
    }
}

fn inventory() -> Inventory {
    let mut complain = |function: crate::pci::Function| {
        console::line("husk: a device could write memory, at", function.at.into());
        console::line("husk: it calls itself", function.identity);
    };
    match Inventory::take(&mut Config, &mut complain) {
        Ok(inventory) => inventory,
        Err(Refusal::Unguarded(_, identity) | Refusal::UnknownBridge(identity)) => {
            stop(Stop::Device, identity)
        }
        Err(Refusal::Unquenchable(at)) => stop(Stop::Device, at.into()),
        Err(Refusal::TooMany) => stop(Stop::Device, 0),
    }
}

/// A timer that can send its interrupts as writes to memory is refused (HPET 1.0a, section 2.3.8).
fn check_timer() {
    const TIMERS: u64 = 32;
    const CONFIGURATION: u64 = 0x100;
    const WRITES_MEMORY: u32 = 1 << 15;
    let Some(timer) = Registers::at(HPET) else { return };
    let count = u64::from(timer.read32(0) >> 8 & 0x1F) + 1;
    if timer.read32(0) == u32::MAX {
        return;
    }
    for number in 0..count.min(TIMERS) {
        let configuration = timer.read32(CONFIGURATION + 0x20 * number);
        if configuration != u32::MAX && configuration & WRITES_MEMORY != 0 {
            stop(Stop::Device, configuration);
        }
    }
}

/// The nested map.
fn map<'f>(
    hidden: &[Range<u64>],
    crb: &[(Page, Range<u64>)],
    roms: impl Iterator<Item = &'f Flash>,
) -> Result<Npt<'static>, NptFault> {
    let pool = leaked(&POOL);
    let base = pool.as_ptr() as u64;
    let mut npt = Npt::identity(pool, base)?;
    npt.set(IO_APIC, View::ReadOnly)?;
    npt.set(LOCAL_APIC, View::ReadOnly)?;
    npt.set(LOCAL_APIC_MESSAGES, View::Nothing)?;
    for hole in [CRB, CRB_BUFFER] {
        npt.set(hole, View::Nothing)?;
    }
    for (page, range) in crb {
        let instead = (*range == CRB_BUFFER).then(crb_device::buffer_address);
        npt.set(range.clone(), page.view(instead))?;
    }
    for range in hidden {
        npt.set(range.clone(), Page::Layer.view(None))?;
    }
    for flash in roms {
        npt.set(flash.window.clone(), View::Rom(flash.at))?;
    }
    Ok(npt)
}

/// The low half of an address below 4 GiB, where everything of the layer's and every CRB lies.
fn low(address: u64) -> u32 {
    u32::try_from(address).unwrap_or(u32::MAX)
}

fn addresses(service: usize) -> Addresses {
    let mut ids = [0; CPUS_MAX];
    let guests = cpus::ids().iter().enumerate().filter(|(cpu, _)| *cpu != service);
    let mut count = 0;
    for (slot, (_, id)) in ids.iter_mut().zip(guests) {
        *slot = *id;
        count += 1;
    }
    Addresses { ids, count, logical: [0; CPUS_MAX], clusters: false }
}

/// What is made once and lives as long as the machine.
fn leaked<T>(memory: &'static Mutex<T>) -> &'static mut T {
    match memory.try_lock() {
        Some(guard) => MutexGuard::leak(guard),
        None => stop(Stop::Bug, line!()),
    }
}
