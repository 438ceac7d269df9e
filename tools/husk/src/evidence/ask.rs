//! `husk evidence ask`: a guest that is at work says who it is, and proves it.
//!
//! **What.** One conversation with `husk-attest` in the guest, through a command that whoever asks names (`ssh vm husk-attest`), and the verdict on it.
//! **Trust.** The roots, files and broker's tenant that were named. The guest, its words and the way to it are allegations until the quote holds.
//! **Laws.** The quote's qualifying data names nonce, carried secret and all that the guest said of itself: what is believed was said by whoever commands that
//! TPM, now. Reads are bounded, and there is a deadline.
//! **Not here.** The frames (`husk_attester::wire`); single pieces of evidence in files (`husk evidence verify`).

mod bound;
mod expected;
mod first;
mod guest;

use super::claims::Claims;
use super::statement::{Beside, judged};
use super::tpm::{Seen, authorities, endorsement_public, launched, public_area};
use super::{bytes, print_verdict, refused, seconds_since_1970};
use anyhow::{Context as _, bail};
use clap::{ArgGroup, Args};
use first::First;
use guest::Guest;
use husk::attest::launch::LaunchConfig;
use husk::release::statement::Statement;
use husk_attester::wire::{Challenge, Evidence, Identity, Kind, NONCE_BYTES, binding};
use husk_broker::authority::credential;
use husk_broker::cli::statement;
use husk_broker::world::Machine;
use husk_evidence::view::{EkCertificateView, VerifiedQuoteView};
use husk_evidence::{
    AttestationKey, EkCertificate, EndorsementPublic, PcrValue, Quote, QuoteSignature, VerifiedQuote,
};
use husk_files::read_config;
use husk_relay::client::{BrokerCa, is_url};
use serde_json::{Map, Value, to_value};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// `husk evidence ask`
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("endorsed").required(true).args(["ek_root", "ek_public"])))]
#[command(
    after_help = "For example: husk evidence ask --ek-root authority.pem --config config --broker https://broker.example:8630 \
    --expected pcrs --known-hosts-out vm.known --host vm.example -- ssh -o StrictHostKeyChecking=accept-new vm.example husk-attest"
)]
pub(crate) struct AskArgs {
    /// Whom to believe about endorsement keys: the tenant's authority, or a TPM maker's root certificates (PEM, or one in DER).
    #[arg(long, value_name = "FILE")]
    ek_root: Option<PathBuf>,
    /// Certificates that stand between (PEM, or one in DER).
    #[arg(long, value_name = "FILE", requires = "ek_root")]
    ek_intermediate: Vec<PathBuf>,
    /// In place of a root: the endorsement key itself (TPM2B_PUBLIC or TPMT_PUBLIC).
    #[arg(long, value_name = "FILE")]
    ek_public: Option<PathBuf>,
    /// The VM that the endorsement key must have been certified for: 32 hexadecimal digits.
    #[arg(long, value_name = "HEX", requires = "ek_root", value_parser = bytes::<16>)]
    vm: Option<[u8; 16]>,
    /// The launch configuration that it must have been certified under; with --broker also what that broker's word is judged by.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The VM's broker, which is asked whether this is the newest instance. It need not be trusted: its word is signed.
    #[arg(long, value_name = "URL", value_parser = is_url, requires = "config")]
    broker: Option<String>,
    #[command(flatten)]
    ca: BrokerCa,
    #[command(flatten)]
    expected: expected::ExpectedArgs,
    #[command(flatten)]
    first: first::FirstArgs,
    #[command(flatten)]
    bound: bound::BoundArgs,
    /// How long the guest may take, in seconds.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout_seconds: u64,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
    /// What runs `husk-attest` in the guest and carries its input and output.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// What came of the conversation, with what the quote has to be of.
struct Answer {
    ek: EndorsementPublic,
    certificate: Option<EkCertificate>,
    key: AttestationKey,
    bound: Vec<u8>,
    evidence: Evidence,
    binding: [u8; 32],
}

/// Does it.
///
/// # Errors
/// One line: what, whose fault, what to do.
pub(super) fn run(args: &AskArgs) -> anyhow::Result<()> {
    let first = args.first.read()?;
    let expected = args.expected.read(first.as_ref().map(First::pcr_15))?;
    let config = args.config.as_deref().map(read_config).transpose()?;
    let mut claims = Claims::default();
    let answer = converse(args, &expected, &mut claims)?;
    let mut object = Map::new();
    named(args, config.as_ref(), &answer, &mut claims)?;
    let quote = quoted(&answer, &mut claims)?;
    let values = quote.pcrs(&answer.evidence.values)?;
    if let Some(certificate) = &answer.certificate {
        object.insert("ek_certificate".into(), to_value(EkCertificateView::from(certificate))?);
    }
    object.insert("quote".into(), shown(&quote, &values, &answer.ek)?);
    let rows = expected.rows(&quote, &values)?;
    object.insert("pcrs".into(), to_value(&rows)?);
    if let Err(mismatch) = expected.judge(&args.expected, &rows, &mut claims) {
        return Err(refused(args.json, object, mismatch));
    }
    let bound = args.bound.judge(&answer.bound, &mut claims)?;
    object.insert("bound".into(), bound.shown());
    let statement = args.broker.as_deref().zip(config.as_ref());
    let statement =
        statement.map(|(broker, config)| told(args, (broker, config), &quote, &answer, &mut claims));
    match statement.transpose()? {
        Some((statement, shown)) => {
            args.first.judge(first.as_ref(), &statement, (&answer.ek, &rows), &mut claims)?;
            object.insert("statement".into(), shown);
        }
        None => claims.not_proven("that it is the newest instance, and the only one: no broker was asked"),
    }
    args.bound.write(&bound)?;
    print_verdict(args.json, object, claims);
    Ok(())
}

/// The conversation itself. The endorsement key is judged before it is asked anything.
fn converse(args: &AskArgs, expected: &expected::Expected, claims: &mut Claims) -> anyhow::Result<Answer> {
    let mut guest = Guest::start(&args.command, Duration::from_secs(args.timeout_seconds))?;
    guest.say(Kind::Hello, &[])?;
    let said = guest.hear(Kind::Identity)?;
    let identity = Identity::parse(&said)?;
    let ek = endorsement_public(&identity.ek).context("the guest's endorsement key")?;
    let certificate = endorsed(args, &ek, &identity.certificate, claims)?;
    let key = AttestationKey::parse(&identity.ak).context("the guest's attestation key")?;
    let name = key.name().context("the guest's attestation key is no TPM's: it has no Name")?;
    let (nonce, carried) = (random()?, random()?);
    let made = credential::make(&Machine::start(), &ek, name, &carried)?;
    let (blob, secret) = (made.blob, made.secret);
    let challenge = Challenge { nonce, blob, secret, selection: expected.selection() };
    guest.say(Kind::Challenge, &challenge.to_bytes())?;
    let evidence = Evidence::parse(&guest.hear(Kind::Evidence)?)?;
    drop(guest);
    let binding = binding(&nonce, &carried, &said);
    Ok(Answer { ek, certificate, key, bound: identity.bound, evidence, binding })
}

fn random() -> anyhow::Result<[u8; NONCE_BYTES]> {
    let mut bytes = [0; NONCE_BYTES];
    getrandom::fill(&mut bytes).context("the machine's entropy source failed")?;
    Ok(bytes)
}

/// Whose the endorsement key is: by a certificate up to a named root, or because it was named itself.
fn endorsed(
    args: &AskArgs,
    ek: &EndorsementPublic,
    der: &[u8],
    claims: &mut Claims,
) -> anyhow::Result<Option<EkCertificate>> {
    if let Some(file) = &args.ek_public {
        if public_area(file)? != *ek {
            bail!("the guest has another endorsement key than the one that you named: it is another TPM");
        }
        claims.proven("it is the TPM whose endorsement key you named");
        return Ok(None);
    }
    let root = args.ek_root.as_deref().context("either --ek-root or --ek-public")?;
    if der.is_empty() {
        bail!(
            "the guest's TPM has no certificate of its endorsement key: let its tenant's authority issue one, or name the key with --ek-public"
        );
    }
    let authorities = authorities(root, &args.ek_intermediate)?;
    let verified = authorities.verify(der, seconds_since_1970()).context("the guest's certificate")?;
    let certificate = verified.certificate();
    certificate.certifies(ek)?;
    claims.proven("a root that you named takes the endorsement key for a TPM's");
    launched(certificate, None, claims)?;
    claims.not_proven("that the certificate was not revoked");
    Ok(Some(certificate.clone()))
}

/// The endorsement key is of the VM, and of the configuration, that was named.
fn named(
    args: &AskArgs,
    config: Option<&LaunchConfig>,
    answer: &Answer,
    claims: &mut Claims,
) -> anyhow::Result<()> {
    let launch = answer.certificate.as_ref().and_then(|certificate| certificate.launch);
    let wanted = args.vm.or(config.map(|config| config.vm));
    match (wanted, launch) {
        (None, _) if args.ek_public.is_some() => {}
        (None, _) => claims
            .not_proven("which VM it is: name it (--vm or --config), or any VM of this authority will do"),
        // The key itself was named.
        (Some(_), None) if args.ek_public.is_some() => {}
        (Some(_), None) => bail!(
            "the certificate of the guest's endorsement key names no VM, so nothing says that it is yours"
        ),
        (Some(wanted), Some(launch)) if wanted != launch.vm => {
            bail!("this is VM {}, not the one that you named", hex::encode(launch.vm))
        }
        (Some(_), Some(launch)) => {
            if config.is_some_and(|config| {
                (config.tenant, config.host_data()) != (launch.tenant, launch.host_data)
            }) {
                bail!(
                    "the endorsement key was certified for another tenant, or under another launch configuration than the \
                     one that you named"
                );
            }
            claims.proven("it is the VM that you named");
        }
    }
    Ok(())
}

/// The quote, under the attestation key, over all that was said.
fn quoted(answer: &Answer, claims: &mut Claims) -> anyhow::Result<VerifiedQuote> {
    let signature = QuoteSignature::parse(&answer.evidence.signature)?;
    let quote = Quote::parse(&answer.evidence.quote)?.verify(&signature, &answer.key)?;
    quote.answers(&answer.binding).context(
        "the guest's TPM did not quote this conversation: the attestation key is not in the TPM with that endorsement key, or \
         what the guest said of itself, its bound key among it, was changed on the way",
    )?;
    claims.proven(
        "the attestation key is in the TPM with the endorsement key: that TPM opened a secret made for both",
    );
    claims.proven("the quote was made in this conversation, for your nonce");
    Ok(quote)
}

fn shown(quote: &VerifiedQuote, values: &[PcrValue], ek: &EndorsementPublic) -> anyhow::Result<Value> {
    Ok(to_value(VerifiedQuoteView::new(quote, true, Some(values), std::slice::from_ref(ek)))?)
}

/// What the broker says of the VM, after the quote: the instance that quoted is the newest that it knows then.
fn told(
    args: &AskArgs,
    (broker, config): (&str, &LaunchConfig),
    quote: &VerifiedQuote,
    answer: &Answer,
    claims: &mut Claims,
) -> anyhow::Result<(Statement, Value)> {
    let statement = statement((broker, &args.ca), config, &random()?)?;
    let named = answer.certificate.as_ref().and_then(|said| said.launch);
    if named.is_none() {
        claims.not_proven("that the endorsement key is that VM's: no certificate names it");
    }
    let tpm = Seen { named, resets: Some(quote.quote().resets) };
    let shown = judged(&statement, config, &Beside { host_data: None, manifest: None, tpm }, claims)?;
    Ok((statement, shown))
}
