//! Laws of what a firmware is handed: its memory ends where the layer begins, and its tables can be placed anywhere.

use super::{FLASH_END, Handover, LOG_SIGNATURE, Told};
use crate::fw_cfg::{Cabinet, Kernel};
use crate::guest::GuestFault;
use crate::guest::acpi::Tables;
use crate::guest::acpi::tests::{RSDP_AT, additions, write_machine};
use crate::guest::fakes::Memory;
use crate::guest::map::{Map, RESERVED, Region, USABLE};
use std::boxed::Box;
use std::ops::Range;
use std::vec;
use std::vec::Vec;

const LAYER: Range<u64> = 0x1000_0000..0x1080_0000;
const PAYLOAD: Range<u64> = 0x1080_0000..0x1300_1000;
const LOG: &[u8] = b"what was measured before";

fn machine(low_end: u64) -> Map {
    let region = |start, end, kind| Region { start, end, kind };
    Map::of([
        region(0, 0x9_FC00, USABLE),
        region(0xF_0000, 0x10_0000, RESERVED),
        region(0x10_0000, low_end - 0x2_0000, USABLE),
        region(low_end - 0x2_0000, low_end, RESERVED),
        region(0xB000_0000, 0xC000_0000, RESERVED),
        region(FLASH_END, 5 << 30, USABLE),
    ])
    .unwrap()
}

fn told() -> Told {
    Told::find(&machine(0x1400_0000), &[LAYER, PAYLOAD]).unwrap()
}

#[test]
fn a_firmware_is_told_of_no_memory_between_the_layer_and_4_gib() {
    let entries: Vec<(u64, u64, u8)> = told()
        .e820()
        .chunks_exact(20)
        .map(|entry| {
            let number = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().unwrap());
            (number(0), number(0) + number(8), entry[16])
        })
        .collect();
    assert_eq!(entries, [(0, LAYER.start, 1), (LAYER.start, 0x1400_0000, 2), (FLASH_END, 5 << 30, 1)]);
    assert_eq!(told().usable_bytes(), LAYER.start + (1 << 30));
}

#[test]
fn a_machine_without_room_for_a_firmware_is_refused() {
    let find = |hidden: &[Range<u64>]| Told::find(&machine(0x1400_0000), hidden).map(|_| ());
    assert_eq!(find(&[0x300_0000..0x400_0000, PAYLOAD]), Err(GuestFault::NoRoom));
    assert_eq!(find(&[LAYER, 0x1300_0000..0x1500_0000]), Err(GuestFault::NoRoom));
    assert_eq!(find(&[0x400_0000..0x500_0000, PAYLOAD]), Ok(()));
}

/// Items of a device, read as a firmware reads them.
fn items(tables: &Tables, kernel: Option<&Kernel<'_>>) -> impl FnMut(&str) -> Vec<u8> {
    let mut cabinet = Box::new(Cabinet::empty());
    let told = told();
    Handover { processors: 2, told: &told, tables, log: LOG, kernel }.fill(&mut cabinet).unwrap();
    move |name| {
        let memory = Memory::of(0x1000);
        let mut read = |key: u16, bytes: usize| {
            let mut found = vec![0; bytes];
            cabinet.select(key);
            cabinet.read(&memory, &mut found);
            found
        };
        let directory = read(0x19, 4 + 64 * 8);
        let entry = directory[4..]
            .chunks_exact(64)
            .find(|entry| entry[8..].starts_with(name.as_bytes()) && entry[8 + name.len()] == 0);
        let entry = entry.unwrap();
        let bytes = u32::from_be_bytes(entry[..4].try_into().unwrap());
        read(u16::from_be_bytes(entry[4..6].try_into().unwrap()), usize::try_from(bytes).unwrap())
    }
}

fn number(bytes: &[u8], at: usize, size: u8) -> u64 {
    let mut raw = [0; 8];
    raw[..usize::from(size)].copy_from_slice(&bytes[at..at + usize::from(size)]);
    u64::from_le_bytes(raw)
}

