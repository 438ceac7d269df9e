//! What a host needs to start a VM under SEV-SNP from an IGVM file, and whether it is there.

use crate::machine;
use std::arch::x86_64::__cpuid;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The first kernel whose KVM starts SEV-SNP guests without patches.
const KERNEL_MIN: (u32, u32) = (6, 11);
/// The first QEMU that starts IGVM files.
const QEMU_MIN: (u32, u32, u32) = (10, 1, 0);
/// The word for SEV-SNP among a processor's flags in `/proc/cpuinfo`.
const CPU_FLAG: &str = "sev_snp";
/// CPUID function with the position of the C-bit (AMD 24594, Fn8000_001F).
const CPUID_ENCRYPTION: u32 = 0x8000_001F;
/// QEMU's property of machine q35 that gives an SVSM its own virtio-mmio slots.
pub const SVSM_SLOTS: &str = "x-svsm-virtio-mmio";

/// What is looked at: a host, or a folder that looks like one.
#[derive(Clone, Debug)]
pub struct Probe {
    root: PathBuf,
    qemu: PathBuf,
    /// EAX and EBX of CPUID function 0x8000001F.
    encryption: (u32, u32),
}

/// Whether a piece is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is, and serves.
    Ready,
    /// It is not, or cannot be told.
    Missing,
}

impl State {
    /// As one word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Missing => "missing",
        }
    }
}

/// One piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name, stable.
    pub name: &'static str,
    /// Whether it is there.
    pub state: State,
    /// What was looked at, and what was seen there.
    pub seen: String,
    /// What to do where it is missing.
    pub advice: &'static str,
}

/// What was seen: good or not.
type Seen = Result<String, String>;

impl Probe {
    /// This host, with `qemu` as QEMU's x86-64 system emulator.
    #[must_use]
    pub fn this_host(qemu: &Path) -> Self {
        let highest = __cpuid(0x8000_0000).eax;
        let found = if highest >= CPUID_ENCRYPTION {
            let leaf = __cpuid(CPUID_ENCRYPTION);
            (leaf.eax, leaf.ebx)
        } else {
            (0, 0)
        };
        Self { root: "/".into(), qemu: qemu.to_owned(), encryption: found }
    }

    /// What looks like a host below `root`, with EAX and EBX of CPUID function 0x8000001F.
    #[must_use]
    pub fn below(root: &Path, qemu: &Path, encryption: (u32, u32)) -> Self {
        Self { root: root.to_owned(), qemu: qemu.to_owned(), encryption }
    }

    /// The position of the C-bit, and by how many bits memory encryption reduces physical addresses (AMD 24594,
    /// Fn8000_001F_EBX); none on a processor without SEV-SNP.
    #[must_use]
    pub const fn encryption_bits(&self) -> Option<(u8, u8)> {
        let (eax, ebx) = self.encryption;
        if eax >> 4 & 1 == 0 {
            return None;
        }
        Some(((ebx & 0x3F) as u8, (ebx >> 6 & 0x3F) as u8))
    }

    /// Every piece, in the order in which one would see to them.
    #[must_use]
    pub fn checks(&self) -> Vec<Check> {
        let check = |name, seen: Seen, advice| match seen {
            Ok(seen) => Check { name, state: State::Ready, seen, advice },
            Err(seen) => Check { name, state: State::Missing, seen, advice },
        };
        vec![
            check(
                "processor",
                self.processor(),
                "use an EPYC of the third generation or later, and switch SEV-SNP on in its setup: SMEE, SEV-SNP support, RMP coverage",
            ),
            check("kernel", self.kernel(), "install Linux 6.11 or later as the host's kernel"),
            check(
                "kvm_amd",
                self.parameter(),
                "start the kernel with kvm_amd.sev=1 kvm_amd.sev_snp=1, with the IOMMU on and not in passthrough; `dmesg | grep -i sev` says what failed",
            ),
            check(
                "/dev/kvm",
                self.device("dev/kvm"),
                "load kvm_amd, and let this user read and write /dev/kvm (group kvm)",
            ),
            check(
                "/dev/sev",
                self.device("dev/sev"),
                "load ccp, which drives the secure processor, and let this user read and write /dev/sev",
            ),
            check("QEMU", self.qemu_version(), "install QEMU 10.1 or later, or name one with --qemu"),
            check(
                "QEMU: sev-snp-guest",
                self.offers(&["-object", "help"], "sev-snp-guest"),
                "use a QEMU that is built with KVM and SEV",
            ),
            check(
                "QEMU: igvm-cfg",
                self.offers(&["-object", "help"], "igvm-cfg"),
                "use a QEMU that is built with the IGVM library (configure --enable-igvm)",
            ),
            check(
                "QEMU: SVSM's devices",
                self.offers(&["-machine", "q35,help"], SVSM_SLOTS),
                "use a QEMU with the SVSM's virtio-mmio slots, as COCONUT-SVSM patches it",
            ),
        ]
    }

