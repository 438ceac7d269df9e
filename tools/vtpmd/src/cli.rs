//! The command line of serving: where, on what, and until when.

use crate::machine::Machine;
use crate::platform::{FileDisk, FileDiskError};
use crate::server::{Address, Server, Sockets};
use crate::serving::Serving;
use crate::shared::{Poller, Window, layout};
use crate::sys::Signals;
use anyhow::{Context, bail};
use husk::engine::{COMMAND_BYTES_MAX, Locality};
use husk::frontend::Tpm;
use husk::frontend::acpi::{self, TABLE_BYTES_MAX};
use husk::frontend::crb::Layout;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a process that announces itself says on its standard output when it is ready.
pub(crate) const ANNOUNCEMENT: &str = "ready\n";

/// How the TPM is reached.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeArgs {
    /// Take TPM commands here: unix:PATH or tcp:ADDRESS:PORT (loopback only)
    #[arg(long, value_name = "WHERE")]
    pub data: Option<Address>,
    /// Take swtpm's control messages here: unix:PATH or tcp:ADDRESS:PORT (loopback only)
    #[arg(long, value_name = "WHERE")]
    pub control: Option<Address>,
    /// Take the signals of the TCG simulator's platform here, and TPM commands at --data in its frames, as tpm2-tss'
    /// mssim TCTI and IBM's TSS send them to neighbouring ports; each frame chooses its locality, 0 to 3
    #[arg(long, value_name = "WHERE", requires = "data", conflicts_with = "control")]
    pub mssim_platform: Option<Address>,
    /// Take TPM commands at --data also in the TCG simulator's frames; each chooses its locality, 0 to 3, so whoever reaches
    /// --data does
    #[arg(long, requires = "data")]
    pub mssim_frames: bool,
    /// Serve a CRB in this file, which is the guest's RAM (QEMU: memory-backend-file,share=on)
    #[arg(long, value_name = "FILE", requires = "crb_at")]
    pub guest_memory: Option<PathBuf>,
    /// Guest-physical address of the CRB's page, for example 0x1c000000; the guest must not use it as RAM
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub crb_at: Option<u64>,
    /// Write the ACPI tables that announce the CRB into this folder: tpm2.aml and ssdt.aml. Other files of these names are
    /// not overwritten
    #[arg(long, value_name = "FOLDER", requires = "crb_at")]
    pub acpi: Option<PathBuf>,
    /// Leave the TPM off until a control message switches it on, as QEMU does
    #[arg(long, requires = "control")]
    pub wait_for_init: bool,
    /// What only swtpm's words ask for.
    #[arg(skip)]
    pub manner: Manner,
}

/// What swtpm's words ask of serving, beyond where.
#[derive(Clone, Debug, Default)]
pub struct Manner {
    /// Start the TPM up before anybody is served.
    pub startup: Option<Startup>,
    /// Holds the process ID for as long as the sockets are there.
    pub pid_place: Option<PidPlace>,
    /// Say on the standard output when all is ready.
    pub announces: bool,
    /// See [`Sockets::ends_with_client`].
    pub ends_with_client: bool,
    /// See [`Sockets::refuses_locality_4`].
    pub refuses_locality_4: bool,
}

/// Where the process ID is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PidPlace {
    /// A file that is made for it, and vanishes at the end.
    File(PathBuf),
    /// A descriptor that was open when the process started, by its path.
    Inherited(PathBuf),
}

impl PidPlace {
    fn write(&self) -> anyhow::Result<()> {
        let mut options = fs::OpenOptions::new();
        let (path, options) = match self {
            Self::File(path) => {
                let options = options.write(true).create(true).truncate(true).mode(0o600);
                (path, options.custom_flags(libc::O_NOFOLLOW))
            }
            Self::Inherited(path) => (path, options.append(true)),
        };
        let written = options.open(path).and_then(|mut file| writeln!(file, "{}", std::process::id()));
        written.with_context(|| format!("cannot write the process ID into {}", path.display()))
    }
}

/// TPM2_Startup's kinds (TPM 2.0 part 2, table "Definition of TPM_SU Constants").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Startup {
    /// TPM_SU_CLEAR.
    Clear,
    /// TPM_SU_STATE: resumes what TPM2_Shutdown(STATE) kept.
    State,
}

impl Startup {
    /// TPM2_Startup (TPM 2.0 part 3, section "TPM2_Startup").
    const fn command(self) -> [u8; 12] {
        let kind = match self {
            Self::Clear => 0,
            Self::State => 1,
        };
        [0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x44, 0, kind]
    }
}

/// The disk that the volume is on.
#[derive(Clone, Debug, clap::Args)]
pub struct DiskArgs {
    /// The volume file; one process at a time. None with a configuration that names ephemeral, whose TPM keeps nothing
    #[arg(long, value_name = "FILE")]
    pub volume: Option<PathBuf>,
    /// The unit that the disk writes without touching neighbours, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = FileDisk::BLOCK_BYTES)]
    pub block_bytes: u32,
}

impl DiskArgs {
    /// Opens and locks the volume, where one is named.
    ///
    /// # Errors
    /// [`FileDiskError`].
    pub fn open(&self) -> Result<Option<FileDisk>, FileDiskError> {
        self.volume.as_ref().map(|volume| FileDisk::open(volume, self.block_bytes)).transpose()
    }
}

