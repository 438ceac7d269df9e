//! The words of swtpm's command line.
//!
//! **What.** `husk vtpmd socket …` takes what scripts and management layers give to `swtpm socket …`, and means the same.
//! **Trust.** The words come from whoever runs the command.
//! **Laws.** Every word that is taken is obeyed; a word that would not be is refused with the reason. What differs from
//! swtpm is in [`DIFFERENCES`], which `--help` shows.
//! **Not here.** swtpm_setup, key files and state encryption: a volume is sealed by its broker's keys or not at all.

mod options;

use crate::cli::{Manner, PidPlace, ServeArgs};
use crate::daemon::launch;
use crate::footing::FootingArgs;
use crate::platform::{FileDisk, FileDiskError};
use crate::server::Address;
use crate::sys;
use anyhow::{Context, bail};
use options::{Flags, LocalityRules, Log, Never};
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Size in bytes of a volume that is made for tests: the largest that the component uses.
const VOLUME_BYTES: u64 = husk::volume::layout::VOLUME_BYTES_MAX;

/// What `--print-capabilities` prints: of swtpm's feature words, those that are true.
pub(crate) const CAPABILITIES: &str = concat!(
    r#"{ "type": "swtpm", "features": [ "tpm-2.0", "flags-opt-startup", "nvram-backend-dir", "nvram-backend-file" ], "version": ""#,
    env!("CARGO_PKG_VERSION"),
    r#"" }"#
);

/// What is not as with swtpm.
pub(crate) const DIFFERENCES: &str = "\
What differs from swtpm: the state is one volume, DIR/tpm2.husk, sealed by a broker's keys (--config, --psp, --relay) \
unless --unsealed-for-testing is given, which also makes a missing volume; TCP is served on loopback only; sockets, \
volume, log and pid file belong to their owner alone (mode 0600); state blobs leave and enter with --unsealed-for-testing \
only; STORE_VOLATILE needs --suspend-file and is for the same process; --daemon needs --log; --terminate counts connections \
that carried a command; there is no system call filter. The handbook's page on swtpm has the whole list.";

/// The words of `swtpm socket`.
#[expect(clippy::struct_excessive_bools, reason = "as many switches as swtpm's command line has")]
#[derive(Debug, clap::Args)]
pub(crate) struct Socket {
    /// A TPM 2.0; there is no other
    #[arg(long, required_unless_present = "print_capabilities")]
    tpm2: bool,
    /// Take TPM commands here: [type=tcp,]port=N[,bindaddr=ADDRESS] or type=unixio,path=PATH
    #[arg(long, value_name = "OPTIONS", value_parser = options::endpoint)]
    server: Option<Address>,
    /// Take control messages here: as --server
    #[arg(long, value_name = "OPTIONS", value_parser = options::endpoint)]
    ctrl: Option<Address>,
    /// The same as --server type=tcp,port=PORT
    #[arg(short, long, value_name = "PORT", value_parser = options::port, conflicts_with = "server")]
    port: Option<Address>,
    /// The folder of the volume tpm2.husk, or the volume itself: dir=DIR, backend-uri=dir://DIR, backend-uri=file://FILE
    #[arg(long, value_name = "OPTIONS", value_parser = options::state, required_unless_present = "print_capabilities")]
    tpmstate: Option<PathBuf>,
    /// not-need-init and one of startup-clear, startup-state, startup-none; a startup implies not-need-init
    #[arg(long, value_name = "OPTIONS", value_parser = options::flags)]
    flags: Option<Flags>,
    /// reject-locality-4
    #[arg(long, value_name = "OPTIONS", value_parser = options::locality)]
    locality: Option<LocalityRules>,
    /// Write what is said into a file or an open descriptor: file=FILE|fd=N[,truncate]; level=N changes nothing
    #[arg(long, value_name = "OPTIONS", value_parser = options::log)]
    log: Option<Log>,
    /// Write the process ID into a file or an open descriptor once the sockets are there: file=FILE or fd=N
    #[arg(long, value_name = "OPTIONS", value_parser = options::pid)]
    pid: Option<PidPlace>,
    /// Go into the background once the sockets are there
    #[arg(short, long, requires = "log")]
    daemon: bool,
    /// End when a connection to --server that carried a command ends
    #[arg(short, long)]
    terminate: bool,
    /// action=none
    #[arg(long, value_name = "OPTIONS", value_parser = options::seccomp)]
    seccomp: Option<()>,
    /// Refused, as the next three are: they say why
    #[arg(long, value_name = "OPTIONS", value_parser = options::key)]
    key: Option<Never>,
    /// Refused
    #[arg(long, value_name = "OPTIONS", value_parser = options::migration_key)]
    migration_key: Option<Never>,
    /// Refused
    #[arg(short, long, value_name = "USER", value_parser = options::run_as)]
    runas: Option<Never>,
    /// Refused
    #[arg(short, long, value_name = "FD", value_parser = options::descriptor)]
    fd: Option<Never>,
    /// Not swtpm's: take TPM commands at --server also in the TCG simulator's frames; each chooses its locality, 0 to 3
    #[arg(long)]
    mssim_frames: bool,
    /// Print, in swtpm's JSON, which of swtpm's abilities are here
    #[arg(long)]
    print_capabilities: bool,
    /// This is the background process: it says on its standard output when it is ready
    #[arg(long, hide = true, requires = "daemon")]
    announce: bool,
    #[command(flatten)]
    footing: FootingArgs,
}

