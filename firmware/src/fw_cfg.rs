//! The configuration device that a UEFI firmware reads (QEMU, `docs/specs/fw_cfg.rst`), as the layer answers for it.
//!
//! The machine's own device is the host's, and is out of the guest's reach: what a guest's firmware is told of its machine was measured, or
//! is the layer's own word. There is no DMA, and nothing can be written.

use crate::guest::GuestFault;
use crate::memory::Reach;
use core::ops::Range;
use spin::{Mutex, MutexGuard};
use zerocopy::IntoBytes;
use zerocopy::byteorder::big_endian::{U16, U32};

/// The port that chooses an item, and the one that its bytes come from.
pub const SELECTOR: u16 = 0x510;
/// See [`SELECTOR`].
pub const DATA: u16 = 0x511;

/// Keys of items (section "Selector (Control) Register" and `include/standard-headers/linux/qemu_fw_cfg.h`).
mod key {
    pub(super) const SIGNATURE: u16 = 0x00;
    pub(super) const INTERFACE: u16 = 0x01;
    pub(super) const PROCESSORS: u16 = 0x05;
    pub(super) const KERNEL_SIZE: u16 = 0x08;
    pub(super) const INITRD_SIZE: u16 = 0x0B;
    pub(super) const PROCESSORS_MAX: u16 = 0x0F;
    pub(super) const KERNEL: u16 = 0x11;
    pub(super) const INITRD: u16 = 0x12;
    pub(super) const COMMAND_LINE_SIZE: u16 = 0x14;
    pub(super) const COMMAND_LINE: u16 = 0x15;
    pub(super) const DIRECTORY: u16 = 0x19;
    pub(super) const FIRST_FILE: u16 = 0x20;
}

/// The interface by ports, and nothing else.
const BY_PORTS: u32 = 1;
/// Room for what the layer writes itself: the ACPI tables and the rest.
const BYTES_MAX: usize = 96 * 1024;
const ITEMS_MAX: usize = 24;
const FILES_MAX: usize = 8;
/// Size of a file's name, terminated.
const NAME_BYTES: usize = 56;
const ENTRY_BYTES: usize = 64;

static CABINET: Mutex<Cabinet> = Mutex::new(Cabinet::empty());

/// The one that the guest reads.
pub fn cabinet() -> MutexGuard<'static, Cabinet> {
    CABINET.lock()
}

#[derive(Clone, Debug)]
enum Content {
    /// In the cabinet.
    Here(Range<usize>),
    /// In memory that no guest reaches.
    There(Range<u64>),
}

/// Items by their keys, and which of them is being read.
#[derive(Debug)]
pub struct Cabinet {
    bytes: heapless::Vec<u8, BYTES_MAX>,
    items: heapless::Vec<(u16, Content), ITEMS_MAX>,
    directory: heapless::Vec<[u8; ENTRY_BYTES], FILES_MAX>,
    selected: u16,
    at: u64,
}

/// A file's entry in the directory.
#[derive(IntoBytes, zerocopy::Immutable)]
#[repr(C)]
struct Entry {
    bytes: U32,
    key: U16,
    reserved: [u8; 2],
    name: [u8; NAME_BYTES],
}

/// A kernel to hand over, by physical addresses that no guest reaches.
#[derive(Clone, Debug)]
pub struct Kernel<'k> {
    /// The file.
    pub file: Range<u64>,
    /// The initrd's; may be empty.
    pub initrd: Range<u64>,
    /// What it is told, without a terminator.
    pub command_line: &'k [u8],
}

