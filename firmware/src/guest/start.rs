//! One start of the guest, from what the host brought to the state of its first processor; again on each reboot.

use super::acpi::{Additions, Tables};
use super::boot_params::{DESCRIPTORS, DESCRIPTORS_LIMIT, ZERO_PAGE_BYTES, zero_page};
use super::bzimage::{FRONT_BYTES, Header};
use super::files::{File, Files};
use super::log::Log;
use super::map::Map;
use super::measure::{Facts, measure, start_up};
use super::payload::{Extent, HEADER_BYTES, Part, Shape};
use super::place::{LOG_BYTES, Place};
use super::{CHUNK_BYTES, GuestFault, copy, piece};
use crate::crb_device;
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
    kernel: Header,
    place: Place,
    described: bool,
    description: &'m mut Description,
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
        let file = shape.part(Part::Kernel);
        let mut front = [0; FRONT_BYTES];
        ram.copy_in(machine.payload_at + file.offset, &mut front)?;
        let kernel = Header::parse(&front, file.bytes)?;
        if shape.part(Part::CommandLine).bytes > kernel.command_line_bytes_max {
            return Err(GuestFault::CommandLineTooLong);
        }
        let hidden = hidden(&machine, &shape);
        let crb_bytes = match machine.crb {
            CrbPlace::Trapped => 0,
            CrbPlace::Private => crb_device::WINDOW_BYTES,
        };
        let place = Place::find(&machine.map, &hidden, &kernel, shape.part(Part::Initrd).bytes, crb_bytes)?;
        Ok(Self { machine, shape, kernel, place, described: false, description })
    }

    /// What the guest must not reach: the firmware's memory and the payload.
    #[must_use]
    pub fn hidden(&self) -> [Range<u64>; 2] {
        hidden(&self.machine, &self.shape)
    }

    /// Where the kernel's and the initrd's file are. The payload is out of everybody's reach, so one look at them is enough.
    #[must_use]
    pub fn files(&self) -> Files {
        Files::new([Part::Kernel, Part::Initrd].map(|part| {
            let extent = self.shape.part(part);
            self.at(extent)..self.at(extent) + extent.bytes
        }))
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
        let Description { tables, log } = &mut *self.description;
        let facts = Facts {
            version: concat!("husk ", env!("CARGO_PKG_VERSION")),
            launch_measurement,
            guest_cpus: self.machine.guest_cpus,
            guest_bytes: self.place.map.usable_bytes(),
            tables: tables.bytes(),
            config,
            command_line,
            kernel: &kernel,
            initrd: &initrd,
        };
        measure(tpm, &banks, log, &facts)?;
        Ok(Measured(()))
    }

    /// Copies everything to its place, and says where the guest begins.
    ///
    /// # Errors
    /// A [`GuestFault`]; the guest must not run then.
    pub fn load(&self, ram: &mut dyn Reach, _measured: Measured) -> Result<Entry, GuestFault> {
        self.place_all(ram)?;
        let register = |at| u32::try_from(at).map_err(|_| GuestFault::NoRoom);
        Ok(Entry {
            eip: register(self.place.kernel_at)?,
            esi: register(self.place.boot_params_at)?,
            descriptors_at: register(self.place.descriptors_at)?,
            descriptors_limit: DESCRIPTORS_LIMIT,
        })
    }

    /// Where the TPM's registers are.
    ///
    /// # Errors
    /// [`GuestFault::OutOfRange`], which the plan rules out.
    pub fn crb(&self) -> Result<Layout, GuestFault> {
        let base = match self.machine.crb {
            CrbPlace::Trapped => crb_device::BASE,
            CrbPlace::Private => self.place.crb.start,
        };
        crb_device::layout(base).map_err(|_| GuestFault::OutOfRange)
    }

    /// Makes the tables, once: what the machine's own say after a guest ran is the guest's word.
    fn describe(&mut self, ram: &dyn Reach) -> Result<(), GuestFault> {
        let log = EventLog { address: self.place.log.start, area_bytes: LOG_BYTES };
        let (hidden_apic, crb) = (self.machine.hidden_apic, self.crb()?);
        let additions = Additions { hidden_apic, crb, log };
        self.description.tables.build(ram, self.machine.rsdp_at, self.place.tables.start, &additions)
    }

    fn place_all(&self, ram: &mut dyn Reach) -> Result<(), GuestFault> {
        let place = &self.place;
        let [kernel, initrd] = [Part::Kernel, Part::Initrd].map(|part| self.shape.part(part));
        copy(ram, self.at(kernel) + self.kernel.code_offset, place.kernel_at, self.kernel.code_bytes)?;
        copy(ram, self.at(initrd), place.initrd_at, initrd.bytes)?;
        let mut command_line = [0; COMMAND_LINE_BYTES_MAX + 1];
        let bytes = self.small(ram, Part::CommandLine, &mut command_line)?.len();
        ram.copy_out(place.command_line_at, &command_line[..=bytes])?;
        let mut page = [0; ZERO_PAGE_BYTES];
        zero_page(&self.kernel, place, initrd.bytes, &mut page)?;
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

    const fn at(&self, extent: Extent) -> u64 {
        self.machine.payload_at + extent.offset
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
