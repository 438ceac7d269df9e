//! Backups: the recovery key, the files that launches made, and whether they open.

use super::order::{Asked, read_ticket, refused};
use super::{Shape, or_remove};
use crate::ids::TenantId;
use crate::vault::{RecoveryKey, TenantRoot};
use crate::world::Machine;
use anyhow::{Context as _, bail};
use clap::Args;
use husk::attest::launch::LaunchConfig;
use husk::keys::BackupSecret;
use husk::release::backup::{BackupHeader, backup_digest};
use husk::release::frame;
use husk::release::ticket::{Ticket, TicketOrder};
use husk::release::transcript::point_digest;
use husk::release::wire::{BACKUP_PART_BYTES_MAX, BackupAsked, BackupPiece, BackupState, FrameKind};
use husk::volume::backup::{BACKUP_BYTES_MAX, open_part};
use husk_files::{read_config, write_new};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::U32;
use zeroize::Zeroizing;

/// `husk tenant recovery`
#[derive(Args, Debug)]
pub struct RecoveryArgs {
    /// The tenant root key.
    #[arg(long, value_name = "FILE")]
    root: PathBuf,
    /// The tenant's id.
    #[arg(long, value_name = "HEX")]
    tenant: TenantId,
    /// Where to write the recovery key. It opens every backup: store it offline, as the root key.
    #[arg(long, value_name = "FILE")]
    recovery_out: PathBuf,
    /// Where to write its certificate, for `husk vm ticket --order backup`. It is no secret.
    #[arg(long, value_name = "FILE")]
    certificate_out: PathBuf,
    #[command(flatten)]
    shape: Shape,
}

/// `husk tenant check-backup`
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The recovery key.
    #[arg(long, value_name = "FILE")]
    recovery: PathBuf,
    /// The backup, as `husk vm backup` wrote it.
    #[arg(long, value_name = "FILE")]
    backup: PathBuf,
    #[command(flatten)]
    shape: Shape,
}

/// `husk vm backup`
#[derive(Args, Debug)]
pub struct BackupArgs {
    #[command(flatten)]
    asked: Asked,
    /// The ticket that ordered the backup. Whoever has it can fetch the file, and cannot read it.
    #[arg(long, value_name = "FILE")]
    ticket: PathBuf,
    /// Where to write the backup.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn recovery(args: &RecoveryArgs) -> anyhow::Result<()> {
    let root = TenantRoot::read(&args.root)?;
    let (key, certificate) = RecoveryKey::generate(&Machine::start(), &root, args.tenant)?;
    key.write(&args.recovery_out).context("the recovery key was not written")?;
    or_remove(&args.recovery_out, || Ok(write_new(&args.certificate_out, certificate.as_bytes(), 0o644)?))?;
    args.shape.print(&json!({
        "tenant": args.tenant.to_string(),
        "recovery": hex::encode(point_digest(&certificate.key)),
        "recovery_key": args.recovery_out.display().to_string(),
        "certificate": args.certificate_out.display().to_string(),
    }));
    Ok(())
}

pub(super) fn fetch(args: &BackupArgs) -> anyhow::Result<()> {
    let config = read_config(&args.asked.config)?;
    let (ticket, _) = read_ticket(&args.ticket, &config)?;
    if ticket.order != TicketOrder::Backup as u8 {
        bail!("the ticket orders no backup");
    }
    let file = fetched(&args.asked, &config, &ticket)?;
    let (header, _) =
        BackupHeader::read(&file).context("what the broker keeps is no backup of this version")?;
    let is_ordered = (header.id, header.recovery) == (ticket.id, ticket.subject)
        && (header.tenant, header.vm) == (config.tenant, config.vm)
        && header.total_bytes() == file.len() as u64;
    if !is_ordered {
        bail!(
            "what came is not the backup that the ticket ordered; ask the broker itself, and fetch it again"
        );
    }
    write_new(&args.out, &file, 0o600)?;
    let mut value = shown(&header, &file);
    value["backup"] = json!(args.out.display().to_string());
    args.asked.shape.print(&value);
    Ok(())
}

