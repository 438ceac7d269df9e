//! `husk broker certs`: certificates of processors' keys, and what was revoked.

use super::{Database, Shape};
use crate::evidence::with;
use crate::policy::{ChipId, chip, tcb};
use crate::store::{KeptCertificate, KeptKind, Store};
use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use husk::attest::report::{Generation, Report, SigningKey, Tcb};
use husk_evidence::{
    Certificate, LIST_BYTES_MAX, RevocationList, Vek, VekCertificate, Verifier, kds, report_in,
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use x509_cert::der::pem;

/// The longest file of certificates.
const FILE_BYTES_MAX: usize = 64 * 1024;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";

/// `husk broker certs ...`
#[derive(Subcommand, Debug)]
pub enum CertsCommand {
    /// Keep certificates (VCEK, VLEK, ASK, ASVK; DER or PEM): a VM whose host has none at hand is judged by them.
    Import(ImportArgs),
    /// Keep a root's revocation list (DER or PEM), unless a newer one is kept. It counts from the next report on.
    ImportCrl(ImportArgs),
    /// List what is kept.
    List(ListArgs),
    /// Remove a certificate.
    Remove(RemoveArgs),
    /// Print where AMD has the certificate, the chain and the revocation list of a chip; for whoever has a network.
    FetchUrl(FetchUrlArgs),
}

/// `husk broker certs import|import-crl`
#[derive(Args, Debug)]
pub struct ImportArgs {
    #[command(flatten)]
    database: Database,
    /// The files.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// For tests only: also take what is under the simulated processor's root (`chain.pem` of `husk psp init`).
    #[arg(long, value_name = "PEM")]
    accept_simulated_silicon: Option<PathBuf>,
    #[command(flatten)]
    shape: Shape,
}

/// `husk broker certs list`
#[derive(Args, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    database: Database,
    #[command(flatten)]
    shape: Shape,
}

/// `husk broker certs remove`
#[derive(Args, Debug)]
pub struct RemoveArgs {
    #[command(flatten)]
    database: Database,
    /// The certificate, by the digest that `list` prints.
    #[arg(value_name = "DIGEST", value_parser = digest)]
    certificate: [u8; 32],
    #[command(flatten)]
    shape: Shape,
}

/// `husk broker certs fetch-url`
#[derive(Args, Debug)]
pub struct FetchUrlArgs {
    /// A report of the chip.
    #[arg(long, value_name = "FILE", required_unless_present = "chip", conflicts_with_all = ["chip", "tcb"])]
    report: Option<PathBuf>,
    /// The chip.
    #[arg(long, value_name = "HEX", value_parser = chip, requires = "tcb")]
    chip: Option<ChipId>,
    /// Its patch levels, such as bootloader=10,tee=0,snp=25,microcode=84 (and fmc=1 for Turin).
    #[arg(long, value_name = "LEVELS", value_parser = tcb)]
    tcb: Option<Tcb>,
    /// Milan, Genoa or Turin, where the report does not say (version 2).
    #[arg(long, value_name = "WORD", value_parser = generation, required_unless_present = "report")]
    product: Option<Generation>,
    #[command(flatten)]
    shape: Shape,
}

fn digest(text: &str) -> Result<[u8; 32], String> {
    let mut out = [0; 32];
    hex::decode_to_slice(text, &mut out).map_err(|_| "a digest is 64 hexadecimal digits".to_owned())?;
    Ok(out)
}

fn generation(text: &str) -> Result<Generation, String> {
    let found = Generation::ALL.into_iter().find(|one| one.name().eq_ignore_ascii_case(text));
    found.ok_or_else(|| "one of milan, genoa, turin is expected".to_owned())
}

impl CertsCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Import(args) => import(&args),
            Self::ImportCrl(args) => import_lists(&args),
            Self::List(args) => list(&args),
            Self::Remove(args) => {
                args.database.open()?.forget_certificate(&args.certificate)?;
                args.shape.print(&json!({ "removed": hex::encode(args.certificate) }));
                Ok(())
            }
            Self::FetchUrl(args) => fetch_url(&args),
        }
    }
}

/// The roots, with what the database keeps.
fn verifier(store: &mut Store, args: &ImportArgs) -> anyhow::Result<Verifier> {
    let mut verifier = Verifier::new()?;
    if let Some(path) = &args.accept_simulated_silicon {
        verifier = verifier.accept_simulated(&husk_files::read_public(path, FILE_BYTES_MAX)?)?;
    }
    let trusted = store.trusted()?;
    with(verifier, &trusted).context("what the database keeps does not hold")
}

fn import(args: &ImportArgs) -> anyhow::Result<()> {
    let mut store = args.database.open()?;
    let mut verifier = verifier(&mut store, args)?;
    let mut certificates = Vec::new();
    for path in &args.files {
        let bytes = husk_files::read_public(path, FILE_BYTES_MAX)?;
        let all = ders(&bytes).with_context(|| path.display().to_string())?;
        certificates.extend(all.into_iter().map(|der| (path, der)));
    }
    // Issuers first: the other certificates are verified under them.
    let mut kept = Vec::new();
    for intermediates in [true, false] {
        for (path, der) in &certificates {
            let certificate = Certificate::from_der(der, "the certificate");
            let certificate = certificate.with_context(|| path.display().to_string())?;
            if matches!(certificate.subject(), "SEV-VCEK" | "SEV-VLEK") == intermediates {
                continue;
            }
            let one = if intermediates {
                verifier = verifier.with_intermediate(der).with_context(|| path.display().to_string())?;
                if certificate.subject() == certificate.issuer() {
                    eprintln!("husk: {}: a root is not kept: AMD's are built in", certificate.subject());
                    continue;
                }
                intermediate(&certificate, der)
            } else {
                key(&verifier, der).with_context(|| path.display().to_string())?
            };
            let new = store.keep_certificate(&one)?;
            kept.push(json!({ "kind": one.kind.word(), "name": one.name, "certificate": hex::encode(one.digest()), "new": new }));
        }
    }
    print_all(args.shape, kept);
    Ok(())
}

