//! A disk in memory.

use husk::seams::{Disk, DiskError, Geometry};
use std::ops::Range;

/// A disk that does what it is told, one block of 512 bytes at a time; tears have laws of their own (`volume`).
#[derive(Debug)]
pub(crate) struct RamDisk {
    pub(crate) image: Vec<u8>,
}

impl RamDisk {
    fn range(&self, offset: u64, bytes: usize) -> Result<Range<usize>, DiskError> {
        let start = usize::try_from(offset).map_err(|_| DiskError)?;
        let end = start.checked_add(bytes).filter(|end| *end <= self.image.len()).ok_or(DiskError)?;
        Ok(start..end)
    }
}

impl Disk for RamDisk {
    fn geometry(&self) -> Geometry {
        Geometry { size_bytes: self.image.len() as u64, block_bytes: 512 }
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let range = self.range(offset, into.len())?;
        into.copy_from_slice(&self.image[range]);
        Ok(())
    }

    fn write(&mut self, offset: u64, from: &[u8]) -> Result<(), DiskError> {
        let range = self.range(offset, from.len())?;
        self.image[range].copy_from_slice(from);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
}
