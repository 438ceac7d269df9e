//! Parts of a guest's disk, of which somebody who has it changes one byte.

use super::copied;
use crate::failure::Failure;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

/// Blocks of a disk, of which its partition table counts.
const BLOCK: usize = 512;

/// A part of the disk that is altered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// A section of the kernel image on the first partition, by its name.
    Section(&'static str),
    /// The root's superblock.
    Root,
    /// The hashes of the root.
    Hashes,
}

/// A copy of the disk with one byte of a part changed.
pub(super) fn altered(disk: &Path, kernel_image: &Path, part: Part, copy: &Path) -> Result<(), Failure> {
    copied(disk, copy)?;
    let at = match part {
        Part::Section(name) => section(copy, kernel_image, name)?,
        // The superblock of erofs begins at 1024 (Linux, Documentation/filesystems/erofs.rst): the first block that is read.
        Part::Root => partition(copy, 1)? + 1024 + 64,
        // The topmost block of hashes is the first behind the superblock of a block (cryptsetup, docs/on-disk-format-verity), and begins with a hash that is used.
        Part::Hashes => partition(copy, 2)? + 4096,
    };
    let mut byte = bytes(copy, at, 1)?;
    byte.iter_mut().for_each(|byte| *byte ^= 1);
    overwritten(copy, at, &byte)
}

/// Writes into a file.
pub(super) fn overwritten(file: &Path, at: u64, bytes: &[u8]) -> Result<(), Failure> {
    let io = |error| Failure::io("alter", file, &error);
    let mut open = File::options().write(true).open(file).map_err(io)?;
    open.seek(SeekFrom::Start(at)).and_then(|_| open.write_all(bytes)).map_err(io)
}

/// Where a partition begins (UEFI 2.10, section 5.3.3: entries of 128 bytes from block 2 on, the first block at 32), in bytes.
pub(super) fn partition(disk: &Path, index: u64) -> Result<u64, Failure> {
    let first = bytes(disk, 2 * BLOCK as u64 + index * 128 + 32, 8)?;
    number(&first, 0, 8)
        .map(|first| first * BLOCK as u64)
        .ok_or_else(|| Failure::failed("peers: no partition table"))
}

/// The middle of a section of the kernel image, which lies in one piece on the first partition.
fn section(disk: &Path, kernel_image: &Path, name: &str) -> Result<u64, Failure> {
    let image = fs::read(kernel_image).map_err(|error| Failure::io("read", kernel_image, &error))?;
    let [begin, end] = [partition(disk, 0)?, partition(disk, 1)?];
    let esp = bytes(disk, begin, end - begin)?;
    let whole = |block: &&[u8]| block.starts_with(&image);
    let blocks = (0..esp.len()).step_by(BLOCK).filter_map(|at| esp.get(at..));
    let found = blocks.into_iter().find(whole).map(<[u8]>::len);
    let lacking = |what: &str| Failure::failed(format!("peers: {what} is not where it should be"));
    let image_at = end - found.ok_or_else(|| lacking("the kernel image"))? as u64;
    Ok(image_at + middle_of(&image, name).ok_or_else(|| lacking(name))?)
}

/// The middle of what a section holds: its length in memory, from where it lies in the file (Microsoft, "PE Format": the header's place at 0x3C; sections, and the optional header's size, at 6 and
/// 20 of it; an entry of 40 bytes has the name first, the length at 8, the place at 20).
fn middle_of(image: &[u8], name: &str) -> Option<u64> {
    let header = usize::try_from(number(image, 0x3C, 4)?).ok()?;
    let sections = number(image, header + 6, 2)?;
    let table = header + 24 + usize::try_from(number(image, header + 20, 2)?).ok()?;
    let mut entries = (0..usize::try_from(sections).ok()?).map(|index| table + index * 40);
    let entry = entries.find(|at| {
        let named = image.get(*at..*at + 8).map(|named| named.split(|byte| *byte == 0).next());
        named == Some(Some(name.as_bytes()))
    })?;
    Some(number(image, entry + 20, 4)? + number(image, entry + 8, 4)? / 2)
}

/// A little-endian number.
fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + len)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// Reads from a file.
pub(super) fn bytes(file: &Path, at: u64, len: u64) -> Result<Vec<u8>, Failure> {
    let io = |error| Failure::io("read", file, &error);
    let mut bytes = Vec::new();
    let mut file = File::open(file).map_err(io)?;
    file.seek(SeekFrom::Start(at)).map_err(io)?;
    file.take(len).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::middle_of;

    #[test]
    fn a_section_is_found_by_its_name() {
        let mut image = vec![0; 0x200];
        image[0x3C] = 0x40;
        image[0x46] = 2;
        image[0x54] = 0x10;
        for (entry, name, len, place) in [(0x68, ".cmdline", 8, 1), (0x90, ".initrd", 4, 2)] {
            image[entry..entry + name.len()].copy_from_slice(name.as_bytes());
            image[entry + 8] = len;
            image[entry + 21] = place;
        }
        assert_eq!(middle_of(&image, ".cmdline"), Some(0x104));
        assert_eq!(middle_of(&image, ".initrd"), Some(0x202));
        assert_eq!(middle_of(&image, ".linux"), None);
        assert_eq!(middle_of(&image[..0x80], ".initrd"), None);
    }
}
