//! Laws of a start: everything at its place, and a reboot finds what the host brought.

use super::{Begin, Description, Guest, Machine, Way};
use crate::fw_cfg::Cabinet;
use crate::guest::GuestFault;
use crate::guest::acpi::tests::{RSDP_AT, write_machine};
use crate::guest::bzimage::tests::front;
use crate::guest::fakes::Memory;
use crate::guest::map::{Map, Region, USABLE};
use crate::guest::measure::tests::{ALL, Pcrs};
use crate::guest::payload::{PAGE_BYTES, Part, Shape};
use crate::memory::Reach;
use crate::wishes::CrbPlace;
use std::ops::Range;
use std::vec;
use std::vec::Vec;

const MEMORY_BYTES: usize = 80 << 20;
const LAYER: Range<u64> = 0x380_0000..0x400_0000;
const PAYLOAD_AT: u64 = 0x480_0000;
const INITRD: [u8; 5000] = [0x1D; 5000];
const VARIABLES: [u8; 0x1000] = [0x7A; 0x1000];
const COMMAND_LINE: &[u8] = b"console=ttyS0 panic=-1";

fn kernel() -> Vec<u8> {
    let mut kernel = front().to_vec();
    kernel.resize(0x9000, 0xC0);
    kernel
}

fn payload() -> Vec<u8> {
    payload_with(&[])
}

fn payload_with(firmware: &[u8]) -> Vec<u8> {
    let kernel = kernel();
    let parts = [
        &kernel[..],
        &INITRD,
        COMMAND_LINE,
        b"config",
        firmware,
        &VARIABLES[..firmware.len().min(1) * 0x1000],
    ];
    let shape = Shape::of(parts.map(|part| part.len() as u64)).unwrap();
    let mut blob = shape.header().to_vec();
    for (part, bytes) in Part::ALL.into_iter().zip(parts) {
        blob.resize(usize::try_from(shape.part(part).offset).unwrap(), 0);
        blob.extend(bytes);
    }
    blob.resize(usize::try_from(shape.bytes()).unwrap(), 0);
    blob
}

fn booted() -> (Memory, Machine) {
    let mut memory = Memory::of(MEMORY_BYTES);
    write_machine(&mut memory);
    let payload = payload();
    memory.copy_out(PAYLOAD_AT, &payload).unwrap();
    let region = |start, end| Region { start, end, kind: USABLE };
    let machine = Machine {
        map: Map::of([region(0x8000, 0x9_F000), region(0x10_0000, MEMORY_BYTES as u64)]).unwrap(),
        rsdp_at: RSDP_AT,
        layer: LAYER,
        payload_at: PAYLOAD_AT,
        hidden_apic: 1,
        guest_cpus: 2,
        crb: CrbPlace::Private,
    };
    (memory, machine)
}

fn place<'g>(guest: &'g Guest<'_>) -> &'g crate::guest::place::Place {
    match &guest.way {
        Way::Kernel(_, place) => place,
        Way::Firmware(_) => panic!("there is no firmware"),
    }
}

fn started(guest: &mut Guest<'_>, memory: &mut Memory) -> (Begin, Vec<Vec<u8>>, Pcrs) {
    let mut tpm = Pcrs::with(&ALL);
    let files = guest.files();
    let measured = guest.measure(memory, &mut tpm, &[7; 48], &files).unwrap();
    let mut cabinet = std::boxed::Box::new(Cabinet::empty());
    let entry = guest.load(memory, &mut cabinet, measured).unwrap();
    let place = place(guest);
    let area = |at: u64, bytes: usize| {
        let mut content = vec![0; bytes];
        memory.copy_in(at, &mut content).unwrap();
        content
    };
    let content = vec![
        area(place.kernel_at, 0x9000 - 1024),
        area(place.initrd_at, INITRD.len()),
        area(place.command_line_at, COMMAND_LINE.len() + 1),
        area(place.boot_params_at, 4096),
        area(place.descriptors_at, 32),
        area(place.tables.start, 0x1_0000),
        area(place.log.start, 0x1_0000),
        area(place.crb.start, 0x2000),
    ];
    (entry, content, tpm)
}

#[test]
fn everything_is_at_its_place() {
    let (mut memory, machine) = booted();
    let mut description = Description::empty();
    let mut guest = Guest::plan(&memory, machine, &mut description).unwrap();
    let (entry, content, _) = started(&mut guest, &mut memory);
    assert_eq!(content[0], kernel()[1024..]);
    assert_eq!(u64::from(guest.crb().unwrap().base()), place(&guest).crb.start, "the tables say where it is");
    assert_eq!(content[1], INITRD);
    assert_eq!(content[2], [COMMAND_LINE, b"\0"].concat());
    let Begin::Kernel(entry) = entry else { panic!("it begins in its kernel") };
    assert_eq!(u64::from(entry.eip), place(&guest).kernel_at);
    assert_eq!(u64::from(entry.esi), place(&guest).boot_params_at);
    let mut config = [0; husk::attest::launch::CONFIG_BYTES_MAX];
    assert_eq!(guest.config(&memory, &mut config), Ok(&b"config"[..]));
}

