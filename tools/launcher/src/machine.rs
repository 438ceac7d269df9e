//! QEMU's command line: a machine in which nothing but the firmware's own devices can write memory.

use crate::disk;
use anyhow::anyhow;
use husk_firmware::guest::payload::PAYLOAD_AT;
use husk_firmware::memory::SECRETS_PAGE;
use husk_firmware::virtio::{CHANNEL_SLOT, VOLUME_SLOT};
use husk_firmware::wishes::{CrbPlace, Gate, PRIVATE_CRB, SVSM_CALLS, Ways};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};

/// How many processors the guest may have: the firmware has room for eight, and one of them serves.
pub const GUEST_CPUS_MAX: u8 = 7;

/// Features of EPYC that QEMU does not emulate, and would warn about.
const NOT_EMULATED: &str =
    "-rdseed,-sha-ni,-fxsr-opt,-misalignsse,-3dnowprefetch,-osvw,-topoext,-nrip-save,-xsavec";

/// How the machine's processors come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceleration {
    /// QEMU emulates them: slow, and the same everywhere.
    Emulation,
    /// The host's own, which must be AMD's with nested virtualisation switched on.
    Kvm,
}

/// A machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The image's ELF file.
    pub image: PathBuf,
    /// The payload's file.
    pub payload: PathBuf,
    /// The file with what the secrets page holds.
    pub secrets: PathBuf,
    /// The volume's file, if the TPM has one.
    pub volume: Option<PathBuf>,
    /// The unit that the volume's medium writes without touching neighbours, in bytes.
    pub block_bytes: u32,
    /// The guest's disk, if it has one.
    pub disk: Option<PathBuf>,
    /// The socket at which the channel's other end listens.
    pub channel: PathBuf,
    /// The socket at which QEMU takes control messages.
    pub control: PathBuf,
    /// How many processors the guest has.
    pub guest_cpus: u8,
    /// The whole machine's memory in MiB.
    pub memory_mib: u64,
    /// How much of it lies below 4 GiB, if that matters: see [`low_memory_mib`](crate::payload::Inputs::low_memory_mib).
    pub low_memory_mib: Option<u64>,
    /// How its processors come about.
    pub acceleration: Acceleration,
    /// How the guest reaches its TPM.
    pub ways: Ways,
    /// More words for QEMU.
    pub extra: Vec<String>,
}

impl Machine {
    /// The words of the command line, without the program.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut add = |line: &str| words.extend(line.split(' ').map(str::to_owned));
        add("-no-user-config -nodefaults -display none -serial stdio -no-reboot");
        // No SMM above the firmware; no AHCI, SMBus, HPET or VMware port, which a guest could have write memory.
        let low_memory = self.low_memory_mib.map(|mib| format!(",max-ram-below-4g={mib}M"));
        add(&format!(
            "-M q35,smm=off,sata=off,smbus=off,hpet=off,vmport=off{}",
            low_memory.unwrap_or_default()
        ));
        // The same for the firmware's configuration device.
        add("-global fw_cfg_io.dma_enabled=off");
        add(match self.acceleration {
            Acceleration::Emulation => "-accel tcg -cpu",
            Acceleration::Kvm => "-accel kvm -cpu host",
        });
        if self.acceleration == Acceleration::Emulation {
            add(&format!("EPYC,+svm,+npt,{NOT_EMULATED}"));
        }
        add(&format!("-smp {} -m {}M", u32::from(self.guest_cpus) + 1, self.memory_mib));
        add("-device isa-debug-exit,iobase=0xf4,iosize=0x04");
        words.extend(["-kernel".into(), self.image.display().to_string()]);
        let wishes = wishes(self.ways);
        if !wishes.is_empty() {
            words.extend(["-append".into(), wishes]);
        }
        for (file, at) in [(&self.payload, PAYLOAD_AT), (&self.secrets, SECRETS_PAGE.start)] {
            let file = escaped(file);
            words.extend(["-device".into(), format!("loader,file={file},addr={at:#x},force-raw=on")]);
        }
        words.extend(self.volume.iter().flat_map(|volume| volume_words(volume, self.block_bytes)));
        words.extend(self.channel_words());
        words.extend(self.disk.iter().flat_map(|disk| disk::words(disk)));
        let control = escaped(&self.control);
        words.extend(["-qmp".into(), format!("unix:{control},server=on,wait=off")]);
        words.extend(self.extra.iter().cloned());
        words
    }

    fn channel_words(&self) -> [String; 6] {
        let (channel, slot) = (escaped(&self.channel), CHANNEL_SLOT.0);
        [
            "-chardev".into(),
            format!("socket,id=channel,path={channel}"),
            "-device".into(),
            format!(
                "virtio-serial-pci,id=channel-port,bus=pcie.0,addr={slot:#x},disable-legacy=on,max_ports=1"
            ),
            "-device".into(),
            "virtconsole,bus=channel-port.0,chardev=channel".into(),
        ]
    }
}

