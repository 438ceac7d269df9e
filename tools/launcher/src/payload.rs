//! Packing what the guest starts from, after checking it as the firmware will.

use crate::flash::Flash;
use husk::attest::launch::LaunchConfig;
use husk::fault::Fault;
use husk_firmware::guest::GuestFault;
use husk_firmware::guest::bzimage::{FRONT_BYTES, Header};
use husk_firmware::guest::map::{Map, Region, USABLE};
use husk_firmware::guest::payload::{PARTS, PAYLOAD_AT, Part, Shape};
use husk_firmware::guest::place::Place;
use husk_firmware::guest::uefi::{FLASH_END, Told};
use husk_firmware::memory::LAYER;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Where low memory ends on this machine, if there is so much.
const LOW_MEMORY_END: u64 = 2 << 30;
/// Low memory ends at a multiple of this many bytes, so that its tables stay few.
const LOW_MEMORY_UNIT: u64 = 2 << 20;
/// What the machine's firmware keeps at the end of low memory, in bytes.
const KEPT_BYTES: u64 = 0x4_0000;

/// What the machine's firmware writes to at the end of low memory before the image runs, and gives back: QEMU has put the payload there by
/// then. SeaBIOS 1.16 moves its own code to some 16 MiB below the end, and takes what it needs for a while from there down.
const USED_BYTES: u64 = 32 << 20;

/// A CRB in the guest's memory; one that is trapped takes nothing, and these pages decide nothing.
const CRB_BYTES: u64 = husk_firmware::crb_device::WINDOW_BYTES;

/// Why the inputs make no payload.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// A file cannot be read.
    #[error("cannot read the {what} {path}: {why}; check the path")]
    Read {
        /// Which of the inputs.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        why: io::Error,
    },
    /// The kernel is refused.
    #[error("the kernel {path}: {}; {}", why.means(), why.next())]
    Kernel {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: Fault,
    },
    /// The firmware is refused.
    #[error("{path} is no UEFI firmware of whole pages, at most 8 MiB; pass Debian's OVMF_CODE_4M.fd")]
    Firmware {
        /// Which file.
        path: PathBuf,
    },
    /// What is to be its variables is refused.
    #[error(
        "{path} is no store of a UEFI firmware's variables of whole pages, at most 528 KiB; pass the OVMF_VARS_4M.fd that came with the firmware"
    )]
    Variables {
        /// Which file.
        path: PathBuf,
    },
    /// The firmware's file has room for another store than that.
    #[error(
        "{path} has {bytes} bytes, and the firmware's own variables {firmware_bytes}; pass the store that came with the firmware"
    )]
    OtherVariables {
        /// Which file.
        path: PathBuf,
        /// How long it is.
        bytes: usize,
        /// How long the store in the firmware's file is.
        firmware_bytes: usize,
    },
    /// The launch configuration is refused.
    #[error("the launch configuration {path}: {}; {}", why.means(), why.next())]
    Config {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: Fault,
    },
    /// The guest does not fit.
    #[error("{memory_mib} MiB are too few: {} MiB of them are the firmware's and the payload's, and the guest needs its kernel and a copy of its initrd besides; give more --memory", hidden_bytes >> 20)]
    TooLittleMemory {
        /// What was asked for.
        memory_mib: u64,
        /// What the guest does not get.
        hidden_bytes: u64,
    },
    /// A part is too long, or the command line holds a zero byte.
    #[error("{what} has {bytes} bytes, which is not possible; {hint}")]
    Length {
        /// Which of the inputs.
        what: &'static str,
        /// How long it is.
        bytes: usize,
        /// What to do.
        hint: &'static str,
    },
}

/// Where everything is that a guest starts from.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'s> {
    /// The kernel; none where a firmware has nothing to load.
    pub kernel: Option<&'s Path>,
    /// The initial RAM file system.
    pub initrd: Option<&'s Path>,
    /// What the kernel is told.
    pub command_line: &'s str,
    /// The launch configuration.
    pub config: &'s Path,
    /// The guest's own firmware.
    pub firmware: Option<&'s Path>,
    /// What that one's variables are before any are kept; otherwise those in its own file, if there are any.
    pub variables: Option<&'s Path>,
}

