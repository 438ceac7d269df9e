//! Digests of the kernel's, the initrd's and the firmware's file, worked out once, by whichever processor has nothing else to do.
//!
//! They are most of what a start takes. So they are cut into pieces of work, one for each file and hash: the guest's processors,
//! which wait for the guest, [`work`](Files::work) while the one that serves earns the TPM's keys; that one takes what is
//! left. Before the TPM is known, they work for the banks of a new one; a hash that only another bank asks for is worked out when it does.

use super::banks::FIRST;
use super::measure::{BANKS_MAX, Bank, Banks, Digests, Value, value_of};
use super::{CHUNK_BYTES, GuestFault, piece};
use crate::memory::Reach;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};
use spin::Once;

/// Which file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum File {
    /// The bzImage.
    Kernel = 0,
    /// The initial RAM file system.
    Initrd = 1,
    /// The guest's firmware.
    Firmware = 2,
}

const FILES: usize = 3;

/// The files; one that there is not has no bytes, where no guest can reach them, and what is known of them.
#[derive(Debug)]
pub struct Files {
    at: [Range<u64>; FILES],
    works: [[Work; BANKS_MAX]; FILES],
}

/// One hash of one file.
#[derive(Debug, Default)]
struct Work {
    taken: AtomicBool,
    digest: Once<Value>,
}

impl Files {
    /// Nothing is known of the files at these physical addresses: kernel, initrd, firmware.
    #[must_use]
    pub fn new(at: [Range<u64>; FILES]) -> Self {
        Self { at, works: Default::default() }
    }

    /// Works out for the banks of a new TPM what nobody has begun yet, until `enough` or nothing is left.
    ///
    /// # Errors
    /// [`GuestFault::OutOfRange`] or [`GuestFault::NotMeasured`].
    pub fn work(&self, ram: &dyn Reach, enough: impl Fn() -> bool) -> Result<(), GuestFault> {
        self.take(ram, |bank| FIRST.contains(&bank) && !enough())
    }

    /// The digests of a file in these banks; waits for what others work on.
    ///
    /// # Errors
    /// As [`work`](Self::work).
    pub fn digests(&self, ram: &dyn Reach, file: File, banks: &Banks) -> Result<Digests, GuestFault> {
        self.take(ram, |bank| banks.iter().any(|active| active == bank))?;
        Digests::each(banks, |bank| self.digest(ram, file, bank))
    }

    fn take(&self, ram: &dyn Reach, wanted: impl Fn(Bank) -> bool) -> Result<(), GuestFault> {
        for file in [File::Initrd, File::Kernel, File::Firmware] {
            for bank in Bank::ALL {
                let work = &self.works[file as usize][bank as usize];
                if wanted(bank) && !work.taken.swap(true, Ordering::Relaxed) {
                    self.digest(ram, file, bank)?;
                }
            }
        }
        Ok(())
    }

    fn digest(&self, ram: &dyn Reach, file: File, bank: Bank) -> Result<Value, GuestFault> {
        let work = &self.works[file as usize][bank as usize];
        work.digest.try_call_once(|| hashed(ram, &self.at[file as usize], bank)).cloned()
    }
}

/// SHA-384 of what lies there.
///
/// # Errors
/// [`GuestFault::OutOfRange`] or [`GuestFault::NotMeasured`].
pub fn sha384(ram: &dyn Reach, range: &Range<u64>) -> Result<Value, GuestFault> {
    hashed(ram, range, Bank::Sha384)
}

fn hashed(ram: &dyn Reach, range: &Range<u64>, bank: Bank) -> Result<Value, GuestFault> {
    let mut hash = bank.hash();
    let mut chunk = [0; CHUNK_BYTES];
    let mut at = range.start;
    while at < range.end {
        let piece = piece(&mut chunk, range.end - at);
        ram.copy_in(at, piece)?;
        hash.update(piece);
        at += piece.len() as u64;
    }
    value_of(hash)
}

#[cfg(test)]
#[path = "tests/files.rs"]
mod tests;
