//! QEMU with the guest in it, always under software emulation, so that every machine tries the same thing.

use super::report::Report;
use crate::failure::Failure;
use crate::process::Daemon;
use crate::setup;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The guest's memory in MiB.
pub(crate) const MEMORY_MIB: u64 = 512;

/// What a kernel says of itself in an ordinary run: warnings, on the serial console.
pub(crate) const QUIET: &str = "console=ttyS0 loglevel=4";

/// Where the TPM's shared page lies in the guest's memory: 64 MiB below its end, away from the firmware's tables.
pub(crate) const SHARED_PAGE_BASE: u64 = (MEMORY_MIB - 64) << 20;

/// What the kernel must leave alone there: the register pages of five localities (PTP 1.06 §6.5.3) and the page of the
/// data buffer, with room to spare.
pub(crate) const SHARED_PAGE_BYTES: u64 = 0x1_0000;

/// How the guest finds its TPM.
#[derive(Clone, Debug)]
pub(crate) enum Wiring {
    /// One of QEMU's own devices in front of a process that speaks swtpm's control protocol on this socket.
    Emulator { device: Device, control_socket: PathBuf },
    /// A process that serves a CRB in the guest's memory, which is this file; the tables tell the kernel.
    SharedPage { memory: PathBuf, tables: Vec<PathBuf> },
}

/// What QEMU shows to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    /// Command response buffer (PTP 1.06 §6.5.3).
    Crb,
    /// FIFO registers (PTP 1.06 §6.5.2).
    Tis,
}

impl Device {
    /// QEMU's name for it.
    const fn of_qemu(self) -> &'static str {
        match self {
            Self::Crb => "tpm-crb",
            Self::Tis => "tpm-tis",
        }
    }

    /// The kernel driver that binds it.
    pub(crate) const fn driver(self) -> &'static str {
        match self {
            Self::Crb => "tpm_crb",
            Self::Tis => "tpm_tis",
        }
    }
}

/// What a reset by the guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnReset {
    /// The machine stops, as at a kernel's panic.
    Stops,
    /// The machine boots again, and its TPM sees a reset.
    Boots,
}

/// One boot, or as many as the guest makes of it.
#[derive(Clone, Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) kernel: &'a Path,
    pub(crate) initramfs: &'a Path,
    pub(crate) wiring: Wiring,
    pub(crate) on_reset: OnReset,
    /// A script of `tests/peers/guest`, without its ending.
    pub(crate) script: &'a str,
    /// Settings for the script: `("counter-min", "7")` is its `HUSK_COUNTER_MIN=7`.
    pub(crate) settings: Vec<(&'a str, String)>,
    /// Where the console goes.
    pub(crate) log: &'a Path,
}

/// A running guest; it is killed when this value is dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    daemon: Daemon,
}

impl Guest {
    /// Starts QEMU.
    pub(crate) fn start(launch: &Launch<'_>) -> Result<Self, Failure> {
        let program = setup::program("qemu-system-x86_64")?;
        let daemon = Daemon::start("the guest", &program, &arguments(launch), launch.log)?;
        Ok(Self { daemon })
    }

    /// Waits until the script has come to its end and the guest has powered off; says what it said.
    pub(crate) fn finish(mut self, patience: Duration) -> Result<Report, Failure> {
        self.daemon.wait_until(patience, |console| Report::read(console).end)?;
        self.daemon.wait_end(Duration::from_secs(30))?;
        Ok(Report::read(&self.daemon.log_text()))
    }

    /// Waits until the TPM has acknowledged a number of that kind at least as great.
    pub(crate) fn wait_acknowledged(
        &mut self,
        kind: &str,
        least: u64,
        patience: Duration,
    ) -> Result<u64, Failure> {
        let seen =
            |console: &str| Report::read(console).last_acknowledged(kind).filter(|number| *number >= least);
        self.daemon.wait_until(patience, seen)
    }

    /// Cuts the guest's power and says what it had said by then.
    pub(crate) fn cut_power(self, console: &Path) -> Result<Report, Failure> {
        self.daemon.kill();
        let text = std::fs::read(console).map_err(|error| Failure::io("read", console, &error))?;
        Ok(Report::read(&String::from_utf8_lossy(&text)))
    }
}

/// The whole command line of QEMU.
fn arguments(launch: &Launch<'_>) -> Vec<String> {
    let mut line = words("-accel tcg -cpu EPYC -nodefaults -display none -serial stdio -m");
    line.push(MEMORY_MIB.to_string());
    if launch.on_reset == OnReset::Stops {
        line.push("-no-reboot".into());
    }
    line.extend(["-kernel".into(), text(launch.kernel), "-initrd".into(), text(launch.initramfs)]);
    line.extend(["-append".into(), kernel_command_line(launch)]);
    match &launch.wiring {
        Wiring::Emulator { device, control_socket } => {
            line.extend(words("-M q35 -tpmdev emulator,id=tpm,chardev=control -device"));
            line.push(format!("{},tpmdev=tpm", device.of_qemu()));
            line.push("-chardev".into());
            line.push(format!("socket,id=control,path={}", text(control_socket)));
        }
        Wiring::SharedPage { memory, tables } => {
            line.extend(words("-M q35,memory-backend=memory -object"));
            let path = text(memory);
            line.push(format!("memory-backend-file,id=memory,size={MEMORY_MIB}M,mem-path={path},share=on"));
            line.extend(
                tables.iter().flat_map(|table| ["-acpitable".into(), format!("file={}", text(table))]),
            );
        }
    }
    line
}

fn kernel_command_line(launch: &Launch<'_>) -> String {
    let mut words = vec![format!("{QUIET} panic=-1")];
    if matches!(launch.wiring, Wiring::SharedPage { .. }) {
        words.push(format!("memmap={SHARED_PAGE_BYTES:#x}${SHARED_PAGE_BASE:#x}"));
    }
    if let Wiring::Emulator { device, .. } = &launch.wiring {
        words.push(format!("husk.set.driver={}", device.driver()));
    }
    words.push(format!("husk.script={}", launch.script));
    words.extend(launch.settings.iter().map(|(name, value)| format!("husk.set.{name}={value}")));
    words.join(" ")
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::{Launch, OnReset, Wiring, arguments};
    use std::path::Path;

    #[test]
    fn the_shared_page_is_reserved_and_settings_reach_the_script() {
        let wiring = Wiring::SharedPage { memory: "m".into(), tables: vec!["t1".into(), "t2".into()] };
        let launch = Launch {
            kernel: Path::new("k"),
            initramfs: Path::new("i"),
            wiring,
            on_reset: OnReset::Stops,
            script: "second-boot",
            settings: vec![("counter-min", "7".into())],
            log: Path::new("l"),
        };
        let line = arguments(&launch).join(" ");
        assert!(
            line.contains("memmap=0x10000$0x1c000000 husk.script=second-boot husk.set.counter-min=7"),
            "{line}"
        );
        assert!(line.contains("-acpitable file=t1 -acpitable file=t2"), "{line}");
        assert!(line.contains("size=512M,mem-path=m,share=on"), "{line}");
    }
}
