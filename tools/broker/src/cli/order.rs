//! `husk vm ticket`, `order` and `status`: the tenant's orders, signed offline, and the broker's signed word.

use super::Shape;
use super::restore::read_opened;
use super::seen::Seen;
use crate::ids::{TenantId, VmId, VmName};
use crate::store::StoreError;
use crate::vault::OperatorKey;
use crate::world::Machine;
use anyhow::{Context as _, bail};
use clap::Args;
use husk::attest::launch::LaunchConfig;
use husk::release::frame;
use husk::release::recovery::RecoveryCertificate;
use husk::release::restore::OpenedBackup;
use husk::release::statement::{LifeWord, Outcome, Statement, StatusRequest};
use husk::release::ticket::{Ticket, TicketOrder};
use husk::release::transcript::{Digest, point_digest};
use husk::release::wire::{FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameKind, Refusal, RefusalReason};
use husk_files::{read_config, variables_word, write_new};
use husk_relay::client::{BrokerCa, is_url};
use husk_relay::pipe::{HttpPipe, Pipe};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// `husk vm ticket`
#[derive(Args, Debug)]
pub struct TicketArgs {
    /// The operator's key, as `husk tenant operator` wrote it.
    #[arg(long, value_name = "FILE")]
    operator: PathBuf,
    /// The VM.
    #[arg(long, value_name = "HEX")]
    vm: VmId,
    /// halt: fence the running instance and grant to nobody. resume: grant to a halted VM again. retire: end the VM for good.
    /// force: grant the next time without waiting for the lease; until that would have ended, two instances may answer.
    /// backup: have the next launch make a backup, for the recovery key that --recovery names.
    /// restore: have the next launch make the TPM anew from the backup that --opened is of; hand it in with `husk vm restore`.
    /// clone: have the first launch make the VM's TPM from another VM's backup, with seeds of its own; hand it in with `husk vm clone`.
    #[arg(long, value_name = "WORD", value_parser = order)]
    order: TicketOrder,
    /// The token that the VM has (`husk vm status`): the ticket is void once it has another.
    #[arg(long, value_name = "NUMBER")]
    token: u64,
    /// The generation that the VM has.
    #[arg(long, value_name = "NUMBER")]
    generation: u32,
    /// The last moment of the broker's clock (`time_ms` of `husk vm status`) at which the ticket works; no end if not given.
    #[arg(long, value_name = "MS")]
    until_ms: Option<u64>,
    /// With backup: the recovery key's certificate, as `husk tenant recovery` wrote it.
    #[arg(long, value_name = "FILE", required_if_eq("order", "backup"))]
    recovery: Option<PathBuf>,
    /// With restore or clone: the key of the backup, as `husk tenant open-backup` wrote it.
    #[arg(long, value_name = "FILE", required_if_eq_any([("order", "restore"), ("order", "clone")]))]
    opened: Option<PathBuf>,
    /// With retire: there is no way back; say that you know.
    #[arg(long)]
    for_good: bool,
    /// Where to write the ticket, for `husk vm order`. Whoever has it can hand it in.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    shape: Shape,
}

/// Which broker is asked, and by what it is known.
#[derive(Args, Debug)]
pub(super) struct Asked {
    /// The broker, such as `https://broker.example:8630`. It need not be trusted: its word is signed.
    #[arg(long, value_name = "URL", value_parser = is_url)]
    broker: String,
    #[command(flatten)]
    ca: BrokerCa,
    /// The VM's launch configuration: names the VM, and the tenant root key that the answer must be certified by.
    #[arg(long, value_name = "FILE")]
    pub(super) config: PathBuf,
    #[command(flatten)]
    pub(super) shape: Shape,
}

impl Asked {
    /// One frame out, one frame back.
    pub(super) fn exchanged(&self, frame: (FrameKind, &[u8])) -> anyhow::Result<Vec<u8>> {
        exchanged((&self.broker, &self.ca), frame)
    }
}

/// One frame to a broker, one frame back.
fn exchanged((broker, ca): (&str, &BrokerCa), (kind, body): (FrameKind, &[u8])) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![0; FRAME_BYTES_MAX];
    let room = bytes.get_mut(FRAME_HEADER_BYTES..).and_then(|room| room.get_mut(..body.len()));
    room.context("it does not fit into a frame")?.copy_from_slice(body);
    let length = frame::frame(kind, &mut bytes, body.len()).map_err(husk::fault::Fault::from)?;
    let pipe = HttpPipe::new(broker, ca.roots(broker)?);
    pipe.carry(&bytes[..length]).with_context(|| broker.to_owned())
}

