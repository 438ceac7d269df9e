//! `husk broker`: make a broker, and serve.

use super::{Database, Shape, or_remove};
use crate::http;
use crate::service::Service;
use crate::store::{Serving, Store};
use crate::vault::RootKeys;
use crate::world::{Machine, World};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use husk_evidence::Verifier;
use husk_files::write_new;
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// `husk broker …`
#[derive(Subcommand, Debug)]
pub enum BrokerCommand {
    /// Make a new broker: its root key file and its database.
    Init(InitArgs),
    /// Serve VMs until SIGTERM or Ctrl-C.
    Serve(ServeArgs),
}

/// `husk broker init`
#[derive(Args, Debug)]
pub struct InitArgs {
    #[command(flatten)]
    database: Database,
    /// Where to write the root key: it wraps every secret in the database and signs every grant.
    #[arg(long, value_name = "FILE")]
    root_key: PathBuf,
    #[command(flatten)]
    shape: Shape,
}

/// `husk broker serve`
#[derive(Args, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    database: Database,
    /// The root key file that `husk broker init` wrote.
    #[arg(long, value_name = "FILE")]
    root_key: PathBuf,
    /// Address and port; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8630")]
    listen: SocketAddr,
    /// For tests only: also accept reports of the simulated processor with these certificates (`chain.pem` of
    /// `husk psp init`). Such a report proves nothing about any hardware.
    #[arg(long, value_name = "PEM")]
    accept_simulated_silicon: Option<PathBuf>,
    /// More of AMD's intermediate certificates (ASVK for VLEKs): every .pem file in this folder.
    #[arg(long, value_name = "FOLDER")]
    intermediates: Option<PathBuf>,
    /// How long a VM may answer without asking again.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3600))]
    lease_seconds: u32,
    /// Write the address here once the broker serves.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

impl BrokerCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// One chain of causes for the operator.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Init(args) => init(&args),
            Self::Serve(args) => serve(&args),
        }
    }
}

fn init(args: &InitArgs) -> anyhow::Result<()> {
    let keys = RootKeys::generate(&Machine::start())?;
    keys.write(&args.root_key).context("the root key was not written")?;
    or_remove(&args.root_key, || {
        let location = &args.database.database;
        Store::create_at(location, &keys).with_context(|| location.to_string()).map(|_| ())
    })?;
    args.shape.print(&json!({
        "broker": hex::encode(keys.broker()),
        "database": args.database.database.to_string(),
        "root_key": args.root_key.display().to_string(),
    }));
    Ok(())
}

fn serve(args: &ServeArgs) -> anyhow::Result<()> {
    let keys = Arc::new(RootKeys::read(&args.root_key).context("the root key was not read")?);
    let world: Arc<dyn World> = Arc::new(Machine::start());
    let verifier = verifier(args)?;
    let store = args.database.open()?;
    let lease_ms = args.lease_seconds.saturating_mul(1000);
    let serving = Serving::begin(store, Arc::clone(&keys), Arc::clone(&world), lease_ms)
        .with_context(|| args.database.database.to_string())?;
    let service = Arc::new(Service::new(serving, keys, world, Box::new(verifier)));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the runtime did not start")?;
    // The service outlives the runtime: a database's connection may not be closed within one.
    let listened = runtime.block_on(listen(args, Arc::clone(&service)));
    drop(runtime);
    listened
}

fn verifier(args: &ServeArgs) -> anyhow::Result<Verifier> {
    let mut verifier = Verifier::new()?;
    if let Some(folder) = &args.intermediates {
        verifier = verifier.with_intermediates_from(folder)?;
    }
    if let Some(path) = &args.accept_simulated_silicon {
        let bundle = std::fs::read(path).with_context(|| path.display().to_string())?;
        verifier = verifier.accept_simulated(&bundle)?;
        eprintln!(
            "husk-broker: WARNING: simulated silicon is accepted: grants from this broker prove no hardware"
        );
    }
    Ok(verifier)
}

async fn listen(args: &ServeArgs, service: Arc<Service>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?;
    let listener =
        TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    let address = listener.local_addr()?;
    if let Some(path) = &args.ready_file {
        announce(path, address)?;
    }
    println!("husk broker listens on http://{address}");
    let end = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        eprintln!("husk-broker: ending");
    };
    http::serve(listener, service, end).await.context("the server failed")
}

/// Writes the address under a temporary name first, so that whoever waits for the file never reads half of it.
fn announce(path: &Path, address: SocketAddr) -> anyhow::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    write_new(&temporary, format!("{address}\n").as_bytes(), 0o644)?;
    std::fs::rename(&temporary, path).with_context(|| path.display().to_string())
}
