//! One start of the guest, from what the host brought to the state of its first processor; again on each reboot.

use super::acpi::{Additions, Tables};
use super::boot_params::{DESCRIPTORS, DESCRIPTORS_LIMIT, ZERO_PAGE_BYTES, zero_page};
use super::bzimage::{FRONT_BYTES, Header};
use super::files::{File, Files};
use super::log::Log;
use super::map::Map;
use super::measure::{Facts, Firmware, measure, start_up};
use super::payload::{Extent, HEADER_BYTES, Part, Shape};
use super::place::{LOG_BYTES, Place};
use super::uefi::{FLASH_END, Handover, Told};
use super::{CHUNK_BYTES, GuestFault, piece};
use crate::crb_device;
use crate::fw_cfg::{self, Cabinet};
use crate::memory::Reach;
use crate::wishes::CrbPlace;
use core::ops::Range;
use husk::attest::launch::CONFIG_BYTES_MAX;
use husk::frontend::Tpm;
use husk::frontend::acpi::EventLog;
use husk::frontend::crb::Layout;

/// The longest command line in bytes.
const COMMAND_LINE_BYTES_MAX: usize = 2047;

/// What the firmware knows of the machine before a guest starts.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its memory.
    pub map: Map,
    /// Where its RSDP is.
    pub rsdp_at: u64,
    /// The firmware's own memory.
    pub layer: Range<u64>,
    /// Where the payload begins: [`PAYLOAD_AT`](super::payload::PAYLOAD_AT).
    pub payload_at: u64,
    /// The APIC number of the processor that serves.
    pub hidden_apic: u32,
    /// How many processors the guest has.
    pub guest_cpus: u32,
    /// Where the TPM's registers are.
    pub crb: CrbPlace,
}

/// Where the first processor begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// In a kernel.
    Kernel(Entry),
    /// At the reset vector, in the guest's own firmware.
    ResetVector,
}

/// A part of the guest's flash: its firmware, or that one's variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flash {
    /// Where the guest finds it.
    pub window: Range<u64>,
    /// Where it lies, out of everybody's reach.
    pub at: u64,
}

impl Flash {
    /// Where the bytes lie that the guest finds at `range`, if all of them are in its flash.
    #[must_use]
    pub fn source(&self, range: &Range<u64>) -> Option<u64> {
        let within =
            self.window.start <= range.start && range.start <= range.end && range.end <= self.window.end;
        within.then(|| self.at + (range.start - self.window.start))
    }
}

/// The first processor's registers at Linux' 32-bit entry: protected mode, no paging, flat segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// EIP.
    pub eip: u32,
    /// ESI: the zero page.
    pub esi: u32,
    /// Base of the GDT.
    pub descriptors_at: u32,
    /// Limit of the GDT: its size in bytes, less one.
    pub descriptors_limit: u16,
}

/// Proof that a start was measured: nothing is loaded without.
#[must_use]
#[derive(Debug)]
pub struct Measured(());

/// The memory that a guest's description is made in: 80 KiB, too much to be moved over a stack.
#[derive(Debug)]
pub struct Description {
    tables: Tables,
    log: Log,
}

impl Description {
    /// Nothing described yet.
    #[must_use]
    pub const fn empty() -> Self {
        Self { tables: Tables::empty(), log: Log::empty() }
    }
}

/// A guest that can be started, any number of times.
#[derive(Debug)]
pub struct Guest<'m> {
    machine: Machine,
    shape: Shape,
    way: Way,
    described: bool,
    description: &'m mut Description,
}

/// What a guest begins with.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of them, and no heap to put it on")]
enum Way {
    /// A kernel, all of whose surroundings are made here.
    Kernel(Header, Place),
    /// A firmware of its own, which makes them.
    Firmware(Told),
}

impl<'m> Guest<'m> {
    /// Reads the payload's and the kernel's header, and finds a place for everything; `description` is filled at the first start.
    ///
    /// # Errors
    /// A [`GuestFault`] that names what does not fit.
    pub fn plan(
        ram: &dyn Reach,
        machine: Machine,
        description: &'m mut Description,
    ) -> Result<Self, GuestFault> {
        let mut header = [0; HEADER_BYTES];
        ram.copy_in(machine.payload_at, &mut header).map_err(|_| GuestFault::PayloadMalformed)?;
        let shape = Shape::parse(&header)?;
        let way = if shape.part(Part::Firmware).bytes > 0 {
            Way::firmware(&machine, &shape)?
        } else {
            Way::kernel(ram, &machine, &shape)?
        };
        Ok(Self { machine, shape, way, described: false, description })
    }

    /// The guest's flash, if it has a firmware of its own.
    #[must_use]
    pub fn flash(&self) -> Option<Flash> {
        let extent = self.shape.part(Part::Firmware);
        let flash = Flash { window: FLASH_END - extent.bytes..FLASH_END, at: self.at(extent) };
        matches!(self.way, Way::Firmware(_)).then_some(flash)
    }

