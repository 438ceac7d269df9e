//! `husk evidence`: reports, certificates, manifests and quotes, shown and verified. Thin over `husk-evidence`.

mod ask;
mod boot;
mod claims;
mod statement;
mod tpm;

use anyhow::Context as _;
use claims::Claims;
use clap::{ArgGroup, Args, Subcommand};
use husk_evidence::view::{
    CertificateView, EkCertificateView, ManifestView, PcrRow, QuoteView, ReportView, VerifiedView, table,
};
use husk_evidence::{
    EkCertificate, Manifest, Quote, VekCertificate, Verified, Verifier, is_attest, is_ek_certificate,
    key_certificate_in, report_in,
};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use tpm::ReportedLaunch;

/// The longest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// `husk evidence`
#[derive(Subcommand, Debug)]
pub(crate) enum EvidenceCommand {
    /// Show what reports, certificates of signing or endorsement keys, SVSM manifests and quotes say. Verifies nothing.
    Show(ShowArgs),
    /// Verify a report down to AMD's roots, and that it covers an SVSM manifest; an endorsement key's certificate up to its maker's; a TPM's
    /// quote under its attestation key; a broker's statement, and that the others are of the instance that it speaks of.
    Verify(Box<VerifyArgs>),
    /// Ask a running guest for evidence, through any command that runs `husk-attest` there: which VM it is, what its PCRs say, and which host key it
    /// holds.
    Ask(Box<ask::AskArgs>),
}

/// `husk evidence show`
#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// Reports (1184 bytes, or a processor's answer), certificates (DER, PEM, or the table of an extended report),
    /// manifests (the table of all services, the vTPM's version 0 or 1), quotes (TPMS_ATTEST).
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Print the result as one JSON array.
    #[arg(long)]
    json: bool,
}

/// `husk evidence verify`
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("evidence").required(true).multiple(true).args(["report", "ek_certificate", "quote", "statement"])))]
pub(crate) struct VerifyArgs {
    /// The report.
    #[arg(long, value_name = "FILE", requires = "certificate")]
    report: Option<PathBuf>,
    /// The certificate of the key that signed it: DER, PEM, or the table of an extended report.
    #[arg(long, value_name = "FILE", requires = "report")]
    certificate: Option<PathBuf>,
    /// More of AMD's intermediate certificates (PEM), as its key service gives them; for VLEKs.
    #[arg(long, value_name = "FILE")]
    intermediates: Vec<PathBuf>,
    /// For tests: also accept this simulated processor (chain.pem of `husk psp init`).
    #[arg(long, value_name = "FILE")]
    accept_simulated_silicon: Option<PathBuf>,
    /// The SVSM manifest that the report must cover, at VMPL 0.
    #[arg(long, value_name = "FILE", requires_all = ["nonce", "report"])]
    manifest: Option<PathBuf>,
    /// The nonce that was asked with: 128 hexadecimal digits.
    #[arg(long, value_name = "HEX", requires = "manifest", value_parser = bytes::<64>)]
    nonce: Option<[u8; 64]>,
    /// The launch digest that the report must have: 96 hexadecimal digits.
    #[arg(long, value_name = "HEX", requires = "report", value_parser = bytes::<48>)]
    measurement: Option<[u8; 48]>,
    /// The HOST_DATA that the report must have: 64 hexadecimal digits.
    #[arg(long, value_name = "HEX", requires = "report", value_parser = bytes::<32>)]
    host_data: Option<[u8; 32]>,
    #[command(flatten)]
    tpm: tpm::TpmArgs,
    #[command(flatten)]
    statement: statement::StatementArgs,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

fn bytes<const N: usize>(text: &str) -> Result<[u8; N], String> {
    let mut out = [0; N];
    hex::decode_to_slice(text, &mut out).map_err(|_| format!("{} hexadecimal digits are wanted", 2 * N))?;
    Ok(out)
}

impl EvidenceCommand {
    /// Does it.
    ///
    /// # Errors
    /// One line: what, whose fault, what to do.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::Show(args) => show(args),
            Self::Verify(args) => verify(args),
            Self::Ask(args) => ask::run(args),
        }
    }
}

