//! What the TPM stands on, as command lines say it.

use crate::component::{Footing, Launch};
use crate::platform::SocketChannel;
use anyhow::{Context, bail};
use husk::attest::launch::{CONFIG_BYTES_MAX, LaunchConfig, Mode};
use husk_psp::{PspReporter, RemoteGuest};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Guest policy of the simulated launch: ABI 1.51 or later, SMT allowed, the bit that must be one (AMD 56860, table
/// GUEST_POLICY); no debugging, no migration agent.
const GUEST_POLICY: u64 = 0x3_0133;

/// Where the keys come from.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct FootingArgs {
    /// The launch configuration that `husk vm enroll` wrote
    #[arg(long, value_name = "FILE", required_unless_present_any = ["unsealed_for_testing", "print_capabilities"])]
    config: Option<PathBuf>,
    /// The socket of `husk psp serve`
    #[arg(long, value_name = "PATH", required_unless_present_any = ["unsealed_for_testing", "print_capabilities"])]
    psp: Option<PathBuf>,
    /// The relay's socket; none with a configuration that names hw-sealed, which has no broker
    #[arg(long, value_name = "PATH")]
    relay: Option<PathBuf>,
    /// How long one exchange with the broker may take, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    relay_timeout_ms: u64,
    /// What the simulated processor measures [default: this very program]
    #[arg(long, value_name = "FILE")]
    firmware: Option<PathBuf>,
    /// How long to wait, in seconds, until another instance's lease has ended
    #[arg(long, value_name = "SECONDS", default_value_t = 90)]
    wait_for_lease_seconds: u64,
    /// Let STORE_VOLATILE suspend the TPM into this file, sealed for this process alone; the next INIT resumes it, once, if
    /// the guest did nothing in between. Whoever can send INIT decides whether the guest goes on or begins anew
    #[arg(long, value_name = "FILE")]
    pub(crate) suspend_file: Option<PathBuf>,
    /// Give up every promise: public keys, no broker. The volume is marked for ever
    #[arg(long, conflicts_with_all = ["config", "psp", "relay", "firmware"])]
    pub(crate) unsealed_for_testing: bool,
}

impl FootingArgs {
    /// Launches a guest at the simulated processor, unless every promise is given up; nothing is asked of the broker yet.
    pub(crate) fn footing(&self) -> anyhow::Result<Footing> {
        if self.unsealed_for_testing {
            return Ok(Footing::UnsealedForTesting);
        }
        let (Some(config), Some(psp)) = (&self.config, &self.psp) else {
            bail!("a sealed TPM needs its launch configuration and its processor; give --config and --psp");
        };
        let config = config_bytes(config)?;
        let launch = LaunchConfig::parse(&config).map_err(husk::fault::Fault::from)?;
        let channel = self.channel(launch.mode)?;
        let host_data = launch.host_data();
        let firmware = match &self.firmware {
            Some(path) => path.clone(),
            None => std::env::current_exe().context("cannot tell which program this is; give --firmware")?,
        };
        let firmware = fs::read(&firmware)
            .with_context(|| format!("cannot read the firmware {}", firmware.display()))?;
        let (mut guest, secrets) = RemoteGuest::launch(psp, &firmware, &host_data, GUEST_POLICY)?;
        let certificate = guest.certificate()?;
        let reporter = PspReporter::new(guest, secrets, certificate);
        let wait_for_lease = Duration::from_secs(self.wait_for_lease_seconds);
        Ok(Footing::Sealed(Box::new(Launch { config, channel, reporter, wait_for_lease })))
    }

    /// Whether the configuration names a TPM that keeps nothing.
    pub(crate) fn keeps_nothing(&self) -> anyhow::Result<bool> {
        let Some(config) = &self.config else { return Ok(false) };
        let launch = LaunchConfig::parse(&config_bytes(config)?).map_err(husk::fault::Fault::from)?;
        Ok(launch.mode == Mode::Ephemeral)
    }

    /// The way to the broker, exactly where the configuration names a mode that has one.
    fn channel(&self, mode: Mode) -> anyhow::Result<Option<SocketChannel>> {
        match (mode, &self.relay) {
            (Mode::Strict | Mode::Ephemeral, Some(relay)) => {
                Ok(Some(SocketChannel::new(relay.clone(), Duration::from_millis(self.relay_timeout_ms))))
            }
            (Mode::Strict | Mode::Ephemeral, None) => bail!("a sealed TPM needs its broker; give --relay"),
            (Mode::HwSealed, None) => Ok(None),
            (Mode::HwSealed, Some(_)) => {
                bail!(
                    "the configuration names hw-sealed, which has no broker; leave --relay out, or enrol the VM"
                )
            }
        }
    }
}

/// Reads the launch configuration, but no more than one can have.
fn config_bytes(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path)
        .with_context(|| format!("cannot open the launch configuration {}", path.display()))?;
    file.take(CONFIG_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