/// `husk vm order`
#[derive(Args, Debug)]
pub struct OrderArgs {
    #[command(flatten)]
    asked: Asked,
    /// The ticket.
    #[arg(long, value_name = "FILE")]
    ticket: PathBuf,
}

/// `husk vm status`
#[derive(Args, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    asked: Asked,
    /// The nonce to be answered: 64 hexadecimal digits; random if not given.
    #[arg(long, value_name = "HEX", value_parser = nonce)]
    nonce: Option<[u8; 32]>,
    /// Write the signed statement here, for `husk evidence verify --statement`.
    #[arg(long, value_name = "FILE")]
    signed: Option<PathBuf>,
    /// Also show which PCRs you expected and which you saw: what `husk evidence ask --json` printed of this VM. It is not verified again.
    #[arg(long, value_name = "FILE")]
    evidence: Option<PathBuf>,
}

/// Each order's word.
const ORDERS: [(&str, TicketOrder); 7] = [
    ("halt", TicketOrder::Halt),
    ("resume", TicketOrder::Resume),
    ("retire", TicketOrder::Retire),
    ("force", TicketOrder::Force),
    ("backup", TicketOrder::Backup),
    ("restore", TicketOrder::Restore),
    ("clone", TicketOrder::Clone),
];

/// Reads an order's word.
pub(super) fn order(text: &str) -> Result<TicketOrder, String> {
    let words = || ORDERS.map(|(word, _)| word).join(", ");
    let found = ORDERS.iter().find(|(word, _)| *word == text);
    found.map(|(_, order)| *order).ok_or_else(|| format!("one of {} is expected", words()))
}

fn nonce(text: &str) -> Result<[u8; 32], String> {
    let mut nonce = [0; 32];
    hex::decode_to_slice(text, &mut nonce).map_err(|_| "a nonce is 64 hexadecimal digits".to_owned())?;
    Ok(nonce)
}

pub(super) fn ticket(args: &TicketArgs) -> anyhow::Result<()> {
    if args.order == TicketOrder::Retire && !args.for_good {
        bail!(
            "a retired VM never comes back, and its disk never opens again; say --for-good if that is meant"
        );
    }
    let operator = OperatorKey::read(&args.operator)?;
    let certificate = operator.certificate();
    if certificate.orders.get() & args.order.bit() == 0 {
        bail!("the tenant did not allow this operator to give that order; use another key");
    }
    let mut ticket = Ticket::new_zeroed();
    (ticket.vm, ticket.order) = (args.vm.0, args.order as u8);
    (ticket.token, ticket.generation) = (U64::new(args.token), U32::new(args.generation));
    ticket.until_ms = U64::new(args.until_ms.unwrap_or(u64::MAX));
    let (subject, with) = about(args, &ticket, &certificate.tenant)?;
    ticket.subject = subject;
    operator.sign(&Machine::start(), &mut ticket)?;
    write_new(&args.out, &[ticket.as_bytes(), &with].concat(), 0o600)?;
    args.shape.print(&json!({
        "ticket": args.out.display().to_string(),
        "id": hex::encode(ticket.id),
        "tenant": TenantId(certificate.tenant).to_string(),
        "vm": args.vm.to_string(),
        "operator": hex::encode(certificate.operator),
    }));
    Ok(())
}

/// What the order is about beside the VM, and what goes with the ticket for that.
fn about(args: &TicketArgs, ticket: &Ticket, tenant: &[u8; 16]) -> anyhow::Result<(Digest, Vec<u8>)> {
    match (args.order, &args.recovery, &args.opened) {
        (TicketOrder::Backup, Some(path), None) => {
            let certificate = recovery(path, tenant)?;
            Ok((point_digest(&certificate.key), certificate.as_bytes().to_vec()))
        }
        (TicketOrder::Restore | TicketOrder::Clone, None, Some(path)) => {
            let opened = read_opened(path)?;
            if (opened.tenant, opened.vm) != (*tenant, ticket.vm) {
                bail!("{} is for another VM than --vm", path.display());
            }
            if (opened.token, opened.generation) != (ticket.token, ticket.generation) {
                bail!(
                    "{} is for another token or generation than the ticket's; use those that `husk tenant open-backup` \
                     showed",
                    path.display()
                );
            }
            Ok((opened.digest, opened.as_bytes().to_vec()))
        }
        (_, None, None) => Ok(([0; 48], Vec::new())),
        _ => bail!(
            "--recovery goes with --order backup, --opened with --order restore or clone, and neither with another"
        ),
    }
}