/// Follows the loader's script as a firmware does, at an address of its own.
fn placed(base: u64) -> (Vec<u8>, Vec<u64>) {
    let mut memory = Memory::of(0x2_0000);
    write_machine(&mut memory);
    let mut tables = Box::new(Tables::empty());
    tables.build(&memory, RSDP_AT, 0, &additions(1)).unwrap();
    let mut item = items(&tables, None);
    let mut blob = item("etc/acpi/tables");
    let mut led_to = vec![];
    for command in item("etc/table-loader").chunks_exact(128) {
        let name = &command[4..60];
        assert!(name.starts_with(b"etc/acpi/tables\0"));
        if command[0] == 2 {
            assert_eq!(name, &command[60..116]);
            let (at, size) = (usize::try_from(number(command, 116, 4)).unwrap(), command[120]);
            let value = number(&blob, at, size);
            led_to.push(value);
            let size = usize::from(size);
            blob[at..at + size].copy_from_slice(&(value + base).to_le_bytes()[..size]);
        } else if command[0] == 3 {
            let [sum_at, start, length] =
                [60, 64, 68].map(|at| usize::try_from(number(command, at, 4)).unwrap());
            let sum = |blob: &[u8]| {
                blob[start..start + length].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte))
            };
            blob[sum_at] = sum(&blob).wrapping_neg();
        } else {
            assert_eq!((command[0], number(command, 60, 4), command[64]), (1, 4096, 1));
        }
    }
    (blob, led_to)
}

#[test]
fn every_table_is_found_wherever_a_firmware_puts_them() {
    let base = 0x7E00_0000;
    let (blob, led_to) = placed(base);
    let signature = |at: u64| {
        let at = usize::try_from(at).unwrap();
        blob[at..at + 4].to_vec()
    };
    let mut found: Vec<Vec<u8>> = led_to.iter().map(|at| signature(*at)).collect();
    found.sort();
    let log = &LOG_SIGNATURE[..];
    assert_eq!(found, [b"APIC", b"DSDT", b"DSDT", b"FACP", b"FACS", b"MCFG", log, b"SSDT", b"TPM2"]);
    let xsdt = usize::try_from(number(&blob, 24, 8)).unwrap();
    let entries = (usize::try_from(number(&blob, xsdt + 4, 4)).unwrap() - 36) / 8;
    assert_eq!(entries, 6);
    for entry in 0..entries {
        let at = number(&blob, xsdt + 36 + 8 * entry, 8);
        assert!(led_to.contains(&(at - base)), "{at:x} is a pointer that was moved");
    }
}

/// EDK II takes what has no right sum for no table, and passes over it.
#[test]
fn every_table_has_a_right_sum_where_it_comes_to_lie() {
    for base in [0, 0x7E00_0000, 0x7E12_3000] {
        let (blob, led_to) = placed(base);
        // A FACS has none.
        let tables = led_to.iter().map(|at| usize::try_from(*at).unwrap());
        for at in tables.filter(|at| !blob[*at..].starts_with(b"FACS")) {
            let bytes = usize::try_from(number(&blob, at + 4, 4)).unwrap();
            let sum = blob[at..at + bytes].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
            assert_eq!(sum, 0, "{}", std::string::String::from_utf8_lossy(&blob[at..at + 4]));
        }
    }
}

#[test]
fn the_log_before_the_firmwares_own_is_a_table_with_a_right_sum() {
    let (blob, led_to) = placed(0);
    let at = led_to.iter().map(|at| usize::try_from(*at).unwrap());
    let at = at.into_iter().find(|at| blob[*at..].starts_with(&LOG_SIGNATURE)).unwrap();
    let table = &blob[at..];
    assert_eq!(number(table, 4, 4), 36 + LOG.len() as u64);
    assert_eq!(&table[36..], LOG);
    assert_eq!(table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
}