fn show(args: &ShowArgs) -> anyhow::Result<()> {
    let shown: Vec<Value> = args.files.iter().map(|file| view(file)).collect::<anyhow::Result<_>>()?;
    if args.json {
        println!("{:#}", Value::Array(shown));
        return Ok(());
    }
    for object in &shown {
        print!("{}", text(object, 0));
    }
    println!("Nothing of this is verified; `husk evidence verify` does that.");
    for kind in ["report", "certificate", "manifest", "ek_certificate", "quote"] {
        if shown.iter().any(|object| object["kind"] == kind) {
            println!("{}", claims::of_kind(kind));
        }
    }
    Ok(())
}

/// What a file holds, by its first bytes and its length.
fn view(file: &Path) -> anyhow::Result<Value> {
    let bytes = read(file)?;
    let (kind, content) = if let Ok(report) = report_in(&bytes) {
        let report = husk::attest::report::Report::parse(report).map_err(husk_evidence::EvidenceError::from);
        let report = report.with_context(|| file.display().to_string())?;
        ("report", serde_json::to_value(ReportView::from(&report))?)
    } else if is_attest(&bytes) {
        let quote = Quote::parse(&bytes).with_context(|| file.display().to_string())?;
        ("quote", serde_json::to_value(QuoteView::from(&quote))?)
    } else if let Some(der) = tpm::der_of(&bytes).filter(|der| is_ek_certificate(der)) {
        let certificate = EkCertificate::parse(&der).with_context(|| file.display().to_string())?;
        ("ek_certificate", serde_json::to_value(EkCertificateView::from(&certificate))?)
    } else if let Ok(der) = key_certificate_in(&bytes) {
        let certificate = VekCertificate::from_der(&der).with_context(|| file.display().to_string())?;
        ("certificate", serde_json::to_value(CertificateView::from(&certificate))?)
    } else {
        let manifest = Manifest::parse(&bytes).with_context(|| {
            format!("{}: it is no report, certificate or quote; read as a manifest", file.display())
        })?;
        ("manifest", serde_json::to_value(ManifestView::from(&manifest))?)
    };
    let mut object = Map::new();
    object.insert("file".into(), json!(file.display().to_string()));
    object.insert("kind".into(), json!(kind));
    object.insert(kind.into(), content);
    Ok(Value::Object(object))
}

fn verify(args: &VerifyArgs) -> anyhow::Result<()> {
    let mut claims = Claims::default();
    let mut object = Map::new();
    let (mut manifest, mut launch, mut host_data) = (None, None, None);
    if let Some((report, certificate)) = args.report.as_deref().zip(args.certificate.as_deref()) {
        let bytes = read(report)?;
        let verified = verified_report(args, report, &bytes, certificate)?;
        manifest = covered_manifest(args, &verified)?;
        launch = Some(ReportedLaunch::of(&verified, report_in(&bytes)?));
        host_data = Some(*verified.report.host_data());
        let now = seconds_since_1970();
        let view = serde_json::to_value(VerifiedView::new(&verified, manifest.as_ref(), now))?;
        object.extend(view.as_object().cloned().unwrap_or_default());
        claims.report(&verified, manifest.is_some(), args.measurement.is_some());
    }
    let tpm = args.tpm.verify((manifest.as_ref(), launch), &mut object, &mut claims);
    let tpm = tpm.map_err(|error| match error.downcast::<boot::Mismatch>() {
        Ok(mismatch) => refused(args.json, std::mem::take(&mut object), mismatch),
        Err(other) => other,
    })?;
    let beside = statement::Beside { host_data, manifest: manifest.as_ref(), tpm };
    args.statement.verify(&beside, &mut object, &mut claims)?;
    print_verdict(args.json, object, claims);
    Ok(())
}

