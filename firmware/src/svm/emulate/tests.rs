//! Instructions on a bus whose every access is written down.

use super::{Bus, Event, Registers, Size, Verdict, emulate, input};
use crate::svm::vmcb::{Save, Vmcb};
use crate::svm::walk::GuestMemory;
use proptest::prelude::{any, prop_assert, proptest};
use std::boxed::Box;
use std::vec::Vec;

/// Where the page that is not there lies.
const DEVICE: u64 = 0xFED4_0000;
const CODE: u64 = 0x7C00;

/// 64 KiB of memory and a device that answers with its own addresses.
#[derive(Default)]
struct World {
    ram: Vec<u8>,
    seen: Vec<(u64, Size, Option<u64>)>,
}

impl World {
    fn new(code: &[u8]) -> Self {
        let mut ram = std::vec![0; 1 << 16];
        ram[0x7C00..0x7C00 + code.len()].copy_from_slice(code);
        Self { ram, seen: Vec::new() }
    }

    fn span(&self, address: u64, bytes: usize) -> Option<core::ops::Range<usize>> {
        let start = usize::try_from(address).ok()?;
        let end = start.checked_add(bytes)?;
        (end <= self.ram.len()).then_some(start..end)
    }
}

impl GuestMemory for World {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let span = self.span(address, into.len());
        span.map(|span| into.copy_from_slice(&self.ram[span])).is_some()
    }

    fn write(&mut self, address: u64, from: &[u8]) -> bool {
        let span = self.span(address, from.len());
        span.map(|span| self.ram[span].copy_from_slice(from)).is_some()
    }

    fn set_bits(&mut self, address: u64, bits: u8) -> bool {
        let mut now = [0];
        self.read(address, &mut now) && self.write(address, &[now[0] | bits])
    }
}

impl Bus for World {
    fn load(&mut self, address: u64, size: Size) -> u64 {
        let mut raw = [0; 8];
        if self.read(address, &mut raw[..size as usize]) {
            return u64::from_le_bytes(raw);
        }
        self.seen.push((address, size, None));
        0x8877_6655_4433_2200 | address & 0xFF
    }

    fn store(&mut self, address: u64, size: Size, value: u64) {
        if !self.write(address, &value.to_le_bytes()[..size as usize]) {
            self.seen.push((address, size, Some(value)));
        }
    }
}

/// A flat 32-bit guest, or a 64-bit one without its tables (addresses below 4 GiB are themselves either way).
fn flat(long: bool) -> Box<Save> {
    let mut save = Box::new(Vmcb::EMPTY.save);
    save.rip = CODE;
    save.cr0 = 1;
    save.segments[1].attributes = if long { 0xA9B } else { 0xC9B };
    save.efer = if long { 1 << 10 } else { 0 };
    save
}

fn run(code: &[u8], long: bool, set: &[(usize, u64)]) -> (World, Registers, Box<Save>, Verdict) {
    let mut world = World::new(code);
    let mut registers = Registers::default();
    for (register, value) in set {
        registers.0[*register] = *value;
    }
    let mut save = flat(long);
    let verdict = emulate(&mut save, &mut registers, &mut world);
    (world, registers, save, verdict)
}

#[test]
fn moves_of_every_width_reach_the_device_as_written() {
    let (world, ..) = run(&[0x89, 0x47, 0x4C], true, &[(7, DEVICE), (0, 0x1_0000_0001)]);
    assert_eq!(world.seen, [(DEVICE + 0x4C, Size::Dword, Some(1))]);
    let (world, ..) = run(&[0x48, 0x89, 0x07], true, &[(7, DEVICE), (0, 0x1_0000_0001)]);
    assert_eq!(world.seen, [(DEVICE, Size::Qword, Some(0x1_0000_0001))]);
    let (world, ..) = run(&[0xC6, 0x47, 0x40, 0x02], false, &[(7, DEVICE)]);
    assert_eq!(world.seen, [(DEVICE + 0x40, Size::Byte, Some(2))]);
    let (_, registers, _, verdict) = run(&[0x8B, 0x47, 0x0C], true, &[(7, DEVICE), (0, u64::MAX)]);
    assert_eq!((registers.0[0], verdict), (0x4433_220C, Verdict::Done(3)));
    let (_, registers, ..) = run(&[0x8A, 0x67, 0x0C], true, &[(7, DEVICE), (0, u64::MAX)]);
    assert_eq!(registers.0[0], 0xFFFF_FFFF_FFFF_0CFF, "AH alone changes");
    let (_, registers, ..) = run(&[0x48, 0x0F, 0xBE, 0x47, 0x80], true, &[(7, DEVICE + 0x100)]);
    assert_eq!(registers.0[0], 0xFFFF_FFFF_FFFF_FF80);
}

