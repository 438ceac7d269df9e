//! The demo through the image: a kernel below the layer, its TPM's volume on a device that it does not see.
//!
//! As the host process's story, but shorter: enrolled by the image's own launch measurement, booted, its log replayed, its
//! power cut in the middle of writes by SIGKILL of QEMU, booted again, then yesterday's disk and a clone.

use super::{WRITES_BEFORE_CUT, cut_step, kept};
use crate::failure::Failure;
use crate::guest::{Report, image as initramfs};
use crate::process::{self, Daemon};
use crate::product::{Product, Profile, Vm, text};
use crate::steps::Steps;
use crate::{house, image, setup};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A boot of layer and guest under software emulation on a loaded machine, with some hundred TPM commands.
const PATIENCE: Duration = Duration::from_secs(400);
/// The codes of "the disk holds an older state" and "another instance holds the lease", as the console shows them.
const ROLLED_BACK: &str = "0x0404001a";
const BUSY: &str = "asking again";

/// Everything but the machine itself.
struct Stage {
    product: Product,
    vm: Vm,
    broker: String,
    psp: PathBuf,
    image: PathBuf,
    kernel: PathBuf,
    initramfs: PathBuf,
    starts: usize,
    _daemons: [Daemon; 2],
}

/// Runs the story as steps.
pub(crate) fn into(steps: &mut Steps, keep: bool) -> Result<(), Failure> {
    let folder = house::fresh_workshop("demo-image")?;
    let failed_before = steps.failed;
    if let Err(failure) = story(steps, &folder) {
        steps.attempt("image", || Err(failure));
    }
    if !keep && steps.failed == failed_before {
        std::fs::remove_dir_all(&folder).map_err(|error| Failure::io("remove", &folder, &error))?;
    }
    Ok(())
}

fn story(steps: &mut Steps, folder: &Path) -> Result<(), Failure> {
    let mut stage = Stage::set(folder)?;
    let first = stage.boot("first-boot", &[])?;
    steps.add_all("image: boot 1", &first.judged());
    let yesterday = stage.copy_disk("yesterday.disk")?;
    let log = stage.boot("event-log", &[])?;
    steps.add_all("image: measured start", &log.judged());
    let hammered = stage.cut()?;
    steps.add(&cut_step(&hammered));
    steps.attempt("image: a clone waits for the lease, then fences", || stage.refused_clone());
    let second = stage.boot("second-boot", &kept(&first, &hammered))?;
    steps.add_all("image: boot after the cut", &second.judged());
    steps.attempt("image: refused: yesterday's disk", || stage.refused_yesterday(&yesterday));
    Ok(())
}

impl Stage {
    fn set(folder: &Path) -> Result<Self, Failure> {
        image::make()?;
        let image = image::path()?;
        let product = Product::build(folder, Profile::Dev)?;
        let (processor, psp) = product.processor()?;
        let tenant = product.broker_and_tenant()?;
        let measured = Command::new(&product.husk)
            .args(["run", "--measure-only", "--image", &text(&image)])
            .output()
            .map_err(|error| Failure::failed(format!("image: husk does not start: {error}")))?;
        let measurement = String::from_utf8_lossy(&measured.stdout).trim().to_owned();
        let vm = product.enrol(&tenant, &measurement, "vm")?;
        let (broker, address) = product.broker(true)?;
        let (kernel, initramfs) = (setup::fetched_kernel()?.image, initramfs()?);
        let daemons = [processor, broker];
        Ok(Self { product, vm, broker: address, psp, image, kernel, initramfs, starts: 0, _daemons: daemons })
    }

