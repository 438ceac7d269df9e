//! A guest's memory for tests.

use crate::memory::{OutOfReach, Reach};
use std::vec;
use std::vec::Vec;

/// Memory from address 0.
#[derive(Clone, Debug)]
pub(crate) struct Memory(Vec<u8>);

impl Memory {
    pub(crate) fn of(bytes: usize) -> Self {
        Self(vec![0; bytes])
    }

    fn range(&self, at: u64, bytes: usize) -> Result<std::ops::Range<usize>, OutOfReach> {
        let start = usize::try_from(at).map_err(|_| OutOfReach)?;
        let end = start.checked_add(bytes).filter(|end| *end <= self.0.len()).ok_or(OutOfReach)?;
        Ok(start..end)
    }
}

impl Reach for Memory {
    fn copy_in(&self, at: u64, into: &mut [u8]) -> Result<(), OutOfReach> {
        into.copy_from_slice(&self.0[self.range(at, into.len())?]);
        Ok(())
    }

    fn copy_out(&mut self, at: u64, from: &[u8]) -> Result<(), OutOfReach> {
        let range = self.range(at, from.len())?;
        self.0[range].copy_from_slice(from);
        Ok(())
    }

    fn carry(&mut self, from: u64, to: u64, bytes: u64) -> Result<(), OutOfReach> {
        let bytes = usize::try_from(bytes).map_err(|_| OutOfReach)?;
        let (from, to) = (self.range(from, bytes)?, self.range(to, bytes)?);
        self.0.copy_within(from, to.start);
        Ok(())
    }
}
