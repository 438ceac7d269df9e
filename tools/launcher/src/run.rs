//! One machine's life: checked, launched, run, ended.

use crate::channel::{Ends, serve};
use crate::child;
use crate::image::Image;
use crate::machine::{self, Acceleration, Machine};
use crate::payload::Inputs;
use crate::volume::lock;
use anyhow::{Context, anyhow};
use husk::fault::Family;
use husk_firmware::wishes::Ways;
use husk_psp::RemoteGuest;
use husk_relay::pipe::Pipe;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};

/// Guest policy of the simulated launch: ABI 1.51 or later, SMT allowed, the bit that must be one (AMD 56860, table
/// GUEST_POLICY); no debugging, no migration agent.
const GUEST_POLICY: u64 = 0x3_0133;
/// What the firmware tells QEMU's exit device at an orderly end; a fault's family otherwise.
const ORDERLY: i32 = 0x10;
/// A fault's exit code is this and the number of its family, as for every command of `husk`.
const FAULT_BASE: u8 = 10;

/// How the machine ended, if not well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The firmware stopped the machine; its last line on the console says why.
    #[error("the firmware stopped the machine, and its last line on the console says why (to blame: {})", .0.word())]
    Stopped(Family),
    /// QEMU ended by itself.
    #[error("QEMU ended with {0}; what it said is above")]
    Qemu(ExitStatus),
}

impl Ended {
    /// The exit code of the command.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Stopped(family) => FAULT_BASE + *family as u8,
            Self::Qemu(_) => 1,
        }
    }

    /// Reads QEMU's exit status: its exit device answers `value` with `2 × value + 1`.
    pub(crate) fn judge(status: ExitStatus) -> Result<(), Self> {
        const FAMILIES: [Family; 6] =
            [Family::Guest, Family::Host, Family::Broker, Family::Seal, Family::Engine, Family::Bug];
        let code = status.code().unwrap_or(1);
        let family = FAMILIES.into_iter().find(|family| code == 2 * i32::from(*family as u8) + 1);
        match (code, family) {
            (0, _) => Ok(()),
            (code, _) if code == 2 * ORDERLY + 1 => Ok(()),
            (_, Some(family)) => Err(Self::Stopped(family)),
            (_, None) => Err(Self::Qemu(status)),
        }
    }
}

/// Everything that a run is made of.
#[derive(Debug)]
pub struct Plan {
    /// QEMU.
    pub qemu: PathBuf,
    /// The image.
    pub image_path: PathBuf,
    /// The image, read.
    pub image: Image,
    /// What the guest starts from.
    pub inputs: Inputs,
    /// The volume's file, if the TPM has one.
    pub volume: Option<PathBuf>,
    /// The volume's block in bytes.
    pub block_bytes: u32,
    /// The guest's disk, if it has one.
    pub disk: Option<PathBuf>,
    /// The simulated processor's socket.
    pub psp: PathBuf,
    /// How many processors the guest has.
    pub guest_cpus: u8,
    /// The machine's memory in MiB.
    pub memory_mib: u64,
    /// How its processors come about.
    pub acceleration: Acceleration,
    /// How the guest reaches its TPM.
    pub ways: Ways,
    /// More words for QEMU.
    pub extra: Vec<String>,
}

impl Plan {
    /// The machine, with what is made for one run in `folder`.
    #[must_use]
    pub fn machine(&self, folder: &Path) -> Machine {
        Machine {
            image: self.image_path.clone(),
            payload: folder.join("payload"),
            secrets: folder.join("secrets"),
            volume: self.volume.clone(),
            block_bytes: self.block_bytes,
            disk: self.disk.clone(),
            channel: folder.join("channel"),
            control: folder.join("control"),
            guest_cpus: self.guest_cpus,
            memory_mib: self.memory_mib,
            low_memory_mib: self.inputs.low_memory_mib(),
            acceleration: self.acceleration,
            ways: self.ways,
            extra: self.extra.clone(),
        }
    }

    /// Launches and runs the machine to its end, in a QEMU that passed its check. `broker` is the way to the broker.
    ///
    /// # Errors
    /// What kept the machine from starting, or [`Ended`].
    pub fn run(&self, broker: Arc<dyn Pipe>, check: machine::Check) -> anyhow::Result<()> {
        let _volume = self.volume.as_deref().map(lock).transpose()?;
        let folder = tempfile::tempdir().context("cannot make a folder for this run")?;
        let machine = self.machine(folder.path());
        let host_data = self.inputs.launch.host_data();
        let (guest, secrets) = std::thread::scope(|scope| {
            let written = scope.spawn(|| write(&machine.payload, |file| self.inputs.write(file)));
            let launched =
                RemoteGuest::launch_stretches(&self.psp, &self.image.stretches, &host_data, GUEST_POLICY);
            written.join().map_err(|_| anyhow!("the writing of the payload broke off"))??;
            anyhow::Ok(launched?)
        })?;
        check.passed()?;
        write(&machine.secrets, |file| file.write_all(secrets.as_slice()))?;
        let ends = Ends { broker, processor: Arc::new(Mutex::new(guest)) };
        listen(&machine.channel, ends)?;
        let words = machine.words();
        eprintln!("husk run: {}", machine::shown(&self.qemu, &words));
        Ok(Ended::judge(child::run(&self.qemu, &words, machine.control)?)?)
    }
}

/// Writes a new file for QEMU to load, which nobody else may read.
fn write(
    path: &Path,
    content: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).with_context(cannot)?;
    let mut file = BufWriter::new(file);
    content(&mut file).and_then(|()| file.flush()).with_context(cannot)
}

/// Serves the first firmware that connects.
fn listen(path: &Path, ends: Ends) -> anyhow::Result<()> {
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen at {}", path.display()))?;
    std::thread::Builder::new().name("channel".to_owned()).spawn(move || {
        let served = listener.accept().and_then(|(stream, _)| serve(stream, &ends));
        if let Err(error) = served {
            eprintln!("husk run: the firmware's channel was closed: {error}");
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Ended;
    use husk::fault::Family;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    #[test]
    fn the_exit_code_tells_whose_fault_it_was() {
        let judge =
            |code: i32| Ended::judge(ExitStatus::from_raw(code << 8)).map_err(|ended| ended.exit_code());
        assert_eq!([0, 33].map(judge), [Ok(()); 2]);
        assert_eq!([3, 5, 7, 9, 11, 13].map(judge), [11, 12, 13, 14, 15, 16].map(Err));
        assert_eq!([1, 2, 15, 255].map(judge), [Err(1); 4]);
        assert_eq!(Ended::judge(ExitStatus::from_raw(9)).map_err(|ended| ended.exit_code()), Err(1));
        assert!(Ended::Stopped(Family::Seal).to_string().contains("seal"));
    }
}
