//! `husk vtpmd`: puts the component together and serves it.

use crate::cli::{PlatformArgs, ServeArgs, serve};
use crate::component::{Component, Footing, Launch};
use anyhow::{Context, bail};
use husk::attest::launch::{CONFIG_BYTES_MAX, LaunchConfig};
use husk_psp::{PspReporter, RemoteGuest};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Guest policy of the simulated launch: ABI 1.51 or later, SMT allowed, the bit that must be one (AMD 56860, table
/// GUEST_POLICY); no debugging, no migration agent.
const GUEST_POLICY: u64 = 0x3_0133;

/// Run the component as a host process, for development and tests: it protects nothing from this host.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    serve: ServeArgs,
    #[command(flatten)]
    platform: PlatformArgs,
    /// The launch configuration that `husk vm enroll` wrote
    #[arg(long, value_name = "FILE", required_unless_present = "unsealed_for_testing")]
    config: Option<PathBuf>,
    /// The socket of `husk psp serve`
    #[arg(long, value_name = "PATH", required_unless_present = "unsealed_for_testing")]
    psp: Option<PathBuf>,
    /// What the simulated processor measures [default: this very program]
    #[arg(long, value_name = "FILE")]
    firmware: Option<PathBuf>,
    /// How long to wait, in seconds, until another instance's lease has ended
    #[arg(long, value_name = "SECONDS", default_value_t = 90)]
    wait_for_lease_seconds: u64,
    /// Give up every promise: public keys, no broker. The volume is marked for ever
    #[arg(long, conflicts_with_all = ["config", "psp", "relay", "firmware"])]
    unsealed_for_testing: bool,
}

/// Runs the command.
///
/// # Errors
/// One line: what, whose fault, what to do.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let disk = args.platform.disk()?;
    let footing = footing(args)?;
    let component = Component::new(disk, footing).context("this process has a TPM already")?;
    serve(&args.serve, Box::new(component))
}

fn footing(args: &Args) -> anyhow::Result<Footing> {
    let (Some(config), Some(psp)) = (&args.config, &args.psp) else { return Ok(Footing::UnsealedForTesting) };
    let Some(channel) = args.platform.channel() else {
        bail!("a sealed TPM needs its broker; give --relay, the socket of `husk relay`");
    };
    let config = config_bytes(config)?;
    let host_data = LaunchConfig::parse(&config).map_err(husk::fault::Fault::from)?.host_data();
    let firmware = match &args.firmware {
        Some(path) => path.clone(),
        None => std::env::current_exe().context("cannot tell which program this is; give --firmware")?,
    };
    let firmware =
        fs::read(&firmware).with_context(|| format!("cannot read the firmware {}", firmware.display()))?;
    let (mut guest, secrets) = RemoteGuest::launch(psp, &firmware, &host_data, GUEST_POLICY)?;
    let certificate = guest.certificate()?;
    let reporter = PspReporter::new(guest, secrets, certificate);
    let wait_for_lease = Duration::from_secs(args.wait_for_lease_seconds);
    Ok(Footing::Sealed(Box::new(Launch { config, channel, reporter, wait_for_lease })))
}

/// Reads the launch configuration, but no more than one can have.
fn config_bytes(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path)
        .with_context(|| format!("cannot open the launch configuration {}", path.display()))?;
    file.take(CONFIG_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
