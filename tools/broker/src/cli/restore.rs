//! Restores: the broker's key for one, a backup that is opened for it, and the order with its backup.

use super::Shape;
use super::backup::{Opened, opened, read_backup, shown};
use super::order::{Asked, ask, read_ticket, refused, told};
use crate::world::{Machine, WorldEntropy};
use anyhow::{Context as _, bail};
use clap::Args;
use husk::fault::Fault;
use husk::release::backup::backup_digest;
use husk::release::frame;
use husk::release::restore::{OpenedBackup, RestoreKey};
use husk::release::statement::{Outcome, Statement};
use husk::release::ticket::{Ticket, TicketOrder};
use husk::release::wire::{BACKUP_PART_BYTES_MAX, BackupBrought, FrameKind, RestoreKeyAsked};
use husk_files::{read_config, write_new};
use serde_json::json;
use std::path::{Path, PathBuf};
use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// `husk vm restore-key`
#[derive(Args, Debug)]
pub struct KeyArgs {
    #[command(flatten)]
    asked: Asked,
    /// Where to write the key. It is no secret, and void once the VM has another token.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// `husk tenant open-backup`
#[derive(Args, Debug)]
pub struct OpenArgs {
    /// The recovery key.
    #[arg(long, value_name = "FILE")]
    recovery: PathBuf,
    /// The backup, as `husk vm backup` wrote it.
    #[arg(long, value_name = "FILE")]
    backup: PathBuf,
    /// The launch configuration of the VM that is to be restored: it names the tenant root key that must vouch for the broker.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The broker's key, as `husk vm restore-key` wrote it.
    #[arg(long, value_name = "FILE")]
    restore_key: PathBuf,
    /// The backup is another VM's: the one of the launch configuration becomes its clone.
    #[arg(long)]
    clone: bool,
    /// Where to write the backup's key, sealed to that broker, for `husk vm ticket --order restore` or `--order clone`.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    shape: Shape,
}

/// `husk vm restore`, `husk vm clone`
#[derive(Args, Debug)]
pub struct RestoreArgs {
    #[command(flatten)]
    asked: Asked,
    /// The ticket that orders it.
    #[arg(long, value_name = "FILE")]
    ticket: PathBuf,
    /// The backup that it names.
    #[arg(long, value_name = "FILE")]
    backup: PathBuf,
}

pub(super) fn key(args: &KeyArgs) -> anyhow::Result<()> {
    let config = read_config(&args.asked.config)?;
    let asked = RestoreKeyAsked { tenant: config.tenant, vm: config.vm };
    let mut answer = args.asked.exchanged((FrameKind::RestoreKeyAsked, asked.as_bytes()))?;
    let shown: Option<RestoreKey> = match frame::open(&mut answer) {
        Ok((FrameKind::RestoreKeyShown, body)) => frame::exactly(body).ok(),
        Ok((FrameKind::Refusal, body)) => return Err(refused(&config, body)),
        _ => None,
    };
    let shown = shown.filter(|shown| shown.is_vouched_for(&config)).context(NOT_THE_BROKERS)?;
    write_new(&args.out, shown.as_bytes(), 0o644)?;
    args.asked.shape.print(&json!({
        "restore_key": args.out.display().to_string(),
        "token": shown.token.get(),
        "generation": shown.generation.get(),
    }));
    Ok(())
}

const NOT_THE_BROKERS: &str = "this is not the key of a broker that the launch configuration's tenant certified; check which broker is asked";

pub(super) fn open(args: &OpenArgs) -> anyhow::Result<()> {
    let config = read_config(&args.config)?;
    let name = || args.restore_key.display().to_string();
    let key = std::fs::read(&args.restore_key).with_context(name)?;
    let key = RestoreKey::read_from_bytes(&key).ok().filter(|key| key.is_vouched_for(&config));
    let key = key.context(NOT_THE_BROKERS).with_context(name)?;
    let Opened { header, file, secret } = opened(&args.recovery, &args.backup)?;
    let backup = args.backup.display();
    match (header.tenant == config.tenant, header.vm == config.vm, args.clone) {
        (true, true, false) | (true, false, true) => {}
        (true, false, false) => {
            bail!("{backup} is of another VM than the launch configuration's; say --clone if that is meant")
        }
        (true, true, true) => bail!("{backup} is of this very VM, which is restored and not cloned"),
        (false, _, _) => bail!("{backup} is another tenant's"),
    }
    let digest = backup_digest(&file);
    let machine = Machine::start();
    let handed = secret.hand_over(&key, &digest, &mut WorldEntropy(&machine)).map_err(Fault::from)?;
    write_new(&args.out, handed.as_bytes(), 0o600)?;
    let mut value = shown(&header, &file);
    value["opened"] = json!(args.out.display().to_string());
    value["of_generation"] = value["generation"].take();
    value["token"] = json!(key.token.get());
    value["generation"] = json!(key.generation.get());
    args.shape.print(&value);
    Ok(())
}

/// A backup's key as a file holds it.
pub(super) fn read_opened(path: &Path) -> anyhow::Result<OpenedBackup> {
    let name = || path.display().to_string();
    let bytes = std::fs::read(path).with_context(name)?;
    let read = OpenedBackup::read_from_bytes(&bytes).ok();
    read.context("this is no opened backup of `husk tenant open-backup`").with_context(name)
}

pub(super) fn restore(args: &RestoreArgs, order: TicketOrder) -> anyhow::Result<()> {
    let config = read_config(&args.asked.config)?;
    let (ticket, bytes) = read_ticket(&args.ticket, &config)?;
    if ticket.order != order as u8 {
        bail!("the ticket gives another order");
    }
    let (_, opened) = bytes.split_at(Ticket::BYTES);
    let opened =
        OpenedBackup::read_from_bytes(opened).ok().context("this is no ticket of `husk vm ticket`")?;
    let file = read_backup(&args.backup)?;
    if backup_digest(&file) != ticket.subject {
        bail!("{} is another backup than the ticket names", args.backup.display());
    }
    let nonce = Statement::nonce_of_ticket(&ticket.id);
    // The last piece is shorter than the others: an empty one where the file ends with a whole one.
    for number in 0..=file.len() / BACKUP_PART_BYTES_MAX {
        let piece = file.chunks(BACKUP_PART_BYTES_MAX).nth(number).unwrap_or_default();
        let mut brought = BackupBrought::new_zeroed();
        (brought.ticket, brought.opened) = (ticket, opened);
        brought.number = U32::new(u32::try_from(number)?);
        brought.bytes = U16::new(u16::try_from(piece.len())?);
        brought.piece.get_mut(..piece.len()).context("a piece is longer than any")?.copy_from_slice(piece);
        let said = ask(&args.asked, &config, (FrameKind::BackupBrought, brought.as_bytes()), &nonce)?;
        if Outcome::from_number(said.outcome) != Some(Outcome::Brought) {
            return told(&args.asked, &ticket, &said);
        }
    }
    bail!("the broker took the backup and did not answer the order; hand it in again")
}
