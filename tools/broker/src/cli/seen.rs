//! What a guest's tenant saw of its PCRs, beside what the broker says of the VM.
//!
//! **What.** The file that `husk evidence ask --json` printed: PCRs expected and seen, and of which start of the TPM.
//! **Trust.** The file is whoever's it is that asks for the status: they had it verified when it was made, and nothing of it is verified again.
//! The operator's host has no word in it.
//! **Laws.** It is of the VM whose status is shown, or it is refused; what is of an earlier start is called so.
//! **Not here.** Asking a guest: `husk evidence ask`.

use anyhow::bail;
use husk::release::statement::Statement;
use husk_evidence::view::{PcrRow, table};
use husk_files::read_public;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;

/// A conversation's certificate, PCRs and statement are some kilobytes.
const FILE_BYTES_MAX: usize = 1 << 20;

/// Of what was printed, the parts that matter here.
#[derive(Debug, Deserialize)]
pub(super) struct Seen {
    quote: Quote,
    ek_certificate: Option<Certificate>,
    pcrs: Vec<PcrRow>,
    /// Why it was not believed.
    refused: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Quote {
    resets: u32,
}

#[derive(Debug, Deserialize)]
struct Certificate {
    launch: Option<Launch>,
}

#[derive(Debug, Deserialize)]
struct Launch {
    tenant: String,
    vm: String,
}

impl Seen {
    /// Reads the file.
    pub(super) fn read(file: &Path) -> anyhow::Result<Self> {
        let bytes = read_public(file, FILE_BYTES_MAX)?;
        serde_json::from_slice(&bytes).map_err(|error| {
            anyhow::anyhow!("{}: it is not what `husk evidence ask --json` prints: {error}", file.display())
        })
    }

    /// As JSON, beside what the broker says.
    pub(super) fn shown(&self, statement: &Statement) -> anyhow::Result<Value> {
        let launch = self.ek_certificate.as_ref().and_then(|certificate| certificate.launch.as_ref());
        let Some(launch) = launch else {
            bail!(
                "the evidence names no VM: ask with the authority that certified the endorsement key (--ek-root)"
            );
        };
        if (&launch.tenant, &launch.vm) != (&hex::encode(statement.tenant), &hex::encode(statement.vm)) {
            bail!("the evidence is of VM {}, not of the one whose status is asked for", launch.vm);
        }
        Ok(json!({
            "reset_count": self.quote.resets,
            "of_this_start": self.quote.resets == statement.reset_count(),
            "refused": self.refused,
            "pcrs": self.pcrs,
        }))
    }

    /// As lines for people.
    pub(super) fn text(&self, statement: &Statement) -> String {
        let newest = statement.reset_count();
        let of = if self.quote.resets == newest {
            "of this start of the TPM".to_owned()
        } else {
            format!(
                "of an EARLIER start of the TPM (resetCount {}, and the newest is {newest})",
                self.quote.resets
            )
        };
        let verdict = if self.refused.is_some() { "; it was REFUSED" } else { "" };
        format!("\nPCRs as you saw them, {of}{verdict}:\n{}", table(&self.pcrs))
    }
}