/// What was verified, and what that proves.
fn print_verdict(json: bool, mut object: Map<String, Value>, claims: Claims) {
    if json {
        claims.insert_into(&mut object);
        println!("{:#}", Value::Object(object));
    } else {
        print!("{}{}", shown(object), claims);
    }
}

/// PCRs that are not as expected: what was seen is shown all the same, and nothing is called proven.
fn refused(json: bool, mut object: Map<String, Value>, why: boot::Mismatch) -> anyhow::Error {
    if json {
        object.insert("refused".into(), json!(why.to_string()));
        println!("{:#}", Value::Object(object));
    } else {
        print!("{}", shown(object));
    }
    why.into()
}

/// As lines for people; PCRs in a table.
fn shown(mut object: Map<String, Value>) -> String {
    let rows = object.remove("pcrs").and_then(|rows| serde_json::from_value::<Vec<PcrRow>>(rows).ok());
    let table = rows.filter(|rows| !rows.is_empty()).map(|rows| table(&rows)).unwrap_or_default();
    text(&Value::Object(object), 0) + &table
}

/// The report, down to silicon, with the measurement and HOST_DATA that were asked for.
fn verified_report<'b>(
    args: &VerifyArgs,
    file: &Path,
    bytes: &'b [u8],
    certificate: &Path,
) -> anyhow::Result<Verified<'b>> {
    let verifier = verifier(args)?;
    let report = report_in(bytes).with_context(|| file.display().to_string())?;
    let der = key_certificate_in(&read(certificate)?).with_context(|| certificate.display().to_string())?;
    let verified = verifier.verify(report, &der)?;
    if args.measurement.is_some_and(|wanted| wanted != *verified.report.measurement()) {
        anyhow::bail!("the report is genuine, but of other firmware: its MEASUREMENT is another");
    }
    if args.host_data.is_some_and(|wanted| wanted != *verified.report.host_data()) {
        anyhow::bail!("the report is genuine, but of another launch configuration: its HOST_DATA is another");
    }
    Ok(verified)
}

fn covered_manifest(args: &VerifyArgs, verified: &Verified<'_>) -> anyhow::Result<Option<Manifest>> {
    let manifest = args.manifest.as_deref().zip(args.nonce.as_ref());
    let manifest = manifest.map(|(file, nonce)| -> anyhow::Result<Manifest> {
        let bytes = read(file)?;
        verified.covers(&bytes, nonce)?;
        Manifest::parse(&bytes).with_context(|| file.display().to_string())
    });
    manifest.transpose()
}

fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn verifier(args: &VerifyArgs) -> anyhow::Result<Verifier> {
    let mut verifier = Verifier::new()?;
    for file in &args.intermediates {
        verifier = verifier.with_intermediates(&read(file)?).with_context(|| file.display().to_string())?;
    }
    if let Some(file) = &args.accept_simulated_silicon {
        verifier = verifier.accept_simulated(&read(file)?).with_context(|| file.display().to_string())?;
    }
    Ok(verifier)
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let name = || format!("cannot read {}; check the path and its permissions", file.display());
    let size = std::fs::metadata(file).with_context(name)?.len();
    if size > FILE_BYTES_MAX {
        anyhow::bail!("{}: it is longer than any evidence; name another file", file.display());
    }
    std::fs::read(file).with_context(name)
}

/// JSON as lines of names and values, for people.
pub(crate) fn text(value: &Value, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    let line = |name: &str, value: &Value| match value {
        Value::Object(_) => format!("{indent}{name}\n{}", text(value, depth + 1)),
        Value::Array(items) if items.iter().any(Value::is_object) => {
            let items = items.iter().map(|item| text(item, depth + 1)).collect::<Vec<_>>();
            format!("{indent}{name}\n{}", items.join(&format!("{indent}  -\n")))
        }
        Value::Array(items) => {
            let words: Vec<_> = items.iter().map(plain).collect();
            format!("{indent}{name} {}\n", words.join(" "))
        }
        Value::Null => String::new(),
        other => format!("{indent}{name} {}\n", plain(other)),
    };
    value.as_object().into_iter().flatten().map(|(name, value)| line(name, value)).collect()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
