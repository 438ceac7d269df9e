//! QEMU with the guest in it, always under software emulation, so that every machine tries the same thing.

use super::report::Report;
use crate::failure::Failure;
use crate::process::Daemon;
use crate::setup;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The guest's memory in MiB.
pub(crate) const MEMORY_MIB: u64 = 512;

/// Where the TPM's shared page lies in the guest's memory: 64 MiB below its end, away from the firmware's tables.
pub(crate) const SHARED_PAGE_BASE: u64 = (MEMORY_MIB - 64) << 20;

/// What the kernel must leave alone there: the register pages of five localities (PTP 1.06 §6.5.3) and the page of the
/// data buffer, with room to spare.
pub(crate) const SHARED_PAGE_BYTES: u64 = 0x1_0000;

/// How the guest finds its TPM.
#[derive(Clone, Debug)]
pub(crate) enum Wiring {
    /// QEMU's own CRB device in front of a process that speaks swtpm's control protocol on this socket.
    Emulator { control_socket: PathBuf },
    /// A process that serves a CRB in the guest's memory, which is this file; the tables tell the kernel.
    SharedPage { memory: PathBuf, tables: Vec<PathBuf> },
}

/// One boot.
#[derive(Clone, Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) kernel: &'a Path,
    pub(crate) initramfs: &'a Path,
    pub(crate) wiring: Wiring,
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
    let mut line = words("-accel tcg -cpu EPYC -nodefaults -display none -serial stdio -no-reboot -m");
    line.push(MEMORY_MIB.to_string());
    line.extend(["-kernel".into(), text(launch.kernel), "-initrd".into(), text(launch.initramfs)]);
    line.extend(["-append".into(), kernel_command_line(launch)]);
    match &launch.wiring {
        Wiring::Emulator { control_socket } => {
            line.extend(words(
                "-M q35 -tpmdev emulator,id=tpm,chardev=control -device tpm-crb,tpmdev=tpm -chardev",
            ));
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
    let mut words = vec!["console=ttyS0 loglevel=4 panic=-1".to_owned()];
    if matches!(launch.wiring, Wiring::SharedPage { .. }) {
        words.push(format!("memmap={SHARED_PAGE_BYTES:#x}${SHARED_PAGE_BASE:#x}"));
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
    use super::{Launch, Wiring, arguments};
    use std::path::Path;

    #[test]
    fn the_shared_page_is_reserved_and_settings_reach_the_script() {
        let wiring = Wiring::SharedPage { memory: "m".into(), tables: vec!["t1".into(), "t2".into()] };
        let launch = Launch {
            kernel: Path::new("k"),
            initramfs: Path::new("i"),
            wiring,
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