fn print_all(shape: Shape, all: Vec<Value>) {
    if shape.json {
        println!("{}", Value::Array(all));
    } else {
        all.iter().for_each(|one| shape.print(one));
    }
}

fn intermediate(certificate: &Certificate, der: &[u8]) -> KeptCertificate {
    let (kind, name) = (KeptKind::Intermediate, certificate.subject().to_owned());
    KeptCertificate { kind, name, chip: [0; 64], tcb: [0; 8], der: der.to_vec() }
}

/// The certificate of a processor's key, verified.
fn key(verifier: &Verifier, der: &[u8]) -> anyhow::Result<KeptCertificate> {
    let endorsement = verifier.endorse(der)?;
    let VekCertificate { vek, tcb, product, .. } = endorsement.certificate();
    let mut chip = [0; 64];
    let (kind, name) = match vek {
        Vek::Vcek { hwid } => {
            chip.iter_mut().zip(hwid).for_each(|(to, from)| *to = *from);
            (KeptKind::Vcek, format!("{product} {}", hex::encode(hwid)))
        }
        Vek::Vlek { csp } => (KeptKind::Vlek, format!("{product} {csp}")),
    };
    Ok(KeptCertificate { kind, name, chip, tcb: tcb.to_bytes(), der: der.to_vec() })
}

/// The certificates in a file: one of DER, or any number of PEM.
fn ders(bytes: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
    let Some(text) = std::str::from_utf8(bytes).ok().filter(|text| text.contains(BEGIN)) else {
        return Ok(vec![bytes.to_vec()]);
    };
    let blocks = text.split(BEGIN).skip(1);
    let decoded = blocks.map(|block| {
        let whole = format!("{BEGIN}{}", block.trim_end());
        pem::decode_vec(whole.as_bytes()).map(|(_, der)| der).context("it is not PEM")
    });
    decoded.collect()
}

fn import_lists(args: &ImportArgs) -> anyhow::Result<()> {
    let mut store = args.database.open()?;
    let mut verifier = verifier(&mut store, args)?;
    let mut kept = Vec::new();
    for path in &args.files {
        let bytes = husk_files::read_public(path, LIST_BYTES_MAX)?;
        let list = RevocationList::parse(&bytes).with_context(|| path.display().to_string())?;
        verifier = verifier.with_revocations(&bytes).with_context(|| path.display().to_string())?;
        let succeeds = |old: &[u8]| RevocationList::parse(old).is_ok_and(|old| list.succeeds(&old));
        store.keep_list(list.issuer(), list.der(), succeeds)?;
        kept.push(shown(&list));
    }
    print_all(args.shape, kept);
    Ok(())
}

fn shown(list: &RevocationList) -> Value {
    let dates = list.dates();
    json!({
        "kind": "revocation list",
        "name": list.issuer(),
        "number": hex::encode(list.number()),
        "not_before": dates.not_before,
        "not_after": dates.not_after,
        "revoked": list.revoked(),
    })
}

fn list(args: &ListArgs) -> anyhow::Result<()> {
    let mut store = args.database.open()?;
    let mut all = Vec::new();
    for one in store.kept_certificates()? {
        let dates = Certificate::from_der(&one.der, "a kept certificate")?.dates();
        all.push(json!({
            "kind": one.kind.word(),
            "name": one.name,
            "tcb": hex::encode(one.tcb),
            "not_before": dates.not_before,
            "not_after": dates.not_after,
            "certificate": hex::encode(one.digest()),
        }));
    }
    for der in store.trusted()?.lists {
        all.push(shown(&RevocationList::parse(&der)?));
    }
    print_all(args.shape, all);
    Ok(())
}

fn fetch_url(args: &FetchUrlArgs) -> anyhow::Result<()> {
    let (generation, vcek) = match (&args.report, args.chip, args.tcb) {
        (Some(path), ..) => of_report(path, args.product)?,
        (None, Some(chip), Some(tcb)) => {
            let generation = args.product.context("--product is needed beside --chip")?;
            (generation, Some(kds::vcek_url(generation, &chip, tcb)))
        }
        _ => bail!("a report, or a chip with its patch levels, is needed"),
    };
    let [vcek_chain, vlek_chain] = kds::chain_urls(generation);
    args.shape.print(&json!({
        "vcek": vcek,
        "vcek_chain": vcek_chain,
        "vlek_chain": vlek_chain,
        "crl": kds::revocations_url(generation),
    }));
    Ok(())
}

/// The generation, and where the certificate of the report's key is; nowhere for a provider's, which the provider hands out.
fn of_report(path: &Path, product: Option<Generation>) -> anyhow::Result<(Generation, Option<String>)> {
    let bytes = husk_files::read_public(path, FILE_BYTES_MAX)?;
    let report = Report::parse(report_in(&bytes)?).context("the report is malformed")?;
    let generation = report.generation().or(product);
    let generation =
        generation.context("the report is of version 2, which names no product: add --product")?;
    let chip = report.chip_id();
    if report.signing_key() == SigningKey::Vlek {
        return Ok((generation, None));
    }
    if *chip == [0; 64] {
        bail!("the host masks CHIP_ID: name the chip and its patch levels (--chip, --tcb, --product)");
    }
    let tcb = Tcb::from_bytes(report.reported_tcb(), generation);
    Ok((generation, Some(kds::vcek_url(generation, chip, tcb))))
}
