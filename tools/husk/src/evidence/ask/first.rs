//! The first boot, as it was seen: which volume a guest opened in it, for every later day.
//!
//! **What.** A file that the first conversation writes and later ones compare with: the VM, its TPM, and PCR 15, which the key of the volume was
//! measured to.
//! **Trust.** The file is the asker's own. It is written only where the broker says that the TPM has been started once, ever, and where all that
//! started in it is as expected, the firmware among it.
//! **Laws.** A file that is there is compared with, and never written. Nothing is pinned of a guest that opened no volume.
//! **Not here.** How a guest makes its volume: `husk_guest`.

use super::super::claims::Claims;
use anyhow::{Context as _, bail};
use clap::Args;
use husk::release::statement::Statement;
use husk_evidence::view::PcrRow;
use husk_evidence::{EndorsementPublic, Hash, PcrValue};
use husk_files::{PrivateFileError, read_public, write_new};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The PCR that systemd measures a volume's key to (UAPI group, "Linux TPM PCR Registry").
const VOLUME_PCR: u8 = 15;
const FILE_BYTES_MAX: usize = 4096;

/// The options about the first boot.
#[derive(Args, Debug)]
pub(super) struct FirstArgs {
    /// Which volume the guest opened in its first boot: written if the file is not there, and this is that boot; compared if it is.
    #[arg(long, value_name = "FILE", requires_all = ["broker", "firmware", "firmware_vars"])]
    first: Option<PathBuf>,
    /// How often a TPM may have been started, by the broker's word, for the boot to count as the first one. More than 1: launches that failed
    /// need no new VM, and something else may have run in one of them.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "first")]
    first_starts_max: u64,
}

/// What the file holds.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct First {
    tenant: String,
    vm: String,
    /// Its Name.
    endorsement_key: String,
    pcr_15: String,
    /// When the broker said that it was the first boot, by its clock, and how often the TPM had been started then.
    time_ms: u64,
    starts: u64,
}

impl First {
    /// What PCR 15 must hold; digits that are none match nothing.
    pub(super) fn pcr_15(&self) -> PcrValue {
        let value = hex::decode(&self.pcr_15).unwrap_or_default();
        PcrValue { hash: Hash::Sha256, pcr: VOLUME_PCR, value }
    }
}

impl FirstArgs {
    /// Reads the file, if it was named and is there.
    pub(super) fn read(&self) -> anyhow::Result<Option<First>> {
        let Some(file) = &self.first else { return Ok(None) };
        let bytes = match read_public(file, FILE_BYTES_MAX) {
            Err(PrivateFileError::Missing(_)) => return Ok(None),
            read => read?,
        };
        let first = serde_json::from_slice(&bytes);
        first.map(Some).map_err(|error| {
            anyhow::anyhow!("{}: it was not written by `husk evidence ask --first`: {error}", file.display())
        })
    }

    /// Compares with what was `known`, or pins what is seen; all but PCR 15 of a known one was judged before.
    pub(super) fn judge(
        &self,
        known: Option<&First>,
        statement: &Statement,
        (ek, rows): (&EndorsementPublic, &[PcrRow]),
        claims: &mut Claims,
    ) -> anyhow::Result<()> {
        let Some(file) = &self.first else { return Ok(()) };
        let key = hex::encode(ek.name());
        let vm = (hex::encode(statement.tenant), hex::encode(statement.vm));
        if let Some(known) = known {
            if (&known.tenant, &known.vm) != (&vm.0, &vm.1) {
                bail!("{}: it is of VM {}, and this is VM {}", file.display(), known.vm, vm.1);
            }
            if known.endorsement_key != key {
                bail!(
                    "this is not the TPM of the first boot: its endorsement key is another, so it was made anew or its seeds were changed, and \
                     what was sealed to the first one is lost to it"
                );
            }
            claims.proven("the volume that was opened has the key of the first boot's");
            return Ok(());
        }
        let first = First {
            tenant: vm.0,
            vm: vm.1,
            endorsement_key: key,
            pcr_15: opened(rows)?.to_owned(),
            time_ms: statement.time_ms.get(),
            starts: self.starts(statement)?,
        };
        let text = format!("{}\n", serde_json::to_string_pretty(&first)?);
        write_new(file, text.as_bytes(), 0o644)?;
        claims.proven(
            "this is the first boot of that TPM: none before it could use a key of it; the volume that it opened is pinned",
        );
        Ok(())
    }

    /// How often the TPM was started, if not too often. Every grant and every reset takes a token, and none is given twice.
    fn starts(&self, statement: &Statement) -> anyhow::Result<u64> {
        let starts = statement.token.get();
        if statement.generation.get() != 0 || starts > self.first_starts_max {
            bail!(
                "this is not the first boot of that TPM: the broker has let it start {starts} times (generation {}), and at most {} may be. Bring \
                 the file of the first boot, or begin with a new VM and a disk as it was built",
                statement.generation.get(),
                self.first_starts_max
            );
        }
        Ok(starts)
    }
}

/// PCR 15, in which something was measured.
fn opened(rows: &[PcrRow]) -> anyhow::Result<&str> {
    let row = rows.iter().find(|row| (row.bank.as_str(), row.pcr) == (Hash::Sha256.name(), VOLUME_PCR));
    let value = row.map(|row| row.seen.as_str()).filter(|value| value.bytes().any(|digit| digit != b'0'));
    value.context("the guest has opened no volume: PCR 15 is as it begins, and nothing is pinned. Ask again when its boot is through")
}