impl Cabinet {
    /// A device that is not there: every item is empty.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            bytes: heapless::Vec::new(),
            items: heapless::Vec::new(),
            directory: heapless::Vec::new(),
            selected: 0,
            at: 0,
        }
    }

    /// Begins anew, for a machine with so many processors.
    ///
    /// # Errors
    /// As [`file`](Self::file).
    pub fn begin(&mut self, processors: u16) -> Result<(), GuestFault> {
        self.bytes.clear();
        self.items.clear();
        self.directory.clear();
        self.select(key::SIGNATURE);
        self.put(key::SIGNATURE, &[b"QEMU"])?;
        self.put(key::INTERFACE, &[&BY_PORTS.to_le_bytes()])?;
        self.put(key::PROCESSORS, &[&processors.to_le_bytes()])?;
        self.put(key::PROCESSORS_MAX, &[&processors.to_le_bytes()])
    }

    /// Adds a kernel.
    ///
    /// # Errors
    /// As [`file`](Self::file).
    pub fn kernel(&mut self, kernel: &Kernel<'_>) -> Result<(), GuestFault> {
        self.refer(key::KERNEL_SIZE, key::KERNEL, &kernel.file)?;
        self.refer(key::INITRD_SIZE, key::INITRD, &kernel.initrd)?;
        let bytes = u32::try_from(kernel.command_line.len() + 1).map_err(|_| GuestFault::OutOfRange)?;
        self.put(key::COMMAND_LINE_SIZE, &[&bytes.to_le_bytes()])?;
        self.put(key::COMMAND_LINE, &[kernel.command_line, b"\0"])
    }

    /// Adds a file of these pieces.
    ///
    /// # Errors
    /// [`GuestFault::TablesTooLarge`] if it does not fit.
    pub fn file(&mut self, name: &str, content: &[&[u8]]) -> Result<(), GuestFault> {
        let number = u16::try_from(self.directory.len()).map_err(|_| GuestFault::TablesTooLarge)?;
        let key = key::FIRST_FILE + number;
        self.put(key, content)?;
        let bytes = u32::try_from(content.iter().map(|piece| piece.len()).sum::<usize>());
        let bytes = bytes.map_err(|_| GuestFault::TablesTooLarge)?;
        let entry = Entry {
            bytes: U32::new(bytes),
            key: U16::new(key),
            reserved: [0; 2],
            name: file_name(name).ok_or(GuestFault::TablesTooLarge)?,
        };
        let mut raw = [0; ENTRY_BYTES];
        raw.copy_from_slice(entry.as_bytes());
        self.directory.push(raw).map_err(|_| GuestFault::TablesTooLarge)
    }

    /// Nothing more comes: the directory is written.
    ///
    /// # Errors
    /// As [`file`](Self::file).
    pub fn close(&mut self) -> Result<(), GuestFault> {
        let directory = self.directory.clone();
        let count = u32::try_from(directory.len()).map_err(|_| GuestFault::TablesTooLarge)?;
        self.put(key::DIRECTORY, &[&count.to_be_bytes(), directory.as_flattened()])
    }

    /// The guest chooses an item, which is then read from its beginning.
    pub const fn select(&mut self, key: u16) {
        self.selected = key;
        self.at = 0;
    }

    /// The next bytes of the chosen item; zeros behind its end, and where there is none.
    pub fn read(&mut self, ram: &dyn Reach, into: &mut [u8]) {
        into.fill(0);
        let item = self.items.iter().find(|(key, _)| *key == self.selected);
        let at = self.at;
        self.at = at.saturating_add(into.len() as u64);
        match item {
            Some((_, Content::Here(range))) => {
                let rest = usize::try_from(at).ok().and_then(|at| self.bytes.get(range.clone())?.get(at..));
                for (byte, from) in into.iter_mut().zip(rest.unwrap_or_default()) {
                    *byte = *from;
                }
            }
            Some((_, Content::There(range))) => {
                let left = (range.end - range.start).saturating_sub(at);
                let bytes = usize::try_from(left).unwrap_or(usize::MAX).min(into.len());
                let into = &mut into[..bytes];
                if bytes > 0 && ram.copy_in(range.start + at, into).is_err() {
                    into.fill(0);
                }
            }
            None => {}
        }
    }

    fn put(&mut self, key: u16, content: &[&[u8]]) -> Result<(), GuestFault> {
        let start = self.bytes.len();
        for piece in content {
            self.bytes.extend_from_slice(piece).map_err(|_| GuestFault::TablesTooLarge)?;
        }
        let item = (key, Content::Here(start..self.bytes.len()));
        self.items.push(item).map_err(|_| GuestFault::TablesTooLarge)
    }

    fn refer(&mut self, size_key: u16, key: u16, range: &Range<u64>) -> Result<(), GuestFault> {
        let bytes = u32::try_from(range.end - range.start).map_err(|_| GuestFault::OutOfRange)?;
        self.put(size_key, &[&bytes.to_le_bytes()])?;
        self.items.push((key, Content::There(range.clone()))).map_err(|_| GuestFault::TablesTooLarge)
    }
}