/// The certificate of a recovery key of that tenant.
fn recovery(path: &Path, tenant: &[u8; 16]) -> anyhow::Result<RecoveryCertificate> {
    let name = || path.display().to_string();
    let bytes = std::fs::read(path).with_context(name)?;
    let certificate = RecoveryCertificate::read_from_bytes(&bytes).ok();
    let certificate =
        certificate.context("this is no certificate of `husk tenant recovery`").with_context(name)?;
    if certificate.tenant != *tenant {
        bail!("{} is of another tenant's recovery key than the operator's", path.display());
    }
    Ok(certificate)
}

/// A ticket as a file holds it, about the VM of `config`; the file's bytes, which are what is handed in.
pub(super) fn read_ticket(path: &Path, config: &LaunchConfig) -> anyhow::Result<(Ticket, Vec<u8>)> {
    let name = || path.display().to_string();
    let bytes = std::fs::read(path).with_context(name)?;
    let read = Ticket::read_from_prefix(&bytes).ok().filter(|(ticket, rest)| {
        rest.len()
            == match TicketOrder::from_number(ticket.order) {
                Some(TicketOrder::Backup) => RecoveryCertificate::BYTES,
                Some(TicketOrder::Restore | TicketOrder::Clone) => OpenedBackup::BYTES,
                _ => 0,
            }
    });
    let (ticket, _) = read.context("this is no ticket of `husk vm ticket`").with_context(name)?;
    if (ticket.certificate.tenant, ticket.vm) != (config.tenant, config.vm) {
        bail!("the ticket is about another VM than the launch configuration's");
    }
    Ok((ticket, bytes))
}

pub(super) fn hand_in(args: &OrderArgs) -> anyhow::Result<()> {
    let config = read_config(&args.asked.config)?;
    let (ticket, bytes) = read_ticket(&args.ticket, &config)?;
    if takes_a_backup(&ticket) {
        bail!("this is handed in together with its backup: `husk vm restore` or `husk vm clone`");
    }
    let nonce = Statement::nonce_of_ticket(&ticket.id);
    let statement = ask(&args.asked, &config, (FrameKind::Ticket, &bytes), &nonce)?;
    told(&args.asked, &ticket, &statement)
}

/// Prints what became of a ticket, or says why nothing did.
pub(super) fn told(asked: &Asked, ticket: &Ticket, statement: &Statement) -> anyhow::Result<()> {
    let outcome = Outcome::from_number(statement.outcome);
    let mut value = statement_shown(statement);
    let why = match outcome {
        Some(Outcome::Done) => return printed(asked, value, "done"),
        Some(Outcome::Open) => {
            value["warning"] = json!(warning(ticket));
            return printed(asked, value, "open");
        }
        Some(Outcome::Untrusted) if takes_a_backup(ticket) => {
            "no operator that the tenant allows to give this order signed it, or the backup is not the one that it names, or \
             was opened for another broker; open it anew with `husk tenant open-backup`, and sign again"
        }
        Some(Outcome::Untrusted) => {
            "no operator that the tenant allows to give this order signed it, or its key's generation is over; sign it \
             with a newer key"
        }
        Some(Outcome::Used) => "the ticket was used before; if the order is still wanted, sign another",
        Some(Outcome::Expired) => "the ticket's time is over; sign another with a later --until-ms",
        Some(Outcome::Overtaken) => {
            "the VM has another token or generation than the ticket names; look at `husk vm status`, and sign another \
             if the order is still wanted"
        }
        Some(Outcome::Barred) => {
            "where the VM stands in its life, the order makes no sense; see `husk vm status`"
        }
        Some(Outcome::Asked | Outcome::Brought) | None => {
            "the broker answered something else than the ticket"
        }
    };
    bail!("nothing was changed: {why}")
}

/// Whether it orders a restore or a clone.
pub(super) fn takes_a_backup(ticket: &Ticket) -> bool {
    let order = TicketOrder::from_number(ticket.order);
    matches!(order, Some(TicketOrder::Restore | TicketOrder::Clone))
}

/// What the operator must know of an order that is open.
fn warning(ticket: &Ticket) -> &'static str {
    match TicketOrder::from_number(ticket.order) {
        Some(TicketOrder::Force) => {
            "the next boot does not wait; from then on, until the older instance's lease would have ended, two instances \
             may answer"
        }
        Some(TicketOrder::Backup) => {
            "the next boot makes the backup; fetch it then with `husk vm backup`, and this ticket"
        }
        Some(TicketOrder::Restore) => {
            "whatever runs is fenced, and the next boot makes the TPM anew from the backup, on the disk that it has; from \
             then on no older disk opens"
        }
        Some(TicketOrder::Clone) => {
            "the VM's first boot makes its TPM from the backup, with seeds of its own: nothing that is sealed to the original opens"
        }
        _ => "the next boot carries it out",
    }
}

fn printed(asked: &Asked, mut value: Value, outcome: &str) -> anyhow::Result<()> {
    value["outcome"] = json!(outcome);
    asked.shape.print(&value);
    Ok(())
}

