//! `husk-attest`: answers one request for evidence, from its standard input to its standard output.

use clap::Parser;
use husk_attester::attest::{AttestError, serve, tell};
use husk_attester::tpm::{Place, Tpm};
use husk_attester::wire::{BOUND_BYTES_MAX, Step};
use std::fs::File;
use std::io::{Read as _, stdin, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Answer `husk evidence ask`: which TPM this guest has, what its PCRs say, and which host key it holds.
///
/// Needs what may use the TPM (Debian: the group `tss`). Let nobody choose its arguments but the guest's administrator: whoever may use the TPM may
/// bind any key. Exit codes: 0 answered, 1 not, 2 wrong command line.
#[derive(Parser, Debug)]
#[command(name = "husk-attest", version)]
struct Args {
    /// The TPM: a device, or a socket that takes raw commands as unix:PATH or tcp:ADDRESS:PORT
    #[arg(long, value_name = "WHERE", default_value = "/dev/tpmrm0")]
    tpm: Place,
    /// What is bound to the evidence: the public host key that clients of this guest see
    #[arg(long, value_name = "FILE", default_value = "/etc/ssh/ssh_host_ed25519_key.pub")]
    bind: PathBuf,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => {
            eprintln!("husk-attest: {line}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    let bound = bound(&args.bind)?;
    let mut tpm = Tpm::open(&args.tpm).map_err(|error| {
        let error = AttestError::Tpm(Step::Reach, error);
        tell(&mut stdout(), &error);
        format!("{}: {error}; may this user use it?", args.tpm)
    })?;
    serve((&mut stdin().lock(), &mut stdout().lock()), &mut tpm, &bound).map_err(|error| error.to_string())
}

fn bound(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(BOUND_BYTES_MAX as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|error| format!("{}: {error}; name the host's public key with --bind", path.display()))?;
    if bytes.is_empty() || bytes.len() > BOUND_BYTES_MAX {
        return Err(format!("{}: a public key has 1 to {BOUND_BYTES_MAX} bytes", path.display()));
    }
    Ok(bytes)
}