/// The guest overwrites all it can reach, the machine's own ACPI tables among it, and reboots.
#[test]
fn a_reboot_finds_what_the_host_brought_and_not_what_the_guest_left() {
    let (mut memory, machine) = booted();
    let mut description = Description::empty();
    let mut guest = Guest::plan(&memory, machine, &mut description).unwrap();
    let first = started(&mut guest, &mut memory);
    let hidden = guest.hidden();
    for page in (0..MEMORY_BYTES as u64).step_by(4096) {
        if !hidden.iter().any(|range| range.contains(&page)) {
            memory.copy_out(page, &[0xEE; 4096]).unwrap();
        }
    }
    let second = started(&mut guest, &mut memory);
    assert!((first.0, first.1) == (second.0, second.1) && first.2.values == second.2.values);
}

/// The memory below the layer of these tests is less than a firmware wants, so it begins where this machine's would end.
#[test]
fn a_firmware_begins_at_the_reset_vector_with_its_file_below_4_gib() {
    let (mut memory, machine) = booted();
    let firmware = vec![0xF0; 0x3000];
    memory.copy_out(PAYLOAD_AT, &payload_with(&firmware)).unwrap();
    let roomy = Machine { layer: 0x400_0000..0x440_0000, crb: CrbPlace::Trapped, ..machine };
    let refused = |machine: Machine| Guest::plan(&memory, machine, &mut Description::empty()).map(|_| ());
    assert_eq!(
        refused(Machine { crb: CrbPlace::Private, ..roomy.clone() }),
        Err(GuestFault::FirmwareUnserved)
    );
    assert_eq!(refused(Machine { layer: LAYER, ..roomy.clone() }), Err(GuestFault::NoRoom));
    let mut description = Description::empty();
    let mut guest = Guest::plan(&memory, roomy, &mut description).unwrap();
    let flash = guest.flash().unwrap();
    assert_eq!(flash.window, 0xFFFF_D000..0x1_0000_0000);
    let variables = guest.variables().unwrap();
    assert_eq!(variables.window, 0xFFFF_C000..0xFFFF_D000, "right below it");
    let mut content = VARIABLES;
    content.fill(0);
    memory.copy_in(variables.at, &mut content).unwrap();
    assert_eq!(content, VARIABLES);
    let mut first = [0; 1];
    memory.copy_in(flash.source(&(0xFFFF_FFFF..0x1_0000_0000)).unwrap(), &mut first).unwrap();
    assert_eq!(first, [0xF0]);
    for range in [0xFFFF_CFFF..0xFFFF_E000, 0xFFFF_F000..0x1_0000_0001, 0..1] {
        assert_eq!(flash.source(&range), None, "{range:x?}");
    }
    assert!(guest.hidden().iter().any(|range| range.contains(&flash.at)), "no guest reaches the file itself");
    let mut tpm = Pcrs::with(&ALL);
    let files = guest.files();
    let measured = guest.measure(&memory, &mut tpm, &[7; 48], &files).unwrap();
    let mut cabinet = std::boxed::Box::new(Cabinet::empty());
    assert_eq!(guest.load(&mut memory, &mut cabinet, measured), Ok(Begin::ResetVector));
    let mut kernel = [0; 4];
    cabinet.select(0x11);
    cabinet.read(&memory, &mut kernel);
    assert_eq!(kernel, front()[..4]);
}

/// TPM2_PCR_Allocate takes effect at a reset: a bank that is new must not be left to the guest.
#[test]
fn a_bank_that_was_activated_before_a_reboot_is_measured_into_like_any_other() {
    let (memory, machine) = booted();
    let mut description = Description::empty();
    let mut guest = Guest::plan(&memory, machine, &mut description).unwrap();
    let files = guest.files();
    let mut measured_into = |active: &[(u16, [u8; 3])]| {
        let mut tpm = Pcrs::with(active);
        let _measured = guest.measure(&memory, &mut tpm, &[7; 48], &files).unwrap();
        tpm.values
    };
    let first = measured_into(&ALL[1..2]);
    let second = measured_into(&ALL);
    for pcr in [4, 9] {
        assert_eq!(first[&(pcr, 0xB)], second[&(pcr, 0xB)]);
        assert!([4, 0xB, 0xC, 0xD].iter().all(|bank| second.contains_key(&(pcr, *bank))), "PCR {pcr}");
    }
}

#[test]
fn a_payload_that_is_not_one_starts_nothing() {
    let (memory, machine) = booted();
    let with = |at: u64, byte: u8| {
        let mut memory = memory.clone();
        memory.copy_out(PAYLOAD_AT + at, &[byte]).unwrap();
        Guest::plan(&memory, machine.clone(), &mut Description::empty()).map(|_| ())
    };
    assert_eq!(with(0, 0), Err(GuestFault::PayloadMalformed));
    assert_eq!(with(19, 0x10), Err(GuestFault::PayloadMalformed));
    assert_eq!(with(PAGE_BYTES + 0x202, 0), Err(GuestFault::KernelMalformed));
    assert_eq!(with(PAGE_BYTES + 0x238, 5).and(with(PAGE_BYTES + 0x239, 0)), Ok(()));
    let mut memory = memory.clone();
    memory.copy_out(PAYLOAD_AT + PAGE_BYTES + 0x238, &[5, 0]).unwrap();
    assert_eq!(
        Guest::plan(&memory, machine.clone(), &mut Description::empty()).map(|_| ()),
        Err(GuestFault::CommandLineTooLong)
    );
    let beyond = Machine { payload_at: 1 << 40, ..machine };
    assert_eq!(
        Guest::plan(&memory, beyond, &mut Description::empty()).map(|_| ()),
        Err(GuestFault::PayloadMalformed)
    );
}
