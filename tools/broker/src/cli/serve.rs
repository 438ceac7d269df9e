//! `husk broker serve`.

use super::counter::CounterPlace;
use super::tls::{SpeechArgs, speech};
use super::{Database, RootKey};
use crate::evidence::Judge;
use crate::http::{self, Limits};
use crate::log::LogFormat;
use crate::metrics::Metrics;
use crate::operations::{self, Operations, PageToken};
use crate::service::Service;
use crate::store::Serving;
use crate::tls::Credentials;
use crate::world::{Machine, World};
use anyhow::{Context as _, bail};
use clap::Args;
use husk_evidence::Verifier;
use husk_files::write_new;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// How long the process waits for a database that does not answer, once everything else has ended.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// `husk broker serve`
#[derive(Args, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    database: Database,
    #[command(flatten)]
    root_key: RootKey,
    /// Address and port; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8630")]
    listen: SocketAddr,
    #[command(flatten)]
    speech: SpeechArgs,
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
    #[command(flatten)]
    counter: CounterPlace,
    #[command(flatten)]
    watched: OperationsArgs,
    /// How the log on standard error is written.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub(super) log_format: LogFormat,
    /// How long requests that are at work may take once SIGTERM or Ctrl-C came.
    #[arg(long, value_name = "SECONDS", default_value_t = http::END_WAIT_S, value_parser = clap::value_parser!(u16).range(1..=3600))]
    drain_seconds: u16,
    /// Write the address here once the broker serves, and in a second line that of --operations.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

/// The operator's own listener.
#[derive(Args, Debug)]
struct OperationsArgs {
    /// Where the operator's own listener is (plain HTTP: /healthz, /readyz, /metrics, /ui); without it there is none. Port 0 takes a free
    /// one.
    #[arg(long, value_name = "ADDRESS:PORT")]
    operations: Option<SocketAddr>,
    /// Let --operations be an address that other machines reach: whoever does learns how the broker fares, and reads the page's token off
    /// the network. For a network of the operators' own, or behind a proxy that speaks TLS.
    #[arg(long, requires = "operations")]
    operations_beyond_loopback: bool,
    /// A private file whose first line is the token that /ui asks for; without it there is no page.
    #[arg(long, value_name = "FILE", requires = "operations")]
    operations_token: Option<PathBuf>,
}

pub(super) fn serve(args: &ServeArgs) -> anyhow::Result<()> {
    let page_token = args.watched.checked()?;
    let token = args.root_key.token.open()?;
    let keys = Arc::new(args.root_key.read_for(token.as_ref(), args.counter.is_in_token())?);
    let world: Arc<dyn World> = Arc::new(Machine::start());
    let (verifier, credentials) = (verifier(args)?, args.speech.credentials()?);
    let store = args.database.open()?;
    let lease_ms = args.lease_seconds.saturating_mul(1000);
    let begun = Serving::begin(store, Arc::clone(&keys), Arc::clone(&world), lease_ms);
    let serving = begun.and_then(|serving| match args.counter.open(token)? {
        Some(counter) => serving.with_counter(counter),
        None => Ok(serving),
    });
    let serving = serving.with_context(|| args.database.database.to_string())?;
    let metrics = Arc::new(Metrics::new()?);
    let service = Service::new(serving, keys, world, Box::new(Judge::new(verifier)));
    let service = Arc::new(service.counting(Arc::clone(&metrics)));
    let operations = Operations::new(Arc::clone(&service), metrics, page_token);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the runtime did not start")?;
    // The service outlives the runtime: a database's connection may not be closed within one.
    let listened = runtime.block_on(listen(args, credentials, (Arc::clone(&service), operations)));
    // What the database has not answered by now, nobody waits for.
    runtime.shutdown_timeout(LAST_WAIT);
    drop(service);
    listened
}

impl OperationsArgs {
    /// The page's token, if the words go together.
    fn checked(&self) -> anyhow::Result<Option<PageToken>> {
        if let Some(address) =
            self.operations.filter(|address| !address.ip().is_loopback() && !self.operations_beyond_loopback)
        {
            bail!(
                "--operations {address} is not loopback: say so with --operations-beyond-loopback, or take 127.0.0.1"
            );
        }
        let token = self.operations_token.as_deref().map(PageToken::read).transpose();
        token.context("the page's token was not read")
    }
}

fn verifier(args: &ServeArgs) -> anyhow::Result<Verifier> {
    let mut verifier = Verifier::new()?;
    if let Some(folder) = &args.intermediates {
        verifier = verifier.with_intermediates_from(folder)?;
    }
    if let Some(path) = &args.accept_simulated_silicon {
        let bundle = std::fs::read(path).with_context(|| path.display().to_string())?;
        verifier = verifier.accept_simulated(&bundle)?;
        tracing::warn!("WARNING: simulated silicon is accepted: grants from this broker prove no hardware");
    }
    Ok(verifier)
}

/// What `husk broker serve` listens with.
struct Ears {
    main: TcpListener,
    operations: Option<TcpListener>,
}

impl Ears {
    async fn open(args: &ServeArgs) -> anyhow::Result<Self> {
        let main = bind(args.listen).await?;
        let operations = match args.watched.operations {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        Ok(Self { main, operations })
    }

    /// A line for each.
    fn addresses(&self) -> std::io::Result<Vec<SocketAddr>> {
        [Some(&self.main), self.operations.as_ref()]
            .into_iter()
            .flatten()
            .map(TcpListener::local_addr)
            .collect()
    }
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

async fn listen(
    args: &ServeArgs,
    credentials: Option<Arc<Credentials>>,
    (service, operations): (Arc<Service>, Arc<Operations>),
) -> anyhow::Result<()> {
    let scheme = if credentials.is_some() { "https" } else { "http" };
    let speech = speech(credentials)?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?;
    let ears = Ears::open(args).await?;
    let addresses = ears.addresses()?;
    if let Some(path) = &args.ready_file {
        announce(path, &addresses)?;
    }
    for (what, address) in ["husk broker listens on", "operations are on"].iter().zip(&addresses) {
        println!("{what} {}://{address}", if *what == "operations are on" { "http" } else { scheme });
    }
    let drained = Arc::clone(&operations);
    let end = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("ending");
        drained.drain();
    };
    // The operator sees to the last that this broker is not ready.
    let (over, ended) = oneshot::channel::<()>();
    let beside = ears.operations.map(|listener| {
        tokio::spawn(operations::serve(listener, operations, async move {
            // Whether it is sent or its sender is gone: it is over.
            ended.await.unwrap_or_default();
        }))
    });
    let limits = Limits { end_wait: Duration::from_secs(args.drain_seconds.into()), ..Limits::default() };
    let served = http::serve_within(ears.main, service, end, (speech, limits)).await;
    drop(over);
    if let Some(beside) = beside {
        beside.await.context("the operator's listener died")?.context("the operator's listener failed")?;
    }
    served.context("the server failed")
}

/// Writes the addresses under a temporary name first, so that whoever waits for the file never reads half of it.
fn announce(path: &Path, addresses: &[SocketAddr]) -> anyhow::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let lines: String = addresses.iter().map(|address| format!("{address}\n")).collect();
    write_new(&temporary, lines.as_bytes(), 0o644)?;
    std::fs::rename(&temporary, path).with_context(|| path.display().to_string())
}
