//! Machines with the image in them, and Debian's kernel below it: what the demo and the peers start.

use crate::failure::Failure;
use crate::guest::{QUIET, Report};
use crate::image;
use crate::process::{self, Daemon};
use crate::product::{Product, Profile, Vm, text};
use crate::setup::Kernel;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The code of "the disk holds an older state", as the console shows it.
pub(crate) const ROLLED_BACK: &str = "0x0404001a";
/// Boots of layer and guest under software emulation on a loaded machine, with some hundred TPM commands.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);
/// The guest's memory, the layer's part included, in MiB.
pub(crate) const MEMORY_MIB: &str = "768";
/// An orderly end, or a killed machine's.
const END_PATIENCE: Duration = Duration::from_secs(60);

/// One start of a machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start<'a> {
    /// A script of `tests/peers/guest`, without its ending.
    pub(crate) script: &'a str,
    /// Settings for the script.
    pub(crate) settings: &'a [(&'a str, String)],
    /// The volume's file.
    pub(crate) disk: &'a Path,
    /// How many processors the guest has.
    pub(crate) guest_cpus: u8,
    /// More words for `husk run`.
    pub(crate) words: &'a [&'a str],
    /// Words of the kernel's command line: what it says, and where.
    pub(crate) kernel_words: &'a str,
}

/// Everything but the machine itself: a processor, a broker, an enrolled VM.
pub(crate) struct Below {
    product: Product,
    tenant: String,
    measurement: String,
    pub(crate) vm: Vm,
    broker: String,
    psp: PathBuf,
    image: PathBuf,
    pub(crate) kernel: PathBuf,
    initramfs: PathBuf,
    starts: usize,
    /// More words for QEMU.
    pub(crate) qemu: Vec<String>,
    /// The VM's TPM has no volume.
    ephemeral: bool,
    _daemons: [Daemon; 2],
}

impl Below {
    /// Builds the image, starts what serves, and enrols a VM whose firmware it is.
    pub(crate) fn set(folder: &Path, kernel: Kernel, initramfs: PathBuf) -> Result<Self, Failure> {
        Self::set_built(Profile::Dev, folder, kernel, initramfs)
    }

    /// As [`Self::set`]; says how the programs on the host are built. The image is always built as it would be used.
    pub(crate) fn set_built(
        profile: Profile,
        folder: &Path,
        kernel: Kernel,
        initramfs: PathBuf,
    ) -> Result<Self, Failure> {
        image::make()?;
        let image = image::path()?;
        let product = Product::build(folder, profile)?;
        let (processor, psp) = product.processor()?;
        let tenant = product.broker_and_tenant()?;
        let measured = Command::new(&product.husk)
            .args(["run", "--measure-only", "--image", &text(&image)])
            .output()
            .map_err(|error| Failure::failed(format!("image: husk does not start: {error}")))?;
        let measurement = String::from_utf8_lossy(&measured.stdout).trim().to_owned();
        let vm = product.enrol(&tenant, &measurement, "vm")?;
        let (broker, address) = product.broker(true)?;
        let daemons = [processor, broker];
        let kernel = kernel.image;
        Ok(Self {
            product,
            tenant,
            measurement,
            vm,
            broker: address,
            psp,
            image,
            kernel,
            initramfs,
            starts: 0,
            qemu: Vec::new(),
            ephemeral: false,
            _daemons: daemons,
        })
    }

    /// The program, and the folder with everything.
    pub(crate) fn product(&self) -> &Product {
        &self.product
    }

    /// The tenant's id.
    pub(crate) fn tenant(&self) -> &str {
        &self.tenant
    }

    /// The broker's address.
    pub(crate) fn broker(&self) -> &str {
        &self.broker
    }

    /// Enrols another VM with the same firmware, by these words beside.
    pub(crate) fn enrol(&self, name: &str, words: &[&str]) -> Result<Vm, Failure> {
        self.product.enrol_with(&self.tenant, &self.measurement, name, words)
    }

    /// Takes another VM, whose TPM keeps nothing; with these words for its enrolment.
    pub(crate) fn keep_nothing(&mut self, words: &[&str]) -> Result<(), Failure> {
        self.vm = self.enrol("ephemeral", &[&["--ephemeral"][..], words].concat())?;
        self.ephemeral = true;
        Ok(())
    }

    /// Has the tenant's own authority certify the endorsement keys of its VMs.
    pub(crate) fn certify_keys(&self) -> Result<(), Failure> {
        self.product.authority(&self.tenant)
    }

    /// Another relay to the broker, and its socket.
    pub(crate) fn relay(&self, name: &str) -> Result<(Daemon, PathBuf), Failure> {
        self.product.relay(name, &self.broker, None)
    }

    /// Keeps the secret in a file for the VM's guest, if its PCRs have these values.
    pub(crate) fn keep_secret(&self, name: &str, secret: &Path, pcrs: &[&str]) -> Result<(), Failure> {
        self.product.keep_secret((&self.tenant, &self.vm), name, secret, pcrs)
    }