    fn start(&mut self, script: &str, settings: &[(&str, String)], disk: &Path) -> Result<Daemon, Failure> {
        self.starts += 1;
        let name = format!("machine-{}-{script}", self.starts);
        let settings = settings.iter().map(|(name, value)| format!(" husk.set.{name}={value}"));
        let append: String =
            std::iter::once(format!("console=ttyS0 loglevel=4 panic=-1 husk.script={script}"))
                .chain(settings)
                .collect();
        let paths = [&self.image, &self.kernel, &self.initramfs, disk, &self.vm.config, &self.psp].map(text);
        let [image, kernel, initramfs, volume, config, psp] = &paths;
        let pid = text(&self.pid_file());
        let line = ["run", "--image", image, "--kernel", kernel, "--initrd", initramfs, "--append", &append];
        let more = ["--volume", volume, "--config", config, "--psp", psp, "--broker", &self.broker];
        let last = ["--memory", "768", "--", "-pidfile", &pid];
        let words: Vec<String> = line.iter().chain(&more).chain(&last).map(ToString::to_string).collect();
        Daemon::start(&name, &self.product.husk, &words, &self.product.path(&format!("{name}.console")))
    }

    fn pid_file(&self) -> PathBuf {
        self.product.path(&format!("qemu-{}.pid", self.starts))
    }

    /// Boots, runs a script to its end, and waits for the machine's.
    fn boot(&mut self, script: &str, settings: &[(&str, String)]) -> Result<Report, Failure> {
        let disk = self.vm.disk.clone();
        let mut machine = self.start(script, settings, &disk)?;
        machine.wait_until(PATIENCE, |console| Report::read(console).end)?;
        machine.wait_end(Duration::from_secs(60))?;
        Ok(Report::read(&machine.log_text()))
    }

    /// Boots, lets the guest write, and kills QEMU while it does.
    fn cut(&mut self) -> Result<Report, Failure> {
        let disk = self.vm.disk.clone();
        let mut machine = self.start("hammer", &[], &disk)?;
        let written = |console: &str| {
            Report::read(console).last_acknowledged("progress").filter(|number| *number >= WRITES_BEFORE_CUT)
        };
        machine.wait_until(PATIENCE, written)?;
        self.kill_qemu()?;
        machine.wait_end(Duration::from_secs(60))?;
        Ok(Report::read(&machine.log_text()))
    }

    fn kill_qemu(&self) -> Result<(), Failure> {
        let file = self.pid_file();
        let pid = std::fs::read_to_string(&file).map_err(|error| Failure::io("read", &file, &error))?;
        process::run(Command::new("kill").args(["-KILL", pid.trim()]))
    }

    /// A clone of the disk of a machine whose lease may still run: it has to wait, and then it is the VM's newest instance.
    fn refused_clone(&mut self) -> Result<String, Failure> {
        let clone = self.copy_disk("clone.disk")?;
        let mut machine = self.start("second-boot", &[], &clone)?;
        let waited = machine.wait_until(PATIENCE, |console| {
            let served = console.contains("the TPM has its memory");
            served.then(|| console.contains(BUSY))
        })?;
        self.kill_qemu()?;
        machine.wait_end(Duration::from_secs(60))?;
        std::fs::copy(&clone, &self.vm.disk).map_err(|error| Failure::io("copy", &clone, &error))?;
        let seen = if waited { "it was told to wait" } else { "the lease was over already" };
        Ok(format!("{seen}, then it was granted a newer token"))
    }

    fn refused_yesterday(&mut self, disk: &Path) -> Result<String, Failure> {
        let mut machine = self.start("second-boot", &[], disk)?;
        let ends = [ROLLED_BACK, "the firmware stopped", "the guest starts"];
        let seen = machine.wait_until(PATIENCE, |console| {
            let mut lines = console.lines();
            lines.find(|line| ends.iter().any(|end| line.contains(end))).map(str::to_owned)
        })?;
        if seen.contains(ROLLED_BACK) {
            Ok(seen)
        } else {
            Err(Failure::failed(format!("not refused for that: {seen}")))
        }
    }

    fn copy_disk(&self, name: &str) -> Result<PathBuf, Failure> {
        let copy = self.product.path(name);
        std::fs::copy(&self.vm.disk, &copy).map_err(|error| Failure::io("copy", &copy, &error))?;
        Ok(copy)
    }
}