/// A name as directories and the tables' loader have it: terminated. `None` for one that is too long.
#[must_use]
pub fn file_name(name: &str) -> Option<[u8; NAME_BYTES]> {
    let mut field = [0; NAME_BYTES];
    field[..NAME_BYTES - 1].get_mut(..name.len())?.copy_from_slice(name.as_bytes());
    Some(field)
}

#[cfg(test)]
mod tests {
    use super::{BYTES_MAX, Cabinet, Kernel, key};
    use crate::guest::GuestFault;
    use crate::guest::fakes::Memory;
    use crate::memory::Reach;
    use std::boxed::Box;
    use std::vec;
    use std::vec::Vec;

    fn filled() -> Box<Cabinet> {
        let mut cabinet = Box::new(Cabinet::empty());
        cabinet.begin(3).unwrap();
        let kernel = Kernel { file: 0x100..0x105, initrd: 0x200..0x200, command_line: b"quiet" };
        cabinet.kernel(&kernel).unwrap();
        cabinet.file("etc/e820", &[b"ab", b"c"]).unwrap();
        cabinet.close().unwrap();
        cabinet
    }

    fn memory() -> Memory {
        let mut memory = Memory::of(0x1000);
        memory.copy_out(0x100, b"kernel and what lies behind it").unwrap();
        memory
    }

    fn item(cabinet: &mut Cabinet, key: u16, bytes: usize) -> Vec<u8> {
        let mut found = vec![0xEE; bytes];
        cabinet.select(key);
        cabinet.read(&memory(), &mut found);
        found
    }

    /// EDK II falls back to a loader of its own, past Secure Boot, for a kernel that is refused (`OvmfPkg/Library/X86QemuLoadImageLib`): it begins with the size of the kernel's
    /// setup, and gives up where that is zero.
    #[test]
    fn a_kernel_that_secure_boot_refuses_is_not_loaded_by_another_way() {
        const SETUP_SIZE: u16 = 0x17;
        const SETUP: u16 = 0x18;
        let cabinet = &mut filled();
        assert_eq!(item(cabinet, SETUP_SIZE, 4), [0; 4]);
        assert_eq!(item(cabinet, SETUP, 8), [0; 8]);
    }

    #[test]
    fn items_are_what_the_specification_says() {
        let cabinet = &mut filled();
        assert_eq!(item(cabinet, key::SIGNATURE, 5), b"QEMU\0");
        assert_eq!(item(cabinet, key::INTERFACE, 4), [1, 0, 0, 0], "no DMA");
        assert_eq!(item(cabinet, key::PROCESSORS, 2), [3, 0]);
        assert_eq!(item(cabinet, key::KERNEL_SIZE, 4), [5, 0, 0, 0]);
        assert_eq!(item(cabinet, key::COMMAND_LINE, 6), b"quiet\0");
        let directory = item(cabinet, key::DIRECTORY, 68);
        assert_eq!(directory[..10], [0, 0, 0, 1, 0, 0, 0, 3, 0, 0x20]);
        assert_eq!(directory[12..21], *b"etc/e820\0");
        assert_eq!(item(cabinet, 0x20, 4), *b"abc\0");
    }

    #[test]
    fn what_lies_behind_an_item_is_never_read() {
        let cabinet = &mut filled();
        assert_eq!(item(cabinet, key::KERNEL, 8), b"kerne\0\0\0");
        assert_eq!(item(cabinet, key::INITRD, 3), [0; 3]);
        assert_eq!(item(cabinet, 0x4711, 3), [0; 3]);
        cabinet.select(key::KERNEL);
        let mut pieces = [[0xEE; 3]; 3];
        for piece in &mut pieces {
            cabinet.read(&memory(), piece);
        }
        assert_eq!(pieces.as_flattened(), b"kerne\0\0\0\0");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let cabinet = &mut filled();
        let large = vec![0; BYTES_MAX];
        assert_eq!(cabinet.file("etc/large", &[&large]), Err(GuestFault::TablesTooLarge));
        assert_eq!(cabinet.file(&"x".repeat(56), &[]), Err(GuestFault::TablesTooLarge));
    }
}
