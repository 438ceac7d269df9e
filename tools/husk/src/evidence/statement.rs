//! `husk evidence verify` on what a broker says of a VM.

use super::claims::Claims;
use super::tpm::Seen;
use super::{bytes, read};
use anyhow::{Context as _, bail};
use clap::Args;
use husk::attest::launch::LaunchConfig;
use husk::release::statement::{LifeWord, Statement};
use husk_broker::cli::statement_shown;
use husk_evidence::{EkLaunch, Manifest, VtpmManifest};
use serde_json::{Map, Value};
use std::path::PathBuf;

/// The options about a broker's statement.
#[derive(Args, Debug)]
pub(super) struct StatementArgs {
    /// The broker's signed word, as `husk vm status --signed` wrote it.
    #[arg(long, value_name = "FILE", requires_all = ["config", "statement_nonce"])]
    statement: Option<PathBuf>,
    /// The VM's launch configuration: names the VM, and the tenant root key that the broker must be certified by.
    #[arg(long, value_name = "FILE", requires = "statement")]
    config: Option<PathBuf>,
    /// The nonce that the broker was asked with: 64 hexadecimal digits.
    #[arg(long, value_name = "HEX", requires = "statement", value_parser = bytes::<32>)]
    statement_nonce: Option<[u8; 32]>,
}

/// What else was verified, for the statement to be compared with.
pub(super) struct Beside<'e> {
    /// HOST_DATA of a report.
    pub(super) host_data: Option<[u8; 32]>,
    /// A manifest that the report covers.
    pub(super) manifest: Option<&'e Manifest>,
    /// What a certificate and a quote say of a TPM.
    pub(super) tpm: Seen,
}

impl StatementArgs {
    /// Verifies the statement, if there is one, and that it is about what else was verified.
    pub(super) fn verify(
        &self,
        beside: &Beside<'_>,
        object: &mut Map<String, Value>,
        claims: &mut Claims,
    ) -> anyhow::Result<()> {
        let (Some(file), Some(config), Some(nonce)) = (&self.statement, &self.config, &self.statement_nonce)
        else {
            return Ok(());
        };
        let name = || file.display().to_string();
        let config = LaunchConfig::parse(&read(config)?)
            .map_err(husk::fault::Fault::from)
            .with_context(|| config.display().to_string())?;
        let statement = statement_in(&read(file)?).with_context(name)?;
        if !statement.is_vouched_for(&config, nonce) {
            bail!(
                "{}: no broker that the tenant of this launch configuration certified says this of its VM for this \
                 nonce",
                name()
            );
        }
        object.insert("statement".into(), judged(&statement, &config, beside, claims)?);
        Ok(())
    }
}

/// What a statement that is vouched for says, and what that proves beside what else was verified.
pub(super) fn judged(
    statement: &Statement,
    config: &LaunchConfig,
    beside: &Beside<'_>,
    claims: &mut Claims,
) -> anyhow::Result<Value> {
    compared(statement, config, beside, claims)?;
    standing(statement, claims);
    variables(config, claims);
    Ok(statement_shown(statement))
}

fn statement_in(bytes: &[u8]) -> anyhow::Result<Statement> {
    husk::release::frame::exactly(bytes).ok().context("this is no statement of `husk vm status --signed`")
}

/// The statement and what else was verified are of one launch, or it is refused.
fn compared(
    statement: &Statement,
    config: &LaunchConfig,
    beside: &Beside<'_>,
    claims: &mut Claims,
) -> anyhow::Result<()> {
    claims.proven("a broker that the tenant certified says so of this VM, for your nonce");
    if statement.host_data != config.host_data() {
        bail!("the VM is enrolled with another launch configuration than this");
    }
    match beside.host_data {
        Some(host_data) if host_data != statement.host_data => {
            bail!("the report is of another launch configuration than the one that is enrolled for this VM");
        }
        Some(_) => claims.proven("the report is of a launch with the configuration that is enrolled"),
        None => {}
    }
    if let Some(Manifest::Version1(manifest)) = beside.manifest {
        same_instance(statement, manifest)?;
        claims.proven("the instance that the report speaks for is the one that was granted last");
    }
    if let Some(named) = beside.tpm.named {
        certified(statement, &named)?;
        claims.proven(
            "the endorsement key was certified for this VM, under the configuration that is enrolled",
        );
    }
    match beside.tpm.resets {
        Some(resets) if resets != statement.reset_count() => bail!(
            "the quote's resetCount is {resets}, and that of the newest instance is {}: it is an older instance's, or \
             its key is not under the endorsement hierarchy, where alone resetCount is shown as it is (TPM 2.0 Part 1, \
             clause 36)",
            statement.reset_count()
        ),
        Some(_) => claims.proven("the quote has the resetCount of the newest instance"),
        None => claims.not_proven(
            "that whom you talk to is the newest instance: neither a quote nor a manifest of version 1 was compared",
        ),
    }
    Ok(())
}

/// The endorsement key was named by the VM that the statement is of.
fn certified(statement: &Statement, named: &EkLaunch) -> anyhow::Result<()> {
    if (named.tenant, named.vm) != (statement.tenant, statement.vm) {
        bail!("the endorsement key's certificate is of another VM than the statement");
    }
    if named.host_data != statement.host_data {
        bail!(
            "the endorsement key was certified under another launch configuration than the one that is enrolled: have it \
             certified by a launch with this one"
        );
    }
    Ok(())
}

fn same_instance(statement: &Statement, manifest: &VtpmManifest) -> anyhow::Result<()> {
    if (manifest.tenant, manifest.vm) != (statement.tenant, statement.vm) {
        bail!("the manifest is of another VM than the statement");
    }
    let newest = (statement.token.get(), statement.generation.get());
    if (manifest.token, manifest.generation) != newest {
        bail!(
            "the manifest is of token {}, generation {}, and the newest are {} and {}: it is another instance's",
            manifest.token,
            manifest.generation,
            newest.0,
            newest.1
        );
    }
    Ok(())
}

/// What a guest in a UEFI firmware begins with, by the configuration that is enrolled.
fn variables(config: &LaunchConfig, claims: &mut Claims) {
    match config.variables {
        Some(digest) => claims.proven(format!(
            "a launch with that configuration has a UEFI guest's variables in the sealed volume, as fresh as the TPM, and the first \
             ones had the SHA-384 {}",
            hex::encode(digest)
        )),
        None => claims.not_proven(
            "which variables a UEFI guest began with, and whether they are kept: the configuration leaves that to the host; PCR 7 shows \
             Secure Boot's keys",
        ),
    }
}

/// What the broker says of the VM, in plain words.
fn standing(statement: &Statement, claims: &mut Claims) {
    let confirmed = statement.confirmed == 1 && statement.released == 0;
    if confirmed && statement.life == LifeWord::Active as u8 {
        claims.proven("when it said so, the newest instance was at work at the newest state");
    } else if confirmed && statement.life == LifeWord::Ephemeral as u8 {
        claims.proven(
            "when it said so, the newest instance was at work, with a TPM that was made for this launch and ends with it",
        );
    } else {
        claims.not_proven(
            "that an instance is at work: when the broker spoke, none was that had confirmed its launch",
        );
    }
    if statement.overlap_ms.get() == 0 {
        claims.proven("when it said so, no older instance could answer any more");
    } else {
        claims
            .not_proven("that it is the only instance: a forced boot did not wait for the older one's lease");
    }
    claims.not_proven(
        "what has happened since the broker said so: an answer may be seen later than it was allowed",
    );
}
