//! A guest's memory for tests.

use super::{GuestFault, Ram};
use std::vec;
use std::vec::Vec;

/// Memory from address 0.
#[derive(Clone, Debug)]
pub(crate) struct Memory(Vec<u8>);

impl Memory {
    pub(crate) fn of(bytes: usize) -> Self {
        Self(vec![0; bytes])
    }

    fn range(&self, at: u64, bytes: usize) -> Result<std::ops::Range<usize>, GuestFault> {
        let start = usize::try_from(at).map_err(|_| GuestFault::OutOfRange)?;
        let end =
            start.checked_add(bytes).filter(|end| *end <= self.0.len()).ok_or(GuestFault::OutOfRange)?;
        Ok(start..end)
    }
}

impl Ram for Memory {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), GuestFault> {
        into.copy_from_slice(&self.0[self.range(at, into.len())?]);
        Ok(())
    }

    fn write(&mut self, at: u64, from: &[u8]) -> Result<(), GuestFault> {
        let range = self.range(at, from.len())?;
        self.0[range].copy_from_slice(from);
        Ok(())
    }
}