/// What the image's command line says.
fn wishes(ways: Ways) -> String {
    let crb = (ways.crb == CrbPlace::Private).then_some(PRIVATE_CRB);
    let gate = (ways.gate == Gate::Open).then_some(SVSM_CALLS);
    crb.into_iter().chain(gate).collect::<Vec<_>>().join(" ")
}

/// A path in one of QEMU's comma-separated words.
pub(crate) fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// The command line as a shell would take it.
#[must_use]
pub fn shown(program: &Path, words: &[String]) -> String {
    let plain = |word: &str| {
        !word.is_empty()
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_=+,./:%@".contains(&byte))
    };
    let quoted =
        |word: &str| if plain(word) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) };
    let program = program.display().to_string();
    let words = std::iter::once(program.as_str()).chain(words.iter().map(String::as_str));
    words.map(quoted).collect::<Vec<_>>().join(" ")
}

/// Why this QEMU is not used.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// It does not start.
    #[error("{0} does not start: {1}; install qemu-system-x86, or name the program with --qemu")]
    NotThere(PathBuf, std::io::Error),
    /// It does not say its version.
    #[error("{0} does not say which version it is; name QEMU's x86-64 system emulator with --qemu")]
    Unknown(PathBuf),
    /// Its emulation has a known hole.
    #[error(
        "QEMU {0}.{1}.{2} lets a guest without paging reach all memory; use 7.2.15 or a later 7.2, or 9.2 or later"
    )]
    Leaky(u32, u32, u32),
    /// There is no nested virtualisation.
    #[error(
        "this host has no /dev/kvm with AMD's nested virtualisation ({0}); leave --accel away to emulate"
    )]
    NoKvm(&'static str),
}

/// The check that a program is a QEMU in which the firmware is kept from its guest. QEMU takes a while to say its version, so it is asked
/// beside whatever else a start needs.
#[derive(Debug)]
pub struct Check(JoinHandle<Result<(), QemuError>>);

