/// The shape of a disk. All of it is the host's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size of the disk in bytes.
    pub size_bytes: u64,
    /// The smallest unit that the device writes without touching its neighbours (the physical block), in bytes:
    /// a power of two from 512 to 4096.
    pub block_bytes: u32,
}

/// The device refused or failed a request; the caller knows which request it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskError;

/// A block device that the enemy owns.
///
/// `offset` and the slice length of reads and writes are multiples of [`Geometry::block_bytes`]. A write may be torn
/// at any byte, or reordered with others, until [`flush`](Disk::flush) has returned.
pub trait Disk {
    /// The shape of the disk.
    fn geometry(&self) -> Geometry;

    /// Fills `into` from byte `offset`.
    ///
    /// # Errors
    /// [`DiskError`] if the device failed; the content of `into` is unspecified then.
    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError>;

    /// Writes `from` at byte `offset`, as one request.
    ///
    /// # Errors
    /// [`DiskError`] if the device failed; any part may or may not have been written then.
    fn write(&mut self, offset: u64, from: &[u8]) -> Result<(), DiskError>;

    /// Returns when everything written before is durable.
    ///
    /// # Errors
    /// [`DiskError`] if the device cannot say so.
    fn flush(&mut self) -> Result<(), DiskError>;
}

/// The disk of a machine that may have none: then every request fails. A TPM that keeps nothing never makes one.
impl<D: Disk> Disk for Option<D> {
    fn geometry(&self) -> Geometry {
        self.as_ref().map_or(Geometry { size_bytes: 0, block_bytes: 512 }, D::geometry)
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.as_mut().ok_or(DiskError)?.read(offset, into)
    }

    fn write(&mut self, offset: u64, from: &[u8]) -> Result<(), DiskError> {
        self.as_mut().ok_or(DiskError)?.write(offset, from)
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        self.as_mut().ok_or(DiskError)?.flush()
    }
}