    /// Keeps it no more.
    pub(crate) fn forget_secret(&self, name: &str) -> Result<(), Failure> {
        self.product.forget_secret((&self.tenant, &self.vm), name)
    }

    /// Starts a machine.
    pub(crate) fn start(&mut self, start: Start<'_>) -> Result<Daemon, Failure> {
        let settings = start.settings.iter().map(|(name, value)| format!(" husk.set.{name}={value}"));
        let append: String =
            std::iter::once(format!("{} panic=-1 husk.script={}", start.kernel_words, start.script))
                .chain(settings)
                .collect();
        let [kernel, initramfs] = [&self.kernel, &self.initramfs].map(|path| text(path));
        let line = ["--kernel", &kernel, "--initrd", &initramfs, "--append", &append];
        let words = [&line, start.words].concat();
        self.start_words(start.script, start.disk, start.guest_cpus, &words)
    }

    /// Starts a machine whose guest is in these words of `husk run` alone.
    pub(crate) fn start_words(
        &mut self,
        name: &str,
        volume: &Path,
        guest_cpus: u8,
        words: &[&str],
    ) -> Result<Daemon, Failure> {
        self.starts += 1;
        let name = format!("machine-{}-{name}", self.starts);
        let [image, volume, config, psp] = [&self.image, volume, &self.vm.config, &self.psp].map(text);
        let (pid, cpus) = (text(&self.pid_file()), guest_cpus.to_string());
        let line = ["run", "--image", &image, "--config", &config, "--psp", &psp];
        let kept: &[&str] = if self.ephemeral { &[] } else { &["--volume", &volume] };
        let more = ["--broker", &self.broker, "--vcpus", &cpus, "--memory", MEMORY_MIB];
        let last = ["--", "-pidfile", &pid];
        let words = line.iter().chain(kept).chain(&more).chain(words).chain(&last);
        let words = words.map(ToString::to_string).chain(self.qemu.iter().cloned());
        let words: Vec<String> = words.collect();
        Daemon::start(&name, &self.product.husk, &words, &self.product.path(&format!("{name}.console")))
    }

    /// Boots the VM on its own disk, runs a script to its end, and waits for the machine's, which must be in order.
    pub(crate) fn boot(
        &mut self,
        script: &str,
        settings: &[(&str, String)],
        guest_cpus: u8,
    ) -> Result<Report, Failure> {
        self.boot_with(&[], script, settings, guest_cpus)
    }

    /// The same, with more words for `husk run`.
    pub(crate) fn boot_with(
        &mut self,
        words: &[&str],
        script: &str,
        settings: &[(&str, String)],
        guest_cpus: u8,
    ) -> Result<Report, Failure> {
        let disk = self.vm.disk.clone();
        let start = Start { script, settings, disk: &disk, guest_cpus, words, kernel_words: QUIET };
        Ok(Report::read(&self.boot_console(start)?))
    }

    /// The same; yields the whole console.
    pub(crate) fn boot_console(&mut self, start: Start<'_>) -> Result<String, Failure> {
        let mut machine = self.start(start)?;
        machine.wait_until(PATIENCE, |console| Report::read(console).end)?;
        machine.wait_success(END_PATIENCE)?;
        Ok(machine.log_text())
    }

    /// Starts a machine that the layer must refuse with the fault of that code; its line.
    pub(crate) fn refused(&mut self, start: Start<'_>, code: &str) -> Result<String, Failure> {
        let machine = self.start(start)?;
        Self::is_refused(machine, code)
    }

    /// The line by which a machine was refused with the fault of that code.
    pub(crate) fn is_refused(mut machine: Daemon, code: &str) -> Result<String, Failure> {
        let ends = [code, "the firmware stopped", "the guest starts"];
        let seen = machine.wait_until(PATIENCE, |console| {
            let mut lines = console.lines();
            lines.find(|line| ends.iter().any(|end| line.contains(end))).map(str::to_owned)
        })?;
        if seen.contains(code) {
            Ok(seen)
        } else {
            Err(Failure::failed(format!("not refused for that: {seen}")))
        }
    }

    /// Cuts the power of the machine that was started last, and waits for what started it.
    pub(crate) fn cut_power(&self, machine: &mut Daemon) -> Result<(), Failure> {
        let file = self.pid_file();
        let pid = std::fs::read_to_string(&file).map_err(|error| Failure::io("read", &file, &error))?;
        process::run(Command::new("kill").args(["-KILL", pid.trim()]))?;
        machine.wait_end(END_PATIENCE)
    }

    /// A copy of the VM's disk.
    pub(crate) fn copy_disk(&self, name: &str) -> Result<PathBuf, Failure> {
        let copy = self.product.path(name);
        std::fs::copy(&self.vm.disk, &copy).map_err(|error| Failure::io("copy", &copy, &error))?;
        Ok(copy)
    }

    fn pid_file(&self) -> PathBuf {
        self.product.path(&format!("qemu-{}.pid", self.starts))
    }
}