/// What a guest starts from.
#[derive(Clone, Debug)]
pub struct Inputs {
    flash: Flash,
    kernel: Vec<u8>,
    initrd: Vec<u8>,
    command_line: String,
    config: Vec<u8>,
    /// What the configuration says.
    pub launch: LaunchConfig,
    shape: Shape,
}

impl Inputs {
    /// Reads and checks everything that the firmware will check.
    ///
    /// # Errors
    /// [`PayloadError`].
    pub fn read(sources: &Sources<'_>, memory_mib: u64) -> Result<Self, PayloadError> {
        let Sources { command_line, config: config_path, .. } = *sources;
        let some = |what, path: Option<&Path>| path.map_or(Ok(Vec::new()), |path| read(what, path));
        let kernel = some("kernel", sources.kernel)?;
        let initrd = some("initrd", sources.initrd)?;
        let config = read("launch configuration", config_path)?;
        let launch = parse_config(&config)
            .map_err(|why| PayloadError::Config { path: config_path.to_owned(), why })?;
        let flash =
            sources.firmware.map_or(Ok(Flash::default()), |path| Flash::read(path, sources.variables))?;
        let header = match (sources.firmware, sources.kernel) {
            (Some(_), _) => None,
            (None, path) => Some(header(&kernel, command_line).map_err(|why| PayloadError::Kernel {
                path: path.unwrap_or(Path::new("")).to_owned(),
                why: why.fault(),
            })?),
        };
        let parts =
            [&kernel[..], &initrd, command_line.as_bytes(), &config, &flash.firmware, &flash.variables];
        let shape = Shape::of(parts.map(|part| part.len() as u64)).map_err(|_| too_long(&parts))?;
        if command_line.contains('\0') {
            return Err(too_long(&parts));
        }
        fits(header.as_ref(), &shape, memory_mib)?;
        Ok(Self { flash, kernel, initrd, command_line: command_line.to_owned(), config, launch, shape })
    }

    /// The guest's flash; empty without a firmware of its own.
    #[must_use]
    pub const fn flash(&self) -> &Flash {
        &self.flash
    }

    /// Where low memory is to end, in MiB, for a guest with a firmware of its own: that one's own ends where the layer's begins, and
    /// goes on above 4 GiB.
    #[must_use]
    pub fn low_memory_mib(&self) -> Option<u64> {
        (!self.flash.firmware.is_empty()).then(|| low_end(&self.shape) >> 20)
    }

    /// Writes the payload.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, into: &mut impl Write) -> io::Result<()> {
        let mut at = 0;
        let mut put = |offset: u64, bytes: &[u8]| {
            io::copy(&mut io::Read::take(io::repeat(0), offset - at), into)?;
            into.write_all(bytes)?;
            at = offset + bytes.len() as u64;
            Ok::<(), io::Error>(())
        };
        put(0, &self.shape.header())?;
        let Flash { firmware, variables } = &self.flash;
        let parts =
            [&self.kernel[..], &self.initrd, self.command_line.as_bytes(), &self.config, firmware, variables];
        for (part, bytes) in Part::ALL.into_iter().zip(parts) {
            put(self.shape.part(part).offset, bytes)?;
        }
        put(self.shape.bytes(), &[])
    }
}

pub(crate) fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, PayloadError> {
    fs::read(path).map_err(|why| PayloadError::Read { what, path: path.to_owned(), why })
}

fn parse_config(bytes: &[u8]) -> Result<LaunchConfig, Fault> {
    let config = LaunchConfig::parse(bytes)?;
    config.supported()?;
    Ok(config)
}

fn header(kernel: &[u8], command_line: &str) -> Result<Header, GuestFault> {
    let front = kernel.first_chunk::<FRONT_BYTES>().ok_or(GuestFault::KernelMalformed)?;
    let header = Header::parse(front, kernel.len() as u64)?;
    let fits = command_line.len() as u64 <= header.command_line_bytes_max;
    if fits { Ok(header) } else { Err(GuestFault::CommandLineTooLong) }
}