    fn processor(&self) -> Seen {
        let text = self.text("proc/cpuinfo")?;
        let flags = text.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        if !flags.split_whitespace().any(|flag| flag == CPU_FLAG) {
            return Err(format!("/proc/cpuinfo has no flag {CPU_FLAG}"));
        }
        let Some((bit, reduced)) = self.encryption_bits() else {
            return Err("CPUID function 0x8000001f does not state SEV-SNP".into());
        };
        Ok(format!("/proc/cpuinfo has {CPU_FLAG}; C-bit {bit}, {reduced} address bit(s) fewer"))
    }

    fn kernel(&self) -> Seen {
        let release = self.text("proc/sys/kernel/osrelease")?;
        let release = release.trim();
        let numbers = numbers(release);
        let seen = format!("Linux {release}");
        if numbers.is_some_and(|numbers| numbers >= KERNEL_MIN) { Ok(seen) } else { Err(seen) }
    }

    fn parameter(&self) -> Seen {
        let path = "sys/module/kvm_amd/parameters/sev_snp";
        let value = self.text(path)?;
        let seen = format!("/{path} is {}", value.trim());
        if matches!(value.trim(), "Y" | "1") { Ok(seen) } else { Err(seen) }
    }

    fn device(&self, name: &str) -> Seen {
        match OpenOptions::new().read(true).write(true).open(self.root.join(name)) {
            Ok(_) => Ok(format!("/{name} can be read and written")),
            Err(error) => Err(format!("/{name}: {error}")),
        }
    }

    fn qemu_version(&self) -> Seen {
        let text = self.qemu_says(&["--version"])?;
        let line = text.lines().next().unwrap_or_default();
        let version = machine::version(line);
        let seen = if line.is_empty() { "it says no version".to_owned() } else { line.to_owned() };
        if version.is_some_and(|version| version >= QEMU_MIN) { Ok(seen) } else { Err(seen) }
    }

    fn offers(&self, words: &[&str], wanted: &str) -> Seen {
        let text = self.qemu_says(words)?;
        let found = text.lines().any(|line| line.split(['=', ' ']).any(|word| word == wanted));
        let asked = words.join(" ");
        if found {
            Ok(format!("`{asked}` lists {wanted}"))
        } else {
            Err(format!("`{asked}` does not list {wanted}"))
        }
    }

    fn qemu_says(&self, words: &[&str]) -> Seen {
        let output = Command::new(&self.qemu).args(words).output();
        let output = output.map_err(|error| format!("{} does not start: {error}", self.qemu.display()))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn text(&self, path: &str) -> Seen {
        fs::read_to_string(self.root.join(path)).map_err(|error| format!("/{path}: {error}"))
    }
}

/// The pieces that are missing, each as one line.
#[must_use]
pub fn missing(checks: &[Check]) -> Vec<String> {
    let missing = checks.iter().filter(|check| check.state == State::Missing);
    missing.map(|check| format!("{}: {}; {}", check.name, check.seen, check.advice)).collect()
}

/// The first two numbers of `6.12.3-amd64`.
fn numbers(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}
