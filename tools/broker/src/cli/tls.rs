//! `husk broker tls`, and how `husk broker serve` speaks.

use super::{Shape, or_remove};
use crate::http::Speech;
use crate::tls::{Credentials, Issued, Issuer, ServerName, Term};
use crate::world::Machine;
use anyhow::Context as _;
use clap::{ArgGroup, Args, Subcommand};
use husk_files::write_new;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::signal::unix::{SignalKind, signal};

const DAY: Duration = Duration::from_hours(24);
/// Clocks of machines that never heard of one another may differ by this.
const CLOCKS_APART: Duration = Duration::from_hours(1);

/// `husk broker tls …`
#[derive(Subcommand, Debug)]
pub enum TlsCommand {
    /// Make an authority of your own: clients are given its certificate (`--broker-ca`).
    Init(InitArgs),
    /// Have the authority issue a certificate and a key to a server.
    Issue(IssueArgs),
}

/// `husk broker tls init`
#[derive(Args, Debug)]
pub struct InitArgs {
    /// Where to write the authority's certificate, for clients.
    #[arg(long, value_name = "FILE")]
    authority_out: PathBuf,
    /// Where to write its key; no server needs it: keep it away from them.
    #[arg(long, value_name = "FILE")]
    authority_key_out: PathBuf,
    /// How long it holds.
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=50))]
    years: u16,
    #[command(flatten)]
    shape: Shape,
}

/// `husk broker tls issue`
#[derive(Args, Debug)]
pub struct IssueArgs {
    /// The authority's certificate.
    #[arg(long, value_name = "FILE")]
    authority: PathBuf,
    /// The authority's key.
    #[arg(long, value_name = "FILE")]
    authority_key: PathBuf,
    /// A host name or address that clients ask for; repeat for more.
    #[arg(long = "name", value_name = "NAME", required = true)]
    names: Vec<ServerName>,
    /// How long it holds.
    #[arg(long, value_name = "NUMBER", default_value_t = 397, value_parser = clap::value_parser!(u16).range(1..=3650))]
    days: u16,
    /// Where to write the certificate, for `husk broker serve --tls-certificate`.
    #[arg(long, value_name = "FILE")]
    certificate_out: PathBuf,
    /// Where to write its key, for `--tls-key`.
    #[arg(long, value_name = "FILE")]
    key_out: PathBuf,
    #[command(flatten)]
    shape: Shape,
}

/// How a broker speaks: one of the two ways must be named.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("way").required(true)))]
pub(super) struct SpeechArgs {
    /// Serve on TLS 1.3 with this certificate (PEM, the server's own first). SIGHUP has it and the key read anew.
    #[arg(long, value_name = "FILE", group = "way", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// The certificate's key (PEM), in a private file.
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// Serve on HTTP without TLS: the network sees who talks when, and everything that operators and clients of the KBS say. For
    /// loopback, or behind a proxy that speaks TLS.
    #[arg(long, group = "way")]
    plain_http: bool,
}

impl TlsCommand {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::Init(args) => init(args),
            Self::Issue(args) => issue(args),
        }
    }
}

/// The calendar of this machine, since 1970.
fn calendar() -> anyhow::Result<Duration> {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .context("this machine's clock stands before 1970; set it right")
}

fn term(days: u32) -> anyhow::Result<Term> {
    Ok(Term { begin: calendar()?.saturating_sub(CLOCKS_APART), length: DAY * days })
}

fn init(args: &InitArgs) -> anyhow::Result<()> {
    let issuer = Issuer::generate(&Machine::start(), term(u32::from(args.years) * 365)?)?;
    write(&issuer.issued()?, &args.authority_out, &args.authority_key_out)?;
    args.shape.print(&json!({
        "authority": args.authority_out.display().to_string(),
        "authority_key": args.authority_key_out.display().to_string(),
    }));
    Ok(())
}

fn issue(args: &IssueArgs) -> anyhow::Result<()> {
    let issuer = Issuer::read(&args.authority, &args.authority_key)?;
    let issued = issuer.issue(&Machine::start(), &args.names, term(args.days.into())?)?;
    write(&issued, &args.certificate_out, &args.key_out)?;
    args.shape.print(&json!({
        "certificate": args.certificate_out.display().to_string(),
        "key": args.key_out.display().to_string(),
    }));
    Ok(())
}

/// Both files, or none.
fn write(issued: &Issued, certificate: &Path, key: &Path) -> anyhow::Result<()> {
    husk_files::create(key, &issued.key)?;
    or_remove(key, || Ok(write_new(certificate, issued.certificate.as_bytes(), 0o644)?))
}

impl SpeechArgs {
    /// What is read of the files, if TLS was asked for.
    pub(super) fn credentials(&self) -> anyhow::Result<Option<Arc<Credentials>>> {
        let (Some(certificate), Some(key)) = (&self.tls_certificate, &self.tls_key) else { return Ok(None) };
        let read = Credentials::read(certificate.clone(), key.clone(), calendar()?);
        Ok(Some(read.context("TLS cannot be spoken")?))
    }
}

/// What is spoken with these credentials, which SIGHUP has read anew from now on. Within a runtime only.
pub(super) fn speech(credentials: Option<Arc<Credentials>>) -> anyhow::Result<Speech> {
    let Some(credentials) = credentials else { return Ok(Speech::Plain) };
    let speech = Speech::Tls(credentials.config()?.into());
    let mut hang_up = signal(SignalKind::hangup()).context("SIGHUP cannot be caught")?;
    tokio::spawn(async move {
        while hang_up.recv().await.is_some() {
            match calendar().and_then(|now| Ok(credentials.reload(now)?)) {
                Ok(()) => tracing::info!("the certificate was read anew"),
                Err(error) => tracing::error!("the certificate stays as it was: {error:#}"),
            }
        }
    });
    Ok(speech)
}