#[test]
fn string_moves_go_from_and_to_the_device() {
    let (world, registers, _, verdict) = run(&[0xF3, 0xA5], true, &[(6, DEVICE), (7, 0x2000), (1, 3)]);
    assert_eq!(verdict, Verdict::Done(2));
    assert_eq!(&world.ram[0x2000..0x200C], &[0, 0x22, 0x33, 0x44, 4, 0x22, 0x33, 0x44, 8, 0x22, 0x33, 0x44]);
    assert_eq!((registers.0[1], registers.0[6], registers.0[7]), (0, DEVICE + 12, 0x200C));
    let (world, registers, ..) = run(&[0xF3, 0xAA], true, &[(0, 0x5A), (7, DEVICE + 0x80), (1, 2)]);
    let byte = |at| (DEVICE + at, Size::Byte, Some(0x5A));
    assert_eq!((world.seen.as_slice(), registers.0[1]), (&[byte(0x80), byte(0x81)][..], 0));
}

#[test]
fn a_long_string_move_lets_the_guest_be_interrupted() {
    let (world, registers, _, verdict) = run(&[0xF3, 0xAA], true, &[(7, DEVICE), (1, 1 << 40)]);
    assert_eq!((verdict, world.seen.len()), (Verdict::Again, 256));
    assert_eq!((registers.0[1], registers.0[7]), ((1 << 40) - 256, DEVICE + 256));
}

/// Runs INS, with a source that counts up from 1.
fn run_input(code: &[u8], set: &[(usize, u64)], rflags: u64) -> (World, Registers, Verdict, usize) {
    let mut world = World::new(code);
    let mut registers = Registers::default();
    for (register, value) in set {
        registers.0[*register] = *value;
    }
    let mut save = flat(true);
    save.rflags = rflags;
    let mut taken = 0_usize;
    let verdict = input(&mut save, &mut registers, &mut world, &mut |into| {
        for byte in into {
            taken += 1;
            *byte = taken.to_le_bytes()[0];
        }
    });
    (world, registers, verdict, taken)
}

#[test]
fn bytes_from_a_port_go_to_memory_in_order_and_a_page_at_a_time() {
    let (world, registers, verdict, taken) = run_input(&[0xF3, 0x6C], &[(1, 5), (7, 0x2000)], 2);
    assert_eq!((verdict, taken, registers.0[1], registers.0[7]), (Verdict::Done(2), 5, 0, 0x2005));
    assert_eq!(world.ram[0x1FFF..0x2006], [0, 1, 2, 3, 4, 5, 0]);
    let (world, registers, verdict, taken) = run_input(&[0xF3, 0x6C], &[(1, 4100), (7, 0x2FFD)], 2);
    assert_eq!((verdict, taken, registers.0[1], registers.0[7]), (Verdict::Again, 3, 4097, 0x3000));
    assert_eq!(world.ram[0x2FFC..0x3001], [0, 1, 2, 3, 0]);
    let (_, registers, verdict, taken) = run_input(&[0x6C], &[(1, 9), (7, 0x2000)], 2);
    assert_eq!((verdict, taken, registers.0[1], registers.0[7]), (Verdict::Done(1), 1, 9, 0x2001));
    let (_, _, verdict, taken) = run_input(&[0xF3, 0x6C], &[(7, 0x2000)], 2);
    assert_eq!((verdict, taken), (Verdict::Done(2), 0));
}

#[test]
fn bytes_from_a_port_to_a_device_are_what_it_is_written() {
    let (world, ..) = run_input(&[0xF3, 0x6C], &[(1, 2), (7, DEVICE + 0x80)], 2);
    let byte = |at, value| (DEVICE + at, Size::Byte, Some(value));
    assert_eq!(world.seen, [byte(0x80, 1), byte(0x81, 2)]);
}