/// Which part it was.
fn too_long(parts: &[&[u8]; PARTS]) -> PayloadError {
    let named = [
        ("the kernel", "pass the distribution's vmlinuz"),
        ("the initrd", "2 GiB is the most"),
        ("the command line", "give at most 2047 bytes, none of them zero"),
        ("the launch configuration", "pass the file that `husk vm enroll` wrote"),
        ("the firmware", "8 MiB is the most"),
        ("the firmware's variables", "528 KiB are the most"),
    ];
    let wrong = Part::ALL.iter().zip(parts).position(|(part, bytes)| {
        let (least, most) = part.bounds();
        !(least..=most).contains(&(bytes.len() as u64))
    });
    let index = wrong.unwrap_or(Part::CommandLine as usize);
    let (what, hint) = named[index];
    PayloadError::Length { what, bytes: parts[index].len(), hint }
}

/// Whether the firmware will find a place for everything in a machine with so much memory.
fn fits(header: Option<&Header>, shape: &Shape, memory_mib: u64) -> Result<(), PayloadError> {
    let low_memory_end = if header.is_some() { LOW_MEMORY_END } else { low_end(shape) };
    let low_end = (memory_mib << 20).min(low_memory_end).saturating_sub(KEPT_BYTES);
    let hidden = [LAYER, PAYLOAD_AT..PAYLOAD_AT + shape.bytes()];
    let hidden_bytes = hidden.iter().map(|range| range.end - range.start).sum();
    let too_little = |_| PayloadError::TooLittleMemory { memory_mib, hidden_bytes };
    if PAYLOAD_AT + shape.bytes() + USED_BYTES > (memory_mib << 20).min(low_memory_end) {
        return Err(too_little(GuestFault::NoRoom));
    }
    let region = |start, end| Region { start, end, kind: USABLE };
    let map = Map::of([region(0, 0x9_F000), region(0x10_0000, low_end)]).map_err(too_little)?;
    match header {
        Some(header) => {
            Place::find(&map, &hidden, header, shape.part(Part::Initrd).bytes, CRB_BYTES).map(drop)
        }
        None => Told::find(&map, &hidden).map(drop),
    }
    .map_err(too_little)
}

/// The end of low memory for a guest with a firmware: right behind the payload.
const fn low_end(shape: &Shape) -> u64 {
    let end = PAYLOAD_AT + shape.bytes() + USED_BYTES;
    let end = end.next_multiple_of(LOW_MEMORY_UNIT);
    if end < FLASH_END { end } else { FLASH_END }
}

#[cfg(test)]
mod tests {
    use super::{Inputs, PayloadError, Sources};
    use husk::attest::launch::{Kbs, LaunchConfig, Mode, Serve};
    use husk_firmware::guest::payload::{HEADER_BYTES, Part, Shape};
    use std::path::Path;