/// Serves `machine` until SIGTERM, SIGINT or a client's SHUTDOWN, then shuts it down in order.
///
/// # Errors
/// What kept it from serving, or the fault that the machine met at its end, as one line.
pub fn serve(args: &ServeArgs, machine: Box<dyn Machine>) -> anyhow::Result<()> {
    let signals = Signals::catch().context("cannot catch signals")?;
    let serving = Serving::new(machine);
    let ending = Arc::clone(&serving);
    std::thread::spawn(move || {
        if signals.wait().is_err() {
            eprintln!("vtpmd: signals are lost; ending");
        }
        ending.end();
    });
    let served = start(args, &serving).and_then(|(server, poller)| {
        let told = args.manner.tell();
        match told {
            Ok(()) => serving.wait_for_end(),
            Err(_) => serving.end(),
        }
        server.stop();
        if let Some(poller) = poller {
            poller.stop();
        }
        told.and_then(|()| args.manner.untell())
    });
    serving.shut_down().context("the machine did not shut down in order")?;
    served
}

fn start(args: &ServeArgs, serving: &Arc<Serving>) -> anyhow::Result<(Server, Option<Poller>)> {
    if args.data.is_none() && args.control.is_none() && args.guest_memory.is_none() {
        bail!("nothing to serve on; give --data, --control or --guest-memory");
    }
    let shared = match (&args.guest_memory, args.crb_at) {
        (Some(memory), Some(at)) => {
            let layout = layout(at)?;
            Some((layout, Window::open(memory, &layout)?))
        }
        _ => None,
    };
    if let (Some(folder), Some(at)) = (&args.acpi, args.crb_at) {
        write_tables(folder, &layout(at)?)?;
    }
    if !args.wait_for_init {
        let powered = serving.with(|machine| machine.power_on());
        powered.unwrap_or(Ok(())).context("the TPM does not switch on")?;
    }
    if let Some(startup) = args.manner.startup {
        start_up(startup, serving)?;
    }
    let sockets = Sockets {
        data: args.data.clone(),
        control: args.control.clone(),
        mssim_platform: args.mssim_platform.clone(),
        takes_mssim_frames: args.mssim_frames,
        ends_with_client: args.manner.ends_with_client,
        refuses_locality_4: args.manner.refuses_locality_4,
    };
    let server = Server::start(serving, &sockets)?;
    let poller = shared.map(|(layout, window)| Poller::start(serving, layout, window));
    Ok((server, poller))
}

/// Sends TPM2_Startup from locality 0.
fn start_up(startup: Startup, serving: &Serving) -> anyhow::Result<()> {
    let mut response = [0; COMMAND_BYTES_MAX];
    let mut tpm = serving;
    let length = tpm.execute(Locality::Zero, &startup.command(), &mut response);
    match response.get(6..10.min(length)) {
        Some([0, 0, 0, 0]) => Ok(()),
        Some(code) => bail!("the TPM refused to start up in this way: response code 0x{}", hex::encode(code)),
        None => bail!("the TPM answered TPM2_Startup with {length} bytes, which is no response"),
    }
}

impl Manner {
    /// Tells whoever waits that the sockets are there.
    fn tell(&self) -> anyhow::Result<()> {
        self.pid_place.as_ref().map_or(Ok(()), PidPlace::write)?;
        eprintln!("vtpmd: ready");
        if self.announces {
            let mut out = std::io::stdout();
            let said = out.write_all(ANNOUNCEMENT.as_bytes()).and_then(|()| out.flush());
            said.context("nobody waits for this background process")?;
        }
        Ok(())
    }

    fn untell(&self) -> anyhow::Result<()> {
        let Some(PidPlace::File(path)) = &self.pid_place else { return Ok(()) };
        fs::remove_file(path).with_context(|| format!("cannot remove the pid file {}", path.display()))
    }
}

/// Writes the tables that announce a CRB at `layout`, for QEMU's `-acpitable file=`. A file that is there already stays as
/// it is.
///
/// # Errors
/// If a file cannot be written, or is there with another content.
pub fn write_tables(folder: &Path, layout: &Layout) -> anyhow::Result<()> {
    let (mut tpm2, mut ssdt) = ([0; TABLE_BYTES_MAX], [0; TABLE_BYTES_MAX]);
    let bytes = acpi::tpm2_table(layout, None, &mut tpm2).map_err(|leaf| leaf.fault())?;
    write_new(&folder.join("tpm2.aml"), &tpm2[..bytes])?;
    let bytes = acpi::ssdt(layout, &mut ssdt).map_err(|leaf| leaf.fault())?;
    write_new(&folder.join("ssdt.aml"), &ssdt[..bytes])
}

fn write_new(path: &Path, table: &[u8]) -> anyhow::Result<()> {
    match fs::OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => file.write_all(table).with_context(|| format!("cannot write {}", path.display())),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let found = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            if found != table {
                bail!(
                    "{} is there already and is no table of this CRB; remove it or name another folder",
                    path.display()
                );
            }
            Ok(())
        }
        Err(error) => Err(error).with_context(|| format!("cannot make {}", path.display())),
    }
}

/// An address in hexadecimal with 0x, or in decimal.
fn address(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("`{text}` is not an address such as 0x1c000000"))
}
