//! The command line of serving: where, on what, and until when.

use crate::machine::Machine;
use crate::platform::{FileDisk, FileDiskError, SocketChannel};
use crate::server::{Address, Server};
use crate::serving::Serving;
use crate::shared::{Poller, Window, layout};
use crate::sys::Signals;
use anyhow::{Context, bail};
use husk::frontend::acpi::{self, TABLE_BYTES_MAX};
use husk::frontend::crb::Layout;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How the TPM is reached.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeArgs {
    /// Take TPM commands here: unix:PATH or tcp:ADDRESS:PORT (loopback only)
    #[arg(long, value_name = "WHERE")]
    pub data: Option<Address>,
    /// Take swtpm's control messages here: unix:PATH or tcp:ADDRESS:PORT (loopback only)
    #[arg(long, value_name = "WHERE")]
    pub control: Option<Address>,
    /// Serve a CRB in this file, which is the guest's RAM (QEMU: memory-backend-file,share=on)
    #[arg(long, value_name = "FILE", requires = "crb_at")]
    pub guest_memory: Option<PathBuf>,
    /// Guest-physical address of the CRB's page, for example 0x1c000000; the guest must not use it as RAM
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub crb_at: Option<u64>,
    /// Write the ACPI tables that announce the CRB into this folder: tpm2.aml and ssdt.aml
    #[arg(long, value_name = "FOLDER", requires = "crb_at")]
    pub acpi: Option<PathBuf>,
    /// Leave the TPM off until a control message switches it on, as QEMU does
    #[arg(long, requires = "control")]
    pub wait_for_init: bool,
}

/// What the component stands on.
#[derive(Clone, Debug, clap::Args)]
pub struct PlatformArgs {
    /// The volume file; one process at a time
    #[arg(long, value_name = "FILE")]
    pub volume: PathBuf,
    /// The unit that the disk writes without touching neighbours, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = FileDisk::BLOCK_BYTES)]
    pub block_bytes: u32,
    /// The relay's socket
    #[arg(long, value_name = "PATH", required_unless_present = "unsealed_for_testing")]
    pub relay: Option<PathBuf>,
    /// How long one exchange with the broker may take, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    pub relay_timeout_ms: u64,
}

impl PlatformArgs {
    /// Opens and locks the volume.
    ///
    /// # Errors
    /// [`FileDiskError`].
    pub fn disk(&self) -> Result<FileDisk, FileDiskError> {
        FileDisk::open(&self.volume, self.block_bytes)
    }

    /// The channel to the broker, where a relay is named; nothing is connected yet.
    #[must_use]
    pub fn channel(&self) -> Option<SocketChannel> {
        let relay = self.relay.clone()?;
        Some(SocketChannel::new(relay, Duration::from_millis(self.relay_timeout_ms)))
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
    let served = start(args, &serving).map(|(server, poller)| {
        eprintln!("vtpmd: ready");
        serving.wait_for_end();
        server.stop();
        if let Some(poller) = poller {
            poller.stop();
        }
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
    let server = Server::start(serving, args.data.as_ref(), args.control.as_ref())?;
    let poller = shared.map(|(layout, window)| Poller::start(serving, layout, window));
    Ok((server, poller))
}

/// Writes the tables that announce a CRB at `layout`, for QEMU's `-acpitable file=`.
///
/// # Errors
/// If a file cannot be written.
pub fn write_tables(folder: &Path, layout: &Layout) -> anyhow::Result<()> {
    let mut table = [0; TABLE_BYTES_MAX];
    let write = |name: &str, table: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, table).with_context(|| format!("cannot write {}", path.display()))
    };
    let bytes = acpi::tpm2_table(layout, None, &mut table).map_err(|leaf| leaf.fault())?;
    write("tpm2.aml", &table[..bytes])?;
    let bytes = acpi::ssdt(layout, &mut table).map_err(|leaf| leaf.fault())?;
    write("ssdt.aml", &table[..bytes])
}

/// An address in hexadecimal with 0x, or in decimal.
fn address(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("`{text}` is not an address such as 0x1c000000"))
}
