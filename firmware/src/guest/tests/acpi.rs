//! Laws of the guest's tables, on a machine made of bytes.

use super::{Additions, Tables, read_u32, read_u64, seal, stated_length, sum};
use crate::guest::GuestFault;
use crate::guest::fakes::Memory;
use crate::memory::Reach;
use husk::frontend::acpi::EventLog;
use husk::frontend::crb::{Buffer, Identity, Layout, Localities};
use std::vec;
use std::vec::Vec;

const BASE: u64 = 0x8000;
pub(crate) const RSDP_AT: u64 = 0x100;

pub(crate) fn additions(hidden_apic: u32) -> Additions {
    let identity = Identity { vendor: 0x1AF4, device: 1, revision: 0 };
    let crb = Layout::new(0xFED4_0000, Localities::All, Buffer::OwnPage, identity).unwrap();
    Additions { hidden_apic, crb, log: Some(EventLog { address: 0x7000, area_bytes: 0x1000 }) }
}

fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes = [&signature[..], &[0; 32], body].concat();
    seal(&mut bytes);
    bytes
}

/// Three processors, one of them by its 32-bit number, and an I/O APIC.
fn madt() -> Vec<u8> {
    let mut body = vec![0, 0, 0xE0, 0xFE, 1, 0, 0, 0];
    body.extend([0, 8, 0, 0, 1, 0, 0, 0]);
    body.extend([0, 8, 1, 1, 1, 0, 0, 0]);
    body.extend([1, 12, 0, 0, 0, 0, 0xC0, 0xFE, 0, 0, 0, 0]);
    body.extend([9, 16, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
    table(b"APIC", &body)
}

fn fadt() -> Vec<u8> {
    let mut body = vec![0; 244 - 36];
    body[..4].copy_from_slice(&0x3F00u32.to_le_bytes());
    body[4..8].copy_from_slice(&0x3000u32.to_le_bytes());
    body[96..104].copy_from_slice(&0x3F00u64.to_le_bytes());
    table(b"FACP", &body)
}

fn rsdp() -> Vec<u8> {
    let mut rsdp = b"RSD PTR \0BOCHS \0\0\x02\0\0".to_vec();
    rsdp.resize(36, 0);
    rsdp[16..20].copy_from_slice(&0x200u32.to_le_bytes());
    rsdp[8] = 0u8.wrapping_sub(sum(&rsdp[..20]));
    rsdp
}

/// A machine as QEMU describes it: revision 0, RSDT, a foreign TPM's table among the others.
fn machine() -> Memory {
    let mut memory = Memory::of(0x2_0000);
    write_machine(&mut memory);
    memory
}

/// Writes that machine's tables, all of them below 0x4000.
pub(crate) fn write_machine(memory: &mut Memory) {
    let tables = [
        (0x1000u32, fadt()),
        (0x1800, madt()),
        (0x2000, table(b"TPM2", &[7; 40])),
        (0x2800, table(b"MCFG", &[1; 24])),
    ];
    let pointers: Vec<u8> = tables.iter().flat_map(|(at, _)| at.to_le_bytes()).collect();
    for (at, table) in &tables {
        memory.copy_out(u64::from(*at), table).unwrap();
    }
    memory.copy_out(0x3000, &table(b"DSDT", &[0x5A; 99])).unwrap();
    memory.copy_out(0x200, &table(b"RSDT", &pointers)).unwrap();
    memory.copy_out(RSDP_AT, &rsdp()).unwrap();
}

fn built(memory: &Memory, hidden: u32) -> Result<Tables, GuestFault> {
    let mut tables = Tables::empty();
    tables.build(memory, RSDP_AT, BASE, &additions(hidden)).map(|()| tables)
}

/// Walks the built tables as a guest would, from the RSDP.
fn walk(tables: &Tables) -> Vec<Vec<u8>> {
    let bytes = tables.bytes();
    assert!(bytes[..8] == *b"RSD PTR " && sum(&bytes[..20]) == 0 && sum(&bytes[..36]) == 0);
    let at = |address: u64| usize::try_from(address - BASE).unwrap();
    let whole = |start: usize| bytes[start..start + stated_length(&bytes[start..])].to_vec();
    let xsdt = whole(at(read_u64(bytes, 24).unwrap()));
    let found = xsdt[36..].chunks_exact(8).map(|entry| whole(at(read_u64(entry, 0).unwrap())));
    let found: Vec<Vec<u8>> = found.collect();
    assert!(sum(&xsdt) == 0 && found.iter().all(|table| sum(table) == 0));
    found
}

#[test]
fn the_guest_finds_every_table_but_the_foreign_tpm_and_both_of_ours() {
    let tables = built(&machine(), 1).unwrap();
    let signatures: Vec<Vec<u8>> = walk(&tables).iter().map(|table| table[..4].to_vec()).collect();
    assert_eq!(signatures, [b"FACP", b"APIC", b"MCFG", b"TPM2", b"SSDT"]);
    let tpm2 = &walk(&tables)[3];
    assert_eq!((read_u64(tpm2, 40), read_u64(tpm2, 68)), (Some(0xFED4_0040), Some(0x7000)));
}

#[test]
fn the_dsdt_is_our_copy_by_both_of_its_addresses() {
    let tables = built(&machine(), 1).unwrap();
    let fadt = &walk(&tables)[0];
    let at = read_u64(fadt, 140).unwrap();
    assert_eq!(u64::from(read_u32(fadt, 40).unwrap()), at);
    let start = usize::try_from(at - BASE).unwrap();
    assert_eq!(tables.bytes()[start..start + 4], *b"DSDT");
    assert_eq!(sum(&tables.bytes()[start..start + 36 + 99]), 0);
}

/// The machine's own lies where a guest has no memory.
#[test]
fn the_facs_is_ours_by_the_only_address_that_is_given() {
    let tables = built(&machine(), 1).unwrap();
    let fadt = &walk(&tables)[0];
    assert_eq!(read_u64(fadt, 132), Some(0));
    let at = u64::from(read_u32(fadt, 36).unwrap());
    assert_eq!(at % 64, 0);
    let start = usize::try_from(at - BASE).unwrap();
    let facs = &tables.bytes()[start..start + 64];
    assert_eq!((&facs[..4], read_u32(facs, 4), facs[32]), (&b"FACS"[..], Some(64), 2));
    let rest = [&facs[8..32], &facs[33..]].concat();
    assert!(rest.iter().all(|byte| *byte == 0), "nobody has the lock");
}

#[test]
fn the_processor_that_serves_is_in_no_table_and_every_other_is() {
    for (hidden, bytes) in [(0, 8), (1, 8), (2, 16)] {
        let tables = built(&machine(), hidden).unwrap();
        let madt_now = walk(&tables)[1].clone();
        assert_eq!(madt_now.len(), madt().len() - bytes);
        let mut apics = vec![];
        let mut rest = &madt_now[44..];
        while !rest.is_empty() {
            let (entry, after) = rest.split_at(usize::from(rest[1]));
            apics.extend(super::processor(entry));
            rest = after;
        }
        let others: Vec<u32> = (0..3).filter(|apic| *apic != hidden).collect();
        assert_eq!(apics, others);
    }
    assert_eq!(built(&machine(), 7).map(|_| ()), Err(GuestFault::ProcessorUnlisted));
}

/// One changed byte anywhere in the machine's tables breaks a sum, or leads nowhere.
#[test]
fn a_flipped_byte_in_any_table_is_refused() {
    for (start, bytes) in
        [(RSDP_AT, 20), (0x200, 52), (0x1000, 244), (0x1800, madt().len() as u64), (0x3000, 135)]
    {
        for at in start..start + bytes {
            let mut memory = machine();
            let mut byte = [0];
            memory.copy_in(at, &mut byte).unwrap();
            memory.copy_out(at, &[byte[0] ^ 0x40]).unwrap();
            assert!(built(&memory, 1).is_err(), "{at:#x}");
        }
    }
}

/// A host that makes its sums right can still say anything: refused or copied, but never a panic.
#[test]
fn any_length_and_any_entry_with_a_right_sum_is_survived() {
    for at in 4..madt().len() {
        for value in [0, 1, 2, 7, 8, 9, 0x7F, 0xFF] {
            let mut bytes = madt();
            bytes[at] = value;
            bytes[9] = 0;
            bytes[9] = sum(&bytes).wrapping_neg();
            let mut memory = machine();
            memory.copy_out(0x1800, &bytes).unwrap();
            if let Ok(tables) = built(&memory, 1) {
                walk(&tables);
            }
        }
    }
    for pointers in [33, 100] {
        let mut memory = machine();
        memory.copy_out(0x200, &table(b"RSDT", &vec![0x10; 4 * pointers])).unwrap();
        assert!(built(&memory, 1).is_err());
    }
}
