//! The disk: a volume file with one user at a time.

use husk::seams::{Disk, DiskError, Geometry};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Why a volume file cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum FileDiskError {
    /// The file does not open.
    #[error(
        "cannot open the volume {path}: {error}; check the path, or make a blank one with `husk volume create`"
    )]
    Open {
        /// Which file.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// Another process has it.
    #[error(
        "the volume {path} is in use by another process; one volume serves one TPM: stop the other one first"
    )]
    InUse {
        /// Which file.
        path: PathBuf,
    },
    /// The unit is not one that the component can write.
    #[error("a block of {block_bytes} bytes is not possible; use a power of two from 512 to 4096")]
    BlockBytes {
        /// What was asked for.
        block_bytes: u32,
    },
}

/// What a disk was asked for, for tests and measurements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests to write.
    pub writes: u64,
    /// Bytes in them.
    pub written_bytes: u64,
    /// Requests to flush.
    pub flushes: u64,
}

/// A volume file, or a block device, as a disk. It is locked for as long as this value lives.
///
/// Writes go through the kernel's cache; a flush is `fdatasync`. `block_bytes` is the host's word for the unit that the
/// medium writes without touching neighbours: 512 fits most disks' promise, 4096 those with larger physical blocks.
#[derive(Debug)]
pub struct FileDisk {
    file: File,
    geometry: Geometry,
    counts: Counts,
}

impl FileDisk {
    /// The smallest block in bytes, and the usual one.
    pub const BLOCK_BYTES: u32 = 512;
    /// The largest block in bytes.
    const BLOCK_BYTES_MAX: u32 = 4096;

    /// Opens and locks the file at `path`, which must exist.
    ///
    /// # Errors
    /// [`FileDiskError`]; nothing is left open or locked then.
    pub fn open(path: &Path, block_bytes: u32) -> Result<Self, FileDiskError> {
        let sizes = Self::BLOCK_BYTES..=Self::BLOCK_BYTES_MAX;
        if !block_bytes.is_power_of_two() || !sizes.contains(&block_bytes) {
            return Err(FileDiskError::BlockBytes { block_bytes });
        }
        let failed = |error| FileDiskError::Open { path: path.to_path_buf(), error };
        let mut file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FileDiskError::InUse { path: path.to_path_buf() }),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let size_bytes = file.seek(SeekFrom::End(0)).map_err(failed)?;
        let geometry = Geometry { size_bytes, block_bytes };
        Ok(Self { file, geometry, counts: Counts::default() })
    }

    /// What it was asked for so far.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Whole blocks inside the disk, and nothing else.
    fn check(&self, offset: u64, bytes: usize) -> Result<(), DiskError> {
        let block = u64::from(self.geometry.block_bytes);
        let bytes = u64::try_from(bytes).map_err(|_| DiskError)?;
        let end = offset.checked_add(bytes).ok_or(DiskError)?;
        let whole = offset.is_multiple_of(block) && bytes.is_multiple_of(block);
        if whole && end <= self.geometry.size_bytes { Ok(()) } else { Err(DiskError) }
    }
}

impl Disk for FileDisk {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.check(offset, into.len())?;
        self.file.read_exact_at(into, offset).map_err(|_| DiskError)
    }

    fn write(&mut self, offset: u64, from: &[u8]) -> Result<(), DiskError> {
        self.check(offset, from.len())?;
        self.counts.writes += 1;
        self.counts.written_bytes += from.len() as u64;
        self.file.write_all_at(from, offset).map_err(|_| DiskError)
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        self.counts.flushes += 1;
        self.file.sync_data().map_err(|_| DiskError)
    }
}

#[cfg(test)]
mod tests {
    use super::{Counts, FileDisk, FileDiskError};
    use husk::seams::{Disk, DiskError};

    #[test]
    fn a_volume_has_one_user_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("volume");
        assert!(matches!(FileDisk::open(&path, 512), Err(FileDiskError::Open { .. })));
        std::fs::write(&path, [0; 4096]).unwrap();
        let first = FileDisk::open(&path, 512).unwrap();
        let second = FileDisk::open(&path, 512).unwrap_err();
        assert!(second.to_string().contains("in use by another process"), "{second}");
        drop(first);
        assert!(FileDisk::open(&path, 512).is_ok());
    }

    #[test]
    fn only_whole_blocks_inside_the_disk_are_read_and_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("volume");
        std::fs::write(&path, [0; 4096 + 100]).unwrap();
        for block_bytes in [0, 256, 513, 8192] {
            assert!(matches!(FileDisk::open(&path, block_bytes), Err(FileDiskError::BlockBytes { .. })));
        }
        let mut disk = FileDisk::open(&path, 512).unwrap();
        assert_eq!(disk.geometry().size_bytes, 4196);
        assert_eq!(disk.write(512, &[7; 1024]), Ok(()));
        assert_eq!(disk.flush(), Ok(()));
        let mut back = [0; 512];
        assert_eq!(disk.read(1024, &mut back), Ok(()));
        assert_eq!(back, [7; 512]);
        for (offset, bytes) in [(1, 512), (0, 511), (4096, 512), (u64::MAX - 511, 512)] {
            assert_eq!(disk.write(offset, &vec![0; bytes]), Err(DiskError));
            assert_eq!(disk.read(offset, &mut vec![0; bytes]), Err(DiskError));
        }
        assert_eq!(disk.counts(), Counts { writes: 1, written_bytes: 1024, flushes: 1 });
    }
}