#[test]
fn what_reads_a_port_otherwise_is_a_protection_fault_and_takes_nothing() {
    const DOWN: u64 = 1 << 10;
    for (code, rflags) in
        [(&[0xF3, 0x6D][..], 2), (&[0xF3, 0xA4], 2), (&[0xEC], 2), (&[0xF3, 0x6C], 2 | DOWN)]
    {
        let (_, registers, verdict, taken) = run_input(code, &[(1, 2), (7, 0x2000)], rflags);
        assert_eq!(verdict, Verdict::Raise(Event::GeneralProtection, 0), "{code:02x?}");
        assert_eq!((taken, registers.0[1], registers.0[7]), (0, 2, 0x2000));
    }
    let (.., verdict) = run(&[0x6C], true, &[(7, DEVICE)]);
    assert_eq!(verdict, Verdict::Raise(Event::GeneralProtection, 0), "its port was not what exited");
}

#[test]
fn arithmetic_sets_the_flags_that_the_processor_would() {
    const CF: u64 = 1;
    const ZF: u64 = 1 << 6;
    let (_, _, save, _) = run(&[0xF6, 0x07, 0x01], true, &[(7, DEVICE + 2)]);
    assert_eq!(save.rflags & ZF, ZF, "test of a bit that is clear");
    let (_, _, save, _) = run(&[0x3B, 0x07], true, &[(7, DEVICE), (0, 1)]);
    assert_eq!(save.rflags & (CF | ZF), CF, "1 is below what the device reads");
    let (world, ..) = run(&[0x83, 0x0F, 0x01], true, &[(7, DEVICE)]);
    assert_eq!(world.seen.last(), Some(&(DEVICE, Size::Dword, Some(0x4433_2201))));
}

#[test]
fn an_access_across_pages_is_made_of_bytes() {
    let (world, ..) = run(&[0x89, 0x07], true, &[(7, DEVICE - 2), (0, 0x4433_2211)]);
    let byte = |at: u64, value| (at, Size::Byte, Some(value));
    assert_eq!(
        world.seen,
        [byte(DEVICE - 2, 0x11), byte(DEVICE - 1, 0x22), byte(DEVICE, 0x33), byte(DEVICE + 1, 0x44)]
    );
}

#[test]
fn an_instruction_may_lie_across_pages_and_end_where_memory_ends() {
    for at in [0x7FFEu64, 0xFFFD] {
        let mut world = World::new(&[]);
        let code = [0x89, 0x47, 0x4C];
        for (n, byte) in (at..).zip(code) {
            world.ram[usize::try_from(n).expect("sound")] = byte;
        }
        let mut save = flat(true);
        save.rip = at;
        let mut registers = Registers::default();
        registers.0[7] = DEVICE;
        assert_eq!(emulate(&mut save, &mut registers, &mut world), Verdict::Done(3));
    }
}

#[test]
fn segments_have_their_base_outside_long_mode_and_fs_has_one_in_it() {
    let mut world = World::new(&[0x64, 0x8B, 0x00]);
    let mut save = flat(true);
    save.segments[4].base = DEVICE;
    save.segments[3].base = 0x5000;
    emulate(&mut save, &mut Registers::default(), &mut world);
    assert_eq!(world.seen[0].0, DEVICE);
    let mut world = World::new(&[0x8B, 0x00]);
    let mut save = flat(false);
    save.segments[3].base = DEVICE;
    emulate(&mut save, &mut Registers::default(), &mut world);
    assert_eq!(world.seen[0].0, DEVICE);
}

#[test]
fn what_is_not_emulated_is_a_protection_fault() {
    let (world, _, _, verdict) = run(&[0x0F, 0x29, 0x07], true, &[(7, DEVICE)]);
    assert_eq!(verdict, Verdict::Raise(Event::GeneralProtection, 0));
    assert!(world.seen.is_empty());
}

proptest! {
    #[test]
    fn no_instruction_and_no_registers_make_it_fail(
        code in any::<[u8; 15]>(),
        opcode in proptest::sample::select(&[0x88u8, 0x8B, 0xA5, 0xAB, 0xC7, 0x81, 0x0B][..]),
        registers in any::<[u64; 16]>(),
        state in any::<(u64, u64, u64, u64, u16)>(),
    ) {
        let mut code = code;
        code[0] = opcode;
        let mut world = World::new(&code);
        let mut save = flat(true);
        (save.cr0, save.cr3, save.cr4, save.efer) = (state.0, state.1, state.2, state.3);
        save.segments[1].attributes = state.4;
        let mut registers = Registers(registers);
        emulate(&mut save, &mut registers, &mut world);
        for (address, size, _) in world.seen {
            prop_assert!(address % 4096 + size as u64 <= 4096);
        }
    }
}