    /// The flash with the firmware's variables, right below the firmware, if there is one.
    #[must_use]
    pub fn variables(&self) -> Option<Flash> {
        let extent = self.shape.part(Part::Variables);
        let end = self.flash()?.window.start;
        (extent.bytes > 0).then(|| Flash { window: end - extent.bytes..end, at: self.at(extent) })
    }

    /// What the guest must not reach: the firmware's memory and the payload.
    #[must_use]
    pub fn hidden(&self) -> [Range<u64>; 2] {
        hidden(&self.machine, &self.shape)
    }

    /// Where the kernel's, the initrd's and the firmware's file are. The payload is out of everybody's reach, so one look at them is enough.
    #[must_use]
    pub fn files(&self) -> Files {
        Files::new([Part::Kernel, Part::Initrd, Part::Firmware].map(|part| self.range(part)))
    }

    /// The launch configuration's bytes, as the host brought them.
    ///
    /// # Errors
    /// [`GuestFault::OutOfRange`], which the plan rules out.
    pub fn config<'b>(
        &self,
        ram: &dyn Reach,
        into: &'b mut [u8; CONFIG_BYTES_MAX],
    ) -> Result<&'b [u8], GuestFault> {
        self.small(ram, Part::Config, into)
    }

    /// Starts the TPM up, and measures what [`load`](Self::load) will load.
    ///
    /// The TPM has just been powered on or reset; `launch_measurement` is what this VM's own report states, `files` what
    /// [`files`](Self::files) said.
    ///
    /// # Errors
    /// A [`GuestFault`]; the guest must not run then.
    pub fn measure(
        &mut self,
        ram: &dyn Reach,
        tpm: &mut dyn Tpm,
        launch_measurement: &[u8; 48],
        files: &Files,
    ) -> Result<Measured, GuestFault> {
        if !self.described {
            self.describe(ram)?;
            self.described = true;
        }
        let banks = start_up(tpm)?;
        let kernel = files.digests(ram, File::Kernel, &banks)?;
        let initrd = files.digests(ram, File::Initrd, &banks)?;
        let (mut config, mut command_line) = ([0; CONFIG_BYTES_MAX], [0; COMMAND_LINE_BYTES_MAX]);
        let config = self.small(ram, Part::Config, &mut config)?;
        let command_line = self.small(ram, Part::CommandLine, &mut command_line)?;
        let firmware_file = files.digests(ram, File::Firmware, &banks)?;
        let firmware = self.flash().map(|flash| Firmware {
            file: &firmware_file,
            base: flash.window.start,
            bytes: flash.window.end - flash.window.start,
            has_kernel: self.shape.part(Part::Kernel).bytes > 0,
        });
        let guest_bytes = match &self.way {
            Way::Kernel(_, place) => place.map.usable_bytes(),
            Way::Firmware(told) => told.usable_bytes(),
        };
        let Description { tables, log } = &mut *self.description;
        let facts = Facts {
            version: concat!("husk ", env!("CARGO_PKG_VERSION")),
            launch_measurement,
            guest_cpus: self.machine.guest_cpus,
            guest_bytes,
            tables: tables.bytes(),
            config,
            command_line,
            kernel: &kernel,
            initrd: &initrd,
            firmware,
        };
        measure(tpm, &banks, log, &facts)?;
        Ok(Measured(()))
    }

    /// Copies everything to its place, and says where the guest begins.
    ///
    /// # Errors
    /// A [`GuestFault`]; the guest must not run then.
    pub fn load(
        &self,
        ram: &mut dyn Reach,
        cabinet: &mut Cabinet,
        _measured: Measured,
    ) -> Result<Begin, GuestFault> {
        let (kernel, place) = match &self.way {
            Way::Kernel(kernel, place) => (kernel, place),
            Way::Firmware(told) => {
                self.hand_over(ram, told, cabinet)?;
                return Ok(Begin::ResetVector);
            }
        };
        self.place_all(ram, kernel, place)?;
        let register = |at| u32::try_from(at).map_err(|_| GuestFault::NoRoom);
        Ok(Begin::Kernel(Entry {
            eip: register(place.kernel_at)?,
            esi: register(place.boot_params_at)?,
            descriptors_at: register(place.descriptors_at)?,
            descriptors_limit: DESCRIPTORS_LIMIT,
        }))
    }

    /// What a firmware reads by its configuration device.
    fn hand_over(&self, ram: &dyn Reach, told: &Told, cabinet: &mut Cabinet) -> Result<(), GuestFault> {
        let mut command_line = [0; COMMAND_LINE_BYTES_MAX];
        let command_line = self.small(ram, Part::CommandLine, &mut command_line)?;
        let (file, initrd) = (self.range(Part::Kernel), self.range(Part::Initrd));
        let kernel = (!file.is_empty()).then_some(fw_cfg::Kernel { file, initrd, command_line });
        let Description { tables, log } = &*self.description;
        Handover {
            processors: self.machine.guest_cpus,
            told,
            tables,
            log: log.bytes(),
            kernel: kernel.as_ref(),
        }
        .fill(cabinet)
    }

    /// Where the TPM's registers are.
    ///
    /// # Errors
    /// [`GuestFault::OutOfRange`], which the plan rules out.
    pub fn crb(&self) -> Result<Layout, GuestFault> {
        let base = match (self.machine.crb, &self.way) {
            (CrbPlace::Private, Way::Kernel(_, place)) => place.crb.start,
            (CrbPlace::Trapped, _) | (_, Way::Firmware(_)) => crb_device::BASE,
        };
        crb_device::layout(base).map_err(|_| GuestFault::OutOfRange)
    }

    /// Makes the tables, once: what the machine's own say after a guest ran is the guest's word.
    fn describe(&mut self, ram: &dyn Reach) -> Result<(), GuestFault> {
        let (log, base) = match &self.way {
            Way::Kernel(_, place) => {
                (Some(EventLog { address: place.log.start, area_bytes: LOG_BYTES }), place.tables.start)
            }
            Way::Firmware(_) => (None, 0),
        };
        let (hidden_apic, crb) = (self.machine.hidden_apic, self.crb()?);
        let additions = Additions { hidden_apic, crb, log };
        self.description.tables.build(ram, self.machine.rsdp_at, base, &additions)
    }

    fn place_all(&self, ram: &mut dyn Reach, header: &Header, place: &Place) -> Result<(), GuestFault> {
        let [kernel, initrd] = [Part::Kernel, Part::Initrd].map(|part| self.shape.part(part));
        ram.carry(self.at(kernel) + header.code_offset, place.kernel_at, header.code_bytes)?;
        ram.carry(self.at(initrd), place.initrd_at, initrd.bytes)?;
        let mut command_line = [0; COMMAND_LINE_BYTES_MAX + 1];
        let bytes = self.small(ram, Part::CommandLine, &mut command_line)?.len();
        ram.copy_out(place.command_line_at, &command_line[..=bytes])?;
        let mut page = [0; ZERO_PAGE_BYTES];
        zero_page(header, place, initrd.bytes, &mut page)?;
        ram.copy_out(place.boot_params_at, &page)?;
        for (descriptor, at) in DESCRIPTORS.iter().zip((place.descriptors_at..).step_by(8)) {
            ram.copy_out(at, &descriptor.to_le_bytes())?;
        }
        fill(ram, &place.tables, self.description.tables.bytes())?;
        fill(ram, &place.log, self.description.log.bytes())?;
        fill(ram, &place.crb, &[])
    }

    /// Copies a part that fits a buffer.
    fn small<'b>(&self, ram: &dyn Reach, part: Part, into: &'b mut [u8]) -> Result<&'b [u8], GuestFault> {
        let extent = self.shape.part(part);
        let bytes = usize::try_from(extent.bytes).map_err(|_| GuestFault::OutOfRange)?;
        let into = into.get_mut(..bytes).ok_or(GuestFault::OutOfRange)?;
        ram.copy_in(self.at(extent), into)?;
        Ok(into)
    }

    /// Where a part lies.
    fn range(&self, part: Part) -> Range<u64> {
        let extent = self.shape.part(part);
        self.at(extent)..self.at(extent) + extent.bytes
    }

    const fn at(&self, extent: Extent) -> u64 {
        self.machine.payload_at + extent.offset
    }
}

