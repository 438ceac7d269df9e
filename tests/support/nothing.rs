//! A machine with no disk and nobody at its console, for clients that need neither.

use husk::seams::{Console, Disk, DiskError, Geometry};

/// Neither.
pub(crate) struct Nothing;

impl Disk for Nothing {
    fn geometry(&self) -> Geometry {
        Geometry { size_bytes: 0, block_bytes: 512 }
    }

    fn read(&mut self, _: u64, _: &mut [u8]) -> Result<(), DiskError> {
        Err(DiskError)
    }

    fn write(&mut self, _: u64, _: &[u8]) -> Result<(), DiskError> {
        Err(DiskError)
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        Err(DiskError)
    }
}

impl Console for Nothing {
    fn line(&mut self, _: &'static str, _: u32) {}
}