pub(super) fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let config = read_config(&args.asked.config)?;
    let seen = args.evidence.as_deref().map(Seen::read).transpose()?;
    let mut nonce = args.nonce.unwrap_or_default();
    if args.nonce.is_none() {
        getrandom::fill(&mut nonce).context("the machine's entropy source failed")?;
    }
    let statement = statement((&args.asked.broker, &args.asked.ca), &config, &nonce)?;
    if let Some(path) = &args.signed {
        write_new(path, statement.as_bytes(), 0o644)?;
    }
    let mut value = statement_shown(&statement);
    value["nonce"] = json!(hex::encode(nonce));
    value["firmware_variables"] = if statement.host_data == config.host_data() {
        json!(variables_word(&config))
    } else {
        json!("not known: the VM is enrolled with another launch configuration than this one")
    };
    let shown = seen.as_ref().map(|seen| seen.shown(&statement)).transpose()?;
    if args.asked.shape.json {
        value["evidence"] = json!(shown);
    }
    args.asked.shape.print(&value);
    if let Some(seen) = seen.filter(|_| !args.asked.shape.json) {
        print!("{}", seen.text(&statement));
    }
    Ok(())
}

/// What the broker at an address says of the VM of `config`, for `nonce`, vouched for by the configuration's tenant.
///
/// # Errors
/// One line: what, whose fault, what to do.
pub fn statement(
    broker: (&str, &BrokerCa),
    config: &LaunchConfig,
    nonce: &[u8; 32],
) -> anyhow::Result<Statement> {
    let request = StatusRequest { tenant: config.tenant, vm: config.vm, nonce: *nonce };
    stated(exchanged(broker, (FrameKind::StatusRequest, request.as_bytes()))?, config, nonce)
}

/// One frame out, and back a statement that the tenant's broker signed for this nonce.
pub(super) fn ask(
    asked: &Asked,
    config: &LaunchConfig,
    frame: (FrameKind, &[u8]),
    nonce: &[u8; 32],
) -> anyhow::Result<Statement> {
    stated(asked.exchanged(frame)?, config, nonce)
}

fn stated(mut answer: Vec<u8>, config: &LaunchConfig, nonce: &[u8; 32]) -> anyhow::Result<Statement> {
    match frame::open(&mut answer) {
        Ok((FrameKind::Statement, body)) => {
            let statement: Option<Statement> = frame::exactly(body).ok();
            statement.filter(|said| said.is_vouched_for(config, nonce)).context(
                "the answer is not the word of a broker that the launch configuration's tenant certified; check which \
                 broker is asked",
            )
        }
        Ok((FrameKind::Refusal, body)) => Err(refused(config, body)),
        _ => bail!("the answer is none that a broker gives; check which broker is asked"),
    }
}

pub(super) fn refused(config: &LaunchConfig, body: &[u8]) -> anyhow::Error {
    let reason = frame::exactly::<Refusal>(body).ok();
    match reason.and_then(|refusal| RefusalReason::from_number(refusal.reason.get())) {
        Some(RefusalReason::UnknownVm) => {
            StoreError::UnknownVm(VmName { tenant: TenantId(config.tenant), vm: VmId(config.vm) }).into()
        }
        Some(RefusalReason::Malformed) => anyhow::anyhow!("the broker is of another version; use its husk"),
        _ => anyhow::anyhow!("the broker cannot answer now; read its log and ask again"),
    }
}

/// What a statement says.
#[must_use]
pub fn statement_shown(statement: &Statement) -> Value {
    let life = match LifeWord::from_number(statement.life) {
        Some(LifeWord::Virgin) => "virgin",
        Some(LifeWord::Active) => "active",
        Some(LifeWord::Halted) => "halted",
        Some(LifeWord::Retired) => "retired",
        Some(LifeWord::Ephemeral) => "ephemeral",
        None => "unknown",
    };
    json!({
        "tenant": hex::encode(statement.tenant),
        "vm": hex::encode(statement.vm),
        "life": life,
        "generation": statement.generation.get(),
        "epoch": statement.epoch.get(),
        "token": statement.token.get(),
        "sequence": statement.head.sequence.get(),
        "digest": hex::encode(statement.head.digest),
        "confirmed": statement.confirmed == 1,
        "released": statement.released == 1,
        "forced": statement.forced == 1,
        "restoring": statement.restoring == 1,
        "lease_ms": statement.lease_ms.get(),
        "overlap_ms": statement.overlap_ms.get(),
        "reset_count": statement.reset_count(),
        "time_ms": statement.time_ms.get(),
        "host_data": hex::encode(statement.host_data),
    })
}
