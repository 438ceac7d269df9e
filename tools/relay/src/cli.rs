//! The command `husk relay`.

use crate::client::{BrokerCa, is_url};
use crate::kbs::Fork;
use crate::pipe::{HttpPipe, Pipe};
use crate::server::{bind, serve};
use crate::tamper::{Mode, Tampered};
use anyhow::Context as _;
use std::path::PathBuf;
use std::sync::Arc;

/// `husk relay`
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The unix socket to listen on.
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// The broker, such as `https://broker.example:8630`.
    #[arg(long, value_name = "URL", value_parser = is_url)]
    broker: String,
    #[command(flatten)]
    ca: BrokerCa,
    /// The CoCo KBS for VMs whose configuration requires one, such as http://127.0.0.1:8080. The VM does not rely on TLS.
    #[arg(long, value_name = "URL", value_parser = is_url)]
    kbs: Option<String>,
    /// Write the broker's address here once the socket takes connections.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Do what a hostile host would do, to see it fail: swap-broker-key, record:FILE, replay:FILE, replay-all:FILE,
    /// flip-request:N:BYTE, flip-reply:N:BYTE, drop-request:N or drop-reply:N.
    #[arg(long, value_name = "MODE")]
    test_tamper: Option<Mode>,
}

/// Runs until it is killed; a relay has nothing to finish.
///
/// # Errors
/// One chain of causes for the operator.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let http = Fork::new(HttpPipe::new(&args.broker, args.ca.roots(&args.broker)?), args.kbs.as_deref());
    let pipe: Arc<dyn Pipe> = match &args.test_tamper {
        None => Arc::new(http),
        Some(mode) => {
            eprintln!("husk-relay: this relay is hostile, as it was told to: {mode:?}");
            Arc::new(Tampered::new(http, mode.clone()).context("the recording failed")?)
        }
    };
    let listener = bind(&args.socket)?;
    if let Some(path) = &args.ready_file {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}", std::process::id()));
        std::fs::write(&temporary, format!("{}\n", args.broker))
            .and_then(|()| std::fs::rename(&temporary, path))
            .with_context(|| path.display().to_string())?;
    }
    println!("husk relay listens on {}", args.socket.display());
    serve(&listener, &pipe);
    Ok(())
}
