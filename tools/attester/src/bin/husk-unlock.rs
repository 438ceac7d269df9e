//! `husk-unlock`: earns a secret from the tenant's broker while the guest starts, and puts it where systemd-cryptsetup looks for it.

use clap::Parser;
use husk::attest::launch::{CONFIG_BYTES_MAX, LaunchConfig};
use husk::release::ReleaseFault;
use husk::seams::{Entropy, EntropyError};
use husk_attester::tpm::{Place, Tpm};
use husk_attester::unlock::{Frames, UnlockError, unlock};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, IsTerminal as _, Read as _, Write as _, stdout};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(2);

/// Earn a secret, such as a disk's passphrase, from the tenant's broker: by this guest's TPM, and by what it was started as.
///
/// The launch configuration says whom to believe, so it must be measured with the guest: put it into the initrd. The way to the broker may be
/// anybody's. Exit codes: 0 the secret is there, 1 not, 2 wrong command line.
#[derive(Parser, Debug)]
#[command(name = "husk-unlock", version)]
struct Args {
    /// What the tenant calls the secret (`husk vm unlock put --name`)
    #[arg(long, value_name = "NAME")]
    name: String,
    /// The VM's launch configuration, or another one of this tenant's together with --vm
    #[arg(long, value_name = "FILE", default_value = "/etc/husk/unlock/config")]
    config: PathBuf,
    /// The VM, where the configuration is of another one: 32 hexadecimal digits, which may be anybody's word
    #[arg(long, value_name = "HEX", value_parser = vm)]
    vm: Option<Vm>,
    /// The way to a relay (`husk relay`): a character device (a virtio port or a serial line), unix:PATH or tcp:ADDRESS:PORT
    #[arg(long, value_name = "WHERE", default_value = "/dev/virtio-ports/husk.unlock")]
    broker: Place,
    /// The TPM: a device, or a socket that takes raw commands as unix:PATH or tcp:ADDRESS:PORT
    #[arg(long, value_name = "WHERE", default_value = "/dev/tpmrm0")]
    tpm: Place,
    /// Where to write the secret, for its reader alone; it must not be there. Without it the secret goes to the standard output, which must be no terminal
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// For how long a broker is asked again that does not answer
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=3600))]
    wait_seconds: u64,
}

/// A VM's id.
#[derive(Clone, Copy, Debug)]
struct Vm([u8; 16]);

fn vm(text: &str) -> Result<Vm, String> {
    let digits = text.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| {
        let text = std::str::from_utf8(pair).ok().filter(|text| !text.contains('+'))?;
        u8::from_str_radix(text, 16).ok()
    };
    let bytes = digits.0.iter().map(byte).collect::<Option<Vec<_>>>().filter(|_| digits.1.is_empty());
    let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes.map(Vm).ok_or_else(|| "a VM's id has 32 hexadecimal digits".to_owned())
}

/// The kernel's generator, which waits until it is ready.
struct Kernel;

impl Entropy for Kernel {
    fn fill(&mut self, into: &mut [u8]) -> Result<(), EntropyError> {
        getrandom::fill(into).map_err(|_| EntropyError)
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => {
            eprintln!("husk-unlock: {line}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    if args.out.is_none() && stdout().is_terminal() {
        return Err("a secret is not shown on a terminal; give --out, or a pipe".to_owned());
    }
    let mut config = config(&args.config)?;
    if let Some(Vm(vm)) = args.vm {
        config.vm = vm;
    }
    let secret = earned(args, &config)?;
    match &args.out {
        Some(path) => write(path, &secret).map_err(|error| format!("{}: {error}", path.display())),
        None => {
            stdout().write_all(&secret).and_then(|()| stdout().flush()).map_err(|error| error.to_string())
        }
    }
}

fn config(path: &Path) -> Result<LaunchConfig, String> {
    let shown = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut bytes = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(CONFIG_BYTES_MAX as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|error| shown(&error))?;
    LaunchConfig::parse(&bytes).map_err(|fault| shown(&fault.fault().means()))
}

/// Asks until there is an answer, or the time is over. A refusal is an answer.
fn earned(args: &Args, config: &LaunchConfig) -> Result<Zeroizing<Vec<u8>>, String> {
    let until = Instant::now() + Duration::from_secs(args.wait_seconds);
    loop {
        match attempt(args, config) {
            Err(Failed::Again(_)) if Instant::now() < until => sleep(PAUSE),
            Err(Failed::Again(why) | Failed::Over(why)) => return Err(why),
            Ok(secret) => return Ok(secret),
        }
    }
}

/// Why an attempt failed, and whether another may do better.
enum Failed {
    Again(String),
    Over(String),
}

fn attempt(args: &Args, config: &LaunchConfig) -> Result<Zeroizing<Vec<u8>>, Failed> {
    let way = args.broker.open();
    let mut way = way.map_err(|error| Failed::Again(format!("{}: {error}", args.broker)))?;
    let tpm = Tpm::open(&args.tpm);
    let mut tpm = tpm.map_err(|error| Failed::Again(format!("{}: {error}", args.tpm)))?;
    let frames = &mut Frames::over(&mut *way);
    unlock(&args.name, config, (frames, &mut Kernel), &mut tpm).map_err(|error| match &error {
        UnlockError::Broker(
            ReleaseFault::Unreachable | ReleaseFault::ReplyRefused | ReleaseFault::SessionLost,
        ) => Failed::Again(error.to_string()),
        _ => Failed::Over(error.to_string()),
    })
}

/// Writes a new file that its owner alone reads; what is there is never written to.
fn write(path: &Path, secret: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(secret);
    if written.is_err() {
        std::fs::remove_file(path)?;
    }
    written
}

#[cfg(test)]
mod tests {
    use super::vm;

    #[test]
    fn a_vm_has_so_many_digits() {
        assert_eq!(vm(&"0a".repeat(16)).unwrap().0, [10; 16]);
        for bad in ["", "0a", &"0a".repeat(17), &"0g".repeat(16), &"+1".repeat(16), &"0a".repeat(15)] {
            assert!(vm(bad).is_err(), "{bad}");
        }
    }
}