impl Socket {
    /// Obeys the words.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        if self.print_capabilities {
            println!("{CAPABILITIES}");
            return Ok(());
        }
        let ways = self.ways()?;
        if self.daemon && !self.announce {
            return into_background();
        }
        if self.announce {
            sys::own_session().context("cannot leave the terminal's session")?;
        }
        if let Some(log) = &self.log {
            sys::stderr_into(&log.open()?).context("cannot write the log")?;
        }
        launch(self.disk()?, &self.footing, &ways)
    }

    fn ways(&self) -> anyhow::Result<ServeArgs> {
        let flags = self.flags.unwrap_or_default();
        let wait_for_init = flags.startup.is_none() && !flags.not_need_init;
        if wait_for_init && self.ctrl.is_none() {
            bail!("nobody could switch this TPM on; give --ctrl, or --flags not-need-init");
        }
        if self.mssim_frames && self.server.is_none() && self.port.is_none() {
            bail!("--mssim-frames is about --server; give that, too");
        }
        Ok(ServeArgs {
            data: self.server.clone().or_else(|| self.port.clone()),
            control: self.ctrl.clone(),
            mssim_platform: None,
            mssim_frames: self.mssim_frames,
            guest_memory: None,
            crb_at: None,
            acpi: None,
            wait_for_init,
            manner: Manner {
                startup: flags.startup,
                pid_place: self.pid.clone(),
                announces: self.announce,
                ends_with_client: self.terminate,
                refuses_locality_4: self.locality.is_some_and(|rules| rules.reject_4),
            },
        })
    }

    fn disk(&self) -> anyhow::Result<Option<FileDisk>> {
        let Some(volume) = &self.tpmstate else { return Ok(None) };
        if self.footing.unsealed_for_testing {
            blank(volume).with_context(|| format!("cannot make the volume {}", volume.display()))?;
        }
        let opened = FileDisk::open(volume, FileDisk::BLOCK_BYTES);
        opened.map(Some).map_err(|error: FileDiskError| error.into())
    }
}

/// Makes a blank volume where there is no file; a file that is there stays as it is.
fn blank(volume: &Path) -> std::io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(volume) {
        Ok(file) => file.set_len(VOLUME_BYTES),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Starts this same command line again as a process of its own, and returns when that is ready.
fn into_background() -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot tell which program this is")?;
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .arg("--announce")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the background process")?;
    let mut said = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut said).context("cannot hear the background process")?;
    }
    if said != crate::cli::ANNOUNCEMENT {
        let status = child.wait().context("cannot wait for the background process")?;
        bail!("the background process ended before it was ready ({status}); its log says why");
    }
    Ok(())
}