/// The whole file, piece by piece.
fn fetched(broker: &Asked, config: &LaunchConfig, ticket: &Ticket) -> anyhow::Result<Vec<u8>> {
    let mut file = Vec::new();
    for number in 0.. {
        let asked =
            BackupAsked { tenant: config.tenant, vm: config.vm, id: ticket.id, number: U32::new(number) };
        let mut answer = broker.exchanged((FrameKind::BackupAsked, asked.as_bytes()))?;
        let piece: BackupPiece = match frame::open(&mut answer) {
            Ok((FrameKind::BackupPiece, body)) => frame::exactly(body).map_err(husk::fault::Fault::from)?,
            Ok((FrameKind::Refusal, body)) => {
                return Err(refused(config, body)).context(
                    "the broker has no such backup: the ticket was never handed in, or a newer order or newer \
                     backups took its place",
                );
            }
            _ => bail!("the answer is none that a broker gives; check which broker is asked"),
        };
        if BackupState::from_number(piece.state) != Some(BackupState::Kept) {
            bail!("no launch has made the backup yet; start the VM's guest again, then fetch it");
        }
        let bytes = usize::from(piece.bytes.get());
        file.extend_from_slice(
            piece.piece.get(..bytes).context("the broker's answer was altered on its way")?,
        );
        if bytes < BACKUP_PART_BYTES_MAX {
            return Ok(file);
        }
        if file.len() > BACKUP_BYTES_MAX {
            break;
        }
    }
    bail!("what came is longer than any backup; check which broker is asked")
}

pub(super) fn check(args: &CheckArgs) -> anyhow::Result<()> {
    let opened = opened(&args.recovery, &args.backup)?;
    let mut value = shown(&opened.header, &opened.file);
    value["opens"] = json!(true);
    args.shape.print(&value);
    Ok(())
}

/// A backup that opens to its last byte.
pub(super) struct Opened {
    pub(super) header: BackupHeader,
    pub(super) file: Vec<u8>,
    pub(super) secret: BackupSecret,
}

/// Opens a backup with a recovery key.
pub(super) fn opened(recovery: &Path, backup: &Path) -> anyhow::Result<Opened> {
    let key = RecoveryKey::read(recovery)?.key()?;
    let file = read_backup(backup)?;
    let (header, parts) = BackupHeader::read(&file).with_context(|| not_a_backup(backup))?;
    if header.recovery != point_digest(key.point()) {
        bail!("{} is for another recovery key", backup.display());
    }
    let altered = || format!("{} was altered", backup.display());
    let secret = BackupSecret::open(&header, &key).with_context(altered)?;
    for (number, part) in (1..).zip(parts.chunks(BACKUP_PART_BYTES_MAX)) {
        let mut part = Zeroizing::new(part.to_vec());
        open_part(&secret, &header, number, &mut part).ok().with_context(altered)?;
    }
    Ok(Opened { header, secret, file })
}

/// A backup's file, which may have been altered.
pub(super) fn read_backup(path: &Path) -> anyhow::Result<Vec<u8>> {
    let file = std::fs::read(path).with_context(|| path.display().to_string())?;
    let (header, _) = BackupHeader::read(&file).with_context(|| not_a_backup(path))?;
    if header.total_bytes() != file.len() as u64 {
        bail!("{} is cut short, or something was added to it", path.display());
    }
    Ok(file)
}

fn not_a_backup(path: &Path) -> String {
    format!("{} is no backup of `husk vm backup`", path.display())
}

/// What a backup says of itself; nothing of it is secret.
pub(super) fn shown(header: &BackupHeader, file: &[u8]) -> Value {
    json!({
        "id": hex::encode(header.id),
        "tenant": hex::encode(header.tenant),
        "vm": hex::encode(header.vm),
        "generation": header.generation.get(),
        "sequence": header.head.sequence.get(),
        "state": hex::encode(header.head.digest),
        "digest": hex::encode(backup_digest(file)),
        "bytes": file.len(),
    })
}
