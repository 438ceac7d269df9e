//! What the boot loader says about the machine: PVH start information (Xen's `include/public/arch-x86/hvm/start_info.h`).
//!
//! All of it is an allegation: copied once, bounded, checked.

use crate::memory::{Kind, LAYER, Map, MapError, OutOfReach, Reach, Stretch, overlap};
use core::ops::Range;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// XEN_HVM_START_MAGIC_VALUE.
const MAGIC: u32 = 0x336E_C578;
/// XEN_HVM_MEMMAP_TYPE_RAM.
const TYPE_RAM: u32 = 1;
/// The longest command line that is looked at, in bytes.
const COMMAND_LINE_BYTES_MAX: usize = 256;

/// `struct hvm_start_info`, version 1.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    module_count: u32,
    module_list: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

/// `struct hvm_modlist_entry`.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Module {
    address: u64,
    size: u64,
    command_line: u64,
    reserved: u64,
}

/// `struct hvm_memmap_table_entry`.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct MemoryMapEntry {
    address: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

/// Why the start information is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootError {
    /// It is not there, or is something else, or an older version without a memory map.
    NotPvh,
    /// It points where nothing can be read.
    Dangling,
    /// The memory map is unsound.
    Map(MapError),
    /// The payload is not in RAM outside of the layer.
    PayloadMisplaced,
}

impl BootError {
    /// A number for the console.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::NotPvh => 1,
            Self::Dangling => 2,
            Self::Map(MapError::TooLong) => 3,
            Self::Map(MapError::OutOfRange) => 4,
            Self::Map(MapError::Overlap) => 5,
            Self::Map(MapError::LayerMissing) => 6,
            Self::PayloadMisplaced => 7,
        }
    }
}

impl From<OutOfReach> for BootError {
    fn from(_: OutOfReach) -> Self {
        Self::Dangling
    }
}

/// The machine as the loader describes it, checked.
#[derive(Clone, Debug)]
pub struct BootInfo {
    /// The memory map.
    pub map: Map,
    /// Where the payload lies (the loader's first module); it is RAM, and not the layer's.
    pub payload: Option<Range<u64>>,
    /// Where the ACPI root pointer is said to be; 0 if nowhere.
    pub rsdp: u64,
    /// The command line, as far as it fits.
    pub command_line: heapless::Vec<u8, COMMAND_LINE_BYTES_MAX>,
}

impl BootInfo {
    /// Reads and checks the start information at `address`.
    ///
    /// # Errors
    /// [`BootError`].
    pub fn read(address: u64, memory: &impl Reach) -> Result<Self, BootError> {
        let info: StartInfo = copy(memory, address)?;
        if info.magic != MAGIC || info.version == 0 {
            return Err(BootError::NotPvh);
        }
        let map = map(&info, memory)?;
        let payload = match info.module_count {
            0 => None,
            _ => Some(payload(&map, &copy(memory, info.module_list)?)?),
        };
        let command_line = command_line(info.command_line, memory)?;
        Ok(Self { map, payload, rsdp: info.rsdp, command_line })
    }
}

fn map(info: &StartInfo, memory: &impl Reach) -> Result<Map, BootError> {
    let mut stretches: heapless::Vec<Stretch, { crate::memory::ENTRIES_MAX }> = heapless::Vec::new();
    for index in 0..u64::from(info.memory_map_entries) {
        let offset = index * size_of::<MemoryMapEntry>() as u64;
        let entry: MemoryMapEntry = copy(memory, info.memory_map.checked_add(offset).ok_or(OutOfReach)?)?;
        let end = entry.address.checked_add(entry.size).ok_or(BootError::Map(MapError::OutOfRange))?;
        let kind = if entry.kind == TYPE_RAM { Kind::Ram } else { Kind::Reserved };
        let stretch = Stretch { range: entry.address..end, kind };
        stretches.push(stretch).map_err(|_| BootError::Map(MapError::TooLong))?;
    }
    Map::new(stretches).map_err(BootError::Map)
}

fn payload(map: &Map, module: &Module) -> Result<Range<u64>, BootError> {
    let end = module.address.checked_add(module.size).ok_or(BootError::PayloadMisplaced)?;
    let range = module.address..end;
    let sound = module.size > 0 && map.is(Kind::Ram, &range) && !overlap(&range, &LAYER);
    if sound { Ok(range) } else { Err(BootError::PayloadMisplaced) }
}