impl Way {
    fn kernel(ram: &dyn Reach, machine: &Machine, shape: &Shape) -> Result<Self, GuestFault> {
        let file = shape.part(Part::Kernel);
        let mut front = [0; FRONT_BYTES];
        ram.copy_in(machine.payload_at + file.offset, &mut front)?;
        let kernel = Header::parse(&front, file.bytes)?;
        if shape.part(Part::CommandLine).bytes > kernel.command_line_bytes_max {
            return Err(GuestFault::CommandLineTooLong);
        }
        let crb_bytes = match machine.crb {
            CrbPlace::Trapped => 0,
            CrbPlace::Private => crb_device::WINDOW_BYTES,
        };
        let initrd_bytes = shape.part(Part::Initrd).bytes;
        let place = Place::find(&machine.map, &hidden(machine, shape), &kernel, initrd_bytes, crb_bytes)?;
        Ok(Self::Kernel(kernel, place))
    }

    fn firmware(machine: &Machine, shape: &Shape) -> Result<Self, GuestFault> {
        match machine.crb {
            CrbPlace::Trapped => Told::find(&machine.map, &hidden(machine, shape)).map(Self::Firmware),
            CrbPlace::Private => Err(GuestFault::FirmwareUnserved),
        }
    }
}

fn hidden(machine: &Machine, shape: &Shape) -> [Range<u64>; 2] {
    [machine.layer.clone(), machine.payload_at..machine.payload_at + shape.bytes()]
}

/// Writes `bytes` to the front of `area` and zeros to the rest.
fn fill(ram: &mut dyn Reach, area: &Range<u64>, bytes: &[u8]) -> Result<(), GuestFault> {
    ram.copy_out(area.start, bytes)?;
    let mut at = area.start + bytes.len() as u64;
    while at < area.end {
        let zeros = &mut [0; CHUNK_BYTES];
        let zeros = piece(zeros, area.end - at);
        ram.copy_out(at, zeros)?;
        at += zeros.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
#[path = "tests/start.rs"]
mod tests;
