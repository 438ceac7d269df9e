//! The volume's disk: a virtio-blk device (Virtual I/O Device 1.2, section 5.2) as the component's `Disk`.

use super::DeviceFault;
use husk::seams::{Disk, DiskError, Geometry};

/// The unit of the device's addresses in bytes, whatever its blocks are.
const SECTOR_BYTES: u64 = 512;
const REQUEST_IN: u32 = 0;
const REQUEST_OUT: u32 = 1;
const REQUEST_FLUSH: u32 = 4;
const STATUS_OK: u8 = 0;
/// What the status byte says until the device has said something.
const STATUS_UNSAID: u8 = 0xFF;
/// How long one request may take, in milliseconds: a host's disk may stall for long, but not for ever.
const PATIENCE_MS: u64 = 30_000;

/// The most bytes that one request carries: the largest write of a volume.
pub const REQUEST_BYTES_MAX: usize = 192 * 1024;

/// VIRTIO_BLK_F_RO, _BLK_SIZE, _FLUSH, _TOPOLOGY.
const READ_ONLY: u64 = 1 << 5;
const BLOCK_SIZE: u64 = 1 << 6;
const FLUSH: u64 = 1 << 9;
const TOPOLOGY: u64 = 1 << 10;
/// VIRTIO_F_VERSION_1.
const VERSION_1: u64 = 1 << 32;

/// The device did not answer, or not as the specification says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

/// A queue that carries one request at a time.
pub trait Requests {
    /// Hands `out` to the device, waits at most `patience_ms`, and copies what it wrote to `into`. Returns how many bytes
    /// the device says that it wrote.
    ///
    /// # Errors
    /// [`Lost`] if it did not answer in time, or answered another request: it gets no further one.
    fn request(&mut self, out: [&[u8]; 2], into: [&mut [u8]; 2], patience_ms: u64) -> Result<usize, Lost>;
}

/// What the device says of itself (`struct virtio_blk_config`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Features that it offers.
    pub features: u64,
    /// `capacity`, in sectors of 512 bytes.
    pub sectors: u64,
    /// `blk_size` in bytes.
    pub block_bytes: u32,
    /// `physical_block_exp`: logical blocks in a physical one, as a power of two.
    pub physical_exponent: u8,
}

impl Said {
    /// The features to accept.
    ///
    /// # Errors
    /// [`DeviceFault::Unfit`] without flush, without the modern interface, or for a disk that cannot be written.
    pub const fn accepted(&self) -> Result<u64, DeviceFault> {
        let needed = FLUSH | VERSION_1;
        if self.features & needed != needed || self.features & READ_ONLY != 0 {
            return Err(DeviceFault::Unfit);
        }
        Ok(needed | self.features & (BLOCK_SIZE | TOPOLOGY))
    }

    /// The disk's shape: the block is the physical one, as what the device writes without touching neighbours.
    ///
    /// # Errors
    /// [`DeviceFault::Geometry`].
    pub fn geometry(&self) -> Result<Geometry, DeviceFault> {
        let logical = if self.features & BLOCK_SIZE == 0 { 512 } else { self.block_bytes };
        let exponent = if self.features & TOPOLOGY == 0 { 0 } else { u32::from(self.physical_exponent) };
        let physical = logical.checked_mul(1u32.checked_shl(exponent).unwrap_or(0)).unwrap_or(0);
        let size_bytes = self.sectors.checked_mul(SECTOR_BYTES).ok_or(DeviceFault::Geometry)?;
        if !logical.is_power_of_two() || !physical.is_power_of_two() || !(512..=4096).contains(&physical) {
            return Err(DeviceFault::Geometry);
        }
        Ok(Geometry { size_bytes, block_bytes: physical })
    }
}

/// The disk.
#[derive(Debug)]
pub struct VolumeDisk<R> {
    requests: R,
    geometry: Geometry,
}

impl<R: Requests> VolumeDisk<R> {
    /// A disk of that shape behind a queue.
    pub const fn new(requests: R, geometry: Geometry) -> Self {
        Self { requests, geometry }
    }

    /// The sector at which whole blocks inside of the disk begin.
    fn sector(&self, offset: u64, bytes: usize) -> Result<u64, DiskError> {
        let block = u64::from(self.geometry.block_bytes);
        let end = offset.checked_add(bytes as u64).ok_or(DiskError)?;
        let whole = offset.is_multiple_of(block) && (bytes as u64).is_multiple_of(block);
        if whole && bytes > 0 && end <= self.geometry.size_bytes {
            Ok(offset / SECTOR_BYTES)
        } else {
            Err(DiskError)
        }
    }

    fn request(&mut self, kind: u32, sector: u64, from: &[u8], into: &mut [u8]) -> Result<(), DiskError> {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        let mut status = [STATUS_UNSAID];
        let expected = into.len() + status.len();
        let written = self.requests.request([&header, from], [into, &mut status], PATIENCE_MS);
        if written == Ok(expected) && status == [STATUS_OK] { Ok(()) } else { Err(DiskError) }
    }
}

impl<R: Requests> Disk for VolumeDisk<R> {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.sector(offset, into.len())?;
        let mut at = offset;
        for piece in into.chunks_mut(REQUEST_BYTES_MAX) {
            self.request(REQUEST_IN, at / SECTOR_BYTES, &[], piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, from: &[u8]) -> Result<(), DiskError> {
        let sector = self.sector(offset, from.len())?;
        if from.len() > REQUEST_BYTES_MAX {
            return Err(DiskError);
        }
        self.request(REQUEST_OUT, sector, from, &mut [])
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        self.request(REQUEST_FLUSH, 0, &[], &mut [])
    }
}

#[cfg(test)]
#[path = "tests/disk.rs"]
mod tests;