    /// A folder with a kernel of 12 KiB that wants 32 MiB at 16 MiB, an initrd and a configuration.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let mut kernel = vec![0xC0; 0x3000];
        kernel[0x1F1] = 1;
        kernel[0x1FE..0x200].copy_from_slice(&[0x55, 0xAA]);
        kernel[0x200..0x208].copy_from_slice(b"\xEB\x6AHdrS\x0F\x02");
        kernel[0x211] = 1;
        kernel[0x22C..0x230].copy_from_slice(&0x7FFF_FFFFu32.to_le_bytes());
        kernel[0x230..0x234].copy_from_slice(&0x20_0000u32.to_le_bytes());
        kernel[0x238..0x23C].copy_from_slice(&2047u32.to_le_bytes());
        kernel[0x258..0x260].copy_from_slice(&0x100_0000u64.to_le_bytes());
        kernel[0x260..0x264].copy_from_slice(&0x200_0000u32.to_le_bytes());
        std::fs::write(folder.path().join("kernel"), kernel).unwrap();
        std::fs::write(folder.path().join("initrd"), [0x1D; 5000]).unwrap();
        let config = LaunchConfig {
            tenant: [1; 16],
            vm: [2; 16],
            root: [3; 48],
            mode: Mode::Strict,
            serve: Serve::Lease,
            kbs: Kbs::None,
            min_key_generation: 0,
            processor: None,
            staleness: None,
            variables: None,
        };
        let mut text = String::new();
        config.write(&mut text).unwrap();
        std::fs::write(folder.path().join("config"), text).unwrap();
        folder
    }

    fn read(folder: &Path, command_line: &str, memory_mib: u64) -> Result<Inputs, PayloadError> {
        let [kernel, initrd, config] = ["kernel", "initrd", "config"].map(|name| folder.join(name));
        let sources = Sources {
            kernel: Some(&kernel),
            initrd: Some(&initrd),
            command_line,
            config: &config,
            firmware: None,
            variables: None,
        };
        Inputs::read(&sources, memory_mib)
    }

    /// A firmware of 8 KiB.
    fn firmware() -> Vec<u8> {
        let mut firmware = vec![0xF0; 0x2000];
        firmware[40..44].copy_from_slice(b"_FVH");
        firmware
    }

    #[test]
    fn the_firmware_reads_what_is_written() {
        let folder = folder();
        let inputs = read(folder.path(), "console=ttyS0", 512).unwrap();
        let mut blob = Vec::new();
        inputs.write(&mut blob).unwrap();
        let shape = Shape::parse(blob[..HEADER_BYTES].try_into().unwrap()).unwrap();
        assert_eq!(shape.bytes(), blob.len() as u64);
        let part = |part| {
            let extent = shape.part(part);
            let start = usize::try_from(extent.offset).unwrap();
            &blob[start..start + usize::try_from(extent.bytes).unwrap()]
        };
        assert_eq!(part(Part::Initrd), [0x1D; 5000]);
        assert_eq!(part(Part::CommandLine), b"console=ttyS0");
        assert_eq!(part(Part::Kernel), std::fs::read(folder.path().join("kernel")).unwrap());
    }

    #[test]
    fn a_uefi_firmware_is_packed_with_any_kernel_or_none_and_its_memory_ends_at_the_layer() {
        let folder = folder();
        let config = folder.path().join("config");
        let path = folder.path().join("firmware");
        let sources = Sources {
            kernel: None,
            initrd: None,
            command_line: "",
            config: &config,
            firmware: Some(&path),
            variables: None,
        };
        std::fs::write(&path, firmware()).unwrap();
        let inputs = Inputs::read(&sources, 512).unwrap();
        assert_eq!(
            inputs.low_memory_mib(),
            Some(298),
            "256, the layer's 8, what SeaBIOS uses, and the payload"
        );
        let mut blob = Vec::new();
        inputs.write(&mut blob).unwrap();
        let shape = Shape::parse(blob[..HEADER_BYTES].try_into().unwrap()).unwrap();
        assert_eq!(shape.part(Part::Firmware).bytes, 0x2000);
        assert!(blob.ends_with(&firmware()));
        let program = folder.path().join("initrd");
        assert!(Inputs::read(&Sources { kernel: Some(&program), ..sources }, 512).is_ok());
        let too_little = Inputs::read(&sources, 200).err().unwrap().to_string();
        assert!(too_little.contains("give more --memory"), "{too_little}");
        for wrong in [&firmware()[..0x1800], &[0; 0x2000], &[], &firmware().repeat(1025)] {
            std::fs::write(&path, wrong).unwrap();
            let refused = Inputs::read(&sources, 512).err().unwrap();
            assert!(matches!(refused, PayloadError::Firmware { .. }), "{refused}");
        }
    }

    #[test]
    fn what_the_firmware_would_refuse_is_refused_before_anything_starts() {
        let folder = folder();
        let refused = |command_line: &str, memory_mib| {
            read(folder.path(), command_line, memory_mib)
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default()
        };
        assert!(refused("console=ttyS0", 200).contains("give more --memory"));
        assert!(refused(&"x".repeat(2048), 512).contains("shorten the command line"));
        assert!(refused("a\0b", 512).contains("the command line"));
        let kernel = std::fs::read(folder.path().join("kernel")).unwrap();
        std::fs::write(folder.path().join("kernel"), [0; 0x3000]).unwrap();
        assert!(refused("", 512).contains("not a bzImage"));
        std::fs::write(folder.path().join("kernel"), kernel).unwrap();
        std::fs::write(folder.path().join("config"), b"mode = 7").unwrap();
        assert!(refused("", 512).contains("husk vm enroll"));
    }
}
