//! Laws of the files' digests: whoever works them out, they are those of the files, and each is worked out once.

use super::{File, Files};
use crate::guest::GuestFault;
use crate::guest::fakes::Memory;
use crate::guest::measure::tests::{ALL, Pcrs};
use crate::guest::measure::{Bank, Banks, start_up};
use crate::memory::{OutOfReach, Reach};
use sha2::Digest;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::vec;
use std::vec::Vec;

const KERNEL: Range<u64> = 0x1000..0x1000 + 10_007;
const INITRD: Range<u64> = 0x8000..0x8000 + 70_001;
const FIRMWARE: Range<u64> = 0x1C000..0x1D000;

fn memory() -> Memory {
    let mut memory = Memory::of(0x2_0000);
    for at in 0..0x2_0000 {
        memory.copy_out(at, &[u8::try_from(at * at % 251).unwrap()]).unwrap();
    }
    memory
}

/// Memory that counts how much of it is read.
struct Counted<'m>(&'m Memory, AtomicU64);

impl Reach for Counted<'_> {
    fn copy_in(&self, at: u64, into: &mut [u8]) -> Result<(), OutOfReach> {
        self.1.fetch_add(into.len() as u64, Ordering::Relaxed);
        self.0.copy_in(at, into)
    }

    fn copy_out(&mut self, _: u64, _: &[u8]) -> Result<(), OutOfReach> {
        Err(OutOfReach)
    }

    fn carry(&mut self, _: u64, _: u64, _: u64) -> Result<(), OutOfReach> {
        Err(OutOfReach)
    }
}

fn banks(count: usize) -> Banks {
    start_up(&mut Pcrs::with(&ALL[..count])).unwrap()
}

/// Another implementation's digest.
fn expected(memory: &Memory, range: Range<u64>, bank: Bank) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap()];
    memory.copy_in(range.start, &mut bytes).unwrap();
    match bank {
        Bank::Sha1 => sha1::Sha1::digest(&bytes).to_vec(),
        Bank::Sha256 => sha2::Sha256::digest(&bytes).to_vec(),
        Bank::Sha384 => sha2::Sha384::digest(&bytes).to_vec(),
        Bank::Sha512 => sha2::Sha512::digest(&bytes).to_vec(),
    }
}

fn check(files: &Files, ram: &dyn Reach, memory: &Memory, banks: &Banks) {
    for (file, range) in [(File::Kernel, KERNEL), (File::Initrd, INITRD), (File::Firmware, FIRMWARE)] {
        let digests = files.digests(ram, file, banks).unwrap();
        assert_eq!(digests.iter().count(), banks.iter().count());
        for (bank, digest) in digests.iter() {
            assert_eq!(digest, expected(memory, range.clone(), bank), "{file:?} {bank:?}");
        }
    }
}

#[test]
fn digests_are_those_of_the_files_and_worked_out_once_by_any_number_of_processors() {
    let memory = memory();
    let counted = Counted(&memory, AtomicU64::new(0));
    let files = Files::new([KERNEL, INITRD, FIRMWARE]);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| files.work(&counted, || false).unwrap());
        }
        check(&files, &counted, &memory, &banks(4));
    });
    let all = [KERNEL, INITRD, FIRMWARE].iter().map(|file| file.end - file.start).sum::<u64>();
    assert_eq!(counted.1.load(Ordering::Relaxed), 4 * all);
}

#[test]
fn nothing_is_worked_out_ahead_that_a_new_tpm_does_not_ask_for() {
    let memory = memory();
    let counted = Counted(&memory, AtomicU64::new(0));
    let files = Files::new([KERNEL, INITRD, FIRMWARE]);
    files.work(&counted, || false).unwrap();
    let all = [KERNEL, INITRD, FIRMWARE].iter().map(|file| file.end - file.start).sum::<u64>();
    assert_eq!(counted.1.load(Ordering::Relaxed), 2 * all);
    check(&files, &counted, &memory, &start_up(&mut Pcrs::with(&ALL[1..3])).unwrap());
    assert_eq!(counted.1.load(Ordering::Relaxed), 2 * all);
}

#[test]
fn only_what_is_asked_for_is_waited_for() {
    let memory = memory();
    let counted = Counted(&memory, AtomicU64::new(0));
    let files = Files::new([KERNEL, INITRD, FIRMWARE]);
    files.work(&counted, || true).unwrap();
    assert_eq!(counted.1.load(Ordering::Relaxed), 0, "enough is enough");
    check(&files, &counted, &memory, &banks(1));
    let all = [KERNEL, INITRD, FIRMWARE].iter().map(|file| file.end - file.start).sum::<u64>();
    assert_eq!(counted.1.load(Ordering::Relaxed), all);
    // The guest has activated another bank meanwhile.
    check(&files, &counted, &memory, &banks(2));
}

#[test]
fn a_file_out_of_reach_is_a_fault_to_everybody() {
    let memory = memory();
    let files = Files::new([KERNEL, 0x1_0000..0x3_0000, FIRMWARE]);
    for _ in 0..2 {
        assert_eq!(files.digests(&memory, File::Initrd, &banks(4)), Err(GuestFault::OutOfRange));
    }
}