fn command_line(
    address: u64,
    memory: &impl Reach,
) -> Result<heapless::Vec<u8, COMMAND_LINE_BYTES_MAX>, BootError> {
    let mut line = heapless::Vec::new();
    while address != 0 && !line.is_full() {
        let mut byte = [0];
        memory.copy_in(address.checked_add(line.len() as u64).ok_or(OutOfReach)?, &mut byte)?;
        if byte == [0] || line.push(byte[0]).is_err() {
            break;
        }
    }
    Ok(line)
}

fn copy<T: FromBytes + IntoBytes + FromZeros>(memory: &impl Reach, address: u64) -> Result<T, OutOfReach> {
    let mut value = T::new_zeroed();
    memory.copy_in(address, value.as_mut_bytes())?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::{BootError, BootInfo, MAGIC, MemoryMapEntry, Module, StartInfo};
    use crate::guest::fakes::Memory;
    use crate::memory::{LAYER, Reach};
    use std::vec::Vec;
    use zerocopy::IntoBytes;

    struct World {
        info: StartInfo,
        module: Module,
        entries: Vec<MemoryMapEntry>,
    }

    impl World {
        fn new() -> Self {
            let info = StartInfo {
                magic: MAGIC,
                version: 1,
                flags: 0,
                module_count: 1,
                module_list: 0x200,
                command_line: 0x300,
                rsdp: 0xF_5000,
                memory_map: 0x400,
                memory_map_entries: 2,
                reserved: 0,
            };
            let module = Module { address: 0x2000_0000, size: 0x10_0000, command_line: 0, reserved: 0 };
            let entry = |address, size, kind| MemoryMapEntry { address, size, kind, reserved: 0 };
            let entries = [entry(0, 0x9_FC00, 1), entry(0x10_0000, 0x3FF0_0000, 1)].into();
            Self { info, module, entries }
        }

        fn read(&self) -> Result<BootInfo, BootError> {
            let mut low = Memory::of(4096);
            let mut put = |at, bytes: &[u8]| low.copy_out(at, bytes).expect("below 4 KiB");
            put(0x100, self.info.as_bytes());
            put(0x200, self.module.as_bytes());
            put(0x300, b"self-test\0");
            put(0x400, self.entries.as_bytes());
            BootInfo::read(0x100, &low)
        }
    }

    #[test]
    fn a_sound_machine_is_understood() {
        let info = World::new().read().expect("sound");
        assert_eq!(info.payload, Some(0x2000_0000..0x2010_0000));
        assert_eq!((info.rsdp, &info.command_line[..]), (0xF_5000, &b"self-test"[..]));
        let mut world = World::new();
        world.info.module_count = 0;
        assert_eq!(world.read().expect("sound").payload, None);
    }

    #[test]
    fn whatever_the_loader_says_is_bounded() {
        let refused = |change: fn(&mut World)| {
            let mut world = World::new();
            change(&mut world);
            world.read().expect_err("refused")
        };
        assert_eq!(refused(|world| world.info.magic ^= 1), BootError::NotPvh);
        assert_eq!(refused(|world| world.info.version = 0), BootError::NotPvh);
        assert_eq!(refused(|world| world.info.module_list = u64::MAX - 3), BootError::Dangling);
        assert_eq!(refused(|world| world.info.command_line = 1 << 40), BootError::Dangling);
        assert_eq!(refused(|world| world.info.memory_map = u64::MAX), BootError::Dangling);
        assert!(matches!(refused(|world| world.info.memory_map_entries = u32::MAX), BootError::Map(_)));
        assert!(matches!(refused(|world| world.entries[0].size = u64::MAX), BootError::Map(_)));
        for (address, size) in [
            (0x2000_0000, 0),
            (0x3FFF_F000, 0x2000),
            (LAYER.start - 4096, 8192),
            (LAYER.start, 16),
            (u64::MAX, 1),
        ] {
            let mut world = World::new();
            (world.module.address, world.module.size) = (address, size);
            assert_eq!(world.read().expect_err("refused"), BootError::PayloadMisplaced, "{address:#x}");
        }
    }
}