impl Check {
    /// Asks `program`.
    #[must_use]
    pub fn begin(program: PathBuf, acceleration: Acceleration) -> Self {
        Self(thread::spawn(move || check(&program, acceleration)))
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// A [`QemuError`].
    pub fn passed(self) -> anyhow::Result<()> {
        Ok(self.0.join().map_err(|_| anyhow!("the check of QEMU broke off"))??)
    }
}

fn check(program: &Path, acceleration: Acceleration) -> Result<(), QemuError> {
    let output = Command::new(program).arg("--version").output();
    let output = output.map_err(|why| QemuError::NotThere(program.to_owned(), why))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = version(&text).ok_or_else(|| QemuError::Unknown(program.to_owned()))?;
    match acceleration {
        Acceleration::Emulation if !is_tight(version) => {
            Err(QemuError::Leaky(version.0, version.1, version.2))
        }
        Acceleration::Emulation => Ok(()),
        Acceleration::Kvm => nested(),
    }
}

fn nested() -> Result<(), QemuError> {
    if !Path::new("/dev/kvm").exists() {
        return Err(QemuError::NoKvm("no /dev/kvm"));
    }
    let parameter = std::fs::read_to_string("/sys/module/kvm_amd/parameters/nested").unwrap_or_default();
    if matches!(parameter.trim(), "1" | "Y") {
        Ok(())
    } else {
        Err(QemuError::NoKvm("kvm_amd.nested is not 1"))
    }
}

/// The numbers in `QEMU emulator version 7.2.22 (Debian …)`.
pub(crate) fn version(text: &str) -> Option<(u32, u32, u32)> {
    let (_, rest) = text.split_once("QEMU emulator version ")?;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let mut next = || numbers.next()?.ok();
    Some((next()?, next()?, next()?))
}

/// Whether the emulation walks the nested tables for a guest that has paging off.
const fn is_tight(version: (u32, u32, u32)) -> bool {
    matches!(version, (7, 2, 15..) | (9, 2.., _) | (10.., ..))
}

fn volume_words(volume: &Path, block_bytes: u32) -> [String; 4] {
    let (volume, slot) = (escaped(volume), VOLUME_SLOT.0);
    [
        "-drive".into(),
        // What is flushed is on the medium; what is not may be anywhere.
        format!("if=none,id=volume,format=raw,cache=writeback,file={volume}"),
        "-device".into(),
        format!(
            "virtio-blk-pci,bus=pcie.0,addr={slot:#x},drive=volume,disable-legacy=on,num-queues=1,\
             write-cache=on,logical_block_size=512,physical_block_size={block_bytes}"
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::{Acceleration, Machine, is_tight, shown, version};
    use husk_firmware::wishes::{CrbPlace, Gate, Ways, Wish};
    use std::path::Path;

    pub(crate) fn machine() -> Machine {
        Machine {
            image: "image".into(),
            payload: "pay,load".into(),
            secrets: "secrets".into(),
            volume: Some("volume".into()),
            block_bytes: 4096,
            disk: None,
            channel: "channel".into(),
            control: "control".into(),
            guest_cpus: 2,
            memory_mib: 1024,
            low_memory_mib: Some(314),
            acceleration: Acceleration::Emulation,
            ways: Ways { crb: CrbPlace::Trapped, gate: Gate::Closed },
            extra: vec!["-name".into(), "it's".into()],
        }
    }

    #[test]
    fn the_machine_has_no_device_that_a_guest_could_have_write_memory() {
        let line = machine().words().join(" ");
        for wanted in [
            "-M q35,smm=off,sata=off,smbus=off,hpet=off",
            ",max-ram-below-4g=314M ",
            "-global fw_cfg_io.dma_enabled=off",
            "-nodefaults",
            "-smp 3 -m 1024M",
            "virtio-blk-pci,bus=pcie.0,addr=0x10,drive=volume,disable-legacy=on",
            "virtio-serial-pci,id=channel-port,bus=pcie.0,addr=0x11",
            "physical_block_size=4096",
            "loader,file=pay,,load,addr=0x10800000,force-raw=on",
            "loader,file=secrets,addr=0x107ff000,force-raw=on",
        ] {
            assert!(line.contains(wanted), "{wanted} in {line}");
        }
    }

    #[test]
    fn a_tpm_that_keeps_nothing_has_no_disk() {
        let line = Machine { volume: None, ..machine() }.words().join(" ");
        assert!(!line.contains("virtio-blk") && !line.contains("volume"), "{line}");
    }

    /// The image's own grammar takes what is written here.
    #[test]
    fn the_image_is_asked_for_the_ways_that_were_chosen() {
        for crb in [CrbPlace::Trapped, CrbPlace::Private] {
            for gate in [Gate::Closed, Gate::Open] {
                let ways = Ways { crb, gate };
                let words = Machine { ways, ..machine() }.words();
                let at = words.iter().position(|word| word == "-append");
                let line = at.map_or("", |at| words[at + 1].as_str());
                assert_eq!(Wish::parse(line.as_bytes()), Some(Wish::Serve(ways)));
            }
        }
    }

    #[test]
    fn what_is_printed_is_what_a_shell_would_run() {
        let line = shown(Path::new("qemu"), &machine().words());
        assert!(line.starts_with("qemu -no-user-config") && line.ends_with("-name 'it'\\''s'"), "{line}");
    }

    #[test]
    fn a_qemu_with_the_hole_is_known_by_its_version() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright";
        assert_eq!(version(debian), Some((7, 2, 22)));
        assert_eq!(version("QEMU emulator version 10.0.8"), Some((10, 0, 8)));
        assert_eq!(version("qemu"), None);
        for tight in [(7, 2, 15), (7, 2, 22), (9, 2, 0), (10, 0, 0), (11, 1, 0)] {
            assert!(is_tight(tight), "{tight:?}");
        }
        for leaky in [(6, 2, 0), (7, 1, 99), (7, 2, 14), (8, 0, 0), (8, 2, 9), (9, 1, 0)] {
            assert!(!is_tight(leaky), "{leaky:?}");
        }
    }
}
